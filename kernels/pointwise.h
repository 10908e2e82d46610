/* 1x1 convolution + bias [+ residual] + activation, on NHWC fp16 with fp32 accumulation:
 *
 *   y[m][n] = act(sum_k p(x[m][k]) * w[n][k] + bias[n] + residual[m][n])
 *
 * where p is the identity, or input_activation(x + input_bias[k]) when input_bias is given: the bias
 * and ReLU or ReLU6 that a depthwise convolution left to the layer that reads it. input_bias comes as two
 * fp16 numbers, high + low, that are added one after the other: where x and the bias nearly cancel, the
 * first sum is exact, so the result is as good as one from a fp32 bias.
 *
 * So may w, for a layer whose terms cancel so much that weights rounded to fp16 would show; not with SiLU.
 *
 * With a gate, p(x[m][k]) is x[m][k] * gate[m / gate_rows][k], rounded to fp16: what squeeze-and-excite makes
 * of a map, without a pass over it. A NaN or an infinity in a gate stays in its image.
 *
 * Several configurations compute the same function; which is fastest depends on shape and chip, so the
 * caller times those that fit. A row's result depends on the configuration, the row and its image's gate
 * alone, so one configuration gives the same bits for an image alone and in any batch. */
#ifndef EFFNET_KERNELS_POINTWISE_H
#define EFFNET_KERNELS_POINTWISE_H

#include "activation.h"
#include "kernel_config.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pointwise_args {
    const void *x;          /* half [m][k] */
    const void *w;          /* half [n][k]; with w_low [2][n][k] */
    bool w_low;             /* w comes as high and low parts, as input_bias does; both are multiplied */
    const float *bias;      /* [n] */
    const void *residual;   /* half [m][n], or NULL */
    const void *input_bias; /* half [2][k], high and low, or NULL */
    union {
        enum activation input_activation; /* of the prologue: ReLU or ReLU6 */
        float input_max;                  /* its upper bound: for the kernel, as output_max */
    };
    union {
        enum activation activation; /* none, ReLU, ReLU6 or SiLU */
        struct {
            float output_min, output_max; /* its bounds, that the kernel reads: the launch fills them in */
        };
    };
    void *y;       /* half [m][n], or [m / pool_rows][n] */
    int m, n, k;   /* n and k multiples of 8 */
    int pool_rows; /* 0, or average each pool_rows rows (an image's H * W) into one */
    bool silu;     /* for the kernel, as output_max: SiLU has no bounds */
    union {
        int gate_rows; /* rows of x that share a gate: an image's pixels. m is a multiple */
        struct {
            unsigned gate_multiplier, gate_shift; /* 1 / gate_rows: for the kernel, as output_max */
        };
    };
    const void *gate; /* half [m / gate_rows][k], or NULL; not together with input_bias */
};

/* Of struct pointwise_args. Whether a configuration fits does not depend on pointers, only on which are NULL;
 * x, w, residual, input_bias, gate and y are to be 16-byte aligned. */
extern const struct kernel_family pointwise_kernels;

#ifdef __cplusplus
}
#endif
#endif
