#include "model/integer.h"

#include "common/error.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void at_layer(struct json_context *context, const struct effnet_layer *layer, int index)
{
    effnet_json_where(context, "network: layer %d '%s'", index, layer->name);
}

struct integer_reason effnet_integer_image_reason(const struct effnet_preprocess *preprocess)
{
    struct integer_reason reason = {""};
    for (int c = 0; c < 3 && !reason.text[0]; c++) {
        const double mean = rint((double)preprocess->mean[c]);
        if (!(mean >= 0 && mean <= 255))
            snprintf(reason.text, sizeof reason.text, "takes the image, whose mean %g is no byte",
                     (double)preprocess->mean[c]);
    }
    return reason;
}

/* What the layer reads, and what its output is clipped to. */
static int set_zeros(const struct json_context *context, const struct table_output *outputs, int index,
                     const struct effnet_preprocess *preprocess, const struct effnet_layer *layer,
                     struct effnet_integer *to)
{
    const struct table_output *output = &outputs[index];
    to->out_scale = output->scale;
    to->out_zero = output->zero;
    to->out_most = output->most;
    to->low = 0;
    to->high = output->scale > 0 ? output->most : EFFNET_MOST_BYTE;
    if (output->scale > 0 && layer->activation != EFFNET_ACT_NONE &&
        !effnet_integer_curved(layer->activation))
        to->low = output->zero;
    if (output->scale > 0 && layer->activation == EFFNET_ACT_RELU6) {
        const double six = rint(6 / (double)output->scale) + output->zero;
        if (six < to->high) to->high = (int)six;
    }
    to->image = layer->inputs[0] == EFFNET_IMAGE ? preprocess : NULL;
    if (to->image) {
        const struct integer_reason reason = effnet_integer_image_reason(preprocess);
        if (reason.text[0]) return effnet_json_fail(context, "%s", reason.text);
    }
    for (int c = 0; c < 3; c++)
        to->in_zero[c] = to->image ? (int)rint((double)preprocess->mean[c]) : outputs[layer->inputs[0]].zero;
    to->in_scale = to->image ? 1 : outputs[layer->inputs[0]].scale;
    to->in_most = to->image ? EFFNET_MOST_BYTE : outputs[layer->inputs[0]].most;
    if (layer->input_count < 2) return EFFNET_OK;
    const struct table_output *second = &outputs[layer->inputs[1]];
    to->second_scale = second->scale;
    to->second_zero = second->zero;
    to->second_most = second->most;
    if (layer->residual < 0) return EFFNET_OK;
    to->residual_multiplier = (float)((double)second->scale / (double)output->scale);
    if (to->residual_multiplier <= INTEGER_MAX_STEPS) return EFFNET_OK;
    return effnet_json_fail(context, "a step of what it adds is %g of its output's, more than %d",
                            (double)to->residual_multiplier, INTEGER_MAX_STEPS);
}

/* A tensor of positive floats, one an output channel. */
static int take_scales(struct safetensors *file, struct json_context *context,
                       const struct effnet_layer *layer, const char *part, const float **values)
{
    char name[sizeof layer->name + 8];
    const void *taken;
    const int64_t shape[] = {layer->out_channels};
    snprintf(name, sizeof name, "%s.%s", layer->name, part);
    EFFNET_TRY(effnet_safetensors_take(file, context, name, SAFETENSORS_F32, 1, shape, &taken));
    *values = taken;
    for (int c = 0; c < layer->out_channels; c++)
        if (!((*values)[c] >= TABLE_MIN_SCALE && (*values)[c] <= TABLE_MAX_SCALE))
            return effnet_json_fail(context, "value %d is %g, not from %g to %g", c, (double)(*values)[c],
                                    (double)TABLE_MIN_SCALE, (double)TABLE_MAX_SCALE);
    return EFFNET_OK;
}

