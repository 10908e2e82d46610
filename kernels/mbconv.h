/* A block of an EfficientNet without squeeze-and-excite in one kernel:
 *
 *   h = act(E x + bias)                  in to hidden channels     (expand)
 *   d = act(depthwise KxK(h) + bias)     hidden                    (depthwise; h is 0 outside the image)
 *   y = act(P d + bias [+ x])            hidden to out             (project)
 *
 * on NHWC fp16. E and P are rounded to fp16 (P perhaps in two parts), everything else of the weights is fp32,
 * and so are all sums. Of what lies between x and y only d is rounded to fp16, and nothing is stored. All
 * configurations give the same bits, in any batch. */
#ifndef EFFNET_KERNELS_MBCONV_H
#define EFFNET_KERNELS_MBCONV_H

#include "activation.h"
#include "kernel_config.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The layers as in the weights file, in host memory. Channels: multiples of 8; hidden: of 16. */
struct mbconv_layers {
    const float *expand_weight, *expand_bias;       /* [hidden][in], [hidden] */
    const float *depthwise_weight, *depthwise_bias; /* [hidden][kernel][kernel], [hidden] */
    const float *project_weight, *project_bias;     /* [out][hidden], [out] */
    int in_channels, hidden, out_channels, kernel;
    bool two_parts; /* P as the sum of two fp16 parts: for outputs much smaller than their terms */
};

/* Bytes of the kernels' own form of the weights; pointers are not looked at. */
size_t mbconv_weight_bytes(const struct mbconv_layers *layers);
/* Fills that form, in host memory; the kernels take a copy on the device. */
void mbconv_pack(const struct mbconv_layers *layers, void *packed);

struct mbconv_args {
    const void *x;       /* half [n][height][width][in_channels], 16-byte aligned */
    const void *weights; /* from mbconv_pack, 16-byte aligned */
    void *y;             /* half [n][out_height][out_width][out_channels], 16-byte aligned; not x */
    union {
        struct {
            enum activation expand_activation, depthwise_activation; /* ReLU or ReLU6 */
            enum activation activation;                              /* none, ReLU or ReLU6 */
        };
        struct {
            float expand_max, depthwise_max, output_min,
                output_max; /* their bounds: the launch fills them in */
        };
    };
    int n, height, width, out_height, out_width;
    int in_channels, hidden, out_channels;
    int kernel, stride; /* 3 or 5, 1 or 2 */
    int pad_top, pad_left;
    bool residual;  /* x is added to y */
    bool two_parts; /* as weights were packed */
};

/* Of struct mbconv_args; pointers are not looked at. */
extern const struct kernel_family mbconv_kernels;

#ifdef __cplusplus
}
#endif
#endif
