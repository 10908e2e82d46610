/* Running a network: units onto a stream, the whole as a CUDA graph, batches through two slots. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"
#include "bias_act.h"
#include "common/half.h"
#include "depthwise.h"
#include "first_block.h"
#include "linear.h"
#include "pointwise.h"
#include "pool.h"
#include "preprocess.h"

/* ---------------------------------------------------------------- units */

/* cuDNN's plan is of max_batch images, so that an image has the same bits in every pass. */
static int enqueue_conv(const struct backend_state *state, const struct cuda_unit *u, int images,
                        cudaStream_t stream, struct effnet_error *error)
{
    void *y = cuda_tensor_data(state, u->output);
    void *workspace = u->unit.workspace_bytes ? state->arena + state->workspace_offset : NULL;
    EFFNET_TRY(
        cudnn_plan_run(u->plan, cuda_tensor_data(state, u->input), u->weight, y, workspace, stream, error));
    if (u->unit.raw_output) return EFFNET_OK;
    const struct effnet_layer *l = u->layer;
    struct bias_act_args args = {.x = y,
                                 .y = y,
                                 .bias = u->bias,
                                 .rows = (int64_t)images * l->out_height * l->out_width,
                                 .channels = l->out_channels,
                                 .activation = cuda_activation(l->activation)};
    CUDA_TRY(bias_act_launch(&args, stream), l->name);
    return EFFNET_OK;
}

void cuda_pointwise_arguments(const struct backend_state *state, const struct cuda_unit *u, int images,
                              struct pointwise_args *args)
{
    const struct effnet_layer *l = u->layer;
    *args = (struct pointwise_args){
        .x = cuda_tensor_data(state, u->input),
        .w = u->weight,
        .w_low = u->weight_low,
        .bias = u->bias,
        .residual = u->residual < 0 ? NULL : cuda_tensor_data(state, u->residual),
        .input_bias = u->input_bias,
        .input_activation = u->input_activation,
        .activation = cuda_activation(l->activation),
        .y = cuda_tensor_data(state, u->output),
        .m = images * l->out_height * l->out_width,
        .n = l->out_channels,
        .k = l->in_channels,
        .pool_rows = u->unit.last > u->unit.first ? l->out_height * l->out_width : 0,
    };
}

void cuda_depthwise_shape(const struct effnet_layer *l, int images, struct depthwise_args *args)
{
    *args = (struct depthwise_args){
        .n = images,
        .channels = l->out_channels,
        .height = l->in_height,
        .width = l->in_width,
        .out_height = l->out_height,
        .out_width = l->out_width,
        .kernel = l->kernel,
        .stride = l->stride,
        .pad_top = l->pad_top,
        .pad_left = l->pad_left,
        .activation = cuda_activation(l->activation),
    };
}

void cuda_first_block_arguments(const struct backend_state *state, const struct cuda_unit *u,
                                const struct cuda_slot *slot, int images, struct first_block_args *args)
{
    cuda_first_block_shape(state, images, args);
    args->pixels = slot->pixels;
    args->weights = u->weight;
    args->y = cuda_tensor_data(state, u->output);
}

void cuda_linear_arguments(const struct backend_state *state, const struct cuda_unit *u,
                           const struct cuda_slot *slot, int images, struct linear_args *args)
{
    const struct effnet_layer *l = u->layer;
    *args = (struct linear_args){
        .x = cuda_tensor_data(state, u->input),
        .w = u->weight,
        .shift = u->bias,
        .y = u->output < 0 ? slot->logits : cuda_tensor_data(state, u->output),
        .m = images,
        .n = l->out_channels,
        .k = l->in_channels,
        .ldx = l->in_channels,
        .ldw = l->in_channels,
        .ldy = l->out_channels,
        .x_type = LINEAR_FP16,
        .y_type = u->output < 0 ? LINEAR_FP32 : LINEAR_FP16,
        .activation = cuda_activation(l->activation),
    };
}

/* Some configurations take no fewer than so many rows: then more images than are wanted are computed. */
static int enqueue_pointwise(const struct backend_state *state, const struct cuda_unit *u, int images,
                             cudaStream_t stream, struct effnet_error *error)
{
    struct pointwise_args args;
    cuda_pointwise_arguments(state, u, images, &args);
    while (images < state->max_batch && !kernel_fits(&pointwise_kernels, u->config, &args)) {
        images = images > state->max_batch / 2 ? state->max_batch : 2 * images;
        cuda_pointwise_arguments(state, u, images, &args);
    }
    CUDA_TRY(kernel_launch(&pointwise_kernels, u->config, &args, stream), u->layer->name);
    return EFFNET_OK;
}

