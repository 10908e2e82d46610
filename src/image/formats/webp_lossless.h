/* What a lossless WebP's bitstream costs to decode, told by its start. */
#ifndef EFFNET_IMAGE_FORMATS_WEBP_LOSSLESS_H
#define EFFNET_IMAGE_FORMATS_WEBP_LOSSLESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Pixels are coded in groups of five prefix codes. Which group codes a pixel is said for tiles of 4 x 4 to
 * 512 x 512. */
struct webp_lossless_cost {
    int64_t groups;       /* libwebp has tables for each */
    int64_t small_pixels; /* of images that the large one is made with */
    int64_t changes;      /* how often, row by row, a pixel is in another tile than the one before */
};

/* `data` begins behind the bitstream's header, which tells the width and height. False: it is damaged. */
bool webp_lossless_cost(const uint8_t *data, size_t size_bytes, int width, int height,
                        struct webp_lossless_cost *cost);

#endif
