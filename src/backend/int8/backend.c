/* The backend for integer networks: own kernels, NHWC bytes. docs/cpu.md has the design and what was
 * measured. */
#include "backend/int8/int8.h"
#include "backend/lifetimes.h"
#include "common/cpu.h"
#include "common/error.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PAGE      4096
#define ALIGNMENT 64

static const struct int8_kernels *forced;

void effnet_int8_use_kernels(const struct int8_kernels *kernels)
{
    forced = kernels;
}

static void visit_devices(void (*visit)(const struct effnet_device *, void *), void *context)
{
    (void)visit; /* the CPU is the other backend's to list */
    (void)context;
}

static void close_state(struct backend_state *state)
{
    if (!state) return;
    for (int i = 0; state->workers && i < effnet_pool_threads(state->pool); i++) {
        free(state->workers[i].arena);
        free(state->workers[i].scratch);
        free(state->workers[i].layer_us);
    }
    for (int i = 0; state->layers && i < state->info->layer_count; i++)
        effnet_int8_free_layer(&state->layers[i]);
    effnet_pool_close(state->pool);
    free(state->workers);
    free(state->layers);
    free(state->units);
    free(state->timing_pixels);
    free(state->timing_logits);
    free(state);
}

/* ---------------------------------------------------------------- opening */

static struct lifetime new_life(size_t bytes, int first, int last)
{
    bytes += INT8_SLACK;
    return (struct lifetime){
        .bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, .first = first, .last = last};
}

/* Where tensors lie in an arena: the image first, which is life 0; life i + 1 is layer i's output. */
static int plan(struct backend_state *state, struct effnet_error *error)
{
    const struct effnet_model_info *info = state->info;
    const size_t count = (size_t)info->layer_count + 1;
    const size_t image = (size_t)info->height * (size_t)info->width * 3;
    struct lifetime *lives = calloc(count, sizeof *lives);
    if (!lives) return effnet_fail_nomem(error, "memory plan", count * sizeof *lives);
    for (int i = 0; i < info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(state->model, i);
        const bool kept = i == state->features_layer;
        lives[i + 1] = new_life(effnet_layer_out_size(layer) * effnet_int8_out_bytes(layer), i,
                                kept ? info->layer_count - 1 : layer->last_reader);
    }
    const size_t bytes = effnet_place(lives + 1, (int)count - 1);
    lives[0] = new_life(image, 0, info->layer_count - 1); /* a layer far behind may read it */
    for (int i = 0; bytes < SIZE_MAX && i < info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(state->model, i);
        struct int8_layer *to = &state->layers[i];
        for (int k = 0; k < layer->input_count; k++)
            to->input_offsets[k] = layer->inputs[k] == EFFNET_IMAGE
                                       ? 0
                                       : lives[0].bytes + lives[layer->inputs[k] + 1].offset;
        to->output_offset = lives[0].bytes + lives[i + 1].offset;
    }
    state->arena_bytes = bytes < SIZE_MAX ? lives[0].bytes + bytes : 0;
    free(lives);
    return bytes < SIZE_MAX ? EFFNET_OK : effnet_fail_nomem(error, "memory plan", count * sizeof *lives);
}

struct build_job {
    struct backend_state *state;
    struct effnet_error *errors; /* one a layer */
};

static int build_task(void *context, int worker, int index)
{
    const struct build_job *job = context;
    (void)worker;
    return effnet_int8_build_layer(&job->state->layers[index], effnet_model_layer(job->state->model, index),
                                   job->state->kernels, effnet_pool_threads(job->state->pool),
                                   &job->errors[index]);
}

static int build_layers(struct backend_state *state, struct effnet_error *error)
{
    const int layers = state->info->layer_count;
    struct build_job job = {state, calloc((size_t)layers, sizeof *job.errors)};
    if (!job.errors) return effnet_fail_nomem(error, "layers", (size_t)layers * sizeof *job.errors);
    effnet_pool_run(state->pool, effnet_pool_threads(state->pool), layers, build_task, &job);
    int status = EFFNET_OK;
    for (int i = 0; i < layers; i++) {
        const struct int8_layer *layer = &state->layers[i];
        if (job.errors[i].status && !status)
            status = effnet_fail(error, job.errors[i].status, "%s", job.errors[i].message);
        state->memory_bytes += (int64_t)layer->memory_bytes;
        if (layer->scratch_bytes > state->scratch_bytes) state->scratch_bytes = layer->scratch_bytes;
    }
    free(job.errors);
    return status;
}