/* Puts a unit onto `stream`, for the first `images` of a pass at least; the pixels and the logits are
 * `slot`'s. */
static int enqueue_unit(const struct backend_state *state, const struct cuda_unit *u,
                        const struct cuda_slot *slot, int images, cudaStream_t stream,
                        struct effnet_error *error)
{
    const struct effnet_layer *l = u->layer;
    switch (u->kind) {
    case CUDA_UNIT_FIRST_BLOCK: {
        struct first_block_args args;
        cuda_first_block_arguments(state, u, slot, images, &args);
        CUDA_TRY(kernel_launch(&first_block_kernels, u->config, &args, stream), l->name);
        return EFFNET_OK;
    }
    case CUDA_UNIT_CONV: return enqueue_conv(state, u, images, stream, error);
    case CUDA_UNIT_DEPTHWISE: {
        struct depthwise_args args;
        cuda_depthwise_shape(l, images, &args);
        args.x = cuda_tensor_data(state, u->input);
        args.w = u->weight;
        args.bias = u->bias;
        args.y = cuda_tensor_data(state, u->output);
        CUDA_TRY(kernel_launch(&depthwise_kernels, u->config, &args, stream), l->name);
        return EFFNET_OK;
    }
    case CUDA_UNIT_POINTWISE: return enqueue_pointwise(state, u, images, stream, error);
    case CUDA_UNIT_POOL: {
        const struct pool_args args = {.x = cuda_tensor_data(state, u->input),
                                       .y = cuda_tensor_data(state, u->output),
                                       .n = images,
                                       .pixels = l->in_height * l->in_width,
                                       .channels = l->in_channels};
        CUDA_TRY(pool_launch(&args, stream), l->name);
        return EFFNET_OK;
    }
    case CUDA_UNIT_LINEAR: {
        struct linear_args args;
        cuda_linear_arguments(state, u, slot, images, &args);
        CUDA_TRY(kernel_launch(&linear_kernels, u->config, &args, stream), l->name);
        return EFFNET_OK;
    }
    }
    return effnet_fail(error, EFFNET_E_INTERNAL, "layer %s: unknown unit", l->name);
}

