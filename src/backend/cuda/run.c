/* Running a network: units onto a stream, the whole as a CUDA graph, batches from stages through two slots.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"
#include "common/half.h"
#include "common/thread_pool.h"
#include "preprocess.h"

/* ---------------------------------------------------------------- units */

static void *tensor_data(const struct backend_state *state, const struct cuda_slot *slot, int tensor)
{
    if (tensor == CUDA_PIXELS) return slot->pixels;
    if (tensor == CUDA_LOGITS) return slot->logits;
    return state->arena + state->activation_offset + state->tensors[tensor].offset;
}

/* Puts a unit onto `stream`, for the first `images` of a pass at least; the pixels and the logits are
 * `slot`'s. */
static int enqueue_unit(const struct backend_state *state, const struct cuda_unit *u,
                        const struct cuda_slot *slot, int images, cudaStream_t stream,
                        struct effnet_error *error)
{
    struct cuda_io io = {.output = tensor_data(state, slot, u->output),
                         .workspace = state->arena + state->workspace_offset,
                         .images = images};
    for (int i = 0; i < u->unit.input_count; i++) io.inputs[i] = tensor_data(state, slot, u->inputs[i]);
    if (u->sums >= 0) io.sums = tensor_data(state, slot, u->sums);
    return cuda_unit_enqueue(u, &io, stream, error);
}

