/* What a block of expand_depthwise does, one stage after the other (expand_depthwise.cu). */
#ifndef EFFNET_KERNELS_EXPAND_DEPTHWISE_STAGES_CUH
#define EFFNET_KERNELS_EXPAND_DEPTHWISE_STAGES_CUH

#include "epilogue.cuh"
#include "expand_depthwise.cuh"
#include "ptx.cuh"

namespace expand_depthwise
{

constexpr int WARPS = 8, THREADS = 32 * WARPS;
constexpr int LEFT = 4;   /* columns of zeros left of an image: as many as any padding has */
constexpr int WINDOW = 8; /* outputs */
constexpr unsigned ALL = 0xffffffffu;

/* What a kernel reads of the arguments beside pointers and sizes. */
struct bounds {
    float low, high;
};

/* C channels a block; at most 32 CHUNKS channels of x. */
template <int C_, int CHUNKS_, bool SILU_> struct tile {
    static constexpr int C = C_, CHUNKS = CHUNKS_;
    static constexpr bool SILU = SILU_;
    static constexpr int MT = C / 16; /* MMAs over channels */
    static constexpr int NT = CHUNKS <= 2   ? 4
                              : CHUNKS <= 4 ? 3
                              : CHUNKS <= 6 ? 2
                                            : 1;   /* pixel tiles at a time */
    static constexpr int PLANES = C / WARPS;       /* of a warp, in the depthwise stage */
    static constexpr int BLOCKS = C <= 32 ? 2 : 1; /* on an SM; bounds the registers */
    /* Shared memory, from its start: expand weights, depthwise bias, then what layout says. */
    static constexpr int WEIGHT_BYTES = 64 * C * CHUNKS, TAPS_AT = WEIGHT_BYTES + 4 * C;
};

/* What a launch's blocks have in common; lengths are bytes. */
struct layout {
    int rows;                           /* of output, a band's at most */
    int bands, groups;                  /* of an image */
    int tiles_x, windows_x;             /* 8 pixels of input, 8 outputs: so many make a row */
    unsigned tile_inverse, row_inverse; /* 2^16 / tiles_x, / rows, rounded up */
    int windows;                        /* of a band: windows_x columns of them, `rows` each */
    /* h is stored as columns of 8 values: h[channel][column][row][8], rows of the same parity together where
     * the stride is 2, so that neighbouring windows of a column lie side by side. */
    int odd_row, next_row;   /* row r of a column is at r / 2 * next_row + r % 2 * odd_row */
    int column, plane;       /* from one to the next; a plane, of a channel, is an odd number of 16 bytes */
    int out_plane;           /* of a channel's results: so, too */
    int h_at, out_at, bytes; /* in shared memory; of all */
};

/* What a block makes. */
struct place {
    int n, group, band;
    int oy, rows;    /* of output */
    int iy, in_rows; /* row of the image that h begins with; rows of h */
    int skip;        /* rows of h before the image's first */
    int tiles;       /* of 8 pixels, in the rows of h that are in the image */
};

__device__ __forceinline__ place locate(const expand_depthwise_args &args, const layout &l)
{
    place b;
    b.group = blockIdx.x % l.groups;
    const unsigned rest = blockIdx.x / l.groups;
    b.band = rest % l.bands, b.n = rest / l.bands;
    b.oy = b.band * l.rows;
    b.rows = min(l.rows, args.out_height - b.oy);
    b.iy = b.oy * args.stride - args.pad_top;
    b.in_rows = (b.rows - 1) * args.stride + args.kernel;
    b.skip = max(0, -b.iy);
    b.tiles = max(0, min(b.in_rows, args.height - b.iy) - b.skip) * l.tiles_x;
    return b;
}

/* index / d and index % d, for the layout's small numbers. */
struct divided {
    int quotient, rest;
    __device__ __forceinline__ divided(int index, int d, unsigned inverse)
        : quotient(static_cast<int>(index * inverse >> 16)), rest(index - quotient * d)
    {
    }
};

/* A window of the block: from output (row, 8 * column) on. */
struct window_place {
    int column, row;
    __device__ __forceinline__ window_place(int window, const layout &l)
    {
        const divided at(window, l.rows, l.row_inverse);
        column = at.quotient, row = at.rest;
    }
};

/* The channel of the block's that is plane p: plane 8i + 2t + b is channel (C / 4) t + 2i + b, so that lane t
 * of a quad gets C / 4 neighbouring channels from ldmatrix_x4_transposed. */
template <class T> __device__ __forceinline__ int channel_of(int p)
{
    return p % 8 / 2 * (T::C / 4) + p / 8 * 2 + p % 2;
}

__device__ __forceinline__ uint32_t as_bits(__half2 value)
{
    return *reinterpret_cast<uint32_t *>(&value);
}

/* Where the weights of MMA m, chunk c and half of it lie: 16 bytes a lane. */
template <class T> __host__ __device__ constexpr int fragment_at(int m, int c, int half)
{
    return ((m * T::CHUNKS + c) * 2 + half) * 512;
}

/* The block's expand weights, as fragments of MMAs: lane (g, t) has channels 32c + 8t .. 32c + 8t + 7 of
 * planes g and g + 8, four of each for either half. What there is not becomes 0. */
template <class T>
__device__ __forceinline__ void load_weights(unsigned char *shared, const expand_depthwise_args &args,
                                             int first)
{
    constexpr int PIECES = T::C * 4 * T::CHUNKS; /* of 8 channels of a plane */
#pragma unroll
    for (int base = 0; base < PIECES; base += THREADS) {
        const int i = base + threadIdx.x, t = i % 4, plane = i / 4 % T::C, c = i / 4 / T::C;
        const int channel = first + channel_of<T>(plane), k = 32 * c + 8 * t;
        uint4 w = make_uint4(0, 0, 0, 0);
        if (PIECES % THREADS && i >= PIECES) break;
        if (channel < args.channels && k < args.in_channels)
            w = __ldg(reinterpret_cast<const uint4 *>(static_cast<const __half *>(args.w) +
                                                      static_cast<size_t>(channel) * args.in_channels + k));
        unsigned char *to = shared + fragment_at<T>(plane / 16, c, 0) + plane % 8 * 64 + 16 * t +
                            plane % 16 / 8 * 4;
        *reinterpret_cast<uint32_t *>(to) = w.x;
        *reinterpret_cast<uint32_t *>(to + 8) = w.y;
        *reinterpret_cast<uint32_t *>(to + 512) = w.z;
        *reinterpret_cast<uint32_t *>(to + 512 + 8) = w.w;
    }
}

/* Starts the copies of the block's depthwise weights; those of channels that there are not become 0. */
template <class T>
__device__ __forceinline__ void fetch_taps(unsigned char *shared, const expand_depthwise_args &args,
                                           int first)
{
    const uint32_t to = ptx::shared_address(shared);
    constexpr int ROW_PIECES = sizeof(tap_row) / 16;
    const tap_row *taps = static_cast<const tap_row *>(args.depthwise_w);
#pragma unroll 1
    for (int i = threadIdx.x / ROW_PIECES; i < T::C * args.kernel; i += THREADS / ROW_PIECES) {
        const int plane = args.kernel == 3 ? i / 3 : i / 5, channel = first + channel_of<T>(plane);
        const bool valid = channel < args.channels;
        const tap_row *row = taps + (valid ? channel * args.kernel + i - plane * args.kernel : 0);
        const int piece = 16 * (threadIdx.x % ROW_PIECES);
        ptx::cp_async_16(to + T::TAPS_AT + i * static_cast<int>(sizeof *row) + piece,
                         reinterpret_cast<const unsigned char *>(row) + piece, valid);
    }
    ptx::cp_async_commit();
    if (threadIdx.x < T::C) {
        const int channel = first + channel_of<T>(threadIdx.x);
        reinterpret_cast<float *>(shared + T::WEIGHT_BYTES)[threadIdx.x] =
            channel < args.channels ? __ldg(args.depthwise_bias + channel) : 0.0f;
    }
}

/* ---------------------------------------------------------------- expand */

/* Where a lane's pixels of its warp's next NT tiles lie, from its first channels on; NULL: nowhere. */
template <class T> struct sources {
    const __half *pixel[T::NT];

    __device__ __forceinline__ sources(const expand_depthwise_args &args, const layout &l, const place &b,
                                       int first)
    {
        const int g = threadIdx.x % 32 / 4, k = threadIdx.x % 4 * 8;
        const __half *row = static_cast<const __half *>(args.x) +
                            (static_cast<size_t>(b.n) * args.height + b.iy + b.skip) * args.width *
                                args.in_channels;
#pragma unroll
        for (int j = 0; j < T::NT; j++) {
            const int index = first + j * WARPS;
            const divided at(index, l.tiles_x, l.tile_inverse);
            const int column = 8 * at.rest + g;
            const bool inside = index < b.tiles && column < args.width;
            pixel[j] = inside ? row + (at.quotient * args.width + column) * args.in_channels + k : nullptr;
        }
    }
};

/* Lane (g, t) takes channels 32c + 8t .. 32c + 8t + 7 of pixel g of each tile. */
template <class T>
__device__ __forceinline__ void load_pixels(uint4 (&x)[T::NT][T::CHUNKS], const sources<T> &from,
                                            const expand_depthwise_args &args)
{
    const int k = threadIdx.x % 4 * 8;
#pragma unroll
    for (int j = 0; j < T::NT; j++)
#pragma unroll
        for (int c = 0; c < T::CHUNKS; c++) {
            x[j][c] = make_uint4(0, 0, 0, 0);
            if (from.pixel[j] && 32 * c + k < args.in_channels)
                x[j][c] = *reinterpret_cast<const uint4 *>(from.pixel[j] + 32 * c);
        }
}

/* act(v) of two values, and those that `mask` has no bits for are 0. */
template <class T>
__device__ __forceinline__ uint32_t activate_pair(float v0, float v1, const bounds &act, uint32_t mask)
{
    if constexpr (T::SILU) {
        epilogue::silu_pair(v0, v1);
        return as_bits(__floats2half2_rn(v0, v1)) & mask;
    }
    /* the bounds are exact in fp16, so clamping after rounding gives the same */
    return as_bits(epilogue::clamp(__floats2half2_rn(v0, v1), __float2half2_rn(act.low),
                                   __float2half2_rn(act.high))) &
           mask;
}

/* d += a * b with a lane's part of a in shared memory. */
__device__ __forceinline__ void mma(float (&d)[4], const unsigned char *a, uint32_t b0, uint32_t b1)
{
    const uint4 v = *reinterpret_cast<const uint4 *>(a);
    const uint32_t fragment[4] = {v.x, v.y, v.z, v.w};
    ptx::mma_m16n8k16_f16(d, fragment, b0, b1);
}

/* One tile: all channels of 8 pixels of h. */
template <class T>
__device__ __forceinline__ void
expand_tile(unsigned char *shared, const uint4 (&x)[T::CHUNKS], const float (&bias)[T::MT][2],
            const bounds &act, const expand_depthwise_args &args, const layout &l, const place &b, int index)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float acc[T::MT][4], more[T::MT][4] = {}; /* two chains of MMAs, half as long */
#pragma unroll
    for (int m = 0; m < T::MT; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) acc[m][i] = bias[m][i / 2];
    const unsigned char *w = shared + threadIdx.x % 32 * 16;
#pragma unroll
    for (int c = 0; c < T::CHUNKS; c++) {
        if (c && 32 * c >= args.in_channels) break;
#pragma unroll
        for (int m = 0; m < T::MT; m++) {
            mma(acc[m], w + fragment_at<T>(m, c, 0), x[c].x, x[c].y);
            mma(more[m], w + fragment_at<T>(m, c, 1), x[c].z, x[c].w);
        }
    }
    const divided at(index, l.tiles_x, l.tile_inverse);
    const int column = 8 * at.rest + 2 * t;
    const uint32_t mask = column + 1 < args.width ? ALL : column < args.width ? 0xffffu : 0;
    const int row = b.skip + at.quotient, stored = LEFT + column;
    unsigned char *to = shared + l.h_at + g * l.plane + row / 2 * l.next_row + row % 2 * l.odd_row +
                        stored / 8 * l.column + 2 * (stored % 8);
#pragma unroll
    for (int m = 0; m < T::MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float v0 = acc[m][2 * half] + more[m][2 * half];
            const float v1 = acc[m][2 * half + 1] + more[m][2 * half + 1];
            *reinterpret_cast<uint32_t *>(to + (16 * m + 8 * half) * l.plane) = activate_pair<T>(v0, v1, act,
                                                                                                 mask);
        }
}

