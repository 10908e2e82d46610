/* From the rows of a TIFF, as libtiff gives them, to RGB8. */
#ifndef EFFNET_IMAGE_FORMATS_TIFF_ROWS_H
#define EFFNET_IMAGE_FORMATS_TIFF_ROWS_H

#include "image/image.h"

enum tiff_kind { TIFF_TABLE, TIFF_COLOURS, TIFF_INKS };
enum tiff_alpha { TIFF_NO_ALPHA, TIFF_ALPHA, TIFF_MULTIPLIED_ALPHA /* into the colours */ };

/* What the samples of a pixel mean: grey or an index of a palette, three colours, or four inks; then alpha,
 * if any; then what does not count. */
struct tiff_pixel {
    enum tiff_kind kind;
    enum tiff_alpha alpha;
    int bits;              /* of a sample: 1, 2, 4, 8, 12 or 16 */
    uint8_t table[256][3]; /* colours by sample, for TIFF_TABLE */
};

/* How many samples of a pixel count. */
int tiff_samples_used(const struct tiff_pixel *pixel);

/* `count` packed samples -> a byte each: the value up to 8 bits, of 12 and 16 bits the upper 8. Those of 16
 * bits are in the machine's order. */
void tiff_unpack(const uint8_t *packed, int bits, size_t count, uint8_t *samples);

/* `count` pixels of unpacked samples, `stride` apart -> rgb [count][3]. Alpha is dropped or blended, and
 * noted. */
void tiff_put_row(const struct image_source *source, const struct tiff_pixel *pixel, const uint8_t *samples,
                  size_t stride, size_t count, uint8_t *rgb, struct image_facts *facts);

#endif