/* The layer's tensors. */
static int take_tensors(struct safetensors *file, struct json_context *context,
                        const struct effnet_layer *layer, struct effnet_integer *to)
{
    char name[sizeof layer->name + 8];
    const void *weight, *bias;
    int64_t shape[4];
    const int rank = effnet_table_weight_shape(layer, shape);
    if (rank == 0) return EFFNET_OK;
    snprintf(name, sizeof name, "%s.weight", layer->name);
    EFFNET_TRY(effnet_safetensors_take(file, context, name, SAFETENSORS_I8, rank, shape, &weight));
    snprintf(name, sizeof name, "%s.bias", layer->name);
    EFFNET_TRY(effnet_safetensors_take(file, context, name, SAFETENSORS_I32, 1, shape, &bias));
    to->weight = weight;
    to->bias = bias;
    for (int c = 0; c < layer->out_channels; c++)
        if (to->bias[c] > INTEGER_MAX_BIAS || to->bias[c] < -INTEGER_MAX_BIAS)
            return effnet_json_fail(context, "value %d is %" PRId32 ", beyond %d", c, to->bias[c],
                                    INTEGER_MAX_BIAS);
    EFFNET_TRY(take_scales(file, context, layer, "scale", &to->weight_scale));
    if (to->out_scale == 0 || !effnet_integer_curved(layer->activation)) return EFFNET_OK;
    return take_scales(file, context, layer, "gain", &to->gain);
}

/* What a step of a sum, or of scale's product, stands for. */
static double sum_scale(const struct effnet_layer *layer, const struct effnet_integer *from, int c)
{
    const double step = (double)from->in_scale;
    switch (layer->op) {
    case EFFNET_OP_POOL: return step / ((double)layer->in_height * layer->in_width);
    case EFFNET_OP_SCALE: return step * (double)from->second_scale;
    default: return step * (double)from->weight_scale[c];
    }
}

/* What a sum is multiplied with, each rounded to float once. Where that gives output steps it is at most 1,
 * so that products fit where sums do. */
static int set_multipliers(const struct json_context *context, const struct effnet_layer *layer,
                           const struct effnet_integer *from, float *multipliers, float *out_multipliers)
{
    const bool steps = from->out_scale > 0 && !from->gain;
    for (int c = 0; c < layer->out_channels; c++) {
        const double scale = sum_scale(layer, from, c);
        multipliers[c] = (float)(steps ? scale / (double)from->out_scale : scale);
        if (steps && multipliers[c] > 1)
            return effnet_json_fail(context,
                                    "channel %d: a step of its sum is %g of its output's, more than 1", c,
                                    (double)multipliers[c]);
        if (!from->gain) continue;
        out_multipliers[c] = (float)((double)from->gain[c] / (double)from->out_scale);
        if (out_multipliers[c] > INTEGER_MAX_STEPS)
            return effnet_json_fail(context, "channel %d: its gain is %g of its output's steps, more than %d",
                                    c, (double)out_multipliers[c], INTEGER_MAX_STEPS);
    }
    return EFFNET_OK;
}

int effnet_integer_bind(struct safetensors *file, struct json_context *context,
                        const struct table_output *outputs, int layer_count,
                        const struct effnet_preprocess *preprocess, struct effnet_layer *layers,
                        struct integer_parts *parts)
{
    size_t count = 0;
    for (int i = 0; i < layer_count; i++) count += (size_t)layers[i].out_channels;
    parts->layers = calloc(layer_count > 0 ? (size_t)layer_count : 0, sizeof parts->layers[0]);
    parts->multipliers = calloc(2 * count, sizeof parts->multipliers[0]);
    if (!parts->layers || !parts->multipliers)
        return effnet_fail_nomem(context->error, "scales", 2 * count * sizeof parts->multipliers[0]);
    float *multipliers = parts->multipliers;
    for (int i = 0; i < layer_count; i++) {
        struct effnet_integer *to = &parts->layers[i];
        at_layer(context, &layers[i], i);
        EFFNET_TRY(set_zeros(context, outputs, i, preprocess, &layers[i], to));
        EFFNET_TRY(take_tensors(file, context, &layers[i], to));
        at_layer(context, &layers[i], i);
        EFFNET_TRY(set_multipliers(context, &layers[i], to, multipliers, multipliers + count));
        to->multiplier = multipliers;
        to->out_multiplier = to->gain ? multipliers + count : NULL;
        multipliers += layers[i].out_channels;
        layers[i].integer = to;
    }
    return effnet_safetensors_finish(file, context);
}

void effnet_integer_free(struct integer_parts *parts)
{
    free(parts->layers);
    free(parts->multipliers);
    *parts = (struct integer_parts){0};
}
