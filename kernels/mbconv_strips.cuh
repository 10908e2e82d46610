/* mbconv, a strip of the map at a time (docs/mbconv.md).
 *
 * A block takes a strip of WIDTH columns of one image and walks down its rows; each warp computes 16 hidden
 * channels of it. A row of h never leaves a warp's registers: the expand MMA has channels as its rows and
 * pixels as its columns, which are dealt so that a thread gets PX neighbouring pixels of two channels; what
 * it lacks on either side two shuffles bring. The row is added at once to the sums of the outputs that it
 * reaches, SLOTS rows of them, in fp32. A row of d that is done goes to shared memory as planes, a plane a
 * channel.
 *
 * A group is PERIOD rows of h, which finish SLOTS rows of d. Projecting a group is a few jobs of 16 pixels
 * each, which the warps take in turns, and with them the fetching of x. Nobody waits for all: a warp with a
 * job waits until the group's d is there, and one that wants to write d until that place has been read. */
#ifndef EFFNET_KERNELS_MBCONV_STRIPS_CUH
#define EFFNET_KERNELS_MBCONV_STRIPS_CUH

#include "device.cuh"
#include "kernel_config.cuh"
#include "launch.cuh"
#include "mbconv_common.cuh"
#include "mbconv_weights.cuh"
#include "ptx.cuh"

#include <cuda_fp16.h>

namespace mbconv
{

/* How a map is cut: `strips` columns of blocks, `segments` rows of them. Strip i computes outputs from
 * i * outputs on, of h columns first(i) .. first(i) + width - 1. */
struct cut {
    int strips, outputs; /* the last strip may have fewer */
    int segments, rows;  /* output rows a segment; the last may have fewer */

    /* The strip's first column of h, a multiple of the stride: as far right as it can be, and no further than
     * `width` columns before the map's right edge. */
    __host__ __device__ static int first(const mbconv_args &args, int width, int outputs, int strip)
    {
        const int from = strip * outputs * args.stride - args.pad_left, edge = args.width - width;
        if (strip == 0 || from <= 0 || edge <= 0) return 0;
        return from < edge ? from - from % args.stride : edge + edge % args.stride;
    }
};

/* The fewest strips of `width` columns, each of which lacks no column that it needs. None: no strips. */
inline cut cut_of(const mbconv_args &args, int width)
{
    for (int strips = 1; strips <= args.out_width; strips++) {
        const int outputs = (args.out_width + strips - 1) / strips;
        bool good = (strips - 1) * outputs < args.out_width;
        for (int i = 0; i < strips && good; i++) {
            const int first = cut::first(args, width, outputs, i);
            const int end = (i + 1) * outputs < args.out_width ? (i + 1) * outputs : args.out_width;
            const int needed = (end - 1) * args.stride - args.pad_left +
                               args.kernel; /* columns before this */
            good = (first == 0 || first <= i * outputs * args.stride - args.pad_left) &&
                   (needed < args.width ? needed : args.width) <= first + width &&
                   end - first / args.stride <= width / args.stride;
        }
        if (good) return {strips, outputs, 1, args.out_height};
    }
    return {};
}

/* Where a block works. It lies in shared memory: registers are for sums. */
struct place {
    int image, first_column, first_row; /* of x */
    int out_column, out_begin, out_end; /* of the strip's first output place; of those that it computes */
    int out_row, out_rows;              /* of outputs */
};

/* IN, OUT: tiles of 8 channels of x and y. LEAD: pad_left. TILES: of 8 columns of h, a strip. WARPS: the
 * most; BLOCKS: how many of such blocks an SM is to hold; BUFFERS: of a group's d. LATE: whether a group's
 * jobs are done at the end of the next group's first row, and not at its own end. */
template <int IN_, int OUT_, int K_, int S_, int LEAD_, int TILES_, int WARPS_, int BLOCKS_, int BUFFERS_,
          bool LATE_>
struct strip {
    static constexpr int IN = IN_, OUT = OUT_, K = K_, S = S_, LEAD = LEAD_, TILES = TILES_, WARPS = WARPS_,
                         BLOCKS = BLOCKS_, BUFFERS = BUFFERS_;
    static constexpr bool LATE = LATE_;
    static constexpr int X_BUFFERS = LATE ? 3 : 2;
    static constexpr int WIDTH = 8 * TILES, OUT_WIDTH = WIDTH / S;    /* columns of h and of outputs */
    static constexpr int PX = 2 * TILES, OUTS = PX / S;               /* a thread's */
    static constexpr int RIGHT = K - S - LEAD > 0 ? K - S - LEAD : 0; /* columns that it needs beyond them */
    static constexpr int SLOTS = (K + S - 1) / S; /* rows of outputs that a row of h reaches, at most */
    static constexpr int PERIOD = SLOTS * S;
    static constexpr int PIXEL_BYTES = 16 *
                                       (IN + (IN % 2 == 0)); /* of x: odd times 16, against bank conflicts */
    static constexpr int X_BYTES = PERIOD * WIDTH * PIXEL_BYTES; /* a group's x */
    static constexpr int GROUP_PIXELS = SLOTS * OUT_WIDTH, JOBS = GROUP_PIXELS / 16;
    static constexpr int PLANE_BYTES = 2 * GROUP_PIXELS + (GROUP_PIXELS / 8 % 2 ? 0 : 16); /* odd times 16 */
    static constexpr bool EDGE = IN >= 5; /* whether columns of a strip may lie right of the image */
    static constexpr bool RESIDUAL = S == 1 && IN == OUT;              /* whether there can be one */
    static constexpr bool TAPS_SHARED = K == 5 || WARPS * BLOCKS > 16; /* registers do not hold them */
    static constexpr int CHANNEL_BYTES = 4 * channel_floats(K);
    static constexpr int BARRIER_BYTES = 8 * (2 * BUFFERS + X_BUFFERS + X_BUFFERS % 2);
    /* Shared memory: barriers, the block's place, x, weights, d. */
    static constexpr int X_AT = BARRIER_BYTES + static_cast<int>(sizeof(place)),
                         WEIGHTS_AT = X_AT + X_BUFFERS * X_BYTES;
    static_assert(X_AT % 16 == 0, "");
    static_assert(GROUP_PIXELS % 16 == 0 && (TILES == 2 || TILES == 4), "");

