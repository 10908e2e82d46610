/* Rounds fp32 weights to fp16 on the device, once, when a network is opened. */
#ifndef EFFNET_KERNELS_CONVERT_H
#define EFFNET_KERNELS_CONVERT_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

struct convert_args {
    const float *x; /* [rows][columns]; a row: the weights of one output channel */
    void *y;        /* half [rows][columns] */
    int rows, columns;
};

/* Each weight becomes one of the two fp16 neighbours of its value, mostly the nearer; a few take the other,
 * so that the rounding errors of a row add up to about 0. */
cudaError_t convert_weights_launch(const struct convert_args *args, cudaStream_t stream);

/* high[i] = half(x[i]), low[i] = half(x[i] - high[i]): a sum that keeps 22 bits of x. */
cudaError_t convert_split_launch(const float *x, void *high, void *low, int count, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
