/* The CUDA backend's own types: a network as a list of units on device tensors.
 *
 *   device.c       finding a device, being on it for a while, CUDA errors in words
 *   network.c      layer table -> units and tensors
 *   first_block.c  the first three layers as one unit
 *   memory.c       one arena: lifetimes -> offsets, weights upload
 *   choose.c       which cuDNN engine or configuration of ours a unit runs
 *   run.c          enqueueing, staging, passes
 *   graph.c        CUDA graphs and their device time
 *   backend.c      the table of functions */
#ifndef EFFNET_BACKEND_CUDA_CUDA_INTERNAL_H
#define EFFNET_BACKEND_CUDA_CUDA_INTERNAL_H

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "activation.h"
#include "backend/backend.h"
#include "backend/cuda/cudnn_conv.h"
#include "common/error.h"
#include "last_error.h"

/* The kernels count as the library does. */
static inline enum activation cuda_activation(enum effnet_activation activation)
{
    _Static_assert((int)EFFNET_ACT_NONE == ACTIVATION_NONE && (int)EFFNET_ACT_RELU == ACTIVATION_RELU &&
                       (int)EFFNET_ACT_RELU6 == ACTIVATION_RELU6 && (int)EFFNET_ACT_SILU == ACTIVATION_SILU &&
                       (int)EFFNET_ACT_GELU == ACTIVATION_GELU &&
                       (int)EFFNET_ACT_GELU_RELU == ACTIVATION_GELU_RELU,
                   "in the same order");
    return (enum activation)activation;
}

/* ---------------------------------------------------------------- device.c */

enum { CUDA_LOWEST_CAPABILITY = 80 }; /* 10 * major + minor: mma.sync with fp16, cp.async */

struct cuda_device {
    int index;
    CUcontext context; /* its primary one, which the runtime uses; NULL: not open */
    struct cudaDeviceProp properties;
};

/* Finds device `index`, starts and describes it. The calling thread's current device stays what it is.
 * EFFNET_E_UNAVAILABLE where there is no driver, no such device, it is older than CUDA_LOWEST_CAPABILITY, or
 * another process has it to itself; EFFNET_E_NOMEM where its memory is full. On failure its context is NULL;
 * there is nothing to close. */
int cuda_device_open(int index, struct cuda_device *device, struct effnet_error *error);
/* Makes the device the calling thread's current one until cuda_device_leave, which brings back what was.
 * EFFNET_E_UNAVAILABLE in a child of the process that opened it. */
int cuda_device_enter(const struct cuda_device *device, struct effnet_error *error);
void cuda_device_leave(void);

/* A process that is forked from one that uses CUDA must not call it (it fails, or waits for ever). Whether
 * this is one; cuda_process_check fails in words then, else notes that this process uses CUDA. */
bool cuda_is_inherited(void);
int cuda_process_check(struct effnet_error *error);

/* Fails with CUDA's own words for `status`, which cudaGetLastError() then does not tell any more; `what` is
 * the layer or the step. */
int cuda_fail(struct effnet_error *error, cudaError_t status, const char *what);

/* Returns from the calling function on failure. */
#define CUDA_TRY(call, what)                                                                                 \
    do {                                                                                                     \
        cudaError_t status_ = (call);                                                                        \
        if (status_ != cudaSuccess) return cuda_fail(error, status_, what);                                  \
    } while (0)

#define EFFNET_TRY(call)                                                                                     \
    do {                                                                                                     \
        int status_ = (call);                                                                                \
        if (status_ != EFFNET_OK) return status_;                                                            \
    } while (0)

void cuda_devices(void (*visit)(const struct effnet_device *, void *), void *context);

/* ---------------------------------------------------------------- graph.c */

/* Puts call number `call` onto `stream`. */
typedef int cuda_enqueue(void *context, int call, cudaStream_t stream, struct effnet_error *error);
/* A graph of `calls` calls, one after the other; the caller destroys it. */
int cuda_capture(cudaStream_t stream, cuda_enqueue *enqueue, void *context, int calls, cudaGraphExec_t *out,
                 struct effnet_error *error);

