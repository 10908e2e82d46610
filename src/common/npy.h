/* NumPy's file format, version 1.0 (numpy.lib.format): a header, then the numbers. */
#ifndef EFFNET_COMMON_NPY_H
#define EFFNET_COMMON_NPY_H

#include <stdint.h>

/* Every header of ours is so long, however many rows it tells: it can be written anew once they are known. */
#define NPY_HEADER_BYTES 128

/* The header of an array of floats, [rows][columns], in this machine's byte order. */
void npy_header(char header[NPY_HEADER_BYTES], int64_t rows, int64_t columns);

#endif
