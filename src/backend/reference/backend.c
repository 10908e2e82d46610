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
    struct effnet_unit *units; /* one a layer */
    float **outputs;           /* of each layer, one image; layers whose lives do not meet share memory */
    float *memory;             /* what outputs point into */
    float *input;              /* normalised image tensor */
    double *workspace;
    int64_t memory_bytes;
};

static void visit_devices(void (*visit)(const struct effnet_device *, void *), void *context)
{
    struct effnet_device device = {.name = "reference",
                                   .description = effnet_cpu_name(),
                                   .backend = "reference",
                                   .precisions = "fp32",
                                   .detail = "plain loops, double accumulation, one thread: slow",
                                   .available = true};
    visit(&device, context);
}

static void close_state(struct backend_state *state)
{
    if (!state) return;
    free(state->units);
    free(state->outputs);
    free(state->memory);
    free(state->input);
    free(state->workspace);
    free(state);
}

/* Allocates the outputs' memory and sets the pointers into it: a layer's output lives until its last reader.
 */
static int plan_outputs(struct backend_state *state, struct effnet_error *error)
{
    int layers = effnet_model_get_info(state->model)->layer_count;
    size_t plan_bytes = (size_t)layers * sizeof(struct lifetime), bytes = SIZE_MAX;
    struct lifetime *lives = malloc(plan_bytes);
    for (int i = 0; lives && i < layers; i++) {
        const struct effnet_layer *layer = effnet_model_layer(state->model, i);
        size_t size = effnet_layer_out_size(layer) * sizeof(float);
        lives[i] = (struct lifetime){.bytes = size, .first = i, .last = layer->last_reader};
    }
    if (lives) bytes = effnet_place(lives, layers);
    if (bytes < SIZE_MAX) state->memory = malloc(bytes);
    for (int i = 0; state->memory && i < layers; i++)
        state->outputs[i] = state->memory + lives[i].offset / sizeof(float);
    free(lives);
    if (!state->memory)
        return effnet_fail_nomem(error, "reference activations", bytes < SIZE_MAX ? bytes : plan_bytes);
    state->memory_bytes += (int64_t)bytes;
    return EFFNET_OK;
}

/* Describes the layers and allocates the memory that any of them needs. */
static int build(struct backend_state *state, struct effnet_error *error)
{
    const struct effnet_model_info *info = effnet_model_get_info(state->model);
    size_t layers = (size_t)info->layer_count, workspace = 0;
    state->units = calloc(layers, sizeof *state->units);
    state->outputs = calloc(layers, sizeof *state->outputs);
    if (!state->units || !state->outputs)
        return effnet_fail_nomem(error, "reference", layers * sizeof *state->units);
    for (int i = 0; i < info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(state->model, i);
        size_t values = effnet_layer_out_size(layer);
        for (int k = 0; k < layer->input_count; k++) values += effnet_layer_in_size(layer, k);
        size_t bytes = effnet_reference_workspace_bytes(layer);
        state->units[i] = (struct effnet_unit){
            .first = i,
            .last = i,
            .kernel = "plain loops in double",
            .workspace_bytes = (int64_t)bytes,
            .bytes_per_image = (int64_t)(values * sizeof(float)),
            .weight_bytes = layer->parameters * (int64_t)sizeof(float),
        };
        effnet_unit_find_inputs(state->model, &state->units[i]);
        if (bytes > workspace) workspace = bytes;
    }
    size_t input = (size_t)info->height * (size_t)info->width * (size_t)info->channels * sizeof(float);
    state->workspace = malloc(workspace);
    state->input = malloc(input);
    if (!state->workspace || !state->input) return effnet_fail_nomem(error, "reference", workspace + input);
    state->memory_bytes = (int64_t)(workspace + input);
    for (size_t i = 0; i < input / sizeof(float); i++) /* what is timed before anything was run */
        state->input[i] = (float)(i * 37 % 255) / 128 - 1;
    return plan_outputs(state, error);
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
    int status = build(state, error);
    if (status) {
        close_state(state);
        return status;
    }
    *out = state;
    return EFFNET_OK;
}

static void describe(const struct backend_state *state, struct effnet_session_info *info)
{
    info->device = effnet_cpu_name();
    info->precision = "fp32";
    info->threads = 1;
    info->memory_bytes = state->memory_bytes;
}

/* Runs one layer on the image in state->input and what the layers before it made of that. */
static void run_layer(struct backend_state *state, int index)
{
    const struct effnet_layer *layer = effnet_model_layer(state->model, index);
    const float *inputs[2] = {NULL};
    for (int i = 0; i < layer->input_count; i++)
        inputs[i] = layer->inputs[i] == EFFNET_IMAGE ? state->input : state->outputs[layer->inputs[i]];
    effnet_reference_compute(layer, 1, inputs, false, state->workspace, state->outputs[index]);
}

static int run(struct backend_state *state, const uint8_t *pixels, int n, float *logits,
               struct effnet_error *error)
{
    (void)error;
    const struct effnet_model_info *info = effnet_model_get_info(state->model);
    size_t image_bytes = (size_t)info->height * (size_t)info->width * (size_t)info->channels;
    size_t classes = (size_t)info->classes;
    for (size_t i = 0; i < (size_t)n; i++) {
        effnet_reference_normalise(&info->preprocess, 1, pixels + i * image_bytes, state->input);
        for (int layer = 0; layer < info->layer_count; layer++) run_layer(state, layer);
        memcpy(logits + i * classes, state->outputs[info->layer_count - 1], classes * sizeof *logits);
    }
    return EFFNET_OK;
}

static int unit_count(const struct backend_state *state)
{
    return effnet_model_get_info(state->model)->layer_count;
}

static const struct effnet_unit *unit(const struct backend_state *state, int index)
{
    return &state->units[index];
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
    int layers = effnet_model_get_info(state->model)->layer_count;
    int status = cold ? effnet_evict_caches(error) : EFFNET_OK;
    if (status) return status;
    double start = effnet_clock_us();
    for (int i = 0; i < n; i++)
        for (int layer = 0; layer < layers; layer++) run_layer(state, layer);
    *elapsed_us = effnet_clock_us() - start;
    return EFFNET_OK;
}

static int profile(struct backend_state *state, int n, bool cold, double *unit_us, struct effnet_error *error)
{
    int layers = effnet_model_get_info(state->model)->layer_count;
    for (int layer = 0; layer < layers; layer++) {
        int status = cold ? effnet_evict_caches(error) : EFFNET_OK;
        if (status) return status;
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
    .unit_count = unit_count,
    .unit = unit,
    .run_unit = run_unit,
    .time = time_pass,
    .profile = profile,
};
