/* One arena of device memory, planned before anything is allocated:
 *
 *   [ weights, fp16, and biases, fp32 | activations | workspace | slots: pixels and logits ]
 *
 * Activations share memory: a tensor lives from the unit that writes it to the last that reads it. */
#include <stdio.h>
#include <stdlib.h>

#include "backend/cuda/cuda_internal.h"
#include "convert.h"
#include "first_block.h"

enum { ALIGNMENT = 256 };

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static bool alive_together(const struct cuda_tensor *a, const struct cuda_tensor *b)
{
    return a->first_unit <= b->last_unit && b->first_unit <= a->last_unit;
}

/* Largest first, each at the lowest offset where no tensor that is alive with it lies: the usual greedy
 * answer, within a few percent of the lower bound for a chain with residuals. */
size_t cuda_place_tensors(struct cuda_tensor *tensors, int count)
{
    bool *placed = calloc((size_t)count, sizeof *placed);
    size_t total = 0;
    if (!placed) return SIZE_MAX;
    for (int round = 0; round < count; round++) {
        int next = -1;
        for (int i = 0; i < count; i++)
            if (!placed[i] && (next < 0 || tensors[i].bytes > tensors[next].bytes)) next = i;
        size_t offset = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (int i = 0; i < count; i++) {
                const size_t end = tensors[i].offset + tensors[i].bytes;
                if (placed[i] && alive_together(&tensors[i], &tensors[next]) && offset < end &&
                    tensors[i].offset < offset + tensors[next].bytes) {
                    offset = end;
                    moved = true;
                }
            }
        }
        tensors[next].offset = offset;
        placed[next] = true;
        if (offset + tensors[next].bytes > total) total = offset + tensors[next].bytes;
    }
    free(placed);
    return total;
}

void *cuda_tensor_data(const struct backend_state *state, int tensor)
{
    return state->arena + state->activation_offset + state->tensors[tensor].offset;
}

static size_t weight_count(const struct effnet_layer *layer)
{
    return layer->weight ? (size_t)(layer->parameters - layer->out_channels) : 0;
}

static size_t weight_bytes(const struct cuda_unit *u)
{
    return (u->kind == CUDA_UNIT_DEPTHWISE || u->weight_low ? sizeof(float) : 2) * weight_count(u->layer);
}

/* Bytes of a unit's weight, bias and input bias in the arena. */
static size_t unit_weight_bytes(const struct cuda_unit *u)
{
    if (u->kind == CUDA_UNIT_FIRST_BLOCK) return aligned(first_block_weight_bytes());
    size_t bytes = aligned(weight_bytes(u)) + aligned(4 * (size_t)u->layer->out_channels);
    if (u->unit.raw_input) bytes += aligned(4 * (size_t)u->layer->in_channels);
    return bytes;
}

/* A dense convolution's weights, [out][in][kh][kw] in the file, as cuDNN takes them: [out][kh][kw][in]. (A
 * depthwise layer has one input channel a filter, and a pointwise one 1x1 taps: theirs lie right already.) */
static void put_channels_last(const struct effnet_layer *layer, float *reordered)
{
    const int taps = layer->kernel * layer->kernel, in = layer->in_channels;
    for (int o = 0; o < layer->out_channels; o++)
        for (int i = 0; i < in; i++)
            for (int t = 0; t < taps; t++)
                reordered[((size_t)o * taps + t) * in + i] = layer->weight[((size_t)o * in + i) * taps + t];
}

/* A depthwise layer's weights, [channel][1][kh][kw] in the file, as our kernel takes them: [kh][kw][channel].
 */
static void put_taps_first(const struct effnet_layer *layer, float *reordered)
{
    const int taps = layer->kernel * layer->kernel, channels = layer->out_channels;
    for (int c = 0; c < channels; c++)
        for (int t = 0; t < taps; t++)
            reordered[(size_t)t * channels + c] = layer->weight[(size_t)c * taps + t];
}

