#include "weights_integer.h"

#include "random.h"

#include <math.h>
#include <string.h>

/* What is being made: tensors of one type after the other, as their alignment wants it. */
struct maker {
    struct weights *w;
    cJSON *tensors;
    char *data;
    size_t size;
};

static void *add(struct maker *m, const char *layer, const char *part, const char *type, const cJSON *shape,
                 size_t element)
{
    size_t count = 1;
    for (const cJSON *d = shape->child; d; d = d->next) count *= (size_t)d->valueint;
    const size_t begin = m->size;
    m->size += count * element;
    m->data = realloc(m->data, (m->size + 3) / 4 * 4);
    if (!m->data) abort();
    char name[80];
    snprintf(name, sizeof name, "%s.%s", layer, part);
    cJSON *tensor = cJSON_AddObjectToObject(m->tensors, name);
    cJSON_AddStringToObject(tensor, "dtype", type);
    cJSON_AddItemToObject(tensor, "shape", cJSON_Duplicate(shape, 1));
    double offsets[] = {(double)begin, (double)m->size};
    cJSON_AddItemToObject(tensor, "data_offsets", cJSON_CreateDoubleArray(offsets, 2));
    return m->data + begin;
}

static const cJSON *shape_of(const struct weights *w, const char *layer)
{
    char name[80];
    snprintf(name, sizeof name, "%s.weight", layer);
    const cJSON *tensor = cJSON_GetObjectItem(w->tensors, name);
    return tensor ? cJSON_GetObjectItem(tensor, "shape") : NULL;
}

/* How many steps of a wide output are as one of a byte. */
enum { WIDE = 100 };

/* What a step of a layer's output would be if it were a byte. */
static double byte_scale(const cJSON *layer)
{
    return cJSON_GetObjectItem(layer, "output_scale")->valuedouble *
           (cJSON_GetObjectItem(layer, "output_bits") ? WIDE : 1);
}

/* The scale of what a layer takes; of the image 1. */
static double scale_of(const cJSON *layers, const char *name)
{
    const cJSON *layer;
    cJSON_ArrayForEach(layer, layers)
    {
        if (strcmp(cJSON_GetObjectItem(layer, "name")->valuestring, name) == 0) return byte_scale(layer);
    }
    return 1;
}

static bool has_text(const cJSON *layer, const char *key, const char *text)
{
    const cJSON *value = cJSON_GetObjectItem(layer, key);
    return value && strcmp(value->valuestring, text) == 0;
}

static bool is_curved(const cJSON *layer)
{
    return has_text(layer, "activation", "silu") || has_text(layer, "activation", "sigmoid");
}

/* Whether depthwise layers alone, and scale as a gate, read what `from` gives. */
static bool may_be_wide(const cJSON *from)
{
    const char *name = cJSON_GetObjectItem(from, "name")->valuestring;
    for (const cJSON *layer = from->next; layer; layer = layer->next) {
        const cJSON *inputs = cJSON_GetObjectItem(layer, "inputs");
        const bool takes = inputs ? strcmp(inputs->child->valuestring, name) == 0 : layer == from->next;
        if (has_text(layer, "add", name) || (takes && !has_text(layer, "op", "depthwise"))) return false;
    }
    return true;
}

static void set_output(struct weights *w, cJSON *layer)
{
    const bool clipped = has_text(layer, "activation", "relu") || has_text(layer, "activation", "relu6");
    const bool sigmoid = has_text(layer, "activation", "sigmoid");
    const int zero = clipped            ? (random_int(&w->random, 0, 1) ? 0 : random_int(&w->random, 1, 30))
                     : is_curved(layer) ? random_int(&w->random, 0, 30)
                                        : random_int(&w->random, 90, 160);
    const bool wide = may_be_wide(layer) && random_int(&w->random, 0, 2);
    /* of a pool, that of its input: the mean of bytes is one */
    const double scale = (0.02 + 0.03 * random_unit(&w->random)) * (sigmoid ? 0.15 : 1);
    cJSON_AddNumberToObject(layer, "output_scale", (double)(float)(scale / (wide ? WIDE : 1)));
    cJSON_AddNumberToObject(layer, "output_zero", wide ? WIDE * zero + random_int(&w->random, 0, 99) : zero);
    if (wide) cJSON_AddNumberToObject(layer, "output_bits", 15);
}

static void add_scalars(struct maker *m, cJSON *layers, cJSON *layer, const char *before)
{
    const char *name = cJSON_GetObjectItem(layer, "name")->valuestring;
    const cJSON *inputs = cJSON_GetObjectItem(layer, "inputs"), *shape = shape_of(m->w, name);
    const double in_scale = scale_of(layers, inputs ? inputs->child->valuestring : before);
    if (layer->next) set_output(m->w, layer);
    if (!shape) {
        const double step = has_text(layer, "op", "scale")
                                ? in_scale * scale_of(layers, inputs->child->next->valuestring)
                                : in_scale;
        if (layer->next && cJSON_GetObjectItem(layer, "output_scale")->valuedouble < step)
            cJSON_SetNumberValue(cJSON_GetObjectItem(layer, "output_scale"), step);
        return;
    }
    int terms = 1, out = shape->child->valueint;
    for (const cJSON *d = shape->child->next; d; d = d->next) terms *= d->valueint;
    cJSON *vector = cJSON_CreateIntArray(&out, 1);
    int32_t *bias = add(m, name, "bias", "I32", vector, sizeof *bias);
    for (int c = 0; c < out; c++) bias[c] = random_int(&m->w->random, -400 * terms, 400 * terms);
    float *scale = add(m, name, "scale", "F32", vector, sizeof *scale);
    const double size = is_curved(layer) ? 3 : 40 * (layer->next ? byte_scale(layer) : 1);
    for (int c = 0; c < out; c++)
        scale[c] = (float)((0.5 + random_unit(&m->w->random)) * size / (7000 * sqrt(terms)) / in_scale);
    if (is_curved(layer) && layer->next) {
        float *gain = add(m, name, "gain", "F32", vector, sizeof *gain);
        for (int c = 0; c < out; c++) gain[c] = (float)(0.5 + random_unit(&m->w->random));
    }
    cJSON_Delete(vector);
}

