/* Plain convolutions through cuDNN's graph API: the stem and the depthwise layers.
 *
 * Tensors are fp16 in memory and fp32 in the multiply-add chain; no bias, no activation (cuDNN's fused
 * engines measured 3 to 40 times slower, so the neighbouring kernels apply those).
 *   x [n][h][w][c_in]   w [c_out][kernel][kernel][c_in / groups]   y [n][out_h][out_w][c_out]
 * Every pointer is device memory aligned to 16 bytes.
 *
 * A plan is one engine of cuDNN with its knobs, for one shape and one batch. Only these engines may win:
 *  - deterministic ones, so that the same input gives the same bits;
 *  - those without stream-K, whose split of a sum depends on where a pixel lies in the batch, and not engine
 *    62, which did the same when tested. Under any
 *    one plan the logits of image i are then the same bits at every place in the batch and whatever the
 *    other images are. Two plans, so also two batches, may round differently: who wants the same bits for
 *    an image whatever comes with it runs every pass, also a partly filled one, with the plan of one batch;
 *  - those that sum in fp32, without Winograd or FFT, whose transforms lose bits in fp16;
 *  - precompiled ones that do not pull in cuBLASLt, unless `tune` asks for all: compiling one at run time
 *    takes 130 to 670 ms, at every start, and cuBLASLt is 541 MB.
 * Which of them is fastest is measured, once: the answer is kept on disk (cudnn_cache.h). */
#ifndef EFFNET_BACKEND_CUDA_CUDNN_CONV_H
#define EFFNET_BACKEND_CUDA_CUDNN_CONV_H

#include <cuda_runtime_api.h>

#include "effnet.h"

struct cudnn_conv_shape {
    int n;              /* images */
    int h, w, c_in;     /* input */
    int out_h, out_w;   /* output: (size + both pads - kernel) / stride + 1, rounded down */
    int c_out;          /* output channels */
    int groups;         /* 1, or c_in for depthwise; divides c_in and c_out */
    int kernel, stride; /* both square */
    int pad_top, pad_left, pad_bottom, pad_right; /* zeros around the input */
};

/* The library, its handle on one device, and the measured results that are known. One thread at a time. */
struct cudnn_context;

/* Loads cuDNN and opens it on the current CUDA device, which `device` describes (about 70 ms). It is part
 * of the key under which results are kept. On failure *out is NULL; EFFNET_E_UNAVAILABLE where cuDNN is
 * missing or too old, or does not know the device. */
int cudnn_context_open(const struct cudaDeviceProp *device, struct cudnn_context **out,
                       struct effnet_error *error);
/* Takes NULL. Plans must be destroyed before. Saves new results. */
void cudnn_context_close(struct cudnn_context *context);
/* Frees its host memory and calls nothing, for a process that must not call CUDA any more. Takes NULL. */
void cudnn_context_abandon(struct cudnn_context *context);
/* "cuDNN 9.14.0"; lives as long as the context. */
const char *cudnn_context_name(const struct cudnn_context *context);
/* Frees the device memory that timing took; the next timing takes it anew. */
void cudnn_context_release(struct cudnn_context *context);
/* To be called when all plans of a network are made: releases, saves new results, and lets another context
 * measure. A cache that cannot be written is no error. */
void cudnn_context_settle(struct cudnn_context *context);

/* Measured choices among our own kernels, kept with cuDNN's: `what` says all that a choice depends on besides
 * the device and cuDNN's version. choice is from 0 to 9998. Where recall returns false, the caller is to
 * measure: it has waited until no other context of this process does, and none will until this one settles.
 */
bool cudnn_context_recall(struct cudnn_context *context, const char *what, int *choice);
void cudnn_context_remember(struct cudnn_context *context, const char *what, int choice, double elapsed_us);

struct cudnn_plan_options {
    const char *layer;             /* whose plan it is, for messages; copied */
    int64_t workspace_limit_bytes; /* engines that need more are left out; 0 is CUDNN_WORKSPACE_LIMIT */
    bool tune; /* admits engines that are slow to build, and asks cuDNN's slow heuristics */
};

#define CUDNN_WORKSPACE_LIMIT ((int64_t)64 << 20)

struct cudnn_plan;

/* Makes the plan for `shape`: the one kept on disk, else the fastest by timing on this device, for which
 * device memory for w, x, y and the workspace is taken until cudnn_context_settle, as is the turn to measure
 * (a second context of the same thread would wait for ever). Must not run inside a
 * stream capture. On failure *out is NULL: EFFNET_E_UNAVAILABLE where no engine may or can run the shape,
 * EFFNET_E_NOMEM where timing does not fit into the device. */
int cudnn_plan_create(struct cudnn_context *context, const struct cudnn_conv_shape *shape,
                      const struct cudnn_plan_options *options, struct cudnn_plan **out,
                      struct effnet_error *error);
/* Takes NULL. */
void cudnn_plan_destroy(struct cudnn_plan *plan);
/* As cudnn_context_abandon. */
void cudnn_plan_abandon(struct cudnn_plan *plan);

struct cudnn_plan_info {
    char engine[160];        /* "ConvFwd_eng57_k2=3_k17=528", as cuDNN's own logs have it */
    int64_t workspace_bytes; /* device memory that cudnn_plan_run needs */
    bool cached;             /* taken from disk or from an equal layer, not timed now */
    bool runtime_compiled;   /* finalising took a compiler */
    double elapsed_us;       /* device time of one run when it was timed, inputs warm in L2 if they fit */
};

/* Lives as long as the plan. */
const struct cudnn_plan_info *cudnn_plan_describe(const struct cudnn_plan *plan);

/* Enqueues y = x * w on `stream`. No allocation and no synchronisation: it may be captured into a CUDA
 * graph, but run it once outside a capture first, since the first run loads the engine's kernels. Calls
 * with the pointers of the call before reuse its descriptor. `workspace` may be NULL if the plan needs
 * none. */
int cudnn_plan_run(struct cudnn_plan *plan, const void *x, const void *w, void *y, void *workspace,
                   cudaStream_t stream, struct effnet_error *error);

#endif
