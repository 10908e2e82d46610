/* What the pointwise kernels share: prologue, epilogue, and the lists of configurations. */
#ifndef EFFNET_KERNELS_POINTWISE_COMMON_CUH
#define EFFNET_KERNELS_POINTWISE_COMMON_CUH

#include "device.cuh"
#include "epilogue.cuh"
#include "kernel_config.cuh"
#include "launch.cuh"
#include "pointwise.h"
#include "ptx.cuh"

inline pointwise_args for_kernel(pointwise_args args)
{
    float low;
    const bool silu = args.activation == ACTIVATION_SILU;
    activation_clamp(silu ? ACTIVATION_NONE : args.activation, &args.output_min, &args.output_max);
    args.silu = silu;
    if (args.input_bias) activation_clamp(args.input_activation, &low, &args.input_max);
    if (args.gate) {
        const uint64_t rows = static_cast<uint64_t>(args.gate_rows);
        uint32_t shift = 0;
        while (uint64_t{1} << shift < rows) shift++;
        args.gate_multiplier = static_cast<uint32_t>(((uint64_t{1} << 31 << shift) + rows - 1) / rows);
        args.gate_shift = shift;
    }
    return args;
}

namespace pointwise
{

using epilogue::clamp;

/* Whether a tile of so many columns is worth trying for n of them: with more than half unused it is never the
 * fastest. The narrowest tiles take what no other does. */
inline bool fills_tile(int n, int columns)
{
    constexpr int NARROWEST = 16;
    return n * 2 > columns || columns <= NARROWEST;
}

/* The tiles of a launch, across first: `groups` x `rows` rows of x each, or `groups` images where an image's
 * rows are pooled, and so many columns. */
struct tiles {
    int rows, across, count;

    __host__ __device__ __forceinline__ tiles(const pointwise_args &args, int tile_rows, int columns,
                                              int groups = 1)
        : rows(args.pool_rows ? args.pool_rows : tile_rows), across((args.n + columns - 1) / columns),
          count((args.m + groups * rows - 1) / (groups * rows) * across)
    {
    }
};

/* What an instance of a kernel computes beside the plain sums. GATE or SILU: with a residual or without,
 * which is looked at, and GATE with SiLU or without; both as finish_sums has it. */
enum ways { PLAIN = 0, RESIDUAL = 1, LOW = 2, GATE = 4, SILU = 8 };

/* Each in its own file. */
extern const kernel_config tiled_configs[];
extern const kernel_config direct_configs[];
extern const kernel_config wgmma_configs[];
extern const kernel_config resident_configs[];

__device__ __forceinline__ uint32_t as_bits(__half2 value)
{
    return *reinterpret_cast<uint32_t *>(&value);
}

__device__ __forceinline__ __half2 as_half2(uint32_t bits)
{
    return *reinterpret_cast<__half2 *>(&bits);
}

/* input_bias for a kernel's shared memory: high, then low parts, each padded with zeros to `padded` channels.
 */
__device__ __forceinline__ void load_input_bias(uint32_t *shared, const pointwise_args &args, int padded,
                                                int threads)
{
    for (int i = threadIdx.x; i < padded; i += threads) { /* two channels a word, two parts */
        const int part = i >= padded / 2, pair = i - part * padded / 2;
        shared[i] = 2 * pair < args.k
                        ? static_cast<const uint32_t *>(args.input_bias)[part * args.k / 2 + pair]
                        : 0;
    }
}

/* The prologue on two neighbouring channels. */
__device__ __forceinline__ uint32_t bias_and_clamp(uint32_t x, uint32_t bias, uint32_t bias_low,
                                                   __half2 maximum)
{
    const __half2 sum = __hadd2(__hadd2(as_half2(x), as_half2(bias)), as_half2(bias_low));
    return as_bits(clamp(sum, __float2half2_rn(0.0f), maximum));
}

/* The gate of a row's image, from channel k on. The multiplication is row / gate_rows, exact for any int:
 * the multiplier, 2^(31 + shift) / gate_rows rounded up, is off by less than 1, and 2^shift >= gate_rows. */
__device__ __forceinline__ const __half *gate_of(const pointwise_args &args, int row, int k)
{
    const uint32_t image = __umulhi(2 * static_cast<uint32_t>(row), args.gate_multiplier) >> args.gate_shift;
    return static_cast<const __half *>(args.gate) + static_cast<size_t>(image) * args.k + k;
}

/* A warp's rows, from `first` on; there are none from `end` on, nor perhaps an image. */
struct gated_rows {
    int first, end;
    bool together; /* in one image: the same for the whole warp */

