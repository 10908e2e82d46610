/* The weights file of the integer network: the float network's metadata with scales in the layer table, then
 * biases and scales, which are aligned to four bytes, then the weights. */
#include "common/error.h"
#include "model/integer.h"
#include "quantize/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

/* The file as it grows: tensors' places in the header, and their data. */
struct file {
    const struct quantizer *q;
    cJSON *header;
    uint8_t *data;
    size_t scalars, weights, size; /* where the next of each goes, and where all ends */
};

static void number(cJSON *object, const char *key, float value)
{
    char text[32]; /* nine digits tell a float */
    snprintf(text, sizeof text, "%.9g", (double)value);
    cJSON_AddRawToObject(object, key, text);
}

/* The layer table with what the outputs' bytes stand for; NULL: out of memory. */
static char *network_text(const struct quantizer *q)
{
    const char *text = effnet_model_metadata(q->model, "network");
    cJSON *network = cJSON_Parse(text), *layer;
    int i = 0;
    cJSON_ArrayForEach(layer, cJSON_GetObjectItemCaseSensitive(network, "layers"))
    {
        const struct tensor *t = quantize_tensor(q, i);
        if (++i == q->info->layer_count) break;
        number(layer, "output_scale", t->scale);
        cJSON_AddNumberToObject(layer, "output_zero", t->zero);
        if (t->steps == EFFNET_MOST_WIDE) cJSON_AddNumberToObject(layer, "output_bits", 15);
    }
    char *out = cJSON_PrintUnformatted(network);
    cJSON_Delete(network);
    return out;
}

static bool add_metadata(struct file *file)
{
    static const char *const kept[] = {"preprocess", "labels", "source"};
    cJSON *metadata = cJSON_AddObjectToObject(file->header, "__metadata__");
    char *network = network_text(file->q);
    bool good = network && cJSON_AddStringToObject(metadata, "format", "effnet") &&
                cJSON_AddStringToObject(metadata, "format_version", "2") &&
                cJSON_AddStringToObject(metadata, "network", network);
    for (int i = 0; good && i < 3; i++) {
        const char *text = effnet_model_metadata(file->q->model, kept[i]);
        if (text) good = cJSON_AddStringToObject(metadata, kept[i], text);
    }
    free(network);
    return good;
}

/* A tensor's place; NULL: out of memory. *at moves behind it. */
static void *place(struct file *file, const struct effnet_layer *layer, const char *part, const char *type,
                   int rank, const int64_t *shape, size_t element, size_t *at)
{
    char name[sizeof layer->name + 16];
    cJSON *tensor, *sizes = cJSON_CreateArray();
    size_t bytes = element;
    for (int i = 0; i < rank; i++) {
        cJSON_AddItemToArray(sizes, cJSON_CreateNumber((double)shape[i]));
        bytes *= (size_t)shape[i];
    }
    snprintf(name, sizeof name, "%s.%s", layer->name, part);
    tensor = cJSON_AddObjectToObject(file->header, name);
    cJSON_AddStringToObject(tensor, "dtype", type);
    cJSON_AddItemToObject(tensor, "shape", sizes);
    const double offsets[] = {(double)*at, (double)(*at + bytes)};
    cJSON *places = cJSON_CreateDoubleArray(offsets, 2);
    void *data = file->data + *at;
    *at += bytes;
    return cJSON_AddItemToObject(tensor, "data_offsets", places) && sizes ? data : NULL;
}

/* Whether the layer has a gain. */
static bool has_gain(const struct quantizer *q, int index)
{
    return index + 1 < q->info->layer_count &&
           effnet_integer_curved(effnet_model_layer(q->model, index)->activation);
}

static int add_layer(struct file *file, int index, struct effnet_error *error)
{
    const struct effnet_layer *layer = effnet_model_layer(file->q->model, index);
    int64_t shape[4];
    const int rank = effnet_table_weight_shape(layer, shape);
    if (rank == 0) return EFFNET_OK;
    int32_t *bias = place(file, layer, "bias", "I32", 1, shape, sizeof *bias, &file->scalars);
    float *scale = place(file, layer, "scale", "F32", 1, shape, sizeof *scale, &file->scalars);
    if (has_gain(file->q, index)) {
        const size_t bytes = (size_t)layer->out_channels * sizeof(float);
        float *gain = place(file, layer, "gain", "F32", 1, shape, sizeof *gain, &file->scalars);
        if (!gain) return effnet_fail_nomem(error, "the file's header", ALIGNMENT);
        memcpy(gain, quantize_tensor(file->q, index)->grow, bytes);
    }
    int8_t *weight = place(file, layer, "weight", "I8", rank, shape, sizeof *weight, &file->weights);
    if (!bias || !scale || !weight) return effnet_fail_nomem(error, "the file's header", ALIGNMENT);
    return quantize_layer(file->q, index, weight, bias, scale, error);
}

/* The length, the header padded with spaces, the data. */
static int join(const struct file *file, void **bytes, size_t *size_bytes, struct effnet_error *error)
{
    char *text = cJSON_PrintUnformatted(file->header);
    if (!text) return effnet_fail_nomem(error, "the file's header", ALIGNMENT);
    const size_t length = strlen(text);
    const uint64_t padded = (8 + length + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT - 8;
    *size_bytes = 8 + (size_t)padded + file->size;
    char *to = *bytes = malloc(*size_bytes);
    if (to) {
        memcpy(to, &padded, sizeof padded);
        memset(to + 8, ' ', (size_t)padded);
        memcpy(to + 8, text, length);
        memcpy(to + 8 + padded, file->data, file->size);
    }
    free(text);
    return to ? EFFNET_OK : effnet_fail_nomem(error, "the weights file", *size_bytes);
}

int quantizer_write(const struct quantizer *q, void **bytes, size_t *size_bytes, struct effnet_error *error)
{
    struct file file = {.q = q};
    *bytes = NULL;
    for (int i = 0; i < q->info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(q->model, i);
        if (!layer->weight) continue;
        const size_t scalars = sizeof(int32_t) + (has_gain(q, i) ? 2 : 1) * sizeof(float);
        file.weights += (size_t)layer->out_channels * scalars;
        file.size += (size_t)layer->parameters - (size_t)layer->out_channels;
    }
    file.size += file.weights;
    file.header = cJSON_CreateObject();
    file.data = calloc(file.size, 1);
    int status = EFFNET_OK;
    if (!file.header || !file.data || !add_metadata(&file))
        status = effnet_fail_nomem(error, "the weights file", file.size);
    for (int i = 0; !status && i < q->info->layer_count; i++) status = add_layer(&file, i, error);
    if (!status) status = join(&file, bytes, size_bytes, error);
    cJSON_Delete(file.header);
    free(file.data);
    return status;
}
