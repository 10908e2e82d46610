/* What host code asks of the current device. */
#ifndef EFFNET_KERNELS_DEVICE_CUH
#define EFFNET_KERNELS_DEVICE_CUH

#include "last_error.h"

#include <cuda_runtime.h>
#include <stdint.h>

inline cudaError_t device_attribute(cudaDeviceAttr attribute, int *value)
{
    int device = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(value, attribute, device);
    cuda_forget_error(status);
    return status;
}

inline cudaError_t sm_count(int *count)
{
    return device_attribute(cudaDevAttrMultiProcessorCount, count);
}

/* 90 for 9.0; 0 where there is no device. */
inline int compute_capability()
{
    int major = 0, minor = 0;
    return device_attribute(cudaDevAttrComputeCapabilityMajor, &major) == cudaSuccess &&
                   device_attribute(cudaDevAttrComputeCapabilityMinor, &minor) == cudaSuccess
               ? 10 * major + minor
               : 0;
}

/* The grid of a persistent kernel: a block a tile, but no more than `per_sm` an SM. */
inline cudaError_t persistent_grid(int64_t tiles, int per_sm, unsigned *blocks)
{
    int sms = 0;
    const cudaError_t status = sm_count(&sms);
    const int64_t resident = static_cast<int64_t>(per_sm) * sms;
    *blocks = static_cast<unsigned>(tiles < resident ? tiles : resident);
    return status;
}

#endif
