/* Cuts a layer into strips and makes the primitives that run them.
 *
 * Strips of a convolution are whole rows, and their windows take in the rows around them: only the first and
 * the last strip see padding. Pointwise and scale layers know no rows, so their strips are runs of pixels; a
 * linear one is a pointwise layer over a single pixel, whose strips are runs of output channels. */
#include "backend/onednn/onednn.h"
#include "common/error.h"

#include <dnnl_debug.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Fewer output channels than this in a strip, or another multiple, would waste vectors. */
#define CHANNEL_STEP 64
#define MEAN_STEP    16

/* A larger map's mean is our own. */
#define MOST_PIXELS 1024

/* A linear layer of fewer multiply-adds takes a few microseconds, no longer than threads take to share it. */
#define LEAST_SHARED (1 << 16)

/* Of a strip that is to stay in the cache of its core. */
#define STRIP_BYTES ((size_t)192 << 10)

int effnet_onednn_fail(struct effnet_error *error, dnnl_status_t status, const char *what)
{
    return effnet_fail(error, status == dnnl_out_of_memory ? EFFNET_E_NOMEM : EFFNET_E_INTERNAL,
                       "oneDNN: %s: %s", what, dnnl_status2str(status));
}

onednn_const_desc effnet_onednn_desc(const struct onednn_variant *variant, dnnl_query_t what, int index)
{
    const_dnnl_primitive_desc_t description;
    if (dnnl_primitive_get_primitive_desc(variant->primitive, &description)) return NULL;
    return dnnl_primitive_desc_query_md(description, what, index);
}

/* The channels by which a layer is cut whose output is a single pixel. */
static int channel_step(const struct onednn_layer *layer)
{
    if (layer->own_mean) return MEAN_STEP;
    return layer->layer->op == EFFNET_OP_POOL ? layer->layer->out_channels : CHANNEL_STEP;
}

/* Rows, pixels or steps of channels that can be shared out. */
static int divisible(const struct onednn_layer *layer)
{
    const struct effnet_layer *from = layer->layer;
    switch (from->op) {
    case EFFNET_OP_CONV:
    case EFFNET_OP_DEPTHWISE: return from->out_height;
    case EFFNET_OP_POINTWISE:
    case EFFNET_OP_SCALE: return from->out_height * from->out_width;
    case EFFNET_OP_POOL:
    case EFFNET_OP_LINEAR: break;
    }
    return (from->out_channels + channel_step(layer) - 1) / channel_step(layer);
}

/* How many strips of a layer are small enough to stay in the cache for what is done to them before or after
 * their primitive; a multiple of `threads` where that is possible. */
static int count_cached(const struct onednn_layer *layer, int threads, int pieces)
{
    const struct effnet_layer *from = layer->layer;
    size_t bytes = layer->fused.silu ? effnet_layer_out_size(from) * sizeof(float) : 0;
    if (layer->fused.gate >= 0) bytes += effnet_layer_in_size(from, 0) * sizeof(float);
    size_t strips = (bytes + STRIP_BYTES - 1) / STRIP_BYTES;
    strips = (strips + (size_t)threads - 1) / (size_t)threads * (size_t)threads;
    return strips < (size_t)pieces ? (int)strips : pieces;
}

static int count_strips(const struct onednn_layer *layer, int max_strips, int min_pixels)
{
    const struct effnet_layer *from = layer->layer;
    int pieces = divisible(layer), strips = max_strips < pieces ? max_strips : pieces;
    int pixels = from->out_height * from->out_width;
    if (layer->fused.mean) return 1;
    if (layer->fused.skipped) return 0;
    if (from->op == EFFNET_OP_LINEAR && from->in_channels * from->out_channels < LEAST_SHARED) return 1;
    if (from->op == EFFNET_OP_LINEAR || from->op == EFFNET_OP_POOL) return strips;
    if (strips > pixels / min_pixels) strips = pixels / min_pixels;
    if (strips < 1) strips = 1;
    int cached = count_cached(layer, strips, pieces);
    return strips > cached ? strips : cached;
}

