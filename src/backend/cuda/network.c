/* The layer table as units on device tensors. What each layer becomes:
 *
 *   the first three   in plan auto one kernel from pixels on, if they are such as it computes
 *   conv, depthwise   one cuDNN convolution, without bias and activation. Where a pointwise layer follows, it
 *                     applies them to its input as it is loaded (raw_output, raw_input); elsewhere a small
 *                     kernel does, in place. In plan auto, a depthwise layer for which our own kernel was
 *                     faster runs that instead, bias and activation included.
 *   pointwise         one fused kernel; with the pooling layer behind it, if its maps are small
 *   pool, linear      one kernel each */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "backend/cuda/cuda_internal.h"
#include "first_block.h"
#include "pointwise.h"

/* Whether a layer can leave bias and activation to the layer behind it: that must be a pointwise one, nobody
 * else may read its output, and the prologue clamps from 0. */
static bool leaves_activation(const effnet_model *model, int index, int layer_count)
{
    const struct effnet_layer *layer = effnet_model_layer(model, index);
    if (index + 1 >= layer_count || effnet_model_layer(model, index + 1)->op != EFFNET_OP_POINTWISE)
        return false;
    for (int i = index + 1; i < layer_count; i++)
        if (effnet_model_layer(model, i)->residual == index) return false;
    return layer->residual < 0 &&
           (layer->activation == EFFNET_ACT_RELU || layer->activation == EFFNET_ACT_RELU6);
}

/* Whether a pointwise layer's output is so much smaller than its terms that weights rounded to fp16 would
 * cost 1e-3 of it: a projection, which no activation and no residual follow. (lite1's
 * blocks.15.project: 1.1e-3, with weights in two parts 8e-4, the rest of which comes from its input.) */
static bool sums_cancel(const struct effnet_layer *layer)
{
    return layer->activation == EFFNET_ACT_NONE && layer->residual < 0;
}

/* Whether the pointwise layer can average its own pixels: some configuration must hold an image's.
 * `raw_input` as of its unit. */
static bool pools_itself(const effnet_model *model, int index, bool raw_input, int layer_count)
{
    static const char there; /* pointers are not looked at, only whether they are NULL */
    const struct effnet_layer *layer = effnet_model_layer(model, index);
    if (index + 1 >= layer_count || effnet_model_layer(model, index + 1)->op != EFFNET_OP_POOL) return false;
    for (int i = index + 1; i < layer_count; i++)
        if (effnet_model_layer(model, i)->residual == index) return false;
    const int rows = layer->out_height * layer->out_width;
    const struct pointwise_args args = {.m = rows,
                                        .n = layer->out_channels,
                                        .k = layer->in_channels,
                                        .w_low = sums_cancel(layer),
                                        .input_bias = raw_input ? &there : NULL,
                                        .input_activation = ACTIVATION_RELU6,
                                        .pool_rows = rows};
    for (int c = 0; layer->residual < 0 && c < kernel_count(&pointwise_kernels); c++)
        if (kernel_fits(&pointwise_kernels, c, &args)) return true;
    return false;
}

static int check_layer(const struct effnet_layer *layer, bool first, struct effnet_error *error)
{
    /* cuDNN takes the image's channels as they are. */
    const bool any_input = layer->op == EFFNET_OP_LINEAR || (first && layer->op == EFFNET_OP_CONV);
    float low, high;
    if (layer->op != EFFNET_OP_LINEAR && !activation_clamp(cuda_activation(layer->activation), &low, &high))
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "layer %s: activation %s is not supported on a GPU",
                           layer->name, effnet_activation_name(layer->activation));
    if ((!any_input && layer->in_channels % 8) || (layer->op != EFFNET_OP_LINEAR && layer->out_channels % 8))
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "layer %s: %d to %d channels: only multiples of 8 are supported on a GPU",
                           layer->name, layer->in_channels, layer->out_channels);
    if (layer->residual >= 0 && layer->op != EFFNET_OP_POINTWISE)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "layer %s: a residual on a %s layer is not supported on a GPU", layer->name,
                           effnet_op_name(layer->op));
    return EFFNET_OK;
}

/* The kernels of pointwise layers count a batch's pixels in an int, and those that convert weights their
 * weights. */
static int check_size(const struct effnet_layer *layer, int max_batch, struct effnet_error *error)
{
    const int64_t most = 1 << 30, pixels = (int64_t)layer->out_height * layer->out_width;
    if (layer->op == EFFNET_OP_POINTWISE && max_batch * pixels > most)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "layer %s: a batch of %d with %" PRId64
                           " pixels each is too large for a GPU; %" PRId64 " fit",
                           layer->name, max_batch, pixels, most / pixels);
    if (layer->parameters > most)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "layer %s: %" PRId64 " weights are too many for a GPU", layer->name,
                           layer->parameters);
    return EFFNET_OK;
}

int cuda_network_check(const effnet_model *model, int max_batch, struct effnet_error *error)
{
    for (int i = 0; i < effnet_model_get_info(model)->layer_count; i++) {
        EFFNET_TRY(check_layer(effnet_model_layer(model, i), i == 0, error));
        EFFNET_TRY(check_size(effnet_model_layer(model, i), max_batch, error));
    }
    return EFFNET_OK;
}

