/* The first block's weights in the order of its kernel's threads, on the host. */
#include "first_block.cuh"

using namespace first_block;

namespace
{

/* What s and d are measured in. */
double unit_of(const first_block_layers *l)
{
    float low, stem_max, depthwise_max;
    activation_clamp(l->stem_activation, &low, &stem_max);
    activation_clamp(l->depthwise_activation, &low, &depthwise_max);
    return in_units(stem_max, depthwise_max) ? stem_max : 1;
}

/* One value of an operand, as its high or low part. */
unsigned short part_of(float value, int part)
{
    const __half high = __float2half_rn(value);
    return part ? __half_as_ushort(__float2half_rn(value - __half2float(high))) : __half_as_ushort(high);
}

uint32_t part_pair(float a, float b, int part)
{
    return part_of(a, part) | static_cast<uint32_t>(part_of(b, part)) << 16;
}

/* The stem's weight for value `slot` (0..9) of a row of taps, scaled to pixels as the kernel sees them. */
float stem_weight(const first_block_layers *l, double unit, int channel, int ky, int slot)
{
    const int value = slot - l->pad_left, c = value % 3, kx = value / 3;
    if (value < 0 || value >= 9 || ky > 2) return 0.0f;
    return static_cast<float>(l->stem_weight[((channel * 3 + c) * 3 + ky) * 3 + kx] * 128.0 / l->std[c] /
                              unit);
}

uint32_t stem_pair(const first_block_layers *l, double unit, int channel, int pair, int part)
{
    const int ky = pair / PAIRS_A_ROW, slot = pair % PAIRS_A_ROW * 2;
    return part_pair(stem_weight(l, unit, channel, ky, slot), stem_weight(l, unit, channel, ky, slot + 1),
                     part);
}

/* The bias, and what pixels of 128 give: sum of w (128 - mean) / std over the taps inside the image. */
float stem_bias(const first_block_layers *l, double unit, int channel, int row_case, int column_case)
{
    double sum = l->stem_bias[channel];
    for (int ky = 0; ky < 3; ky++)
        for (int kx = 0; kx < 3; kx++) {
            const bool outside = (row_case == 0 && ky == 0) || (row_case == 2 && ky == 2) ||
                                 (column_case == 0 && kx == 0) || (column_case == 2 && kx == 2);
            for (int c = 0; c < 3 && !outside; c++)
                sum += l->stem_weight[((channel * 3 + c) * 3 + ky) * 3 + kx] *
                       ((128.0 - l->mean[c]) / l->std[c]);
        }
    return static_cast<float>(sum / unit);
}

} // namespace

size_t first_block_weight_bytes(void)
{
    return sizeof(packed_weights);
}

bool first_block_weights_fit(const first_block_layers *l)
{
    constexpr double LARGEST = 65504; /* of fp16 */
    const double unit = unit_of(l);
    for (int i = 0; i < MIDDLE * 27; i++)
        if (!(fabs(l->stem_weight[i] * 128.0 / l->std[i / 9 % 3] / unit) <= LARGEST)) return false;
    for (int i = 0; i < OUT * MIDDLE; i++)
        if (!(fabs(l->project_weight[i] * unit) <= LARGEST)) return false;
    return true;
}

void first_block_pack(const first_block_layers *l, void *packed)
{
    packed_weights &w = *static_cast<packed_weights *>(packed);
    const double unit = unit_of(l);
    for (int s = 0; s < K_STEPS; s++)
        for (int part = 0; part < PARTS; part++)
            for (int lane = 0; lane < 32; lane++) {
                const int g = lane / 4, t = lane % 4;
                for (int j = 0; j < STEM_TILES; j++) { /* column 2t + i of tile j: channel 8t + 2j + i */
                    const int channel = 8 * (g / 2) + 2 * j + g % 2;
                    w.stem[s][j][part][lane] = make_uint2(stem_pair(l, unit, channel, 8 * s + t, part),
                                                          stem_pair(l, unit, channel, 8 * s + 4 + t, part));
                }
                for (int j = 0; j < PROJECT_TILES; j++) { /* column 2t + i of tile j: channel 4t + 2j + i */
                    const float *row = l->project_weight + (4 * (g / 2) + 2 * j + g % 2) * MIDDLE + 8 * t +
                                       4 * s;
                    float v[4];
                    for (int i = 0; i < 4; i++) v[i] = static_cast<float>(row[i] * unit);
                    w.project[s][j][part][lane] = make_uint2(part_pair(v[0], v[1], part),
                                                             part_pair(v[2], v[3], part));
                }
            }
    for (int c = 0; c < MIDDLE; c++) {
        for (int row = 0; row < 3; row++)
            for (int column = 0; column < 3; column++)
                w.stem_bias[row][column][c] = stem_bias(l, unit, c, row, column);
        for (int i = 0; i < TAPS; i++) w.depthwise[i][c] = l->depthwise_weight[c * TAPS + i];
        w.depthwise_bias[c] = static_cast<float>(l->depthwise_bias[c] / unit);
    }
    for (int c = 0; c < OUT; c++) w.project_bias[c] = l->project_bias[c];
}
