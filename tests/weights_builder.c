#include "weights_builder.h"

#include "random.h"

#include <fcntl.h>
#include <math.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

/* Ends the program: what fails here is the machine, or the test itself. */
static void require(bool good, const char *what)
{
    if (good) return;
    fprintf(stderr, "weights builder: %s\n", what);
    exit(1);
}

struct weights *weights_new(uint64_t seed, int height, int width)
{
    struct weights *w = calloc(1, sizeof *w);
    require(w, "out of memory");
    w->random = seed;
    w->height = height;
    w->width = width;
    w->channels = 3;
    w->tensors = cJSON_CreateObject();
    w->metadata = cJSON_CreateObject();
    cJSON_AddStringToObject(w->metadata, "format", "effnet");
    cJSON_AddStringToObject(w->metadata, "format_version", "1");
    w->network = cJSON_CreateObject();
    cJSON_AddStringToObject(w->network, "name", "tiny");
    cJSON_AddItemToObject(w->network, "input", cJSON_CreateIntArray((int[]){3, height, width}, 3));
    cJSON_AddArrayToObject(w->network, "layers");
    w->sizes = cJSON_CreateObject();
    cJSON_AddItemToObject(w->sizes, "image", cJSON_CreateIntArray((int[]){height, width, 3}, 3));
    w->preprocess = cJSON_CreateObject();
    cJSON_AddNumberToObject(w->preprocess, "short_side", height + 3);
    cJSON_AddNumberToObject(w->preprocess, "crop", height);
    cJSON_AddStringToObject(w->preprocess, "interpolation", "bicubic");
    cJSON_AddItemToObject(w->preprocess, "mean", cJSON_CreateDoubleArray((double[]){127, 116.5, 104}, 3));
    cJSON_AddItemToObject(w->preprocess, "std", cJSON_CreateDoubleArray((double[]){128, 57.25, 61}, 3));
    w->labels = cJSON_CreateArray();
    w->source = cJSON_CreateObject();
    cJSON_AddStringToObject(w->source, "file", "tiny.pth");
    cJSON_AddStringToObject(w->source, "sha256", "0123456789abcdef");
    return w;
}

void weights_free(struct weights *w)
{
    if (!w) return;
    cJSON_Delete(w->tensors);
    cJSON_Delete(w->metadata);
    cJSON_Delete(w->network);
    cJSON_Delete(w->preprocess);
    cJSON_Delete(w->labels);
    cJSON_Delete(w->source);
    cJSON_Delete(w->sizes);
    free(w->data);
    free(w);
}

/* Appends `<layer>.<part>` with uniform values in [-limit, limit). */
static void add_tensor(struct weights *w, const char *layer, const char *part, const int *shape, int rank,
                       double limit)
{
    size_t count = 1;
    for (int i = 0; i < rank; i++) count *= (size_t)shape[i];
    size_t begin = w->data_bytes;
    w->data_bytes += count * sizeof(float);
    w->data = realloc(w->data, w->data_bytes);
    require(w->data, "out of memory");
    for (size_t i = 0; i < count; i++) w->data[begin / sizeof(float) + i] = random_float(&w->random, limit);

    char name[80];
    snprintf(name, sizeof name, "%s.%s", layer, part);
    cJSON *tensor = cJSON_AddObjectToObject(w->tensors, name);
    cJSON_AddStringToObject(tensor, "dtype", "F32");
    cJSON_AddItemToObject(tensor, "shape", cJSON_CreateIntArray(shape, rank));
    double offsets[] = {(double)begin, (double)w->data_bytes};
    cJSON_AddItemToObject(tensor, "data_offsets", cJSON_CreateDoubleArray(offsets, 2));
}

static void need_version_2(struct weights *w)
{
    cJSON_ReplaceItemInObject(w->metadata, "format_version", cJSON_CreateString("2"));
}

static bool came_with_version_2(const char *activation)
{
    return strcmp(activation, "sigmoid") == 0 || strcmp(activation, "hardswish") == 0 ||
           strcmp(activation, "tanh") == 0;
}

void weights_multi_label(struct weights *w)
{
    cJSON_AddTrueToObject(w->network, "multi_label");
    need_version_2(w);
}

void weights_squash(struct weights *w)
{
    cJSON_ReplaceItemInObject(w->preprocess, "short_side",
                              cJSON_Duplicate(cJSON_GetObjectItem(w->preprocess, "crop"), 0));
    cJSON_AddStringToObject(w->preprocess, "resize", "squash");
    need_version_2(w);
}

void weights_take(struct weights *w, const char *name)
{
    const cJSON *size = cJSON_GetObjectItem(w->sizes, name);
    require(size, name);
    w->height = cJSON_GetArrayItem(size, 0)->valueint;
    w->width = cJSON_GetArrayItem(size, 1)->valueint;
    w->channels = cJSON_GetArrayItem(size, 2)->valueint;
    snprintf(w->take[0], sizeof w->take[0], "%s", name);
    need_version_2(w);
}