/* Rows from..to of a convolution's output. */
static void cut_rows(const struct effnet_layer *layer, int from, int to, struct onednn_strip *strip,
                     size_t *first_row)
{
    int top = from * layer->stride - layer->pad_top;
    int bottom = (to - 1) * layer->stride - layer->pad_top + layer->kernel; /* exclusive */
    int first = top > 0 ? top : 0, end = bottom < layer->in_height ? bottom : layer->in_height;
    strip->shape.in_height = end - first;
    strip->shape.out_height = to - from;
    strip->shape.pad_top = first - top;
    strip->shape.pad_bottom = bottom - end;
    *first_row = (size_t)first;
}

static void cut(const struct onednn_layer *layer, struct onednn_strip *strip, int index)
{
    const struct effnet_layer *from = layer->layer;
    int64_t pieces = divisible(layer);
    int begin = (int)(pieces * index / layer->strip_count);
    int end = (int)(pieces * (index + 1) / layer->strip_count);
    size_t first_pixel = 0, out_pixel = 0; /* of the source, and of the destination */
    strip->shape = (struct onednn_shape){.in_height = from->in_height,
                                         .in_width = from->in_width,
                                         .out_height = from->out_height,
                                         .out_width = from->out_width,
                                         .out_channels = from->out_channels};
    switch (from->op) {
    case EFFNET_OP_CONV:
    case EFFNET_OP_DEPTHWISE:
        cut_rows(from, begin, end, strip, &first_pixel);
        first_pixel *= (size_t)from->in_width;
        out_pixel = (size_t)begin * (size_t)from->out_width;
        break;
    case EFFNET_OP_POINTWISE:
    case EFFNET_OP_SCALE:
        strip->shape.in_height = strip->shape.out_height = 1;
        strip->shape.in_width = strip->shape.out_width = end - begin;
        first_pixel = out_pixel = (size_t)begin;
        break;
    case EFFNET_OP_POOL:
    case EFFNET_OP_LINEAR:
        strip->first_channel = begin * channel_step(layer);
        strip->shape.out_channels = end * channel_step(layer) - strip->first_channel;
        if (end == pieces) strip->shape.out_channels = from->out_channels - strip->first_channel;
        break;
    }
    size_t first_value = first_pixel * (size_t)from->in_channels;
    if (from->op == EFFNET_OP_POOL) first_value = (size_t)strip->first_channel;
    size_t element = dnnl_data_type_size(layer->destination_type);
    strip->source_offset = first_value * dnnl_data_type_size(layer->source_type);
    strip->destination_offset = (out_pixel * (size_t)from->out_channels + (size_t)strip->first_channel) *
                                element;
    strip->destination_bytes = (size_t)strip->shape.out_height * (size_t)strip->shape.out_width *
                               (size_t)strip->shape.out_channels * element;
}

dnnl_status_t effnet_onednn_append_activation(dnnl_post_ops_t post_ops, enum effnet_activation activation)
{
    dnnl_status_t status = dnnl_success;
    switch (activation) {
    case EFFNET_ACT_NONE: break;
    case EFFNET_ACT_RELU: return onednn_append_eltwise(post_ops, dnnl_eltwise_relu, 0, 0);
    case EFFNET_ACT_RELU6: return onednn_append_eltwise(post_ops, dnnl_eltwise_clip, 0, 6);
    case EFFNET_ACT_SILU: return onednn_append_eltwise(post_ops, dnnl_eltwise_swish, 1, 0);
    case EFFNET_ACT_GELU: return onednn_append_eltwise(post_ops, dnnl_eltwise_gelu_erf, 0, 0);
    case EFFNET_ACT_GELU_RELU:
        status = onednn_append_eltwise(post_ops, dnnl_eltwise_gelu_erf, 0, 0);
        return status ? status : onednn_append_eltwise(post_ops, dnnl_eltwise_relu, 0, 0);
    case EFFNET_ACT_SIGMOID: return onednn_append_eltwise(post_ops, dnnl_eltwise_logistic, 0, 0);
    case EFFNET_ACT_HARDSWISH: /* x clamp(x / 6 + 1/2, 0, 1); 2.x has the two numbers built in */
        return onednn_append_eltwise(post_ops, dnnl_eltwise_hardswish, 1.0f / 6, 0.5f);
    case EFFNET_ACT_TANH: return onednn_append_eltwise(post_ops, dnnl_eltwise_tanh, 0, 0);
    }
    return status;
}