struct cuda_timer {
    cudaStream_t stream; /* not owned */
    cudaEvent_t start, stop;
    void *flush; /* larger than L2, for cold timings; NULL until asked for */
    size_t flush_bytes;
};

int cuda_timer_open(cudaStream_t stream, const struct cudaDeviceProp *device, struct cuda_timer *timer,
                    struct effnet_error *error);
/* Takes a zeroed or half-open one. */
void cuda_timer_close(struct cuda_timer *timer);
/* Device time of one launch of a graph, with warm caches or with cold ones. */
int cuda_time_graph(struct cuda_timer *timer, cudaGraphExec_t graph, bool cold, double *elapsed_us,
                    struct effnet_error *error);

/* ---------------------------------------------------------------- units and tensors */

/* fp16 NHWC activations of max_batch images, live from the unit that writes them to the last that reads
 * them. */
struct cuda_tensor {
    size_t bytes, offset; /* offset in the activations part of the arena */
    int first_unit, last_unit;
};

enum cuda_unit_kind {
    CUDA_UNIT_FIRST_BLOCK,
    CUDA_UNIT_CONV,
    CUDA_UNIT_DEPTHWISE,
    CUDA_UNIT_POINTWISE,
    CUDA_UNIT_POOL,
    CUDA_UNIT_LINEAR
};

struct cuda_unit {
    struct effnet_unit unit; /* unit.kernel points at `kernel` */
    char kernel[224];
    enum cuda_unit_kind kind;
    const struct effnet_layer *layer; /* unit.first */
    int input, output, residual; /* tensors; input -1: the pixels, residual -1: none, output -1: the logits */

    void *weight;     /* device; half, fp32 for CUDA_UNIT_DEPTHWISE, its own form for CUDA_UNIT_FIRST_BLOCK */
    float *bias;      /* device */
    bool weight_low;  /* CUDA_UNIT_POINTWISE: the weights come in two fp16 parts */
    void *input_bias; /* device, half [2][k]: the previous layer's bias where unit.raw_input */
    enum activation input_activation; /* and its activation */
    struct cudnn_plan *plan;          /* CUDA_UNIT_CONV */
    int config;                       /* of our own kernel, of the other kinds */
};

enum {
    CUDA_SLOTS = 2,   /* passes under way at once: one computes while the next one's pixels travel */
    CUDA_GRAPHS = 17, /* of 65536 images, a half of them, ... 1 */
};

struct cuda_slot {
    uint8_t *host_pixels, *pixels;       /* pinned and device, [max_batch][crop][crop][3] */
    float *host_logits, *logits;         /* [max_batch][classes] */
    cudaGraphExec_t graphs[CUDA_GRAPHS]; /* the whole network from `pixels` to `logits`, for max_batch images
                                            and for fewer; NULL from the first that is of one image on */
    cudaEvent_t uploaded, done;
    int images; /* of the pass under way; 0: none */
    float *destination;
};

struct backend_state {
    const effnet_model *model;
    const struct effnet_model_info *info;
    struct cuda_device device;
    int max_batch;
    bool tune;
    bool cudnn_only;       /* plan cudnn: every convolution that is not 1x1 is cuDNN's */
    bool first_block;      /* the first three layers are one unit */
    int *depthwise_config; /* of our kernel for each layer; -1: cuDNN runs it, or it is no depthwise layer */
    char description[320];

    struct cuda_unit *units;
    int unit_count;
    struct cuda_tensor *tensors;
    int tensor_count;

    unsigned char *arena; /* weights, activations, workspace, pixels and logits, in this order */
    size_t arena_bytes, activation_offset, workspace_offset, slot_offset;
    struct cudnn_context *cudnn;
    cudaStream_t stream, copy_stream;
    struct cuda_timer timer;
    struct cuda_slot slots[CUDA_SLOTS];
};

