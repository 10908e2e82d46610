/* What host code asks of the current device. */
#ifndef EFFNET_KERNELS_DEVICE_CUH
#define EFFNET_KERNELS_DEVICE_CUH

#include "last_error.h"

#include <cuda_runtime.h>

/* 90 for 9.0; 0 where there is no device. */
inline int compute_capability()
{
    int device = 0, major = 0, minor = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess)
        status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (status == cudaSuccess)
        status = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    cuda_forget_error(status);
    return status == cudaSuccess ? 10 * major + minor : 0;
}

inline cudaError_t sm_count(int *count)
{
    int device = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
    cuda_forget_error(status);
    return status;
}

#endif
