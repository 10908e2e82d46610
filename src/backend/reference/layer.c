/* One layer at a time by plain loops: every product and sum in double, rounded to float once, at the end.
 * Weights are first laid out with the output channel fastest, so that the innermost loop runs along memory;
 * nothing else is done for speed. */
#include "backend/reference/reference.h"
#include "common/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double effnet_reference_activation(enum effnet_activation activation, double x)
{
    /* The comparisons are such that a NaN stays one. */
    switch (activation) {
    case EFFNET_ACT_NONE: return x;
    case EFFNET_ACT_RELU: return x < 0 ? 0 : x;
    case EFFNET_ACT_RELU6: return x < 0 ? 0 : x > 6 ? 6 : x;
    case EFFNET_ACT_SILU: return x / (1 + exp(-x));
    case EFFNET_ACT_GELU:
        return 0.5 * x * erfc(-x * M_SQRT1_2); /* x Phi(x); erfc keeps the left tail's digits */
    case EFFNET_ACT_GELU_RELU: return x < 0 ? 0 : 0.5 * x * erfc(-x * M_SQRT1_2);
    case EFFNET_ACT_SIGMOID: return 1 / (1 + exp(-x));
    case EFFNET_ACT_HARDSWISH: return x * (x < -3 ? 0 : x > 3 ? 6 : x + 3) / 6;
    case EFFNET_ACT_TANH: return tanh(x);
    }
    return NAN;
}

/* One layer's weights in double: conv, pointwise and linear [kh][kw][in][out], depthwise [kh][kw][c]. */
static void transpose_weights(const struct effnet_layer *layer, double *to)
{
    size_t out = (size_t)layer->out_channels, taps = (size_t)layer->kernel * (size_t)layer->kernel;
    size_t in = layer->op == EFFNET_OP_DEPTHWISE ? 1 : (size_t)layer->in_channels;
    const float *from = layer->weight;
    for (size_t o = 0; o < out; o++)
        for (size_t i = 0; i < in; i++)
            for (size_t t = 0; t < taps; t++) to[(t * in + i) * out + o] = *from++;
}

/* sums[o] += the products of one pixel's channels with one tap's weights. */
static void add_dense(const float *pixel, const double *weight, size_t in, size_t out, double *sums)
{
    for (size_t i = 0; i < in; i++) {
        double x = pixel[i];
        for (size_t o = 0; o < out; o++) sums[o] += x * weight[i * out + o];
    }
}

/* The products under one window, whose first row and column may lie outside the image: there it is zero. */
static void sum_window(const struct effnet_layer *layer, const float *image, int top, int left,
                       const double *weight, double *sums)
{
    size_t in = (size_t)layer->in_channels, out = (size_t)layer->out_channels;
    bool depthwise = layer->op == EFFNET_OP_DEPTHWISE;
    size_t tap_size = depthwise ? out : in * out;
    for (int ky = 0; ky < layer->kernel; ky++) {
        for (int kx = 0; kx < layer->kernel; kx++) {
            int y = top + ky, x = left + kx;
            if (y < 0 || y >= layer->in_height || x < 0 || x >= layer->in_width) continue;
            const float *pixel = image + ((size_t)y * (size_t)layer->in_width + (size_t)x) * in;
            const double *tap = weight + (size_t)(ky * layer->kernel + kx) * tap_size;
            if (depthwise)
                for (size_t c = 0; c < out; c++) sums[c] += (double)pixel[c] * tap[c];
            else
                add_dense(pixel, tap, in, out, sums);
        }
    }
}

/* The whole of a layer that has weights, for one image. `sums` holds out_channels numbers. */
static void run_weighted(const struct effnet_layer *layer, const double *weight, const float *input,
                         const float *residual, bool raw, double *sums, float *output)
{
    size_t out = (size_t)layer->out_channels;
    for (int y = 0; y < layer->out_height; y++) {
        for (int x = 0; x < layer->out_width; x++) {
            size_t at = ((size_t)y * (size_t)layer->out_width + (size_t)x) * out;
            memset(sums, 0, out * sizeof *sums);
            sum_window(layer, input, y * layer->stride - layer->pad_top, x * layer->stride - layer->pad_left,
                       weight, sums);
            for (size_t o = 0; o < out; o++) {
                double value = sums[o] + (raw ? 0 : (double)layer->bias[o]) +
                               (layer->residual >= 0 ? (double)residual[at + o] : 0);
                output[at + o] = (float)(raw ? value : effnet_reference_activation(layer->activation, value));
            }
        }
    }
}

