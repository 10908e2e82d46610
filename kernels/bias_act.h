/* y = act(x + bias[c]) on NHWC fp16, in place or not: for a convolution whose
 * next layer cannot apply its bias and activation. Takes the sums of the channels of y along where they are
 * asked for, as kernels/depthwise.h does. */
#ifndef EFFNET_KERNELS_BIAS_ACT_H
#define EFFNET_KERNELS_BIAS_ACT_H

#include "activation.h"

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct bias_act_args {
    const void *x;     /* half [rows][channels], 16-byte aligned */
    void *y;           /* the same; may be x */
    const float *bias; /* [channels], 16-byte aligned */
    int64_t rows;
    int channels; /* a multiple of 8, at most 2^20 */
    union {
        enum activation activation; /* none, ReLU, ReLU6 or SiLU */
        struct {
            float output_min, output_max; /* its bounds, that the kernel reads: the launch fills them in */
        };
    };
    float *sums;        /* [rows / rows_per_image][parts][channels], 16-byte aligned; NULL: none are taken */
    int rows_per_image; /* with sums; divides rows */
    bool silu;          /* the launch fills it in */
};

/* Enqueues the kernel. cudaErrorInvalidValue for other sizes or activations; else what the launch returned. A
 * NaN stays one.
 */
cudaError_t bias_act_launch(const struct bias_act_args *args, cudaStream_t stream);

/* How many parts the sums come in: depends on rows_per_image and channels alone, so that an image's sums are
 * the same bits in any batch. */
int bias_act_sum_parts(const struct bias_act_args *args);

#ifdef __cplusplus
}
#endif
#endif