/* ---------------------------------------------------------------- depthwise */

/* Where in a tap_row a lane finds the two pairs of T that it hands to an MMA whose first column is `column`.
 */
struct band_offsets {
    int first, second;

    __device__ __forceinline__ band_offsets(const expand_depthwise_args &args, int column)
    {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const int tap = column + 2 * t - args.stride * g - (LEFT - args.pad_left);
        first = offset(tap), second = offset(tap + 8);
    }

    __device__ static __forceinline__ int offset(int tap)
    {
        return min(max(tap - FIRST_TAP, 0), TAP_PAIRS - 1);
    }
};

/* 16 windows from `first` on of the warp's planes, into acc[plane], as an MMA leaves them. */
template <class T, int K>
__device__ __forceinline__ void convolve(float (&acc)[T::PLANES][4], const unsigned char *shared,
                                         const expand_depthwise_args &args, const layout &l, const place &b,
                                         int first)
{
    const int lane = threadIdx.x % 32, plane = threadIdx.x / 32 * T::PLANES;
    const window_place at(min(first + lane % 16, l.windows - 1), l);
    uint32_t from = ptx::shared_address(shared) + l.h_at + plane * l.plane + 16 * at.row +
                    (args.stride * at.column + lane / 16) * l.column;
    const float *bias = reinterpret_cast<const float *>(shared + T::WEIGHT_BYTES) + plane;
    float low[T::PLANES][4] = {}; /* with the weights' low parts */
#pragma unroll
    for (int p = 0; p < T::PLANES; p++)
#pragma unroll
        for (int i = 0; i < 4; i++) acc[p][i] = bias[p];
    const tap_row *taps = reinterpret_cast<const tap_row *>(shared + T::TAPS_AT) + plane * K;
#pragma unroll 1
    for (int s = 0; s < args.stride; s++, from += 2 * l.column) {
        const band_offsets at_tap(args, 16 * s);
#pragma unroll
        for (int ky = 0; ky < K; ky++)
#pragma unroll
            for (int p = 0; p < T::PLANES; p++) {
                const tap_row &row = taps[p * K + ky];
                uint32_t a[4];
                ptx::ldmatrix_x4(a, from + p * l.plane + ky / 2 * l.next_row + ky % 2 * l.odd_row);
                ptx::mma_m16n8k16_f16(acc[p], a, as_bits(row.high[at_tap.first]),
                                      as_bits(row.high[at_tap.second]));
                ptx::mma_m16n8k16_f16(low[p], a, as_bits(row.low[at_tap.first]),
                                      as_bits(row.low[at_tap.second]));
            }
    }
#pragma unroll
    for (int p = 0; p < T::PLANES; p++)
#pragma unroll
        for (int i = 0; i < 4; i++) acc[p][i] += low[p][i];
}