/* Adds the key "inputs" where it was said what the layer takes. */
static void add_inputs(struct weights *w, cJSON *layer)
{
    if (!w->take[0][0]) return;
    cJSON *inputs = cJSON_AddArrayToObject(layer, "inputs");
    for (int i = 0; i < 2 && w->take[i][0]; i++) cJSON_AddItemToArray(inputs, cJSON_CreateString(w->take[i]));
    w->take[0][0] = w->take[1][0] = 0;
}

void weights_layer(struct weights *w, const char *name, const char *op, int out, int kernel, int stride,
                   const int pad[4], const char *activation, const char *add, int block)
{
    bool depthwise = strcmp(op, "depthwise") == 0, window = depthwise || strcmp(op, "conv") == 0;
    bool pool = strcmp(op, "pool") == 0, linear = strcmp(op, "linear") == 0;
    bool weighted = !pool && strcmp(op, "scale") != 0;
    cJSON *layer = cJSON_CreateObject();
    cJSON_AddItemToArray(cJSON_GetObjectItem(w->network, "layers"), layer);
    cJSON_AddStringToObject(layer, "name", name);
    cJSON_AddStringToObject(layer, "op", op);
    cJSON_AddNumberToObject(layer, "in", w->channels);
    cJSON_AddNumberToObject(layer, "out", out);
    add_inputs(w, layer);
    if (weighted) cJSON_AddStringToObject(layer, "activation", activation);
    if (weighted && came_with_version_2(activation)) need_version_2(w);
    if (window) {
        cJSON_AddNumberToObject(layer, "kernel", kernel);
        cJSON_AddNumberToObject(layer, "stride", stride);
        cJSON_AddItemToObject(layer, "pad", cJSON_CreateIntArray(pad, 4));
    } else {
        kernel = 1;
    }
    if (add) cJSON_AddStringToObject(layer, "add", add);
    if (block >= 0) cJSON_AddNumberToObject(layer, "block", block);

    int in = depthwise ? 1 : w->channels;
    if (weighted) {
        /* Variance 2 / fan-in keeps the size of what ReLU lets through (He and others, 2015). */
        double limit = sqrt(6.0 / ((double)in * kernel * kernel));
        add_tensor(w, name, "weight", (int[]){out, in, kernel, kernel}, linear ? 2 : 4, limit);
        add_tensor(w, name, "bias", &out, 1, 0.5);
    }
    if (window) {
        w->height = (w->height + pad[0] + pad[2] - kernel) / stride + 1;
        w->width = (w->width + pad[1] + pad[3] - kernel) / stride + 1;
    }
    if (pool) w->height = w->width = 1;
    w->channels = out;
    snprintf(w->last, sizeof w->last, "%s", name);
    int size[] = {w->height, w->width, w->channels};
    cJSON_AddItemToObject(w->sizes, name, cJSON_CreateIntArray(size, 3));
}

void weights_scale(struct weights *w, const char *name, const char *map, const char *gate)
{
    weights_take(w, map);
    snprintf(w->take[1], sizeof w->take[1], "%s", gate);
    weights_layer(w, name, "scale", w->channels, 1, 1, NULL, NULL, NULL, -1);
}

void weights_squeeze_excite(struct weights *w, const char *name, int reduced, const char *activation)
{
    char layer[64], map[64];
    int channels = w->channels;
    snprintf(map, sizeof map, "%s", w->last);
    snprintf(layer, sizeof layer, "%s.pool", name);
    weights_layer(w, layer, "pool", channels, 1, 1, NULL, NULL, NULL, -1);
    snprintf(layer, sizeof layer, "%s.reduce", name);
    weights_layer(w, layer, "linear", reduced, 1, 1, NULL, activation, NULL, -1);
    snprintf(layer, sizeof layer, "%s.expand", name);
    weights_layer(w, layer, "linear", channels, 1, 1, NULL, "sigmoid", NULL, -1);
    char gate[64];
    snprintf(gate, sizeof gate, "%s", layer);
    snprintf(layer, sizeof layer, "%s.scale", name);
    weights_scale(w, layer, map, gate);
}

/* pad[first], pad[first + 2]: what comes before and after one dimension of `size`. */
static void set_padding(int pad[4], int first, int size, int kernel, int stride, enum weights_padding padding)
{
    int total = (size + stride - 1) / stride * stride - stride + kernel - size;
    if (total < 0) total = 0;
    pad[first] = padding == WEIGHTS_SAME ? total / 2 : (kernel - 1) / 2;
    pad[first + 2] = padding == WEIGHTS_SAME ? total - total / 2 : (kernel - 1) / 2;
}