    __host__ __device__ static int weight_bytes(int warps, bool two_parts)
    {
        return static_cast<int>(sections(IN, warps, OUT, K, two_parts).bytes);
    }

    __host__ __device__ static int d_bytes(int warps) { return warps * CHANNELS * PLANE_BYTES; }

    __host__ __device__ static int shared_bytes(int warps, bool two_parts)
    {
        return WEIGHTS_AT + weight_bytes(warps, two_parts) + BUFFERS * d_bytes(warps);
    }
};

/* The columns of a strip as they lie in shared memory: n-tile after n-tile as the MMA counts, where column n
 * of tile j is PX * (n / 2) + 2 j + n % 2. */
template <class P> __device__ __forceinline__ int place_of(int column)
{
    return column % P::PX / 2 * 8 + column / P::PX * 2 + column % 2;
}

template <class P> __device__ __forceinline__ place place_block(const mbconv_args &args, const cut &cut)
{
    place at;
    int rest = blockIdx.x;
    const int strip = rest % cut.strips;
    rest /= cut.strips;
    const int segment = rest % cut.segments;
    at.image = rest / cut.segments;
    at.first_column = cut::first(args, P::WIDTH, cut.outputs, strip);
    at.out_column = at.first_column / P::S;
    at.out_begin = strip * cut.outputs;
    at.out_end = min(at.out_begin + cut.outputs, args.out_width);
    at.out_row = segment * cut.rows;
    at.out_rows = min(cut.rows, args.out_height - at.out_row);
    at.first_row = at.out_row * P::S - args.pad_top;
    return at;
}

/* What a thread fetches of a row of x: 8 channels of a column at a time. */
template <class P> struct loader {
    static constexpr int TOGETHER = 32 / P::WIDTH; /* times 8 channels */
    const __half *first;
    uint32_t to;
    bool inside;

    __device__ __forceinline__ loader(const mbconv_args &args, const place &at, int lane)
    {
        const int column = lane % P::WIDTH, k = lane / P::WIDTH;
        inside = at.first_column + column < args.width;
        first = static_cast<const __half *>(args.x) +
                (static_cast<size_t>(at.image) * args.height * args.width + at.first_column +
                 (inside ? column : 0)) *
                    args.in_channels +
                8 * k;
        to = place_of<P>(column) * P::PIXEL_BYTES + 16 * k;
    }

    /* Row `row`; zeros outside of the image. */
    __device__ __forceinline__ void load(uint32_t x, const mbconv_args &args, int row) const
    {
        const bool valid = inside && row >= 0 && row < args.height;
        const __half *source = first + static_cast<size_t>(valid ? row : 0) * args.width * args.in_channels;
#pragma unroll
        for (int k = 0; k < P::IN; k += TOGETHER)
            if (TOGETHER == 1 || k + static_cast<int>(threadIdx.x) % 32 / P::WIDTH < P::IN)
                ptx::cp_async_16(x + to + 16 * k, source + 8 * k, valid);
    }
};

/* A thread's part of the weights: rows g and g + 8 of its warp's MMAs. Addresses in shared memory. */
template <class P> struct weights {
    uint32_t expand, channel; /* of row g; that of row g + 8 is 8 channels further on */
    float taps[P::TAPS_SHARED ? 1 : 2][P::TAPS_SHARED ? 1 : P::K * P::K];

    __device__ __forceinline__ weights(uint32_t shared, const sections &in, int warp, int lane)
    {
        expand = shared + in.expand + (warp * ((P::IN + 1) / 2) * 32 + lane) * 16;
        channel = shared + in.channels + (warp * CHANNELS + lane / 4) * P::CHANNEL_BYTES;
        if constexpr (!P::TAPS_SHARED) {
#pragma unroll
            for (int c = 0; c < 2; c++)
#pragma unroll
                for (int i = 0; i < P::K * P::K; i++) taps[c][i] = load(c, i);
        }
    }

    __device__ __forceinline__ float load(int c, int i) const
    {
        return __uint_as_float(ptx::load_shared(channel + c * 8 * P::CHANNEL_BYTES + i * 4));
    }

    __device__ __forceinline__ float expand_bias(int c) const
    {
        return load(c, P::K * P::K);
    }
    __device__ __forceinline__ float depthwise_bias(int c) const
    {
        return load(c, P::K * P::K + 1);
    }
};

/* A lane's places in a row of x: for loads of two tiles of 8 channels of two tiles of 8 columns, and for
 * loads of one of as many columns as there are. */
template <class P> struct x_places {
    uint32_t pairs, last;

    __device__ __forceinline__ x_places(uint32_t x, int lane)
        : pairs(x + (lane / 16 * 8 + lane % 8) * P::PIXEL_BYTES + lane / 8 % 2 * 16),
          last(x + (lane / 8 % P::TILES * 8 + lane % 8) * P::PIXEL_BYTES + (P::IN - 1) * 16)
    {
    }
};

/* The row at byte `row` of x through expand: v[c][LEAD + i] is pixel i of the thread's, of channel g + 8 c.
 */
template <class P, int COUNT>
__device__ __forceinline__ void expand_row(float (&v)[2][COUNT], const x_places<P> &x, uint32_t row,
                                           const weights<P> &w, float most, int inside)
{
    float d[P::TILES][4], bias[4];
#pragma unroll
    for (int i = 0; i < 4; i++) bias[i] = w.expand_bias(i / 2);
#pragma unroll
    for (int k = 0; k + 1 < P::IN; k += 2) {
        const uint4 a = ptx::load_shared_uint4(w.expand + k / 2 * 32 * 16);
#pragma unroll
        for (int j = 0; j < P::TILES; j += 2) {
            uint32_t b[4];
            ptx::ldmatrix_x4(b, x.pairs + row + j * 8 * P::PIXEL_BYTES + k * 16);
            ptx::mma_m16n8k16_f16(d[j], a, b[0], b[1], k ? d[j] : bias);
            ptx::mma_m16n8k16_f16(d[j + 1], a, b[2], b[3], k ? d[j + 1] : bias);
        }
    }
    if constexpr (P::IN % 2) {
        const uint4 a = ptx::load_shared_uint4(w.expand + P::IN / 2 * 32 * 16);
        uint32_t b[4];
        ptx::ldmatrix_x4(b, x.last + row);
#pragma unroll
        for (int j = 0; j < P::TILES; j++) ptx::mma_m16n8k8_f16(d[j], a.x, a.y, b[j]);
    }
#pragma unroll
    for (int j = 0; j < P::TILES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float &value = v[i / 2][P::LEAD + 2 * j + i % 2];
            value = ptx::min_nan(ptx::max_nan(d[j][i], 0.0f), most);
            if (P::EDGE && j == P::TILES - 1 && 2 * j + i % 2 >= inside) value = 0;
        }
}

/* The pixels on either side, which are the neighbouring threads'; outside of the strip zeros. */
template <class P, int COUNT> __device__ __forceinline__ void fetch_sides(float (&v)[2][COUNT], int t)
{
#pragma unroll
    for (int c = 0; c < 2; c++) {
#pragma unroll
        for (int i = 0; i < P::LEAD; i++) {
            const float left = __shfl_up_sync(0xffffffffu, v[c][P::PX + i], 1, 4);
            v[c][i] = t == 0 ? 0.0f : left;
        }
#pragma unroll
        for (int i = 0; i < P::RIGHT; i++) {
            const float right = __shfl_down_sync(0xffffffffu, v[c][P::LEAD + i], 1, 4);
            v[c][P::LEAD + P::PX + i] = t == 3 ? 0.0f : right;
        }
    }
}

/* Adds row ROW of a group to the sums that it reaches, by the taps from FROM to before TO. The first of an
 * output's taps starts from the bias. */
template <class P, int ROW, int FROM, int TO, int COUNT>
__device__ __forceinline__ void add_row(float (&sums)[P::SLOTS][2][P::OUTS], const float (&v)[2][COUNT],
                                        const weights<P> &w)
{
#pragma unroll
    for (int c = 0; c < 2; c++) {
        uint4 taps = {};
        if (P::TAPS_SHARED) __syncwarp(); /* or else ptxas loads all taps ahead, and spills */
        const float bias = FROM == 0 && ROW % P::S == 0 ? w.depthwise_bias(c) : 0.0f;
#pragma unroll
        for (int tap = FROM; tap < TO; tap++) {
            const int dy = tap / P::K, dx = tap % P::K;
            if constexpr (P::TAPS_SHARED) {
                if (tap % 4 == 0 || tap == FROM)
                    taps = ptx::load_shared_uint4(w.channel + c * 8 * P::CHANNEL_BYTES + tap / 4 * 16);
            }
            if ((ROW + P::PERIOD - dy) % P::S) continue;
            const int slot = (ROW + P::PERIOD - dy) / P::S % P::SLOTS;
            float weight;
            if constexpr (P::TAPS_SHARED)
                weight = __uint_as_float(tap % 4 == 0   ? taps.x
                                         : tap % 4 == 1 ? taps.y
                                         : tap % 4 == 2 ? taps.z
                                                        : taps.w);
            else
                weight = w.taps[c][tap];
#pragma unroll
            for (int i = 0; i < P::OUTS; i++)
                sums[slot][c][i] = fmaf(v[c][i * P::S + dx], weight, tap ? sums[slot][c][i] : bias);
        }
    }
}

/* A finished row's outputs, to the planes of their channels at `to`. */
template <class P>
__device__ __forceinline__ void store_row(uint32_t to, const float (&sums)[2][P::OUTS], float maximum)
{
    const __half2 most = __float2half2_rn(maximum);
#pragma unroll
    for (int c = 0; c < 2; c++) {
        uint32_t d[P::OUTS / 2];
#pragma unroll
        for (int i = 0; i < P::OUTS / 2; i++) {
            const uint32_t pair = ptx::relu_half2(sums[c][2 * i], sums[c][2 * i + 1]);
            const __half2 clamped = __hmin2_nan(*reinterpret_cast<const __half2 *>(&pair), most);
            d[i] = *reinterpret_cast<const uint32_t *>(&clamped);
        }
        ptx::store_shared(to + c * 8 * P::PLANE_BYTES, d);
    }
}

/* 16 pixels of y: the job of a group whose d lies at `d`; the group's first row counts as `row` of the
 * block's, and may lie before them. `weight` and `bias`: of project, in shared memory. */
template <class P>
__device__ __forceinline__ void project(uint32_t d, uint32_t weight, uint32_t bias, const mbconv_args &args,
                                        const place &at, int row, int job, int warps)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const size_t origin = (static_cast<size_t>(at.image) * args.out_height + at.out_row) * args.out_width;
    int offset[2]; /* of y from there; there are fewer than 2^31 outputs of an image */
    bool valid[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int pixel = 16 * job + g + 8 * i, r = row + pixel / P::OUT_WIDTH,
                  c = at.out_column + pixel % P::OUT_WIDTH;
        valid[i] = r >= 0 && r < at.out_rows && c >= at.out_begin && c < at.out_end;
        offset[i] = (r * args.out_width + c) * args.out_channels + 2 * t;
    }
    const __half *x = static_cast<const __half *>(args.x) + origin * args.out_channels;
    __half *y = static_cast<__half *>(args.y) + origin * args.out_channels;
    uint32_t residual[2][P::OUT] = {};
#pragma unroll
    for (int i = 0; i < 2 * P::OUT && P::RESIDUAL; i++)
        if (args.residual && valid[i / P::OUT])
            residual[i / P::OUT][i % P::OUT] = __ldcg(
                reinterpret_cast<const unsigned *>(x + offset[i / P::OUT] + 8 * (i % P::OUT)));
    float sums[P::OUT][4];
#pragma unroll
    for (int j = 0; j < P::OUT; j++) {
        const uint2 b = ptx::load_shared_uint2(bias + (8 * j + 2 * t) * 4);
        sums[j][0] = sums[j][2] = __uint_as_float(b.x);
        sums[j][1] = sums[j][3] = __uint_as_float(b.y);
    }
    d += (lane % 8 + lane / 16 * 8) * P::PLANE_BYTES + (2 * job + lane / 8 % 2) * 16;
    weight += lane * 8;
#pragma unroll 1
    for (int k = 0; k < warps; k++) {
        uint32_t a[4];
        ptx::ldmatrix_x4_transposed(a, d);
        for (int part = 0; part <= (!P::RESIDUAL && args.two_parts); part++) {
            uint2 b[P::OUT];
#pragma unroll
            for (int j = 0; j < P::OUT; j++) b[j] = ptx::load_shared_uint2(weight + j * 32 * 8);
#pragma unroll
            for (int j = 0; j < P::OUT; j++) ptx::mma_m16n8k16_f16(sums[j], a, b[j].x, b[j].y);
            weight += P::OUT * 32 * 8;
        }
        d += CHANNELS * P::PLANE_BYTES;
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < P::OUT; j++) {
            const float2 r = __half22float2(*reinterpret_cast<const __half2 *>(&residual[i][j]));
            const float low = ptx::min_nan(ptx::max_nan(sums[j][2 * i] + r.x, args.output_min),
                                           args.output_max),
                        high = ptx::min_nan(ptx::max_nan(sums[j][2 * i + 1] + r.y, args.output_min),
                                            args.output_max);
            if (valid[i]) *reinterpret_cast<__half2 *>(y + offset[i] + 8 * j) = __floats2half2_rn(low, high);
        }
}

