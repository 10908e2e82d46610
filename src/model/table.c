#include "model/table.h"

#include "common/error.h"
#include "common/utf8.h"

#include <stdlib.h>
#include <string.h>

enum {
    NAME,
    OP,
    IN,
    OUT,
    ACTIVATION,
    KERNEL,
    STRIDE,
    PAD,
    INPUTS,
    ADD,
    BLOCK,
    OUTPUT_SCALE,
    OUTPUT_ZERO,
    OUTPUT_BITS,
    FIELDS
};

static const struct json_field layer_fields[FIELDS] = {
    [NAME] = {.key = "name"},
    [OP] = {.key = "op"},
    [IN] = {.key = "in"},
    [OUT] = {.key = "out"},
    [ACTIVATION] = {.key = "activation", .optional = true},
    [KERNEL] = {.key = "kernel", .optional = true},
    [STRIDE] = {.key = "stride", .optional = true},
    [PAD] = {.key = "pad", .optional = true},
    [INPUTS] = {.key = "inputs", .optional = true},
    [ADD] = {.key = "add", .optional = true},
    [BLOCK] = {.key = "block", .optional = true},
    [OUTPUT_SCALE] = {.key = "output_scale", .optional = true},
    [OUTPUT_ZERO] = {.key = "output_zero", .optional = true},
    [OUTPUT_BITS] = {.key = "output_bits", .optional = true},
};

static bool has_window(enum effnet_op op)
{
    return op == EFFNET_OP_CONV || op == EFFNET_OP_DEPTHWISE;
}

/* The others take neither activation nor residual. */
static bool has_weights(enum effnet_op op)
{
    return op != EFFNET_OP_POOL && op != EFFNET_OP_SCALE;
}

/* What the layers can read: one of them, or the image. */
static const struct effnet_layer *source(const struct layer_table *table, int index)
{
    return index == EFFNET_IMAGE ? &table->image : &table->layers[index];
}

/* Index of the layer of this name among the first `count`, or -1. */
static int find_layer(const struct layer_table *table, int count, const char *name)
{
    while (--count >= 0 && strcmp(table->layers[count].name, name) != 0) continue;
    return count;
}

int effnet_table_check_version(const struct json_context *context, int version, const char *what,
                               const char *word)
{
    if (version >= 2) return EFFNET_OK;
    return effnet_json_fail(context, "%s \"%s\" came with format version 2, but the file says %d", what, word,
                            version);
}

/* Reads the name, which becomes part of tensor names and of messages. */
static int read_name(struct json_context *context, const cJSON *item, struct layer_table *table, int index)
{
    struct effnet_layer *layer = &table->layers[index];
    const char *name;
    EFFNET_TRY(effnet_json_string(context, item, "name", &name));
    if (!name[0] || strlen(name) >= sizeof layer->name)
        return effnet_json_fail(context, "name \"%s\" does not have 1 to %zu characters",
                                effnet_word(name).text, sizeof layer->name - 1);
    strcpy(layer->name, name);
    effnet_json_where(context, "network: layer %d '%s'", index, name);
    if (table->version >= 2 && strcmp(name, table->image.name) == 0)
        return effnet_json_fail(context, "the name stands for what the network takes");
    int same = find_layer(table, index, name);
    return same < 0 ? EFFNET_OK : effnet_json_fail(context, "layer %d has the same name", same);
}

static int read_op(const struct json_context *context, const cJSON *item, const struct layer_table *table,
                   struct effnet_layer *layer)
{
    const char *name;
    EFFNET_TRY(effnet_json_string(context, item, "op", &name));
    int op = effnet_op_from_name(name);
    if (op < 0) return effnet_json_fail(context, "unknown op \"%s\"", effnet_word(name).text);
    layer->op = (enum effnet_op)op;
    if (layer->op != EFFNET_OP_SCALE) return EFFNET_OK;
    return effnet_table_check_version(context, table->version, "op", name);
}