static dnnl_status_t create_attributes(const struct onednn_layer *onednn, dnnl_primitive_attr_t *attributes)
{
    const struct effnet_layer *layer = onednn->layer;
    dnnl_post_ops_t post_ops = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(attributes);
    if (!status) status = dnnl_primitive_attr_set_scratchpad_mode(*attributes, dnnl_scratchpad_mode_user);
    /* oneDNN's environment variables may ask for less than fp32 */
    if (!status) status = dnnl_primitive_attr_set_fpmath_mode(*attributes, dnnl_fpmath_mode_strict);
    if (!status) status = dnnl_post_ops_create(&post_ops);
    if (!status && layer->residual >= 0) status = onednn_append_sum(post_ops);
    if (!status && !onednn->fused.silu) status = effnet_onednn_append_activation(post_ops, layer->activation);
    if (!status) status = dnnl_primitive_attr_set_post_ops(*attributes, post_ops);
    if (post_ops) dnnl_post_ops_destroy(post_ops);
    return status;
}

/* Dimensions of a strip's weights as oneDNN counts them: depthwise ones with groups first. Returns how many.
 */
static int weight_dims(const struct effnet_layer *layer, int out_channels, dnnl_dims_t dims)
{
    bool depthwise = layer->op == EFFNET_OP_DEPTHWISE;
    int count = 0;
    dims[count++] = out_channels;
    dims[count++] = depthwise ? 1 : layer->in_channels;
    if (depthwise) dims[count++] = 1;
    dims[count++] = layer->kernel;
    dims[count++] = layer->kernel;
    return count;
}

static dnnl_status_t choose_convolution(dnnl_engine_t engine, const struct onednn_layer *layer,
                                        const struct onednn_shape *shape, onednn_const_desc source,
                                        onednn_const_desc destination, const_dnnl_primitive_attr_t attributes,
                                        dnnl_primitive_desc_t *chosen)
{
    const struct effnet_layer *from = layer->layer;
    dnnl_dims_t weight, channels = {shape->out_channels}, strides = {from->stride, from->stride};
    int right = (shape->out_width - 1) * from->stride + from->kernel - from->pad_left - shape->in_width;
    dnnl_dims_t before = {shape->pad_top, from->pad_left}, after = {shape->pad_bottom, right > 0 ? right : 0};
    int count = weight_dims(from, shape->out_channels, weight);
    onednn_desc weights = NULL, bias = NULL;
    dnnl_status_t status = onednn_desc_by_tag(&weights, count, weight, layer->source_type,
                                              dnnl_format_tag_any);
    if (!status) status = onednn_desc_by_tag(&bias, 1, channels, dnnl_f32, dnnl_x);
    if (!status)
        status = onednn_convolution(chosen, engine, source, weights, bias, destination, strides, before,
                                    after, attributes);
    onednn_desc_destroy(bias);
    onednn_desc_destroy(weights);
    return status;
}

