/* One layer: its weights as the kernels want them, and its tasks. */
#include "backend/int8/int8.h"
#include "common/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ALIGNMENT = 64,
    LEAST_PIXELS = 24, /* of a strip: weights are read once for all of its pixels */
    POOL_CHANNELS = 256,
    LEAST_SHARED = 1 << 16, /* multiply-adds that are worth more than one thread */
};
#define STRIP_BYTES                                                                                          \
    ((size_t)96 << 10) /* of a strip's rows beside the tensors: they are to stay in the cache */

static bool is_dense(const struct effnet_layer *layer)
{
    return layer->op != EFFNET_OP_DEPTHWISE && layer->op != EFFNET_OP_POOL && layer->op != EFFNET_OP_SCALE;
}

/* Whether what the layer reads is. */
static bool is_wide(const struct effnet_layer *layer)
{
    return layer->integer->in_most == EFFNET_MOST_WIDE;
}

static int depth_of(const struct effnet_layer *layer)
{
    return layer->in_channels * layer->kernel * layer->kernel;
}

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

size_t effnet_int8_out_bytes(const struct effnet_layer *layer)
{
    if (layer->integer->out_scale == 0) return sizeof(float);
    return layer->integer->out_most == EFFNET_MOST_WIDE ? sizeof(uint16_t) : sizeof(uint8_t);
}

/* ---------------------------------------------------------------- packing */

/* What channel o's sum begins with: with it, bytes are multiplied as they are, and what lies outside of the
 * map counts as a byte of the input's zero. */
static int32_t start_of(const struct effnet_layer *layer, int o)
{
    const struct effnet_integer *q = layer->integer;
    const int taps = layer->kernel * layer->kernel;
    const int inputs = layer->op == EFFNET_OP_DEPTHWISE ? 1 : layer->in_channels;
    const int8_t *weight = q->weight + (size_t)o * (size_t)inputs * (size_t)taps;
    uint32_t start = (uint32_t)q->bias[o]; /* may wrap around on its way to a sum that does not */
    for (int i = 0; i < inputs; i++)
        for (int t = 0; t < taps; t++)
            start -= (uint32_t)(q->in_zero[(layer->op == EFFNET_OP_DEPTHWISE ? o : i) % 3] *
                                weight[i * taps + t]);
    return (int32_t)start;
}

/* What pack_end takes for so many channels. */
static size_t end_bytes(const struct effnet_layer *layer, int count)
{
    return (layer->integer->gain ? 3 : 2) * aligned((size_t)count * sizeof(float));
}

/* The layer's start and multipliers at `memory`, in the kernels' order. Returns what lies behind them. */
static char *pack_end(const struct int8_layer *to, struct int8_end *end, int count, char *memory)
{
    const struct effnet_layer *layer = to->layer;
    const struct effnet_integer *q = layer->integer;
    int32_t *start = (int32_t *)memory;
    float *multiplier = (float *)(memory + aligned((size_t)count * sizeof *start));
    float *out_multiplier = q->gain ? (float *)(memory + 2 * aligned((size_t)count * sizeof *start)) : NULL;
    for (int o = 0; o < layer->out_channels; o++) {
        const int block = to->kernels->block;
        const int at = is_dense(layer) ? o
                                       : o / block * block + to->kernels->place(o % block, is_wide(layer));
        start[at] = start_of(layer, o);
        multiplier[at] = q->multiplier[o];
        if (out_multiplier) out_multiplier[at] = q->out_multiplier[o];
    }
    *end = (struct int8_end){.start = start,
                             .multiplier = multiplier,
                             .out_multiplier = out_multiplier,
                             .residual_multiplier = q->residual_multiplier,
                             .residual_zero = q->second_zero,
                             .zero = q->out_zero,
                             .low = q->low,
                             .high = q->high,
                             .wide = q->out_most == EFFNET_MOST_WIDE,
                             .floats = q->out_scale == 0,
                             .activation = layer->activation};
    return memory + end_bytes(layer, count);
}

/* [out][in][ky][kx] -> [out][ky][kx][in], the order of a row that lies under a window. */
static int8_t *reorder(const struct effnet_layer *layer)
{
    const size_t out = (size_t)layer->out_channels, in = (size_t)layer->in_channels;
    const size_t taps = (size_t)layer->kernel * (size_t)layer->kernel;
    int8_t *to = malloc(out * in * taps);
    for (size_t o = 0; to && o < out; o++)
        for (size_t i = 0; i < in; i++)
            for (size_t t = 0; t < taps; t++)
                to[(o * taps + t) * in + i] = layer->integer->weight[(o * in + i) * taps + t];
    return to;
}

