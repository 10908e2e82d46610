/* Which networks may be of integers. */
#include "common/error.h"
#include "model/integer.h"

#include <inttypes.h>
#include <stdio.h>

bool effnet_integer_curved(enum effnet_activation activation)
{
    return activation == EFFNET_ACT_SILU || activation == EFFNET_ACT_SIGMOID;
}

/* Whether one of its inputs is the image. */
static bool reads_image(const struct effnet_layer *layer)
{
    return layer->inputs[0] == EFFNET_IMAGE || (layer->input_count > 1 && layer->inputs[1] == EFFNET_IMAGE);
}

struct integer_reason effnet_integer_layer_reason(const struct effnet_layer *layer, bool last)
{
    const int64_t terms = (int64_t)(layer->op == EFFNET_OP_DEPTHWISE ? 1 : layer->in_channels) *
                          layer->kernel * layer->kernel;
    const int64_t pixels = (int64_t)layer->in_height * layer->in_width;
    struct integer_reason reason = {""};
    const size_t size = sizeof reason.text;
    if (last && layer->residual >= 0)
        snprintf(reason.text, size, "the last layer of an integer network adds nothing");
    else if (layer->activation > EFFNET_ACT_RELU6 && !effnet_integer_curved(layer->activation))
        snprintf(reason.text, size,
                 "activation %s is not defined for integers: none, relu, relu6, silu and sigmoid are",
                 effnet_activation_name(layer->activation));
    else if (layer->residual >= 0 && effnet_integer_curved(layer->activation))
        snprintf(reason.text, size, "adds before %s, which is not defined for integers",
                 effnet_activation_name(layer->activation));
    else if ((layer->op == EFFNET_OP_POOL || layer->op == EFFNET_OP_SCALE) && reads_image(layer))
        snprintf(reason.text, size, "%s of the image is not defined for integers", effnet_op_name(layer->op));
    else if (layer->op == EFFNET_OP_POOL && pixels > INTEGER_MAX_PIXELS)
        snprintf(reason.text, size, "the mean of %" PRId64 " pixels, integers' sums hold %d", pixels,
                 INTEGER_MAX_PIXELS);
    else if (layer->op != EFFNET_OP_POOL && layer->op != EFFNET_OP_SCALE && terms > INTEGER_MAX_TERMS)
        snprintf(reason.text, size, "sums of %" PRId64 " products, integers' sums hold %d", terms,
                 INTEGER_MAX_TERMS);
    return reason;
}

bool effnet_integer_takes_wide(const struct effnet_layer *layer, int input)
{
    return layer->op == (input == 0 ? EFFNET_OP_DEPTHWISE : EFFNET_OP_SCALE);
}

static int check_sources(const struct json_context *context, const struct layer_table *table,
                         const struct effnet_layer *layer)
{
    for (int k = 0; k < layer->input_count; k++) {
        const int from = layer->inputs[k];
        if (from == EFFNET_IMAGE || table->outputs[from].most != EFFNET_MOST_WIDE) continue;
        if (!effnet_integer_takes_wide(layer, k))
            return effnet_json_fail(
                context, "%s '%s', whose output_bits is 15: depthwise layers and, as a gate, scale read that",
                from == layer->residual ? "adds" : "takes", table->layers[from].name);
    }
    return EFFNET_OK;
}

int effnet_table_check_integer(struct json_context *context, struct layer_table *table)
{
    const int last = table->layer_count - 1;
    table->integer = false;
    for (int i = 0; i <= last; i++) table->integer |= table->outputs[i].scale > 0;
    if (!table->integer) return EFFNET_OK;
    for (int i = 0; i <= last; i++) {
        effnet_json_where(context, "network: layer %d '%s'", i, table->layers[i].name);
        if (i == last && table->outputs[i].scale > 0)
            return effnet_json_fail(context, "the last layer takes no output_scale: it gives floats");
        if (i < last && table->outputs[i].scale == 0)
            return effnet_json_fail(context, "has no output_scale, which other layers have");
        const struct integer_reason reason = effnet_integer_layer_reason(&table->layers[i], i == last);
        if (reason.text[0]) return effnet_json_fail(context, "%s", reason.text);
        EFFNET_TRY(check_sources(context, table, &table->layers[i]));
    }
    return EFFNET_OK;
}
