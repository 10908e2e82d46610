/* The CUDA backend: in plan cudnn cuDNN for the stem and the depthwise convolutions, in plan auto for what it
 * is faster at; own kernels for everything else. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"
#include "backend/cuda/cudnn/conv.h"
#include "backend/cuda/nvjpeg/library.h"
#include "common/thread_pool.h"

/* Past this the memory is the limit. */
enum { MOST_COPY_THREADS = 8 };

static void close_state(struct backend_state *state)
{
    if (!state) return;
    /* Where CUDA must not be called any more only host memory is freed. */
    const bool abandoned = !state->device.context || cuda_device_enter(&state->device, NULL) != EFFNET_OK;
    cuda_jpegs_close(&state->jpegs, abandoned);
    for (int i = 0; i < CUDA_SLOTS && !abandoned; i++) cuda_slot_close(&state->slots[i]);
    for (int i = 0; i < BACKEND_STAGES && !abandoned; i++) cuda_stage_close(&state->stages[i]);
    effnet_pool_close(state->pool);
    cuda_plan_free(state, abandoned);
    cudnn_context_close(state->network.cudnn, abandoned);
    if (!abandoned) {
        cudaFree(state->arena);
        cuda_timer_close(&state->timer);
        if (state->copy_stream) cudaStreamDestroy(state->copy_stream);
        if (state->stream) cudaStreamDestroy(state->stream);
        cuda_device_leave();
    }
    free(state);
}

/* Streams and what the device is called; on the device. */
static int open_streams(struct backend_state *state, struct effnet_error *error)
{
    const struct cudaDeviceProp *device = &state->device.properties;
    state->network.sms = device->multiProcessorCount;
    /* A slice of a GPU has its name and fewer SMs. */
    snprintf(state->network.chip, sizeof state->network.chip, "%.96s sm_%d%d %d SMs", device->name,
             device->major, device->minor, device->multiProcessorCount);
    CUDA_TRY(cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking), "stream");
    CUDA_TRY(cudaStreamCreateWithFlags(&state->copy_stream, cudaStreamNonBlocking), "stream");
    return cuda_timer_open(state->stream, device, &state->timer, error);
}

/* The rest, on the device. */
static int open_session(struct backend_state *state, struct effnet_error *error)
{
    struct tuning tuning;
    EFFNET_TRY(open_streams(state, error));
    EFFNET_TRY(tuning_open(&tuning, error));
    const int status = cuda_plan(state, &tuning, error);
    tuning_close(&tuning);
    EFFNET_TRY(status);
    EFFNET_TRY(cuda_memory_open(state, error));
    snprintf(state->description, sizeof state->description, "%s%s%s", state->device.properties.name,
             state->network.cudnn ? ", " : "",
             state->network.cudnn ? cudnn_context_name(state->network.cudnn) : "");
    EFFNET_TRY(cuda_slot_open(state, &state->slots[0], error));
    uint8_t *pixels;
    return cuda_stage(state, 0, &pixels, error);
}

/* Makes a state and has `open` do its part on the device. On failure *out is NULL. */
static int open_with(const effnet_model *model, const struct backend_options *options,
                     int (*open)(struct backend_state *state, struct effnet_error *error),
                     struct backend_state **out, struct effnet_error *error)
{
    *out = NULL;
    if (options->precision && strcmp(options->precision, "fp16"))
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "precision %s is not supported on a GPU; fp16 is",
                           options->precision);
    EFFNET_TRY(cuda_network_check(model, options->max_batch, error));
    struct backend_state *state = calloc(1, sizeof *state);
    if (!state) return effnet_fail_nomem(error, "cuda backend", sizeof *state);
    state->network = (struct cuda_network){.model = model,
                                           .info = effnet_model_get_info(model),
                                           .max_batch = options->max_batch,
                                           .features_layer = options->features_layer};
    state->copy_threads = options->threads < MOST_COPY_THREADS ? options->threads : MOST_COPY_THREADS;
    state->cudnn_only = !strcmp(options->plan, "cudnn");
    int status = cuda_device_open(options->device_index, &state->device, error);
    if (status == EFFNET_OK) status = cuda_device_enter(&state->device, error);
    if (status == EFFNET_OK) {
        status = open(state, error);
        cuda_device_leave();
    }
    if (status == EFFNET_OK)
        *out = state;
    else
        close_state(state);
    return status;
}

static int backend_open(const effnet_model *model, const struct backend_options *options,
                        struct backend_state **out, struct effnet_error *error)
{
    return open_with(model, options, open_session, out, error);
}

static int backend_tune(const effnet_model *model, const struct backend_options *options,
                        effnet_tuned_visitor *visit, void *context, struct effnet_error *error)
{
    struct backend_state *state;
    struct tuning tuning;
    EFFNET_TRY(open_with(model, options, open_streams, &state, error));
    int status = tuning_open(&tuning, error);
    if (status == EFFNET_OK) {
        status = cuda_device_enter(&state->device, error);
        if (status == EFFNET_OK) {
            status = cuda_tune_network(state, &tuning, visit, context, error);
            cuda_device_leave();
        }
        /* What was measured before a failure is worth as much. */
        if (!tuning_save(&tuning) && status == EFFNET_OK)
            status = effnet_fail(error, EFFNET_E_OUTPUT, "%s: cannot be written", tuning.path);
        tuning_close(&tuning);
    }
    close_state(state);
    return status;
}

static void describe(const struct backend_state *state, struct effnet_session_info *info)
{
    info->device = state->description;
    info->precision = "fp16";
    info->threads = 1;
    info->memory_bytes = (int64_t)state->arena_bytes;
}

static const struct effnet_unit *unit(const struct backend_state *state, int index)
{
    return index < state->unit_count ? &state->units[index].unit : NULL;
}

/* A session's calls may come from any thread, whose current device is the caller's own affair. */
static int enter(const struct backend_state *state, struct effnet_error *error)
{
    return cuda_device_enter(&state->device, error);
}

static int load_decoder(struct effnet_error *error)
{
    const struct nvjpeg_library *library;
    return nvjpeg_library_load(&library, error);
}

const struct backend backend_cuda = {
    .name = "cuda",
    .devices = cuda_devices,
    .open = backend_open,
    .tune = backend_tune,
    .close = close_state,
    .describe = describe,
    .unit = unit,
    .enter = enter,
    .leave = cuda_device_leave,
    .run = cuda_run,
    .stage = cuda_stage,
    .start = cuda_start,
    .finish = cuda_finish,
    .load_decoder = load_decoder,
    .open_decoder = cuda_open_decoder,
    .accepts = cuda_accepts,
    .decode = cuda_decode,
    .start_decoded = cuda_start_decoded,
    .run_unit = cuda_run_unit,
    .time = cuda_time,
    .time_upload = cuda_time_upload,
    .profile = cuda_profile,
};
