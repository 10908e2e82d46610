/* What a unit does through its op, and what the ops share. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/unit.h"
#include "convert.h"
#include "depthwise.h"
#include "expand_depthwise.h"
#include "first_block.h"
#include "linear.h"
#include "mbconv.h"
#include "pointwise.h"
#include "squeeze_excite.h"
#include "stem.h"

/* ---------------------------------------------------------------- units whose op is a family of kernels */

union kernel_args {
    struct depthwise_args depthwise;
    struct expand_depthwise_args expand_depthwise;
    struct first_block_args first_block;
    struct linear_args linear;
    struct mbconv_args mbconv;
    struct pointwise_args pointwise;
    struct squeeze_excite_args squeeze_excite;
    struct stem_args stem;
};

/* The arguments before there is memory: of max_batch images, every pointer aligned. */
static void arguments_anywhere(const struct cuda_unit *u, union kernel_args *args)
{
    static _Alignas(CUDA_ALIGNMENT) char anywhere[CUDA_ALIGNMENT];
    struct cuda_unit unit = *u;
    struct cuda_io io = {.output = anywhere, .sums = (float *)anywhere, .images = u->network->max_batch};
    for (int i = 0; i < u->unit.input_count; i++) io.inputs[i] = anywhere;
    cuda_unit_lay_out(&unit, (unsigned char *)anywhere);
    unit.op->arguments(&unit, &io, args);
}

static bool kernel_usable(const struct cuda_unit *u, int config)
{
    union kernel_args args;
    arguments_anywhere(u, &args);
    return kernel_fits(u->op->family, config, &args);
}

/* Of the configurations that fit, the first, or the one that is expected to be fastest. */
static int kernel_default(const struct cuda_unit *u)
{
    int best = -1;
    double best_us = INFINITY;
    union kernel_args args;
    arguments_anywhere(u, &args);
    for (int i = 0; i < kernel_count(u->op->family); i++) {
        const struct kernel_config *config = kernel_get(u->op->family, i);
        if (!kernel_fits(u->op->family, i, &args)) continue;
        const double us = config->cost_us ? config->cost_us(&args, u->network->sms) : 0;
        if (us < best_us) best_us = us, best = i;
    }
    return best;
}

/* The configuration of that name, or the default one; -1 where it cannot run. */
static int kernel_named(const struct cuda_unit *u, const char *candidate)
{
    const int config = candidate ? kernel_find(u->op->family, candidate) : kernel_default(u);
    return config >= 0 && kernel_usable(u, config) ? config : -1;
}

static int kernel_choose(struct cuda_unit *u, const char *candidate, struct effnet_error *error)
{
    u->config = kernel_named(u, candidate);
    if (u->config >= 0) return EFFNET_OK;
    return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                       "layer %s: no kernel computes %d to %d channels of %d images on this GPU",
                       u->layer->name, u->layer->in_channels, u->layer->out_channels, u->network->max_batch);
}

