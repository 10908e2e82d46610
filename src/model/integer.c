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
    if (output->scale > 0 && layer->activation != EFFNET_ACT_NONE) to->low = output->zero;
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
    if (layer->residual < 0) return EFFNET_OK;
    to->residual_scale = outputs[layer->residual].scale;
    to->residual_zero = outputs[layer->residual].zero;
    to->residual_multiplier = (float)((double)outputs[layer->residual].scale / (double)output->scale);
    if (to->residual_multiplier <= 1 << 20) return EFFNET_OK;
    return effnet_json_fail(context, "a step of what it adds is %g of its output's, more than %d",
                            (double)to->residual_multiplier, 1 << 20);
}

/* The layer's tensors. */
static int take_tensors(struct safetensors *file, struct json_context *context,
                        const struct effnet_layer *layer, struct effnet_integer *to)
{
    char name[sizeof layer->name + 8];
    const void *weight, *bias, *scale;
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
    snprintf(name, sizeof name, "%s.scale", layer->name);
    EFFNET_TRY(effnet_safetensors_take(file, context, name, SAFETENSORS_F32, 1, shape, &scale));
    to->weight_scale = scale;
    for (int c = 0; c < layer->out_channels; c++)
        if (!(to->weight_scale[c] >= TABLE_MIN_SCALE && to->weight_scale[c] <= TABLE_MAX_SCALE))
            return effnet_json_fail(context, "value %d is %g, not from %g to %g", c,
                                    (double)to->weight_scale[c], (double)TABLE_MIN_SCALE,
                                    (double)TABLE_MAX_SCALE);
    return EFFNET_OK;
}

/* What a sum is multiplied with, each rounded to float once. Where the output is steps it is at most 1, so
 * that products fit where sums do. */
static int set_multipliers(const struct json_context *context, const struct effnet_layer *layer,
                           const struct effnet_integer *from, float *multipliers)
{
    const bool pool = layer->op == EFFNET_OP_POOL;
    const double divisor = (from->out_scale > 0 ? (double)from->out_scale : 1) *
                           (pool ? (double)layer->in_height * layer->in_width : 1);
    for (int c = 0; c < layer->out_channels; c++) {
        const double weight = pool ? 1 : (double)from->weight_scale[c];
        multipliers[c] = (float)((double)from->in_scale * weight / divisor);
        if (from->out_scale > 0 && multipliers[c] > 1)
            return effnet_json_fail(context,
                                    "channel %d: a step of its sum is %g of its output's, more than 1", c,
                                    (double)multipliers[c]);
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
    parts->multipliers = calloc(count, sizeof parts->multipliers[0]);
    if (!parts->layers || !parts->multipliers)
        return effnet_fail_nomem(context->error, "scales", count * sizeof parts->multipliers[0]);
    float *multipliers = parts->multipliers;
    for (int i = 0; i < layer_count; i++) {
        struct effnet_integer *to = &parts->layers[i];
        at_layer(context, &layers[i], i);
        EFFNET_TRY(set_zeros(context, outputs, i, preprocess, &layers[i], to));
        EFFNET_TRY(take_tensors(file, context, &layers[i], to));
        at_layer(context, &layers[i], i);
        EFFNET_TRY(set_multipliers(context, &layers[i], to, multipliers));
        to->multiplier = multipliers;
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
