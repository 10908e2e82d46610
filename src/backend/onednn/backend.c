/* The CPU backend: oneDNN primitives over NHWC tensors. docs/cpu.md has the design and the measurements. */
#include "backend/backend.h"

#include "backend/onednn/onednn.h"
#include "common/cpu.h"
#include "common/error.h"
#include "common/fork.h"
#include "common/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if DNNL_CPU_THREADING_RUNTIME != DNNL_RUNTIME_OMP && DNNL_CPU_THREADING_RUNTIME != DNNL_RUNTIME_SEQ
#error "oneDNN must be built for OpenMP or without threads: this backend limits its calls to one thread"
#endif

/* Strips of one layer at most. Small ones pay for starting and for reading all weights: 15 pixels cost 15 %
 * over whole layers, 30 or more 0 to 3 % (docs/lab/cpu.md). Where batches will keep every thread busy with
 * images of its own only the larger are worth making. */
#define MAX_STRIPS            64
#define MIN_PIXELS_THROUGHPUT 32
#define MIN_PIXELS_LATENCY    8

#define PAGE 4096

/* Whether oneDNN compiles its kernels for these instructions here. An instruction set has the bits of those
 * that it contains. The constants are x86's: other processors' are numbers of the same range. */
static bool has_isa(dnnl_cpu_isa_t isa)
{
#if defined(__x86_64__) || defined(__i386__)
    return (dnnl_get_effective_cpu_isa() & isa) == isa;
#else
    (void)isa;
    return false;
#endif
}

/* bf16 needs the instructions: where there are none oneDNN emulates them, slowly, or refuses. */
static bool has_bf16(void)
{
    return has_isa(dnnl_cpu_isa_avx512_core_bf16);
}

/* What oneDNN compiles its kernels for here. */
static const char *instruction_set(void)
{
    static const struct {
        dnnl_cpu_isa_t isa;
        const char *words;
    } sets[] = {
        {dnnl_cpu_isa_avx512_core_amx, "oneDNN with AMX"},
        {dnnl_cpu_isa_avx512_core_bf16, "oneDNN with AVX-512 and bf16"},
        {dnnl_cpu_isa_avx512_core, "oneDNN with AVX-512"},
        {dnnl_cpu_isa_avx2, "oneDNN with AVX2"},
    };
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++)
        if (has_isa(sets[i].isa)) return sets[i].words;
#if defined(__x86_64__) || defined(__i386__)
    return "oneDNN without AVX2: slow";
#else
    return "oneDNN";
#endif
}

static void visit_devices(void (*visit)(const struct effnet_device *, void *), void *context)
{
    effnet_fork_block();
    struct effnet_device device = {.name = "cpu",
                                   .description = effnet_cpu_name(),
                                   .backend = "onednn",
                                   .precisions = has_bf16() ? "fp32 bf16 int8" : "fp32 int8",
                                   .detail = instruction_set(),
                                   .available = true};
    effnet_fork_unblock();
    visit(&device, context);
}

static int choose_type(const char *precision, dnnl_data_type_t *type, struct effnet_error *error)
{
    *type = dnnl_f32;
    if (!precision || strcmp(precision, "fp32") == 0) return EFFNET_OK;
    if (strcmp(precision, "bf16") != 0)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "this CPU runs %s, not %s",
                           has_bf16() ? "fp32 and bf16" : "fp32", precision);
    if (!has_bf16())
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "this CPU has no bf16 instructions (AVX512_BF16); use fp32");
    *type = dnnl_bf16;
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- closing */

static void free_worker(const struct backend_state *state, struct onednn_worker *worker)
{
    const struct onednn_layer *last = &state->layers[state->info->layer_count - 1];
    int views = worker->views ? last->first_view + last->variant_count : 0;
    for (int i = 0; i < views; i++) {
        struct onednn_view *view = &worker->views[i];
        if (view->source) dnnl_memory_destroy(view->source);
        if (view->gate) dnnl_memory_destroy(view->gate);
        if (view->destination) dnnl_memory_destroy(view->destination);
        if (view->scratch) dnnl_memory_destroy(view->scratch);
    }
    if (worker->stream) dnnl_stream_destroy(worker->stream);
    free(worker->views);
    free(worker->arena);
    free(worker->scratch);
    free(worker->layer_us);
}

