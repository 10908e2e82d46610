/* The reference as a backend: one layer a unit, one image at a time, one thread. */
#include "backend/backend.h"
#include "backend/lifetimes.h"
#include "backend/reference/reference.h"
#include "common/cpu.h"
#include "common/error.h"

#include <stdlib.h>
#include <string.h>

struct backend_state {
    const effnet_model *model;
    const struct effnet_model_info *info;
    struct effnet_unit *units; /* one a layer */
    struct lifetime *lives;    /* of each layer's output, one image, from its writer to its last reader */
    char *memory;              /* where the outputs lie */
    float *input;              /* normalised image tensor */
    double *workspace;
    int features_layer; /* -1: none */
    int64_t memory_bytes;
};

static float *output_of(const struct backend_state *state, int layer)
{
    return (float *)(state->memory + state->lives[layer].offset);
}

static void visit_devices(void (*visit)(const struct effnet_device *, void *), void *context)
{
    struct effnet_device device = {.name = "reference",
                                   .description = effnet_cpu_name(),
                                   .backend = "reference",
                                   .precisions = "fp32 int8",
                                   .detail = "plain loops, double accumulation, one thread: slow",
                                   .available = true};
    visit(&device, context);
}

static void close_state(struct backend_state *state)
{
    if (!state) return;
    free(state->units);
    free(state->lives);
    free(state->memory);
    free(state->input);
    free(state->workspace);
    free(state);
}

/* Describes the layers and allocates the memory that any of them needs. */
static int build(struct backend_state *state, struct effnet_error *error)
{
    const struct effnet_model_info *info = state->info;
    size_t layers = (size_t)info->layer_count, workspace = 0;
    state->units = calloc(layers, sizeof *state->units);
    state->lives = calloc(layers, sizeof *state->lives);
    if (!state->units || !state->lives)
        return effnet_fail_nomem(error, "reference", layers * sizeof *state->units);
    for (int i = 0; i < info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(state->model, i);
        size_t values = effnet_layer_out_size(layer), bytes = effnet_reference_workspace_bytes(layer);
        state->lives[i] = (struct lifetime){
            .bytes = values * sizeof(float), .first = i, .last = layer->last_reader};
        if (i == state->features_layer) state->lives[i].last = info->layer_count - 1; /* until it is copied */
        for (int k = 0; k < layer->input_count; k++) values += effnet_layer_in_size(layer, k);
        struct effnet_unit *unit = &state->units[i];
        *unit = effnet_unit_of(state->model, i, i);
        unit->kernel = layer->integer ? "plain loops of integers" : "plain loops in double";
        unit->workspace_bytes = (int64_t)bytes;
        unit->bytes_per_image = (int64_t)(values * sizeof(float));
        unit->weight_bytes = layer->parameters * (int64_t)(layer->integer ? sizeof(int8_t) : sizeof(float));
        if (bytes > workspace) workspace = bytes;
    }
    size_t input = (size_t)info->height * (size_t)info->width * (size_t)info->channels * sizeof(float);
    size_t outputs = effnet_place(state->lives, info->layer_count);
    state->workspace = malloc(workspace);
    state->input = malloc(input);
    if (outputs < SIZE_MAX) state->memory = malloc(outputs);
    if (!state->workspace || !state->input || !state->memory)
        return effnet_fail_nomem(error, "reference activations", workspace + input + outputs);
    state->memory_bytes = (int64_t)(workspace + input + outputs);
    for (size_t i = 0; i < input / sizeof(float); i++) /* what is timed before anything was run */
        state->input[i] = (float)(i * 37 % 255) / 128 - 1;
    return EFFNET_OK;
}

static int open_state(const effnet_model *model, const struct backend_options *options,
                      struct backend_state **out, struct effnet_error *error)
{
    *out = NULL;
    if (options->precision && strcmp(options->precision, "fp32") != 0)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "the reference backend has fp32 only, not %s",
                           options->precision);
    struct backend_state *state = calloc(1, sizeof *state);
    if (!state) return effnet_fail_nomem(error, "reference", sizeof *state);
    state->model = model;
    state->info = effnet_model_get_info(model);
    state->features_layer = options->features_layer;
    int status = build(state, error);
    if (status)
        close_state(state);
    else
        *out = state;
    return status;
}

