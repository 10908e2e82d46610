/* What host code asks of the current device. */
#ifndef EFFNET_KERNELS_DEVICE_CUH
#define EFFNET_KERNELS_DEVICE_CUH

#include "last_error.h"

#include <cuda_runtime.h>

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

#endif