/* Adds to `sum` what of a window's outputs 2t and 2t + 1 is in the map. */
__device__ __forceinline__ void add_inside(float &sum, float v0, float v1, const expand_depthwise_args &args,
                                           const layout &l, const place &b, int window)
{
    const window_place at(window, l);
    const int column = WINDOW * at.column + threadIdx.x % 4 * 2;
    if (at.row < b.rows && column < args.out_width) sum += v0;
    if (at.row < b.rows && column + 1 < args.out_width) sum += v1;
}

/* The warp's planes of all windows. */
template <class T, int K>
__device__ __forceinline__ void depthwise(unsigned char *shared, const bounds &act,
                                          const expand_depthwise_args &args, const layout &l, const place &b)
{
    const int lane = threadIdx.x % 32, plane = threadIdx.x / 32 * T::PLANES;
    unsigned char *to = shared + l.out_at + plane * l.out_plane + 4 * lane;
    float sum[T::PLANES] = {};
#pragma unroll 1
    for (int first = 0; first < l.windows; first += 16, to += 16 * 2 * WINDOW) {
        float acc[T::PLANES][4];
        convolve<T, K>(acc, shared, args, l, b, first);
#pragma unroll
        for (int p = 0; p < T::PLANES; p++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float v0 = acc[p][2 * half], v1 = acc[p][2 * half + 1];
                uint32_t pair;
                if constexpr (T::SILU) {
                    epilogue::silu_pair(v0, v1);
                    pair = as_bits(__floats2half2_rn(v0, v1));
                    if (args.sums) add_inside(sum[p], v0, v1, args, l, b, first + 8 * half + lane / 4);
                } else {
                    pair = activate_pair<T>(v0, v1, act, ALL);
                }
                *reinterpret_cast<uint32_t *>(to + p * l.out_plane + half * 8 * 2 * WINDOW) = pair;
            }
    }
    if constexpr (T::SILU) {
        if (!args.sums) return;
        const size_t part = static_cast<size_t>(b.n) * l.bands + b.band;
#pragma unroll
        for (int p = 0; p < T::PLANES; p++) {
#pragma unroll
            for (int other = 16; other; other /= 2) sum[p] += __shfl_xor_sync(ALL, sum[p], other);
            const int channel = b.group * T::C + channel_of<T>(plane + p);
            if (lane == 0 && channel < args.channels) args.sums[part * args.channels + channel] = sum[p];
        }
    }
}

