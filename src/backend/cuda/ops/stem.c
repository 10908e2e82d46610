/* The stem by our own kernel, from pixels on. Its weights hold the normalisation of the pixels. */
#include "stem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/ops/ops.h"

static struct stem_layer host_layer(const struct cuda_network *network, int first)
{
    const struct effnet_layer *l = effnet_model_layer(network->model, first);
    struct stem_layer layer = {.weight = l->weight,
                               .bias = l->bias,
                               .channels = l->out_channels,
                               .pad_top = l->pad_top,
                               .pad_left = l->pad_left};
    memcpy(layer.mean, network->info->preprocess.mean, sizeof layer.mean);
    memcpy(layer.std, network->info->preprocess.std, sizeof layer.std);
    return layer;
}

static unsigned covers(const struct cuda_network *network, int first)
{
    const struct effnet_layer *l = effnet_model_layer(network->model, first);
    if (l->op != EFFNET_OP_CONV || l->inputs[0] != EFFNET_IMAGE || l->in_channels != 3 || l->kernel != 3 ||
        l->stride != 2 || !stem_weight_bytes(l->out_channels))
        return 0;
    const struct stem_layer layer = host_layer(network, first);
    return stem_weights_fit(&layer) ? CUDA_COVERS(1) : 0;
}

/* Pixels are bytes. */
static void count_bytes(struct cuda_unit *u)
{
    u->unit.bytes_per_image -= (int64_t)cuda_input_size(u, 0);
}

static void key(const struct cuda_unit *u, struct tuning_key *key)
{
    const int64_t sizes[] = {u->network->max_batch, u->layer->in_height, u->layer->in_width,
                             u->layer->out_channels};
    snprintf(key->what, sizeof key->what, "stem%s", cuda_clamps(u->layer) ? "" : ", silu");
    memcpy(key->sizes, sizes, sizeof sizes);
}

static size_t lay_out(struct cuda_unit *u, unsigned char *base)
{
    if (base) u->weight = base;
    return cuda_aligned(stem_weight_bytes(u->layer->out_channels));
}

static int upload(const struct cuda_unit *u, const struct cuda_upload *upload, struct effnet_error *error)
{
    const struct stem_layer layer = host_layer(u->network, u->unit.first);
    const size_t bytes = stem_weight_bytes(layer.channels);
    void *packed = malloc(bytes);
    if (!packed) return effnet_fail_nomem(error, u->layer->name, bytes);
    stem_pack(&layer, packed);
    const int status = cuda_upload_bytes(u->layer->name, packed, bytes, u->weight, upload, error);
    free(packed);
    return status;
}

static void arguments(const struct cuda_unit *u, const struct cuda_io *io, void *to)
{
    const struct effnet_layer *l = u->layer;
    struct stem_args *args = to;
    *args = (struct stem_args){
        .pixels = io->inputs[0],
        .weights = u->weight,
        .y = io->output,
        .activation = cuda_activation(l->activation),
        .n = io->images,
        .height = l->in_height,
        .width = l->in_width,
        .out_height = l->out_height,
        .out_width = l->out_width,
        .channels = l->out_channels,
        .pad_top = l->pad_top,
        .pad_left = l->pad_left,
    };
}

const struct cuda_op cuda_stem_op = {
    .name = "stem",
    .from_pixels = true,
    .covers = covers,
    .count_bytes = count_bytes,
    .key = key,
    .lay_out = lay_out,
    .upload = upload,
    .family = &stem_kernels,
    .arguments = arguments,
};
