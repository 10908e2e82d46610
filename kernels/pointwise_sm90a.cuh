/* What the pointwise kernels for sm_90a share: a block of two consumer warpgroups and a producer, rings of
 * shared memory, and the way from accumulators to staged fp16 rows. R is a kernel's tile: columns BN, in
 * PARTS wgmma instructions of PART columns each. */
#ifndef EFFNET_KERNELS_POINTWISE_SM90A_CUH
#define EFFNET_KERNELS_POINTWISE_SM90A_CUH

#include "cursor.cuh"
#include "pointwise_common.cuh"

namespace pointwise
{

constexpr int ROWS = 64;     /* of a warpgroup's part of a tile */
constexpr int CONSUMERS = 2; /* warpgroups */
constexpr int PRODUCER_REGISTERS = 24;
constexpr int SHARED_MAX = 227 * 1024; /* of a multiprocessor; the driver takes 1 KB more for each block */
constexpr int BARRIERS_BYTES = 256;

/* Sums start from the bias: columns n0.. of `bias`, which has n. */
template <class R>
__device__ __forceinline__ void start_accumulators(float (&acc)[R::PARTS][R::PART / 2], const float *bias,
                                                   int n0, int n)
{
#pragma unroll
    for (int j = 0; j < R::BN / 8; j++) {
        const int column = n0 + 8 * j + 2 * (threadIdx.x % 4);
        float *d = &acc[j / (R::PART / 8)][j % (R::PART / 8) * 4];
        const float2 b = column < n ? *reinterpret_cast<const float2 *>(bias + column)
                                    : make_float2(0.0f, 0.0f);
        d[0] = d[2] = b.x, d[1] = d[3] = b.y;
#pragma unroll
        for (int i = 0; i < 4; i++) ptx::own_register(d[i]);
    }
}

/* Two neighbouring columns of a row, finished. */
__device__ __forceinline__ uint32_t finish_pair(float x, float y, uint32_t residual, __half2 low,
                                                __half2 high)
{
    const float2 r = __half22float2(as_half2(residual));
    return as_bits(__hmin2_nan(__hmax2_nan(__floats2half2_rn(x + r.x, y + r.y), low), high));
}

/* The accumulators to a staging buffer; with RESIDUAL what is there is added first. */
template <class R, bool RESIDUAL>
__device__ __forceinline__ void stage_output(const float (&acc)[R::PARTS][R::PART / 2],
                                             const pointwise_args &args, uint32_t buffer)
{
    const int lane = threadIdx.x & 31, row0 = threadIdx.x / 32 % 4 * 16;
    const __half2 low = __float2half2_rn(args.output_min), high = __float2half2_rn(args.output_max);
    constexpr int FRAGMENTS = R::BN / 8, PER_PART = R::PART / 8;
#pragma unroll
    for (int j = 0; j + 1 < FRAGMENTS; j += 2) {
        const uint32_t address = buffer + (row0 + lane % 16) * R::BN * 2 + (8 * j + lane / 16 * 8) * 2;
        uint32_t r[4] = {0, 0, 0, 0};
        if constexpr (RESIDUAL) ptx::ldmatrix_x4(r, address);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int fragment = j + i / 2, part = fragment / PER_PART,
                      f = fragment % PER_PART * 4 + i % 2 * 2;
            r[i] = finish_pair(acc[part][f], acc[part][f + 1], r[i], low, high);
        }
        ptx::stmatrix_x4(address, r);
    }
    if constexpr (FRAGMENTS % 2) { /* the last fragment, a pair of columns a lane */
        constexpr int f = (PER_PART - 1) * 4;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t address = buffer + (row0 + lane / 4 + 8 * h) * R::BN * 2 +
                                     (8 * (FRAGMENTS - 1) + lane % 4 * 2) * 2;
            uint32_t r = RESIDUAL ? ptx::load_shared(address) : 0;
            r = finish_pair(acc[R::PARTS - 1][f + 2 * h], acc[R::PARTS - 1][f + 2 * h + 1], r, low, high);
            ptx::store_shared(address, r);
        }
    }
}

} // namespace pointwise

#endif
