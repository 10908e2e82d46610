/* How the central crop is made of an image's pixels: the weights of both passes, for whoever runs them. */
#ifndef EFFNET_IMAGE_RESIZE_H
#define EFFNET_IMAGE_RESIZE_H

#include "effnet.h"

/* One pass. Output i = clip((2^21 + sum_j weights[i][j] * input[first + start[i] + j]) >> 22), j < count[i],
 * clipped to 0..255; the sums fit 32 bits. start and start + count never fall from one output to the next. */
struct image_axis {
    int outputs;            /* of the crop, in this direction */
    int first, end;         /* the inputs that any output needs: [first, end) */
    int taps;               /* room for an output's weights; those past count are 0 */
    const int32_t *start;   /* [outputs], first input, counted from `first` */
    const int32_t *count;   /* [outputs], inputs of each */
    const int32_t *weights; /* [outputs][taps], 22 bits after the point */
};

/* From rows of `width` pixels to a crop, in two passes with 8 bits between them. */
struct image_fit {
    struct image_axis across, down; /* along the rows; down the columns */
    bool columns_first;             /* the pass down the columns is the first */
    int32_t *tables; /* what both axes point into, one piece of memory, so that it can be copied */
    size_t table_bytes;
};

/* For an image of width x height; fails as effnet_image_fit does. On success the caller frees it. */
int image_fit_make(int width, int height, const struct effnet_preprocess *p, struct image_fit *fit,
                   struct effnet_error *error);
void image_fit_free(struct image_fit *fit);

#endif
