/* mbconv for small maps (mbconv_maps_sm90a.cu): warpgroups that make d, a unit of hidden channels at a time.
 */
#ifndef EFFNET_KERNELS_MBCONV_MAPS_PRODUCER_CUH
#define EFFNET_KERNELS_MBCONV_MAPS_PRODUCER_CUH

#include "mbconv_maps.cuh"
#include "swizzle.cuh"

#include <cuda_fp16.h>

namespace mbconv::maps
{

/* What a thread of a producer holds: rows g and g + 8 of its warp's. */
template <class P> struct unit {
    uint32_t expand[P::IN / 2][4]; /* the weights of expand */
    float sums[P::LIVE][2][P::OUTS];
    uint32_t taps; /* of row g; those of row g + 8 are 8 channels further on */
    uint32_t d;    /* its place in d's first row, of row g */

    __device__ __forceinline__ uint32_t channel(int c) const { return taps + c * 8 * P::CHANNEL_BYTES; }
    __device__ __forceinline__ float expand_bias(int c) const
    {
        return __uint_as_float(ptx::load_shared(channel(c) + P::K * P::K * 4));
    }
    __device__ __forceinline__ float depthwise_bias(int c) const
    {
        return __uint_as_float(ptx::load_shared(channel(c) + P::K * P::K * 4 + 4));
    }
};

template <class P>
__device__ __forceinline__ void load_expand(uint32_t (&expand)[P::IN / 2][4], const mbconv_args &args,
                                            int group)
{
    const uint4 *from = static_cast<const uint4 *>(args.weights) + group * (P::IN / 2) * 32 + lane_here();
#pragma unroll
    for (int k = 0; k < P::IN / 2; k++) {
        const uint4 v = __ldg(from + k * 32);
        expand[k][0] = v.x, expand[k][1] = v.y, expand[k][2] = v.z, expand[k][3] = v.w;
    }
}

/* A warp's part of the section `channels`. */
template <class P>
__device__ __forceinline__ void load_taps(uint32_t to, const mbconv_args &args, const sections &in, int group)
{
    const char *from = static_cast<const char *>(args.weights) + in.channels + group * P::WARP_BYTES;
#pragma unroll
    for (int i = lane_here(); i < P::WARP_BYTES / 16; i += 32)
        ptx::cp_async_16(to + 16 * i, from + 16 * i, true);
}

/* A warp's weights of project. In the packed form an output has 32 bytes; wgmma takes them in a swizzle. */
template <class P>
__device__ __forceinline__ void load_project(uint32_t to, const mbconv_args &args, const sections &in,
                                             int group, int part)
{
    const uint32_t lane = lane_here();
    const char *from = static_cast<const char *>(args.weights) + in.project +
                       group * P::PARTS * P::WARP_P_BYTES + part * P::PART_P_BYTES + 16 * lane;
    to += swizzle<K16_BYTES>::offset(lane / 2, lane % 2);
#pragma unroll
    for (int low = 0; low <= P::TWO_PARTS; low++)
#pragma unroll
        for (int i = 0; i < P::OUT / 2; i++)
            ptx::cp_async_16(to + low * P::PART_P_BYTES + 512 * i,
                             from + low * P::PARTS * P::PART_P_BYTES + 512 * i, true);
}

/* COUNT rows of h, from wgmma's descriptor of their x: v[row][channel][pixel]. `last`: the most that the last
 * pixel can be: 0 outside of the map. INSIDE: whether the rows are inside for certain. */
template <class P, int COUNT, bool INSIDE>
__device__ __forceinline__ void expand_rows(float (&v)[2][2][P::PX], const unit<P> &u, uint64_t x, float most,
                                            float last, bool inside)
{
    float d[8 * COUNT];
    const float bias[2] = {u.expand_bias(0), u.expand_bias(1)};
#pragma unroll
    for (int i = 0; i < 8 * COUNT; i++) {
        d[i] = bias[i / 2 % 2];
        ptx::own_register(d[i]);
    }
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < P::IN / 2; k++) ptx::wgmma_f16_add(d, u.expand[k], x + k * (2 * 128 >> 4));
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < 8 * COUNT; i++) ptx::wgmma_touch(d[i]);
#pragma unroll
    for (int i = 0; i < 8 * COUNT; i++) {
        const int row = i / 8, pixel = i / 4 % 2 * 2 + i % 2;
        float bound = P::EDGE == 0 || pixel < P::PX - 1 ? most : last;
        if (!INSIDE && row == COUNT - 1) bound = inside ? bound : 0.0f;
        v[row][i / 2 % 2][pixel] = ptx::min_nan(ptx::max_nan(d[i], 0.0f), bound);
    }
}