static void describe(const struct backend_state *state, struct effnet_session_info *info)
{
    info->device = effnet_cpu_name();
    info->precision = state->info->integer ? "int8" : "fp32";
    info->threads = 1;
    info->memory_bytes = state->memory_bytes;
}

/* Runs one layer on the image in state->input and what the layers before it made of that. */
static void run_layer(struct backend_state *state, int index)
{
    const struct effnet_layer *layer = effnet_model_layer(state->model, index);
    const float *inputs[2] = {NULL};
    for (int i = 0; i < layer->input_count; i++)
        inputs[i] = layer->inputs[i] == EFFNET_IMAGE ? state->input : output_of(state, layer->inputs[i]);
    effnet_reference_compute(layer, 1, inputs, false, state->workspace, output_of(state, index));
}

/* Image `image`'s share of what run hands out. */
static void copy_output(const struct backend_state *state, int layer, size_t image, float *to)
{
    const size_t size = effnet_layer_out_size(effnet_model_layer(state->model, layer));
    memcpy(to + image * size, output_of(state, layer), size * sizeof *to);
}

static int run(struct backend_state *state, const uint8_t *pixels, int n, float *logits, float *features,
               struct effnet_error *error)
{
    (void)error;
    const struct effnet_model_info *info = state->info;
    size_t image_bytes = (size_t)info->height * (size_t)info->width * (size_t)info->channels;
    for (size_t i = 0; i < (size_t)n; i++) {
        effnet_reference_normalise(&info->preprocess, 1, pixels + i * image_bytes, state->input);
        for (int layer = 0; layer < info->layer_count; layer++) run_layer(state, layer);
        copy_output(state, info->layer_count - 1, i, logits);
        if (features) copy_output(state, state->features_layer, i, features);
    }
    return EFFNET_OK;
}

static const struct effnet_unit *unit(const struct backend_state *state, int index)
{
    return index < state->info->layer_count ? &state->units[index] : NULL;
}

static int run_unit(struct backend_state *state, int index, int n, const float *const *inputs, float *output,
                    struct effnet_error *error)
{
    (void)error;
    const struct effnet_layer *layer = effnet_model_layer(state->model, index);
    const float *read[2] = {NULL};
    for (int i = 0; i < layer->input_count; i++)
        read[i] = inputs[effnet_unit_input(&state->units[index], layer->inputs[i])];
    effnet_reference_compute(layer, n, read, false, state->workspace, output);
    return EFFNET_OK;
}

static int time_pass(struct backend_state *state, int n, bool cold, double *elapsed_us,
                     struct effnet_error *error)
{
    if (cold) EFFNET_TRY(effnet_evict_caches(error));
    double start = effnet_clock_us();
    for (int i = 0; i < n; i++)
        for (int layer = 0; layer < state->info->layer_count; layer++) run_layer(state, layer);
    *elapsed_us = effnet_clock_us() - start;
    return EFFNET_OK;
}

static int profile(struct backend_state *state, int n, bool cold, double *unit_us, struct effnet_error *error)
{
    for (int layer = 0; layer < state->info->layer_count; layer++) {
        if (cold) EFFNET_TRY(effnet_evict_caches(error));
        double start = effnet_clock_us();
        for (int i = 0; i < n; i++) run_layer(state, layer);
        unit_us[layer] = effnet_clock_us() - start;
    }
    return EFFNET_OK;
}

const struct backend backend_reference = {
    .name = "reference",
    .devices = visit_devices,
    .open = open_state,
    .close = close_state,
    .describe = describe,
    .run = run,
    .unit = unit,
    .run_unit = run_unit,
    .time = time_pass,
    .profile = profile,
};