static int enqueue_normalise(const struct backend_state *state, const struct cuda_slot *slot, int images,
                             cudaStream_t stream, struct effnet_error *error)
{
    const struct effnet_preprocess *p = &state->network.info->preprocess;
    struct normalise_args args = {.pixels = slot->pixels,
                                  .y = tensor_data(state, slot, state->image_tensor),
                                  .pixel_count = (int64_t)images * p->crop * p->crop};
    memcpy(args.mean, p->mean, sizeof args.mean);
    memcpy(args.std, p->std, sizeof args.std);
    CUDA_TRY(normalise_launch(&args, stream), "preprocessing");
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- slots */

static int enqueue_network(const struct backend_state *state, const struct cuda_slot *slot, int images,
                           cudaStream_t stream, struct effnet_error *error)
{
    if (state->image_tensor >= 0) EFFNET_TRY(enqueue_normalise(state, slot, images, stream, error));
    for (int i = 0; i < state->unit_count; i++)
        EFFNET_TRY(enqueue_unit(state, &state->units[i], slot, images, stream, error));
    return EFFNET_OK;
}

/* A slot has graphs of max_batch images, of a half, a quarter and so on, rounded up, down to 1. */
static int graph_images(const struct backend_state *state, int graph)
{
    return (int)(((int64_t)state->network.max_batch + (1 << graph) - 1) >> graph);
}

/* The smallest graph that computes n images. */
static int choose_graph(const struct backend_state *state, int n)
{
    int graph = 0;
    while (graph + 1 < CUDA_GRAPHS && graph_images(state, graph) > 1 && graph_images(state, graph + 1) >= n)
        graph++;
    return graph;
}

/* A unit, or the network where it is NULL, between a slot's buffers. */
struct slot_call {
    const struct backend_state *state;
    const struct cuda_slot *slot;
    const struct cuda_unit *unit;
    int images;
};

static int enqueue_slot_call(void *context, int call, cudaStream_t stream, struct effnet_error *error)
{
    const struct slot_call *c = context;
    (void)call;
    return c->unit ? enqueue_unit(c->state, c->unit, c->slot, c->images, stream, error)
                   : enqueue_network(c->state, c->slot, c->images, stream, error);
}

int cuda_slot_open(struct backend_state *state, struct cuda_slot *slot, struct effnet_error *error)
{
    cuda_slot_close(slot);
    CUDA_TRY(cudaEventCreateWithFlags(&slot->uploaded, cudaEventDisableTiming), "event");
    CUDA_TRY(cudaEventCreateWithFlags(&slot->read, cudaEventDisableTiming), "event");
    /* Once outside a capture: the first run of a kernel loads its code. */
    EFFNET_TRY(enqueue_network(state, slot, state->network.max_batch, state->stream, error));
    CUDA_TRY(cudaStreamSynchronize(state->stream), "first pass");
    for (int graph = choose_graph(state, 1); graph >= 0; graph--) {
        struct slot_call call = {state, slot, NULL, graph_images(state, graph)};
        EFFNET_TRY(cuda_capture(state->stream, enqueue_slot_call, &call, 1, &slot->graphs[graph], error));
    }
    return EFFNET_OK;
}

void cuda_slot_close(struct cuda_slot *slot)
{
    for (int i = 0; i < CUDA_GRAPHS; i++)
        if (slot->graphs[i]) cudaGraphExecDestroy(slot->graphs[i]);
    if (slot->uploaded) cudaEventDestroy(slot->uploaded);
    if (slot->read) cudaEventDestroy(slot->read);
    *slot = (struct cuda_slot){.pixels = slot->pixels, .logits = slot->logits};
}

/* ---------------------------------------------------------------- stages and passes */

int cuda_stage(struct backend_state *state, int index, uint8_t **pixels, struct effnet_error *error)
{
    struct cuda_stage *stage = &state->stages[index];
    *pixels = NULL;
    if (!stage->done) { /* what an earlier try has left goes first */
        cuda_stage_close(stage);
        CUDA_TRY(cudaMallocHost((void **)&stage->pixels, cuda_pixel_bytes(&state->network)), "pinned memory");
        CUDA_TRY(cudaMallocHost((void **)&stage->logits, cuda_logit_bytes(&state->network)), "pinned memory");
        if (state->features_tensor >= 0)
            CUDA_TRY(cudaMallocHost(&stage->features, state->tensors[state->features_tensor].bytes),
                     "pinned memory");
        CUDA_TRY(cudaEventCreateWithFlags(&stage->done, cudaEventDisableTiming), "event");
    }
    *pixels = stage->pixels;
    return EFFNET_OK;
}

void cuda_stage_close(struct cuda_stage *stage)
{
    cudaFreeHost(stage->pixels);
    cudaFreeHost(stage->logits);
    cudaFreeHost(stage->features);
    if (stage->done) cudaEventDestroy(stage->done);
    *stage = (struct cuda_stage){0};
}

/* After a failure: what was begun may still use the stages' memory. */
static void wait_for_all(struct backend_state *state)
{
    cuda_forget_error(cudaStreamSynchronize(state->copy_stream));
    cuda_forget_error(cudaStreamSynchronize(state->stream));
}

static size_t image_bytes(const struct backend_state *state)
{
    return (size_t)state->network.info->height * (size_t)state->network.info->width * 3;
}

/* The slot of the next pass, ready for its pixels: those of the pass before it there were read. */
static int next_slot(struct backend_state *state, struct cuda_slot **slot, struct effnet_error *error)
{
    *slot = &state->slots[state->passes];
    if (!(*slot)->graphs[0]) EFFNET_TRY(cuda_slot_open(state, *slot, error));
    CUDA_TRY(cudaStreamWaitEvent(state->copy_stream, (*slot)->read, 0), "pixels");
    state->passes = (state->passes + 1) % CUDA_SLOTS;
    return EFFNET_OK;
}

/* Of one image's features; 0: they are not handed out. */
static size_t feature_count(const struct backend_state *state)
{
    const int layer = state->network.features_layer;
    return layer < 0 ? 0 : effnet_layer_out_size(effnet_model_layer(state->network.model, layer));
}

/* Images first .. first + count - 1 of the stage are on their way to the slot. */
static int upload(struct backend_state *state, struct cuda_slot *slot, const struct cuda_stage *stage,
                  int first, int count, struct effnet_error *error)
{
    const size_t image = image_bytes(state), offset = (size_t)first * image;
    CUDA_TRY(cudaMemcpyAsync(slot->pixels + offset, stage->pixels + offset, (size_t)count * image,
                             cudaMemcpyHostToDevice, state->copy_stream),
             "pixels");
    return EFFNET_OK;
}

/* What follows the upload of n images: the network, and logits and features back to the stage. Whatever n is,
 * each unit runs the same configuration, chosen for max_batch images, so that an image's logits are the same
 * bits whatever comes with it; what the unused places hold does not matter. */
static int compute(struct backend_state *state, struct cuda_slot *slot, struct cuda_stage *stage, int n,
                   struct effnet_error *error)
{
    const size_t logit_bytes = (size_t)n * (size_t)state->network.info->classes * sizeof(float);
    CUDA_TRY(cudaEventRecord(slot->uploaded, state->copy_stream), "pixels");
    CUDA_TRY(cudaStreamWaitEvent(state->stream, slot->uploaded, 0), "pixels");
    CUDA_TRY(cudaGraphLaunch(slot->graphs[choose_graph(state, n)], state->stream), "pass");
    CUDA_TRY(cudaEventRecord(slot->read, state->stream), "pass");
    CUDA_TRY(cudaMemcpyAsync(stage->logits, slot->logits, logit_bytes, cudaMemcpyDeviceToHost, state->stream),
             "logits");
    if (stage->features)
        CUDA_TRY(cudaMemcpyAsync(stage->features, tensor_data(state, slot, state->features_tensor),
                                 (size_t)n * feature_count(state) * sizeof(half), cudaMemcpyDeviceToHost,
                                 state->stream),
                 "features");
    CUDA_TRY(cudaEventRecord(stage->done, state->stream), "pass");
    stage->images = n;
    return EFFNET_OK;
}

int cuda_start(struct backend_state *state, int index, int n, struct effnet_error *error)
{
    struct cuda_stage *stage = &state->stages[index];
    struct cuda_slot *slot;
    int status = next_slot(state, &slot, error);
    if (!status) status = upload(state, slot, stage, 0, n, error);
    if (!status) status = compute(state, slot, stage, n, error);
    if (status) wait_for_all(state);
    return status;
}

int cuda_start_decoded(struct backend_state *state, int index, int n, struct effnet_error *error)
{
    struct cuda_slot *slot;
    int status = next_slot(state, &slot, error);
    if (!status) status = cuda_take_crops(state, slot, n, error);
    if (!status) status = compute(state, slot, &state->stages[index], n, error);
    if (status) wait_for_all(state);
    return status;
}

int cuda_finish(struct backend_state *state, int index, float *logits, float *features,
                struct effnet_error *error)
{
    struct cuda_stage *stage = &state->stages[index];
    const size_t count = (size_t)stage->images * (size_t)state->network.info->classes;
    const size_t values = features ? (size_t)stage->images * feature_count(state) : 0;
    stage->images = 0;
    CUDA_TRY(cudaEventSynchronize(stage->done), "pass");
    memcpy(logits, stage->logits, count * sizeof *logits);
    for (size_t i = 0; i < values; i++) features[i] = half_to_float(((const half *)stage->features)[i]);
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- the caller's own memory */

enum {
    COPY_TASK_BYTES = 512 << 10, /* a thread's piece */
    UPLOAD_BYTES = 4 << 20,      /* copied to pinned memory before they go on to the device */
    CUT_BYTES = 16 << 20,        /* batches from here on: a quarter computes while the rest is copied */
};

struct copy_job {
    uint8_t *to;
    const uint8_t *from;
    size_t bytes;
};

static int copy_task(void *context, int worker, int index)
{
    const struct copy_job *job = context;
    const size_t first = (size_t)index * COPY_TASK_BYTES, left = job->bytes - first;
    (void)worker;
    memcpy(job->to + first, job->from + first, left < COPY_TASK_BYTES ? left : COPY_TASK_BYTES);
    return 0;
}

/* One thread's copy is slower than the bus. */
static void copy_pixels(struct backend_state *state, uint8_t *to, const uint8_t *from, size_t bytes)
{
    struct copy_job job = {to, from, bytes};
    const int tasks = (int)((bytes + COPY_TASK_BYTES - 1) / COPY_TASK_BYTES);
    if (tasks > 1 && !state->pool && state->copy_threads > 1) {
        effnet_pool_open(state->copy_threads, &state->pool, NULL); /* without memory this thread copies */
    }
    if (tasks > 1 && state->pool)
        effnet_pool_run(state->pool, effnet_pool_threads(state->pool), tasks, copy_task, &job);
    else
        memcpy(to, from, bytes);
}

/* Starts a pass over n images from the caller's memory: pieces are copied while the ones before travel. */
static int start_from(struct backend_state *state, struct cuda_stage *stage, const uint8_t *pixels, int n,
                      struct effnet_error *error)
{
    const size_t image = image_bytes(state);
    const int piece = UPLOAD_BYTES / image ? (int)(UPLOAD_BYTES / image) : 1;
    struct cuda_slot *slot;
    EFFNET_TRY(next_slot(state, &slot, error));
    for (int first = 0, count; first < n; first += count) {
        const size_t offset = (size_t)first * image;
        count = n - first < piece ? n - first : piece;
        copy_pixels(state, stage->pixels + offset, pixels + offset, (size_t)count * image);
        EFFNET_TRY(upload(state, slot, stage, first, count, error));
    }
    return compute(state, slot, stage, n, error);
}

/* How many of the n images that are left the next pass takes. */
static int choose_pass(const struct backend_state *state, int n, bool first)
{
    const int most = state->network.max_batch, part = graph_images(state, 2);
    const bool cut = cuda_pixel_bytes(&state->network) >= CUT_BYTES;
    if (cut && n > part && (first || n <= most)) return part;
    return n < most ? n : most;
}

/* Finishes the pass whose first image is image `first` of a run. */
static int finish_at(struct backend_state *state, int index, int first, float *logits, float *features,
                     struct effnet_error *error)
{
    return cuda_finish(state, index, logits + (size_t)first * (size_t)state->network.info->classes,
                       features ? features + (size_t)first * feature_count(state) : NULL, error);
}

int cuda_run(struct backend_state *state, const uint8_t *pixels, int n, float *logits, float *features,
             struct effnet_error *error)
{
    const size_t image = image_bytes(state);
    int firsts[CUDA_SLOTS]; /* of the pass in each slot's stage */
    int status = EFFNET_OK, index = 0, pass = 0;
    for (int first = 0, images; first < n && !status; first += images, pass++) {
        uint8_t *stage_pixels;
        index = pass % CUDA_SLOTS; /* more would be pinned for nothing */
        images = choose_pass(state, n - first, first == 0);
        status = cuda_stage(state, index, &stage_pixels, error);
        if (!status && state->stages[index].images)
            status = finish_at(state, index, firsts[index], logits, features, error);
        firsts[index] = first;
        if (!status)
            status = start_from(state, &state->stages[index], pixels + (size_t)first * image, images, error);
    }
    for (int i = 1; i <= CUDA_SLOTS; i++) { /* the oldest first */
        index = (pass + i - 1) % CUDA_SLOTS;
        if (!state->stages[index].images) continue;
        const int finished = finish_at(state, index, firsts[index], logits, features, status ? NULL : error);
        if (!status) status = finished;
    }
    if (status) wait_for_all(state);
    return status;
}

/* ---------------------------------------------------------------- one unit, for verification */

/* Puts `count` values where a unit reads them: as fp16, or as the 8-bit pixels that a normalised tensor came
 * from. */
static int upload_input(const struct backend_state *state, const float *values, size_t count, int tensor,
                        struct effnet_error *error)
{
    const struct effnet_preprocess *p = &state->network.info->preprocess;
    const size_t bytes = count * (tensor == CUDA_PIXELS ? sizeof(uint8_t) : sizeof(half));
    void *host = malloc(bytes);
    if (!host) return effnet_fail_nomem(error, "unit input", bytes);
    for (size_t i = 0; i < count; i++) {
        if (tensor == CUDA_PIXELS) {
            const float value = roundf(values[i] * p->std[i % 3] + p->mean[i % 3]);
            ((uint8_t *)host)[i] = value > 0 ? value < 255 ? (uint8_t)value : 255 : 0; /* a NaN becomes 0 */
        } else {
            ((half *)host)[i] = half_from_float(values[i]);
        }
    }
    const cudaError_t status = cudaMemcpyAsync(tensor_data(state, &state->slots[0], tensor), host, bytes,
                                               cudaMemcpyHostToDevice, state->stream);
    free(host);
    CUDA_TRY(status, "unit input");
    return EFFNET_OK;
}

/* The sums that the unit before would have left beside n images of `map`: all in the first part. */
static int upload_sums(const struct backend_state *state, const struct cuda_unit *u, const float *map, int n,
                       struct effnet_error *error)
{
    const struct effnet_layer *from = effnet_model_layer(state->network.model, u->unit.inputs[0]);
    const size_t channels = (size_t)from->out_channels, pixels = effnet_layer_out_size(from) / channels;
    const size_t image = (size_t)u->parts * channels, bytes = (size_t)n * image * sizeof(float);
    float *host = calloc((size_t)n * image, sizeof *host);
    if (!host) return effnet_fail_nomem(error, "unit input", bytes);
    for (size_t i = 0; i < (size_t)n; i++)
        for (size_t c = 0; c < channels; c++) {
            double sum = 0;
            for (size_t p = 0; p < pixels; p++) sum += map[(i * pixels + p) * channels + c];
            host[i * image + c] = (float)sum;
        }
    const cudaError_t status = cudaMemcpyAsync(tensor_data(state, &state->slots[0], u->sums), host, bytes,
                                               cudaMemcpyHostToDevice, state->stream);
    free(host);
    CUDA_TRY(status, "unit input");
    return EFFNET_OK;
}

/* Logits are fp32 on the device, all else is fp16. */
static int download_output(const struct backend_state *state, int tensor, size_t count, float *host,
                           struct effnet_error *error)
{
    const size_t bytes = count * (tensor == CUDA_LOGITS ? sizeof *host : sizeof(half));
    void *stored = malloc(bytes);
    if (!stored) return effnet_fail_nomem(error, "unit output", bytes);
    cudaError_t status = cudaMemcpyAsync(stored, tensor_data(state, &state->slots[0], tensor), bytes,
                                         cudaMemcpyDeviceToHost, state->stream);
    if (status == cudaSuccess) status = cudaStreamSynchronize(state->stream);
    for (size_t i = 0; i < count && status == cudaSuccess; i++)
        host[i] = tensor == CUDA_LOGITS ? ((float *)stored)[i] : half_to_float(((half *)stored)[i]);
    free(stored);
    CUDA_TRY(status, "unit output");
    return EFFNET_OK;
}

int cuda_run_unit(struct backend_state *state, int index, int n, const float *const *inputs, float *output,
                  struct effnet_error *error)
{
    const struct cuda_unit *u = &state->units[index];
    for (int i = 0; i < u->unit.input_count; i++)
        EFFNET_TRY(upload_input(state, inputs[i], (size_t)n * cuda_input_size(u, i), u->inputs[i], error));
    if (u->input_form == CUDA_SUMMED) EFFNET_TRY(upload_sums(state, u, inputs[0], n, error));
    const int images = graph_images(state, choose_graph(state, n)); /* as a pass has them */
    EFFNET_TRY(enqueue_unit(state, u, &state->slots[0], images, state->stream, error));
    CUDA_TRY(cudaStreamSynchronize(state->stream), u->layer->name);
    return download_output(state, u->output, (size_t)n * effnet_layer_out_size(u->last), output, error);
}

/* ---------------------------------------------------------------- timing */

int cuda_time(struct backend_state *state, int n, bool cold, double *elapsed_us, struct effnet_error *error)
{
    return cuda_time_graph(&state->timer, state->slots[0].graphs[choose_graph(state, n)], cold, elapsed_us,
                           error);
}

/* What is enqueued first keeps the device busy while the host enqueues the rest. */
int cuda_time_upload(struct backend_state *state, int n, double *elapsed_us, struct effnet_error *error)
{
    struct cuda_slot *slot = &state->slots[0];
    float ms = 0;
    CUDA_TRY(cudaGraphLaunch(slot->graphs[0], state->stream), "timing");
    CUDA_TRY(cudaEventRecord(state->timer.start, state->stream), "timing");
    CUDA_TRY(cudaMemcpyAsync(slot->pixels, state->stages[0].pixels, (size_t)n * image_bytes(state),
                             cudaMemcpyHostToDevice, state->stream),
             "timing");
    CUDA_TRY(cudaEventRecord(state->timer.stop, state->stream), "timing");
    CUDA_TRY(cudaEventSynchronize(state->timer.stop), "timing");
    CUDA_TRY(cudaEventElapsedTime(&ms, state->timer.start, state->timer.stop), "timing");
    *elapsed_us = 1e3 * (double)ms;
    return EFFNET_OK;
}

int cuda_profile(struct backend_state *state, int n, bool cold, double *unit_us, struct effnet_error *error)
{
    enum { WARM_REPEAT = 10 };
    const int repeat = cold ? 1 : WARM_REPEAT, images = graph_images(state, choose_graph(state, n));
    for (int i = 0; i < state->unit_count; i++) {
        struct slot_call call = {state, &state->slots[0], &state->units[i], images};
        cudaGraphExec_t exec;
        EFFNET_TRY(cuda_capture(state->stream, enqueue_slot_call, &call, repeat, &exec, error));
        const int status = cuda_time_graph(&state->timer, exec, cold, &unit_us[i], error);
        cudaGraphExecDestroy(exec);
        EFFNET_TRY(status);
        unit_us[i] /= repeat;
    }
    return EFFNET_OK;
}
