/* One convolution through cuDNN, dense or depthwise, without bias and activation. Where a pointwise layer
 * follows, that applies them to its input as it is loaded; elsewhere a small kernel does, in place. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cudnn/conv.h"
#include "backend/cuda/ops/ops.h"
#include "bias_act.h"

static unsigned covers(const struct cuda_network *network, int first)
{
    const enum effnet_op op = effnet_model_layer(network->model, first)->op;
    const bool convolution = op == EFFNET_OP_CONV || op == EFFNET_OP_DEPTHWISE;
    return convolution && !network->without_cudnn ? CUDA_COVERS(1) : 0;
}

/* To leave bias and activation out, the layer behind must be pointwise, nobody else may read the output, and
 * its prologue clamps from 0. */
static unsigned leaves(const struct cuda_network *network, int first)
{
    const struct effnet_layer *layer = effnet_model_layer(network->model, first);
    if (layer->last_reader == first + 1 && cuda_clamps_from_0(layer)) {
        const struct effnet_layer *next = effnet_model_layer(network->model, first + 1);
        if (next->op == EFFNET_OP_POINTWISE && next->residual != first) return CUDA_FORM(CUDA_RAW);
    }
    return CUDA_FORM(CUDA_COMPLETE) | (cuda_squeezed(network, first) ? CUDA_FORM(CUDA_SUMMED) : 0);
}

static void count_bytes(struct cuda_unit *u)
{
    if (u->output_form != CUDA_RAW)
        u->unit.bytes_per_image += 4 * (int64_t)effnet_layer_out_size(u->layer); /* in place */
}

/* What comes behind cuDNN's kernel, in words. */
static const char *finish_name(const struct cuda_unit *u)
{
    static const char *const names[CUDA_FORMS] = {" + bias_act", "", " + bias_act with sums"};
    return names[u->output_form];
}

static void key(const struct cuda_unit *u, struct tuning_key *key)
{
    const struct effnet_layer *l = u->layer;
    const int64_t sizes[] = {u->network->max_batch, l->out_height, l->out_width, l->in_channels,
                             l->out_channels};
    snprintf(key->what, sizeof key->what, "%s %dx%d s%d%s",
             l->op == EFFNET_OP_CONV ? "conv" : "conv depthwise", l->kernel, l->kernel, l->stride,
             finish_name(u));
    memcpy(key->sizes, sizes, sizeof sizes);
}

/* A dense convolution's weights are [out][in][kh][kw] in the file, cuDNN's [out][kh][kw][in]. (A depthwise
 * layer has one input channel a filter.) */
static int upload(const struct cuda_unit *u, const struct cuda_upload *upload, struct effnet_error *error)
{
    const struct effnet_layer *l = u->layer;
    const size_t bytes = cuda_weight_count(l) * sizeof(float);
    float *reordered = malloc(bytes);
    if (!reordered) return effnet_fail_nomem(error, l->name, bytes);
    const int taps = l->kernel * l->kernel, in = l->op == EFFNET_OP_CONV ? l->in_channels : 1;
    for (int o = 0; o < l->out_channels; o++)
        for (int i = 0; i < in; i++)
            for (int t = 0; t < taps; t++)
                reordered[((size_t)o * taps + t) * in + i] = l->weight[((size_t)o * in + i) * taps + t];
    int status = cuda_upload_fp16(l, reordered, u->weight, upload, error);
    free(reordered);
    return status;
}

/* ---------------------------------------------------------------- cuDNN */

static int open_conv(struct cuda_unit *u, struct effnet_error *error)
{
    const struct effnet_layer *l = u->layer;
    const struct cudnn_conv_shape shape = {
        .n = u->network->max_batch, /* of every pass, so that an image has the same bits in all of them */
        .h = l->in_height,
        .w = l->in_width,
        .c_in = l->in_channels,
        .out_h = l->out_height,
        .out_w = l->out_width,
        .c_out = l->out_channels,
        .groups = l->op == EFFNET_OP_DEPTHWISE ? l->in_channels : 1,
        .kernel = l->kernel,
        .stride = l->stride,
        .pad_top = l->pad_top,
        .pad_left = l->pad_left,
        .pad_bottom = l->pad_bottom,
        .pad_right = l->pad_right,
    };
    if (!u->network->cudnn) EFFNET_TRY(cudnn_context_open(&u->network->cudnn, error));
    return u->conv
               ? EFFNET_OK
               : cudnn_conv_open(u->network->cudnn, &shape, l->name, CUDA_WORKSPACE_MOST, &u->conv, error);
}

static int candidates(struct cuda_unit *u, cuda_candidate_visitor *visit, void *context,
                      struct effnet_error *error)
{
    EFFNET_TRY(open_conv(u, error));
    return cudnn_conv_candidates(u->conv, visit, context, error);
}

static bool usable(const struct cuda_unit *u, const char *candidate)
{
    (void)u;
    struct cudnn_config config;
    return !candidate || cudnn_config_parse(candidate, &config);
}

static struct bias_act_args finish_arguments(const struct cuda_unit *u, const struct cuda_io *io)
{
    const struct effnet_layer *l = u->layer;
    return (struct bias_act_args){.x = io->output,
                                  .y = io->output,
                                  .bias = u->bias,
                                  .sums = u->output_form == CUDA_SUMMED ? io->sums : NULL,
                                  .rows = (int64_t)io->images * l->out_height * l->out_width,
                                  .rows_per_image = l->out_height * l->out_width,
                                  .channels = l->out_channels,
                                  .activation = cuda_activation(l->activation)};
}

static int choose(struct cuda_unit *u, const char *candidate, struct effnet_error *error)
{
    EFFNET_TRY(open_conv(u, error));
    EFFNET_TRY(cudnn_conv_choose(u->conv, candidate, error));
    u->unit.workspace_bytes = cudnn_conv_workspace_bytes(u->conv);
    const struct cuda_io io = {.images = u->network->max_batch};
    const struct bias_act_args args = finish_arguments(u, &io);
    u->parts = bias_act_sum_parts(&args);
    return EFFNET_OK;
}

static int enqueue(const struct cuda_unit *u, const struct cuda_io *io, cudaStream_t stream,
                   struct effnet_error *error)
{
    const struct effnet_layer *l = u->layer;
    EFFNET_TRY(cudnn_conv_run(u->conv, io->inputs[0], u->weight, io->output,
                              u->unit.workspace_bytes ? io->workspace : NULL, stream, error));
    if (u->output_form == CUDA_RAW) return EFFNET_OK;
    const struct bias_act_args args = finish_arguments(u, io);
    CUDA_TRY(bias_act_launch(&args, stream), l->name);
    return EFFNET_OK;
}

static void release(struct cuda_unit *u, bool abandoned)
{
    cudnn_conv_close(u->conv, abandoned);
    u->conv = NULL;
}

static const char *code(const struct cuda_unit *u)
{
    return u->network->cudnn ? cudnn_context_name(u->network->cudnn) : "";
}

static void describe(struct cuda_unit *u)
{
    snprintf(u->kernel, sizeof u->kernel, "cuDNN %s%s", cudnn_conv_engine(u->conv), finish_name(u));
}

const struct cuda_op cuda_conv_op = {
    .name = "conv",
    .in_plan_cudnn = true,
    .covers = covers,
    .leaves = leaves,
    .count_bytes = count_bytes,
    .key = key,
    .weight_bytes = 2,
    .upload = upload,
    .candidates = candidates,
    .usable = usable,
    .choose = choose,
    .enqueue = enqueue,
    .release = release,
    .code = code,
    .describe = describe,
};
