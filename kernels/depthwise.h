/* Depthwise convolution + bias + activation on NHWC fp16, with fp32 weights and accumulation:
 *
 *   y[n][oy][ox][c] = act(sum_{ky,kx} x[n][oy*s - pad_top + ky][ox*s - pad_left + kx][c] * w[ky][kx][c] +
 * bias[c])
 *
 * where x is 0 outside its height and width. Several configurations compute the same bits; which is fastest
 * depends on shape and chip.
 *
 * Where `sums` is given, the sum of every channel is taken as y is stored: in fp32, of the values after the
 * activation, before they are rounded. An image's sum comes in `parts` pieces, each of some of its pixels,
 * which whoever reads them adds up (squeeze_excite.h). */
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
        enum activation activation; /* none, ReLU, ReLU6 or SiLU */
        struct {
            float output_min, output_max; /* its bounds, that the kernel reads: the launch fills them in */
        };
    };
    int n, channels; /* channels a multiple of 8 */
    int height, width, out_height, out_width;
    int kernel, stride; /* 3 or 5, 1 or 2 */
    int pad_top, pad_left;
    /* With SiLU alone. */
    float *sums;   /* [n][parts][channels], 16-byte aligned; NULL: none are taken */
    int planned_n; /* the most images of any launch whose sums are to be the same bits for an image; 0: n */
    bool silu;     /* the launch fills it in */
};

/* Of struct depthwise_args; pointers are not looked at, only whether there are sums. */
extern const struct kernel_family depthwise_kernels;

/* How many parts the sums of that configuration come in, on the current device: depends on planned_n (n where
 * that is 0) and the sizes, not on n besides, nor on whether args has sums. 0: it takes none, so that args
 * with sums do not fit it. */
int depthwise_sum_parts(int config, const struct depthwise_args *args);

#ifdef __cplusplus
}
#endif
#endif