/* The barriers by which groups are handed over, in shared memory. */
template <class P> struct barriers {
    uint32_t base;

    __device__ __forceinline__ uint32_t full(int buffer) const
    {
        return base + 8 * buffer;
    } /* its d is there */
    __device__ __forceinline__ uint32_t read(int buffer) const { return base + 8 * (P::BUFFERS + buffer); }
    __device__ __forceinline__ uint32_t x_full(int buffer) const
    {
        return base + 8 * (2 * P::BUFFERS + buffer);
    }

    __device__ __forceinline__ void init(int warps) const
    {
        for (int i = 0; i < P::BUFFERS; i++)
            ptx::mbarrier_init(full(i), warps), ptx::mbarrier_init(read(i), P::JOBS);
        for (int i = 0; i < P::X_BUFFERS; i++) ptx::mbarrier_init(x_full(i), 32 * P::JOBS);
    }
};

/* After what the whole warp has read or written. */
__device__ __forceinline__ void arrive_warp(uint32_t barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(barrier);
}

/* What a warp holds while it walks down a strip. */
template <class P> struct walk {
    weights<P> w;
    x_places<P> x;
    uint32_t d; /* the lane's place in a row of d */
    int inside; /* how many of the thread's columns of h are in the image: all but 2 at least */
    float sums[P::SLOTS][2][P::OUTS];
};

