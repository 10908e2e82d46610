/* The gate of squeeze-and-excite, from the sums that a layer took of its channels as it stored them:
 *
 *   mean[c]   = mean_factor * sum over parts of sums[n][part][c]
 *   hidden[r] = reduce_act(sum_c mean[c] * reduce_w[r][c] + reduce_bias[r])
 *   gate[n][c] = expand_act(sum_r hidden[r] * expand_w[r][c] + expand_bias[c])
 *
 * in fp32, rounded once. Note that expand_w lies as reduce_w does, channels innermost: transposed, as weights
 * files have it. Whoever reads the map next multiplies it by the gate.
 *
 * Several configurations compute the same function, with sums in an order of their own; one configuration
 * gives an image the same bits in any batch. */
#ifndef EFFNET_KERNELS_SQUEEZE_EXCITE_H
#define EFFNET_KERNELS_SQUEEZE_EXCITE_H

#include "activation.h"
#include "kernel_config.h"

#ifdef __cplusplus
extern "C" {
#endif

struct squeeze_excite_args {
    const float *sums;                                    /* [n][parts][channels], 16-byte aligned */
    const void *reduce_w;                                 /* half [reduced][channels], 16-byte aligned */
    const float *reduce_bias;                             /* [reduced] */
    const void *expand_w;                                 /* half [reduced][channels], 16-byte aligned */
    const float *expand_bias;                             /* [channels], 16-byte aligned */
    void *gate;                                           /* half [n][channels], 16-byte aligned */
    float mean_factor;                                    /* 1 / the pixels that are in the sums */
    enum activation reduce_activation, expand_activation; /* up to SIGMOID */
    int n, parts;
    int channels, reduced; /* channels a multiple of 8 up to 4096; reduced at most 1024 */
};

/* Of struct squeeze_excite_args; pointers are not looked at. */
extern const struct kernel_family squeeze_excite_kernels;

#ifdef __cplusplus
}
#endif
#endif