/* Finds what the layer reads: an earlier layer's output or the image. */
static int find_input(const struct json_context *context, const cJSON *item, const struct layer_table *table,
                      int index, int *input)
{
    const char *name;
    EFFNET_TRY(effnet_json_string(context, item, "an input", &name));
    *input = find_layer(table, index, name);
    if (*input >= 0) return EFFNET_OK;
    *input = EFFNET_IMAGE;
    if (strcmp(name, table->image.name) == 0) return EFFNET_OK;
    return effnet_json_fail(context, "takes \"%s\", which is no earlier layer", effnet_word(name).text);
}

static int read_inputs(const struct json_context *context, const struct json_field *field,
                       const struct layer_table *table, int index)
{
    struct effnet_layer *layer = &table->layers[index];
    layer->input_count = layer->op == EFFNET_OP_SCALE ? 2 : 1;
    layer->inputs[0] = index > 0 ? index - 1 : EFFNET_IMAGE;
    if (!field->value && layer->input_count == 1) return EFFNET_OK;
    if (!field->value)
        return effnet_json_fail(context, "%s needs the key \"%s\"", effnet_op_name(layer->op), field->key);
    EFFNET_TRY(effnet_table_check_version(context, table->version, "key", field->key));
    if (!cJSON_IsArray(field->value) || cJSON_GetArraySize(field->value) != layer->input_count)
        return effnet_json_fail(context, "inputs is not an array of %d name%s, as %s takes",
                                layer->input_count, layer->input_count > 1 ? "s" : "",
                                effnet_op_name(layer->op));
    for (int i = 0; i < layer->input_count; i++)
        EFFNET_TRY(find_input(context, cJSON_GetArrayItem(field->value, i), table, index, &layer->inputs[i]));
    if (layer->input_count > 1 && layer->inputs[0] == layer->inputs[1])
        return effnet_json_fail(context, "takes '%s' twice", source(table, layer->inputs[0])->name);
    return EFFNET_OK;
}

static int read_activation(const struct json_context *context, const cJSON *item,
                           const struct layer_table *table, struct effnet_layer *layer)
{
    const char *name = "none";
    EFFNET_TRY(effnet_json_string(context, item, "activation", &name));
    int activation = effnet_activation_from_name(name);
    if (activation < 0) return effnet_json_fail(context, "unknown activation \"%s\"", effnet_word(name).text);
    if (!item && has_weights(layer->op)) return effnet_json_fail(context, "key \"activation\" is missing");
    layer->activation = (enum effnet_activation)activation;
    if (!has_weights(layer->op) && layer->activation != EFFNET_ACT_NONE)
        return effnet_json_fail(context, "%s takes no activation", effnet_op_name(layer->op));
    if (layer->activation < EFFNET_ACT_SIGMOID) return EFFNET_OK;
    return effnet_table_check_version(context, table->version, "activation", name);
}

static int read_window(const struct json_context *context, const struct json_field *fields,
                       struct effnet_layer *layer)
{
    layer->kernel = layer->stride = 1;
    for (const struct json_field *field = &fields[KERNEL]; field <= &fields[PAD]; field++)
        if (!field->value == has_window(layer->op))
            return effnet_json_fail(context,
                                    field->value ? "%s takes no key \"%s\"" : "%s needs the key \"%s\"",
                                    effnet_op_name(layer->op), field->key);
    if (!has_window(layer->op)) return EFFNET_OK;
    int pad[4];
    EFFNET_TRY(effnet_json_int(context, fields[KERNEL].value, "kernel", 1, TABLE_MAX_KERNEL, &layer->kernel));
    EFFNET_TRY(effnet_json_int(context, fields[STRIDE].value, "stride", 1, TABLE_MAX_STRIDE, &layer->stride));
    /* A window that starts a whole kernel before the image would see nothing but padding. */
    EFFNET_TRY(effnet_json_ints(context, fields[PAD].value, "pad", 0, layer->kernel - 1, 4, pad));
    layer->pad_top = pad[0];
    layer->pad_left = pad[1];
    layer->pad_bottom = pad[2];
    layer->pad_right = pad[3];
    return EFFNET_OK;
}