/* Rows ROW.. of a group. `before_first`: what must be before the first row of d is stored. */
template <class P, int ROW, class Before>
__device__ __forceinline__ void walk_rows(walk<P> &k, const mbconv_args &args, int row, uint32_t x,
                                          uint32_t d, const Before &before_first)
{
    if constexpr (ROW < P::PERIOD) {
        float v[2][P::LEAD + P::PX + P::RIGHT];
        if (P::K == 5 && P::S == 1)
            __syncwarp(); /* or else ptxas begins it before the last is done, and spills */
        float h_most = row + ROW >= 0 && row + ROW < args.height ? args.expand_max : 0.0f;
        ptx::own_register(h_most);
        expand_row<P>(v, k.x, x + ROW * P::WIDTH * P::PIXEL_BYTES, k.w, h_most, k.inside);
        fetch_sides<P>(v, threadIdx.x % 4);
        constexpr int LAST_TAPS = P::K * (P::K - 1);        /* which finish a row, and free its sums */
        constexpr int AHEAD = ROW + P::PERIOD - (P::K - 1); /* rows of the finished output, and some groups */
        if constexpr (AHEAD % P::S == 0) {
            add_row<P, ROW, LAST_TAPS, P::K * P::K>(k.sums, v, k.w);
            if (ROW / P::S == 0) before_first();
            store_row<P>(d + ROW / P::S * P::OUT_WIDTH * 2, k.sums[AHEAD / P::S % P::SLOTS],
                         args.depthwise_max);
        }
        add_row<P, ROW, 0, LAST_TAPS>(k.sums, v, k.w);
        walk_rows<P, ROW + 1>(k, args, row, x, d, before_first);
    }
}