static int enqueue_normalise(const struct backend_state *state, const uint8_t *pixels, int images,
                             cudaStream_t stream, struct effnet_error *error)
{
    const struct effnet_preprocess *p = &state->info->preprocess;
    struct normalise_args args = {.pixels = pixels,
                                  .y = cuda_tensor_data(state, state->units[0].input),
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
    if (state->units[0].input >= 0) EFFNET_TRY(enqueue_normalise(state, slot->pixels, images, stream, error));
    for (int i = 0; i < state->unit_count; i++)
        EFFNET_TRY(enqueue_unit(state, &state->units[i], slot, images, stream, error));
    return EFFNET_OK;
}

/* A slot has graphs of max_batch images, of a half, a quarter and so on, rounded up, down to 1. */
static int graph_images(const struct backend_state *state, int graph)
{
    return (int)(((int64_t)state->max_batch + (1 << graph) - 1) >> graph);
}

/* The smallest graph that computes n images. */
static int choose_graph(const struct backend_state *state, int n)
{
    int graph = 0;
    while (graph + 1 < CUDA_GRAPHS && graph_images(state, graph) > 1 && graph_images(state, graph + 1) >= n)
        graph++;
    return graph;
}

/* The network between a slot's buffers. */
struct pass_call {
    const struct backend_state *state;
    const struct cuda_slot *slot;
    int images;
};

static int enqueue_pass_call(void *context, int call, cudaStream_t stream, struct effnet_error *error)
{
    const struct pass_call *c = context;
    (void)call;
    return enqueue_network(c->state, c->slot, c->images, stream, error);
}

static int fill_slot(struct backend_state *state, struct cuda_slot *slot, struct effnet_error *error)
{
    CUDA_TRY(cudaMallocHost((void **)&slot->host_pixels, cuda_pixel_bytes(state)), "pinned memory");
    CUDA_TRY(cudaMallocHost((void **)&slot->host_logits, cuda_logit_bytes(state)), "pinned memory");
    CUDA_TRY(cudaEventCreateWithFlags(&slot->uploaded, cudaEventDisableTiming), "event");
    CUDA_TRY(cudaEventCreateWithFlags(&slot->done, cudaEventDisableTiming), "event");
    /* Once outside a capture: the first run of a kernel loads its code. */
    EFFNET_TRY(enqueue_network(state, slot, state->max_batch, state->stream, error));
    CUDA_TRY(cudaStreamSynchronize(state->stream), "first pass");
    for (int graph = choose_graph(state, 1); graph >= 0; graph--) {
        struct pass_call call = {state, slot, graph_images(state, graph)};
        EFFNET_TRY(cuda_capture(state->stream, enqueue_pass_call, &call, 1, &slot->graphs[graph], error));
    }
    return EFFNET_OK;
}

int cuda_slot_open(struct backend_state *state, struct cuda_slot *slot, struct effnet_error *error)
{
    const int status = fill_slot(state, slot, error);
    if (status != EFFNET_OK) cuda_slot_close(slot); /* the next run tries again */
    return status;
}

void cuda_slot_close(struct cuda_slot *slot)
{
    for (int i = 0; i < CUDA_GRAPHS; i++)
        if (slot->graphs[i]) cudaGraphExecDestroy(slot->graphs[i]);
    if (slot->uploaded) cudaEventDestroy(slot->uploaded);
    if (slot->done) cudaEventDestroy(slot->done);
    cudaFreeHost(slot->host_pixels);
    cudaFreeHost(slot->host_logits);
    *slot = (struct cuda_slot){.pixels = slot->pixels, .logits = slot->logits};
}

/* Waits for the pass in `slot`, if there is one, and hands out its logits. */
static int finish_pass(const struct backend_state *state, struct cuda_slot *slot, struct effnet_error *error)
{
    if (!slot->images) return EFFNET_OK;
    const size_t bytes = (size_t)slot->images * (size_t)state->info->classes * sizeof(float);
    slot->images = 0;
    CUDA_TRY(cudaEventSynchronize(slot->done), "pass");
    memcpy(slot->destination, slot->host_logits, bytes);
    return EFFNET_OK;
}

/* Starts a pass over n <= max_batch images. Whatever n is, each unit runs the same configuration, chosen for
 * max_batch images, so that an image's logits are the same bits whatever comes with it; what the unused
 * places hold does not matter. */
static int start_pass(struct backend_state *state, struct cuda_slot *slot, const uint8_t *pixels, int n,
                      float *logits, struct effnet_error *error)
{
    const size_t image_bytes = (size_t)state->info->height * (size_t)state->info->width * 3;
    const size_t logit_bytes = (size_t)n * (size_t)state->info->classes * sizeof(float);
    memcpy(slot->host_pixels, pixels, (size_t)n * image_bytes);
    CUDA_TRY(cudaMemcpyAsync(slot->pixels, slot->host_pixels, (size_t)n * image_bytes, cudaMemcpyHostToDevice,
                             state->copy_stream),
             "pixels");
    CUDA_TRY(cudaEventRecord(slot->uploaded, state->copy_stream), "pixels");
    CUDA_TRY(cudaStreamWaitEvent(state->stream, slot->uploaded, 0), "pixels");
    CUDA_TRY(cudaGraphLaunch(slot->graphs[choose_graph(state, n)], state->stream), "pass");
    CUDA_TRY(
        cudaMemcpyAsync(slot->host_logits, slot->logits, logit_bytes, cudaMemcpyDeviceToHost, state->stream),
        "logits");
    CUDA_TRY(cudaEventRecord(slot->done, state->stream), "pass");
    slot->images = n;
    slot->destination = logits;
    return EFFNET_OK;
}

int cuda_run(struct backend_state *state, const uint8_t *pixels, int n, float *logits,
             struct effnet_error *error)
{
    const size_t image_bytes = (size_t)state->info->height * (size_t)state->info->width * 3;
    int status = EFFNET_OK;
    for (int first = 0, images, pass = 0; first < n && status == EFFNET_OK; first += images, pass++) {
        struct cuda_slot *slot = &state->slots[pass % CUDA_SLOTS];
        images = n - first < state->max_batch ? n - first : state->max_batch;
        if (!slot->graphs[0]) status = cuda_slot_open(state, slot, error);
        if (status == EFFNET_OK) status = finish_pass(state, slot, error);
        if (status == EFFNET_OK)
            status = start_pass(state, slot, pixels + (size_t)first * image_bytes, images,
                                logits + (size_t)first * (size_t)state->info->classes, error);
    }
    for (int i = 0; i < CUDA_SLOTS; i++) {
        const int finished = finish_pass(state, &state->slots[i], status == EFFNET_OK ? error : NULL);
        if (status == EFFNET_OK) status = finished;
    }
    if (status != EFFNET_OK) { /* what was begun may still use the slots' memory */
        cuda_forget_error(cudaStreamSynchronize(state->copy_stream));
        cuda_forget_error(cudaStreamSynchronize(state->stream));
    }
    return status;
}

/* ---------------------------------------------------------------- one unit, for verification */

static int upload_floats(const struct backend_state *state, const float *host, size_t count, int tensor,
                         struct effnet_error *error)
{
    half *rounded = malloc(count * sizeof *rounded);
    if (!rounded) return effnet_fail_nomem(error, "unit input", count * sizeof *rounded);
    for (size_t i = 0; i < count; i++) rounded[i] = half_from_float(host[i]);
    const cudaError_t status = cudaMemcpyAsync(cuda_tensor_data(state, tensor), rounded,
                                               count * sizeof *rounded, cudaMemcpyHostToDevice,
                                               state->stream);
    free(rounded);
    CUDA_TRY(status, "unit input");
    return EFFNET_OK;
}

static int download_floats(const struct backend_state *state, int tensor, size_t count, float *host,
                           struct effnet_error *error)
{
    half *stored = malloc(count * sizeof *stored);
    if (!stored) return effnet_fail_nomem(error, "unit output", count * sizeof *stored);
    cudaError_t status = cudaMemcpyAsync(stored, cuda_tensor_data(state, tensor), count * sizeof *stored,
                                         cudaMemcpyDeviceToHost, state->stream);
    if (status == cudaSuccess) status = cudaStreamSynchronize(state->stream);
    for (size_t i = 0; i < count && status == cudaSuccess; i++) host[i] = half_to_float(stored[i]);
    free(stored);
    CUDA_TRY(status, "unit output");
    return EFFNET_OK;
}

int cuda_run_unit(struct backend_state *state, int index, int n, const float *input, const float *residual,
                  float *output, struct effnet_error *error)
{
    const struct cuda_unit *u = &state->units[index];
    const struct effnet_layer *l = u->layer, *last = effnet_model_layer(state->model, u->unit.last);
    const size_t in = (size_t)n * (size_t)l->in_height * (size_t)l->in_width * (size_t)l->in_channels;
    const size_t out = (size_t)n * (size_t)last->out_height * (size_t)last->out_width *
                       (size_t)last->out_channels;
    if (u->input < 0)
        EFFNET_TRY(cuda_first_block_set_pixels(state, n, input, state->slots[0].pixels, error));
    else
        EFFNET_TRY(upload_floats(state, input, in, u->input, error));
    if (u->residual >= 0) EFFNET_TRY(upload_floats(state, residual, out, u->residual, error));
    const int images = graph_images(state, choose_graph(state, n)); /* as a pass has them */
    EFFNET_TRY(enqueue_unit(state, u, &state->slots[0], images, state->stream, error));
    CUDA_TRY(cudaStreamSynchronize(state->stream), l->name);
    if (u->output >= 0) return download_floats(state, u->output, out, output, error);
    CUDA_TRY(cudaMemcpyAsync(output, state->slots[0].logits, out * sizeof *output, cudaMemcpyDeviceToHost,
                             state->stream),
             l->name);
    CUDA_TRY(cudaStreamSynchronize(state->stream), l->name);
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- timing */

int cuda_time(struct backend_state *state, int n, bool cold, double *elapsed_us, struct effnet_error *error)
{
    return cuda_time_graph(&state->timer, state->slots[0].graphs[choose_graph(state, n)], cold, elapsed_us,
                           error);
}

/* A unit between slot 0's buffers. */
struct unit_call {
    const struct backend_state *state;
    const struct cuda_unit *unit;
    int images;
};

static int enqueue_unit_call(void *context, int call, cudaStream_t stream, struct effnet_error *error)
{
    const struct unit_call *c = context;
    (void)call;
    return enqueue_unit(c->state, c->unit, &c->state->slots[0], c->images, stream, error);
}

int cuda_profile(struct backend_state *state, int n, bool cold, double *unit_us, struct effnet_error *error)
{
    enum { WARM_REPEAT = 10 };
    const int repeat = cold ? 1 : WARM_REPEAT, images = graph_images(state, choose_graph(state, n));
    for (int i = 0; i < state->unit_count; i++) {
        struct unit_call call = {state, &state->units[i], images};
        cudaGraphExec_t exec;
        EFFNET_TRY(cuda_capture(state->stream, enqueue_unit_call, &call, repeat, &exec, error));
        const int status = cuda_time_graph(&state->timer, exec, cold, &unit_us[i], error);
        cudaGraphExecDestroy(exec);
        EFFNET_TRY(status);
        unit_us[i] /= repeat;
    }
    return EFFNET_OK;
}
