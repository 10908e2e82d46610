#include "common/error.h"
#include "common/utf8.h"
#include "model/integer.h"
#include "model/safetensors.h"
#include "model/table.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FORMAT, VERSION, NETWORK, PREPROCESS, LABELS, SOURCE, METADATA_FIELDS };

struct effnet_model {
    struct effnet_model_info info; /* its strings are in `path` and in the JSON below */
    struct layer_table table;
    struct integer_parts integer;
    struct effnet_label *labels;
    char *path;
    struct safetensors file;
    cJSON *parsed[METADATA_FIELDS]; /* of the members that hold JSON */
};

/* A header without any is told so later, in better words. */
static bool has_tensors(const struct safetensors *file)
{
    const cJSON *item = file->header->child;
    return cJSON_IsObject(item && item == file->metadata ? item->next : item);
}

/* Refuses another program's file as such, before its tensors are read: there the first complaint would be of
 * some type that effnet does not take. */
static int check_format(const struct effnet_model *model, struct json_context *context)
{
    const cJSON *format = cJSON_GetObjectItemCaseSensitive(model->file.metadata, "format");
    char reason[128] = "is missing";
    if (cJSON_IsString(format) && strcmp(format->valuestring, "effnet") == 0) return EFFNET_OK;
    if (cJSON_IsString(format))
        snprintf(reason, sizeof reason, "format \"%s\" is not \"effnet\"",
                 effnet_word(format->valuestring).text);
    else if (cJSON_IsObject(model->file.metadata))
        snprintf(reason, sizeof reason, format ? "\"format\" is not a string" : "key \"format\" is missing");
    effnet_json_where(context, "__metadata__");
    return effnet_json_fail(
        context, "%s: safetensors without effnet's layer table; convert it with tools/convert.py", reason);
}

/* Finds the members of __metadata__, all of them strings. */
static int read_metadata(struct effnet_model *model, struct json_context *context, struct json_field *fields)
{
    effnet_json_where(context, "__metadata__");
    EFFNET_TRY(effnet_json_fields(context, model->file.metadata, fields, METADATA_FIELDS, false));
    for (int i = 0; i < METADATA_FIELDS; i++)
        if (fields[i].value && !cJSON_IsString(fields[i].value))
            return effnet_json_fail(context, "\"%s\" is not a string", fields[i].key);
    const char *version = fields[VERSION].value->valuestring;
    if (strcmp(version, "1") != 0 && strcmp(version, "2") != 0)
        return effnet_json_fail(
            context, "format version \"%s\" is not supported, only \"1\" and \"2\" are: convert again",
            effnet_word(version).text);
    return EFFNET_OK;
}

/* As read_metadata has checked it. */
static int format_version(const struct json_field *members)
{
    return members[VERSION].value->valuestring[0] - '0';
}

/* Parses the JSON text that a metadata string holds, into model->parsed. */
static int parse_text(struct effnet_model *model, struct json_context *context,
                      const struct json_field *members, int member)
{
    const char *text = members[member].value->valuestring;
    effnet_json_where(context, "%s", members[member].key);
    return effnet_json_parse(context, text, strlen(text), &model->parsed[member]);
}

/* How the image is resized, and to which sizes. */
static int read_resize(const struct json_context *context, const struct json_field *field, int version,
                       struct effnet_preprocess *p)
{
    const char *resize = "short-side";
    if (field->value) EFFNET_TRY(effnet_table_check_version(context, version, "key", field->key));
    EFFNET_TRY(effnet_json_string(context, field->value, "resize", &resize));
    int kind = effnet_resize_from_name(resize);
    if (kind < 0)
        return effnet_json_fail(context,
                                "unknown resize \"%s\", only \"short-side\" and \"squash\" are known",
                                effnet_word(resize).text);
    p->resize = (enum effnet_resize)kind;
    if (p->short_side < p->crop)
        return effnet_json_fail(context, "short_side %d is smaller than crop %d", p->short_side, p->crop);
    if (p->resize == EFFNET_RESIZE_SQUASH && p->short_side != p->crop)
        return effnet_json_fail(context,
                                "resize \"squash\" with short_side %d and crop %d; both must be the same",
                                p->short_side, p->crop);
    return EFFNET_OK;
}

