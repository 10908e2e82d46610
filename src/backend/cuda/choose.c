/* Which engine or configuration each layer runs: measured on this device, since the fastest depends on the
 * shape, the batch and the chip, and then kept on disk, so that the next start, and the next run's bits, are
 * the same. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"
#include "depthwise.h"
#include "first_block.h"
#include "linear.h"
#include "pointwise.h"

/* ---------------------------------------------------------------- cuDNN */

static int make_plan(struct backend_state *state, const struct effnet_layer *l, struct cudnn_plan **plan,
                     struct effnet_error *error)
{
    const struct cudnn_conv_shape shape = {
        .n = state->max_batch,
        .h = l->in_height,
        .w = l->in_width,
        .c_in = l->in_channels,
        .out_h = l->out_height,
        .out_w = l->out_width,
        .c_out = l->out_channels,
        .groups = l->op == EFFNET_OP_DEPTHWISE ? l->in_channels : 1,
        .kernel = l->kernel,
        .stride = l->stride,
        .pad_top = l->pad_top,
        .pad_left = l->pad_left,
        .pad_bottom = l->pad_bottom,
        .pad_right = l->pad_right,
    };
    const struct cudnn_plan_options options = {.layer = l->name, .tune = state->tune};
    return cudnn_plan_create(state->cudnn, &shape, &options, plan, error);
}