static size_t output_bytes(const struct effnet_layer *layer, int images)
{
    return (size_t)images * (size_t)layer->out_height * (size_t)layer->out_width *
           (size_t)layer->out_channels * 2;
}

static int add_tensor(struct backend_state *state, size_t bytes, int unit)
{
    struct cuda_tensor *t = &state->tensors[state->tensor_count];
    *t = (struct cuda_tensor){.bytes = (bytes + 255) / 256 * 256, .first_unit = unit, .last_unit = unit};
    return state->tensor_count++;
}

static enum cuda_unit_kind kind_of(const struct backend_state *state, int index)
{
    if (index == 0 && state->first_block) return CUDA_UNIT_FIRST_BLOCK;
    switch (effnet_model_layer(state->model, index)->op) {
    case EFFNET_OP_CONV: return CUDA_UNIT_CONV;
    case EFFNET_OP_DEPTHWISE:
        return state->depthwise_config[index] < 0 ? CUDA_UNIT_CONV : CUDA_UNIT_DEPTHWISE;
    case EFFNET_OP_POINTWISE: return CUDA_UNIT_POINTWISE;
    case EFFNET_OP_POOL: return CUDA_UNIT_POOL;
    case EFFNET_OP_LINEAR: break;
    }
    return CUDA_UNIT_LINEAR;
}

/* Activations and weights that a unit moves, for the profile. */
static void count_bytes(struct cuda_unit *u, const struct effnet_layer *last)
{
    const struct effnet_layer *l = u->layer;
    int64_t values = (int64_t)l->in_height * l->in_width * l->in_channels;
    const int64_t out = (int64_t)last->out_height * last->out_width * last->out_channels;
    values += u->residual >= 0 ? 2 * out : out;
    if (u->kind == CUDA_UNIT_CONV && !u->unit.raw_output)
        values += 2 * out; /* the pass for bias and activation */
    if (u->kind == CUDA_UNIT_FIRST_BLOCK) {
        u->unit.bytes_per_image = (int64_t)l->in_height * l->in_width * l->in_channels + 2 * out;
        u->unit.weight_bytes = (int64_t)first_block_weight_bytes();
        return;
    }
    u->unit.bytes_per_image = 2 * values + (u->kind == CUDA_UNIT_LINEAR && u->output < 0 ? 2 * out : 0);
    u->unit.weight_bytes = (u->kind == CUDA_UNIT_DEPTHWISE || u->weight_low ? 4 : 2) * l->parameters;
}

int cuda_network_plan(struct backend_state *state, struct effnet_error *error)
{
    const int layers = state->info->layer_count;
    state->units = calloc((size_t)layers, sizeof *state->units);
    state->tensors = calloc((size_t)layers + 1, sizeof *state->tensors);
    int *tensor_of = calloc((size_t)layers, sizeof *tensor_of); /* of each layer's output */
    if (!state->units || !state->tensors || !tensor_of) {
        free(tensor_of);
        return effnet_fail_nomem(error, "units", (size_t)layers * sizeof *state->units);
    }
    const size_t input_values = (size_t)state->info->height * (size_t)state->info->width * 3;
    int previous = state->first_block ? -1
                                      : add_tensor(state, (size_t)state->max_batch * input_values * 2, 0);
    for (int i = 0; i < layers;) {
        const struct effnet_layer *layer = effnet_model_layer(state->model, i), *last;
        const int index = state->unit_count;
        struct cuda_unit *u = &state->units[index];
        u->layer = layer;
        u->kind = kind_of(state, i);
        u->unit.first = u->unit.last = i;
        u->unit.kernel = u->kernel;
        u->unit.raw_input = index > 0 && u[-1].unit.raw_output;
        u->unit.raw_output = u->kind == CUDA_UNIT_CONV && leaves_activation(state->model, i, layers);
        u->weight_low = u->kind == CUDA_UNIT_POINTWISE && sums_cancel(layer);
        if (u->kind == CUDA_UNIT_FIRST_BLOCK) u->unit.last = i + 2;
        if (u->kind == CUDA_UNIT_POINTWISE && pools_itself(state->model, i, u->unit.raw_input, layers))
            u->unit.last = i + 1;
        last = effnet_model_layer(state->model, u->unit.last);
        u->input = previous;
        if (previous >= 0) state->tensors[previous].last_unit = index;
        u->residual = layer->residual < 0 ? -1 : tensor_of[layer->residual];
        if (u->residual >= 0) state->tensors[u->residual].last_unit = index;
        const bool logits = u->unit.last == layers - 1;
        u->output = logits ? -1 : add_tensor(state, output_bytes(last, state->max_batch), index);
        tensor_of[u->unit.last] = previous = u->output;
        count_bytes(u, last);
        state->unit_count++;
        i = u->unit.last + 1;
    }
    free(tensor_of);
    return EFFNET_OK;
}

void cuda_network_forget(struct backend_state *state)
{
    free(state->units);
    free(state->tensors);
    state->units = NULL;
    state->tensors = NULL;
    state->unit_count = state->tensor_count = 0;
}