/* A unit's weights in the order and type of its kernel; fp16 by way of `staging` on the device. */
static int upload_weight(struct backend_state *state, const struct cuda_unit *u, float *staging,
                         struct effnet_error *error)
{
    const struct effnet_layer *layer = u->layer;
    const size_t count = weight_count(layer), bytes = count * sizeof(float);
    const bool convert = u->kind != CUDA_UNIT_DEPTHWISE;
    const bool reorder = u->kind == CUDA_UNIT_DEPTHWISE || layer->op == EFFNET_OP_CONV;
    float *reordered = NULL;
    if (reorder) {
        reordered = malloc(bytes);
        if (!reordered) return effnet_fail_nomem(error, layer->name, bytes);
        if (convert)
            put_channels_last(layer, reordered);
        else
            put_taps_first(layer, reordered);
    }
    /* From pageable memory this returns once the source has been read. */
    const cudaError_t copied = cudaMemcpyAsync(convert ? staging : u->weight,
                                               reorder ? reordered : layer->weight, bytes,
                                               cudaMemcpyHostToDevice, state->stream);
    free(reordered);
    CUDA_TRY(copied, layer->name);
    if (!convert) return EFFNET_OK;
    if (u->weight_low) {
        CUDA_TRY(convert_split_launch(staging, u->weight, (unsigned char *)u->weight + 2 * count, (int)count,
                                      state->stream),
                 layer->name);
        return EFFNET_OK;
    }
    const struct convert_args args = {.x = staging,
                                      .y = u->weight,
                                      .rows = layer->out_channels,
                                      .columns = (int)(count / (size_t)layer->out_channels)};
    CUDA_TRY(convert_weights_launch(&args, state->stream), layer->name);
    return EFFNET_OK;
}

/* The bias that `before` left to its reader, in two fp16 parts. */
static int upload_input_bias(struct backend_state *state, const struct effnet_layer *before, float *staging,
                             void *device, struct effnet_error *error)
{
    const int channels = before->out_channels;
    CUDA_TRY(cudaMemcpyAsync(staging, before->bias, (size_t)channels * sizeof *staging,
                             cudaMemcpyHostToDevice, state->stream),
             before->name);
    CUDA_TRY(convert_split_launch(staging, device, (unsigned char *)device + 2 * channels, channels,
                                  state->stream),
             before->name);
    return EFFNET_OK;
}

static int upload_weights(struct backend_state *state, struct effnet_error *error)
{
    size_t largest = 1;
    for (int i = 0; i < state->unit_count; i++)
        if (weight_count(state->units[i].layer) > largest) largest = weight_count(state->units[i].layer);
    float *staging = NULL;
    CUDA_TRY(cudaMalloc((void **)&staging, largest * sizeof *staging), "weights");
    int status = EFFNET_OK;
    unsigned char *next = state->arena;
    for (int i = 0; i < state->unit_count && status == EFFNET_OK; i++) {
        struct cuda_unit *u = &state->units[i];
        const struct effnet_layer *l = u->layer;
        if (!l->weight) continue;
        u->weight = next;
        if (u->kind == CUDA_UNIT_FIRST_BLOCK) {
            status = cuda_first_block_upload(state, u->weight, error);
            next += unit_weight_bytes(u);
            continue;
        }
        next += aligned(weight_bytes(u));
        u->bias = (float *)next;
        next += aligned(4 * (size_t)l->out_channels);
        status = upload_weight(state, u, staging, error);
        const cudaError_t copied = cudaMemcpyAsync(u->bias, l->bias,
                                                   (size_t)l->out_channels * sizeof *l->bias,
                                                   cudaMemcpyHostToDevice, state->stream);
        if (status == EFFNET_OK && copied != cudaSuccess) status = cuda_fail(error, copied, l->name);
        if (status != EFFNET_OK || !u->unit.raw_input) continue;
        const struct effnet_layer *before = effnet_model_layer(state->model, u->unit.first - 1);
        u->input_activation = cuda_activation(before->activation);
        u->input_bias = next;
        next += aligned(4 * (size_t)l->in_channels);
        status = upload_input_bias(state, before, staging, u->input_bias, error);
    }
    const cudaError_t finished = cudaStreamSynchronize(state->stream);
    cudaFree(staging);
    if (status == EFFNET_OK && finished != cudaSuccess) status = cuda_fail(error, finished, "weights");
    return status;
}

