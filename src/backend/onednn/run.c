/* Runs images. Few images share all threads: layer by layer, a thread a strip. Many images take a thread
 * each: then nobody waits for anybody, and an image's activations stay in its core's caches. */
#include "backend/onednn/onednn.h"
#include "backend/onednn/values.h"
#include "common/cpu.h"
#include "common/error.h"
#include "common/random.h"

#include <stdlib.h>
#include <string.h>

/* What pool tasks return for a failure of a oneDNN call in a layer. */
static int task_failure(int layer, dnnl_status_t status)
{
    return status ? layer * 16 + (int)status : 0;
}

static int report(const struct backend_state *state, int failure, struct effnet_error *error)
{
    if (!failure) return EFFNET_OK;
    return effnet_onednn_fail(error, (dnnl_status_t)(failure % 16), state->layers[failure / 16].layer->name);
}

/* ---------------------------------------------------------------- values */

void effnet_onednn_fill_pixel_table(struct backend_state *state)
{
    const struct effnet_preprocess *p = &state->info->preprocess;
    float values[3 * 256];
    for (int i = 0; i < 3 * 256; i++)
        values[i] = (float)(((double)(i % 256) - (double)p->mean[i / 256]) / (double)p->std[i / 256]);
    onednn_convert_in(values, 3 * 256, state->type, state->pixel_table);
}

/* Looks up pixels first..end-1 of an image; the tensor is the whole image's. */
static void normalise(const struct backend_state *state, const uint8_t *pixels, size_t first, size_t end,
                      void *tensor)
{
    if (state->type == dnnl_f32) {
        const float *table = state->pixel_table;
        float *to = tensor;
        for (size_t i = 3 * first; i < 3 * end; i += 3)
            for (size_t c = 0; c < 3; c++) to[i + c] = table[256 * c + pixels[i + c]];
    } else {
        const uint16_t *table = state->pixel_table;
        uint16_t *to = tensor;
        for (size_t i = 3 * first; i < 3 * end; i += 3)
            for (size_t c = 0; c < 3; c++) to[i + c] = table[256 * c + pixels[i + c]];
    }
}

static size_t image_pixels(const struct backend_state *state)
{
    return (size_t)state->info->height * (size_t)state->info->width;
}

/* What a run hands out, image by image. */
struct outputs {
    float *logits;
    float *features; /* NULL: not wanted */
};

static void convert_output(const struct backend_state *state, int index, size_t image, const char *arena,
                           float *to)
{
    const struct onednn_layer *layer = &state->layers[index];
    const size_t size = effnet_layer_out_size(layer->layer);
    onednn_convert_out(arena + layer->destination_offset, size, layer->destination_type, to + image * size);
}

/* Of the image whose activations are in the arena. */
static void hand_out(const struct backend_state *state, const char *arena, size_t image,
                     const struct outputs *to)
{
    convert_output(state, state->info->layer_count - 1, image, arena, to->logits);
    if (to->features) convert_output(state, state->features_layer, image, arena, to->features);
}

/* ---------------------------------------------------------------- one strip */

/* Runs one strip of a layer in an arena, with a worker's own handles. */
static dnnl_status_t run_strip(const struct backend_state *state, const struct onednn_layer *layer, int index,
                               struct onednn_worker *worker, char *arena)
{
    const struct onednn_strip *strip = &layer->strips[index];
    char *source = arena + layer->input_offsets[0] + strip->source_offset;
    char *destination = arena + layer->destination_offset + strip->destination_offset;
    if (layer->own_mean) {
        effnet_onednn_mean(layer, source, strip->shape.out_channels, destination);
        return dnnl_success;
    }
    if (layer->fused.mean) {
        effnet_onednn_mean_of_sums(layer->layer, (const float *)(arena + state->sums_offset),
                                   (float *)destination);
        return dnnl_success;
    }
    effnet_onednn_before_strip(state, layer, strip, arena);
    const struct onednn_view *view = &worker->views[layer->first_view + strip->variant];
    if (layer->copies_residual)
        memcpy(destination, arena + layer->input_offsets[1] + strip->destination_offset,
               strip->destination_bytes);
    dnnl_status_t status = dnnl_memory_set_data_handle(view->source, source);
    if (!status) status = dnnl_memory_set_data_handle(view->destination, destination);
    if (!status && view->gate)
        status = dnnl_memory_set_data_handle(view->gate, arena + layer->input_offsets[1]);
    if (status) return status;
    dnnl_exec_arg_t arguments[5] = {{DNNL_ARG_SRC, view->source}, {DNNL_ARG_DST, view->destination}};
    int count = 2;
    if (view->gate) arguments[count++] = (dnnl_exec_arg_t){DNNL_ARG_SRC_1, view->gate};
    if (layer->layer->weight) {
        const struct onednn_packed *packed = &layer->packed[strip->packed];
        arguments[count++] = (dnnl_exec_arg_t){DNNL_ARG_WEIGHTS, packed->weights};
        arguments[count++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, packed->bias};
    }
    if (view->scratch) arguments[count++] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, view->scratch};
    status = dnnl_primitive_execute(layer->variants[strip->variant].primitive, worker->stream, count,
                                    arguments);
    if (!status) effnet_onednn_after_strip(state, layer, strip, arena);
    return status;
}

