/* Plain C, for any processor. */
#include "backend/int8/kernels.h"

#include <math.h>
#include <string.h>

static bool supported(void)
{
    return true;
}

static size_t dense_bytes(int depth, int outputs)
{
    return (size_t)depth * (size_t)outputs;
}

static size_t dense_scratch(int depth, int rows)
{
    (void)depth;
    (void)rows;
    return 0;
}

static void pack_dense(int depth, int outputs, const int8_t *weights, void *packed)
{
    memcpy(packed, weights, dense_bytes(depth, outputs));
}

static int to_step(const struct int8_end *end, float f)
{
    const int step = (int)rintf(f) + end->zero;
    return step < end->low ? end->low : step > end->high ? end->high : step;
}

static float exp_minus(float x)
{
    const float t = fminf(INT8_EXP_LIMIT, fmaxf(-INT8_EXP_LIMIT, -x)), n = rintf(t * INT8_LOG2_E);
    const float r = fmaf(n, INT8_MINUS_LN2B, fmaf(n, INT8_MINUS_LN2, t));
    float sum = int8_exp_terms[0];
    for (int i = 1; i < INT8_EXP_TERMS; i++) sum = fmaf(sum, r, int8_exp_terms[i]);
    return ldexpf(sum, (int)n);
}

static float activate(enum effnet_activation activation, float f)
{
    switch (activation) {
    case EFFNET_ACT_RELU: return f < 0 ? 0 : f;
    case EFFNET_ACT_RELU6: return f < 0 ? 0 : f > 6 ? 6 : f;
    case EFFNET_ACT_SILU: return f / (1 + exp_minus(f));
    case EFFNET_ACT_SIGMOID: return 1 / (1 + exp_minus(f));
    default: return f;
    }
}

/* f in output steps, clipped, at place `at` of a tensor. */
static void store(const struct int8_end *end, float f, void *out, size_t at)
{
    if (end->wide)
        ((uint16_t *)out)[at] = (uint16_t)to_step(end, f);
    else
        ((uint8_t *)out)[at] = (uint8_t)to_step(end, f);
}

/* Output `at` of a tensor, from channel c's sum. */
static void finish(const struct int8_end *end, int32_t sum, int c, const uint8_t *residual, void *out,
                   size_t at)
{
    float f = (float)sum * end->multiplier[c];
    if (residual) f = fmaf((float)(residual[at] - end->residual_zero), end->residual_multiplier, f);
    if (end->floats) {
        ((float *)out)[at] = activate(end->activation, f);
        return;
    }
    if (end->out_multiplier)
        f = fminf(INT8_MOST_STEPS, activate(end->activation, f) * end->out_multiplier[c]);
    store(end, f, out, at);
}

static void dense(const struct int8_dense *d, const uint8_t *in, int rows, int first_group, int end_group,
                  const uint8_t *residual, void *out, void *scratch)
{
    const int end = end_group * INT8_GROUP < d->outputs ? end_group * INT8_GROUP : d->outputs;
    const size_t depth = (size_t)d->depth;
    (void)scratch;
    for (int r = 0; r < rows; r++)
        for (int o = first_group * INT8_GROUP; o < end; o++) {
            const int8_t *weight = (const int8_t *)d->weights + (size_t)o * depth;
            const uint8_t *row = in + (size_t)r * depth;
            int32_t sum = d->end.start[o];
            for (size_t k = 0; k < depth; k++) sum += row[k] * weight[k];
            finish(&d->end, sum, o, residual, out, (size_t)r * (size_t)d->outputs + (size_t)o);
        }
}

static bool has_depthwise(const struct effnet_layer *layer)
{
    (void)layer;
    return true;
}

static int place(int at, bool wide)
{
    (void)wide;
    return at;
}

static size_t depthwise_bytes(int channels, int kernel, bool wide)
{
    (void)wide;
    return (size_t)channels * (size_t)kernel * (size_t)kernel;
}

static void pack_depthwise(int channels, int kernel, bool wide, const int8_t *weights, void *packed)
{
    memcpy(packed, weights, depthwise_bytes(channels, kernel, wide));
}

static int32_t sum_window(const struct int8_depthwise *d, const void *map, int y, int x, int c)
{
    const int8_t *weight = (const int8_t *)d->weights + (size_t)c * (size_t)(d->kernel * d->kernel);
    int32_t sum = d->end.start[c];
    for (int ky = 0; ky < d->kernel; ky++)
        for (int kx = 0; kx < d->kernel; kx++) {
            const int iy = y * d->stride + ky - d->pad_top, ix = x * d->stride + kx - d->pad_left;
            const bool inside = iy >= 0 && iy < d->in_height && ix >= 0 && ix < d->in_width;
            const size_t pixel = inside ? (size_t)iy * (size_t)d->in_width + (size_t)ix : 0;
            const size_t at = pixel * (size_t)d->channels + (size_t)c;
            const void *from = inside ? map : d->zeros;
            sum += (d->wide ? ((const uint16_t *)from)[at] : ((const uint8_t *)from)[at]) * *weight++;
        }
    return sum;
}

static void depthwise(const struct int8_depthwise *d, const void *map, int first_row, int end_row,
                      int first_block, int end_block, const uint8_t *residual, void *out)
{
    const int end = end_block * INT8_GROUP < d->channels ? end_block * INT8_GROUP : d->channels;
    for (int y = first_row; y < end_row; y++)
        for (int x = 0; x < d->out_width; x++)
            for (int c = first_block * INT8_GROUP; c < end; c++) {
                const size_t pixel = (size_t)y * (size_t)d->out_width + (size_t)x;
                finish(&d->end, sum_window(d, map, y, x, c), c, residual, out,
                       pixel * (size_t)d->channels + (size_t)c);
            }
}

static void scale(const struct int8_end *end, const uint8_t *map, int zero, const float *factors, int pixels,
                  int channels, void *out)
{
    for (size_t p = 0; p < (size_t)pixels; p++)
        for (int c = 0; c < channels; c++) {
            const size_t at = p * (size_t)channels + (size_t)c;
            store(end, (float)(map[at] - zero) * factors[c] * end->multiplier[c], out, at);
        }
}

const struct int8_kernels int8_plain = {
    .name = "plain",
    .supported = supported,
    .dense_bytes = dense_bytes,
    .dense_scratch = dense_scratch,
    .pack_dense = pack_dense,
    .dense = dense,
    .has_depthwise = has_depthwise,
    .block = INT8_GROUP,
    .place = place,
    .depthwise_bytes = depthwise_bytes,
    .pack_depthwise = pack_depthwise,
    .depthwise = depthwise,
    .scale = scale,
};