static int read_residual(const struct json_context *context, const cJSON *item,
                         const struct layer_table *table, int index)
{
    struct effnet_layer *layer = &table->layers[index];
    layer->residual = -1;
    if (!item) return EFFNET_OK;
    const char *name;
    EFFNET_TRY(effnet_json_string(context, item, "add", &name));
    if (!has_weights(layer->op))
        return effnet_json_fail(context, "%s takes no key \"add\"", effnet_op_name(layer->op));
    layer->residual = find_layer(table, index, name);
    if (layer->residual < 0)
        return effnet_json_fail(context, "adds \"%s\", which is no earlier layer", effnet_word(name).text);
    const struct effnet_layer *from = source(table, layer->residual);
    if (from->out_height != layer->out_height || from->out_width != layer->out_width ||
        from->out_channels != layer->out_channels)
        return effnet_json_fail(context, "gives %dx%dx%d and adds '%s', which gives %dx%dx%d",
                                layer->out_height, layer->out_width, layer->out_channels, from->name,
                                from->out_height, from->out_width, from->out_channels);
    layer->inputs[layer->input_count++] = layer->residual;
    return EFFNET_OK;
}

/* Derives the output's height and width, and what the layer costs. */
static int derive(const struct json_context *context, struct effnet_layer *layer)
{
    layer->out_height = (layer->in_height + layer->pad_top + layer->pad_bottom - layer->kernel);
    layer->out_width = (layer->in_width + layer->pad_left + layer->pad_right - layer->kernel);
    if (layer->out_height < 0 || layer->out_width < 0)
        return effnet_json_fail(context, "kernel %d is larger than its padded input, %dx%d", layer->kernel,
                                layer->in_height + layer->pad_top + layer->pad_bottom,
                                layer->in_width + layer->pad_left + layer->pad_right);
    layer->out_height = layer->out_height / layer->stride + 1;
    layer->out_width = layer->out_width / layer->stride + 1;
    if (layer->op == EFFNET_OP_POOL) layer->out_height = layer->out_width = 1;

    int64_t pixels = (int64_t)layer->out_height * layer->out_width;
    if (pixels * layer->out_channels > TABLE_MAX_ELEMENTS)
        return effnet_json_fail(context, "output %dx%dx%d has more than %d elements", layer->out_height,
                                layer->out_width, layer->out_channels, TABLE_MAX_ELEMENTS);
    int64_t shape[4], weights = 1;
    int rank = effnet_table_weight_shape(layer, shape);
    for (int i = 0; i < rank; i++) weights *= shape[i];
    layer->parameters = rank ? weights + layer->out_channels : 0;
    layer->multiply_adds = rank ? weights * pixels : 0;
    return EFFNET_OK;
}

/* Checks a layer against what it takes. */
static int check_sources(const struct json_context *context, const struct layer_table *table,
                         const struct effnet_layer *layer)
{
    const struct effnet_layer *from = source(table, layer->inputs[0]);
    bool vector = from->op == EFFNET_OP_POOL || from->op == EFFNET_OP_LINEAR;
    const char *op = effnet_op_name(layer->op);
    if (layer->in_channels != from->out_channels)
        return effnet_json_fail(context, "takes %d channels, but its input has %d", layer->in_channels,
                                from->out_channels);
    if ((layer->op == EFFNET_OP_DEPTHWISE || !has_weights(layer->op)) &&
        layer->out_channels != layer->in_channels)
        return effnet_json_fail(context, "%s from %d to %d channels; both must be the same", op,
                                layer->in_channels, layer->out_channels);
    if (layer->op == EFFNET_OP_LINEAR && !vector)
        return effnet_json_fail(context, "linear takes what pool or linear gives, not a map of %dx%dx%d",
                                layer->in_height, layer->in_width, layer->in_channels);
    if (layer->op != EFFNET_OP_LINEAR && vector)
        return effnet_json_fail(context, "%s after %s: only linear may follow", op, effnet_op_name(from->op));
    if (layer->op != EFFNET_OP_SCALE) return EFFNET_OK;
    const struct effnet_layer *gate = source(table, layer->inputs[1]);
    if (gate->out_height != 1 || gate->out_width != 1 || gate->out_channels != layer->in_channels)
        return effnet_json_fail(context, "its gate '%s' gives %dx%dx%d, not 1x1x%d", gate->name,
                                gate->out_height, gate->out_width, gate->out_channels, layer->in_channels);
    return EFFNET_OK;
}

