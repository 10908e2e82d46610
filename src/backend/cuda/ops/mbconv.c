/* Expand, depthwise and project in one kernel: a block, with its residual, of which nothing between is
 * stored. */
#include "mbconv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/ops/ops.h"

enum { EXPAND, DEPTHWISE, PROJECT, LAYERS };

static const struct effnet_layer *layer(const struct cuda_unit *u, int index)
{
    return effnet_model_layer(u->network->model, u->unit.first + index);
}

static unsigned covers(const struct cuda_network *network, int first)
{
    if (first + LAYERS >= network->info->layer_count) return 0; /* the last layer's output is fp32 */
    const struct effnet_layer *expand = effnet_model_layer(network->model, first + EXPAND),
                              *depthwise = effnet_model_layer(network->model, first + DEPTHWISE),
                              *project = effnet_model_layer(network->model, first + PROJECT);
    const bool match = expand->op == EFFNET_OP_POINTWISE && expand->residual < 0 && expand->inputs[0] >= 0 &&
                       depthwise->op == EFFNET_OP_DEPTHWISE && depthwise->inputs[0] == first + EXPAND &&
                       (depthwise->kernel == 3 || depthwise->kernel == 5) && depthwise->stride <= 2 &&
                       depthwise->pad_top < depthwise->kernel && depthwise->pad_left < depthwise->kernel &&
                       project->op == EFFNET_OP_POINTWISE && project->inputs[0] == first + DEPTHWISE &&
                       (project->residual < 0 || project->residual == expand->inputs[0]) &&
                       expand->out_channels % 16 == 0 && cuda_clamps_from_0(expand) &&
                       cuda_clamps_from_0(depthwise) && cuda_clamps(project);
    return match ? CUDA_COVERS(LAYERS) : 0;
}

/* As pointwise.c says of a projection. */
static bool two_parts(const struct effnet_layer *project)
{
    return project->activation == EFFNET_ACT_NONE && project->residual < 0;
}

static struct mbconv_layers host_layers(const struct cuda_unit *u)
{
    const struct effnet_layer *expand = layer(u, EXPAND), *depthwise = layer(u, DEPTHWISE),
                              *project = layer(u, PROJECT);
    return (struct mbconv_layers){
        .expand_weight = expand->weight,
        .expand_bias = expand->bias,
        .depthwise_weight = depthwise->weight,
        .depthwise_bias = depthwise->bias,
        .project_weight = project->weight,
        .project_bias = project->bias,
        .in_channels = expand->in_channels,
        .hidden = expand->out_channels,
        .out_channels = project->out_channels,
        .kernel = depthwise->kernel,
        .two_parts = two_parts(project),
    };
}

static void key(const struct cuda_unit *u, struct tuning_key *key)
{
    const struct effnet_layer *expand = layer(u, EXPAND), *depthwise = layer(u, DEPTHWISE),
                              *project = layer(u, PROJECT);
    const int64_t sizes[] = {u->network->max_batch, depthwise->in_height, depthwise->in_width,
                             expand->in_channels,   expand->out_channels, project->out_channels};
    snprintf(key->what, sizeof key->what, "mbconv %dx%d s%d pad %d%s%s", depthwise->kernel, depthwise->kernel,
             depthwise->stride, depthwise->pad_left, two_parts(project) ? ", two-part weights" : "",
             project->residual >= 0 ? ", residual" : "");
    memcpy(key->sizes, sizes, sizeof sizes);
}

static size_t lay_out(struct cuda_unit *u, unsigned char *base)
{
    const struct mbconv_layers layers = host_layers(u);
    if (base) u->weight = base;
    return cuda_aligned(mbconv_weight_bytes(&layers));
}

static int upload(const struct cuda_unit *u, const struct cuda_upload *upload, struct effnet_error *error)
{
    const struct mbconv_layers layers = host_layers(u);
    const size_t bytes = mbconv_weight_bytes(&layers);
    void *packed = malloc(bytes);
    if (!packed) return effnet_fail_nomem(error, u->layer->name, bytes);
    mbconv_pack(&layers, packed);
    const int status = cuda_upload_bytes(u->layer->name, packed, bytes, u->weight, upload, error);
    free(packed);
    return status;
}

static void arguments(const struct cuda_unit *u, const struct cuda_io *io, void *to)
{
    const struct effnet_layer *expand = layer(u, EXPAND), *depthwise = layer(u, DEPTHWISE),
                              *project = layer(u, PROJECT);
    struct mbconv_args *args = to;
    *args = (struct mbconv_args){
        .x = io->inputs[0],
        .weights = u->weight,
        .y = io->output,
        .expand_activation = cuda_activation(expand->activation),
        .depthwise_activation = cuda_activation(depthwise->activation),
        .activation = cuda_activation(project->activation),
        .n = io->images,
        .height = depthwise->in_height,
        .width = depthwise->in_width,
        .out_height = depthwise->out_height,
        .out_width = depthwise->out_width,
        .in_channels = expand->in_channels,
        .hidden = expand->out_channels,
        .out_channels = project->out_channels,
        .kernel = depthwise->kernel,
        .stride = depthwise->stride,
        .pad_top = depthwise->pad_top,
        .pad_left = depthwise->pad_left,
        .residual = project->residual >= 0,
        .two_parts = two_parts(project),
    };
}

const struct cuda_op cuda_mbconv_op = {
    .name = "mbconv",
    .when_measured = true,
    .covers = covers,
    .key = key,
    .lay_out = lay_out,
    .upload = upload,
    .family = &mbconv_kernels,
    .arguments = arguments,
};
