/* Squeeze-and-excite up to its gate: the means over a map, of which the unit before has left the sums, and
 * the two linear layers behind them. */
#include "squeeze_excite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/ops/ops.h"

enum { POOL, REDUCE, EXPAND, LAYERS };

static unsigned covers(const struct cuda_network *network, int first)
{
    if (first == 0 || first + LAYERS >= network->info->layer_count)
        return 0; /* the last one's output is fp32 */
    const struct effnet_layer *pool = effnet_model_layer(network->model, first + POOL),
                              *reduce = effnet_model_layer(network->model, first + REDUCE),
                              *expand = effnet_model_layer(network->model, first + EXPAND);
    const bool match = pool->op == EFFNET_OP_POOL && pool->inputs[0] == first - 1 &&
                       reduce->op == EFFNET_OP_LINEAR && reduce->inputs[0] == first + POOL &&
                       reduce->residual < 0 && expand->op == EFFNET_OP_LINEAR &&
                       expand->inputs[0] == first + REDUCE && expand->residual < 0 &&
                       expand->out_channels == pool->in_channels;
    return match ? CUDA_COVERS(LAYERS) : 0;
}

bool cuda_squeezed(const struct cuda_network *network, int map)
{
    const int layers = network->info->layer_count;
    return map + 1 < layers && covers(network, map + 1) &&
           effnet_model_layer(network->model, map + 1 + POOL)->last_reader == map + 1 + REDUCE &&
           effnet_model_layer(network->model, map + 1 + REDUCE)->last_reader == map + 1 + EXPAND;
}

static const struct effnet_layer *layer(const struct cuda_unit *u, int index)
{
    return effnet_model_layer(u->network->model, u->unit.first + index);
}

static int64_t pixels(const struct cuda_unit *u)
{
    return (int64_t)layer(u, POOL)->in_height * layer(u, POOL)->in_width;
}

/* It reads sums, not the map. */
static void count_bytes(struct cuda_unit *u)
{
    u->unit.bytes_per_image += 4 * (int64_t)layer(u, POOL)->in_channels - 2 * (int64_t)cuda_input_size(u, 0);
}

static void key(const struct cuda_unit *u, struct tuning_key *key)
{
    const int64_t sizes[] = {u->network->max_batch, layer(u, POOL)->in_channels,
                             layer(u, REDUCE)->out_channels, layer(u, EXPAND)->out_channels, pixels(u)};
    snprintf(key->what, sizeof key->what, "squeeze_excite");
    memcpy(key->sizes, sizes, sizeof sizes);
}

/* Where on the device each part lies, from the start; and the bytes of all. */
struct layout {
    size_t reduce_weight, reduce_bias, expand_weight, expand_bias, bytes;
};

static struct layout layout(const struct cuda_unit *u)
{
    const struct effnet_layer *reduce = layer(u, REDUCE), *expand = layer(u, EXPAND);
    struct layout l = {.reduce_weight = 0};
    l.reduce_bias = l.reduce_weight + cuda_aligned(2 * cuda_weight_count(reduce));
    l.expand_weight = l.reduce_bias + cuda_aligned(sizeof(float) * (size_t)reduce->out_channels);
    l.expand_bias = l.expand_weight + cuda_aligned(2 * cuda_weight_count(expand));
    l.bytes = l.expand_bias + cuda_aligned(sizeof(float) * (size_t)expand->out_channels);
    return l;
}

static size_t lay_out(struct cuda_unit *u, unsigned char *base)
{
    if (base) u->weight = base;
    return layout(u).bytes;
}

static int upload_bias(const struct effnet_layer *l, unsigned char *bias, const struct cuda_upload *upload,
                       struct effnet_error *error)
{
    CUDA_TRY(cudaMemcpyAsync(bias, l->bias, sizeof *l->bias * (size_t)l->out_channels, cudaMemcpyHostToDevice,
                             upload->stream),
             l->name);
    return EFFNET_OK;
}

/* The kernel wants both layers' weights with the map's channels innermost. */
static int upload(const struct cuda_unit *u, const struct cuda_upload *upload, struct effnet_error *error)
{
    const struct effnet_layer *reduce = layer(u, REDUCE), *expand = layer(u, EXPAND);
    const struct layout at = layout(u);
    unsigned char *base = u->weight;
    EFFNET_TRY(cuda_upload_fp16(reduce, reduce->weight, base + at.reduce_weight, upload, error));
    EFFNET_TRY(upload_bias(reduce, base + at.reduce_bias, upload, error));
    EFFNET_TRY(upload_bias(expand, base + at.expand_bias, upload, error));
    float *transposed = cuda_transposed_weights(expand, error);
    if (!transposed) return EFFNET_E_NOMEM;
    const int status = cuda_upload_fp16(expand, transposed, base + at.expand_weight, upload, error);
    free(transposed);
    return status;
}

static void arguments(const struct cuda_unit *u, const struct cuda_io *io, void *to)
{
    const struct layout at = layout(u);
    const unsigned char *base = u->weight;
    struct squeeze_excite_args *args = to;
    *args = (struct squeeze_excite_args){
        .sums = io->sums,
        .parts = u->parts,
        .mean_factor = 1.0f / (float)pixels(u),
        .reduce_w = base + at.reduce_weight,
        .reduce_bias = (const float *)(base + at.reduce_bias),
        .expand_w = base + at.expand_weight,
        .expand_bias = (const float *)(base + at.expand_bias),
        .reduce_activation = cuda_activation(layer(u, REDUCE)->activation),
        .expand_activation = cuda_activation(layer(u, EXPAND)->activation),
        .gate = io->output,
        .n = io->images,
        .channels = layer(u, POOL)->in_channels,
        .reduced = layer(u, REDUCE)->out_channels,
    };
}

const struct cuda_op cuda_squeeze_excite_op = {
    .name = "squeeze_excite",
    .in_plan_cudnn = true,
    .takes = CUDA_FORM(CUDA_SUMMED),
    .covers = covers,
    .count_bytes = count_bytes,
    .key = key,
    .lay_out = lay_out,
    .upload = upload,
    .family = &squeeze_excite_kernels,
    .arguments = arguments,
};
