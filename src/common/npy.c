#include "common/npy.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void npy_header(char header[NPY_HEADER_BYTES], int64_t rows, int64_t columns)
{
    static const char start[] = "\x93NUMPY\x01\x00"; /* then the length of what follows, little endian */
    const char order = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>';
    memset(header, ' ', NPY_HEADER_BYTES);
    memcpy(header, start, 8);
    header[8] = NPY_HEADER_BYTES - 10;
    header[9] = 0;
    int length = snprintf(header + 10, NPY_HEADER_BYTES - 10,
                          "{'descr': '%cf4', 'fortran_order': False, 'shape': (%" PRId64 ", %" PRId64 "), }",
                          order, rows, columns);
    header[10 + length] = ' '; /* where the text ended */
    header[NPY_HEADER_BYTES - 1] = '\n';
}
