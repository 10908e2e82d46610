/* The first three layers of an EfficientNet in one kernel, from pixels to the first block's output:
 *
 *   s = act(conv3x3 stride 2 (normalised pixels) + bias)   3 to 32 channels    (stem)
 *   d = act(depthwise3x3(s) + bias)                        32
 *   y = act(W d + bias)                                    32 to 16            (project)
 *
 * Nothing between pixels and y is stored, and nothing but y is rounded to fp16: products of fp16 parts, high
 * and low, are summed in fp32. All configurations give the same bits. */
#ifndef EFFNET_KERNELS_FIRST_BLOCK_H
#define EFFNET_KERNELS_FIRST_BLOCK_H

#include "activation.h"
#include "kernel_config.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { FIRST_BLOCK_MIDDLE = 32, FIRST_BLOCK_OUT = 16 }; /* channels */

/* The layers as in the weights file, in host memory. */
struct first_block_layers {
    const float *stem_weight, *stem_bias;                  /* [32][3][3][3], [32] */
    const float *depthwise_weight, *depthwise_bias;        /* [32][1][3][3], [32] */
    const float *project_weight, *project_bias;            /* [16][32], [16] */
    float mean[3], std[3];                                 /* in units of 0..255 */
    enum activation stem_activation, depthwise_activation; /* ReLU or ReLU6 */
    int pad_top, pad_left;                                 /* of the stem */
};

/* Bytes of the kernel's own form of the weights. */
size_t first_block_weight_bytes(void);
/* False where a weight is too large for fp16. */
bool first_block_weights_fit(const struct first_block_layers *layers);
/* Fills that form, in host memory, from weights that fit; the kernel takes a copy on the device. */
void first_block_pack(const struct first_block_layers *layers, void *packed);

struct first_block_args {
    const uint8_t *pixels; /* [n][height][width][3], 4-byte aligned */
    const void *weights;   /* from first_block_pack, 16-byte aligned */
    void *y;               /* half [n][out_height][out_width][16], 8-byte aligned */
    union {
        struct {
            enum activation stem_activation, depthwise_activation; /* ReLU or ReLU6 */
            enum activation activation;                            /* none, ReLU or ReLU6 */
        };
        struct {
            float stem_max, depthwise_max, output_min,
                output_max; /* their bounds: the launch fills them in */
        };
    };
    int n, height, width, out_height, out_width;
    int pad_top, pad_left; /* of the stem, 0 or 1 */
};

/* Of struct first_block_args; pointers are not looked at. Valid: rows of whole 4-byte words, every output's
 * middle tap inside the image, and no room for one more output. */
extern const struct kernel_family first_block_kernels;

#ifdef __cplusplus
}
#endif
#endif
