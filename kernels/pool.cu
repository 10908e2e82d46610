/* Global average pooling, for heads whose pointwise kernel cannot pool its own pixels.
 *
 * A block makes 64 channels of one image: eight lanes read the 128 bytes of a pixel, the 32 groups of eight
 * take every 32nd pixel. The groups' sums are added in a fixed order, four within each warp by shuffles and
 * then the eight warps', so an image's result does not depend on the batch.
 *
 * Grid: (channels / 64, n), n in parts of what a grid holds. Block: 256 threads, 2 KB of shared memory.
 * Fewest bytes: 2 a value read, and the means; one addition a value. A wider piece of the channels leaves a
 * batch of one with too few blocks: 256 channels a block are 5 blocks for 1280 channels, 64 are 20. */
#include "launch.cuh"
#include "pool.h"
#include "ptx.cuh"

#include <cuda_fp16.h>

namespace
{

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int VECTORS = 8, CHANNELS = 8 * VECTORS; /* of a block; a vector is 16 bytes, eight channels */
constexpr int SLICES = THREADS / VECTORS;          /* groups of lanes, each with pixels of its own */
constexpr unsigned ALL = 0xffffffffu;
constexpr int GRID_MOST = 65535; /* blocks along y */

union vector {
    uint4 word;
    __half2 pair[4];
};

/* The sums of this thread's pixels. */
__device__ __forceinline__ void add_pixels(const pool_args &args, int index, float (&sum)[8])
{
    const int vectors = args.channels / 8;
    const uint4 *x = static_cast<const uint4 *>(args.x) +
                     static_cast<size_t>(blockIdx.y) * args.pixels * vectors + index;
#pragma unroll 4
    for (int p = threadIdx.x / VECTORS; p < args.pixels; p += SLICES) {
        vector v;
        v.word = x[static_cast<size_t>(p) * vectors];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 f = __half22float2(v.pair[i]);
            sum[2 * i] += f.x;
            sum[2 * i + 1] += f.y;
        }
    }
}

__global__ void __launch_bounds__(THREADS) pool_kernel(const __grid_constant__ pool_args args)
{
    __shared__ float partial[WARPS][CHANNELS];
    const int lane = threadIdx.x % 32, index = blockIdx.x * VECTORS + lane % VECTORS;
    float sum[8] = {};
    ptx::grid_launch_next();
    ptx::grid_wait();
    if (index < args.channels / 8) add_pixels(args, index, sum);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        sum[i] += __shfl_xor_sync(ALL, sum[i], VECTORS);
        sum[i] += __shfl_xor_sync(ALL, sum[i], 2 * VECTORS);
    }
    if (lane < VECTORS) {
        float4 *to = reinterpret_cast<float4 *>(&partial[threadIdx.x / 32][8 * lane]);
        to[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
        to[1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
    }
    __syncthreads(); /* every warp's sums are there */
    const int channel = blockIdx.x * CHANNELS + threadIdx.x;
    if (threadIdx.x >= CHANNELS || channel >= args.channels) return;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) total += partial[w][threadIdx.x];
    static_cast<__half *>(args.y)[static_cast<size_t>(blockIdx.y) * args.channels + channel] =
        __float2half_rn(total / args.pixels);
}

} // namespace

cudaError_t pool_launch(const pool_args *args, cudaStream_t stream)
{
    if (args->n < 1 || args->pixels < 1 || args->channels < 8 || args->channels % 8)
        return cudaErrorInvalidValue;
    const size_t image = static_cast<size_t>(args->pixels) * args->channels; /* values */
    pool_args part = *args;
    for (int left = args->n; left > 0; left -= part.n) {
        part.n = left < GRID_MOST ? left : GRID_MOST;
        const dim3 grid((args->channels - 1) / CHANNELS + 1, part.n);
        const cudaError_t status = launch_overlapping(pool_kernel, grid, THREADS, 0, stream, part);
        if (status != cudaSuccess) return status;
        part.x = static_cast<const __half *>(part.x) + part.n * image;
        part.y = static_cast<__half *>(part.y) + static_cast<size_t>(part.n) * args->channels;
    }
    return cudaSuccess;
}
