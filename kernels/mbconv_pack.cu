/* A block's weights in the order of its kernels' threads, on the host. */
#include "mbconv.h"
#include "mbconv_weights.cuh"

#include <cuda_fp16.h>
#include <string.h>

using namespace mbconv;

namespace
{

sections sections_of(const mbconv_layers *l)
{
    return sections(tiles_of(l->in_channels), l->hidden / CHANNELS, tiles_of(l->out_channels), l->kernel,
                    l->two_parts);
}

/* Columns k and k + 1 of a row, zeros beyond its end. */
unsigned half_pair(const float *row, int k, int end)
{
    const __half2 pair = __floats2half2_rn(k < end ? row[k] : 0.0f, k + 1 < end ? row[k + 1] : 0.0f);
    unsigned bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

void pack_expand(const mbconv_layers *l, int warp, uint4 *to)
{
    for (int step = 0; step < (tiles_of(l->in_channels) + 1) / 2; step++)
        for (int lane = 0; lane < 32; lane++) {
            const int g = lane / 4, k = 16 * step + 2 * (lane % 4), n = l->in_channels;
            const float *low = l->expand_weight + static_cast<size_t>(warp * CHANNELS + g) * n,
                        *high = low + static_cast<size_t>(8) * n;
            *to++ = make_uint4(half_pair(low, k, n), half_pair(high, k, n), half_pair(low, k + 8, n),
                               half_pair(high, k + 8, n));
        }
}

/* What rounding to fp16 leaves. */
float low_part(float v)
{
    return v - __half2float(__float2half_rn(v));
}

void pack_project(const mbconv_layers *l, int warp, int part, uint2 *to)
{
    for (int tile = 0; tile < tiles_of(l->out_channels); tile++)
        for (int lane = 0; lane < 32; lane++) {
            const int out = 8 * tile + lane / 4, t = lane % 4;
            const float *row = l->project_weight + static_cast<size_t>(out) * l->hidden + warp * CHANNELS;
            float v[4];
            for (int i = 0; i < 4; i++) {
                v[i] = row[row_of(2 * t + i % 2 + 8 * (i / 2))];
                if (part == 1) v[i] = low_part(v[i]);
            }
            *to++ = make_uint2(half_pair(v, 0, 2), half_pair(v, 2, 4));
        }
}

} // namespace

size_t mbconv_weight_bytes(const mbconv_layers *layers)
{
    return sections_of(layers).bytes;
}

void mbconv_pack(const mbconv_layers *l, void *packed)
{
    const sections at = sections_of(l);
    const int taps = l->kernel * l->kernel;
    char *to = static_cast<char *>(packed);
    memset(packed, 0, at.bytes);
    for (int warp = 0; warp < l->hidden / CHANNELS; warp++) {
        pack_expand(l, warp,
                    reinterpret_cast<uint4 *>(to + at.expand) +
                        static_cast<size_t>(warp) * ((tiles_of(l->in_channels) + 1) / 2) * 32);
        for (int part = 0; part <= l->two_parts; part++)
            pack_project(l, warp, part,
                         reinterpret_cast<uint2 *>(to + at.project) +
                             static_cast<size_t>(warp * (1 + l->two_parts) + part) *
                                 tiles_of(l->out_channels) * 32);
    }
    for (int c = 0; c < l->hidden; c++) {
        float *channel = reinterpret_cast<float *>(to + at.channels) +
                         static_cast<size_t>(c) * channel_floats(l->kernel);
        memcpy(channel, l->depthwise_weight + static_cast<size_t>(c) * taps, sizeof(float) * taps);
        channel[taps] = l->expand_bias[c];
        channel[taps + 1] = l->depthwise_bias[c];
    }
    memcpy(to + at.project_bias, l->project_bias, sizeof(float) * l->out_channels);
}
