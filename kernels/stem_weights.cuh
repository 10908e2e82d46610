/* The stem's weights in the order of a warp's lanes, and how they come to be so, on the host. */
#ifndef EFFNET_KERNELS_STEM_WEIGHTS_CUH
#define EFFNET_KERNELS_STEM_WEIGHTS_CUH

#include "stem.h"

#include <cuda_fp16.h>
#include <math.h>

namespace stem
{

constexpr int K_STEPS = 2, PARTS = 2;      /* of 16 values; high, low */
constexpr int PAIRS = 15, PAIRS_A_ROW = 5; /* of a pixel's values */
constexpr float LARGEST_HALF = 65504;

/* TILES: of 8 channels. A thread of the warp needs an operand's element [lane]. */
template <int TILES> struct alignas(16) weights {
    uint2 operand[K_STEPS][TILES][PARTS][32];
    float bias[3][3][8 * TILES]; /* [first, middle, last row][column] */
};

/* One value of an operand, as its high or low part. */
inline unsigned short part_of(float value, int part)
{
    const __half high = __float2half_rn(value);
    return part ? __half_as_ushort(__float2half_rn(value - __half2float(high))) : __half_as_ushort(high);
}

inline uint32_t part_pair(float a, float b, int part)
{
    return part_of(a, part) | static_cast<uint32_t>(part_of(b, part)) << 16;
}

/* The weight for value `slot` (0..9) of a row of taps, scaled to pixels as the kernel sees them; `unit`: what
 * outputs are measured in. */
inline float scaled_weight(const stem_layer &l, double unit, int channel, int ky, int slot)
{
    const int value = slot - l.pad_left, c = value % 3, kx = value / 3;
    if (value < 0 || value >= 9 || ky > 2) return 0.0f;
    return static_cast<float>(l.weight[((channel * 3 + c) * 3 + ky) * 3 + kx] * 128.0 / l.std[c] / unit);
}

inline uint32_t weight_pair(const stem_layer &l, double unit, int channel, int pair, int part)
{
    const int ky = pair / PAIRS_A_ROW, slot = pair % PAIRS_A_ROW * 2;
    return part_pair(scaled_weight(l, unit, channel, ky, slot), scaled_weight(l, unit, channel, ky, slot + 1),
                     part);
}

/* The bias, and what pixels of 128 give: sum of w (128 - mean) / std over the taps inside the image. */
inline float edge_bias(const stem_layer &l, double unit, int channel, int row_case, int column_case)
{
    double sum = l.bias[channel];
    for (int ky = 0; ky < 3; ky++)
        for (int kx = 0; kx < 3; kx++) {
            const bool outside = (row_case == 0 && ky == 0) || (row_case == 2 && ky == 2) ||
                                 (column_case == 0 && kx == 0) || (column_case == 2 && kx == 2);
            for (int c = 0; c < 3 && !outside; c++)
                sum += l.weight[((channel * 3 + c) * 3 + ky) * 3 + kx] * ((128.0 - l.mean[c]) / l.std[c]);
        }
    return static_cast<float>(sum / unit);
}

/* Whether every output's middle tap lies inside the image, and there is no room for one more output. */
inline bool side_fits(int size, int out, int pad)
{
    return size >= 4 && out >= 1 && pad >= 0 && pad <= 1 && 2 * (out - 1) - pad + 1 < size &&
           2 * out - pad + 2 >= size;
}

inline bool weights_fit(const stem_layer &l, double unit)
{
    for (int i = 0; i < l.channels * 27; i++)
        if (!(fabs(l.weight[i] * 128.0 / l.std[i / 9 % 3] / unit) <= LARGEST_HALF)) return false;
    return true;
}

template <int TILES> void pack(const stem_layer &l, double unit, weights<TILES> &w)
{
    for (int s = 0; s < K_STEPS; s++)
        for (int j = 0; j < TILES; j++)
            for (int part = 0; part < PARTS; part++)
                for (int lane = 0; lane < 32;
                     lane++) { /* column 2t + i of tile j: channel 2 TILES t + 2j + i */
                    const int g = lane / 4, t = lane % 4, channel = 2 * TILES * (g / 2) + 2 * j + g % 2;
                    w.operand[s][j][part][lane] = make_uint2(
                        weight_pair(l, unit, channel, 8 * s + t, part),
                        weight_pair(l, unit, channel, 8 * s + 4 + t, part));
                }
    for (int c = 0; c < 8 * TILES; c++)
        for (int row = 0; row < 3; row++)
            for (int column = 0; column < 3; column++)
                w.bias[row][column][c] = edge_bias(l, unit, c, row, column);
}

} // namespace stem

#endif