static void add_window(struct weights *w, const char *name, const char *op, int out, int kernel, int stride,
                       enum weights_padding padding, const char *activation, int block)
{
    int pad[4];
    set_padding(pad, 0, w->height, kernel, stride, padding);
    set_padding(pad, 1, w->width, kernel, stride, padding);
    weights_layer(w, name, op, out, kernel, stride, pad, activation, NULL, block);
}

void weights_conv(struct weights *w, const char *name, int out, int kernel, int stride,
                  enum weights_padding padding, const char *activation)
{
    add_window(w, name, "conv", out, kernel, stride, padding, activation, -1);
}

/* reduced: of squeeze-and-excite; 0: there is none. */
static void add_block(struct weights *w, int out, int hidden, int kernel, int stride,
                      enum weights_padding padding, const char *activation, int reduced, bool residual)
{
    char name[64], input[64];
    int block = w->blocks++;
    snprintf(input, sizeof input, "%s", w->last);
    if (hidden != w->channels) {
        snprintf(name, sizeof name, "blocks.%d.expand", block);
        weights_layer(w, name, "pointwise", hidden, 1, 1, NULL, activation, NULL, block);
    }
    snprintf(name, sizeof name, "blocks.%d.depthwise", block);
    add_window(w, name, "depthwise", hidden, kernel, stride, padding, activation, block);
    snprintf(name, sizeof name, "blocks.%d.excite", block);
    if (reduced) weights_squeeze_excite(w, name, reduced, activation);
    snprintf(name, sizeof name, "blocks.%d.project", block);
    weights_layer(w, name, "pointwise", out, 1, 1, NULL, "none", residual ? input : NULL, block);
}

void weights_mbconv(struct weights *w, int out, int hidden, int kernel, int stride,
                    enum weights_padding padding, const char *activation, bool residual)
{
    add_block(w, out, hidden, kernel, stride, padding, activation, 0, residual);
}

void weights_mbconv_excited(struct weights *w, int out, int hidden, int kernel, int stride, int reduced,
                            bool residual)
{
    add_block(w, out, hidden, kernel, stride, WEIGHTS_SAME, "silu", reduced, residual);
}

void weights_head(struct weights *w, int hidden, const char *activation, int classes)
{
    weights_layer(w, "head", "pointwise", hidden, 1, 1, NULL, activation, NULL, -1);
    weights_layer(w, "pool", "pool", hidden, 1, 1, NULL, NULL, NULL, -1);
    weights_layer(w, "classifier", "linear", classes, 1, 1, NULL, "none", NULL, -1);
    weights_labels(w, classes);
}

void weights_labels(struct weights *w, int classes)
{
    for (int i = 0; i < classes; i++) {
        char text[32];
        cJSON *label = cJSON_CreateObject();
        cJSON_AddItemToArray(w->labels, label);
        snprintf(text, sizeof text, "n%08d", i);
        cJSON_AddStringToObject(label, "id", text);
        snprintf(text, sizeof text, "class %d", i);
        cJSON_AddStringToObject(label, "name", text);
    }
}

struct weights *weights_tiny(uint64_t seed)
{
    struct weights *w = weights_new(seed, 21, 21);
    weights_conv(w, "stem", 9, 3, 2, WEIGHTS_SAME, "relu6");
    weights_mbconv(w, 7, 9, 3, 1, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 13, 37, 5, 2, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 13, 70, 5, 1, WEIGHTS_SAME, "relu6", true);
    weights_head(w, 65, "relu6", 11);
    return w;
}

struct weights *weights_tiny_excited(uint64_t seed)
{
    struct weights *w = weights_new(seed, 21, 21);
    weights_conv(w, "stem", 9, 3, 2, WEIGHTS_SAME, "silu");
    weights_mbconv_excited(w, 7, 9, 3, 1, 3, false);
    weights_mbconv_excited(w, 13, 37, 5, 2, 3, false);
    weights_mbconv_excited(w, 13, 70, 5, 1, 3, true);
    weights_head(w, 65, "silu", 11);
    return w;
}

/* Name of map `index` of weights_graph, in one of four buffers in turn. */
static const char *map_name(int index)
{
    static char names[4][32];
    static int next;
    char *name = names[next++ % 4];
    snprintf(name, sizeof names[0], "map%d", index);
    return name;
}

