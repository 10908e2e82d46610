/* One arena of device memory, planned before anything is allocated:
 *
 *   [ weights, fp16, and biases, fp32 | activations | workspace | slots: pixels and logits ]
 *
 * Activations share memory: a tensor lives from the unit that writes it to the last that reads it. */
#include <stdio.h>
#include <stdlib.h>

#include "backend/cuda/cuda_internal.h"

static int upload_weights(struct backend_state *state, struct effnet_error *error)
{
    size_t largest = 1;
    for (int i = 0; i < state->network.info->layer_count; i++) {
        const size_t count = cuda_weight_count(effnet_model_layer(state->network.model, i));
        if (count > largest) largest = count;
    }
    struct cuda_upload upload = {.stream = state->stream};
    CUDA_TRY(cudaMalloc((void **)&upload.staging, largest * sizeof *upload.staging), "weights");
    int status = EFFNET_OK;
    unsigned char *next = state->arena;
    for (int i = 0; i < state->unit_count && status == EFFNET_OK; i++) {
        struct cuda_unit *u = &state->units[i];
        next += cuda_unit_lay_out(u, next);
        status = cuda_unit_upload(u, &upload, error);
    }
    const cudaError_t finished = cudaStreamSynchronize(state->stream);
    cudaFree(upload.staging);
    if (status == EFFNET_OK && finished != cudaSuccess) status = cuda_fail(error, finished, "weights");
    return status;
}

/* Words for a batch that is too large: what it needs, and what would fit. */
static int fail_too_large(const struct backend_state *state, size_t free_bytes, struct effnet_error *error)
{
    const size_t fixed = state->activation_offset; /* bytes that do not grow with the batch */
    const size_t per_image = (state->arena_bytes - fixed) / (size_t)state->network.max_batch + 1;
    const size_t fits = free_bytes > fixed ? (free_bytes - fixed) / per_image : 0;
    return effnet_fail(
        error, EFFNET_E_NOMEM,
        "cuda:%d: a batch of %d needs %zu MiB of GPU memory and %zu MiB are free; about %zu images fit",
        state->device.index, state->network.max_batch, state->arena_bytes >> 20, free_bytes >> 20, fits);
}

size_t cuda_pixel_bytes(const struct cuda_network *network)
{
    return (size_t)network->max_batch * (size_t)network->info->height * (size_t)network->info->width * 3;
}

size_t cuda_logit_bytes(const struct cuda_network *network)
{
    return (size_t)network->max_batch * (size_t)network->info->classes * sizeof(float);
}

/* Sizes and offsets of the arena's parts. */
static int lay_out(struct backend_state *state, struct effnet_error *error)
{
    const size_t slot = cuda_aligned(cuda_pixel_bytes(&state->network)) +
                        cuda_aligned(cuda_logit_bytes(&state->network));
    size_t weights = 0, workspace = 0;
    for (int i = 0; i < state->unit_count; i++) {
        const struct cuda_unit *u = &state->units[i];
        weights += (size_t)u->unit.weight_bytes;
        if ((size_t)u->unit.workspace_bytes > workspace) workspace = (size_t)u->unit.workspace_bytes;
    }
    const size_t activations = effnet_place(state->tensors, state->tensor_count);
    if (activations == SIZE_MAX) return effnet_fail_nomem(error, "tensor plan", (size_t)state->tensor_count);
    state->activation_offset = weights;
    state->workspace_offset = weights + activations;
    state->slot_offset = state->workspace_offset + cuda_aligned(workspace);
    state->arena_bytes = state->slot_offset + CUDA_SLOTS * slot;
    return EFFNET_OK;
}

int cuda_memory_open(struct backend_state *state, struct effnet_error *error)
{
    EFFNET_TRY(lay_out(state, error));
    size_t free_bytes = 0, total_bytes = 0;
    CUDA_TRY(cudaMemGetInfo(&free_bytes, &total_bytes), "device memory");
    cudaError_t status = cudaErrorMemoryAllocation;
    if (state->arena_bytes <= free_bytes) {
        status = cudaMalloc((void **)&state->arena, state->arena_bytes);
        cuda_forget_error(status);
    }
    if (status == cudaErrorMemoryAllocation) return fail_too_large(state, free_bytes, error);
    CUDA_TRY(status, "device memory");
    /* No pass reads what nothing wrote, but a part-filled one computes on what is there: let it be finite. */
    CUDA_TRY(cudaMemsetAsync(state->arena, 0, state->arena_bytes, state->stream), "device memory");
    unsigned char *next = state->arena + state->slot_offset;
    for (int i = 0; i < CUDA_SLOTS; i++) {
        state->slots[i].pixels = next;
        next += cuda_aligned(cuda_pixel_bytes(&state->network));
        state->slots[i].logits = (float *)next;
        next += cuda_aligned(cuda_logit_bytes(&state->network));
    }
    return upload_weights(state, error);
}
