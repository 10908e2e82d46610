/* The CUDA backend's own types: a network as a list of units on device tensors.
 *
 *   device.c   finding a device, being on it for a while, CUDA errors in words
 *   graph.c    CUDA graphs and their device time
 *   unit.c     one step of a network; ops/ has the kinds
 *   plan.c     layer table -> units and tensors, by what was measured
 *   tuning.c   what was measured, on disk and shipped
 *   tune.c     measuring it
 *   memory.c   one arena: lifetimes -> offsets, weights
 *   run.c      enqueueing, staging, passes
 *   decode.c   JPEGs to crops on the device
 *   jpegs.c    a session's decoder, and its crops on their way into a pass
 *   cudnn/     cuDNN's convolutions
 *   nvjpeg/    nvJPEG's library
 *   toolkit.c  where such libraries are found
 *   backend.c  the table of functions */
#ifndef EFFNET_BACKEND_CUDA_CUDA_INTERNAL_H
#define EFFNET_BACKEND_CUDA_CUDA_INTERNAL_H

#include "backend/backend.h"
#include "backend/cuda/unit.h"
#include "backend/lifetimes.h"

enum {
    CUDA_SLOTS = 2,   /* one computes while the next one's pixels travel */
    CUDA_GRAPHS = 17, /* of 65536 images, a half of them, ... 1 */
};

/* The device's side of a pass. Passes take the slots in turn. */
struct cuda_slot {
    uint8_t *pixels;                     /* [max_batch][crop][crop][3] */
    float *logits;                       /* [max_batch][classes] */
    cudaGraphExec_t graphs[CUDA_GRAPHS]; /* the whole network from `pixels` to `logits`, for max_batch images
                                            and for fewer; NULL from the first that is of one image on */
    cudaEvent_t uploaded, read;          /* the pixels have arrived; the network has read them */
};

/* The host's side: pinned memory. */
struct cuda_stage {
    uint8_t *pixels; /* [max_batch][crop][crop][3] */
    float *logits;   /* [max_batch][classes] */
    void *features;  /* fp16, [max_batch] of the layer's output; NULL where none is handed out */
    cudaEvent_t done;
    int images; /* of the pass under way; 0: none */
};

/* JPEGs that become crops without the host: decode.c's output, on a stream of its own. */
struct cuda_jpegs {
    struct cuda_decoder *decoder; /* NULL: not open */
    cudaStream_t stream;
    struct cuda_crops {
        uint8_t *crops;          /* [BACKEND_DECODE_BATCH or max_batch][crop][crop][3], on the device */
        cudaEvent_t made, taken; /* the crops are there; they were copied to a slot */
    } crops[2];                  /* one is filled while the other waits for its slot */
    int last;                    /* which was filled last */
};

struct backend_state {
    struct cuda_network network;
    struct cuda_device device;
    bool cudnn_only; /* plan cudnn: every convolution that is not 1x1 is cuDNN's */
    char description[320];

    struct cuda_unit *units;
    int unit_count;
    struct lifetime *tensors; /* fp16 NHWC activations of max_batch images; steps are units */
    int tensor_count;
    int image_tensor;    /* of the normalised image; -1: no unit reads it */
    int features_tensor; /* that is handed out beside the logits; -1: none is */

    unsigned char *arena; /* weights, activations, workspace, pixels and logits, in this order */
    size_t arena_bytes, activation_offset, workspace_offset, slot_offset;
    cudaStream_t stream, copy_stream;
    struct cuda_timer timer;
    struct cuda_slot slots[CUDA_SLOTS];
    struct cuda_stage stages[BACKEND_STAGES];
    struct cuda_jpegs jpegs;
    int passes;        /* begun so far, modulo CUDA_SLOTS */
    int copy_threads;  /* that bring a caller's pixels into pinned memory; */
    struct pool *pool; /* these, from the first call on that has many */
};

/* plan.c */
/* EFFNET_E_UNAVAILABLE where a layer is none that our kernels compute, or not for that batch. */
int cuda_network_check(const effnet_model *model, int max_batch, struct effnet_error *error);
/* Covers the network with units such that the time is least, by what `tuning` knows, and chooses what each
 * one runs. Fills units and tensors, also in part where it fails. */
int cuda_plan(struct backend_state *state, const struct tuning *tuning, struct effnet_error *error);
void cuda_plan_free(struct backend_state *state, bool abandoned);

/* tune.c */
/* Times every candidate of every unit that the network could be covered with, and puts the fastest into
 * `tuning`: the fastest of all, and the fastest that runs on every chip. Calls visit, which may be NULL,
 * after each unit. */
int cuda_tune_network(struct backend_state *state, struct tuning *tuning, effnet_tuned_visitor *visit,
                      void *context, struct effnet_error *error);

/* memory.c */
/* Of a slot's buffers, for max_batch images. */
size_t cuda_pixel_bytes(const struct cuda_network *network);
size_t cuda_logit_bytes(const struct cuda_network *network);
/* Allocates the arena, uploads the weights. EFFNET_E_NOMEM says what would fit. */
int cuda_memory_open(struct backend_state *state, struct effnet_error *error);

/* jpegs.c; as in struct backend, but for: */
int cuda_open_decoder(struct backend_state *state, struct effnet_error *error);
bool cuda_accepts(struct backend_state *state, const void *data, size_t size_bytes,
                  struct backend_jpeg *jpeg);
int cuda_decode(struct backend_state *state, const struct backend_jpeg *jpegs, int n,
                struct effnet_error *error);
/* The crops of the last n that were decoded are on their way to a slot, on the copy stream. */
int cuda_take_crops(struct backend_state *state, struct cuda_slot *slot, int n, struct effnet_error *error);
void cuda_jpegs_close(struct cuda_jpegs *jpegs, bool abandoned);

/* run.c */
/* Takes one that an earlier try has left half open. */
int cuda_slot_open(struct backend_state *state, struct cuda_slot *slot, struct effnet_error *error);
void cuda_slot_close(struct cuda_slot *slot);
void cuda_stage_close(struct cuda_stage *stage);
/* As in struct backend. */
int cuda_stage(struct backend_state *state, int index, uint8_t **pixels, struct effnet_error *error);
int cuda_start(struct backend_state *state, int index, int n, struct effnet_error *error);
int cuda_start_decoded(struct backend_state *state, int index, int n, struct effnet_error *error);
int cuda_finish(struct backend_state *state, int index, float *logits, float *features,
                struct effnet_error *error);
int cuda_run(struct backend_state *state, const uint8_t *pixels, int n, float *logits, float *features,
             struct effnet_error *error);
int cuda_run_unit(struct backend_state *state, int index, int n, const float *const *inputs, float *output,
                  struct effnet_error *error);
int cuda_time(struct backend_state *state, int n, bool cold, double *elapsed_us, struct effnet_error *error);
int cuda_time_upload(struct backend_state *state, int n, double *elapsed_us, struct effnet_error *error);
int cuda_profile(struct backend_state *state, int n, bool cold, double *unit_us, struct effnet_error *error);

#endif
