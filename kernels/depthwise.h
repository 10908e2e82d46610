/* Depthwise convolution + bias + activation on NHWC fp16, with fp32 weights and accumulation:
 *
 *   y[n][oy][ox][c] = act(sum_{ky,kx} x[n][oy*s - pad_top + ky][ox*s - pad_left + kx][c] * w[ky][kx][c] +
 * bias[c])
 *
 * where x is 0 outside its height and width. Several configurations compute the same bits; which is fastest
 * depends on shape and chip. */
#ifndef EFFNET_KERNELS_DEPTHWISE_H
#define EFFNET_KERNELS_DEPTHWISE_H

#include "activation.h"
#include "kernel_config.h"

#ifdef __cplusplus
extern "C" {
#endif

struct depthwise_args {
    const void *x;     /* half [n][height][width][channels], 16-byte aligned */
    const float *w;    /* [kernel][kernel][channels], 16-byte aligned */
    const float *bias; /* [channels], 16-byte aligned */
    void *y;           /* half [n][out_height][out_width][channels], 16-byte aligned */
    union {
        enum activation activation; /* none, ReLU or ReLU6 */
        struct {
            float output_min, output_max; /* its bounds, that the kernel reads: the launch fills them in */
        };
    };
    int n, channels; /* channels a multiple of 8 */
    int height, width, out_height, out_width;
    int kernel, stride; /* 3 or 5, 1 or 2 */
    int pad_top, pad_left;
};

/* Of struct depthwise_args; pointers are not looked at. */
extern const struct kernel_family depthwise_kernels;

#ifdef __cplusplus
}
#endif
#endif
