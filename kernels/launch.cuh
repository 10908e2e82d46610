/* Kernel launches that overlap the one before them in their stream (programmatic dependent launch, compute
 * capability 9.0): blocks start, and set up what depends on nothing, while the launch before still runs. That
 * hides most of a launch's cost, about a microsecond, also between the nodes of a CUDA graph.
 *
 * What a kernel launched so must keep to:
 *  - ptx::grid_launch_next() at its start, in all threads;
 *  - ptx::grid_wait() in every thread before it first reads what an earlier launch may have written, or
 * writes anything: x and y, but not weights. Also a block without work waits, so that a launch that is done
 * means that all before it are;
 *  - no __ldg of what earlier launches write: such a load may be moved ahead of the wait. */
#ifndef EFFNET_KERNELS_LAUNCH_CUH
#define EFFNET_KERNELS_LAUNCH_CUH

#include <cuda_runtime.h>

/* CUDA before 12.3 cannot capture such launches into a graph. */
constexpr bool LAUNCHES_OVERLAP = CUDART_VERSION >= 12030;

/* A kernel's blocks get more than 48 KB of dynamic shared memory only after this. */
template <class... Parameters>
cudaError_t allow_shared_memory(void (*kernel)(Parameters...), int shared_bytes)
{
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
}

/* Launches kernel<<<grid, threads, shared_bytes, stream>>>(arguments...), overlapping where the code that
 * runs on this device was compiled with the wait in it. */
template <class... Parameters, class... Arguments>
cudaError_t launch_overlapping(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes,
                               cudaStream_t stream, const Arguments &...arguments)
{
    cudaFuncAttributes compiled;
    cudaError_t status = allow_shared_memory(kernel, shared_bytes);
    if (status == cudaSuccess)
        status = cudaFuncGetAttributes(&compiled, reinterpret_cast<const void *>(kernel));
    if (status != cudaSuccess) return status;
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = LAUNCHES_OVERLAP && compiled.ptxVersion >= 90 ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

#endif