/* Describes the layer's operation on strips of this shape and has oneDNN pick an implementation. */
static dnnl_status_t choose_implementation(dnnl_engine_t engine, const struct onednn_layer *layer,
                                           const struct onednn_shape *shape, dnnl_primitive_desc_t *chosen)
{
    const enum effnet_op op = layer->layer->op;
    dnnl_dims_t in = {1, layer->layer->in_channels, shape->in_height, shape->in_width};
    dnnl_dims_t out = {1, shape->out_channels, shape->out_height, shape->out_width};
    dnnl_dims_t window = {shape->in_height, shape->in_width}, strides = {1, 1}; /* of a pool */
    dnnl_dims_t scales = {1, layer->layer->in_channels, 1, 1};
    dnnl_primitive_attr_t attributes = NULL;
    onednn_desc source = NULL, gate = NULL, destination = NULL;
    dnnl_status_t status = onednn_desc_by_tag(&source, 4, in, layer->source_type, dnnl_nhwc);
    if (!status) status = onednn_desc_by_tag(&destination, 4, out, layer->destination_type, dnnl_nhwc);
    if (!status) status = create_attributes(layer, &attributes);
    if (!status && op == EFFNET_OP_SCALE)
        status = onednn_desc_by_tag(&gate, 4, scales, layer->source_type, dnnl_nhwc);
    if (!status && op == EFFNET_OP_POOL)
        status = onednn_average(chosen, engine, source, destination, strides, window, attributes);
    else if (!status && op == EFFNET_OP_SCALE)
        status = onednn_multiply(chosen, engine, source, gate, destination, attributes);
    else if (!status)
        status = choose_convolution(engine, layer, shape, source, destination, attributes, chosen);
    if (attributes) dnnl_primitive_attr_destroy(attributes);
    onednn_desc_destroy(destination);
    onednn_desc_destroy(gate);
    onednn_desc_destroy(source);
    return status;
}

static dnnl_status_t create_variant(dnnl_engine_t engine, struct onednn_layer *layer,
                                    struct onednn_variant *variant)
{
    dnnl_primitive_desc_t chosen = NULL;
    dnnl_status_t status = choose_implementation(engine, layer, &variant->shape, &chosen);
    if (!status) status = dnnl_primitive_create(&variant->primitive, chosen);
    if (!status) {
        size_t scratch = dnnl_memory_desc_get_size(effnet_onednn_desc(variant, dnnl_query_scratchpad_md, 0));
        if (scratch > layer->scratch_bytes) layer->scratch_bytes = scratch;
        const char *name = "";
        dnnl_primitive_desc_query(chosen, dnnl_query_impl_info_str, 0, &name);
        if (variant == layer->variants)
            snprintf(layer->kernel, sizeof layer->kernel, "%.40s, %d strip%s", name, layer->strip_count,
                     layer->strip_count > 1 ? "s" : "");
    }
    if (chosen) dnnl_primitive_desc_destroy(chosen);
    return status;
}

/* The layer's variant of this shape, made where there is none yet. */
static dnnl_status_t find_variant(dnnl_engine_t engine, struct onednn_layer *layer,
                                  struct onednn_strip *strip)
{
    for (int i = 0; i < layer->variant_count; i++) {
        strip->variant = i;
        if (memcmp(&layer->variants[i].shape, &strip->shape, sizeof strip->shape) == 0) return dnnl_success;
    }
    struct onednn_variant *variant = &layer->variants[layer->variant_count];
    variant->shape = strip->shape;
    strip->variant = layer->variant_count++;
    return create_variant(engine, layer, variant);
}

/* Copies weights from the mapped file into the variant's format and type. */
static dnnl_status_t reorder(dnnl_engine_t engine, onednn_const_desc plain, const float *from,
                             dnnl_memory_t to)
{
    onednn_const_desc packed;
    dnnl_memory_t file = NULL;
    dnnl_primitive_desc_t description = NULL;
    dnnl_primitive_t primitive = NULL;
    dnnl_stream_t stream = NULL;
    dnnl_status_t status = dnnl_memory_get_memory_desc(to, &packed);
    if (!status) status = dnnl_memory_create(&file, plain, engine, (void *)from); /* it is only read */
    if (!status)
        status = dnnl_reorder_primitive_desc_create(&description, plain, engine, packed, engine, NULL);
    if (!status) status = dnnl_primitive_create(&primitive, description);
    if (!status) status = dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
    dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, file}, {DNNL_ARG_TO, to}};
    if (!status) status = dnnl_primitive_execute(primitive, stream, 2, arguments);
    if (stream) dnnl_stream_destroy(stream);
    if (primitive) dnnl_primitive_destroy(primitive);
    if (description) dnnl_primitive_desc_destroy(description);
    if (file) dnnl_memory_destroy(file);
    return status;
}

/* Whether a strip whose variant wants `format` can use what is packed already. */
static bool is_packed(const struct onednn_packed *packed, const struct onednn_strip *strip,
                      onednn_const_desc format)
{
    onednn_const_desc have = NULL;
    if (packed->first_channel != strip->first_channel) return false;
    return !dnnl_memory_get_memory_desc(packed->weights, &have) && dnnl_memory_desc_equal(have, format);
}