/* What a step of the layer's output stands for, in an integer network. */
static int read_output(const struct json_context *context, const struct json_field *fields,
                       struct layer_table *table, int index)
{
    struct table_output *output = &table->outputs[index];
    if (!fields[OUTPUT_SCALE].value != !fields[OUTPUT_ZERO].value)
        return effnet_json_fail(context, "output_scale and output_zero come together");
    if (!fields[OUTPUT_SCALE].value && fields[OUTPUT_BITS].value)
        return effnet_json_fail(context, "output_bits comes with output_scale and output_zero");
    if (!fields[OUTPUT_SCALE].value) return EFFNET_OK;
    int bits = 8;
    EFFNET_TRY(effnet_table_check_version(context, table->version, "key", "output_scale"));
    EFFNET_TRY(effnet_json_float(context, fields[OUTPUT_SCALE].value, "output_scale", &output->scale));
    EFFNET_TRY(effnet_json_int(context, fields[OUTPUT_BITS].value, "output_bits", 8, 15, &bits));
    if (bits != 8 && bits != 15) return effnet_json_fail(context, "output_bits is %d, not 8 or 15", bits);
    output->most = bits == 8 ? EFFNET_MOST_BYTE : EFFNET_MOST_WIDE;
    EFFNET_TRY(
        effnet_json_int(context, fields[OUTPUT_ZERO].value, "output_zero", 0, output->most, &output->zero));
    if (!(output->scale >= TABLE_MIN_SCALE && output->scale <= TABLE_MAX_SCALE))
        return effnet_json_fail(context, "output_scale %g is not from %g to %g", (double)output->scale,
                                (double)TABLE_MIN_SCALE, (double)TABLE_MAX_SCALE);
    return EFFNET_OK;
}

static int read_layer(struct json_context *context, const cJSON *item, struct layer_table *table, int index)
{
    struct effnet_layer *layer = &table->layers[index];
    struct json_field fields[FIELDS];
    memcpy(fields, layer_fields, sizeof fields);
    effnet_json_where(context, "network: layer %d", index);
    EFFNET_TRY(effnet_json_fields(context, item, fields, FIELDS, true));
    EFFNET_TRY(read_name(context, fields[NAME].value, table, index));
    EFFNET_TRY(read_op(context, fields[OP].value, table, layer));
    EFFNET_TRY(effnet_json_int(context, fields[IN].value, "in", 1, TABLE_MAX_CHANNELS, &layer->in_channels));
    EFFNET_TRY(
        effnet_json_int(context, fields[OUT].value, "out", 1, TABLE_MAX_CHANNELS, &layer->out_channels));
    layer->block = -1;
    EFFNET_TRY(effnet_json_int(context, fields[BLOCK].value, "block", 0, TABLE_MAX_LAYERS, &layer->block));
    EFFNET_TRY(read_inputs(context, &fields[INPUTS], table, index));
    layer->in_height = source(table, layer->inputs[0])->out_height;
    layer->in_width = source(table, layer->inputs[0])->out_width;
    EFFNET_TRY(read_activation(context, fields[ACTIVATION].value, table, layer));
    EFFNET_TRY(read_window(context, fields, layer));
    EFFNET_TRY(check_sources(context, table, layer));
    EFFNET_TRY(derive(context, layer));
    EFFNET_TRY(read_residual(context, fields[ADD].value, table, index));
    EFFNET_TRY(read_output(context, fields, table, index));
    layer->last_reader = index;
    for (int i = 0; i < layer->input_count; i++)
        if (layer->inputs[i] != EFFNET_IMAGE) table->layers[layer->inputs[i]].last_reader = index;
    return EFFNET_OK;
}

