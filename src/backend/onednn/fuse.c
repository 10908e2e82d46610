/* What layers do beside their primitives, while a strip lies in the cache of its core.
 *
 *   SiLU         applied to a convolution's strip after its primitive: quicker than oneDNN's swish (silu.c)
 *   squeeze and  depthwise  leaves the sums of its rows as it applies SiLU
 *   excite       pool       makes means of those sums
 *                linear     once or more, the gate
 *                scale      does nothing
 *                pointwise  multiplies each strip of its input by the gate before its primitive
 *
 * These layers are one unit, and nobody reads or writes the map for the gate alone. The sums are by rows, so
 * that they do not depend on where a session cuts. All this in fp32 with AVX2; else each layer stays by
 * itself. */
#include "backend/onednn/onednn.h"
#include "backend/onednn/silu.h"

#include <string.h>

static const struct effnet_layer *layer_at(const struct backend_state *state, int index)
{
    return index < state->info->layer_count ? state->layers[index].layer : NULL;
}

static bool has_silu(const struct effnet_layer *layer)
{
    const bool convolution = layer->op == EFFNET_OP_CONV || layer->op == EFFNET_OP_DEPTHWISE ||
                             layer->op == EFFNET_OP_POINTWISE;
    return convolution && layer->activation == EFFNET_ACT_SILU;
}

/* Whether layer `index` exists, is an `op`, and takes the output of layer `input` first, which nobody reads
 * behind layer `last`. */
static bool follows(const struct backend_state *state, int index, enum effnet_op op, int input, int last)
{
    const struct effnet_layer *layer = layer_at(state, index);
    return layer && layer->op == op && layer->inputs[0] == input &&
           layer_at(state, input)->last_reader == last;
}

/* The pointwise layer that ends the squeeze-and-excite which begins with layer `first`; -1: there is none. */
static int find_end(const struct backend_state *state, int first)
{
    const enum effnet_op op = layer_at(state, first)->op;
    const int scale = layer_at(state, first)->last_reader;
    if (!state->layers[first].fused.silu || (op != EFFNET_OP_CONV && op != EFFNET_OP_DEPTHWISE)) return -1;
    if (scale < first + 3 || !follows(state, first + 1, EFFNET_OP_POOL, first, scale)) return -1;
    for (int i = first + 2; i < scale; i++)
        if (!follows(state, i, EFFNET_OP_LINEAR, i - 1, i) || layer_at(state, i)->residual >= 0) return -1;
    if (!follows(state, scale, EFFNET_OP_SCALE, first, scale)) return -1;
    if (layer_at(state, scale)->inputs[1] != scale - 1 || layer_at(state, scale - 1)->last_reader != scale)
        return -1;
    if (!follows(state, scale + 1, EFFNET_OP_POINTWISE, scale, scale + 1)) return -1;
    return layer_at(state, scale + 1)->residual < first ? scale + 1 : -1;
}

void effnet_onednn_fuse(struct backend_state *state, bool avx2, bool each_layer)
{
    const int layers = state->info->layer_count;
    const bool own_silu = avx2 && state->type == dnnl_f32;
    for (int i = 0; i < layers; i++)
        state->layers[i].fused = (struct onednn_fused){.silu = own_silu && has_silu(layer_at(state, i)),
                                                       .gate = -1};
    state->unit_count = 0;
    for (int first = 0, last; first < layers; first = last + 1) {
        last = each_layer ? -1 : find_end(state, first);
        if (last >= 0) {
            state->layers[first].fused.row_sums = true;
            state->layers[first + 1].fused.mean = true;
            state->layers[last - 1].fused.skipped = true;
            state->layers[last].fused.gate = last - 1;
        } else {
            last = first;
        }
        state->units[state->unit_count++].unit = effnet_unit_of(state->model, first, last);
    }
}

void effnet_onednn_before_strip(const struct backend_state *state, const struct onednn_layer *layer,
                                const struct onednn_strip *strip, char *arena)
{
    if (layer->fused.gate < 0) return;
    const struct onednn_layer *scale = &state->layers[layer->fused.gate];
    const int channels = scale->layer->out_channels;
    const size_t pixels = (size_t)strip->shape.in_height * (size_t)strip->shape.in_width;
    const char *map = arena + scale->input_offsets[0] + strip->source_offset;
    float *values = (float *)(arena + scale->destination_offset + strip->source_offset);
    if ((const char *)values != map) memcpy(values, map, pixels * (size_t)channels * sizeof *values);
    effnet_onednn_gate(values, (const float *)(arena + scale->input_offsets[1]), pixels, channels);
}

void effnet_onednn_after_strip(const struct backend_state *state, const struct onednn_layer *layer,
                               const struct onednn_strip *strip, char *arena)
{
    if (!layer->fused.silu) return;
    float *values = (float *)(arena + layer->destination_offset + strip->destination_offset);
    if (!layer->fused.row_sums) {
        effnet_onednn_silu(values, strip->destination_bytes / sizeof *values);
        return;
    }
    const int width = layer->layer->out_width, channels = layer->layer->out_channels;
    const size_t row = (size_t)width * (size_t)channels;
    const size_t first = strip->destination_offset / (row * sizeof *values);
    float *sums = (float *)(arena + state->sums_offset) + first * (size_t)channels;
    for (int y = 0; y < strip->shape.out_height; y++)
        effnet_onednn_silu_sums(values + (size_t)y * row, width, channels, sums + y * channels);
}
