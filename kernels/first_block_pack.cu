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

stem_layer stem_of(const first_block_layers *l)
{
    return {l->stem_weight,
            l->stem_bias,
            {l->mean[0], l->mean[1], l->mean[2]},
            {l->std[0], l->std[1], l->std[2]},
            MIDDLE,
            l->pad_top,
            l->pad_left};
}

} // namespace

size_t first_block_weight_bytes(void)
{
    return sizeof(packed_weights);
}

bool first_block_weights_fit(const first_block_layers *l)
{
    const double unit = unit_of(l);
    if (!stem::weights_fit(stem_of(l), unit)) return false;
    for (int i = 0; i < OUT * MIDDLE; i++)
        if (!(fabs(l->project_weight[i] * unit) <= stem::LARGEST_HALF)) return false;
    return true;
}

void first_block_pack(const first_block_layers *l, void *packed)
{
    packed_weights &w = *static_cast<packed_weights *>(packed);
    const double unit = unit_of(l);
    stem::pack(stem_of(l), unit, w.stem);
    for (int s = 0; s < K_STEPS; s++)
        for (int part = 0; part < PARTS; part++)
            for (int lane = 0; lane < 32; lane++) {
                const int g = lane / 4, t = lane % 4;
                for (int j = 0; j < PROJECT_TILES; j++) { /* column 2t + i of tile j: channel 4t + 2j + i */
                    const float *row = l->project_weight + (4 * (g / 2) + 2 * j + g % 2) * MIDDLE + 8 * t +
                                       4 * s;
                    float v[4];
                    for (int i = 0; i < 4; i++) v[i] = static_cast<float>(row[i] * unit);
                    w.project[s][j][part][lane] = make_uint2(stem::part_pair(v[0], v[1], part),
                                                             stem::part_pair(v[2], v[3], part));
                }
            }
    for (int c = 0; c < MIDDLE; c++) {
        for (int i = 0; i < TAPS; i++) w.depthwise[i][c] = l->depthwise_weight[c * TAPS + i];
        w.depthwise_bias[c] = static_cast<float>(l->depthwise_bias[c] / unit);
    }
    for (int c = 0; c < OUT; c++) w.project_bias[c] = l->project_bias[c];
}