static dnnl_status_t pack(dnnl_engine_t engine, struct onednn_layer *layer, struct onednn_strip *strip)
{
    const struct effnet_layer *from = layer->layer;
    const struct onednn_variant *variant = &layer->variants[strip->variant];
    onednn_const_desc weights = effnet_onednn_desc(variant, dnnl_query_weights_md, 0);
    onednn_const_desc bias = effnet_onednn_desc(variant, dnnl_query_weights_md, 1);
    for (int i = 0; i < layer->packed_count; i++) {
        strip->packed = i;
        if (is_packed(&layer->packed[i], strip, weights)) return dnnl_success;
    }
    struct onednn_packed *packed = &layer->packed[layer->packed_count];
    packed->first_channel = strip->first_channel;
    strip->packed = layer->packed_count++;
    onednn_desc plain = NULL;
    dnnl_dims_t dims;
    int count = weight_dims(from, strip->shape.out_channels, dims);
    size_t channel_size = (size_t)from->in_channels; /* only linear layers are cut by channel */
    dnnl_status_t status = onednn_desc_by_tag(&plain, count, dims, dnnl_f32,
                                              count == 5 ? dnnl_goihw : dnnl_oihw);
    if (!status) status = dnnl_memory_create(&packed->weights, weights, engine, DNNL_MEMORY_ALLOCATE);
    if (!status)
        status = dnnl_memory_create(&packed->bias, bias, engine, (void *)(from->bias + strip->first_channel));
    if (!status)
        status = reorder(engine, plain, from->weight + (size_t)strip->first_channel * channel_size,
                         packed->weights);
    layer->weight_bytes += dnnl_memory_desc_get_size(weights) + dnnl_memory_desc_get_size(bias);
    onednn_desc_destroy(plain);
    return status;
}

int effnet_onednn_build_layer(struct backend_state *state, struct onednn_layer *layer, int max_strips,
                              int min_pixels, struct effnet_error *error)
{
    layer->own_mean = layer->layer->op == EFFNET_OP_POOL && !layer->fused.mean &&
                      layer->layer->in_height * layer->layer->in_width > MOST_PIXELS;
    layer->strip_count = count_strips(layer, max_strips, min_pixels);
    if (layer->own_mean)
        snprintf(layer->kernel, sizeof layer->kernel, "mean, %d strip%s", layer->strip_count,
                 layer->strip_count > 1 ? "s" : "");
    if (layer->fused.skipped) return EFFNET_OK;
    size_t count = (size_t)layer->strip_count;
    layer->strips = calloc(count, sizeof *layer->strips);
    layer->variants = calloc(count, sizeof *layer->variants);
    layer->packed = calloc(count, sizeof *layer->packed);
    if (!layer->strips || !layer->variants || !layer->packed)
        return effnet_fail_nomem(error, layer->layer->name, count * sizeof *layer->variants);
    for (int i = 0; i < layer->strip_count; i++) {
        struct onednn_strip *strip = &layer->strips[i];
        cut(layer, strip, i);
        if (layer->own_mean || layer->fused.mean) continue;
        dnnl_status_t status = find_variant(state->engine, layer, strip);
        if (!status && layer->layer->weight) status = pack(state->engine, layer, strip);
        if (status) return effnet_onednn_fail(error, status, layer->layer->name);
    }
    return EFFNET_OK;
}

void effnet_onednn_free_layer(struct onednn_layer *layer)
{
    for (int i = 0; i < layer->variant_count; i++)
        if (layer->variants[i].primitive) dnnl_primitive_destroy(layer->variants[i].primitive);
    for (int i = 0; i < layer->packed_count; i++) {
        if (layer->packed[i].weights) dnnl_memory_destroy(layer->packed[i].weights);
        if (layer->packed[i].bias) dnnl_memory_destroy(layer->packed[i].bias);
    }
    free(layer->strips);
    free(layer->variants);
    free(layer->packed);
}
