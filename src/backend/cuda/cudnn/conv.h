/* 2-D convolutions through cuDNN: NHWC fp16, weights [c_out][kernel][kernel][c_in / groups] fp16, sums in
 * fp32. Bias and activation are not in it: with them cuDNN's graph runs on fallback engines alone, 3 to 40
 * times slower.
 *
 * An engine may run only if
 *  - it gives an image the same bits at any place in the batch, on every run;
 *  - it sums in fp32 and does not transform its operands: no Winograd or FFT, whose transforms lose bits in
 * fp16;
 *  - it is precompiled and does without cuBLASLt: compiling one at run time takes 130 to 670 ms, at every
 * start, and cuBLASLt is 541 MB. */
#ifndef EFFNET_BACKEND_CUDA_CUDNN_CONV_H
#define EFFNET_BACKEND_CUDA_CUDNN_CONV_H

#include "backend/cuda/cudnn/graph.h"

/* The library and its handle on one device. One thread at a time. */
struct cudnn_context;

/* Loads cuDNN and opens it on the current CUDA device (about 70 ms). On failure *out is NULL;
 * EFFNET_E_UNAVAILABLE where cuDNN is missing or too old, or does not know the device. */
int cudnn_context_open(struct cudnn_context **out, struct effnet_error *error);
/* Takes NULL. Convolutions must be closed before. abandoned: frees host memory and calls nothing, for a
 * process that must not call CUDA any more. */
void cudnn_context_close(struct cudnn_context *context, bool abandoned);
/* "cuDNN 9.14.0"; lives as long as the context. */
const char *cudnn_context_name(const struct cudnn_context *context);

struct cudnn_conv;

/* One convolution, for which an engine is yet to be chosen. `layer` is whose, for messages; copied.
 * workspace_most: bytes of device memory that an engine may ask for. On failure *out is NULL. */
int cudnn_conv_open(struct cudnn_context *context, const struct cudnn_conv_shape *shape, const char *layer,
                    int64_t workspace_most, struct cudnn_conv **out, struct effnet_error *error);
/* Takes NULL; abandoned as above. */
void cudnn_conv_close(struct cudnn_conv *conv, bool abandoned);

/* Calls visit with the name of each engine, with its settings, that is worth a try, best first by cuDNN's own
 * heuristic, until it returns another status than EFFNET_OK. Some of them will turn out not to work. */
int cudnn_conv_candidates(const struct cudnn_conv *conv,
                          int (*visit)(const char *engine, void *context, struct effnet_error *error),
                          void *context, struct effnet_error *error);
/* Takes the engine of that name, or if that is NULL the first of the candidates that may run.
 * EFFNET_E_UNAVAILABLE where it cannot run the shape here, or may not. */
int cudnn_conv_choose(struct cudnn_conv *conv, const char *engine, struct effnet_error *error);
/* "ConvFwd_eng57_k2=3_k17=528", as cuDNN's own logs have it. */
const char *cudnn_conv_engine(const struct cudnn_conv *conv);
/* Device memory that cudnn_conv_run needs. */
int64_t cudnn_conv_workspace_bytes(const struct cudnn_conv *conv);

/* Enqueues y = x * w on `stream`. No allocation on the device and no synchronisation: it may be captured into
 * a CUDA graph, but run it once outside a capture first, since the first run loads the engine's kernels.
 * Calls with the pointers of the call before reuse its descriptor. `workspace` may be NULL if the engine
 * needs none. */
int cudnn_conv_run(struct cudnn_conv *conv, const void *x, const void *w, void *y, void *workspace,
                   cudaStream_t stream, struct effnet_error *error);

#endif
