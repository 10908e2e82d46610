/* The reference as a backend: one layer a unit, one image at a time, one thread. */
#include "backend/backend.h"
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

/* The last layer that reads what layer `index` writes. */
static int last_reader(const effnet_model *model, int index)
{
    int last = index + 1;
    for (int i = index + 1; i < effnet_model_get_info(model)->layer_count; i++)
        if (effnet_model_layer(model, i)->residual == index) last = i;
    return last;
}

/* Gives each layer's output a place, slots[i], such that it is overwritten only after its last reader: the
 * first slot that is free by then, or a new one. sizes[] receives the slots' elements; returns their number.
 */
static int assign_slots(const effnet_model *model, int *slots, size_t *sizes, int *busy_until)
{
    int layers = effnet_model_get_info(model)->layer_count, count = 0;
    for (int i = 0; i < layers; i++) {
        size_t size = effnet_reference_out_size(effnet_model_layer(model, i));
        int slot = 0;
        while (slot < count && busy_until[slot] >= i) slot++;
        if (slot == count) sizes[count++] = 0;
        if (sizes[slot] < size) sizes[slot] = size;
        busy_until[slot] = last_reader(model, i);
        slots[i] = slot;
    }
    return count;
}

/* Allocates the outputs' memory and sets the pointers into it. */
static int plan_outputs(struct backend_state *state, struct effnet_error *error)
{
    size_t layers = (size_t)effnet_model_get_info(state->model)->layer_count;
    int *slots = malloc(layers * sizeof *slots), *busy_until = malloc(layers * sizeof *busy_until);
    size_t *sizes = malloc(layers * sizeof *sizes), total = 0;
    int status = EFFNET_OK;
    state->outputs = malloc(layers * sizeof *state->outputs);
    if (!slots || !busy_until || !sizes || !state->outputs) {
        status = effnet_fail_nomem(error, "reference", layers * sizeof *sizes);
    } else {
        int count = assign_slots(state->model, slots, sizes, busy_until);
        for (int i = 0; i < count; i++) { /* sizes become starts */
            size_t size = sizes[i];
            sizes[i] = total;
            total += size;
        }
        state->memory = malloc(total * sizeof *state->memory);
        if (!state->memory) status = effnet_fail_nomem(error, "reference activations", total * sizeof(float));
        for (size_t i = 0; !status && i < layers; i++) state->outputs[i] = state->memory + sizes[slots[i]];
        state->memory_bytes += (int64_t)(total * sizeof(float));
    }
    free(slots);
    free(busy_until);
    free(sizes);
    return status;
}

/* Describes the layers and allocates the memory that any of them needs. */
static int build(struct backend_state *state, struct effnet_error *error)
{
    const struct effnet_model_info *info = effnet_model_get_info(state->model);
    size_t layers = (size_t)info->layer_count, workspace = 0;
    state->units = calloc(layers, sizeof *state->units);
    if (!state->units) return effnet_fail_nomem(error, "reference", layers * sizeof *state->units);
    for (int i = 0; i < info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(state->model, i);
        size_t in = effnet_reference_in_size(layer), out = effnet_reference_out_size(layer);
        size_t bytes = effnet_reference_workspace_bytes(layer);
        state->units[i] = (struct effnet_unit){
            .first = i,
            .last = i,
            .kernel = "plain loops in double",
            .workspace_bytes = (int64_t)bytes,
            .bytes_per_image = (int64_t)((in + out + (layer->residual >= 0 ? out : 0)) * sizeof(float)),
            .weight_bytes = layer->parameters * (int64_t)sizeof(float),
        };
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
    const float *input = index > 0 ? state->outputs[index - 1] : state->input;
    const float *residual = layer->residual >= 0 ? state->outputs[layer->residual] : NULL;
    effnet_reference_compute(layer, 1, input, residual, false, state->workspace, state->outputs[index]);
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

static int run_unit(struct backend_state *state, int index, int n, const float *input, const float *residual,
                    float *output, struct effnet_error *error)
{
    (void)error;
    effnet_reference_compute(effnet_model_layer(state->model, index), n, input, residual, false,
                             state->workspace, output);
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