static void close_state(struct backend_state *state)
{
    if (!state) return;
    for (int i = 0; state->workers && i < effnet_pool_threads(state->pool); i++)
        free_worker(state, &state->workers[i]);
    for (int i = 0; state->layers && i < state->info->layer_count; i++)
        effnet_onednn_free_layer(&state->layers[i]);
    effnet_pool_close(state->pool);
    if (state->engine) dnnl_engine_destroy(state->engine);
    free(state->workers);
    free(state->layers);
    free(state->units);
    free(state->pixel_table);
    free(state->timing_pixels);
    free(state->timing_logits);
    free(state);
}

/* ---------------------------------------------------------------- opening */

struct build_job {
    struct backend_state *state;
    struct effnet_error *errors; /* one a layer */
    int max_strips, min_pixels;
};

/* oneDNN's compiler writes to memory that it did not get. What it takes for a layer on each of a few threads,
 * and the layer's weights in whatever layouts they pass through, stays below this. */
#define BUILD_BYTES ((size_t)32 << 20)

static int build_task(void *context, int worker, int index)
{
    (void)worker;
    const struct build_job *job = context;
    const struct effnet_layer *layer = job->state->layers[index].layer;
    const size_t bytes = BUILD_BYTES + 4 * sizeof(float) * (size_t)layer->parameters;
    if (!effnet_memory_left(bytes, 0)) return effnet_fail_nomem(&job->errors[index], layer->name, bytes);
    return effnet_onednn_build_layer(job->state, &job->state->layers[index], job->max_strips, job->min_pixels,
                                     &job->errors[index]);
}

/* Makes all primitives, on all threads: compiling them and packing weights is most of what opening takes. */
static int build_layers(struct backend_state *state, struct effnet_error *error)
{
    int layers = state->info->layer_count, threads = effnet_pool_threads(state->pool);
    struct build_job job = {.state = state,
                            .max_strips = threads < MAX_STRIPS ? threads : MAX_STRIPS,
                            .min_pixels = state->images_at_once == threads ? MIN_PIXELS_THROUGHPUT
                                                                           : MIN_PIXELS_LATENCY};
    job.errors = calloc((size_t)layers, sizeof *job.errors);
    if (!job.errors) return effnet_fail_nomem(error, "layers", (size_t)layers * sizeof *job.errors);
    effnet_pool_run(state->pool, threads, layers, build_task, &job);
    int status = EFFNET_OK, views = 0;
    for (int i = 0; i < layers; i++) {
        struct onednn_layer *layer = &state->layers[i];
        if (job.errors[i].status && !status)
            status = effnet_fail(error, job.errors[i].status, "%s", job.errors[i].message);
        layer->first_view = views;
        views += layer->variant_count;
        state->memory_bytes += (int64_t)layer->weight_bytes;
        if (layer->scratch_bytes > state->scratch_bytes) state->scratch_bytes = layer->scratch_bytes;
    }
    free(job.errors);
    return status;
}

static dnnl_status_t create_view(const struct backend_state *state, const struct onednn_variant *variant,
                                 enum effnet_op op, char *scratch, struct onednn_view *view)
{
    onednn_const_desc source = effnet_onednn_desc(variant, dnnl_query_src_md, 0);
    onednn_const_desc destination = effnet_onednn_desc(variant, dnnl_query_dst_md, 0);
    onednn_const_desc scratchpad = effnet_onednn_desc(variant, dnnl_query_scratchpad_md, 0);
    dnnl_status_t status = dnnl_memory_create(&view->source, source, state->engine, DNNL_MEMORY_NONE);
    if (!status)
        status = dnnl_memory_create(&view->destination, destination, state->engine, DNNL_MEMORY_NONE);
    if (!status && op == EFFNET_OP_SCALE)
        status = dnnl_memory_create(&view->gate, effnet_onednn_desc(variant, dnnl_query_src_md, 1),
                                    state->engine, DNNL_MEMORY_NONE);
    if (!status && dnnl_memory_desc_get_size(scratchpad) > 0)
        status = dnnl_memory_create(&view->scratch, scratchpad, state->engine, scratch);
    return status;
}