struct weights *weights_graph(uint64_t seed)
{
    enum { MAPS = 12 };
    static const int window[] = {1, 1, 1, 1};
    uint64_t random = seed;
    struct weights *w = weights_new(random_next(&random), 7, 7);
    int maps = random_int(&random, 3, MAPS), channels = random_int(&random, 1, 20);
    bool read[MAPS] = {false};
    weights_layer(w, map_name(0), "conv", channels, 3, 1, window, "gelu", NULL, -1);
    for (int i = 1; i < maps; i++) {
        int from = random_int(&random, 0, i - 1), other = random_int(&random, 0, i - 1);
        int kind = random_int(&random, 0, 5);
        bool adds = random_int(&random, 0, 1) || kind < 2;
        const char *add = adds ? map_name(other) : NULL;
        weights_take(w, kind == 5 ? "image" : map_name(from));
        if (kind < 2) { /* scaled by what another map, or the same, is on average */
            char pool[32], gate[32];
            snprintf(pool, sizeof pool, "pool%d", i);
            snprintf(gate, sizeof gate, "gate%d", i);
            weights_take(w, add);
            weights_layer(w, pool, "pool", channels, 1, 1, NULL, NULL, NULL, -1);
            weights_layer(w, gate, "linear", channels, 1, 1, NULL, "sigmoid", NULL, -1);
            weights_scale(w, map_name(i), map_name(from), gate);
        } else if (kind == 2) {
            weights_layer(w, map_name(i), "depthwise", channels, 3, 1, window, "silu", add, -1);
        } else {
            weights_layer(w, map_name(i), "pointwise", channels, 1, 1, NULL, "relu6", add, -1);
        }
        if (kind != 5) read[from] = true;
        if (adds) read[other] = true;
    }
    for (int i = 0; i < maps - 1; i++) { /* who has no reader yet is added at the end */
        char name[32];
        snprintf(name, sizeof name, "join%d", i);
        if (!read[i]) weights_layer(w, name, "pointwise", channels, 1, 1, NULL, "none", map_name(i), -1);
    }
    weights_head(w, random_int(&random, 1, 40), "silu", 11);
    return w;
}

/* Adds `tree` to the metadata as text. */
static void add_text(cJSON *metadata, const char *key, const cJSON *tree)
{
    if (!tree) return;
    char *text = cJSON_PrintUnformatted(tree);
    require(text, "out of memory");
    cJSON_AddStringToObject(metadata, key, text);
    free(text);
}

/* The header's text, padded to a multiple of eight bytes; freed by the caller. */
static char *header_text(const struct weights *w)
{
    cJSON *header = cJSON_Duplicate(w->tensors, 1);
    if (w->metadata) {
        cJSON *metadata = cJSON_Duplicate(w->metadata, 1);
        add_text(metadata, "network", w->network);
        add_text(metadata, "preprocess", w->preprocess);
        add_text(metadata, "labels", w->labels);
        add_text(metadata, "source", w->source);
        cJSON_AddItemToObject(header, "__metadata__", metadata);
    }
    char *text = cJSON_PrintUnformatted(header);
    cJSON_Delete(header);
    require(text, "out of memory");
    const char *tail = w->header_tail ? w->header_tail : "";
    size_t length = strlen(text) - 1, tail_length = strlen(tail);
    size_t padding = (8 - (length + tail_length + 1) % 8) % 8;
    text = realloc(text, length + tail_length + padding + 2);
    require(text, "out of memory");
    snprintf(text + length, tail_length + padding + 2, "%s}%*s", tail, (int)padding, "");
    return text;
}

static char path[128];
static pid_t owner; /* of the path: a child has one of its own */

static void remove_file(void)
{
    if (owner == getpid()) unlink(path);
}

const char *weights_path(void)
{
    if (owner != getpid()) {
        const char *directory = getenv("TMPDIR");
        snprintf(path, sizeof path, "%.60s/effnet-test-XXXXXX", directory ? directory : "/tmp");
        int fd = mkstemp(path);
        require(fd >= 0, path);
        close(fd);
        if (!owner) atexit(remove_file);
        owner = getpid();
    }
    return path;
}

void weights_write_bytes(const void *bytes, size_t size_bytes)
{
    unlink(weights_path()); /* an open model keeps the old file */
    /* Not by a stream: a child that another thread forks meanwhile writes its copy of the buffer as it exits.
     */
    int fd = open(weights_path(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    require(fd >= 0, path);
    require(write(fd, bytes, size_bytes) == (ssize_t)size_bytes && !close(fd), path);
}

const char *weights_save(const struct weights *w)
{
    char *text = header_text(w);
    uint64_t length = strlen(text);
    size_t size = sizeof length + length + w->data_bytes;
    char *bytes = malloc(size);
    require(bytes, "out of memory");
    memcpy(bytes, &length, sizeof length);
    memcpy(bytes + sizeof length, text, length);
    if (w->data_bytes) memcpy(bytes + sizeof length + length, w->data, w->data_bytes);
    weights_write_bytes(bytes, size);
    free(bytes);
    free(text);
    return weights_path();
}

effnet_model *weights_open(struct weights *w)
{
    effnet_model *model;
    struct effnet_error error = {0};
    int status = effnet_model_open(weights_save(w), &model, &error);
    require(!status, error.message);
    weights_free(w);
    return model;
}
