/* The CPU backend's own structures. One image goes through the layers one after the other, each layer cut
 * into strips; a strip is one call of a oneDNN primitive that uses one thread. Which thread runs which strip
 * does not matter to the result, so one image over all threads and an image a thread give the same bits. */
#ifndef EFFNET_BACKEND_ONEDNN_ONEDNN_H
#define EFFNET_BACKEND_ONEDNN_ONEDNN_H

#include "backend/backend.h"
#include "backend/onednn/api.h"
#include "common/thread_pool.h"

/* What the strips of one layer may differ in. */
struct onednn_shape {
    int in_height, in_width, out_height, out_width, pad_top, pad_bottom, out_channels;
};

/* A primitive for strips of one shape. */
struct onednn_variant {
    struct onednn_shape shape;
    dnnl_primitive_t primitive;
};

/* Part of a layer: rows of its output, or pixels (pointwise, scale), or channels (linear, large pools). */
struct onednn_strip {
    struct onednn_shape shape;
    int first_channel;                                           /* of the output */
    size_t source_offset, destination_offset, destination_bytes; /* in the two tensors */
    int variant, packed;                                         /* indices in the layer */
};

/* What a layer does beside its primitive, on strips that lie in the cache. */
struct onednn_fused {
    bool silu;     /* the activation is silu.c's, not oneDNN's */
    bool row_sums; /* the sum of every row, for the pool that is the next layer */
    bool mean;     /* of those sums: this is that pool */
    bool skipped;  /* a scale whose work the next layer does */
    int gate;      /* the skipped scale that comes first; -1: none */
};

/* Weights as a primitive wants them. Strips with the same desired format and output channels share them. */
struct onednn_packed {
    int first_channel;
    dnnl_memory_t weights, bias;
};

struct onednn_layer {
    const struct effnet_layer *layer;
    dnnl_data_type_t source_type, destination_type;
    int strip_count, variant_count, packed_count; /* of the next three, each with room for strip_count */
    struct onednn_strip *strips;
    struct onednn_variant *variants;
    struct onednn_packed *packed;
    int first_view; /* the layer's variants are a worker's views first_view .. + variant_count */
    /* Bytes into an arena. */
    size_t input_offsets[2],
        destination_offset; /* as layer->inputs; source and, where there is one, second */
    bool copies_residual;   /* else the residual lies where the output goes, and is added in place */
    bool own_mean;          /* a pool that mean.c runs: it has no variants */
    struct onednn_fused fused;
    char kernel[64];
    size_t weight_bytes, scratch_bytes;
};

/* Handles that one worker points at the strip in hand; gate is NULL but for scale, scratch where none is
 * needed. */
struct onednn_view {
    dnnl_memory_t source, gate, destination, scratch;
};

struct onednn_worker {
    dnnl_stream_t stream;
    struct onednn_view *views;
    char *arena; /* activations of the image that this worker runs alone; worker 0's is also that of an
                    image which all share; NULL for workers that never have one of their own */
    char *scratch;
    double *layer_us; /* time spent in each layer, for profiles */
};

struct onednn_unit {
    struct effnet_unit unit;
    char kernel[160];
};

struct backend_state {
    const effnet_model *model;
    const struct effnet_model_info *info;
    dnnl_data_type_t type; /* of weights and activations: dnnl_f32 or dnnl_bf16 */
    int max_batch;
    int features_layer; /* -1: none */
    int images_at_once; /* workers with an arena */
    dnnl_engine_t engine;
    struct pool *pool;
    struct onednn_layer *layers; /* [layer_count] */
    struct onednn_unit *units;   /* [unit_count] */
    int unit_count;
    struct onednn_worker *workers; /* one a thread of the pool */
    size_t arena_bytes, scratch_bytes;
    size_t sums_offset;     /* in an arena: sums of rows, [row][channels], of one layer at a time */
    void *pixel_table;      /* the normalised value of every byte in every channel, [3][256] of `type` */
    uint8_t *timing_pixels; /* [max_batch] images and their logits, made for the first timing */
    float *timing_logits;
    int64_t memory_bytes;
};

/* Reports a oneDNN failure on `what` (a layer's name); returns the status. */
int effnet_onednn_fail(struct effnet_error *error, dnnl_status_t status, const char *what);

/* strips.c: what a variant's primitive takes as its `what` number `index`: dnnl_query_src_md,
 * dnnl_query_dst_md, dnnl_query_weights_md (0: weights, 1: bias), dnnl_query_scratchpad_md (of no bytes where
 * it needs none). The descriptor belongs to the primitive. */
onednn_const_desc effnet_onednn_desc(const struct onednn_variant *variant, dnnl_query_t what, int index);

/* strips.c: the activation as a post-operation of whatever computes what it is applied to. */
dnnl_status_t effnet_onednn_append_activation(dnnl_post_ops_t post_ops, enum effnet_activation activation);

/* fuse.c: decides what layers do beside their primitives, and which layers make a unit. Needs layers[].layer
 * and the state's model and type; avx2: whether there are such instructions; each_layer: a unit a layer. */
void effnet_onednn_fuse(struct backend_state *state, bool avx2, bool each_layer);
/* What of that happens to a strip: before its primitive runs, and after. */
void effnet_onednn_before_strip(const struct backend_state *state, const struct onednn_layer *layer,
                                const struct onednn_strip *strip, char *arena);
void effnet_onednn_after_strip(const struct backend_state *state, const struct onednn_layer *layer,
                               const struct onednn_strip *strip, char *arena);

/* plan.c: where each tensor lies in an arena, and of which type it is. Needs only layers[].layer and .fused,
 * and the state's model and type; sets the offsets, types and copies_residual, and arena_bytes. */
int effnet_onednn_plan(struct backend_state *state, struct effnet_error *error);

/* strips.c: cuts a layer into at most max_strips strips of at least min_pixels pixels, creates what runs them
 * and packs the weights. To be called inside a task of the pool. */
int effnet_onednn_build_layer(struct backend_state *state, struct onednn_layer *layer, int max_strips,
                              int min_pixels, struct effnet_error *error);
void effnet_onednn_free_layer(struct onednn_layer *layer);

/* mean.c: of a map's first `channels` channels, from `map` on; and of a map whose rows' sums there are. */
void effnet_onednn_mean(const struct onednn_layer *layer, const char *map, int channels, char *to);
void effnet_onednn_mean_of_sums(const struct effnet_layer *layer, const float *sums, float *to);

/* run.c */
int effnet_onednn_run(struct backend_state *state, const uint8_t *pixels, int n, float *logits,
                      float *features, struct effnet_error *error);
int effnet_onednn_run_unit(struct backend_state *state, int index, int n, const float *const *inputs,
                           float *output, struct effnet_error *error);
int effnet_onednn_time(struct backend_state *state, int n, bool cold, double *elapsed_us,
                       struct effnet_error *error);
int effnet_onednn_profile(struct backend_state *state, int n, bool cold, double *unit_us,
                          struct effnet_error *error);
/* The value of each byte after normalisation, in the state's type: fills pixel_table. */
void effnet_onednn_fill_pixel_table(struct backend_state *state);

#endif