/* network.c */
/* EFFNET_E_UNAVAILABLE where a layer is none that our kernels compute, or not for that batch. */
int cuda_network_check(const effnet_model *model, int max_batch, struct effnet_error *error);
/* Fills units and tensors. */
int cuda_network_plan(struct backend_state *state, struct effnet_error *error);
/* Frees them again, for another plan. */
void cuda_network_forget(struct backend_state *state);

/* memory.c */
/* Offsets for all tensors such that tensors alive together do not overlap; returns the bytes needed. */
size_t cuda_place_tensors(struct cuda_tensor *tensors, int count);
/* Of a slot's buffers, for max_batch images. */
size_t cuda_pixel_bytes(const struct backend_state *state);
size_t cuda_logit_bytes(const struct backend_state *state);
/* Before anything is timed: whether the planned units can get their memory, and timing what it takes (a
 * layer's tensors, which the arena holds too, and the largest workspace). EFFNET_E_NOMEM says what would fit.
 */
int cuda_memory_check(struct backend_state *state, struct effnet_error *error);
/* Allocates the arena, uploads the weights. workspace_bytes: the largest that a unit asks for. */
int cuda_memory_open(struct backend_state *state, struct effnet_error *error);
void *cuda_tensor_data(const struct backend_state *state, int tensor);

/* first_block.c */
struct first_block_args;
/* Whether the first three layers, and the pixels, are such as kernels/first_block computes. */
bool cuda_first_block_fits(const struct backend_state *state);
/* All but the pointers. */
void cuda_first_block_shape(const struct backend_state *state, int images, struct first_block_args *args);
int cuda_first_block_upload(const struct backend_state *state, void *device, struct effnet_error *error);
/* Fills the pixels of n images with what the normalised tensor was made from, rounded to 8 bits. */
int cuda_first_block_set_pixels(const struct backend_state *state, int n, const float *tensor,
                                uint8_t *device, struct effnet_error *error);

/* choose.c: cuDNN plans and our kernels' configurations for every unit, from the cache or by timing. */
/* Before cuda_network_plan: decides between cuDNN and our kernel for each depthwise layer. */
int cuda_choose_depthwise(struct backend_state *state, struct effnet_error *error);
/* Before cuda_memory_open: makes the cuDNN plans. */
int cuda_choose_convolutions(struct backend_state *state, struct effnet_error *error);
/* After it: chooses configurations, names what every unit runs, and saves what was measured. */
int cuda_choose_kernels(struct backend_state *state, struct effnet_error *error);

/* run.c. The arguments of a unit's kernel for the first `images` of a pass. */
struct pointwise_args;
void cuda_pointwise_arguments(const struct backend_state *state, const struct cuda_unit *unit, int images,
                              struct pointwise_args *args);
struct depthwise_args;
/* All but the pointers. */
void cuda_depthwise_shape(const struct effnet_layer *layer, int images, struct depthwise_args *args);
struct linear_args;
void cuda_linear_arguments(const struct backend_state *state, const struct cuda_unit *unit,
                           const struct cuda_slot *slot, int images, struct linear_args *args);
void cuda_first_block_arguments(const struct backend_state *state, const struct cuda_unit *unit,
                                const struct cuda_slot *slot, int images, struct first_block_args *args);
/* On failure it is closed. */
int cuda_slot_open(struct backend_state *state, struct cuda_slot *slot, struct effnet_error *error);
void cuda_slot_close(struct cuda_slot *slot);
int cuda_run(struct backend_state *state, const uint8_t *pixels, int n, float *logits,
             struct effnet_error *error);
int cuda_run_unit(struct backend_state *state, int index, int n, const float *input, const float *residual,
                  float *output, struct effnet_error *error);
int cuda_time(struct backend_state *state, int n, bool cold, double *elapsed_us, struct effnet_error *error);
int cuda_profile(struct backend_state *state, int n, bool cold, double *unit_us, struct effnet_error *error);

#endif
