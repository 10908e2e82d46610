/* What the linear kernels share: the epilogue, the storing of a warp's results, the lists of configurations.
 */
#ifndef EFFNET_KERNELS_LINEAR_COMMON_CUH
#define EFFNET_KERNELS_LINEAR_COMMON_CUH

#include "device.cuh"
#include "epilogue.cuh"
#include "kernel_config.cuh"
#include "linear.h"
#include "ptx.cuh"

namespace linear
{

using epilogue::activate;
using epilogue::activate_any;
using epilogue::for_activation;

/* How x and w are read: COPY, both fp16, in 16-byte pieces; CONVERT, the same with x fp32; GENERAL, by
 * element, any alignment and k. */
enum mode { COPY, CONVERT, GENERAL };

/* Each in its own file. */
extern const kernel_config mma_configs[];
extern const kernel_config small_configs[];
extern const kernel_config split_configs[];
extern const kernel_config wgmma_configs[];

__host__ __device__ inline int element_bytes(int type)
{
    return type == LINEAR_FP16 ? 2 : 4;
}

/* Whether 16-byte accesses reach every row, of elements of `bytes`. */
inline bool rows_aligned(const void *base, int64_t ld, int bytes)
{
    return reinterpret_cast<uintptr_t>(base) % 16 == 0 && ld * bytes % 16 == 0;
}

/* Whether x and w can be read in 16-byte pieces that lie inside their rows. */
inline bool inputs_aligned(const linear_args &a)
{
    return a.k % 8 == 0 && rows_aligned(a.x, a.ldx, element_bytes(a.x_type)) && rows_aligned(a.w, a.ldw, 2);
}

inline mode mode_of(const linear_args &a)
{
    return !inputs_aligned(a) ? GENERAL : a.x_type == LINEAR_FP32 ? CONVERT : COPY;
}

/* Whether y can be stored `count` neighbouring columns at once, from a multiple of `count` on. */
inline bool stores_together(const linear_args &a, int count)
{
    return reinterpret_cast<uintptr_t>(a.y) % (count * element_bytes(a.y_type)) == 0 && a.ldy % count == 0 &&
           a.n % count == 0;
}

__host__ __device__ inline int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Scale and shift of column j, of nothing past n. Not by __ldg, which may be moved ahead of grid_wait. */
__device__ __forceinline__ float2 column_parameters(const linear_args &args, int j)
{
    float2 p = make_float2(1.0f, 0.0f);
    if (j < static_cast<int>(args.n)) {
        if (args.scale) p.x = args.scale[j];
        if (args.shift) p.y = args.shift[j];
    }
    return p;
}

/* The first `count` of eight elements from `offset` on as fp16, zeros after them. Any alignment. */
__device__ __forceinline__ uint4 load_piece(const void *base, int type, int64_t offset, int64_t count)
{
    union {
        uint4 word;
        __half h[8];
    } v;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v.h[i] = __ushort_as_half(0);
        if (i < count)
            v.h[i] = type == LINEAR_FP16 ? static_cast<const __half *>(base)[offset + i]
                                         : __float2half_rn(static_cast<const float *>(base)[offset + i]);
    }
    return v.word;
}

/* Four floats as fp16. */
__device__ __forceinline__ uint2 round_four(float4 v)
{
    union {
        uint2 word;
        __half2 pair[2];
    } r;
    r.pair[0] = __floats2half2_rn(v.x, v.y);
    r.pair[1] = __floats2half2_rn(v.z, v.w);
    return r.word;
}

/* Eight floats as fp16. */
__device__ __forceinline__ uint4 round_piece(float4 low, float4 high)
{
    const uint2 a = round_four(low), b = round_four(high);
    return make_uint4(a.x, a.y, b.x, b.y);
}

/* One element out, rounded to nearest. */
__device__ __forceinline__ void store_one(const linear_args &args, int64_t row, int64_t column, float value)
{
    if (args.y_type == LINEAR_FP32)
        static_cast<float *>(args.y)[row * args.ldy + column] = value;
    else
        static_cast<__half *>(args.y)[row * args.ldy + column] = __float2half_rn(value);
}

/* Scale and shift of the four columns that a lane finishes (finish_rows). */
struct lane_parameters {
    float2 p[4];
    __device__ __forceinline__ lane_parameters(const linear_args &args, int column0)
    {
#pragma unroll
        for (int i = 0; i < 4; i++) p[i] = column_parameters(args, column0 + threadIdx.x % 8 * 4 + i);
    }
};

/* finish_rows for one activation. A lane takes four columns of every fourth row, so it loads their
 * parameters once, and the warp stores whole 128-byte (fp16: 64-byte) pieces of rows. */
template <int ACTIVATION, class Sums>
__device__ __forceinline__ void finish_rows_as(const linear_args &args, const lane_parameters &columns,
                                               const Sums &sums, int rows, int64_t row0, int64_t column0,
                                               bool aligned)
{
    const int lane = threadIdx.x & 31, c = lane % 8 * 4;
    const int64_t column = column0 + c;
    const float2 *p = columns.p;
#pragma unroll 2
    for (int r = lane / 8; r < rows; r += 4) {
        if (row0 + r >= args.m) break;
        const float4 v = sums(r, c);
        const float out[4] = {
            activate<ACTIVATION>(fmaf(v.x, p[0].x, p[0].y)), activate<ACTIVATION>(fmaf(v.y, p[1].x, p[1].y)),
            activate<ACTIVATION>(fmaf(v.z, p[2].x, p[2].y)), activate<ACTIVATION>(fmaf(v.w, p[3].x, p[3].y))};
        if (aligned && column + 4 <= args.n) {
            const int64_t offset = (row0 + r) * args.ldy + column;
            const float4 four = make_float4(out[0], out[1], out[2], out[3]);
            if (args.y_type == LINEAR_FP32)
                *reinterpret_cast<float4 *>(static_cast<float *>(args.y) + offset) = four;
            else
                *reinterpret_cast<uint2 *>(static_cast<__half *>(args.y) + offset) = round_four(four);
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (column + i < args.n) store_one(args, row0 + r, column + i, out[i]);
        }
    }
}

/* Epilogue and store, by a warp, of `rows` x 32 sums, row0 and column0 on. sums(r, c) gives those at row r
 * and columns c to c + 3. aligned: rows_aligned holds for y. */
template <class Sums>
__device__ __forceinline__ void finish_rows(const linear_args &args, const lane_parameters &columns,
                                            const Sums &sums, int rows, int64_t row0, int64_t column0,
                                            bool aligned)
{
    for_activation<ACTIVATION_TANH>(args.activation, [&](auto a) {
        finish_rows_as<decltype(a)::value>(args, columns, sums, rows, row0, column0, aligned);
    });
}

} // namespace linear

#endif
