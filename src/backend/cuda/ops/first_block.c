/* Stem, depthwise and project in one kernel, from pixels on: the first three layers of an EfficientNet. Its
 * weights hold the normalisation of the pixels. */
#include "first_block.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/ops/ops.h"

enum { STEM, DEPTHWISE, PROJECT, LAYERS };

static struct first_block_layers host_layers(const struct cuda_network *network, int first)
{
    const struct effnet_layer *stem = effnet_model_layer(network->model, first + STEM),
                              *depthwise = effnet_model_layer(network->model, first + DEPTHWISE),
                              *project = effnet_model_layer(network->model, first + PROJECT);
    struct first_block_layers layers = {
        .stem_weight = stem->weight,
        .stem_bias = stem->bias,
        .depthwise_weight = depthwise->weight,
        .depthwise_bias = depthwise->bias,
        .project_weight = project->weight,
        .project_bias = project->bias,
        .stem_activation = cuda_activation(stem->activation),
        .depthwise_activation = cuda_activation(depthwise->activation),
        .pad_top = stem->pad_top,
        .pad_left = stem->pad_left,
    };
    memcpy(layers.mean, network->info->preprocess.mean, sizeof layers.mean);
    memcpy(layers.std, network->info->preprocess.std, sizeof layers.std);
    return layers;
}

static unsigned covers(const struct cuda_network *network, int first)
{
    if (first + LAYERS >= network->info->layer_count) return 0; /* the last layer's output is fp32 */
    const struct effnet_layer *stem = effnet_model_layer(network->model, first + STEM),
                              *depthwise = effnet_model_layer(network->model, first + DEPTHWISE),
                              *project = effnet_model_layer(network->model, first + PROJECT);
    const bool match = stem->inputs[0] == EFFNET_IMAGE && depthwise->inputs[0] == first + STEM &&
                       project->inputs[0] == first + DEPTHWISE && stem->op == EFFNET_OP_CONV &&
                       stem->in_channels == 3 && stem->out_channels == FIRST_BLOCK_MIDDLE &&
                       stem->kernel == 3 && stem->stride == 2 && cuda_clamps_from_0(stem) &&
                       depthwise->op == EFFNET_OP_DEPTHWISE && depthwise->kernel == 3 &&
                       depthwise->stride == 1 && depthwise->pad_top == 1 && depthwise->pad_left == 1 &&
                       depthwise->pad_bottom == 1 && depthwise->pad_right == 1 &&
                       cuda_clamps_from_0(depthwise) && project->op == EFFNET_OP_POINTWISE &&
                       project->out_channels == FIRST_BLOCK_OUT && project->residual < 0 &&
                       cuda_clamps(project);
    if (!match) return 0;
    const struct first_block_layers layers = host_layers(network, first);
    return first_block_weights_fit(&layers) ? CUDA_COVERS(LAYERS) : 0;
}

static void count_bytes(struct cuda_unit *u)
{
    u->unit.bytes_per_image -= (int64_t)cuda_input_size(u, 0);
}

static void key(const struct cuda_unit *u, struct tuning_key *key)
{
    const int64_t sizes[] = {u->network->max_batch, u->layer->in_height, u->layer->in_width};
    snprintf(key->what, sizeof key->what, "first block");
    memcpy(key->sizes, sizes, sizeof sizes);
}

static size_t lay_out(struct cuda_unit *u, unsigned char *base)
{
    if (base) u->weight = base;
    return cuda_aligned(first_block_weight_bytes());
}

static int upload(const struct cuda_unit *u, const struct cuda_upload *upload, struct effnet_error *error)
{
    const struct first_block_layers layers = host_layers(u->network, u->unit.first);
    void *packed = malloc(first_block_weight_bytes());
    if (!packed) return effnet_fail_nomem(error, u->layer->name, first_block_weight_bytes());
    first_block_pack(&layers, packed);
    const int status = cuda_upload_bytes(u->layer->name, packed, first_block_weight_bytes(), u->weight,
                                         upload, error);
    free(packed);
    return status;
}

static void arguments(const struct cuda_unit *u, const struct cuda_io *io, void *to)
{
    const struct first_block_layers layers = host_layers(u->network, u->unit.first);
    struct first_block_args *args = to;
    *args = (struct first_block_args){
        .pixels = io->inputs[0],
        .weights = u->weight,
        .y = io->output,
        .stem_activation = layers.stem_activation,
        .depthwise_activation = layers.depthwise_activation,
        .activation = cuda_activation(u->last->activation),
        .n = io->images,
        .height = u->layer->in_height,
        .width = u->layer->in_width,
        .out_height = u->last->out_height,
        .out_width = u->last->out_width,
        .pad_top = layers.pad_top,
        .pad_left = layers.pad_left,
    };
}

static void describe(struct cuda_unit *u)
{
    snprintf(u->kernel, sizeof u->kernel, "first block %s",
             kernel_get(&first_block_kernels, u->config)->name);
}

const struct cuda_op cuda_first_block_op = {
    .name = "first_block",
    .from_pixels = true,
    .covers = covers,
    .count_bytes = count_bytes,
    .key = key,
    .lay_out = lay_out,
    .upload = upload,
    .family = &first_block_kernels,
    .arguments = arguments,
    .describe = describe,
};
