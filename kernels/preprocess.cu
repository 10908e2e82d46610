/* Normalises uint8 pixels to fp16: y = (pixel - mean[c]) / std[c] in fp32, rounded once.
 *
 * Three channels are no power of two, so the tensor is taken as a flat row of values: a thread reads eight
 * bytes and writes sixteen, and the channel of a value is its index modulo 3. A thread finds the channel of
 * its first value once and turns the constants to it; the rest follows at compile time.
 *
 * The division costs three operations: with the correctly rounded reciprocal r of std, q = d * r, then
 * q + r * (d - q * std) is d / std rounded correctly (Markstein, "Computation of elementary functions on the
 * IBM RISC System/6000 processor", 1990). A remainder and a full division for each value would be dozens of
 * operations, more than fit into the time that its three bytes take.
 *
 * Grid: one thread per eight values, 256 a block. Fewest bytes: 3 a value (1 in, 2 out). */
#include "launch.cuh"
#include "preprocess.h"
#include "ptx.cuh"

#include <cuda_fp16.h>

namespace
{

constexpr int THREADS = 256, VALUES = 8;

struct channel {
    float mean, std, reciprocal;
};

struct normalise_task {
    const uint8_t *pixels;
    __half *y;
    int64_t count; /* values */
    channel channels[3];
};

__device__ __forceinline__ float normalise(uint8_t pixel, const channel &c)
{
    const float difference = pixel - c.mean, quotient = difference * c.reciprocal;
    return fmaf(fmaf(-quotient, c.std, difference), c.reciprocal, quotient);
}

__global__ void __launch_bounds__(THREADS) normalise_kernel(const __grid_constant__ normalise_task task)
{
    const int64_t first = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) * VALUES;
    /* first % 3, as a block's values and a thread's are both 2 modulo 3. */
    static_assert(VALUES % 3 == 2 && THREADS * VALUES % 3 == 2, "the channel of the first value");
    const unsigned phase = (2 * (blockIdx.x % 3) + 2 * threadIdx.x) % 3;
    channel c[3]; /* of the values 0, 1, 2 and, in turn, of the others */
#pragma unroll
    for (int i = 0; i < 3; i++)
        c[i] = phase == 0   ? task.channels[i]
               : phase == 1 ? task.channels[(i + 1) % 3]
                            : task.channels[(i + 2) % 3];
    ptx::grid_launch_next();
    ptx::grid_wait();
    if (first + VALUES <= task.count) {
        union {
            uint2 word;
            uint8_t value[VALUES];
        } in;
        union {
            uint4 word;
            __half2 pair[VALUES / 2];
        } out;
        in.word = *reinterpret_cast<const uint2 *>(task.pixels + first);
#pragma unroll
        for (int i = 0; i < VALUES; i += 2)
            out.pair[i / 2] = __floats2half2_rn(normalise(in.value[i], c[i % 3]),
                                                normalise(in.value[i + 1], c[(i + 1) % 3]));
        *reinterpret_cast<uint4 *>(task.y + first) = out.word;
    } else {
#pragma unroll
        for (int i = 0; i < VALUES; i++)
            if (first + i < task.count)
                task.y[first + i] = __float2half_rn(normalise(task.pixels[first + i], c[i % 3]));
    }
}

} // namespace

cudaError_t normalise_launch(const normalise_args *args, cudaStream_t stream)
{
    const int64_t per_block = THREADS * VALUES;
    if (args->pixel_count < 1 || args->pixel_count > per_block * INT32_MAX / 3) return cudaErrorInvalidValue;
    const int64_t values = 3 * args->pixel_count, blocks = (values + per_block - 1) / per_block;
    normalise_task task = {args->pixels, static_cast<__half *>(args->y), values, {}};
    for (int i = 0; i < 3; i++) {
        const float std = args->std[i];
        if (!(std >= 1e-30f && std <= 1e30f)) return cudaErrorInvalidValue;
        task.channels[i] = {args->mean[i], std, 1 / std};
    }
    return launch_overlapping(normalise_kernel, static_cast<unsigned>(blocks), THREADS, 0, stream, task);
}
