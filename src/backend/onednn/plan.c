/* Where tensors lie. Tensor 0 is the normalised image, tensor i + 1 the output of layer i. A tensor lives
 * from the layer that writes it to the last that reads it, and takes the lowest place in the arena that no
 * tensor of the same time has. */
#include "backend/onednn/onednn.h"
#include "common/error.h"

#include <stdlib.h>

#define ALIGNMENT 64 /* a cache line, and the widest vector */

struct tensor {
    int born, dies; /* layers that write it and read it last; the image is born before layer 0 */
    int home;       /* the tensor whose memory this one takes over, or itself */
    size_t offset, bytes;
    dnnl_data_type_t type;
};

/* The last layer gives float logits, unless it adds a tensor of another type to them. */
static dnnl_data_type_t tensor_type(const struct backend_state *state, int index)
{
    int last = state->info->layer_count - 1;
    return index - 1 == last && state->layers[last].layer->residual < 0 ? dnnl_f32 : state->type;
}

static void find_lives(const struct backend_state *state, struct tensor *tensors)
{
    for (int i = 0; i <= state->info->layer_count; i++) {
        size_t elements = (size_t)state->info->height * (size_t)state->info->width *
                          (size_t)state->info->channels;
        if (i > 0) {
            const struct effnet_layer *from = state->layers[i - 1].layer;
            elements = (size_t)from->out_height * (size_t)from->out_width * (size_t)from->out_channels;
        }
        tensors[i] = (struct tensor){.born = i - 1, .dies = i, .home = i, .type = tensor_type(state, i)};
        tensors[i].bytes = elements * dnnl_data_type_size(tensors[i].type);
    }
    for (int i = 0; i < state->info->layer_count; i++) {
        int residual = state->layers[i].layer->residual;
        if (residual >= 0) tensors[residual + 1].dies = i;
    }
}

/* A layer that is the last to read its residual, and reads it as nothing else, writes over it. */
static void merge_residuals(struct backend_state *state, struct tensor *tensors)
{
    for (int i = 0; i < state->info->layer_count; i++) {
        struct onednn_layer *layer = &state->layers[i];
        int residual = layer->layer->residual;
        if (residual < 0) continue;
        layer->copies_residual = tensors[residual + 1].dies > i || residual == i - 1;
        if (layer->copies_residual) continue;
        int home = tensors[residual + 1].home;
        tensors[i + 1].home = home;
        tensors[home].dies = tensors[i + 1].dies;
    }
}

/* The end of the first tensor in the way of `tensor` at its offset, or 0 where it can lie there. */
static size_t obstacle(const struct tensor *tensors, int count, const struct tensor *tensor)
{
    for (int i = 0; i < count; i++) {
        const struct tensor *other = &tensors[i];
        if (other->home != i || other->dies < tensor->born) continue;
        if (other->offset < tensor->offset + tensor->bytes && tensor->offset < other->offset + other->bytes)
            return other->offset + other->bytes;
    }
    return 0;
}

/* Homes are placed in the order of their birth, so what lies there already was born earlier. */
static size_t place(struct tensor *tensors, int count)
{
    size_t total = 0;
    for (int i = 0; i < count; i++) {
        struct tensor *tensor = &tensors[i];
        if (tensor->home != i) continue;
        tensor->bytes = (tensor->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        /* Every place that could be the lowest begins at 0 or where a living tensor ends. */
        size_t best = SIZE_MAX;
        for (int j = -1; j < i; j++) {
            if (j >= 0 && (tensors[j].home != j || tensors[j].dies < tensor->born)) continue;
            tensor->offset = j < 0 ? 0 : tensors[j].offset + tensors[j].bytes;
            if (tensor->offset < best && !obstacle(tensors, i, tensor)) best = tensor->offset;
        }
        tensor->offset = best;
        if (best + tensor->bytes > total) total = best + tensor->bytes;
    }
    return total;
}

int effnet_onednn_plan(struct backend_state *state, struct effnet_error *error)
{
    int count = state->info->layer_count + 1;
    struct tensor *tensors = calloc((size_t)count, sizeof *tensors);
    if (!tensors) return effnet_fail_nomem(error, "memory plan", (size_t)count * sizeof *tensors);
    find_lives(state, tensors);
    merge_residuals(state, tensors);
    state->arena_bytes = place(tensors, count);
    for (int i = 0; i < state->info->layer_count; i++) {
        struct onednn_layer *layer = &state->layers[i];
        const struct tensor *source = &tensors[i], *destination = &tensors[i + 1];
        layer->source_type = source->type;
        layer->destination_type = destination->type;
        layer->source_offset = tensors[source->home].offset;
        layer->destination_offset = tensors[destination->home].offset;
        if (layer->layer->residual >= 0)
            layer->residual_offset = tensors[tensors[layer->layer->residual + 1].home].offset;
    }
    free(tensors);
    return EFFNET_OK;
}