/* A row of a channel with the pixels on either side, which are the neighbouring threads'; outside zeros. */
template <class P>
__device__ __forceinline__ void with_sides(float (&wide)[P::PAD + P::PX + P::RIGHT], const float (&v)[P::PX])
{
    const int t = threadIdx.x % P::LANES;
#pragma unroll
    for (int i = 0; i < P::PX; i++) wide[P::PAD + i] = v[i];
#pragma unroll
    for (int i = 0; i < P::PAD; i++) {
        const float left = __shfl_up_sync(0xffffffffu, v[P::PX - P::PAD + i], 1, 4);
        wide[i] = t == 0 ? 0.0f : left;
    }
#pragma unroll
    for (int i = 0; i < P::RIGHT; i++) {
        const float right = __shfl_down_sync(0xffffffffu, v[i], 1, 4);
        wide[P::PAD + P::PX + i] = t == P::LANES - 1 ? 0.0f : right;
    }
}

/* Adds COUNT rows of pair Q to the sums that they reach. An output's first tap starts from the bias. Its taps
 * are added in their order. */
template <class P, int Q, int COUNT>
__device__ __forceinline__ void add_rows(unit<P> &u, const float (&v)[2][2][P::PX])
{
#pragma unroll
    for (int c = 0; c < 2; c++) {
        float wide[COUNT][P::PAD + P::PX + P::RIGHT];
        uint4 taps = {};
        const float bias = u.depthwise_bias(c);
#pragma unroll
        for (int i = 0; i < COUNT; i++) with_sides<P>(wide[i], v[i][c]);
#pragma unroll
        for (int tap = 0; tap < P::K * P::K; tap++) {
            const int dy = tap / P::K, dx = tap % P::K;
            if (tap % 4 == 0) taps = ptx::load_shared_uint4(u.channel(c) + tap * 4);
            const float weight = __uint_as_float(tap % 4 == 0   ? taps.x
                                                 : tap % 4 == 1 ? taps.y
                                                 : tap % 4 == 2 ? taps.z
                                                                : taps.w);
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                const int row = 2 * Q + i, scaled = row + P::PAD - dy; /* S times the output */
                if (scaled < 0 || scaled % P::S || scaled / P::S >= P::OUT_ROWS) continue;
                float(&sums)[P::OUTS] = u.sums[scaled / P::S - P::FIRST - Q * P::SHIFT][c];
                const bool start = dx == 0 && (dy == 0 || row == 0);
#pragma unroll
                for (int o = 0; o < P::OUTS; o++)
                    sums[o] = fmaf(wide[i][o * P::S + dx], weight, start ? bias : sums[o]);
            }
        }
    }
}

/* Row `row` of d, from finished sums. */
template <class P>
__device__ __forceinline__ void store_row(const unit<P> &u, const float (&sums)[2][P::OUTS], int row,
                                          __half2 most)
{
    const int offset = row * P::OUT_WIDTH * 2;
#pragma unroll
    for (int c = 0; c < 2; c++) {
        /* row g + 8 lies two rows of 128 bytes on */
        const uint32_t to = (ptx::kept(u.d) ^ (offset & 127) ^ c * 32) + (offset >> 7) * P::BLOCK_BYTES +
                            c * 2 * 128;
        uint32_t d[P::OUTS / 2];
#pragma unroll
        for (int i = 0; i < P::OUTS / 2; i++) {
            const uint32_t pair = ptx::relu_half2(sums[c][2 * i], sums[c][2 * i + 1]);
            const __half2 clamped = __hmin2_nan(*reinterpret_cast<const __half2 *>(&pair), most);
            d[i] = *reinterpret_cast<const uint32_t *>(&clamped);
        }
        if constexpr (P::OUTS == 2)
            ptx::store_shared(to, d[0]);
        else
            ptx::store_shared(to, d);
    }
}

/* The bounds of a thread's pixels. */
struct bounds {
    float most, last;
    __half2 d_most;
    bool last_row; /* whether row ROWS - 1 is in the map */
};

/* Pair Q, or one like it: `pair`. between(): what is to be done after the last use of expand's weights. */
template <class P, int Q, class Between>
__device__ __forceinline__ void walk_pair(unit<P> &u, int pair, uint64_t x, const bounds &most,
                                          const Between &between)
{
    constexpr bool LAST = Q == P::PAIRS - 1;
    constexpr int COUNT = LAST && P::ROWS % 2 ? 1 : 2;
    float v[2][2][P::PX];
    expand_rows<P, COUNT, !LAST>(v, u, x + pair * (4 * P::TILE_BYTES >> 4), most.most, most.last,
                                 most.last_row);
    between();
    add_rows<P, Q, COUNT>(u, v);
#pragma unroll
    for (int i = 0; i < (LAST ? P::LIVE : P::SHIFT); i++) {
        const int like = i + P::FIRST + Q * P::SHIFT;
        if (like >= 0 && like < P::OUT_ROWS)
            store_row<P>(u, u.sums[i], like + (pair - Q) * P::SHIFT, most.d_most);
    }
#pragma unroll
    for (int i = 0; i + P::SHIFT < P::LIVE; i++)
#pragma unroll
        for (int c = 0; c < 2; c++)
#pragma unroll
            for (int o = 0; o < P::OUTS; o++) u.sums[i][c][o] = u.sums[i + P::SHIFT][c][o];
}

