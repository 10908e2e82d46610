/* Kinds of JPEG that tests/image_jpeg.h does not hold, written by libjpeg-turbo; not in a build without it.
 */
#ifndef EFFNET_TESTS_JPEG_WRITER_H
#define EFFNET_TESTS_JPEG_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct jpeg_kind {
    int components; /* 1 grey, 3 YCbCr with 4:2:0, 4 CMYK */
    bool progressive, arithmetic;
    int restart_rows; /* 0: no restart markers */
};

/* A file that shows samples[height][width][components]; the caller frees it. */
uint8_t *write_jpeg(const uint8_t *samples, int width, int height, struct jpeg_kind kind, size_t *size_bytes);

#endif
