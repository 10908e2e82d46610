/* A 1x1 convolution; with the pooling layer behind it, or with the layer before it that scales its input by a
 * gate. */
#include "pointwise.h"

#include <stdio.h>
#include <string.h>

#include "backend/cuda/ops/ops.h"

/* Whether the layer behind is pointwise, takes what this one scales, and nobody else does. */
static bool scales_pointwise(const struct cuda_network *network, int scale)
{
    const struct effnet_layer *next = effnet_model_layer(network->model, scale + 1);
    return next->op == EFFNET_OP_POINTWISE && next->inputs[0] == scale && next->residual != scale &&
           effnet_model_layer(network->model, scale)->last_reader == scale + 1;
}

static unsigned covers(const struct cuda_network *network, int first)
{
    const struct effnet_layer *layer = effnet_model_layer(network->model, first);
    if (layer->op == EFFNET_OP_SCALE) return scales_pointwise(network, first) ? CUDA_COVERS(2) : 0;
    if (layer->op != EFFNET_OP_POINTWISE) return 0;
    const struct effnet_layer *next = effnet_model_layer(network->model, layer->last_reader);
    const bool pool = layer->last_reader == first + 1 && layer->residual < 0 && next->op == EFFNET_OP_POOL;
    return CUDA_COVERS(1) | (pool ? CUDA_COVERS(2) : 0);
}

/* The layer that scales the unit's input; NULL: none. */
static const struct effnet_layer *scale(const struct cuda_unit *u)
{
    const struct effnet_layer *first = effnet_model_layer(u->network->model, u->unit.first);
    return first->op == EFFNET_OP_SCALE ? first : NULL;
}

static bool pools(const struct cuda_unit *u)
{
    return u->last->op == EFFNET_OP_POOL;
}

/* Whether a pointwise layer's output is so much smaller than its terms that weights rounded to fp16 would
 * cost 1e-3 of it, so that they come in two parts: a projection, which no activation and no residual follow.
 * (lite1's blocks.15.project: 1.1e-3, with weights in two parts 8e-4, the rest of which comes from its
 * input.) */
static bool two_parts(const struct cuda_unit *u)
{
    return u->layer->activation == EFFNET_ACT_NONE && u->layer->residual < 0;
}

/* What is particular about the unit, in words. */
static const char *features(const struct cuda_unit *u, char text[80])
{
    snprintf(text, 80, "%s%s%s%s%s%s", cuda_clamps(u->layer) ? "" : ", silu", scale(u) ? ", gate" : "",
             two_parts(u) ? ", two-part weights" : "", u->unit.raw_input ? ", input bias" : "",
             u->layer->residual >= 0 ? ", residual" : "", pools(u) ? ", pool" : "");
    return text;
}

static void key(const struct cuda_unit *u, struct tuning_key *key)
{
    const struct effnet_layer *l = u->layer;
    const int64_t pixels = (int64_t)l->out_height * l->out_width, batch = u->network->max_batch;
    char text[80];
    snprintf(key->what, sizeof key->what, "pointwise%s", features(u, text));
    const int64_t sizes[] = {pools(u) ? batch : batch * pixels, l->in_channels, l->out_channels,
                             pools(u) ? pixels : 0};
    memcpy(key->sizes, sizes, sizeof sizes);
}

static size_t lay_out(struct cuda_unit *u, unsigned char *base)
{
    const size_t bytes = cuda_lay_out_weights(u, base, two_parts(u) ? 4 : 2);
    if (!u->unit.raw_input) return bytes;
    if (base) u->input_bias = base + bytes;
    return bytes + cuda_aligned(4 * (size_t)u->layer->in_channels);
}

static int upload(const struct cuda_unit *u, const struct cuda_upload *upload, struct effnet_error *error)
{
    const struct effnet_layer *l = u->layer;
    if (two_parts(u))
        EFFNET_TRY(cuda_upload_split(l->name, l->weight, cuda_weight_count(l), u->weight, upload, error));
    else
        EFFNET_TRY(cuda_upload_fp16(l, l->weight, u->weight, upload, error));
    if (!u->unit.raw_input) return EFFNET_OK;
    const struct effnet_layer *before = effnet_model_layer(u->network->model, u->unit.first - 1);
    return cuda_upload_split(before->name, before->bias, (size_t)before->out_channels, u->input_bias, upload,
                             error);
}

static void arguments(const struct cuda_unit *u, const struct cuda_io *io, void *to)
{
    const struct effnet_layer *l = u->layer;
    const int pixels = l->out_height * l->out_width;
    struct pointwise_args *args = to;
    *args = (struct pointwise_args){
        .x = io->inputs[0],
        .w = u->weight,
        .w_low = two_parts(u),
        .bias = u->bias,
        .residual = l->residual < 0 ? NULL : io->inputs[effnet_unit_input(&u->unit, l->residual)],
        .y = io->output,
        .m = io->images * pixels,
        .n = l->out_channels,
        .k = l->in_channels,
        .pool_rows = pools(u) ? pixels : 0,
        .activation = cuda_activation(l->activation),
    };
    if (scale(u)) {
        args->gate = io->inputs[effnet_unit_input(&u->unit, scale(u)->inputs[1])];
        args->gate_rows = pixels;
    }
    if (!u->unit.raw_input) return;
    args->input_bias = u->input_bias;
    args->input_activation = cuda_activation(
        effnet_model_layer(u->network->model, u->unit.first - 1)->activation);
}

static void describe(struct cuda_unit *u)
{
    char text[80];
    snprintf(u->kernel, sizeof u->kernel, "pointwise %s%s", kernel_get(&pointwise_kernels, u->config)->name,
             features(u, text));
}

const struct cuda_op cuda_pointwise_op = {
    .name = "pointwise",
    .in_plan_cudnn = true,
    .takes = CUDA_FORM(CUDA_COMPLETE) | CUDA_FORM(CUDA_RAW),
    .covers = covers,
    .key = key,
    .lay_out = lay_out,
    .upload = upload,
    .family = &pointwise_kernels,
    .arguments = arguments,
    .describe = describe,
};
