/* y = act(x + bias[c]), the sum in fp32, rounded once.
 *
 * A vector is eight channels of a pixel, 16 bytes. The number of threads is a multiple of the vectors in a
 * row, so a thread that steps by it stays at its channels: it finds them once, by the only remainder, and
 * keeps their biases in registers. It loads four vectors before it stores the first, since the compiler may
 * not move a load over a store that could be to the same place (y may be x).
 *
 * Grid: at least one thread a vector up to MOST_BLOCKS blocks, rounded up to that multiple. Block: 256.
 * Fewest bytes: 4 a value (2 in, 2 out). */
#include "bias_act.h"
#include "epilogue.cuh"
#include "launch.cuh"

namespace
{

constexpr int THREADS = 256, IN_FLIGHT = 4;
constexpr int MOST_BLOCKS = 4096; /* several rounds on any GPU */
constexpr int MOST_CHANNELS = 1 << 20;

union vector {
    uint4 word;
    __half2 pair[4];
};

__device__ __forceinline__ uint4 apply(uint4 word, const float (&bias)[8], const bias_act_args &args)
{
    vector v;
    v.word = word;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 x = __half22float2(v.pair[i]);
        const float a = epilogue::clamp(x.x + bias[2 * i], args.output_min, args.output_max);
        const float b = epilogue::clamp(x.y + bias[2 * i + 1], args.output_min, args.output_max);
        v.pair[i] = __floats2half2_rn(a, b);
    }
    return v.word;
}

__global__ void __launch_bounds__(THREADS)
    bias_act_kernel(const __grid_constant__ bias_act_args args, int64_t count)
{
    const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
    const int64_t step = static_cast<int64_t>(gridDim.x) * THREADS;
    const unsigned channel = thread % (args.channels / 8u) * 8;
    const float4 low = *reinterpret_cast<const float4 *>(args.bias + channel);
    const float4 high = *reinterpret_cast<const float4 *>(args.bias + channel + 4);
    const float bias[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    ptx::grid_launch_next();
    ptx::grid_wait();
    const uint4 *x = static_cast<const uint4 *>(args.x);
    uint4 *y = static_cast<uint4 *>(args.y);
    for (int64_t first = thread; first < count; first += IN_FLIGHT * step) {
        uint4 v[IN_FLIGHT];
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++)
            if (first + i * step < count) v[i] = x[first + i * step];
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++)
            if (first + i * step < count) y[first + i * step] = apply(v[i], bias, args);
    }
}

/* Blocks for that many vectors, such that their threads are a multiple of `row` vectors. */
int64_t choose_blocks(int64_t count, int row)
{
    int64_t blocks = (count - 1) / THREADS + 1, multiple = row;
    if (blocks > MOST_BLOCKS) blocks = MOST_BLOCKS;
    for (int common = THREADS; common > 1 && multiple % 2 == 0; common /= 2) multiple /= 2;
    return (blocks + multiple - 1) / multiple * multiple;
}

} // namespace

cudaError_t bias_act_launch(const bias_act_args *args, cudaStream_t stream)
{
    if (args->rows < 1 || args->channels < 8 || args->channels % 8 || args->channels > MOST_CHANNELS)
        return cudaErrorInvalidValue;
    bias_act_args clamped = *args;
    if (!activation_clamp(args->activation, &clamped.output_min, &clamped.output_max))
        return cudaErrorInvalidValue;
    const int row = args->channels / 8;
    if (args->rows > INT64_MAX / 64 / row) return cudaErrorInvalidValue;
    const int64_t count = args->rows * row;
    return launch_overlapping(bias_act_kernel, static_cast<unsigned>(choose_blocks(count, row)), THREADS, 0,
                              stream, clamped, count);
}