/* ---------------------------------------------------------------- results to y */

/* Where a lane stores the pixel lane / 4 of a window; NULL: nowhere. */
template <class T>
__device__ __forceinline__ __half *pixel_of(const expand_depthwise_args &args, const layout &l,
                                            const place &b, int window)
{
    const window_place at(window, l);
    const int column = WINDOW * at.column + threadIdx.x % 32 / 4;
    const int channel = b.group * T::C + threadIdx.x % 4 * (T::C / 4);
    if (at.row >= b.rows || column >= args.out_width || channel >= args.channels) return nullptr;
    const size_t pixel = (static_cast<size_t>(b.n) * args.out_height + b.oy + at.row) * args.out_width +
                         column;
    return static_cast<__half *>(args.y) + pixel * args.channels + channel;
}

template <class T>
__device__ __forceinline__ void store(const unsigned char *shared, const expand_depthwise_args &args,
                                      const layout &l, const place &b)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t from = ptx::shared_address(shared) + l.out_at + lane % 8 * l.out_plane;
    uint32_t r[4];
    if constexpr (T::C == 16) { /* two windows at a time */
#pragma unroll 1
        for (int window = 2 * warp; window < l.windows; window += 2 * WARPS) {
            ptx::ldmatrix_x4_transposed(r, from + lane / 8 % 2 * 8 * l.out_plane + (window + lane / 16) * 16);
#pragma unroll
            for (int half = 0; half < 2; half++)
                if (__half *y = pixel_of<T>(args, l, b, window + half))
                    *reinterpret_cast<uint2 *>(y) = make_uint2(r[2 * half], r[2 * half + 1]);
        }
    } else {
#pragma unroll 1
        for (int window = warp; window < l.windows; window += WARPS) {
            __half *y = pixel_of<T>(args, l, b, window);
#pragma unroll
            for (int i = 0; i < T::C / 32; i++) { /* 8 of the lane's channels */
                ptx::ldmatrix_x4_transposed(r, from + (32 * i + lane / 8 * 8) * l.out_plane + window * 16);
                if (y && b.group * T::C + lane % 4 * (T::C / 4) + 8 * i < args.channels)
                    *reinterpret_cast<uint4 *>(y + 8 * i) = make_uint4(r[0], r[1], r[2], r[3]);
            }
        }
    }
}

} // namespace expand_depthwise

#endif