/* Words for a batch that is too large: what it needs, and what would fit. `fixed`: bytes that do not grow
 * with the batch. */
static int fail_too_large(const struct backend_state *state, size_t fixed, size_t needed, size_t free_bytes,
                          struct effnet_error *error)
{
    const size_t per_image = (needed - fixed) / (size_t)state->max_batch + 1;
    const size_t fits = free_bytes > fixed ? (free_bytes - fixed) / per_image : 0;
    return effnet_fail(
        error, EFFNET_E_NOMEM,
        "cuda:%d: a batch of %d needs %zu MiB of GPU memory and %zu MiB are free; about %zu images fit",
        state->device.index, state->max_batch, needed >> 20, free_bytes >> 20, fits);
}

size_t cuda_pixel_bytes(const struct backend_state *state)
{
    return (size_t)state->max_batch * (size_t)state->info->height * (size_t)state->info->width * 3;
}

size_t cuda_logit_bytes(const struct backend_state *state)
{
    return (size_t)state->max_batch * (size_t)state->info->classes * sizeof(float);
}

/* Sizes and offsets of the arena's parts. Returns the bytes of the weights, or SIZE_MAX without memory for
 * the plan. */
static size_t lay_out(struct backend_state *state)
{
    const size_t slot = aligned(cuda_pixel_bytes(state)) + aligned(cuda_logit_bytes(state));
    size_t weights = 0, workspace = 0;
    for (int i = 0; i < state->unit_count; i++) {
        weights += unit_weight_bytes(&state->units[i]);
        if ((size_t)state->units[i].unit.workspace_bytes > workspace)
            workspace = (size_t)state->units[i].unit.workspace_bytes;
    }
    const size_t activations = cuda_place_tensors(state->tensors, state->tensor_count);
    if (activations == SIZE_MAX) return SIZE_MAX;
    state->activation_offset = weights;
    state->workspace_offset = weights + activations;
    state->slot_offset = state->workspace_offset + aligned(workspace);
    state->arena_bytes = state->slot_offset + CUDA_SLOTS * slot;
    return weights;
}

int cuda_memory_check(struct backend_state *state, struct effnet_error *error)
{
    size_t free_bytes = 0, total_bytes = 0;
    const size_t weights = lay_out(state);
    if (weights == SIZE_MAX) return effnet_fail_nomem(error, "tensor plan", (size_t)state->tensor_count);
    CUDA_TRY(cudaMemGetInfo(&free_bytes, &total_bytes), "device memory");
    const size_t fixed = weights + CUDNN_WORKSPACE_LIMIT, needed = state->arena_bytes + CUDNN_WORKSPACE_LIMIT;
    return needed <= free_bytes ? EFFNET_OK : fail_too_large(state, fixed, needed, free_bytes, error);
}

int cuda_memory_open(struct backend_state *state, struct effnet_error *error)
{
    const size_t weights = lay_out(state);
    if (weights == SIZE_MAX) return effnet_fail_nomem(error, "tensor plan", (size_t)state->tensor_count);
    cudnn_context_release(state->cudnn);
    const cudaError_t status = cudaMalloc((void **)&state->arena, state->arena_bytes);
    if (status == cudaErrorMemoryAllocation) {
        size_t free_bytes = 0, total_bytes = 0;
        cuda_forget_error(status);
        cuda_forget_error(cudaMemGetInfo(&free_bytes, &total_bytes));
        return fail_too_large(state, weights, state->arena_bytes, free_bytes, error);
    }
    if (status != cudaSuccess) return cuda_fail(error, status, "device memory");
    /* No pass reads what nothing wrote, but a part-filled one computes on what is there: let it be finite. */
    CUDA_TRY(cudaMemsetAsync(state->arena, 0, state->arena_bytes, state->stream), "device memory");
    unsigned char *next = state->arena + state->slot_offset;
    for (int i = 0; i < CUDA_SLOTS; i++) {
        state->slots[i].pixels = next;
        next += aligned(cuda_pixel_bytes(state));
        state->slots[i].logits = (float *)next;
        next += aligned(cuda_logit_bytes(state));
    }
    return upload_weights(state, error);
}
