/* Runs images. Few images share all threads, layer by layer; many take a thread each. */
#include "backend/int8/int8.h"
#include "common/cpu.h"
#include "common/error.h"
#include "common/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t image_bytes(const struct backend_state *state)
{
    return (size_t)state->info->height * (size_t)state->info->width * 3;
}

/* What a run hands out, image by image. */
struct outputs {
    float *logits;
    float *features; /* NULL: not wanted */
};

/* A layer's output as floats. */
static void read_output(const struct backend_state *state, int index, const char *arena, float *to)
{
    const struct int8_layer *layer = &state->layers[index];
    const struct effnet_integer *q = layer->layer->integer;
    const size_t size = effnet_layer_out_size(layer->layer);
    const void *from = arena + layer->output_offset;
    const bool wide = q->out_most == EFFNET_MOST_WIDE;
    if (q->out_scale == 0)
        memcpy(to, from, size * sizeof *to);
    else
        for (size_t i = 0; i < size; i++) {
            const int step = wide ? ((const uint16_t *)from)[i] : ((const uint8_t *)from)[i];
            to[i] = q->out_scale * (float)(step - q->out_zero);
        }
}

static void hand_out(const struct backend_state *state, const char *arena, size_t image,
                     const struct outputs *to)
{
    const size_t classes = (size_t)state->info->classes;
    read_output(state, state->info->layer_count - 1, arena, to->logits + image * classes);
    if (!to->features) return;
    const size_t size = effnet_layer_out_size(state->layers[state->features_layer].layer);
    read_output(state, state->features_layer, arena, to->features + image * size);
}

/* ---------------------------------------------------------------- images over all threads */

/* One layer of the image in worker 0's arena. */
struct shared_layer {
    struct backend_state *state;
    int layer;
};

static int shared_task(void *context, int worker, int index)
{
    const struct shared_layer *job = context;
    struct backend_state *state = job->state;
    effnet_int8_run_task(&state->layers[job->layer], index, state->workers[0].arena,
                         state->workers[worker].scratch);
    return 0;
}

static void run_shared_layer(struct backend_state *state, int index)
{
    struct shared_layer job = {state, index};
    const int tasks = state->layers[index].strips * state->layers[index].slices;
    effnet_pool_run(state->pool, effnet_pool_threads(state->pool), tasks, shared_task, &job);
}

/* The whole network, for one image. unit_us, where not NULL, has each unit's time added; cold evicts the
 * caches before each, which is not counted. */
