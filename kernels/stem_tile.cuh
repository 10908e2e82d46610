/* The stem of an EfficientNet, a 3x3 convolution of stride 2 over 8-bit pixels, by mma.sync, 16 pixels x 32
 * values x 8 channels at a time; for the kernels that begin with it.
 *
 * A pixel's 27 values are three runs of 9 neighbours in memory; each is taken as 5 aligned pairs, the odd
 * value with a zero weight, and the 16th pair with zeros. Weights are scaled by 128 / std and split into a
 * high and a low fp16 part; what the mean adds is in the bias, which therefore depends on which taps lie
 * outside the image (3 x 3 cases). */
#ifndef EFFNET_KERNELS_STEM_TILE_CUH
#define EFFNET_KERNELS_STEM_TILE_CUH

#include "ptx.cuh"
#include "stem_weights.cuh"

#include <stdint.h>

namespace stem
{

/* A tile of H x W outputs of the stem, computed by a block of so many warps, from pixels in shared memory.
 * ODD: tiles begin at odd columns; else at even ones. The values of an output begin at 6 times its column,
 * less 4 where the image is padded, and a tile's at a multiple of 4. */
template <int H, int W, int WARPS_, bool ODD> struct tile {
    static constexpr int SH = H, SW = W, WARPS = WARPS_, THREADS = 32 * WARPS;
    static constexpr int ROWS = 2 * SH + 1;    /* of pixels */
    static constexpr int BEFORE = ODD ? 2 : 0; /* bytes of a tile's row before its first output's */
    static constexpr int WORDS = (BEFORE + 6 * (SW - 1) + 2 * PAIRS_A_ROW + 3) / 4,
                         PITCH = 4 * WORDS; /* 4-byte words; halves */
};

/* Where a tile lies: its first output. */
struct origin {
    int image, y, x;
};

/* An output in a tile. */
struct spot {
    int index, row, column;
};

__device__ __forceinline__ void load_floats(float (&value)[8], const float *p)
{
    const float4 a = __ldg(reinterpret_cast<const float4 *>(p)),
                 b = __ldg(reinterpret_cast<const float4 *>(p) + 1);
    value[0] = a.x, value[1] = a.y, value[2] = a.z, value[3] = a.w;
    value[4] = b.x, value[5] = b.y, value[6] = b.z, value[7] = b.w;
}

/* A tile's pixels, 4 bytes at a time, to shared memory as fp16 (p - 128) / 128, which is exact. Outside the
 * image: 0. A thread keeps to one column of words. Args: pixels, height, width, pad_top, pad_left. */
template <class P, class Args>
__device__ __forceinline__ void load_pixels(__half *pixels, const Args &args, const origin &at)
{
    constexpr int ROWS_AT_ONCE = P::THREADS / P::WORDS, TURNS = (P::ROWS + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE,
                  BATCH = 5;
    const int row_bytes = 3 * args.width, first = threadIdx.x / P::WORDS, column = threadIdx.x % P::WORDS;
    const int y = 2 * at.y - args.pad_top + first;
    const int byte = 6 * at.x - 4 * args.pad_left - P::BEFORE + 4 * column;
    if (first >= ROWS_AT_ONCE) return;
    const bool inside = byte >= 0 && byte < row_bytes;
    const uint8_t *from = args.pixels + (static_cast<ptrdiff_t>(at.image) * args.height + y) * row_bytes +
                          byte;
    __half2 *to = reinterpret_cast<__half2 *>(pixels) + 2 * threadIdx.x;
    const __half2 scale = __float2half2_rn(1.0f / 128), shift = __float2half2_rn(-9.0f);
#pragma unroll
    for (int turn = 0; turn < TURNS; turn += BATCH) {
        uint32_t word[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) { /* all on their way before the first is used */
            const int row = (turn + i) * ROWS_AT_ONCE;
            word[i] = 0x80808080u;
            if (inside && first + row < P::ROWS && y + row >= 0 && y + row < args.height)
                word[i] = *reinterpret_cast<const uint32_t *>(from + static_cast<ptrdiff_t>(row) * row_bytes);
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int row = (turn + i) * ROWS_AT_ONCE;
            if (first + row >= P::ROWS) break;
            /* 0x6400 | p is 1024 + p in fp16 */
            const uint32_t low = __byte_perm(word[i], 0x64, 0x4140),
                           high = __byte_perm(word[i], 0x64, 0x4342);
            to[row * P::WORDS * 2] = __hfma2(*reinterpret_cast<const __half2 *>(&low), scale, shift);
            to[row * P::WORDS * 2 + 1] = __hfma2(*reinterpret_cast<const __half2 *>(&high), scale, shift);
        }
    }
}

/* Which of the three cases of the stem's bias: taps missing before, none, or after. */
__device__ __forceinline__ int edge_case(int out, int pad, int size)
{
    return 2 * out < pad ? 0 : 2 * out - pad + 2 < size ? 1 : 2;
}

/* The sums of a tile, without bias. Calls store(sums, half, spot) for every output: sums[i / 2][2 * half + i
 * % 2] is channel 2 * TILES * t + i; perhaps more than once. */
template <class P, int TILES, class Store>
__device__ __forceinline__ void sum_pixels(const __half *pixels, const weights<TILES> &w, int warp, int g,
                                           int t, const Store &store)
{
    constexpr int PIXELS = P::SH * P::SW;
    uint2 b[K_STEPS][TILES][PARTS];
    int offset[K_STEPS][2]; /* of this thread's pairs from a pixel's first */
#pragma unroll
    for (int s = 0; s < K_STEPS; s++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int pair = min(8 * s + 4 * h + t, PAIRS - 1);
            offset[s][h] = pair / PAIRS_A_ROW * P::PITCH + pair % PAIRS_A_ROW * 2;
        }
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int part = 0; part < PARTS; part++) b[s][j][part] = __ldg(&w.operand[s][j][part][4 * g + t]);
    }
    for (int first = 16 * warp; first < PIXELS;
         first += 16 * P::WARPS) { /* past the end: the last one again */
        float acc[TILES][4] = {};
        spot pixel[2];
        const __half *from[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int index = min(first + g + 8 * half, PIXELS - 1), row = index / P::SW;
            pixel[half] = {index, row, index - row * P::SW};
            from[half] = pixels + 2 * row * P::PITCH + 6 * pixel[half].column + P::BEFORE;
        }
#pragma unroll
        for (int s = 0; s < K_STEPS; s++) {
            const uint32_t a[4] = {*reinterpret_cast<const uint32_t *>(from[0] + offset[s][0]),
                                   *reinterpret_cast<const uint32_t *>(from[1] + offset[s][0]),
                                   *reinterpret_cast<const uint32_t *>(from[0] + offset[s][1]),
                                   *reinterpret_cast<const uint32_t *>(from[1] + offset[s][1])};
#pragma unroll
            for (int part = PARTS - 1; part >= 0; part--) /* small terms first */
#pragma unroll
                for (int j = 0; j < TILES; j++)
                    ptx::mma_m16n8k16_f16(acc[j], a, b[s][j][part].x, b[s][j][part].y);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) store(acc, half, pixel[half]);
    }
}

} // namespace stem

#endif