/* A worker's handles and memory. */
static int build_worker(struct backend_state *state, struct onednn_worker *worker, bool has_arena,
                        struct effnet_error *error)
{
    size_t layers = (size_t)state->info->layer_count;
    const struct onednn_layer *last = &state->layers[layers - 1];
    size_t views = (size_t)(last->first_view + last->variant_count);
    size_t arena = (state->arena_bytes + PAGE - 1) / PAGE * PAGE;
    size_t scratch = (state->scratch_bytes + PAGE - 1) / PAGE * PAGE;
    worker->views = calloc(views, sizeof *worker->views);
    worker->layer_us = calloc(layers, sizeof *worker->layer_us);
    if (has_arena) worker->arena = aligned_alloc(PAGE, arena);
    if (scratch) worker->scratch = aligned_alloc(PAGE, scratch);
    if (!worker->views || !worker->layer_us || (has_arena && !worker->arena) || (scratch && !worker->scratch))
        return effnet_fail_nomem(error, "activations", arena + scratch);
    state->memory_bytes += (int64_t)((has_arena ? arena : 0) + scratch);

    dnnl_status_t status = dnnl_stream_create(&worker->stream, state->engine, dnnl_stream_default_flags);
    if (status) return effnet_onednn_fail(error, status, "stream");
    for (size_t i = 0; i < layers; i++) {
        const struct onednn_layer *layer = &state->layers[i];
        for (int v = 0; v < layer->variant_count; v++) {
            status = create_view(state, &layer->variants[v], layer->layer->op, worker->scratch,
                                 &worker->views[layer->first_view + v]);
            if (status) return effnet_onednn_fail(error, status, layer->layer->name);
        }
    }
    return EFFNET_OK;
}

static int build_workers(struct backend_state *state, struct effnet_error *error)
{
    int threads = effnet_pool_threads(state->pool);
    state->workers = calloc((size_t)threads, sizeof *state->workers);
    if (!state->workers) return effnet_fail_nomem(error, "threads", (size_t)threads * sizeof *state->workers);
    for (int i = 0; i < threads; i++)
        EFFNET_TRY(build_worker(state, &state->workers[i], i < state->images_at_once, error));
    return EFFNET_OK;
}

/* Bytes of activations that a layer reads and writes. */
static size_t activation_bytes(const struct onednn_layer *layer)
{
    const struct effnet_layer *from = layer->layer;
    size_t in = effnet_layer_in_size(from, 0), out = effnet_layer_out_size(from);
    size_t passes = from->residual < 0 ? 1 : layer->copies_residual ? 4 : 2; /* over the output */
    if (layer->fused.mean) in = 0;
    if (layer->fused.skipped) in = passes = 0;
    if (from->op == EFFNET_OP_SCALE) in += effnet_layer_in_size(from, 1);
    return in * dnnl_data_type_size(layer->source_type) +
           passes * out * dnnl_data_type_size(layer->destination_type);
}