static int run_shared(struct backend_state *state, const uint8_t *pixels, double *unit_us, bool cold,
                      struct effnet_error *error)
{
    memcpy(state->workers[0].arena, pixels, image_bytes(state));
    for (int i = 0; i < state->info->layer_count; i++) {
        if (cold) EFFNET_TRY(effnet_evict_caches(error));
        const double start = unit_us ? effnet_clock_us() : 0;
        run_shared_layer(state, i);
        if (unit_us) unit_us[i] += effnet_clock_us() - start;
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
    const struct backend_state *state = job->state;
    const struct int8_worker *worker = &state->workers[worker_number];
    double start = job->profile ? effnet_clock_us() : 0;
    memcpy(worker->arena, job->pixels + (size_t)index * image_bytes(state), image_bytes(state));
    for (int i = 0; i < state->info->layer_count; i++) {
        const struct int8_layer *layer = &state->layers[i];
        for (int t = 0; t < layer->strips * layer->slices; t++)
            effnet_int8_run_task(layer, t, worker->arena, worker->scratch);
        if (job->profile) effnet_clock_lap(&start, &worker->layer_us[i]);
    }
    hand_out(state, worker->arena, (size_t)index, job->outputs);
    return 0;
}

/* How many of n images, those of one pass, take a thread each; the others share all threads one after the
 * other. A round that would leave more than a quarter of the threads without an image is not worth it. */
static int count_own(const struct backend_state *state, int n)
{
    const int threads = effnet_pool_threads(state->pool), at_once = state->images_at_once;
    int rest = n % at_once;
    if (4 * rest > 3 * threads) rest = 0;
    return n - rest > 0 && 4 * at_once > 3 * threads ? n - rest : 0;
}

static void run_own(struct backend_state *state, const uint8_t *pixels, int n, const struct outputs *outputs,
                    bool profile)
{
    struct own_images job = {.state = state, .pixels = pixels, .outputs = outputs, .profile = profile};
    effnet_pool_run(state->pool, state->images_at_once, n, image_task, &job);
}

/* One pass of n <= max_batch images. */
static int run_pass(struct backend_state *state, const uint8_t *pixels, int n, const struct outputs *outputs,
                    struct effnet_error *error)
{
    const int own = count_own(state, n);
    if (own > 0) run_own(state, pixels, own, outputs, false);
    for (int i = own; i < n; i++) {
        EFFNET_TRY(run_shared(state, pixels + (size_t)i * image_bytes(state), NULL, false, error));
        hand_out(state, state->workers[0].arena, (size_t)i, outputs);
    }
    return EFFNET_OK;
}

int effnet_int8_run(struct backend_state *state, const uint8_t *pixels, int n, float *logits, float *features,
                    struct effnet_error *error)
{
    struct outputs outputs = {logits, features};
    for (int done = 0; done < n; done += state->max_batch) {
        const int pass = n - done < state->max_batch ? n - done : state->max_batch;
        EFFNET_TRY(run_pass(state, pixels + (size_t)done * image_bytes(state), pass, &outputs, error));
        outputs.logits += (size_t)pass * (size_t)state->info->classes;
        if (features)
            outputs.features += (size_t)pass *
                                effnet_layer_out_size(state->layers[state->features_layer].layer);
    }
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- units */

static int to_step(double value, int most)
{
    return (int)fmin(most, fmax(0, rint(value)));
}

/* Puts what a layer reads where it will look for it. */
static void load_inputs(const struct backend_state *state, int index, const float *const *inputs,
                        size_t image)
{
    const struct int8_layer *layer = &state->layers[index];
    const struct effnet_layer *from = layer->layer;
    const struct effnet_integer *q = from->integer;
    for (int k = 0; k < from->input_count; k++) {
        const size_t size = effnet_layer_in_size(from, k);
        const float *values = inputs[effnet_unit_input(&state->units[index], from->inputs[k])] + image * size;
        void *to = state->workers[0].arena + layer->input_offsets[k];
        const double scale = (double)(k ? q->second_scale : q->in_scale);
        const int zero = k ? q->second_zero : q->in_zero[0];
        const int most = k ? q->second_most : q->in_most;
        for (size_t i = 0; i < size; i++) {
            const double value = q->image && k == 0 ? (double)values[i] * (double)q->image->std[i % 3] +
                                                          (double)q->image->mean[i % 3]
                                                    : rint((double)values[i] / scale) + zero;
            if (most == EFFNET_MOST_WIDE)
                ((uint16_t *)to)[i] = (uint16_t)to_step(value, most);
            else
                ((uint8_t *)to)[i] = (uint8_t)to_step(value, most);
        }
    }
}

int effnet_int8_run_unit(struct backend_state *state, int index, int n, const float *const *inputs,
                         float *output, struct effnet_error *error)
{
    const size_t size = effnet_layer_out_size(state->layers[index].layer);
    (void)error;
    for (size_t i = 0; i < (size_t)n; i++) {
        load_inputs(state, index, inputs, i);
        run_shared_layer(state, index);
        read_output(state, index, state->workers[0].arena, output + i * size);
    }
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- timing */

/* Images to time with, and room for their logits. */
static int prepare_timing(struct backend_state *state, struct effnet_error *error)
{
    if (state->timing_pixels && state->timing_logits) return EFFNET_OK;
    const size_t images = (size_t)state->max_batch, bytes = images * image_bytes(state);
    const size_t logit_bytes = images * (size_t)state->info->classes * sizeof *state->timing_logits;
    if (!state->timing_pixels) state->timing_pixels = malloc(bytes);
    if (!state->timing_logits) state->timing_logits = malloc(logit_bytes);
    if (!state->timing_pixels || !state->timing_logits)
        return effnet_fail_nomem(error, "images to time", bytes + logit_bytes);
    uint64_t random = 1;
    for (size_t i = 0; i < bytes; i++) state->timing_pixels[i] = (uint8_t)random_next(&random);
    return EFFNET_OK;
}

int effnet_int8_time(struct backend_state *state, int n, bool cold, double *elapsed_us,
                     struct effnet_error *error)
{
    EFFNET_TRY(prepare_timing(state, error));
    if (cold) EFFNET_TRY(effnet_evict_caches(error));
    const struct outputs outputs = {state->timing_logits, NULL};
    const double start = effnet_clock_us();
    const int status = run_pass(state, state->timing_pixels, n, &outputs, error);
    *elapsed_us = effnet_clock_us() - start;
    return status;
}

/* Images with a thread each run their layers at the same time, so a layer's share of the wall time is the
 * workers' sum over their number; the caches are then evicted once, before them all. */
int effnet_int8_profile(struct backend_state *state, int n, bool cold, double *unit_us,
                        struct effnet_error *error)
{
    const int layers = state->info->layer_count, own = count_own(state, n);
    EFFNET_TRY(prepare_timing(state, error));
    for (int i = 0; i < layers; i++) unit_us[i] = 0;
    if (own > 0) {
        const struct outputs outputs = {state->timing_logits, NULL};
        if (cold) EFFNET_TRY(effnet_evict_caches(error));
        for (int w = 0; w < state->images_at_once; w++)
            memset(state->workers[w].layer_us, 0, (size_t)layers * sizeof(double));
        run_own(state, state->timing_pixels, own, &outputs, true);
        for (int i = 0; i < layers; i++)
            for (int w = 0; w < state->images_at_once; w++)
                unit_us[i] += state->workers[w].layer_us[i] / state->images_at_once;
    }
    for (int i = own; i < n; i++) EFFNET_TRY(run_shared(state, state->timing_pixels, unit_us, cold, error));
    return EFFNET_OK;
}
