/* The average over an image's pixels. */
#include "pool.h"

#include <stdio.h>
#include <string.h>

#include "backend/cuda/ops/ops.h"

static unsigned covers(const struct cuda_network *network, int first)
{
    return effnet_model_layer(network->model, first)->op == EFFNET_OP_POOL ? CUDA_COVERS(1) : 0;
}

static void key(const struct cuda_unit *u, struct tuning_key *key)
{
    const int64_t sizes[] = {u->network->max_batch, (int64_t)u->layer->in_height * u->layer->in_width,
                             u->layer->in_channels};
    snprintf(key->what, sizeof key->what, "pool");
    memcpy(key->sizes, sizes, sizeof sizes);
}

static int enqueue(const struct cuda_unit *u, const struct cuda_io *io, cudaStream_t stream,
                   struct effnet_error *error)
{
    const struct pool_args args = {.x = io->inputs[0],
                                   .y = io->output,
                                   .n = io->images,
                                   .pixels = u->layer->in_height * u->layer->in_width,
                                   .channels = u->layer->in_channels};
    CUDA_TRY(pool_launch(&args, stream), u->layer->name);
    return EFFNET_OK;
}

const struct cuda_op cuda_pool_op = {
    .name = "pool",
    .in_plan_cudnn = true,
    .covers = covers,
    .key = key,
    .enqueue = enqueue,
};