static int pack_dense(struct int8_layer *to, struct effnet_error *error)
{
    const struct effnet_layer *layer = to->layer;
    const int depth = depth_of(layer), count = int8_groups(layer->out_channels) * INT8_GROUP;
    const size_t weights = aligned(to->kernels->dense_bytes(depth, layer->out_channels));
    to->memory_bytes = weights + end_bytes(layer, count);
    to->memory = aligned_alloc(ALIGNMENT, to->memory_bytes);
    int8_t *rows = reorder(layer);
    if (to->memory && rows) {
        memset(to->memory, 0, to->memory_bytes);
        to->dense = (struct int8_dense){
            .depth = depth, .outputs = layer->out_channels, .weights = to->memory};
        to->kernels->pack_dense(depth, layer->out_channels, rows, to->memory);
        pack_end(to, &to->dense.end, count, (char *)to->memory + weights);
    }
    free(rows);
    return to->memory && rows ? EFFNET_OK : effnet_fail_nomem(error, layer->name, to->memory_bytes);
}

static int pack_depthwise(struct int8_layer *to, struct effnet_error *error)
{
    const struct effnet_layer *layer = to->layer;
    const int channels = layer->out_channels, block = to->kernels->block;
    const int count = (channels + block - 1) / block * block;
    const bool wide = is_wide(layer);
    const size_t weights = aligned(to->kernels->depthwise_bytes(channels, layer->kernel, wide));
    const size_t zeros = aligned(((size_t)channels << wide) + INT8_SLACK);
    to->memory_bytes = weights + end_bytes(layer, count) + zeros;
    to->memory = aligned_alloc(ALIGNMENT, to->memory_bytes);
    if (!to->memory) return effnet_fail_nomem(error, layer->name, to->memory_bytes);
    memset(to->memory, 0, to->memory_bytes);
    to->kernels->pack_depthwise(channels, layer->kernel, wide, layer->integer->weight, to->memory);
    to->depthwise = (struct int8_depthwise){.channels = channels,
                                            .kernel = layer->kernel,
                                            .stride = layer->stride,
                                            .pad_top = layer->pad_top,
                                            .pad_left = layer->pad_left,
                                            .in_height = layer->in_height,
                                            .in_width = layer->in_width,
                                            .out_width = layer->out_width,
                                            .wide = wide,
                                            .weights = to->memory};
    char *zeros_of = pack_end(to, &to->depthwise.end, count, (char *)to->memory + weights);
    for (int c = 0; c < channels; c++) {
        const int zero = layer->integer->in_zero[c % 3];
        if (wide)
            ((uint16_t *)(void *)zeros_of)[c] = (uint16_t)zero;
        else
            zeros_of[c] = (char)zero;
    }
    to->depthwise.zeros = zeros_of;
    return EFFNET_OK;
}

