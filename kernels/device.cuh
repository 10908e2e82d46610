/* What host code asks of the current device. */
#ifndef EFFNET_KERNELS_DEVICE_CUH
#define EFFNET_KERNELS_DEVICE_CUH

#include <cuda_runtime.h>

/* 90 for 9.0; 0 where there is no device. */
inline int compute_capability()
{
    int device = 0, major = 0, minor = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess)
        return 0;
    return 10 * major + minor;
}

inline cudaError_t multiprocessor_count(int *count)
{
    int device = 0;
    const cudaError_t status = cudaGetDevice(&device);
    return status == cudaSuccess ? cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device)
                                 : status;
}

#endif
