/* A depthwise convolution by our own kernel, bias and activation with it. */
#include "depthwise.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/ops/ops.h"

static unsigned covers(const struct cuda_network *network, int first)
{
    const struct effnet_layer *l = effnet_model_layer(network->model, first);
    return l->op == EFFNET_OP_DEPTHWISE && (l->kernel == 3 || l->kernel == 5) && l->stride <= 2
               ? CUDA_COVERS(1)
               : 0;
}

static unsigned leaves(const struct cuda_network *network, int first)
{
    return CUDA_FORM(CUDA_COMPLETE) | (cuda_squeezed(network, first) ? CUDA_FORM(CUDA_SUMMED) : 0);
}

static void key(const struct cuda_unit *u, struct tuning_key *key)
{
    const struct effnet_layer *l = u->layer;
    const int64_t sizes[] = {u->network->max_batch, l->out_height, l->out_width, l->out_channels};
    snprintf(key->what, sizeof key->what, "depthwise %dx%d s%d%s%s", l->kernel, l->kernel, l->stride,
             cuda_clamps(l) ? "" : ", silu", u->output_form == CUDA_SUMMED ? ", sums" : "");
    memcpy(key->sizes, sizes, sizeof sizes);
}

/* The weights, [channel][1][kh][kw] in the file, are the kernel's [kh][kw][channel], in fp32. */
static int upload(const struct cuda_unit *u, const struct cuda_upload *upload, struct effnet_error *error)
{
    const struct effnet_layer *l = u->layer;
    float *reordered = cuda_transposed_weights(l, error);
    if (!reordered) return EFFNET_E_NOMEM;
    const int status = cuda_upload_bytes(l->name, reordered, cuda_weight_count(l) * sizeof *reordered,
                                         u->weight, upload, error);
    free(reordered);
    return status;
}

static void arguments(const struct cuda_unit *u, const struct cuda_io *io, void *to)
{
    const struct effnet_layer *l = u->layer;
    struct depthwise_args *args = to;
    *args = (struct depthwise_args){
        .x = io->inputs[0],
        .w = u->weight,
        .bias = u->bias,
        .y = io->output,
        .sums = u->output_form == CUDA_SUMMED ? io->sums : NULL,
        .n = io->images,
        .planned_n = u->network->max_batch,
        .channels = l->out_channels,
        .height = l->in_height,
        .width = l->in_width,
        .out_height = l->out_height,
        .out_width = l->out_width,
        .kernel = l->kernel,
        .stride = l->stride,
        .pad_top = l->pad_top,
        .pad_left = l->pad_left,
        .activation = cuda_activation(l->activation),
    };
}

static int choose(struct cuda_unit *u, const char *candidate, struct effnet_error *error)
{
    (void)candidate, (void)error; /* the configuration is chosen already */
    struct depthwise_args args;
    arguments(u, &(struct cuda_io){.images = u->network->max_batch}, &args);
    if (u->output_form == CUDA_SUMMED) u->parts = depthwise_sum_parts(u->config, &args);
    return EFFNET_OK;
}

const struct cuda_op cuda_depthwise_op = {
    .name = "depthwise",
    .covers = covers,
    .leaves = leaves,
    .key = key,
    .weight_bytes = sizeof(float),
    .upload = upload,
    .family = &depthwise_kernels,
    .arguments = arguments,
    .choose = choose,
};
