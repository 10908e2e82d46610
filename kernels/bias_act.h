/* y = act(x + bias[c]) on NHWC fp16, in place or not: for a convolution whose
 * next layer cannot apply its bias and activation. */
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
        enum activation activation; /* none, ReLU or ReLU6 */
        struct {
            float output_min, output_max; /* its bounds, that the kernel reads: the launch fills them in */
        };
    };
};

/* Enqueues the kernel. cudaErrorInvalidValue for other sizes or activations; else what the launch returned. A
 * NaN stays one.
 */
cudaError_t bias_act_launch(const struct bias_act_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
