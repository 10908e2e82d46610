/* A 1x1 convolution and the depthwise convolution behind it in one kernel, on NHWC fp16, for maps of which a
 * block can hold some rows of some channels:
 *
 *   h[n][iy][ix][c] = act(sum_k x[n][iy][ix][k] * w[c][k] + bias[c])
 *   y[n][oy][ox][c] = act(sum_{ky,kx} h[n][oy*s - pad_top + ky][ox*s - pad_left + kx][c] *
 *                         depthwise_w[ky][kx][c] + depthwise_bias[c])
 *
 * where h is 0 outside its height and width. h is rounded to fp16 and stays on the chip; sums are fp32. All
 * configurations compute the same bits of y.
 *
 * Where `sums` is given, the sum of every channel is taken as y is stored: in fp32, of the values after the
 * activation, before they are rounded. An image's sum comes in `parts` pieces, each of some of its pixels,
 * which whoever reads them adds up (squeeze_excite.h). */
#ifndef EFFNET_KERNELS_EXPAND_DEPTHWISE_H
#define EFFNET_KERNELS_EXPAND_DEPTHWISE_H

#include "activation.h"
#include "kernel_config.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct expand_depthwise_args {
    const void *x;               /* half [n][height][width][in_channels], 16-byte aligned */
    const void *w;               /* half [channels][in_channels], 16-byte aligned */
    const float *bias;           /* [channels] */
    const void *depthwise_w;     /* as expand_depthwise_pack makes them, 16-byte aligned */
    const float *depthwise_bias; /* [channels] */
    void *y;                     /* half [n][out_height][out_width][channels], 16-byte aligned */
    float *sums;                 /* [n][parts][channels], with SiLU alone; NULL: none are taken */
    /* None, ReLU or ReLU6, each; or both SiLU. */
    enum activation activation, depthwise_activation;
    int n, in_channels, channels; /* channels multiples of 8 */
    int height, width, out_height, out_width;
    int kernel, stride;    /* 3 or 5, 1 or 2 */
    int pad_top, pad_left; /* less than the kernel */
};

/* Of struct expand_depthwise_args; pointers are not looked at, only whether there are sums. */
extern const struct kernel_family expand_depthwise_kernels;

/* How many parts the sums of that configuration come in: depends on the sizes, not on n, nor on whether args
 * has sums. 0: it takes none, so that args with sums do not fit it. */
int expand_depthwise_sum_parts(int config, const struct expand_depthwise_args *args);

/* The depthwise weights as the kernels want them, from [channels][kernel][kernel], which are to fit: none is
 * too large for fp16. */
bool expand_depthwise_weights_fit(const float *w, int channels, int kernel);
size_t expand_depthwise_packed_bytes(int channels, int kernel);
void expand_depthwise_pack(const float *w, int channels, int kernel, void *packed);

#ifdef __cplusplus
}
#endif
#endif
