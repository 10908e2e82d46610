/* y = act(x + bias[c]), the sum in fp32, rounded once; and the channels' sums, where they are asked for.
 *
 * A vector is eight channels of a pixel, 16 bytes. The number of threads is a multiple of the vectors in a
 * row, so a thread that steps by it stays at its channels: it finds them once, by the only remainder, and
 * keeps their biases in registers. It loads four vectors before it stores the first, since the compiler may
 * not move a load over a store that could be to the same place (y may be x).
 *
 * Grid: at least one thread a vector up to MOST_BLOCKS blocks, rounded up to that multiple. Block: 256.
 * Fewest bytes: 4 a value (2 in, 2 out).
 *
 * With sums a block makes up to 16 vectors of a part of an image's rows, and adds up its threads' sums in a
 * fixed order in shared memory, 8 KB. Grid: a block for each. */
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

/* Gives the activated values too, before they are rounded. */
template <bool SILU>
__device__ __forceinline__ uint4 apply(uint4 word, const float (&bias)[8], const bias_act_args &args,
                                       float (&value)[8])
{
    vector v;
    v.word = word;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 x = __half22float2(v.pair[i]);
        float a = x.x + bias[2 * i], b = x.y + bias[2 * i + 1];
        if constexpr (SILU) {
            a = epilogue::silu_for_half(a), b = epilogue::silu_for_half(b);
        } else {
            a = epilogue::clamp(a, args.output_min, args.output_max);
            b = epilogue::clamp(b, args.output_min, args.output_max);
        }
        value[2 * i] = a, value[2 * i + 1] = b;
        v.pair[i] = __floats2half2_rn(a, b);
    }
    return v.word;
}

/* Of the eight channels of a vector. */
__device__ __forceinline__ void load_bias(float (&bias)[8], const float *from)
{
    const float4 low = *reinterpret_cast<const float4 *>(from);
    const float4 high = *reinterpret_cast<const float4 *>(from + 4);
    bias[0] = low.x, bias[1] = low.y, bias[2] = low.z, bias[3] = low.w;
    bias[4] = high.x, bias[5] = high.y, bias[6] = high.z, bias[7] = high.w;
}

/* Vectors first, first + step, ... of those before `count`, and on to `sum` what `apply` gives. */
template <bool SILU, bool SUMS>
__device__ __forceinline__ void make_vectors(const bias_act_args &args, int64_t first, int64_t step,
                                             int64_t count, const float (&bias)[8], float (&sum)[8])
{
    const uint4 *x = static_cast<const uint4 *>(args.x);
    uint4 *y = static_cast<uint4 *>(args.y);
    for (; first < count; first += IN_FLIGHT * step) {
        uint4 v[IN_FLIGHT];
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++)
            if (first + i * step < count) v[i] = x[first + i * step];
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++)
            if (first + i * step < count) {
                float value[8];
                y[first + i * step] = apply<SILU>(v[i], bias, args, value);
#pragma unroll
                for (int c = 0; SUMS && c < 8; c++) sum[c] += value[c];
            }
    }
}

template <bool SILU>
__global__ void __launch_bounds__(THREADS)
    bias_act_kernel(const __grid_constant__ bias_act_args args, int64_t count)
{
    const unsigned thread = blockIdx.x * THREADS + threadIdx.x;
    const int64_t step = static_cast<int64_t>(gridDim.x) * THREADS;
    float bias[8], none[8];
    load_bias(bias, args.bias + thread % (args.channels / 8u) * 8);
    ptx::grid_launch_next();
    ptx::grid_wait();
    make_vectors<SILU, false>(args, thread, step, count, bias, none);
}

/* How a block's threads lie, for sums: thread v + vectors * r makes vector v of every rows-th row. */
struct sum_shape {
    int vectors, rows;
    int groups;    /* so many blocks make all vectors of a row */
    int parts;     /* and so many all rows of an image */
    int part_rows; /* rows of a part, but the last */
};