static char *allocate(size_t bytes)
{
    char *memory = bytes ? aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE) : NULL;
    if (memory) memset(memory, 0, bytes); /* what lies behind a tensor is read, and must have been written */
    return memory;
}

static int build_workers(struct backend_state *state, struct effnet_error *error)
{
    const int threads = effnet_pool_threads(state->pool);
    const size_t layers = (size_t)state->info->layer_count;
    state->workers = calloc((size_t)threads, sizeof *state->workers);
    if (!state->workers) return effnet_fail_nomem(error, "threads", (size_t)threads * sizeof *state->workers);
    for (int i = 0; i < threads; i++) {
        struct int8_worker *worker = &state->workers[i];
        const size_t arena = i < state->images_at_once ? state->arena_bytes : 0;
        worker->arena = allocate(arena);
        worker->scratch = allocate(state->scratch_bytes);
        worker->layer_us = calloc(layers, sizeof *worker->layer_us);
        if ((arena && !worker->arena) || (state->scratch_bytes && !worker->scratch) || !worker->layer_us)
            return effnet_fail_nomem(error, "activations", arena + state->scratch_bytes);
        state->memory_bytes += (int64_t)(arena + state->scratch_bytes);
    }
    return EFFNET_OK;
}

static void describe_units(struct backend_state *state)
{
    for (int i = 0; i < state->info->layer_count; i++) {
        const struct int8_layer *layer = &state->layers[i];
        struct effnet_unit *unit = &state->units[i];
        *unit = effnet_unit_of(state->model, i, i);
        unit->kernel = layer->kernel;
        unit->workspace_bytes = (int64_t)layer->scratch_bytes;
        unit->weight_bytes = (int64_t)layer->memory_bytes;
        unit->bytes_per_image = (int64_t)effnet_layer_out_size(layer->layer);
        for (int k = 0; k < layer->layer->input_count; k++)
            unit->bytes_per_image += (int64_t)effnet_layer_in_size(layer->layer, k);
    }
}

static int build(struct backend_state *state, int threads, struct effnet_error *error)
{
    const size_t layers = (size_t)state->info->layer_count;
    state->layers = calloc(layers, sizeof *state->layers);
    state->units = calloc(layers, sizeof *state->units);
    if (!state->layers || !state->units)
        return effnet_fail_nomem(error, "layers", layers * sizeof *state->layers);
    EFFNET_TRY(effnet_pool_open(threads, &state->pool, error));
    threads = effnet_pool_threads(state->pool);
    state->images_at_once = state->max_batch < threads ? state->max_batch : threads;
    EFFNET_TRY(plan(state, error));
    EFFNET_TRY(build_layers(state, error));
    EFFNET_TRY(build_workers(state, error));
    describe_units(state);
    return EFFNET_OK;
}

static int open_state(const effnet_model *model, const struct backend_options *options,
                      struct backend_state **out, struct effnet_error *error)
{
    *out = NULL;
    struct backend_state *state = calloc(1, sizeof *state);
    if (!state) return effnet_fail_nomem(error, "session", sizeof *state);
    state->model = model;
    state->info = effnet_model_get_info(model);
    state->kernels = forced ? forced : int8_best_kernels();
    state->max_batch = options->max_batch;
    state->features_layer = options->features_layer;
    const int status = build(state, options->threads, error);
    if (status)
        close_state(state);
    else
        *out = state;
    return status;
}

/* ---------------------------------------------------------------- the rest of the table */

static void describe(const struct backend_state *state, struct effnet_session_info *info)
{
    info->device = effnet_cpu_name();
    info->precision = "int8";
    info->threads = effnet_pool_threads(state->pool);
    info->memory_bytes = state->memory_bytes;
}

static const struct effnet_unit *unit(const struct backend_state *state, int index)
{
    return index < state->info->layer_count ? &state->units[index] : NULL;
}

const struct backend backend_int8 = {
    .name = "int8",
    .devices = visit_devices,
    .open = open_state,
    .close = close_state,
    .describe = describe,
    .run = effnet_int8_run,
    .unit = unit,
    .run_unit = effnet_int8_run_unit,
    .time = effnet_int8_time,
    .profile = effnet_int8_profile,
};