/* Some configurations take no fewer than so many rows: then more images than are wanted are computed. */
static int kernel_enqueue(const struct cuda_unit *u, const struct cuda_io *io, cudaStream_t stream,
                          struct effnet_error *error)
{
    const int most = u->network->max_batch;
    struct cuda_io enough = *io;
    union kernel_args args;
    u->op->arguments(u, &enough, &args);
    while (enough.images < most && !kernel_fits(u->op->family, u->config, &args)) {
        enough.images = enough.images > most / 2 ? most : 2 * enough.images;
        u->op->arguments(u, &enough, &args);
    }
    CUDA_TRY(kernel_launch(u->op->family, u->config, &args, stream), u->layer->name);
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- any unit */

unsigned cuda_op_takes(const struct cuda_op *op)
{
    return op->takes ? op->takes : CUDA_FORM(CUDA_COMPLETE);
}

unsigned cuda_op_leaves(const struct cuda_op *op, const struct cuda_network *network, int first)
{
    return op->leaves ? op->leaves(network, first) : CUDA_FORM(CUDA_COMPLETE);
}

void cuda_unit_make(struct cuda_unit *u, struct cuda_network *network, const struct cuda_op *op, int first,
                    int last, enum cuda_form input_form, enum cuda_form output_form)
{
    *u = (struct cuda_unit){.unit = effnet_unit_of(network->model, first, last),
                            .op = op,
                            .network = network,
                            .input_form = input_form,
                            .output_form = output_form,
                            .sums = -1,
                            .parts = 1};
    u->unit.raw_input = input_form == CUDA_RAW;
    u->unit.raw_output = output_form == CUDA_RAW;
    while (first < last && !effnet_model_layer(network->model, first)->weight) first++;
    u->layer = effnet_model_layer(network->model, first);
    u->last = effnet_model_layer(network->model, last);
    u->ends = last == network->info->layer_count - 1;
    size_t values = effnet_layer_out_size(u->last);
    for (int i = 0; i < u->unit.input_count; i++) values += cuda_input_size(u, i);
    u->unit.bytes_per_image = 2 * (int64_t)values;
    u->unit.weight_bytes = (int64_t)cuda_unit_lay_out(u, NULL);
    if (op->count_bytes) op->count_bytes(u);
}

void cuda_unit_key(const struct cuda_unit *u, struct tuning_key *key)
{
    *key = (struct tuning_key){.chip = u->network->chip};
    key->code = u->op->family ? effnet_kernel_code(u->op->family->name) : u->op->code ? u->op->code(u) : "";
    key->bytes = (double)(u->unit.bytes_per_image * u->network->max_batch + u->unit.weight_bytes);
    u->op->key(u, key);
}

size_t cuda_unit_lay_out(struct cuda_unit *u, unsigned char *base)
{
    if (u->op->lay_out) return u->op->lay_out(u, base);
    return u->op->weight_bytes ? cuda_lay_out_weights(u, base, u->op->weight_bytes) : 0;
}

int cuda_unit_upload(const struct cuda_unit *u, const struct cuda_upload *upload, struct effnet_error *error)
{
    if (u->op->upload) EFFNET_TRY(u->op->upload(u, upload, error));
    if (u->bias)
        CUDA_TRY(cudaMemcpyAsync(u->bias, u->layer->bias, (size_t)u->layer->out_channels * sizeof *u->bias,
                                 cudaMemcpyHostToDevice, upload->stream),
                 u->layer->name);
    return EFFNET_OK;
}

int cuda_unit_candidates(struct cuda_unit *u, cuda_candidate_visitor *visit, void *context,
                         struct effnet_error *error)
{
    if (u->op->candidates) return u->op->candidates(u, visit, context, error);
    if (!u->op->family) return visit(u->op->name, context, error);
    for (int i = 0; i < kernel_count(u->op->family); i++)
        if (kernel_usable(u, i)) EFFNET_TRY(visit(kernel_get(u->op->family, i)->name, context, error));
    return EFFNET_OK;
}

bool cuda_unit_usable(const struct cuda_unit *u, const char *candidate)
{
    if (u->op->family) return kernel_named(u, candidate) >= 0;
    return u->op->usable ? u->op->usable(u, candidate) : !candidate || !strcmp(candidate, u->op->name);
}

int cuda_unit_choose(struct cuda_unit *u, const char *candidate, struct effnet_error *error)
{
    if (u->op->family) EFFNET_TRY(kernel_choose(u, candidate, error));
    if (u->op->choose) EFFNET_TRY(u->op->choose(u, candidate, error));
    u->unit.kernel = u->kernel;
    if (u->op->describe)
        u->op->describe(u);
    else if (u->op->family)
        snprintf(u->kernel, sizeof u->kernel, "%s %s", u->op->name,
                 kernel_get(u->op->family, u->config)->name);
    else
        snprintf(u->kernel, sizeof u->kernel, "%s", u->op->name);
    return EFFNET_OK;
}

int cuda_unit_enqueue(const struct cuda_unit *u, const struct cuda_io *io, cudaStream_t stream,
                      struct effnet_error *error)
{
    return u->op->family ? kernel_enqueue(u, io, stream, error) : u->op->enqueue(u, io, stream, error);
}

void cuda_unit_release(struct cuda_unit *u, bool abandoned)
{
    if (u->op && u->op->release) u->op->release(u, abandoned);
}

/* ---------------------------------------------------------------- what ops share */

size_t cuda_input_size(const struct cuda_unit *u, int input)
{
    const struct effnet_model_info *info = u->network->info;
    if (u->unit.inputs[input] == EFFNET_IMAGE)
        return (size_t)info->height * (size_t)info->width * (size_t)info->channels;
    return effnet_layer_out_size(effnet_model_layer(u->network->model, u->unit.inputs[input]));
}

size_t cuda_weight_count(const struct effnet_layer *layer)
{
    return layer->weight ? (size_t)(layer->parameters - layer->out_channels) : 0;
}

size_t cuda_lay_out_weights(struct cuda_unit *u, unsigned char *base, size_t weight_bytes)
{
    const size_t weights = cuda_aligned(weight_bytes * cuda_weight_count(u->layer));
    const size_t bias = cuda_aligned(sizeof(float) * (size_t)u->layer->out_channels);
    if (base) u->weight = base;
    if (base) u->bias = (float *)(base + weights);
    return weights + bias;
}

int cuda_upload_bytes(const char *layer, const void *from, size_t bytes, void *device,
                      const struct cuda_upload *upload, struct effnet_error *error)
{
    CUDA_TRY(cudaMemcpyAsync(device, from, bytes, cudaMemcpyHostToDevice, upload->stream), layer);
    return EFFNET_OK;
}

int cuda_upload_fp16(const struct effnet_layer *layer, const float *weights, void *device,
                     const struct cuda_upload *upload, struct effnet_error *error)
{
    const size_t count = cuda_weight_count(layer);
    const struct convert_args args = {.x = upload->staging,
                                      .y = device,
                                      .rows = layer->out_channels,
                                      .columns = (int)(count / (size_t)layer->out_channels)};
    EFFNET_TRY(
        cuda_upload_bytes(layer->name, weights, count * sizeof *weights, upload->staging, upload, error));
    CUDA_TRY(convert_weights_launch(&args, upload->stream), layer->name);
    return EFFNET_OK;
}

float *cuda_transposed_weights(const struct effnet_layer *layer, struct effnet_error *error)
{
    const size_t rows = (size_t)layer->out_channels, columns = cuda_weight_count(layer) / rows;
    float *transposed = malloc(rows * columns * sizeof *transposed);
    if (!transposed) effnet_fail_nomem(error, layer->name, rows * columns * sizeof *transposed);
    for (size_t r = 0; transposed && r < rows; r++)
        for (size_t c = 0; c < columns; c++) transposed[c * rows + r] = layer->weight[r * columns + c];
    return transposed;
}

int cuda_upload_split(const char *layer, const float *values, size_t count, void *device,
                      const struct cuda_upload *upload, struct effnet_error *error)
{
    EFFNET_TRY(cuda_upload_bytes(layer, values, count * sizeof *values, upload->staging, upload, error));
    CUDA_TRY(convert_split_launch(upload->staging, device, (unsigned char *)device + 2 * count, (int)count,
                                  upload->stream),
             layer);
    return EFFNET_OK;
}