/* A job's part of a group's x: every JOBS-th row. */
template <class P>
__device__ __forceinline__ void load_rows(const place &at, uint32_t x, const mbconv_args &args, int row,
                                          int job, uint32_t full)
{
    const loader<P> load(args, at, threadIdx.x % 32);
#pragma unroll
    for (int i = 0; i < (P::PERIOD + P::JOBS - 1) / P::JOBS; i++) {
        const int r = job + i * P::JOBS;
        if (r < P::PERIOD) load.load(x + r * P::WIDTH * P::PIXEL_BYTES, args, row + r);
    }
    ptx::cp_async_arrive(full);
}

template <class P>
__global__ void __launch_bounds__(32 * P::WARPS, P::BLOCKS)
    mbconv_strips_kernel(const mbconv_args args, const cut cut)
{
    extern __shared__ __align__(16) unsigned char memory[];
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = lane % 4;
    const sections in(P::IN, warps, P::OUT, P::K, args.two_parts);
    const uint32_t shared = ptx::shared_address(memory), x = shared + P::X_AT,
                   weight = shared + P::WEIGHTS_AT, d = weight + P::weight_bytes(warps, args.two_parts),
                   d_bytes = P::d_bytes(warps);
    const barriers<P> barrier = {shared};
    place &at = *reinterpret_cast<place *>(memory + P::BARRIER_BYTES);
    const place here = place_block<P>(args, cut);
    const int first_row = here.first_row,
              groups = ((here.out_rows - 1) * P::S + P::K + P::PERIOD - 1) / P::PERIOD;
    if (threadIdx.x == 0) at = here;
    ptx::grid_launch_next();
    for (int i = threadIdx.x; i < P::weight_bytes(warps, args.two_parts) / 16; i += blockDim.x)
        ptx::cp_async_16(weight + 16 * i, static_cast<const char *>(args.weights) + 16 * i, true);
    ptx::cp_async_commit();
    if (threadIdx.x == 0) barrier.init(warps);
    ptx::cp_async_wait<0>();
    __syncthreads();
    ptx::grid_wait();
    for (int group = 0; group < P::X_BUFFERS && group < groups; group++)
        for (int job = warp; job < P::JOBS; job += warps)
            load_rows<P>(at, x + group * P::X_BYTES, args, first_row + group * P::PERIOD, job,
                         barrier.x_full(group));

    walk<P> k = {weights<P>(weight, in, warp, lane),
                 x_places<P>(x, lane),
                 d + (warp * CHANNELS + plane_of(lane / 4)) * P::PLANE_BYTES + 2 * t * P::OUTS,
                 args.width - at.first_column - t * P::PX,
                 {}};
    int turn = warp; /* the warp's first job of the group, which is none from JOBS on */
    const auto project_group = [&](int group) {
        const uint32_t buffer = group % P::BUFFERS, phase = group / P::BUFFERS & 1;
        const int next = group % P::X_BUFFERS; /* its x's place is free now */
#pragma unroll 1
        for (int job = turn; job < P::JOBS; job += warps) {
            ptx::mbarrier_wait(barrier.full(buffer), phase);
            if (group + P::X_BUFFERS < groups)
                load_rows<P>(at, x + next * P::X_BYTES, args, first_row + (group + P::X_BUFFERS) * P::PERIOD,
                             job, barrier.x_full(next));
            project<P>(d + buffer * d_bytes, weight + in.project, weight + in.project_bias, args, at,
                       group * P::SLOTS - (P::SLOTS - 1), job, warps);
            arrive_warp(barrier.read(buffer));
        }
        turn -= P::JOBS;
        while (turn < 0) turn += warps;
    };
#pragma unroll 1
    for (int group = 0; group < groups; group++) {
        const uint32_t buffer = group % P::BUFFERS, phase = group / P::BUFFERS & 1;
        const uint32_t x_buffer = group % P::X_BUFFERS;
        ptx::mbarrier_wait(barrier.x_full(x_buffer), group / P::X_BUFFERS & 1);
        walk_rows<P, 0>(k, args, first_row + group * P::PERIOD, x_buffer * P::X_BYTES, k.d + buffer * d_bytes,
                        [&] {
                            if (P::LATE && group) project_group(group - 1);
                            if (group >= P::BUFFERS) ptx::mbarrier_wait(barrier.read(buffer), phase ^ 1);
                        });
        arrive_warp(barrier.full(buffer));
        if (!P::LATE) project_group(group);
    }
    if (P::LATE) project_group(groups - 1);
}

