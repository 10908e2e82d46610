/* What cudnn_conv.c and cudnn_tune.c share; cudnn_conv.h is the interface. */
#ifndef EFFNET_BACKEND_CUDA_CUDNN_CONTEXT_H
#define EFFNET_BACKEND_CUDA_CUDNN_CONTEXT_H

#include "backend/cuda/cudnn_cache.h"
#include "backend/cuda/cudnn_conv.h"
#include "backend/cuda/cudnn_graph.h"

enum { CUDNN_TIMINGS = 7 };

/* Device memory, a stream and events to time engines with; made when first needed. */
struct cudnn_scratch {
    void *memory;
    size_t size_bytes;
    cudaStream_t stream;
    cudaEvent_t events[CUDNN_TIMINGS + 1];
};

struct cudnn_context {
    struct cudnn_target target;
    struct cudnn_cache cache;
    struct cudnn_scratch scratch;
    char device[160]; /* as the cache's key has it */
    char name[32];
    bool measures; /* its turn, until it has settled (cudnn_conv.c) */
};

/* cudnn_context_open on a target of one's own, which the context then owns, also on failure. */
int cudnn_context_open_on(const struct cudnn_target *target, const char *device, struct cudnn_context **out,
                          struct effnet_error *error);

/* Enqueues one run on `stream`. */
int cudnn_execute(struct cudnn_context *context, const struct cudnn_executable *executable,
                  cudnnBackendDescriptor_t pack, cudaStream_t stream, const char *layer,
                  struct effnet_error *error);

/* One engine that was tried. */
struct cudnn_trial {
    const struct cudnn_config *config;
    const struct cudnn_executable *executable; /* NULL: not built */
    double build_ms, elapsed_us;               /* elapsed_us: 0 where it was not timed */
    bool rough;                                /* far behind the best so far: one run, launch included */
    const char *refused;                       /* why it is out, or NULL */
};

typedef void cudnn_trial_visitor(const struct cudnn_trial *trial, void *visitor_context);

/* Times what may run (cudnn_conv.h) and leaves the fastest in *entry (all but its key) and *executable.
 * `visit`, if not NULL, is told of each engine. */
int cudnn_tune(struct cudnn_context *context, const struct cudnn_graph *graph,
               const struct cudnn_conv_shape *shape, const struct cudnn_plan_options *options,
               cudnn_trial_visitor *visit, void *visitor_context, struct cudnn_cache_entry *entry,
               struct cudnn_executable *executable, struct effnet_error *error);

void cudnn_scratch_free(struct cudnn_scratch *scratch);

#endif
