/* The stem of an EfficientNet, from pixels on:
 *
 *   y = act(conv3x3 stride 2 (normalised pixels) + bias)   3 to 32, 40 or 48 channels
 *
 * Products of fp16 parts, high and low, are summed in fp32; y alone is rounded to fp16. All configurations
 * give the same bits. */
#ifndef EFFNET_KERNELS_STEM_H
#define EFFNET_KERNELS_STEM_H

#include "activation.h"
#include "kernel_config.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As in the weights file, in host memory. */
struct stem_layer {
    const float *weight, *bias; /* [channels][3][3][3], [channels] */
    float mean[3], std[3];      /* of the pixels, in units of 0..255 */
    int channels;
    int pad_top, pad_left;
};

/* Bytes of the kernel's own form of the weights; 0: it has none for so many channels. */
size_t stem_weight_bytes(int channels);
/* False where a weight is too large for fp16. */
bool stem_weights_fit(const struct stem_layer *layer);
/* Fills that form, in host memory, from weights that fit; the kernel takes a copy on the device. */
void stem_pack(const struct stem_layer *layer, void *packed);

struct stem_args {
    const uint8_t *pixels; /* [n][height][width][3], 4-byte aligned */
    const void *weights;   /* from stem_pack, 16-byte aligned */
    void *y;               /* half [n][out_height][out_width][channels], 16-byte aligned */
    union {
        enum activation activation; /* none, ReLU, ReLU6 or SiLU */
        struct {
            float output_min, output_max; /* its bounds, that the kernel reads: the launch fills them in */
            bool silu;                    /* in their place */
        };
    };
    int n, height, width, out_height, out_width, channels;
    int pad_top, pad_left; /* 0 or 1 */
};

/* Of struct stem_args; pointers are not looked at. Valid: rows of whole 4-byte words, every output's middle
 * tap inside the image, and no room for one more output. */
extern const struct kernel_family stem_kernels;

#ifdef __cplusplus
}
#endif
#endif