template <class P> struct launcher {
    static bool fits(const mbconv_args &args)
    {
        const cut cut = cut_of(args, P::WIDTH);
        return tiles_of(args.in_channels) == P::IN && tiles_of(args.out_channels) == P::OUT &&
               args.kernel == P::K && args.stride == P::S && args.pad_left == P::LEAD &&
               args.hidden <= P::WARPS * CHANNELS && cut.strips && !(P::RESIDUAL && args.two_parts) &&
               (P::EDGE ? args.width + 2 >= P::WIDTH
                        : args.width >= P::WIDTH && (args.width - P::WIDTH) % P::S == 0) &&
               static_cast<long long>(args.n) * cut.strips * args.out_height < 1LL << 31;
    }

    static int shared_bytes(const mbconv_args &args)
    {
        return P::shared_bytes(args.hidden / CHANNELS, args.two_parts);
    }

    /* The rows of a segment, so that the blocks on an SM have least to do, one after the other. */
    static cudaError_t cut_rows(const mbconv_args &args, cut &cut)
    {
        constexpr int START = 2; /* what a block costs before its first group, in groups */
        int sms = 0;
        const cudaError_t status = sm_count(&sms);
        long long least = 0;
        for (int segments = 1; status == cudaSuccess && segments <= args.out_height; segments++) {
            const int rows = (args.out_height + segments - 1) / segments,
                      groups = ((rows - 1) * P::S + P::K + P::PERIOD - 1) / P::PERIOD;
            if ((segments - 1) * rows >= args.out_height) continue;
            const long long blocks = static_cast<long long>(args.n) * cut.strips * segments,
                            turns = (blocks + P::BLOCKS * sms - 1) / (P::BLOCKS * sms) * (groups + START);
            if (segments == 1 || turns < least) least = turns, cut.segments = segments, cut.rows = rows;
        }
        return status;
    }

    static cudaError_t launch(const mbconv_args &args, cudaStream_t stream)
    {
        cut cut = cut_of(args, P::WIDTH);
        const cudaError_t status = cut_rows(args, cut);
        if (status != cudaSuccess) return status;
        return launch_overlapping(mbconv_strips_kernel<P>,
                                  static_cast<unsigned>(args.n * cut.strips * cut.segments),
                                  32 * (args.hidden / CHANNELS),
                                  {shared_bytes(args), P::shared_bytes(P::WARPS, true)}, stream, args, cut);
    }
};

} // namespace mbconv

#endif