/* Pairs from Q on, one after the other. */
template <class P, int Q, class Between>
__device__ __forceinline__ void walk_end(unit<P> &u, uint64_t x, const bounds &most, const Between &between)
{
    if constexpr (Q == P::PAIRS - 1) {
        walk_pair<P, Q>(u, Q, x, most, between);
    } else {
        walk_pair<P, Q>(u, Q, x, most, [] {});
        walk_end<P, Q + 1>(u, x, most, between);
    }
}

/* wgmma's descriptor of the K-major x at `x`, without a swizzle: pieces of 8 columns x 8 channels. */
template <class P> __device__ __forceinline__ uint64_t x_descriptor(uint32_t x)
{
    return uint64_t{P::TILE_BYTES >> 4} << 32 | uint64_t{128 >> 4} << 16 | (x & 0x3ffff) >> 4;
}

/* Where channel g's pixels of a thread lie in the d of its warp. */
template <class P> __device__ __forceinline__ uint32_t place_d(uint32_t d, int lane)
{
    const int plane = plane_of(lane / 4), t = lane % 4;
    const int k = plane / 2 * 4 + plane % 2; /* as the packed weights have it; that of g + 8 is k + 2 */
    return d + t / P::LANES * P::BLOCK_BYTES + k * 128 + ((t % P::LANES * P::OUTS * 2) ^ (k % 8 * 16));
}

/* A unit of a tile. */
struct place {
    int tile, unit;

    __device__ __forceinline__ place(int unit_, int units) : tile(0), unit(unit_)
    {
        while (unit >= units) unit -= units, tile++;
    }
    __device__ __forceinline__ place after(int steps, int units) const
    {
        place next(unit + steps, units);
        next.tile += tile;
        return next;
    }
};

template <class P>
__device__ __forceinline__ void produce(const mbconv_args &args, const layout<P> &shared, int producer)
{
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32 % UNIT_WARPS, 0), lane = threadIdx.x % 32;
    const work<P> work(args);
    const sections in(P::IN, work.warps, P::OUT * P::PARTS, P::K, P::TWO_PARTS);
    const uint32_t taps = shared.taps(producer * UNIT_WARPS + warp);
    const bounds most = {args.expand_max,
                         lane % P::LANES * P::PX + P::PX - 1 < args.width ? args.expand_max : 0.0f,
                         __float2half2_rn(args.depthwise_max), P::ROWS - 1 < args.height};
    place at = place(producer, work.units);
    if (at.tile >= work.tiles) return;

    unit<P> u;
    u.d = place_d<P>(shared.d(producer) + warp * P::BLOCKS * P::BLOCK_BYTES, lane);
    load_expand<P>(u.expand, args, work.group(at.unit, warp));
    load_taps<P>(taps, args, in, work.group(at.unit, warp));
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    __syncwarp();
    int turn = 0, first = 1;
#pragma unroll 1
    while (at.tile < work.tiles) {
        const place next = at.after(P::PRODUCERS, work.units);
        const int next_group = work.group(next.tile < work.tiles ? next.unit : 0, warp);
        load_taps<P>(taps + (turn ^ 1) * P::WARP_BYTES, args, in, next_group);
        ptx::cp_async_commit();
        u.taps = taps + turn * P::WARP_BYTES + lane_here() / 4 * P::CHANNEL_BYTES;
        ptx::mbarrier_wait(shared.x_full(at.tile % P::X_BUFFERS), at.tile / P::X_BUFFERS % 2);
        const uint64_t x = x_descriptor<P>(shared.x(at.tile % P::X_BUFFERS));
        walk_pair<P, 0>(u, 0, x, most, [&] {
            if (!first) ptx::mbarrier_wait(shared.empty(producer), turn ^ 1);
            load_project<P>(shared.weights(producer) + warp * P::WARP_P_BYTES, args, in,
                            work.group(at.unit, warp), work.part(at.tile));
            ptx::cp_async_commit();
        });
#pragma unroll 1
        for (int pair = 1; pair < P::MIDDLE_END; pair++) walk_pair<P, 1>(u, pair, x, most, [] {});
        walk_end<P, P::MIDDLE_END>(u, x, most, [&] { load_expand<P>(u.expand, args, next_group); });
        ptx::cp_async_wait<0>();
        ptx::fence_proxy_async();
        arrive_warp(shared.full(producer));
        at = next;
        turn ^= 1, first = 0;
    }
}

} // namespace mbconv::maps

#endif
