/* Where tensors lie. Tensor 0 is the normalised image, tensor i + 1 the output of layer i. A tensor lives
 * from the layer that writes it to the last that reads it. */
#include "backend/lifetimes.h"
#include "backend/onednn/onednn.h"
#include "common/error.h"

#include <stdint.h>
#include <stdlib.h>

#define ALIGNMENT 64 /* a cache line, and the widest vector */

static int tensor_of(int input)
{
    return input == EFFNET_IMAGE ? 0 : input + 1;
}

static struct lifetime new_life(size_t values, dnnl_data_type_t type, int first, int last)
{
    size_t bytes = values * dnnl_data_type_size(type);
    return (struct lifetime){
        .bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, .first = first, .last = last};
}

static void find_lives(const struct backend_state *state, struct lifetime *lives)
{
    const struct effnet_model_info *info = state->info;
    lives[0] = new_life((size_t)info->height * (size_t)info->width * (size_t)info->channels, state->type, 0,
                        0);
    for (int i = 0; i < info->layer_count; i++) {
        struct onednn_layer *layer = &state->layers[i];
        const struct effnet_layer *from = layer->layer;
        layer->source_type = state->type;
        /* Logits are float, unless a tensor of another type is added to them. */
        bool last = i + 1 == info->layer_count;
        layer->destination_type = last && from->residual < 0 ? dnnl_f32 : state->type;
        const bool kept = i == state->features_layer; /* until it is handed out */
        lives[i + 1] = new_life(effnet_layer_out_size(from), layer->destination_type, i,
                                kept ? info->layer_count - 1 : from->last_reader);
        for (int k = 0; k < from->input_count; k++)
            if (from->inputs[k] == EFFNET_IMAGE) lives[0].last = i;
    }
}

/* Whether layer i can write its output over its input k, which it then reads element by element: it is the
 * last to read it, and reads it as nothing else. */
static bool may_write_over(const struct effnet_layer *layer, const struct lifetime *lives, int i, int k)
{
    bool twice = layer->input_count > 1 && layer->inputs[0] == layer->inputs[1];
    return lives[tensor_of(layer->inputs[k])].last == i && !twice;
}

/* Residuals are added in place, and maps scaled in place, where they are not needed any longer. homes[t]
 * becomes the tensor whose memory tensor t takes over, or t itself. */
static void share_memory(struct backend_state *state, struct lifetime *lives, int *homes)
{
    homes[0] = 0;
    for (int i = 0; i < state->info->layer_count; i++) {
        struct onednn_layer *layer = &state->layers[i];
        const struct effnet_layer *from = layer->layer;
        const int over = from->residual >= 0 ? 1 : from->op == EFFNET_OP_SCALE ? 0 : -1;
        homes[i + 1] = i + 1;
        if (over >= 0 && may_write_over(from, lives, i, over)) {
            const int home = homes[tensor_of(from->inputs[over])];
            homes[i + 1] = home;
            lives[home].last = lives[i + 1].last;
            lives[i + 1].bytes = 0;
        } else {
            layer->copies_residual = from->residual >= 0;
        }
    }
}

/* A scale that the next layer does is not over before that. */
static void extend_lives(const struct backend_state *state, struct lifetime *lives, const int *homes)
{
    for (int i = 0; i < state->info->layer_count; i++) {
        if (!state->layers[i].fused.skipped) continue;
        for (int k = 0; k < 2; k++) {
            struct lifetime *life = &lives[homes[tensor_of(state->layers[i].layer->inputs[k])]];
            if (life->last <= i) life->last = i + 1;
        }
    }
}

/* Room behind the tensors for the sums of rows of one layer. */
static size_t sums_bytes(const struct backend_state *state)
{
    size_t most = 0;
    for (int i = 0; i < state->info->layer_count; i++) {
        const struct effnet_layer *layer = state->layers[i].layer;
        size_t bytes = (size_t)layer->out_height * (size_t)layer->out_channels * sizeof(float);
        if (state->layers[i].fused.row_sums && bytes > most) most = bytes;
    }
    return most;
}

int effnet_onednn_plan(struct backend_state *state, struct effnet_error *error)
{
    const size_t count = (size_t)state->info->layer_count + 1;
    struct lifetime *lives = malloc(count * sizeof *lives);
    int *homes = malloc(count * sizeof *homes);
    size_t bytes = SIZE_MAX;
    if (lives && homes) {
        find_lives(state, lives);
        share_memory(state, lives, homes);
        extend_lives(state, lives, homes);
        bytes = effnet_place(lives, (int)count);
    }
    for (int i = 0; bytes < SIZE_MAX && i < state->info->layer_count; i++) {
        struct onednn_layer *layer = &state->layers[i];
        for (int k = 0; k < layer->layer->input_count; k++)
            layer->input_offsets[k] = lives[homes[tensor_of(layer->layer->inputs[k])]].offset;
        layer->destination_offset = lives[homes[i + 1]].offset;
    }
    state->sums_offset = bytes;
    state->arena_bytes = bytes < SIZE_MAX ? bytes + sums_bytes(state) : bytes;
    free(lives);
    free(homes);
    return bytes < SIZE_MAX ? EFFNET_OK : effnet_fail_nomem(error, "memory plan", count * sizeof *lives);
}
