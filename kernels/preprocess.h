/* Decoded pixels to the network's input: y = (pixel - mean[c]) / std[c] in fp32, rounded to fp16. */
#ifndef EFFNET_KERNELS_PREPROCESS_H
#define EFFNET_KERNELS_PREPROCESS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct normalise_args {
    const uint8_t *pixels; /* [pixel_count][3], 8-byte aligned */
    void *y;               /* half [pixel_count][3], 16-byte aligned */
    int64_t pixel_count;
    float mean[3], std[3]; /* in units of 0..255; std from 1e-30 to 1e30 */
};

/* Enqueues the kernel. cudaErrorInvalidValue: no pixels, more than a grid holds, or a std out of range; else
 * what the launch returned. */
cudaError_t normalise_launch(const struct normalise_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
