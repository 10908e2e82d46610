/* The backend for integer networks, on the CPU. One image goes through the layers one after the other, each
 * cut into tasks; sums are exact, so it does not matter to the result how they are cut. */
#ifndef EFFNET_BACKEND_INT8_INT8_H
#define EFFNET_BACKEND_INT8_INT8_H

#include "backend/backend.h"
#include "backend/int8/kernels.h"
#include "common/thread_pool.h"

struct int8_layer {
    const struct effnet_layer *layer;
    const struct int8_kernels *kernels; /* of depthwise layers that the best ones cannot, the plain ones */
    struct int8_dense dense;            /* of conv, pointwise, linear */
    struct int8_depthwise depthwise;
    struct int8_end scale; /* of scale: multipliers, and how its output is clipped */
    void *memory;          /* what these point into */
    size_t memory_bytes;
    size_t input_offsets[2], output_offset; /* in an arena */
    int strip, strips;                      /* pixels, or a depthwise layer's rows, of a task; how many */
    int slice,
        slices; /* groups, blocks, or a pool's channels, of a task; how many. All tasks: strips * slices */
    size_t scratch_bytes;
    char kernel[64];
};

struct int8_worker {
    char *arena; /* of the image that this worker runs alone; worker 0's is also that of an image which all
                    share; NULL for workers that never have one of their own */
    char *scratch;
    double *layer_us; /* time spent in each layer, for profiles */
};

struct backend_state {
    const effnet_model *model;
    const struct effnet_model_info *info;
    const struct int8_kernels *kernels;
    int max_batch;
    int features_layer; /* -1: none */
    int images_at_once; /* workers with an arena */
    struct pool *pool;
    struct int8_layer *layers;   /* [layer_count] */
    struct effnet_unit *units;   /* [layer_count] */
    struct int8_worker *workers; /* one a thread of the pool */
    size_t arena_bytes, scratch_bytes;
    uint8_t *timing_pixels; /* [max_batch] images and their logits, made for the first timing */
    float *timing_logits;
    int64_t memory_bytes;
};

/* layer.c: bytes of one value of the layer's output; */
size_t effnet_int8_out_bytes(const struct effnet_layer *layer);
/* packs a layer's weights and cuts it into tasks for so many threads; */
int effnet_int8_build_layer(struct int8_layer *to, const struct effnet_layer *layer,
                            const struct int8_kernels *kernels, int threads, struct effnet_error *error);
void effnet_int8_free_layer(struct int8_layer *layer);
/* and runs one of them, between tensors in an arena. */
void effnet_int8_run_task(const struct int8_layer *layer, int task, char *arena, char *scratch);

/* run.c */
int effnet_int8_run(struct backend_state *state, const uint8_t *pixels, int n, float *logits, float *features,
                    struct effnet_error *error);
int effnet_int8_run_unit(struct backend_state *state, int index, int n, const float *const *inputs,
                         float *output, struct effnet_error *error);
int effnet_int8_time(struct backend_state *state, int n, bool cold, double *elapsed_us,
                     struct effnet_error *error);
int effnet_int8_profile(struct backend_state *state, int n, bool cold, double *unit_us,
                        struct effnet_error *error);

/* backend.c: the backend with other kernels than the best ones, for tests; NULL: the best. Not while sessions
 * are opened. */
void effnet_int8_use_kernels(const struct int8_kernels *kernels);

#endif