int cuda_choose_convolutions(struct backend_state *state, struct effnet_error *error)
{
    for (int i = 0; i < state->unit_count; i++) {
        struct cuda_unit *u = &state->units[i];
        if (u->kind != CUDA_UNIT_CONV) continue;
        EFFNET_TRY(make_plan(state, u->layer, &u->plan, error));
        const struct cudnn_plan_info *info = cudnn_plan_describe(u->plan);
        u->unit.workspace_bytes = info->workspace_bytes;
        snprintf(u->kernel, sizeof u->kernel, "cuDNN %s%s", info->engine,
                 u->unit.raw_output ? "" : " + bias_act");
    }
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- our own kernels */

/* Of all configurations' names: a choice that was kept by a program with another list does not count. FNV-1a.
 */
static uint32_t fingerprint(const struct kernel_family *family)
{
    uint32_t hash = 2166136261u;
    for (int i = 0; i < kernel_count(family); i++)
        for (const char *c = kernel_get(family, i)->name; *c; c++)
            hash = (hash ^ (unsigned char)*c) * 16777619u;
    return hash;
}

/* One launch of a configuration. */
struct candidate {
    const struct kernel_family *family;
    int config;
    const void *args;
};

static int enqueue_candidate(void *context, int call, cudaStream_t stream, struct effnet_error *error)
{
    const struct candidate *c = context;
    (void)call;
    CUDA_TRY(kernel_launch(c->family, c->config, c->args, stream), c->family->name);
    return EFFNET_OK;
}

/* Microseconds of one launch, from `repeat` launches in a graph that has run once before. */
static int time_config(struct backend_state *state, const struct kernel_family *family, int config,
                       const void *args, int repeat, double *elapsed_us, struct effnet_error *error)
{
    struct candidate candidate = {family, config, args};
    cudaGraphExec_t exec;
    EFFNET_TRY(cuda_capture(state->stream, enqueue_candidate, &candidate, repeat, &exec, error));
    const int status = cuda_time_graph(&state->timer, exec, false, elapsed_us, error);
    cudaGraphExecDestroy(exec);
    *elapsed_us /= repeat;
    return status;
}

/* Times each configuration that fits, a short look first and a longer one for those near the best. *best is
 * -1 where none fits. */
static int time_family(struct backend_state *state, const struct kernel_family *family, const void *args,
                       int *best, double *best_us, struct effnet_error *error)
{
    enum { SHORT = 2, LONG_US = 150, MOST_REPEATS = 30 };
    *best = -1;
    *best_us = INFINITY;
    for (int config = 0; config < kernel_count(family); config++) {
        double us;
        if (!kernel_fits(family, config, args)) continue;
        EFFNET_TRY(time_config(state, family, config, args, SHORT, &us, error));
        if (us > 1.5 * *best_us + 1) continue;
        const int repeat = (int)fmin(MOST_REPEATS, 1 + LONG_US / us);
        EFFNET_TRY(time_config(state, family, config, args, repeat, &us, error));
        if (us < *best_us) *best_us = us, *best = config;
    }
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- depthwise: ours or cuDNN's */

static void depthwise_key(const struct backend_state *state, const struct effnet_layer *l, char *key,
                          size_t size)
{
    snprintf(key, size, "depthwise %08" PRIx32 ", %dx%dx%dx%d, kernel %d, stride %d, pad %d %d %d %d%s",
             fingerprint(&depthwise_kernels), state->max_batch, l->in_height, l->in_width, l->in_channels,
             l->kernel, l->stride, l->pad_top, l->pad_left, l->pad_bottom, l->pad_right,
             state->tune ? ", tune" : "");
}

/* Device memory for timing one layer before there is an arena: x, y, w and bias. */
static int depthwise_scratch(struct backend_state *state, const struct effnet_layer *l,
                             struct depthwise_args *args, void **memory, struct effnet_error *error)
{
    enum { ALIGNMENT = 256 };
    const size_t x = (size_t)state->max_batch * (size_t)l->in_height * (size_t)l->in_width *
                     (size_t)l->in_channels * 2;
    const size_t y = (size_t)state->max_batch * (size_t)l->out_height * (size_t)l->out_width *
                     (size_t)l->out_channels * 2;
    const size_t w = (size_t)l->parameters * sizeof(float); /* with the bias */
    const size_t y_offset = (x + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t w_offset = y_offset + (y + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    cudaError_t status = cudaMalloc(memory, w_offset + w);
    if (status == cudaErrorMemoryAllocation) {
        cuda_forget_error(status); /* a large batch's tensors fit once, not also where cuDNN was timed */
        cudnn_context_release(state->cudnn);
        status = cudaMalloc(memory, w_offset + w);
    }
    if (status == cudaErrorMemoryAllocation) {
        cuda_forget_error(status);
        return effnet_fail(error, EFFNET_E_NOMEM,
                           "layer %s: a batch of %d does not fit into the GPU's memory", l->name,
                           state->max_batch);
    }
    CUDA_TRY(status, l->name);
    /* Values of an ordinary size: zeros would draw less power than a real pass. */
    CUDA_TRY(cudaMemsetAsync(*memory, 0x3a, w_offset + w, state->stream), l->name);
    cuda_depthwise_shape(l, state->max_batch, args);
    args->x = *memory;
    args->y = (unsigned char *)*memory + y_offset;
    args->w = (float *)((unsigned char *)*memory + w_offset);
    args->bias = args->w + (l->parameters - l->out_channels);
    return EFFNET_OK;
}

/* Times our kernel against cuDNN's plan. *choice: 0 for cuDNN, else 1 + configuration. */
static int contest(struct backend_state *state, const struct effnet_layer *l, int *choice, double *elapsed_us,
                   struct effnet_error *error)
{
    struct depthwise_args args;
    struct cudnn_plan *plan = NULL;
    void *memory = NULL;
    int best = -1, status = make_plan(state, l, &plan, error);
    if (status == EFFNET_OK) *elapsed_us = cudnn_plan_describe(plan)->elapsed_us;
    cudnn_plan_destroy(plan);
    EFFNET_TRY(status);
    double best_us = INFINITY;
    status = depthwise_scratch(state, l, &args, &memory, error);
    if (status == EFFNET_OK) status = time_family(state, &depthwise_kernels, &args, &best, &best_us, error);
    cudaFree(memory);
    EFFNET_TRY(status);
    *choice = best_us < *elapsed_us ? 1 + best : 0;
    *elapsed_us = fmin(best_us, *elapsed_us);
    return EFFNET_OK;
}

int cuda_choose_depthwise(struct backend_state *state, struct effnet_error *error)
{
    for (int i = 0; i < state->info->layer_count; i++) {
        const struct effnet_layer *l = effnet_model_layer(state->model, i);
        char key[160];
        int choice = 0;
        double elapsed_us = 0;
        if (l->op != EFFNET_OP_DEPTHWISE || (l->kernel != 3 && l->kernel != 5) || l->stride > 2) continue;
        if (state->first_block && i == 1) continue;
        depthwise_key(state, l, key, sizeof key);
        if (!cudnn_context_recall(state->cudnn, key, &choice)) {
            EFFNET_TRY(contest(state, l, &choice, &elapsed_us, error));
            cudnn_context_remember(state->cudnn, key, choice, elapsed_us);
        }
        if (choice > 0 && choice <= kernel_count(&depthwise_kernels)) state->depthwise_config[i] = choice - 1;
    }
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- the other units of ours */

/* The unit's configuration: the one that is kept under `key` if it fits, else the fastest, which is then
 * kept. */
static int choose_config(struct backend_state *state, struct cuda_unit *u, const struct kernel_family *family,
                         const void *args, const char *key, struct effnet_error *error)
{
    double elapsed_us;
    if (cudnn_context_recall(state->cudnn, key, &u->config) && kernel_fits(family, u->config, args))
        return EFFNET_OK;
    EFFNET_TRY(time_family(state, family, args, &u->config, &elapsed_us, error));
    if (u->config < 0)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "layer %s: no kernel computes %d to %d channels of %d images on this GPU",
                           u->layer->name, u->layer->in_channels, u->layer->out_channels, state->max_batch);
    cudnn_context_remember(state->cudnn, key, u->config, elapsed_us);
    return EFFNET_OK;
}

static int choose_pointwise(struct backend_state *state, struct cuda_unit *u, struct effnet_error *error)
{
    struct pointwise_args args;
    char key[160];
    cuda_pointwise_arguments(state, u, state->max_batch, &args);
    snprintf(key, sizeof key, "pointwise %08" PRIx32 ", %dx%d to %d, pool %d%s%s%s",
             fingerprint(&pointwise_kernels), args.m, args.k, args.n, args.pool_rows,
             args.residual ? ", residual" : "", args.input_bias ? ", input bias" : "",
             args.w_low ? ", two-part weights" : "");
    return choose_config(state, u, &pointwise_kernels, &args, key, error);
}

static int choose_first_block(struct backend_state *state, struct cuda_unit *u, struct effnet_error *error)
{
    struct first_block_args args;
    char key[160];
    cuda_first_block_arguments(state, u, &state->slots[0], state->max_batch, &args);
    snprintf(key, sizeof key, "first block %08" PRIx32 ", %dx%dx%d", fingerprint(&first_block_kernels),
             args.n, args.height, args.width);
    return choose_config(state, u, &first_block_kernels, &args, key, error);
}

int cuda_choose_kernels(struct backend_state *state, struct effnet_error *error)
{
    /* As in depthwise_scratch. */
    for (int t = 0; t < state->tensor_count; t++)
        CUDA_TRY(cudaMemsetAsync(cuda_tensor_data(state, t), 0x3a, state->tensors[t].bytes, state->stream),
                 "timing");
    for (int i = 0; i < state->unit_count; i++) {
        struct cuda_unit *u = &state->units[i];
        struct linear_args args;
        switch (u->kind) {
        case CUDA_UNIT_FIRST_BLOCK:
            EFFNET_TRY(choose_first_block(state, u, error));
            snprintf(u->kernel, sizeof u->kernel, "first block %s",
                     kernel_get(&first_block_kernels, u->config)->name);
            break;
        case CUDA_UNIT_CONV: break; /* its cuDNN plan is made already */
        case CUDA_UNIT_DEPTHWISE:
            u->config = state->depthwise_config[u->unit.first];
            snprintf(u->kernel, sizeof u->kernel, "depthwise %s",
                     kernel_get(&depthwise_kernels, u->config)->name);
            break;
        case CUDA_UNIT_POINTWISE:
            EFFNET_TRY(choose_pointwise(state, u, error));
            snprintf(u->kernel, sizeof u->kernel, "pointwise %s%s%s%s%s",
                     kernel_get(&pointwise_kernels, u->config)->name,
                     u->weight_low ? ", two-part weights" : "", u->unit.raw_input ? ", input bias" : "",
                     u->residual >= 0 ? ", residual" : "", u->unit.last > u->unit.first ? ", pool" : "");
            break;
        case CUDA_UNIT_POOL: snprintf(u->kernel, sizeof u->kernel, "pool"); break;
        case CUDA_UNIT_LINEAR:
            cuda_linear_arguments(state, u, &state->slots[0], state->max_batch, &args);
            u->config = linear_choose(&args);
            if (u->config < 0)
                return effnet_fail(error, EFFNET_E_UNAVAILABLE, "layer %s: %d to %d: too large for the GPU",
                                   u->layer->name, u->layer->in_channels, u->layer->out_channels);
            snprintf(u->kernel, sizeof u->kernel, "linear %s", kernel_get(&linear_kernels, u->config)->name);
        }
    }
    cudnn_context_settle(state->cudnn);
    return EFFNET_OK;
}