void weights_make_integer(struct weights *w)
{
    struct maker m = {.w = w, .tensors = cJSON_CreateObject()};
    cJSON *layers = cJSON_GetObjectItem(w->network, "layers"), *layer;
    const char *before = "image";
    cJSON_ArrayForEach(layer, layers)
    {
        add_scalars(&m, layers, layer, before);
        before = cJSON_GetObjectItem(layer, "name")->valuestring;
    }
    cJSON_ArrayForEach(layer, layers)
    {
        const char *name = cJSON_GetObjectItem(layer, "name")->valuestring;
        const cJSON *shape = shape_of(w, name);
        const size_t begin = m.size;
        if (!shape) continue;
        add(&m, name, "weight", "I8", shape, 1);
        for (size_t i = begin; i < m.size; i++) m.data[i] = (char)random_int(&w->random, -128, 127);
    }
    cJSON_Delete(w->tensors);
    free(w->data);
    w->tensors = m.tensors;
    w->data = (float *)(void *)m.data;
    w->data_bytes = m.size;
    cJSON_ReplaceItemInObject(w->metadata, "format_version", cJSON_CreateString("2"));
}

struct weights *weights_tiny_integer(uint64_t seed)
{
    struct weights *w = weights_new(seed, 21, 21);
    weights_conv(w, "stem", 9, 3, 2, WEIGHTS_SAME, "relu6");
    weights_mbconv(w, 7, 9, 3, 1, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 13, 37, 5, 2, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 13, 70, 5, 1, WEIGHTS_SAME, "relu", true);
    weights_layer(w, "wide", "conv", 33, 5, 3, (const int[]){1, 0, 2, 4}, "none", NULL, -1);
    weights_layer(w, "same", "pointwise", 33, 1, 1, NULL, "relu", "wide", -1);
    weights_layer(w, "step", "depthwise", 33, 3, 2, (const int[]){0, 1, 2, 1}, "none", NULL, -1);
    weights_layer(w, "pool", "pool", 33, 1, 1, NULL, NULL, NULL, -1);
    weights_layer(w, "hidden", "linear", 65, 1, 1, NULL, "relu", NULL, -1);
    weights_layer(w, "classifier", "linear", 11, 1, 1, NULL, "none", NULL, -1);
    weights_labels(w, 11);
    weights_make_integer(w);
    return w;
}

struct weights *weights_excited_integer(uint64_t seed)
{
    struct weights *w = weights_tiny_excited(seed);
    weights_make_integer(w);
    return w;
}

struct weights *weights_random_integer(uint64_t seed)
{
    static const char *const activations[] = {"none", "relu", "relu6", "silu", "sigmoid"};
    uint64_t random = seed;
    const int size = random_int(&random, 1, 40), layers = random_int(&random, 1, 6);
    struct weights *w = weights_new(random_next(&random), size, size);
    for (int i = 0; i < layers; i++) {
        char name[64], last[64];
        snprintf(name, sizeof name, "layer%d", i);
        snprintf(last, sizeof last, "%s", w->last);
        const char *activation = activations[random_int(&random, 0, 4)];
        const int kind = random_int(&random, i > 0 ? -1 : 0, 4);
        const int out = random_int(&random, 1, kind == 3 ? 40 : 300);
        if (kind < 0) {
            weights_squeeze_excite(w, name, random_int(&random, 1, 40), activation);
            continue;
        }
        if (kind < 2) {
            const bool adds = i > 0 && random_int(&random, 0, 1);
            if (adds) activation = activations[random_int(&random, 0, 2)];
            weights_layer(w, name, "pointwise", adds ? w->channels : out, 1, 1, NULL, activation,
                          adds ? last : NULL, -1);
            continue;
        }
        const int kernel = 2 * random_int(&random, 0, 3) + 1, stride = random_int(&random, 1, 3);
        const int least = kernel - (w->height < w->width ? w->height : w->width);
        int pad[4];
        for (int k = 0; k < 4; k++) pad[k] = random_int(&random, least > 0 ? (least + 1) / 2 : 0, kernel - 1);
        weights_layer(w, name, kind == 3 ? "conv" : "depthwise", kind == 3 ? out : w->channels, kernel,
                      stride, pad, activation, NULL, -1);
    }
    weights_layer(w, "pool", "pool", w->channels, 1, 1, NULL, NULL, NULL, -1);
    static const char *const last[] = {"none", "none", "silu", "sigmoid"};
    weights_layer(w, "classifier", "linear", 11, 1, 1, NULL, last[random_int(&random, 0, 3)], NULL, -1);
    weights_labels(w, 11);
    weights_make_integer(w);
    return w;
}
