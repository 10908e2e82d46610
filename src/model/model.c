#include "common/error.h"
#include "common/utf8.h"
#include "model/names.h"
#include "model/safetensors.h"
#include "model/table.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct effnet_model {
    struct effnet_model_info info; /* its strings are in `path` and in the JSON below */
    struct effnet_layer *layers;
    struct effnet_label *labels;
    char *path;
    struct safetensors file;
    cJSON *network, *label_list, *source;
};

enum { FORMAT, VERSION, NETWORK, PREPROCESS, LABELS, SOURCE, METADATA_FIELDS };

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
    return effnet_json_fail(context,
                            "%s: safetensors without effnet's layer table; tools/convert.py makes effnet's "
                            "weights of it",
                            reason);
}

/* Finds the members of __metadata__, all of them strings. */
static int read_metadata(struct effnet_model *model, struct json_context *context, struct json_field *fields)
{
    effnet_json_where(context, "__metadata__");
    int status = effnet_json_fields(context, model->file.metadata, fields, METADATA_FIELDS, false);
    for (int i = 0; !status && i < METADATA_FIELDS; i++)
        if (fields[i].value && !cJSON_IsString(fields[i].value))
            status = effnet_json_fail(context, "\"%s\" is not a string", fields[i].key);
    if (status) return status;
    const char *version = fields[VERSION].value->valuestring;
    if (strcmp(version, "1") != 0 && strcmp(version, "2") != 0)
        return effnet_json_fail(
            context, "format version \"%s\" is not supported, only \"1\" and \"2\" are: convert again",
            effnet_word(version).text);
    return EFFNET_OK;
}

/* Parses the JSON text that a metadata string holds. */
static int parse_text(struct json_context *context, const struct json_field *field, cJSON **out)
{
    effnet_json_where(context, "%s", field->key);
    return effnet_json_parse(context, field->value->valuestring, strlen(field->value->valuestring), out);
}

static int check_preprocess(struct json_context *context, const cJSON *json, struct effnet_model_info *info)
{
    enum { SHORT_SIDE, CROP, INTERPOLATION, MEAN, STD, FIELDS };
    struct json_field fields[FIELDS] = {
        {.key = "short_side"}, {.key = "crop"}, {.key = "interpolation"}, {.key = "mean"}, {.key = "std"}};
    struct effnet_preprocess *p = &info->preprocess;
    int64_t short_side, crop;
    const char *interpolation;
    int status = effnet_json_fields(context, json, fields, FIELDS, true);
    if (!status)
        status = effnet_json_integer(context, fields[SHORT_SIDE].value, "short_side", 1,
                                     2 * TABLE_MAX_SPATIAL, &short_side);
    if (!status)
        status = effnet_json_integer(context, fields[CROP].value, "crop", 1, TABLE_MAX_SPATIAL, &crop);
    if (!status)
        status = effnet_json_string(context, fields[INTERPOLATION].value, "interpolation", &interpolation);
    if (!status) status = effnet_json_floats(context, fields[MEAN].value, "mean", 3, p->mean);
    if (!status) status = effnet_json_floats(context, fields[STD].value, "std", 3, p->std);
    if (status) return status;

    int kind = effnet_interpolation_from_name(interpolation);
    if (kind < 0)
        return effnet_json_fail(context, "unknown interpolation \"%s\"", effnet_word(interpolation).text);
    p->interpolation = (enum effnet_interpolation)kind;
    p->short_side = (int)short_side;
    p->crop = (int)crop;
    if (p->crop != info->height || p->crop != info->width)
        return effnet_json_fail(context, "crop %d is not the network's input, %dx%d", p->crop, info->height,
                                info->width);
    if (p->short_side < p->crop)
        return effnet_json_fail(context, "short_side %d is smaller than crop %d", p->short_side, p->crop);
    for (int i = 0; i < 3; i++)
        if (!(p->std[i] >= 1e-6f)) /* 255 / std must stay a number of sane size in every precision */
            return effnet_json_fail(context, "std %g is not at least 1e-6", (double)p->std[i]);
    return EFFNET_OK;
}

static int read_preprocess(struct json_context *context, const struct json_field *field,
                           struct effnet_model_info *info)
{
    cJSON *json;
    int status = parse_text(context, field, &json);
    if (!status) status = check_preprocess(context, json, info);
    cJSON_Delete(json);
    return status;
}