template <bool SILU>
__global__ void __launch_bounds__(THREADS)
    bias_act_sums(const __grid_constant__ bias_act_args args, const __grid_constant__ sum_shape shape)
{
    __shared__ float partial[THREADS * 8]; /* [rows][vectors][8] */
    const int group = blockIdx.x % shape.groups, block = blockIdx.x / shape.groups;
    const int part = block % shape.parts, image = block / shape.parts, all = args.channels / 8;
    const int row = threadIdx.x / shape.vectors, vector = group * shape.vectors + threadIdx.x % shape.vectors;
    const bool active = row < shape.rows && vector < all;
    float bias[8], sum[8] = {};
    load_bias(bias, args.bias + (active ? 8 * vector : 0));
    ptx::grid_launch_next();
    ptx::grid_wait();
    const int64_t image_row = static_cast<int64_t>(image) * args.rows_per_image;
    const int64_t begin = image_row + static_cast<int64_t>(part) * shape.part_rows;
    const int64_t end = min(begin + shape.part_rows, image_row + args.rows_per_image);
    if (active)
        make_vectors<SILU, true>(args, (begin + row) * all + vector, static_cast<int64_t>(shape.rows) * all,
                                 end * all, bias, sum);
#pragma unroll
    for (int i = 0; i < 8; i++) partial[threadIdx.x * 8 + i] = sum[i];
    __syncthreads(); /* every thread's sums are there */
    const int channels = shape.vectors * 8, first = group * channels;
    float *to = args.sums + static_cast<size_t>(block) * args.channels + first;
    for (int c = threadIdx.x; c < channels && first + c < args.channels; c += THREADS) {
        float total = 0.0f;
        for (int r = 0; r < shape.rows; r++) total += partial[r * channels + c];
        to[c] = total;
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

/* Up to 16 vectors, 256 bytes of a row; parts of four rows a thread, but no more than 64. */
sum_shape choose_sums(int rows, int vectors)
{
    constexpr int VECTORS = 16, ROUNDS = IN_FLIGHT, MOST = 64;
    sum_shape s;
    s.groups = (vectors + VECTORS - 1) / VECTORS;
    s.vectors = (vectors + s.groups - 1) / s.groups;
    s.rows = THREADS / s.vectors;
    if (s.rows > rows) s.rows = rows;
    s.parts = (rows + s.rows * ROUNDS - 1) / (s.rows * ROUNDS);
    if (s.parts > MOST) s.parts = MOST;
    s.part_rows = (rows + s.parts - 1) / s.parts;
    s.parts = (rows + s.part_rows - 1) / s.part_rows;
    return s;
}

bool known(const bias_act_args &a)
{
    float low, high;
    return a.rows >= 1 && a.channels >= 8 && a.channels % 8 == 0 && a.channels <= MOST_CHANNELS &&
           a.rows <= INT64_MAX / 64 / (a.channels / 8) &&
           (a.activation == ACTIVATION_SILU || activation_clamp(a.activation, &low, &high));
}

bool images_known(const bias_act_args &a)
{
    return a.rows_per_image >= 1 && a.rows % a.rows_per_image == 0;
}

cudaError_t launch_sums(const bias_act_args &args, cudaStream_t stream)
{
    const sum_shape shape = choose_sums(args.rows_per_image, args.channels / 8);
    const int64_t blocks = args.rows / args.rows_per_image * shape.parts * shape.groups;
    if (blocks >= int64_t{1} << 31) return cudaErrorInvalidValue;
    return launch_overlapping(args.silu ? bias_act_sums<true> : bias_act_sums<false>,
                              static_cast<unsigned>(blocks), THREADS, 0, stream, args, shape);
}

} // namespace

int bias_act_sum_parts(const bias_act_args *args)
{
    return known(*args) && images_known(*args) ? choose_sums(args->rows_per_image, args->channels / 8).parts
                                               : 0;
}

cudaError_t bias_act_launch(const bias_act_args *args, cudaStream_t stream)
{
    if (!known(*args) || (args->sums && !images_known(*args))) return cudaErrorInvalidValue;
    bias_act_args filled = *args;
    filled.silu = args->activation == ACTIVATION_SILU;
    activation_clamp(args->activation, &filled.output_min, &filled.output_max);
    if (filled.sums) return launch_sums(filled, stream);
    const int row = args->channels / 8;
    const int64_t count = args->rows * row;
    return launch_overlapping(filled.silu ? bias_act_kernel<true> : bias_act_kernel<false>,
                              static_cast<unsigned>(choose_blocks(count, row)), THREADS, 0, stream, filled,
                              count);
}
