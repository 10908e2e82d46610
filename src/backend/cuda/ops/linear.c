/* A fully connected layer; the last one's output is in fp32. */
#include "linear.h"

#include <stdio.h>
#include <string.h>

#include "backend/cuda/ops/ops.h"

static unsigned covers(const struct cuda_network *network, int first)
{
    return effnet_model_layer(network->model, first)->op == EFFNET_OP_LINEAR ? CUDA_COVERS(1) : 0;
}

static void count_bytes(struct cuda_unit *u)
{
    if (u->ends) u->unit.bytes_per_image += 2 * (int64_t)effnet_layer_out_size(u->layer);
}

static void key(const struct cuda_unit *u, struct tuning_key *key)
{
    const int64_t sizes[] = {u->network->max_batch, u->layer->in_channels, u->layer->out_channels};
    snprintf(key->what, sizeof key->what, "linear %s%s", effnet_activation_name(u->layer->activation),
             u->ends ? ", fp32" : "");
    memcpy(key->sizes, sizes, sizeof sizes);
}

static int upload(const struct cuda_unit *u, const struct cuda_upload *upload, struct effnet_error *error)
{
    return cuda_upload_fp16(u->layer, u->layer->weight, u->weight, upload, error);
}

static void arguments(const struct cuda_unit *u, const struct cuda_io *io, void *to)
{
    const struct effnet_layer *l = u->layer;
    struct linear_args *args = to;
    *args = (struct linear_args){
        .x = io->inputs[0],
        .w = u->weight,
        .shift = u->bias,
        .y = io->output,
        .m = io->images,
        .n = l->out_channels,
        .k = l->in_channels,
        .ldx = l->in_channels,
        .ldw = l->in_channels,
        .ldy = l->out_channels,
        .x_type = LINEAR_FP16,
        .y_type = u->ends ? LINEAR_FP32 : LINEAR_FP16,
        .activation = cuda_activation(l->activation),
    };
}

const struct cuda_op cuda_linear_op = {
    .name = "linear",
    .in_plan_cudnn = true,
    .covers = covers,
    .count_bytes = count_bytes,
    .key = key,
    .weight_bytes = 2,
    .upload = upload,
    .family = &linear_kernels,
    .arguments = arguments,
};
