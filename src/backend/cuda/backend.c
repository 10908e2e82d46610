/* The CUDA backend: cuDNN for the stem and, in the plan of that name, for the depthwise convolutions; own
 * kernels for everything else. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"

static void close_state(struct backend_state *state)
{
    if (!state) return;
    if (state->stream) cudaSetDevice(state->device_index); /* another may have been chosen since */
    for (int i = 0; i < CUDA_SLOTS; i++) cuda_slot_close(&state->slots[i]);
    for (int i = 0; i < state->unit_count; i++) cudnn_plan_destroy(state->units[i].plan);
    cudnn_context_close(state->cudnn);
    cudaFree(state->arena);
    cuda_timer_close(&state->timer);
    if (state->copy_stream) cudaStreamDestroy(state->copy_stream);
    if (state->stream) cudaStreamDestroy(state->stream);
    free(state->units);
    free(state->tensors);
    free(state->depthwise_config);
    free(state);
}

static int open_state(struct backend_state *state, const struct backend_options *options,
                      struct effnet_error *error)
{
    if (options->precision && strcmp(options->precision, "fp16"))
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "precision %s is not supported on a GPU; fp16 is",
                           options->precision);
    EFFNET_TRY(cuda_network_check(state->model, error));
    state->depthwise_config = malloc((size_t)state->info->layer_count * sizeof *state->depthwise_config);
    if (!state->depthwise_config)
        return effnet_fail_nomem(error, "cuda backend", sizeof *state->depthwise_config);
    for (int i = 0; i < state->info->layer_count; i++) state->depthwise_config[i] = -1;
    EFFNET_TRY(cuda_device_open(options->device_index, &state->device, error));
    CUDA_TRY(cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking), "stream");
    CUDA_TRY(cudaStreamCreateWithFlags(&state->copy_stream, cudaStreamNonBlocking), "stream");
    EFFNET_TRY(cuda_timer_open(state->stream, &state->device, &state->timer, error));
    EFFNET_TRY(cudnn_context_open(&state->device, &state->cudnn, error));
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
    snprintf(state->description, sizeof state->description, "%s, %s", state->device.name,
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
    state->device_index = options->device_index;
    state->tune = options->tune;
    state->cudnn_only = !strcmp(options->plan, "cudnn");
    const int status = open_state(state, options, error);
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

const struct backend backend_cuda = {
    .name = "cuda",
    .devices = cuda_devices,
    .open = backend_open,
    .close = close_state,
    .describe = describe,
    .run = cuda_run,
    .unit_count = unit_count,
    .unit = unit,
    .run_unit = cuda_run_unit,
    .time = cuda_time,
    .profile = cuda_profile,
};