static int read_preprocess(struct effnet_model *model, struct json_context *context,
                           const struct json_field *members)
{
    enum { SHORT_SIDE, CROP, INTERPOLATION, MEAN, STD, RESIZE, FIELDS };
    struct json_field fields[FIELDS] = {{.key = "short_side"},    {.key = "crop"},
                                        {.key = "interpolation"}, {.key = "mean"},
                                        {.key = "std"},           {.key = "resize", .optional = true}};
    struct effnet_model_info *info = &model->info;
    struct effnet_preprocess *p = &info->preprocess;
    const char *interpolation;
    EFFNET_TRY(parse_text(model, context, members, PREPROCESS));
    EFFNET_TRY(effnet_json_fields(context, model->parsed[PREPROCESS], fields, FIELDS, true));
    EFFNET_TRY(effnet_json_int(context, fields[SHORT_SIDE].value, "short_side", 1, 2 * TABLE_MAX_SPATIAL,
                               &p->short_side));
    EFFNET_TRY(effnet_json_int(context, fields[CROP].value, "crop", 1, TABLE_MAX_SPATIAL, &p->crop));
    EFFNET_TRY(effnet_json_string(context, fields[INTERPOLATION].value, "interpolation", &interpolation));
    EFFNET_TRY(effnet_json_floats(context, fields[MEAN].value, "mean", 3, p->mean));
    EFFNET_TRY(effnet_json_floats(context, fields[STD].value, "std", 3, p->std));

    int kind = effnet_interpolation_from_name(interpolation);
    if (kind < 0)
        return effnet_json_fail(context, "unknown interpolation \"%s\"", effnet_word(interpolation).text);
    p->interpolation = (enum effnet_interpolation)kind;
    if (p->crop != info->height || p->crop != info->width)
        return effnet_json_fail(context, "crop %d is not the network's input, %dx%d", p->crop, info->height,
                                info->width);
    EFFNET_TRY(read_resize(context, &fields[RESIZE], format_version(members), p));
    for (int i = 0; i < 3; i++)
        if (!(p->std[i] >= 1e-6f)) /* 255 / std must stay a number of sane size in every precision */
            return effnet_json_fail(context, "std %g is not at least 1e-6", (double)p->std[i]);
    return EFFNET_OK;
}

static int read_labels(struct effnet_model *model, struct json_context *context,
                       const struct json_field *members)
{
    EFFNET_TRY(parse_text(model, context, members, LABELS));
    const cJSON *labels = model->parsed[LABELS];
    if (!cJSON_IsArray(labels)) return effnet_json_fail(context, "not an array");
    int count = cJSON_GetArraySize(labels);
    if (count != model->info.classes)
        return effnet_json_fail(context, "%d labels for %d classes", count, model->info.classes);
    model->labels = calloc((size_t)count, sizeof model->labels[0]);
    if (!model->labels)
        return effnet_fail_nomem(context->error, "labels", (size_t)count * sizeof model->labels[0]);
    int i = 0;
    for (const cJSON *item = labels->child; item; item = item->next, i++) {
        struct json_field fields[] = {{.key = "id", .optional = true}, {.key = "name"}};
        effnet_json_where(context, "labels: class %d", i);
        model->labels[i].id = "";
        EFFNET_TRY(effnet_json_fields(context, item, fields, 2, false));
        EFFNET_TRY(effnet_json_string(context, fields[0].value, "id", &model->labels[i].id));
        EFFNET_TRY(effnet_json_string(context, fields[1].value, "name", &model->labels[i].name));
    }
    return EFFNET_OK;
}

static int read_source(struct effnet_model *model, struct json_context *context,
                       const struct json_field *members)
{
    struct json_field fields[] = {{.key = "file", .optional = true}, {.key = "sha256", .optional = true}};
    model->info.source_file = model->info.source_sha256 = "";
    if (!members[SOURCE].value) return EFFNET_OK;
    EFFNET_TRY(parse_text(model, context, members, SOURCE));
    EFFNET_TRY(effnet_json_fields(context, model->parsed[SOURCE], fields, 2, false));
    EFFNET_TRY(effnet_json_string(context, fields[0].value, "file", &model->info.source_file));
    return effnet_json_string(context, fields[1].value, "sha256", &model->info.source_sha256);
}

static int read_network(struct effnet_model *model, struct json_context *context,
                        const struct json_field *members)
{
    const struct layer_table *table = &model->table;
    EFFNET_TRY(parse_text(model, context, members, NETWORK));
    EFFNET_TRY(effnet_table_read(context, model->parsed[NETWORK], format_version(members), &model->table));
    struct effnet_model_info *info = &model->info;
    info->network = table->network;
    info->multi_label = table->multi_label;
    info->integer = table->integer;
    info->layer_count = table->layer_count;
    info->channels = table->image.out_channels;
    info->height = table->image.out_height;
    info->width = table->image.out_width;
    info->classes = table->layers[table->layer_count - 1].out_channels;
    const struct effnet_layer *pool = &table->layers[effnet_model_head_pool(model)];
    info->feature_channels = pool->in_channels;
    info->feature_height = pool->in_height;
    info->feature_width = pool->in_width;
    for (int i = 0; i < table->layer_count; i++) {
        info->parameters += table->layers[i].parameters;
        info->multiply_adds += table->layers[i].multiply_adds;
    }
    return EFFNET_OK;
}