/* Scale has no sums: its multipliers are the layer's own, copied to where more may be read behind them. */
static int pack_scale(struct int8_layer *to, struct effnet_error *error)
{
    const struct effnet_layer *layer = to->layer;
    const struct effnet_integer *q = layer->integer;
    const size_t bytes = (size_t)layer->out_channels * sizeof(float);
    to->memory_bytes = aligned(bytes);
    to->memory = aligned_alloc(ALIGNMENT, to->memory_bytes);
    if (!to->memory) return effnet_fail_nomem(error, layer->name, to->memory_bytes);
    memset(to->memory, 0, to->memory_bytes);
    memcpy(to->memory, q->multiplier, bytes);
    to->scale = (struct int8_end){.multiplier = to->memory,
                                  .zero = q->out_zero,
                                  .low = q->low,
                                  .high = q->high,
                                  .wide = q->out_most == EFFNET_MOST_WIDE};
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- cutting */

static int divide(int64_t a, int64_t b)
{
    return (int)((a + b - 1) / b);
}

static void cut_dense(struct int8_layer *to, int threads)
{
    const struct effnet_layer *layer = to->layer;
    const int64_t pixels = (int64_t)layer->out_height * layer->out_width;
    const int groups = int8_groups(layer->out_channels);
    int64_t strip = divide(pixels, threads);
    const int64_t most = (int64_t)(STRIP_BYTES / (2 * (size_t)depth_of(layer)));
    if (layer->multiply_adds < LEAST_SHARED) threads = 1;
    if (strip > most) strip = most;
    if (strip < LEAST_PIXELS) strip = LEAST_PIXELS;
    if (strip > pixels) strip = pixels;
    to->strip = (int)strip;
    to->strips = divide(pixels, strip);
    int slices = to->strips < threads ? divide(threads, to->strips) : 1;
    if (slices > groups) slices = groups;
    to->slice = divide(groups, slices);
    to->slices = divide(groups, to->slice);
    to->scratch_bytes = aligned(to->kernels->dense_scratch(depth_of(layer), to->strip)) +
                        aligned((size_t)to->strip * (size_t)depth_of(layer) + INT8_SLACK);
}

static void cut_depthwise(struct int8_layer *to, int threads)
{
    const struct effnet_layer *layer = to->layer;
    const int blocks = divide(layer->out_channels, to->kernels->block);
    to->strip = divide(layer->out_height, layer->multiply_adds < LEAST_SHARED ? 1 : 2 * threads);
    to->strips = divide(layer->out_height, to->strip);
    to->slice = blocks;
    to->slices = 1;
}

static void cut_scale(struct int8_layer *to, int threads)
{
    const struct effnet_layer *layer = to->layer;
    const int pixels = layer->out_height * layer->out_width;
    to->strip = divide(pixels, (int64_t)effnet_layer_out_size(layer) < LEAST_SHARED ? 1 : threads);
    to->strips = divide(pixels, to->strip);
    to->slice = to->slices = 1;
    to->scratch_bytes = aligned((size_t)layer->out_channels * sizeof(float));
}

static void cut_pool(struct int8_layer *to)
{
    to->strip = to->strips = 1;
    to->slice = POOL_CHANNELS;
    to->slices = divide(to->layer->out_channels, POOL_CHANNELS);
}

int effnet_int8_build_layer(struct int8_layer *to, const struct effnet_layer *layer,
                            const struct int8_kernels *kernels, int threads, struct effnet_error *error)
{
    const bool wide = layer->integer->out_most == EFFNET_MOST_WIDE;
    const bool plain = (layer->op == EFFNET_OP_DEPTHWISE && !kernels->has_depthwise(layer)) ||
                       (layer->op == EFFNET_OP_SCALE && wide);
    to->layer = layer;
    to->kernels = plain ? &int8_plain : kernels;
    if (layer->op == EFFNET_OP_POOL) {
        cut_pool(to);
    } else if (layer->op == EFFNET_OP_SCALE) {
        EFFNET_TRY(pack_scale(to, error));
        cut_scale(to, threads);
    } else if (layer->op == EFFNET_OP_DEPTHWISE) {
        EFFNET_TRY(pack_depthwise(to, error));
        cut_depthwise(to, threads);
    } else {
        EFFNET_TRY(pack_dense(to, error));
        cut_dense(to, threads);
    }
    snprintf(to->kernel, sizeof to->kernel, "int8 %s %s, %d tasks",
             is_dense(layer) ? "dense" : effnet_op_name(layer->op),
             layer->op == EFFNET_OP_POOL ? "plain" : to->kernels->name, to->strips * to->slices);
    return EFFNET_OK;
}

void effnet_int8_free_layer(struct int8_layer *layer)
{
    free(layer->memory);
}

/* ---------------------------------------------------------------- running */

/* What lies under the windows of pixels first..end-1, a row each; outside of the map, the input's zeros. */
static void gather(const struct effnet_layer *layer, const uint8_t *map, int first, int end, uint8_t *to)
{
    const size_t in = (size_t)layer->in_channels;
    for (int p = first; p < end; p++) {
        const int top = p / layer->out_width * layer->stride - layer->pad_top;
        const int left = p % layer->out_width * layer->stride - layer->pad_left;
        for (int ky = 0; ky < layer->kernel; ky++) {
            const int y = top + ky;
            const bool inside = y >= 0 && y < layer->in_height;
            const uint8_t *row = map + (inside ? (size_t)y * (size_t)layer->in_width * in : 0);
            if (inside && left >= 0 && left + layer->kernel <= layer->in_width) {
                memcpy(to, row + (size_t)left * in, (size_t)layer->kernel * in);
                to += (size_t)layer->kernel * in;
                continue;
            }
            for (int x = left; x < left + layer->kernel; x++)
                for (size_t c = 0; c < in; c++)
                    *to++ = inside && x >= 0 && x < layer->in_width ? row[(size_t)x * in + c]
                                                                    : (uint8_t)layer->integer->in_zero[c % 3];
        }
    }
}

static void run_dense(const struct int8_layer *l, int strip, int slice, char *arena, char *scratch)
{
    const struct effnet_layer *layer = l->layer;
    const int pixels = layer->out_height * layer->out_width, groups = int8_groups(layer->out_channels);
    const int first = strip * l->strip, end = first + l->strip < pixels ? first + l->strip : pixels;
    const int first_group = slice * l->slice;
    const int end_group = first_group + l->slice < groups ? first_group + l->slice : groups;
    const size_t at = (size_t)first * (size_t)layer->out_channels;
    const uint8_t *in = (const uint8_t *)arena + l->input_offsets[0];
    if (layer->op == EFFNET_OP_CONV) {
        uint8_t *rows = (uint8_t *)scratch + aligned(l->kernels->dense_scratch(l->dense.depth, l->strip));
        gather(layer, in, first, end, rows);
        in = rows;
    } else {
        in += (size_t)first * (size_t)layer->in_channels;
    }
    l->kernels->dense(&l->dense, in, end - first, first_group, end_group,
                      layer->residual < 0 ? NULL : (const uint8_t *)arena + l->input_offsets[1] + at,
                      arena + l->output_offset + at * effnet_int8_out_bytes(layer), scratch);
}

static void run_depthwise(const struct int8_layer *l, int strip, char *arena)
{
    const int first = strip * l->strip, rows = l->layer->out_height;
    l->kernels->depthwise(&l->depthwise, arena + l->input_offsets[0], first,
                          first + l->strip < rows ? first + l->strip : rows, 0, l->slice,
                          l->layer->residual < 0 ? NULL : (const uint8_t *)arena + l->input_offsets[1],
                          arena + l->output_offset);
}

static void run_scale(const struct int8_layer *l, int strip, char *arena, char *scratch)
{
    const struct effnet_layer *layer = l->layer;
    const struct effnet_integer *q = layer->integer;
    const int channels = layer->out_channels, pixels = layer->out_height * layer->out_width;
    const int first = strip * l->strip, end = first + l->strip < pixels ? first + l->strip : pixels;
    const size_t at = (size_t)first * (size_t)channels;
    const void *gate = arena + l->input_offsets[1];
    const bool wide = q->second_most == EFFNET_MOST_WIDE;
    float *factors = (float *)scratch;
    for (int c = 0; c < channels; c++)
        factors[c] = (float)((wide ? ((const uint16_t *)gate)[c] : ((const uint8_t *)gate)[c]) -
                             q->second_zero);
    l->kernels->scale(&l->scale, (const uint8_t *)arena + l->input_offsets[0] + at, q->in_zero[0], factors,
                      end - first, channels, arena + l->output_offset + at * effnet_int8_out_bytes(layer));
}

static void run_pool(const struct int8_layer *l, int slice, char *arena)
{
    const struct effnet_layer *layer = l->layer;
    const struct effnet_integer *q = layer->integer;
    const int pixels = layer->in_height * layer->in_width, all = layer->in_channels;
    const int first = slice * l->slice, count = all - first < l->slice ? all - first : l->slice;
    const uint8_t *map = (const uint8_t *)arena + l->input_offsets[0] + first;
    uint8_t *out = (uint8_t *)arena + l->output_offset + first;
    int32_t sums[POOL_CHANNELS] = {0};
    for (int p = 0; p < pixels; p++, map += all)
        for (int c = 0; c < count; c++) sums[c] += map[c];
    for (int c = 0; c < count; c++) {
        const float f = (float)(sums[c] - pixels * q->in_zero[0]) * q->multiplier[first + c];
        const int byte = (int)rintf(f) + q->out_zero;
        out[c] = (uint8_t)(byte < q->low ? q->low : byte > q->high ? q->high : byte);
    }
}

void effnet_int8_run_task(const struct int8_layer *layer, int task, char *arena, char *scratch)
{
    switch (layer->layer->op) {
    case EFFNET_OP_POOL: run_pool(layer, task, arena); break;
    case EFFNET_OP_SCALE: run_scale(layer, task, arena, scratch); break;
    case EFFNET_OP_DEPTHWISE: run_depthwise(layer, task, arena); break;
    default: run_dense(layer, task / layer->slices, task % layer->slices, arena, scratch);
    }
}