/* Mean over all pixels of one image. */
static void run_pool(const struct effnet_layer *layer, const float *input, double *sums, float *output)
{
    size_t channels = (size_t)layer->in_channels;
    size_t pixels = (size_t)layer->in_height * (size_t)layer->in_width;
    memset(sums, 0, channels * sizeof *sums);
    for (size_t p = 0; p < pixels; p++)
        for (size_t c = 0; c < channels; c++) sums[c] += input[p * channels + c];
    for (size_t c = 0; c < channels; c++) output[c] = (float)(sums[c] / (double)pixels);
}

/* One image's map times its gate. */
static void run_scale(const struct effnet_layer *layer, const float *map, const float *gate, float *output)
{
    size_t channels = (size_t)layer->in_channels;
    size_t pixels = (size_t)layer->in_height * (size_t)layer->in_width;
    for (size_t p = 0; p < pixels; p++)
        for (size_t c = 0; c < channels; c++)
            output[p * channels + c] = (float)((double)map[p * channels + c] * (double)gate[c]);
}

size_t effnet_reference_workspace_bytes(const struct effnet_layer *layer)
{
    if (layer->integer) return effnet_layer_in_size(layer, 0) * sizeof(uint16_t);
    size_t weights = layer->weight ? (size_t)(layer->parameters - layer->out_channels) : 0;
    return (weights + (size_t)layer->out_channels) * sizeof(double);
}

void effnet_reference_compute(const struct effnet_layer *layer, int n, const float *const *inputs, bool raw,
                              double *workspace, float *output)
{
    double *sums = workspace, *weight = workspace + (layer->integer ? 0 : layer->out_channels);
    size_t out_size = effnet_layer_out_size(layer);
    if (layer->weight) transpose_weights(layer, weight);
    for (size_t i = 0; i < (size_t)n; i++, output += out_size) {
        const float *x = inputs[0] + i * effnet_layer_in_size(layer, 0), *second = NULL;
        if (layer->input_count > 1) second = inputs[1] + i * effnet_layer_in_size(layer, 1);
        if (layer->integer)
            effnet_reference_integer(layer, x, second, (uint16_t *)workspace, output);
        else if (layer->op == EFFNET_OP_POOL)
            run_pool(layer, x, sums, output);
        else if (layer->op == EFFNET_OP_SCALE)
            run_scale(layer, x, second, output);
        else
            run_weighted(layer, weight, x, second, raw, sums, output);
    }
}

int effnet_reference_layer(const effnet_model *model, int index, int n, const float *const *inputs, bool raw,
                           float *output, struct effnet_error *error)
{
    if (!model || !inputs || !output || n < 1)
        return effnet_fail(error, EFFNET_E_USAGE,
                           "reference: a model, inputs, an output and n >= 1 are needed");
    int count = effnet_model_get_info(model)->layer_count;
    if (index < 0 || index >= count)
        return effnet_fail(error, EFFNET_E_USAGE, "reference: there is no layer %d, only 0 to %d", index,
                           count - 1);
    const struct effnet_layer *layer = effnet_model_layer(model, index);
    if (raw && layer->integer)
        return effnet_fail(error, EFFNET_E_USAGE,
                           "layer '%s' is of integers: it has no output without bias and activation",
                           layer->name);
    for (int i = 0; i < layer->input_count; i++)
        if (!inputs[i])
            return effnet_fail(error, EFFNET_E_USAGE, "layer '%s' takes '%s', which is missing", layer->name,
                               effnet_input_name(model, layer->inputs[i]));
    size_t size = effnet_reference_workspace_bytes(layer);
    double *workspace = malloc(size);
    if (!workspace) return effnet_fail_nomem(error, layer->name, size);
    effnet_reference_compute(layer, n, inputs, raw, workspace, output);
    free(workspace);
    return EFFNET_OK;
}

void effnet_reference_normalise(const struct effnet_preprocess *p, int n, const uint8_t *pixels,
                                float *tensor)
{
    size_t count = (size_t)n * (size_t)p->crop * (size_t)p->crop * 3;
    for (size_t i = 0; i < count; i++)
        tensor[i] = (float)(((double)pixels[i] - (double)p->mean[i % 3]) / (double)p->std[i % 3]);
}