    __device__ __forceinline__ gated_rows(const pointwise_args &args, int first_row, int rows, int row_end)
        : first(first_row), end(row_end)
    {
        together = gate_of(args, min(first, end - 1), 0) == gate_of(args, min(first + rows, end) - 1, 0);
    }
};

/* The gate on two neighbouring channels. */
__device__ __forceinline__ uint32_t multiply(uint32_t x, uint32_t gate)
{
    return as_bits(__hmul2(as_half2(x), as_half2(gate)));
}

/* The gate on fragments of x for 16 channels from k on, of MT x 16 rows. Channels past args.k are zeros, and
 * stay. The rows' places in the gate are worked out each time: kept, they would cost a register each. */
template <int MT>
__device__ __forceinline__ void gate_fragments(uint32_t (&a)[MT][4], const pointwise_args &args,
                                               const gated_rows &rows, int k)
{
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int first_row = static_cast<int>(ptx::kept(rows.first));
    const bool second_ok = k + 8 < args.k;
    if (rows.together) {
        const int row = min(first_row, rows.end - 1);
        const uint32_t *gate = reinterpret_cast<const uint32_t *>(gate_of(args, row, k + 2 * t));
        const uint32_t first = gate[0], second = second_ok ? gate[4] : 0;
#pragma unroll
        for (int i = 0; i < MT; i++) {
            a[i][0] = multiply(a[i][0], first);
            a[i][1] = multiply(a[i][1], first);
            a[i][2] = multiply(a[i][2], second);
            a[i][3] = multiply(a[i][3], second);
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = first_row + 16 * i + 8 * h + g;
            if (row >= rows.end) continue;
            const uint32_t *gate = reinterpret_cast<const uint32_t *>(gate_of(args, row, k + 2 * t));
            a[i][h] = multiply(a[i][h], gate[0]);
            a[i][2 + h] = multiply(a[i][2 + h], second_ok ? gate[4] : 0);
        }
}

/* Transposes a 4x4 matrix of words over the four lanes of a quad: afterwards word j of lane i is what word
 * i of lane j was. */
__device__ __forceinline__ void transpose_quad(uint32_t (&u)[4])
{
    const unsigned all = 0xffffffffu;
    const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
    uint32_t a = __shfl_xor_sync(all, odd ? u[0] : u[1], 1);
    uint32_t b = __shfl_xor_sync(all, odd ? u[2] : u[3], 1);
    if (odd)
        u[0] = a, u[2] = b;
    else
        u[1] = a, u[3] = b;
    a = __shfl_xor_sync(all, upper ? u[0] : u[2], 2);
    b = __shfl_xor_sync(all, upper ? u[1] : u[3], 2);
    if (upper)
        u[0] = a, u[1] = b;
    else
        u[2] = a, u[3] = b;
}

/* Sums start from the bias, so that the epilogue need not add it. */
template <int MT, int NT>
__device__ __forceinline__ void start_from_bias(float (&acc)[MT][NT][4], const pointwise_args &args, int n0)
{
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int j = 0; j < NT; j++) {
        const int column = n0 + 8 * j + 2 * t;
        float2 bias = make_float2(0.0f, 0.0f);
        if (column < args.n) bias = __ldg(reinterpret_cast<const float2 *>(args.bias + column));
#pragma unroll
        for (int i = 0; i < MT; i++)
            acc[i][j][0] = acc[i][j][2] = bias.x, acc[i][j][1] = acc[i][j][3] = bias.y;
    }
}

/* What a kernel that is not made for a residual does to a warp's sums before their epilogue. A residual comes
 * here with a gate, or with SiLU (which no network of ours has), and is read in the fragments' layout. After
 * SiLU the epilogue clamps to no bounds. */
template <int MT, int NT>
__device__ __forceinline__ void finish_sums(float (&acc)[MT][NT][4], const pointwise_args &args, int m0,
                                            int n0, int row_end)
{
    if (args.residual) {
        const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
        for (int i = 0; i < 2 * MT; i++)
#pragma unroll
            for (int j = 0; j < NT; j++) {
                const int row = m0 + 8 * i + g, column = n0 + 8 * j + 2 * t;
                if (row >= row_end || column >= args.n) continue;
                const float2 r = __half22float2(*reinterpret_cast<const __half2 *>(
                    static_cast<const __half *>(args.residual) + static_cast<size_t>(row) * args.n + column));
                acc[i / 2][j][i % 2 * 2] += r.x, acc[i / 2][j][i % 2 * 2 + 1] += r.y;
            }
    }
    if (!args.silu) return;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++) {
            epilogue::silu_pair(acc[i][j][0], acc[i][j][1]);
            epilogue::silu_pair(acc[i][j][2], acc[i][j][3]);
        }
}

/* The epilogue of a warp that holds MT x NT fragments (16 x 8 each) of rows m0.. and columns n0..: residual,
 * activation, and 16-byte stores. A fragment gives a lane two neighbouring columns, so four fragments are
 * transposed over the quad, which gives it eight. Rows at or past row_end are not stored. The clamp comes
 * after rounding, two values at once: its bounds are exact in fp16, so the result is the same. */
template <bool RESIDUAL, int MT, int NT>
__device__ __forceinline__ void store_fragments(const float (&acc)[MT][NT][4], const pointwise_args &args,
                                                int m0, int n0, int row_end)
{
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const __half *residual = static_cast<const __half *>(args.residual);
    __half *y = static_cast<__half *>(args.y);
    const __half2 low = __float2half2_rn(args.output_min), high = __float2half2_rn(args.output_max);
#pragma unroll
    for (int q = 0; q < NT; q += 4) {
        const int column = n0 + 8 * (q + t); /* that this lane stores */
        const bool column_ok = q + t < NT && column < args.n;
#pragma unroll
        for (int i = 0; i < 2 * MT; i++) {
            const int row = m0 + 8 * i + g;
            const bool ok = row < row_end && column_ok;
            const size_t offset = static_cast<size_t>(row) * args.n + column;
            uint32_t r[4] = {0, 0, 0, 0}, out[4];
            if constexpr (RESIDUAL) {
                if (ok) *reinterpret_cast<uint4 *>(r) = *reinterpret_cast<const uint4 *>(residual + offset);
                transpose_quad(r);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int f = q + j < NT ? q + j : 0; /* a dummy where NT is no multiple of 4 */
                float2 v = make_float2(acc[i / 2][f][2 * (i % 2)], acc[i / 2][f][2 * (i % 2) + 1]);
                if constexpr (RESIDUAL) {
                    const float2 added = __half22float2(as_half2(r[j]));
                    v.x += added.x, v.y += added.y;
                }
                out[j] = as_bits(clamp(__float22half2_rn(v), low, high));
            }
            transpose_quad(out);
            if (ok) *reinterpret_cast<uint4 *>(y + offset) = *reinterpret_cast<uint4 *>(out);
        }
    }
}

} // namespace pointwise

#endif
