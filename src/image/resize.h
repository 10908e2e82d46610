/* How the central crop is made of an image's pixels: the weights of both passes, for whoever runs them. */
#ifndef EFFNET_IMAGE_RESIZE_H
#define EFFNET_IMAGE_RESIZE_H

#include "effnet.h"
#include "image/resize_kernels.h"

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

/* Memory that a call grows where it is too small and that its caller keeps for the next call; {0} at first.
 */
struct image_scratch {
    void *memory;
    size_t size_bytes;
};

void *image_scratch_reserve(struct image_scratch *scratch, size_t bytes); /* lost: what was in it */
void image_scratch_free(struct image_scratch *scratch);                   /* {0} again */

/* From rows of `width` pixels to a crop, in two passes with 8 bits between them. {0}: made for nothing yet.
 */
struct image_fit {
    struct image_axis across, down; /* along the rows; down the columns */
    bool columns_first;             /* the pass down the columns is the first */
    int32_t *tables; /* what both axes point into, one piece of memory, so that it can be copied */
    size_t table_bytes;
    int width, height, short_side, crop; /* what the tables were made for */
    enum effnet_interpolation interpolation;
    enum effnet_resize resize;
    const struct resize_kernels *kernels;      /* that run it; NULL before the first use means the fastest */
    struct resize_pass across_pass, down_pass; /* the axes, as these kernels take them */
    struct image_scratch memory;
};

/* For an image of width x height; fails as effnet_image_fit does. On success the caller frees it. */
int image_fit_make(int width, int height, const struct effnet_preprocess *p, struct image_fit *fit,
                   struct effnet_error *error);
/* The same for a fit that is {0} or was made for another image: keeps its memory, and its tables where
 * nothing that they depend on has changed. A fit that could not be remade must not be run, but may be remade
 * again. */
int image_fit_remake(struct image_fit *fit, int width, int height, const struct effnet_preprocess *p,
                     struct effnet_error *error);
void image_fit_free(struct image_fit *fit);

/* The first pixel that the crop needs: row down.first, column across.first of an image without gaps. */
const uint8_t *image_fit_first_pixel(const struct image_fit *fit, const uint8_t *rgb);

/* Makes the crop [crop][crop][3]. `in` is the first pixel that it needs, and rows are `stride` bytes apart;
 * of down.end - down.first rows across.end - across.first pixels each are read, and nothing beyond them.
 * EFFNET_E_NOMEM: no memory for the scratch. Calls with scratches of their own may run at the same time. */
int image_fit_run(const struct image_fit *fit, const uint8_t *in, size_t stride,
                  struct image_scratch *scratch, uint8_t *crop);

#endif
