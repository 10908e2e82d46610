/* Layers of integer networks by plain loops, as docs/weights-format.md defines them. Tensors come and go as
 * the floats that their steps stand for, and a step's float tells the step again. */
#include "backend/reference/reference.h"

#include <math.h>

/* The nearest step from 0 to most; of NaN one of them. */
static uint16_t to_step(double step, int most)
{
    return (uint16_t)fmin(most, fmax(0, rint(step)));
}

/* The step that `value` = scale * (step - zero) came from, from 0 to most. */
static uint16_t step_of(float value, float scale, int zero, int most)
{
    return to_step(rint((double)value / (double)scale) + zero, most);
}

/* The pixels that were normalised. */
static void load_image(const struct effnet_preprocess *p, const float *from, size_t count, uint16_t *to)
{
    for (size_t i = 0; i < count; i++)
        to[i] = to_step((double)from[i] * (double)p->std[i % 3] + (double)p->mean[i % 3], EFFNET_MOST_BYTE);
}

static void load(const struct effnet_layer *layer, const float *from, uint16_t *to)
{
    const struct effnet_integer *integer = layer->integer;
    const size_t count = effnet_layer_in_size(layer, 0);
    if (integer->image) {
        load_image(integer->image, from, count, to);
        return;
    }
    for (size_t i = 0; i < count; i++)
        to[i] = step_of(from[i], integer->in_scale, integer->in_zero[0], integer->in_most);
}

/* The sum of output channel `o` under one window, whose first row and column may lie outside the map: there
 * the products are zero. */
static int32_t sum_window(const struct effnet_layer *layer, const uint16_t *map, int top, int left, int o)
{
    const struct effnet_integer *integer = layer->integer;
    const bool depthwise = layer->op == EFFNET_OP_DEPTHWISE;
    const int taps = layer->kernel * layer->kernel, in = layer->in_channels;
    const int first = depthwise ? o : 0, end = depthwise ? o + 1 : in;
    const int8_t *weight = integer->weight + (size_t)o * (size_t)(end - first) * (size_t)taps;
    int32_t sum = integer->bias[o];
    for (int t = 0; t < taps; t++) {
        const int y = top + t / layer->kernel, x = left + t % layer->kernel;
        if (y < 0 || y >= layer->in_height || x < 0 || x >= layer->in_width) continue;
        const uint16_t *pixel = map + ((size_t)y * (size_t)layer->in_width + (size_t)x) * (size_t)in;
        for (int c = first; c < end; c++)
            sum += ((int32_t)pixel[c] - integer->in_zero[c % 3]) * weight[(c - first) * taps + t];
    }
    return sum;
}

/* e^-x as the format defines it: the same bits everywhere. */
static float exp_minus(float x)
{
    const float t = fminf(80, fmaxf(-80, -x)), n = rintf(t * 0x1.715476p+0f);
    const float r = fmaf(n, 0x1.05c610p-29f, fmaf(n, -0x1.62e430p-1f, t));
    float sum = 1.0f / 120;
    sum = fmaf(sum, r, 1.0f / 24);
    sum = fmaf(sum, r, 1.0f / 6);
    sum = fmaf(sum, r, 0.5f);
    sum = fmaf(sum, r, 1);
    sum = fmaf(sum, r, 1);
    return ldexpf(sum, (int)n);
}

static float activate(enum effnet_activation activation, float x)
{
    switch (activation) {
    case EFFNET_ACT_RELU: return x < 0 ? 0 : x;
    case EFFNET_ACT_RELU6: return x < 0 ? 0 : x > 6 ? 6 : x;
    case EFFNET_ACT_SILU: return x / (1 + exp_minus(x));
    case EFFNET_ACT_SIGMOID: return 1 / (1 + exp_minus(x));
    default: return x;
    }
}

/* A sum in output steps, clipped, as the float that it stands for. `added` is the residual's step. */
static float finish(const struct effnet_layer *layer, int32_t sum, int o, int added)
{
    enum { MOST_STEPS = 1 << 20 };
    const struct effnet_integer *integer = layer->integer;
    const float product = (float)sum * integer->multiplier[o];
    if (integer->out_scale == 0) return activate(layer->activation, product);
    float steps = product;
    if (layer->residual >= 0)
        steps = fmaf((float)(added - integer->second_zero), integer->residual_multiplier, product);
    if (integer->gain)
        steps = fminf(MOST_STEPS, activate(layer->activation, product) * integer->out_multiplier[o]);
    double step = rint((double)steps) + integer->out_zero;
    step = step < integer->low ? integer->low : step > integer->high ? integer->high : step;
    return integer->out_scale * (float)((int)step - integer->out_zero);
}

static void run_weighted(const struct effnet_layer *layer, const uint16_t *map, const float *residual,
                         float *output)
{
    const struct effnet_integer *integer = layer->integer;
    const int step = layer->stride;
    size_t at = 0;
    for (int y = 0; y < layer->out_height; y++)
        for (int x = 0; x < layer->out_width; x++)
            for (int o = 0; o < layer->out_channels; o++, at++) {
                const int added = residual ? step_of(residual[at], integer->second_scale,
                                                     integer->second_zero, integer->second_most)
                                           : 0;
                const int32_t sum = sum_window(layer, map, y * step - layer->pad_top,
                                               x * step - layer->pad_left, o);
                output[at] = finish(layer, sum, o, added);
            }
}

static void run_pool(const struct effnet_layer *layer, const uint16_t *map, float *output)
{
    const size_t channels = (size_t)layer->in_channels;
    const size_t pixels = (size_t)layer->in_height * (size_t)layer->in_width;
    for (size_t c = 0; c < channels; c++) {
        int32_t sum = 0;
        for (size_t p = 0; p < pixels; p++)
            sum += (int32_t)map[p * channels + c] - layer->integer->in_zero[0];
        output[c] = finish(layer, sum, (int)c, 0);
    }
}

static void run_scale(const struct effnet_layer *layer, const uint16_t *map, const float *gate, float *output)
{
    const struct effnet_integer *integer = layer->integer;
    const int channels = layer->in_channels;
    for (int p = 0; p < layer->in_height * layer->in_width; p++)
        for (int c = 0; c < channels; c++) {
            const int factor = step_of(gate[c], integer->second_scale, integer->second_zero,
                                       integer->second_most) -
                               integer->second_zero;
            const size_t at = (size_t)p * (size_t)channels + (size_t)c;
            output[at] = finish(layer, ((int32_t)map[at] - integer->in_zero[0]) * factor, c, 0);
        }
}

void effnet_reference_integer(const struct effnet_layer *layer, const float *input, const float *second,
                              uint16_t *map, float *output)
{
    load(layer, input, map);
    switch (layer->op) {
    case EFFNET_OP_POOL: run_pool(layer, map, output); break;
    case EFFNET_OP_SCALE: run_scale(layer, map, second, output); break;
    default: run_weighted(layer, map, layer->residual < 0 ? NULL : second, output);
    }
}