static int read_labels(struct effnet_model *model, struct json_context *context,
                       const struct json_field *field)
{
    int status = parse_text(context, field, &model->label_list);
    if (status) return status;
    if (!cJSON_IsArray(model->label_list)) return effnet_json_fail(context, "not an array");
    int count = cJSON_GetArraySize(model->label_list);
    if (count != model->info.classes)
        return effnet_json_fail(context, "%d labels for %d classes", count, model->info.classes);
    model->labels = calloc((size_t)count, sizeof model->labels[0]);
    if (!model->labels)
        return effnet_fail_nomem(context->error, "labels", (size_t)count * sizeof model->labels[0]);
    int i = 0;
    for (const cJSON *item = model->label_list->child; !status && item; item = item->next, i++) {
        struct json_field fields[] = {{.key = "id", .optional = true}, {.key = "name"}};
        effnet_json_where(context, "labels: class %d", i);
        model->labels[i].id = "";
        status = effnet_json_fields(context, item, fields, 2, false);
        if (!status && fields[0].value)
            status = effnet_json_string(context, fields[0].value, "id", &model->labels[i].id);
        if (!status) status = effnet_json_string(context, fields[1].value, "name", &model->labels[i].name);
    }
    return status;
}

static int read_source(struct effnet_model *model, struct json_context *context,
                       const struct json_field *field)
{
    struct json_field fields[] = {{.key = "file", .optional = true}, {.key = "sha256", .optional = true}};
    model->info.source_file = model->info.source_sha256 = "";
    if (!field->value) return EFFNET_OK;
    int status = parse_text(context, field, &model->source);
    if (!status) status = effnet_json_fields(context, model->source, fields, 2, false);
    if (!status && fields[0].value)
        status = effnet_json_string(context, fields[0].value, "file", &model->info.source_file);
    if (!status && fields[1].value)
        status = effnet_json_string(context, fields[1].value, "sha256", &model->info.source_sha256);
    return status;
}

static int read_network(struct effnet_model *model, struct json_context *context,
                        const struct json_field *fields)
{
    struct layer_table table;
    int status = parse_text(context, &fields[NETWORK], &model->network);
    int version = fields[VERSION].value->valuestring[0] - '0';
    if (!status) status = effnet_table_read(context, model->network, version, &table);
    if (status) return status;
    struct effnet_model_info *info = &model->info;
    model->layers = table.layers;
    info->network = table.network;
    info->layer_count = table.layer_count;
    info->channels = table.image.out_channels;
    info->height = table.image.out_height;
    info->width = table.image.out_width;
    info->classes = table.layers[table.layer_count - 1].out_channels;
    for (int i = 0; i < table.layer_count; i++) {
        info->parameters += table.layers[i].parameters;
        info->multiply_adds += table.layers[i].multiply_adds;
    }
    return EFFNET_OK;
}

/* Finds every layer's weight and bias. */
static int bind_tensors(struct effnet_model *model, struct json_context *context)
{
    for (int i = 0; i < model->info.layer_count; i++) {
        struct effnet_layer *layer = &model->layers[i];
        char name[sizeof layer->name + 8];
        int64_t shape[4];
        int rank = effnet_table_weight_shape(layer, shape);
        if (rank == 0) continue;
        snprintf(name, sizeof name, "%s.weight", layer->name);
        int status = effnet_safetensors_take(&model->file, context, name, rank, shape, &layer->weight);
        if (status) return status;
        snprintf(name, sizeof name, "%s.bias", layer->name);
        status = effnet_safetensors_take(&model->file, context, name, 1, shape, &layer->bias);
        if (status) return status;
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
    int status = effnet_safetensors_open(&model->file, path, context);
    if (!status && has_tensors(&model->file)) status = check_format(model, context);
    if (!status) status = effnet_safetensors_read_tensors(&model->file, context);
    if (!status) status = read_metadata(model, context, fields);
    if (!status) status = read_network(model, context, fields);
    if (!status) status = read_preprocess(context, &fields[PREPROCESS], &model->info);
    if (!status) status = read_labels(model, context, &fields[LABELS]);
    if (!status) status = read_source(model, context, &fields[SOURCE]);
    if (!status) status = bind_tensors(model, context);
    return status;
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
    if (status) {
        effnet_model_close(model);
        return status;
    }
    *out = model;
    return EFFNET_OK;
}

void effnet_model_close(effnet_model *model)
{
    if (!model) return;
    effnet_safetensors_close(&model->file);
    cJSON_Delete(model->network);
    cJSON_Delete(model->label_list);
    cJSON_Delete(model->source);
    free(model->layers);
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
    return &model->layers[index];
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