int effnet_table_weight_shape(const struct effnet_layer *layer, int64_t shape[4])
{
    if (!has_weights(layer->op)) return 0;
    shape[0] = layer->out_channels;
    shape[1] = layer->op == EFFNET_OP_DEPTHWISE ? 1 : layer->in_channels;
    shape[2] = shape[3] = layer->kernel;
    return layer->op == EFFNET_OP_LINEAR ? 2 : 4;
}

/* Reads the layers into table->layers, which the caller frees. */
static int read_layers(struct json_context *context, const cJSON *layers, struct layer_table *table)
{
    int count = cJSON_IsArray(layers) ? cJSON_GetArraySize(layers) : 0;
    if (count < 1 || count > TABLE_MAX_LAYERS)
        return effnet_json_fail(context, "\"layers\" is not an array of 1 to %d layers", TABLE_MAX_LAYERS);
    table->layers = calloc((size_t)count, sizeof table->layers[0]);
    table->outputs = calloc((size_t)count, sizeof table->outputs[0]);
    if (!table->layers || !table->outputs)
        return effnet_fail_nomem(context->error, "layer table", (size_t)count * sizeof table->layers[0]);
    for (const cJSON *item = layers->child; item; item = item->next) {
        EFFNET_TRY(read_layer(context, item, table, table->layer_count));
        table->layer_count++;
    }
    const struct effnet_layer *last = &table->layers[count - 1];
    if (last->op != EFFNET_OP_LINEAR)
        return effnet_json_fail(context, "the last layer is %s, not linear", effnet_op_name(last->op));
    for (int i = 0; i < count - 1; i++) {
        if (table->layers[i].last_reader > i) continue;
        effnet_json_where(context, "network: layer %d '%s'", i, table->layers[i].name);
        return effnet_json_fail(context, "no layer takes its output");
    }
    return effnet_table_check_integer(context, table);
}

void effnet_table_free(struct layer_table *table)
{
    free(table->layers);
    free(table->outputs);
    *table = (struct layer_table){0};
}

int effnet_table_read(struct json_context *context, const cJSON *network, int version,
                      struct layer_table *table)
{
    struct json_field fields[] = {
        {.key = "name"}, {.key = "input"}, {.key = "layers"}, {.key = "multi_label", .optional = true}};
    *table = (struct layer_table){.version = version, .image = {.name = TABLE_IMAGE}};
    int input[3];
    effnet_json_where(context, "network");
    EFFNET_TRY(effnet_json_fields(context, network, fields, 4, true));
    EFFNET_TRY(effnet_json_string(context, fields[0].value, "name", &table->network));
    EFFNET_TRY(effnet_json_ints(context, fields[1].value, "input", 1, TABLE_MAX_SPATIAL, 3, input));
    if (!table->network[0]) return effnet_json_fail(context, "the name is empty");
    if (input[0] != 3) return effnet_json_fail(context, "input has %d channels, not 3", input[0]);
    if (fields[3].value) EFFNET_TRY(effnet_table_check_version(context, version, "key", fields[3].key));
    EFFNET_TRY(effnet_json_bool(context, fields[3].value, "multi_label", &table->multi_label));
    table->image.out_channels = input[0];
    table->image.out_height = input[1];
    table->image.out_width = input[2];
    int status = read_layers(context, fields[2].value, table);
    if (status) effnet_table_free(table);
    return status;
}
