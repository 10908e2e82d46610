/* How kernels are launched. Most launches overlap the one before them in their stream (programmatic dependent
 * launch, compute capability 9.0): blocks start, and set up what depends on nothing, while the launch before
 * still runs. That hides most of a launch's cost, about a microsecond, also between the nodes of a CUDA
 * graph.
 *
 * What a kernel launched so must keep to:
 *  - ptx::grid_launch_next() at its start, in all threads;
 *  - ptx::grid_wait() in every thread before it first reads what an earlier launch may have written, or
 * writes anything: x and y, but not weights. Also a block without work waits, so that a launch that is done
 * means that all before it are;
 *  - no __ldg of what earlier launches write: such a load may be moved ahead of the wait. */
#ifndef EFFNET_KERNELS_LAUNCH_CUH
#define EFFNET_KERNELS_LAUNCH_CUH

#include "last_error.h"

#include <cuda_runtime.h>

/* CUDA before 12.3 cannot capture such launches into a graph. */
constexpr bool LAUNCHES_OVERLAP = CUDART_VERSION >= 12030;

/* A block's dynamic shared memory in this launch, and in the launch of the kernel that takes most. */
struct shared_memory {
    int bytes, most;
    constexpr shared_memory(int always) : bytes(always), most(always) {}
    constexpr shared_memory(int now, int at_most) : bytes(now), most(at_most) {}
};

/* What the runtime knows of a kernel on the current device, after letting its blocks have `most` bytes of
 * dynamic shared memory, for which more than 48 KB need a word. That limit belongs to the kernel and not to a
 * launch: another thread's launch finds it. So it is never another than the kernel's own `most`, set once for
 * each device (anew after cudaDeviceReset), and no launch can take away what another needs. */
template <class... Parameters>
cudaError_t prepare_kernel(void (*kernel)(Parameters...), int most, cudaFuncAttributes *attributes)
{
    cudaError_t status = cudaFuncGetAttributes(attributes, reinterpret_cast<const void *>(kernel));
    if (status == cudaSuccess && attributes->maxDynamicSharedSizeBytes < most)
        status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    cuda_forget_error(status);
    return status;
}

struct launch_shape {
    dim3 grid, block;
    shared_memory shared;
    unsigned cluster; /* blocks, along x; 0: none, or the kernel says it itself */
    bool overlap;     /* where the code that runs on this device was compiled with the wait in it */
};

/* Launches kernel<<<grid, block, shared bytes, stream>>>(arguments...). The status is this launch's own:
 * cudaGetLastError() would also tell of a failure before it, which somebody may have dealt with. */
template <class... Parameters, class... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), const launch_shape &shape, cudaStream_t stream,
                          const Arguments &...arguments)
{
    cudaFuncAttributes compiled;
    cudaError_t status = prepare_kernel(kernel, shape.shared.most, &compiled);
    if (status != cudaSuccess) return status;
    cudaLaunchAttribute attributes[2] = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = static_cast<size_t>(shape.shared.bytes);
    config.stream = stream;
    config.attrs = attributes;
    if (shape.cluster) {
        cudaLaunchAttribute &cluster = attributes[config.numAttrs++];
        cluster.id = cudaLaunchAttributeClusterDimension;
        cluster.val.clusterDim.x = shape.cluster;
        cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    }
    if (shape.overlap && LAUNCHES_OVERLAP && compiled.ptxVersion >= 90) {
        cudaLaunchAttribute &overlap = attributes[config.numAttrs++];
        overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        overlap.val.programmaticStreamSerializationAllowed = 1;
    }
    status = cudaLaunchKernelEx(&config, kernel, arguments...);
    cuda_forget_error(status);
    return status;
}

/* A launch that overlaps the one before it, as above. */
template <class... Parameters, class... Arguments>
cudaError_t launch_overlapping(void (*kernel)(Parameters...), dim3 grid, int threads, shared_memory shared,
                               cudaStream_t stream, const Arguments &...arguments)
{
    return launch_kernel(kernel, {grid, dim3(static_cast<unsigned>(threads)), shared, 0, true}, stream,
                         arguments...);
}

/* One that waits for it. */
template <class... Parameters, class... Arguments>
cudaError_t launch_after(void (*kernel)(Parameters...), dim3 grid, dim3 block, shared_memory shared,
                         cudaStream_t stream, const Arguments &...arguments)
{
    return launch_kernel(kernel, {grid, block, shared, 0, false}, stream, arguments...);
}

#endif