/* ---------------------------------------------------------------- images over all threads */

/* One image in worker 0's arena. */
struct shared_image {
    struct backend_state *state;
    const uint8_t *pixels;
    int layer, normalise_strips;
};

static int normalise_task(void *context, int worker, int index)
{
    (void)worker;
    const struct shared_image *job = context;
    size_t pixels = image_pixels(job->state), strips = (size_t)job->normalise_strips;
    normalise(job->state, job->pixels, pixels * (size_t)index / strips, pixels * ((size_t)index + 1) / strips,
              job->state->workers[0].arena + job->state->layers[0].input_offsets[0]);
    return 0;
}

static int strip_task(void *context, int worker, int index)
{
    const struct shared_image *job = context;
    struct backend_state *state = job->state;
    return task_failure(job->layer, run_strip(state, &state->layers[job->layer], index,
                                              &state->workers[worker], state->workers[0].arena));
}

static int run_shared_layer(struct shared_image *job, int layer)
{
    struct pool *pool = job->state->pool;
    if (job->state->layers[layer].strip_count == 0) return 0;
    job->layer = layer;
    return effnet_pool_run(pool, effnet_pool_threads(pool), job->state->layers[layer].strip_count, strip_task,
                           job);
}

static int run_shared_unit(struct shared_image *job, int index, struct effnet_error *error)
{
    const struct effnet_unit *unit = &job->state->units[index].unit;
    for (int i = unit->first; i <= unit->last; i++)
        EFFNET_TRY(report(job->state, run_shared_layer(job, i), error));
    return EFFNET_OK;
}

/* The whole network, for one image. unit_us, where not NULL, has each unit's time added, the first with
 * normalisation; cold evicts the caches before each, which is not counted. */
