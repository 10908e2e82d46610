/* The stem in double, for the tests of the kernels that begin with it. */
#ifndef EFFNET_TESTS_GPU_STEM_REFERENCE_H
#define EFFNET_TESTS_GPU_STEM_REFERENCE_H

#include "small.h"
#include "stem.h"

/* [out_height][out_width][channels] of one image [height][width][3]; malloc'd. */
static inline double *stem_reference(const struct stem_layer *l, enum activation activation,
                                     const uint8_t *image, int height, int width, int out_height,
                                     int out_width)
{
    const size_t count = (size_t)out_height * (size_t)out_width * (size_t)l->channels;
    double *s = checked_malloc(count * sizeof *s), *out = s;
    for (int y = 0; y < out_height; y++)
        for (int x = 0; x < out_width; x++)
            for (int o = 0; o < l->channels; o++) {
                double sum = l->bias[o];
                for (int ky = 0; ky < 3; ky++)
                    for (int kx = 0; kx < 3; kx++) {
                        const int iy = 2 * y - l->pad_top + ky, ix = 2 * x - l->pad_left + kx;
                        if (iy < 0 || iy >= height || ix < 0 || ix >= width) continue;
                        for (int c = 0; c < 3; c++)
                            sum += l->weight[((o * 3 + c) * 3 + ky) * 3 + kx] *
                                   (image[((size_t)iy * (size_t)width + (size_t)ix) * 3 + (size_t)c] -
                                    (double)l->mean[c]) /
                                   l->std[c];
                    }
                *out++ = activate_double(activation, sum);
            }
    return s;
}

#endif