/* Finds every layer's weight and bias. */
static int bind_tensors(struct effnet_model *model, struct json_context *context)
{
    if (model->info.integer)
        return effnet_integer_bind(&model->file, context, model->table.outputs, model->info.layer_count,
                                   &model->info.preprocess, model->table.layers, &model->integer);
    for (int i = 0; i < model->info.layer_count; i++) {
        struct effnet_layer *layer = &model->table.layers[i];
        char name[sizeof layer->name + 8];
        const void *weight, *bias;
        int64_t shape[4];
        int rank = effnet_table_weight_shape(layer, shape);
        if (rank == 0) continue;
        snprintf(name, sizeof name, "%s.weight", layer->name);
        EFFNET_TRY(
            effnet_safetensors_take(&model->file, context, name, SAFETENSORS_F32, rank, shape, &weight));
        snprintf(name, sizeof name, "%s.bias", layer->name);
        EFFNET_TRY(effnet_safetensors_take(&model->file, context, name, SAFETENSORS_F32, 1, shape, &bias));
        layer->weight = weight;
        layer->bias = bias;
    }
    return effnet_safetensors_finish(&model->file, context);
}

static int read_model(struct effnet_model *model, const char *path, struct json_context *context)
{
    struct json_field fields[METADATA_FIELDS] = {
        [FORMAT] = {.key = "format"},   [VERSION] = {.key = "format_version"},
        [NETWORK] = {.key = "network"}, [PREPROCESS] = {.key = "preprocess"},
        [LABELS] = {.key = "labels"},   [SOURCE] = {.key = "source", .optional = true},
    };
    model->path = strdup(path);
    if (!model->path) return effnet_fail_nomem(context->error, "model", strlen(path));
    model->info.path = model->path;
    EFFNET_TRY(effnet_safetensors_open(&model->file, path, context));
    if (has_tensors(&model->file)) EFFNET_TRY(check_format(model, context));
    EFFNET_TRY(effnet_safetensors_read_tensors(&model->file, context));
    EFFNET_TRY(read_metadata(model, context, fields));
    EFFNET_TRY(read_network(model, context, fields));
    EFFNET_TRY(read_preprocess(model, context, fields));
    EFFNET_TRY(read_labels(model, context, fields));
    EFFNET_TRY(read_source(model, context, fields));
    return bind_tensors(model, context);
}

int effnet_model_open(const char *path, effnet_model **out, struct effnet_error *error)
{
    if (!out) return effnet_fail(error, EFFNET_E_USAGE, "model: no place to put it");
    *out = NULL;
    if (!path) return effnet_fail(error, EFFNET_E_USAGE, "model: no path");
    struct effnet_model *model = calloc(1, sizeof *model);
    if (!model) return effnet_fail_nomem(error, "model", sizeof *model);
    struct json_context context;
    effnet_json_context(&context, path, error);
    int status = read_model(model, path, &context);
    if (status)
        effnet_model_close(model);
    else
        *out = model;
    return status;
}

void effnet_model_close(effnet_model *model)
{
    if (!model) return;
    effnet_safetensors_close(&model->file);
    for (int i = 0; i < METADATA_FIELDS; i++) cJSON_Delete(model->parsed[i]);
    effnet_table_free(&model->table);
    effnet_integer_free(&model->integer);
    free(model->labels);
    free(model->path);
    free(model);
}

const struct effnet_model_info *effnet_model_get_info(const effnet_model *model)
{
    return &model->info;
}

const struct effnet_layer *effnet_model_layer(const effnet_model *model, int index)
{
    assert(index >= 0 && index < model->info.layer_count);
    return &model->table.layers[index];
}

const char *effnet_model_metadata(const effnet_model *model, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(model->file.metadata, key));
}

/* The last layer is linear, and what a linear layer reads comes from another one or from a pool. */
int effnet_model_head_pool(const effnet_model *model)
{
    int index = model->info.layer_count - 1;
    while (effnet_model_layer(model, index)->op == EFFNET_OP_LINEAR)
        index = effnet_model_layer(model, index)->inputs[0];
    return index;
}

const char *effnet_input_name(const effnet_model *model, int index)
{
    return index == EFFNET_IMAGE ? TABLE_IMAGE : effnet_model_layer(model, index)->name;
}

size_t effnet_layer_in_size(const struct effnet_layer *layer, int input)
{
    if (input > 0) return layer->residual >= 0 ? effnet_layer_out_size(layer) : (size_t)layer->in_channels;
    return (size_t)layer->in_height * (size_t)layer->in_width * (size_t)layer->in_channels;
}

size_t effnet_layer_out_size(const struct effnet_layer *layer)
{
    return (size_t)layer->out_height * (size_t)layer->out_width * (size_t)layer->out_channels;
}

struct effnet_label effnet_model_label(const effnet_model *model, int class_index)
{
    assert(class_index >= 0 && class_index < model->info.classes);
    return model->labels[class_index];
}