static int run_shared(struct backend_state *state, const uint8_t *pixels, double *unit_us, bool cold,
                      struct effnet_error *error)
{
    struct shared_image job = {.state = state, .pixels = pixels};
    job.normalise_strips = effnet_pool_threads(state->pool);
    for (int u = 0; u < state->unit_count; u++) {
        if (cold) EFFNET_TRY(effnet_evict_caches(error));
        double start = unit_us ? effnet_clock_us() : 0;
        if (u == 0)
            effnet_pool_run(state->pool, job.normalise_strips, job.normalise_strips, normalise_task, &job);
        EFFNET_TRY(run_shared_unit(&job, u, error));
        if (unit_us) unit_us[u] += effnet_clock_us() - start;
    }
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- an image a thread */

struct own_images {
    struct backend_state *state;
    const uint8_t *pixels;
    const struct outputs *outputs;
    bool profile; /* add up the workers' layer_us */
};

static int image_task(void *context, int worker_number, int index)
{
    const struct own_images *job = context;
    struct backend_state *state = job->state;
    struct onednn_worker *worker = &state->workers[worker_number];
    const struct onednn_layer *layer = state->layers;
    double start = job->profile ? effnet_clock_us() : 0;
    normalise(state, job->pixels + (size_t)index * image_pixels(state) * 3, 0, image_pixels(state),
              worker->arena + layer->input_offsets[0]);
    for (int i = 0; i < state->info->layer_count; i++) {
        layer = &state->layers[i];
        for (int s = 0; s < layer->strip_count; s++) {
            dnnl_status_t status = run_strip(state, layer, s, worker, worker->arena);
            if (status) return task_failure(i, status);
        }
        if (!job->profile) continue;
        double end = effnet_clock_us();
        worker->layer_us[i] += end - start;
        start = end;
    }
    hand_out(state, worker->arena, (size_t)index, job->outputs);
    return 0;
}

/* How many of n images, those of one pass, take a thread each; the others share all threads one after the
 * other. A round that would leave more than a quarter of the threads without an image is not worth it. */
static int count_own(const struct backend_state *state, int n)
{
    int threads = effnet_pool_threads(state->pool), at_once = state->images_at_once;
    int rest = n % at_once;
    if (4 * rest > 3 * threads) rest = 0;
    return n - rest > 0 && 4 * at_once > 3 * threads ? n - rest : 0;
}

static int run_own(struct backend_state *state, const uint8_t *pixels, int n, const struct outputs *outputs,
                   bool profile, struct effnet_error *error)
{
    struct own_images job = {.state = state, .pixels = pixels, .outputs = outputs, .profile = profile};
    return report(state, effnet_pool_run(state->pool, state->images_at_once, n, image_task, &job), error);
}

/* One pass of n <= max_batch images. */
static int run_pass(struct backend_state *state, const uint8_t *pixels, int n, const struct outputs *outputs,
                    struct effnet_error *error)
{
    int own = count_own(state, n);
    if (own > 0) EFFNET_TRY(run_own(state, pixels, own, outputs, false, error));
    for (int i = own; i < n; i++) {
        EFFNET_TRY(run_shared(state, pixels + (size_t)i * image_pixels(state) * 3, NULL, false, error));
        hand_out(state, state->workers[0].arena, (size_t)i, outputs);
    }
    return EFFNET_OK;
}

int effnet_onednn_run(struct backend_state *state, const uint8_t *pixels, int n, float *logits,
                      float *features, struct effnet_error *error)
{
    struct outputs outputs = {logits, features};
    for (int done = 0; done < n; done += state->max_batch) {
        int pass = n - done < state->max_batch ? n - done : state->max_batch;
        EFFNET_TRY(run_pass(state, pixels + (size_t)done * image_pixels(state) * 3, pass, &outputs, error));
        outputs.logits += (size_t)pass * (size_t)state->info->classes;
        if (features)
            outputs.features += (size_t)pass *
                                effnet_layer_out_size(state->layers[state->features_layer].layer);
    }
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- units */

/* Puts what layer `index` of a unit reads from outside of it where the layer will look for it. */
static void load_inputs(const struct backend_state *state, const struct effnet_unit *unit, int index,
                        const float *const *inputs, size_t image)
{
    const struct onednn_layer *layer = &state->layers[index];
    const struct effnet_layer *from = layer->layer;
    for (int k = 0; k < from->input_count; k++) {
        if (from->inputs[k] >= unit->first) continue;
        const size_t size = effnet_layer_in_size(from, k);
        const float *input = inputs[effnet_unit_input(unit, from->inputs[k])];
        onednn_convert_in(input + image * size, size, layer->source_type,
                          state->workers[0].arena + layer->input_offsets[k]);
    }
}

int effnet_onednn_run_unit(struct backend_state *state, int index, int n, const float *const *inputs,
                           float *output, struct effnet_error *error)
{
    const struct effnet_unit *unit = &state->units[index].unit;
    const struct onednn_layer *layer = &state->layers[unit->last];
    size_t out_size = effnet_layer_out_size(layer->layer);
    char *arena = state->workers[0].arena;
    struct shared_image job = {.state = state};
    for (size_t i = 0; i < (size_t)n; i++) {
        for (int l = unit->first; l <= unit->last; l++) load_inputs(state, unit, l, inputs, i);
        EFFNET_TRY(run_shared_unit(&job, index, error));
        onednn_convert_out(arena + layer->destination_offset, out_size, layer->destination_type,
                           output + i * out_size);
    }
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- timing */

/* Images to time with, and room for their logits. */
static int prepare_timing(struct backend_state *state, struct effnet_error *error)
{
    if (state->timing_pixels && state->timing_logits) return EFFNET_OK;
    size_t images = (size_t)state->max_batch, bytes = images * image_pixels(state) * 3;
    size_t logit_bytes = images * (size_t)state->info->classes * sizeof *state->timing_logits;
    if (!state->timing_pixels) state->timing_pixels = malloc(bytes);
    if (!state->timing_logits) state->timing_logits = malloc(logit_bytes);
    if (!state->timing_pixels || !state->timing_logits)
        return effnet_fail_nomem(error, "images to time", bytes + logit_bytes);
    uint64_t random = 1;
    for (size_t i = 0; i < bytes; i++) state->timing_pixels[i] = (uint8_t)random_next(&random);
    return EFFNET_OK;
}

int effnet_onednn_time(struct backend_state *state, int n, bool cold, double *elapsed_us,
                       struct effnet_error *error)
{
    EFFNET_TRY(prepare_timing(state, error));
    if (cold) EFFNET_TRY(effnet_evict_caches(error));
    double start = effnet_clock_us();
    int status = run_pass(state, state->timing_pixels, n, &(struct outputs){state->timing_logits, NULL},
                          error);
    *elapsed_us = effnet_clock_us() - start;
    return status;
}

/* Images with a thread each run their layers at the same time, so a layer's share of the wall time is the
 * workers' sum over their number; the caches are then evicted once, before them all. */
int effnet_onednn_profile(struct backend_state *state, int n, bool cold, double *unit_us,
                          struct effnet_error *error)
{
    int layers = state->info->layer_count, own = count_own(state, n);
    EFFNET_TRY(prepare_timing(state, error));
    for (int u = 0; u < state->unit_count; u++) unit_us[u] = 0;
    if (own > 0) {
        if (cold) EFFNET_TRY(effnet_evict_caches(error));
        for (int w = 0; w < state->images_at_once; w++)
            memset(state->workers[w].layer_us, 0, (size_t)layers * sizeof(double));
        EFFNET_TRY(run_own(state, state->timing_pixels, own, &(struct outputs){state->timing_logits, NULL},
                           true, error));
        for (int u = 0; u < state->unit_count; u++)
            for (int i = state->units[u].unit.first; i <= state->units[u].unit.last; i++)
                for (int w = 0; w < state->images_at_once; w++)
                    unit_us[u] += state->workers[w].layer_us[i] / state->images_at_once;
    }
    for (int i = own; i < n; i++) EFFNET_TRY(run_shared(state, state->timing_pixels, unit_us, cold, error));
    return EFFNET_OK;
}
