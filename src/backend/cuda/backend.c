/* The CUDA backend: cuDNN for the stem and, in the plan of that name, for the depthwise convolutions; own
 * kernels for everything else. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"

/* What lies on the device and with CUDA and cuDNN; on the device. */
static void release(struct backend_state *state)
{
    for (int i = 0; i < CUDA_SLOTS; i++) cuda_slot_close(&state->slots[i]);
    for (int i = 0; i < state->unit_count; i++) cudnn_plan_destroy(state->units[i].plan);
    cudnn_context_close(state->cudnn);
    cudaFree(state->arena);
    cuda_timer_close(&state->timer);
    if (state->copy_stream) cudaStreamDestroy(state->copy_stream);
    if (state->stream) cudaStreamDestroy(state->stream);
}

/* The same where CUDA must not be called any more: host memory alone. */
static void abandon(struct backend_state *state)
{
    for (int i = 0; i < state->unit_count; i++) cudnn_plan_abandon(state->units[i].plan);
    cudnn_context_abandon(state->cudnn);
}

static void close_state(struct backend_state *state)
{
    if (!state) return;
    if (state->device.context && cuda_device_enter(&state->device, NULL) == EFFNET_OK) {
        release(state);
        cuda_device_leave();
    } else {
        abandon(state);
    }
    free(state->units);
    free(state->tensors);
    free(state->depthwise_config);
    free(state);
}

/* What needs no device; then the device. */
static int open_device(struct backend_state *state, const struct backend_options *options,
                       struct effnet_error *error)
{
    if (options->precision && strcmp(options->precision, "fp16"))
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "precision %s is not supported on a GPU; fp16 is",
                           options->precision);
    EFFNET_TRY(cuda_network_check(state->model, state->max_batch, error));
    state->depthwise_config = malloc((size_t)state->info->layer_count * sizeof *state->depthwise_config);
    if (!state->depthwise_config)
        return effnet_fail_nomem(error, "cuda backend", sizeof *state->depthwise_config);
    for (int i = 0; i < state->info->layer_count; i++) state->depthwise_config[i] = -1;
    return cuda_device_open(options->device_index, &state->device, error);
}

/* The rest, on the device. */
static int open_state(struct backend_state *state, struct effnet_error *error)
{
    CUDA_TRY(cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking), "stream");
    CUDA_TRY(cudaStreamCreateWithFlags(&state->copy_stream, cudaStreamNonBlocking), "stream");
    EFFNET_TRY(cuda_timer_open(state->stream, &state->device.properties, &state->timer, error));
    EFFNET_TRY(cudnn_context_open(&state->device.properties, &state->cudnn, error));
    state->first_block = !state->cudnn_only && cuda_first_block_fits(state);
    EFFNET_TRY(cuda_network_plan(state, error));
    EFFNET_TRY(cuda_memory_check(state, error));
    if (!state->cudnn_only) {
        EFFNET_TRY(cuda_choose_depthwise(state, error));
        cuda_network_forget(state);
        EFFNET_TRY(cuda_network_plan(state, error));
    }
    EFFNET_TRY(cuda_choose_convolutions(state, error));
    EFFNET_TRY(cuda_memory_open(state, error));
    EFFNET_TRY(cuda_choose_kernels(state, error));
    snprintf(state->description, sizeof state->description, "%s, %s", state->device.properties.name,
             cudnn_context_name(state->cudnn));
    return cuda_slot_open(state, &state->slots[0], error);
}

static int backend_open(const effnet_model *model, const struct backend_options *options,
                        struct backend_state **out, struct effnet_error *error)
{
    struct backend_state *state = calloc(1, sizeof *state);
    *out = NULL;
    if (!state) return effnet_fail_nomem(error, "cuda backend", sizeof *state);
    state->model = model;
    state->info = effnet_model_get_info(model);
    state->max_batch = options->max_batch;
    state->tune = options->tune;
    state->cudnn_only = !strcmp(options->plan, "cudnn");
    int status = open_device(state, options, error);
    if (status == EFFNET_OK) status = cuda_device_enter(&state->device, error);
    if (status == EFFNET_OK) {
        status = open_state(state, error);
        cuda_device_leave();
    }
    if (status == EFFNET_OK)
        *out = state;
    else
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

static int unit_count(const struct backend_state *state)
{
    return state->unit_count;
}

static const struct effnet_unit *unit(const struct backend_state *state, int index)
{
    return &state->units[index].unit;
}

/* ---------------------------------------------------------------- on the device */

/* A session's calls may come from any thread, whose current device is the caller's own affair. */

static int run(struct backend_state *state, const uint8_t *pixels, int n, float *logits,
               struct effnet_error *error)
{
    EFFNET_TRY(cuda_device_enter(&state->device, error));
    const int status = cuda_run(state, pixels, n, logits, error);
    cuda_device_leave();
    return status;
}

static int run_unit(struct backend_state *state, int index, int n, const float *input, const float *residual,
                    float *output, struct effnet_error *error)
{
    EFFNET_TRY(cuda_device_enter(&state->device, error));
    const int status = cuda_run_unit(state, index, n, input, residual, output, error);
    cuda_device_leave();
    return status;
}

static int time_pass(struct backend_state *state, int n, bool cold, double *elapsed_us,
                     struct effnet_error *error)
{
    EFFNET_TRY(cuda_device_enter(&state->device, error));
    const int status = cuda_time(state, n, cold, elapsed_us, error);
    cuda_device_leave();
    return status;
}

static int profile(struct backend_state *state, int n, bool cold, double *unit_us, struct effnet_error *error)
{
    EFFNET_TRY(cuda_device_enter(&state->device, error));
    const int status = cuda_profile(state, n, cold, unit_us, error);
    cuda_device_leave();
    return status;
}

const struct backend backend_cuda = {
    .name = "cuda",
    .devices = cuda_devices,
    .open = backend_open,
    .close = close_state,
    .describe = describe,
    .run = run,
    .unit_count = unit_count,
    .unit = unit,
    .run_unit = run_unit,
    .time = time_pass,
    .profile = profile,
};