static void describe_units(struct backend_state *state)
{
    for (int u = 0; u < state->unit_count; u++) {
        struct onednn_unit *to = &state->units[u];
        struct effnet_unit *unit = &to->unit;
        const struct onednn_layer *first = &state->layers[unit->first], *last = &state->layers[unit->last];
        if (first == last)
            snprintf(to->kernel, sizeof to->kernel, "%s", first->kernel);
        else
            snprintf(to->kernel, sizeof to->kernel, "%s; squeeze-excite; %s", first->kernel, last->kernel);
        unit->kernel = to->kernel;
        for (int i = unit->first; i <= unit->last; i++) {
            const struct onednn_layer *layer = &state->layers[i];
            if ((int64_t)layer->scratch_bytes > unit->workspace_bytes)
                unit->workspace_bytes = (int64_t)layer->scratch_bytes;
            unit->bytes_per_image += (int64_t)activation_bytes(layer);
            unit->weight_bytes += (int64_t)layer->weight_bytes;
        }
    }
}

static int build(struct backend_state *state, const struct backend_options *options,
                 struct effnet_error *error)
{
    size_t layers = (size_t)state->info->layer_count;
    size_t table_bytes = (size_t)3 * 256 * dnnl_data_type_size(state->type);
    dnnl_status_t created = dnnl_engine_create(&state->engine, dnnl_cpu, 0);
    if (created) return effnet_onednn_fail(error, created, "CPU engine");
    state->layers = calloc(layers, sizeof *state->layers);
    state->units = calloc(layers, sizeof *state->units);
    state->pixel_table = malloc(table_bytes);
    if (!state->layers || !state->units || !state->pixel_table)
        return effnet_fail_nomem(error, "layers", layers * sizeof *state->layers);
    for (size_t i = 0; i < layers; i++) state->layers[i].layer = effnet_model_layer(state->model, (int)i);
    effnet_onednn_fill_pixel_table(state);
    effnet_onednn_fuse(state, has_isa(dnnl_cpu_isa_avx2), options->each_layer);

    EFFNET_TRY(effnet_pool_open(options->threads, &state->pool, error));
    const int threads = effnet_pool_threads(state->pool);
    state->images_at_once = state->max_batch < threads ? state->max_batch : threads;
    EFFNET_TRY(effnet_onednn_plan(state, error));
    EFFNET_TRY(build_layers(state, error));
    EFFNET_TRY(build_workers(state, error));
    describe_units(state);
    return EFFNET_OK;
}

static int open_unforked(const effnet_model *model, const struct backend_options *options,
                         struct backend_state **out, struct effnet_error *error)
{
    dnnl_data_type_t type;
    EFFNET_TRY(choose_type(options->precision, &type, error));
    struct backend_state *state = calloc(1, sizeof *state);
    if (!state) return effnet_fail_nomem(error, "session", sizeof *state);
    state->model = model;
    state->info = effnet_model_get_info(model);
    state->type = type;
    state->max_batch = options->max_batch;
    state->features_layer = options->features_layer;
    int status = build(state, options, error);
    if (status)
        close_state(state);
    else
        *out = state;
    return status;
}

/* A child made in between would find oneDNN's cache of primitives locked, or wait there for a primitive that
 * a thread of its parent is making. */
static int open_state(const effnet_model *model, const struct backend_options *options,
                      struct backend_state **out, struct effnet_error *error)
{
    *out = NULL;
    effnet_fork_block();
    int status = open_unforked(model, options, out, error);
    effnet_fork_unblock();
    return status;
}

/* ---------------------------------------------------------------- the rest of the table */

static void describe(const struct backend_state *state, struct effnet_session_info *info)
{
    info->device = effnet_cpu_name();
    info->precision = state->type == dnnl_f32 ? "fp32" : "bf16";
    info->threads = effnet_pool_threads(state->pool);
    info->memory_bytes = state->memory_bytes;
}

static const struct effnet_unit *unit(const struct backend_state *state, int index)
{
    return index < state->unit_count ? &state->units[index].unit : NULL;
}

const struct backend backend_onednn = {
    .name = "onednn",
    .devices = visit_devices,
    .open = open_state,
    .close = close_state,
    .describe = describe,
    .run = effnet_onednn_run,
    .unit = unit,
    .run_unit = effnet_onednn_run_unit,
    .time = effnet_onednn_time,
    .profile = effnet_onednn_profile,
};
