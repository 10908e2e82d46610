/* Global average pooling on NHWC fp16: y[n][c] = mean over pixels of x[n][pixel][c], fp32 accumulation. */
#ifndef EFFNET_KERNELS_POOL_H
#define EFFNET_KERNELS_POOL_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pool_args {
    const void *x;           /* half [n][pixels][channels], 16-byte aligned */
    void *y;                 /* half [n][channels], 16-byte aligned */
    int n, pixels, channels; /* channels a multiple of 8 */
};

/* Enqueues the kernel. cudaErrorInvalidValue for other sizes; else what the launch returned. An image's means
 * are the same bits in any batch. */
cudaError_t pool_launch(const struct pool_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
