/* A 1x1 convolution and the depthwise convolution behind it in one kernel: the map between them is not
 * stored. */
#include "expand_depthwise.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/ops/ops.h"

enum { EXPAND, DEPTHWISE, LAYERS };

static const struct effnet_layer *layer(const struct cuda_unit *u, int index)
{
    return effnet_model_layer(u->network->model, u->unit.first + index);
}

static bool silu(const struct effnet_layer *l)
{
    return l->activation == EFFNET_ACT_SILU;
}

static unsigned covers(const struct cuda_network *network, int first)
{
    if (first + LAYERS >= network->info->layer_count) return 0; /* the last layer's output is fp32 */
    const struct effnet_layer *expand = effnet_model_layer(network->model, first + EXPAND),
                              *depthwise = effnet_model_layer(network->model, first + DEPTHWISE);
    const bool match = expand->op == EFFNET_OP_POINTWISE && expand->residual < 0 &&
                       depthwise->op == EFFNET_OP_DEPTHWISE && depthwise->inputs[0] == first + EXPAND &&
                       (depthwise->kernel == 3 || depthwise->kernel == 5) && depthwise->stride <= 2 &&
                       depthwise->pad_top < depthwise->kernel && depthwise->pad_left < depthwise->kernel &&
                       (silu(expand) ? silu(depthwise) : cuda_clamps(expand) && cuda_clamps(depthwise));
    return match &&
                   expand_depthwise_weights_fit(depthwise->weight, depthwise->out_channels, depthwise->kernel)
               ? CUDA_COVERS(LAYERS)
               : 0;
}

static unsigned leaves(const struct cuda_network *network, int first)
{
    const bool sums = silu(effnet_model_layer(network->model, first)) &&
                      cuda_squeezed(network, first + DEPTHWISE);
    return CUDA_FORM(CUDA_COMPLETE) | (sums ? CUDA_FORM(CUDA_SUMMED) : 0);
}

static void key(const struct cuda_unit *u, struct tuning_key *key)
{
    const struct effnet_layer *expand = layer(u, EXPAND), *l = layer(u, DEPTHWISE);
    const int64_t sizes[] = {u->network->max_batch, l->out_height, l->out_width, expand->in_channels,
                             l->out_channels};
    snprintf(key->what, sizeof key->what, "expand_depthwise %dx%d s%d%s%s", l->kernel, l->kernel, l->stride,
             silu(l) ? ", silu" : "", u->output_form == CUDA_SUMMED ? ", sums" : "");
    memcpy(key->sizes, sizes, sizeof sizes);
}

/* Where on the device each part lies, from the start; and the bytes of all. */
struct layout {
    size_t weight, bias, depthwise_weight, depthwise_bias, bytes;
};

static struct layout layout(const struct cuda_unit *u)
{
    const struct effnet_layer *expand = layer(u, EXPAND), *depthwise = layer(u, DEPTHWISE);
    const size_t bias_bytes = cuda_aligned(sizeof(float) * (size_t)expand->out_channels);
    struct layout l = {.weight = 0};
    l.bias = l.weight + cuda_aligned(2 * cuda_weight_count(expand));
    l.depthwise_weight = l.bias + bias_bytes;
    l.depthwise_bias = l.depthwise_weight + cuda_aligned(expand_depthwise_packed_bytes(
                                                depthwise->out_channels, depthwise->kernel));
    l.bytes = l.depthwise_bias + bias_bytes;
    return l;
}

static size_t lay_out(struct cuda_unit *u, unsigned char *base)
{
    if (base) u->weight = base;
    return layout(u).bytes;
}

static int upload(const struct cuda_unit *u, const struct cuda_upload *upload, struct effnet_error *error)
{
    const struct effnet_layer *expand = layer(u, EXPAND), *depthwise = layer(u, DEPTHWISE);
    const struct layout at = layout(u);
    const size_t bias_bytes = sizeof(float) * (size_t)expand->out_channels,
                 packed_bytes = expand_depthwise_packed_bytes(depthwise->out_channels, depthwise->kernel);
    unsigned char *base = u->weight;
    EFFNET_TRY(cuda_upload_fp16(expand, expand->weight, base + at.weight, upload, error));
    EFFNET_TRY(cuda_upload_bytes(expand->name, expand->bias, bias_bytes, base + at.bias, upload, error));
    EFFNET_TRY(cuda_upload_bytes(depthwise->name, depthwise->bias, bias_bytes, base + at.depthwise_bias,
                                 upload, error));
    void *packed = malloc(packed_bytes);
    if (!packed) return effnet_fail_nomem(error, depthwise->name, packed_bytes);
    expand_depthwise_pack(depthwise->weight, depthwise->out_channels, depthwise->kernel, packed);
    const int status = cuda_upload_bytes(depthwise->name, packed, packed_bytes, base + at.depthwise_weight,
                                         upload, error);
    free(packed);
    return status;
}

static void arguments(const struct cuda_unit *u, const struct cuda_io *io, void *to)
{
    const struct effnet_layer *expand = layer(u, EXPAND), *depthwise = layer(u, DEPTHWISE);
    const struct layout at = layout(u);
    const unsigned char *base = u->weight;
    struct expand_depthwise_args *args = to;
    *args = (struct expand_depthwise_args){
        .x = io->inputs[0],
        .w = base + at.weight,
        .bias = (const float *)(base + at.bias),
        .depthwise_w = base + at.depthwise_weight,
        .depthwise_bias = (const float *)(base + at.depthwise_bias),
        .y = io->output,
        .sums = u->output_form == CUDA_SUMMED ? io->sums : NULL,
        .activation = cuda_activation(expand->activation),
        .depthwise_activation = cuda_activation(depthwise->activation),
        .n = io->images,
        .in_channels = expand->in_channels,
        .channels = depthwise->out_channels,
        .height = depthwise->in_height,
        .width = depthwise->in_width,
        .out_height = depthwise->out_height,
        .out_width = depthwise->out_width,
        .kernel = depthwise->kernel,
        .stride = depthwise->stride,
        .pad_top = depthwise->pad_top,
        .pad_left = depthwise->pad_left,
    };
}

static int choose(struct cuda_unit *u, const char *candidate, struct effnet_error *error)
{
    (void)candidate, (void)error; /* the configuration is chosen already */
    struct expand_depthwise_args args;
    arguments(u, &(struct cuda_io){.images = u->network->max_batch}, &args);
    if (u->output_form == CUDA_SUMMED) u->parts = expand_depthwise_sum_parts(u->config, &args);
    return EFFNET_OK;
}

const struct cuda_op cuda_expand_depthwise_op = {
    .name = "expand_depthwise",
    .when_measured = true,
    .covers = covers,
    .leaves = leaves,
    .key = key,
    .lay_out = lay_out,
    .upload = upload,
    .family = &expand_depthwise_kernels,
    .arguments = arguments,
    .choose = choose,
};
