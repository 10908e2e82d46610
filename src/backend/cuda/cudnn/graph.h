/* The graph API's descriptors behind conv.h: one convolution as an operation graph, the engines that may run
 * it, and an execution plan from an engine and its knobs. For cudnn/ and its tests only. */
#ifndef EFFNET_BACKEND_CUDA_CUDNN_GRAPH_H
#define EFFNET_BACKEND_CUDA_CUDNN_GRAPH_H

#include <cuda_runtime_api.h>

#include "backend/cuda/cudnn/library.h"

struct cudnn_conv_shape {
    int n;              /* images */
    int h, w, c_in;     /* input */
    int out_h, out_w;   /* output: (size + both pads - kernel) / stride + 1, rounded down */
    int c_out;          /* output channels */
    int groups;         /* 1, or c_in for depthwise; divides c_in and c_out */
    int kernel, stride; /* both square */
    int pad_top, pad_left, pad_bottom, pad_right; /* zeros around the input */
};

/* What plans are made for: a handle on a device that is there, or the properties of one that is not (then
 * everything works but running a plan). */
struct cudnn_target {
    const struct cudnn_library *library;
    cudnnHandle_t handle;                /* NULL: described only */
    cudnnBackendDescriptor_t properties; /* NULL: handle counts */
};

/* A handle on the current device. */
int cudnn_target_open(const struct cudnn_library *library, struct cudnn_target *target,
                      struct effnet_error *error);
/* A device that is not there, from its properties in cuDNN's own JSON (cuDNN 9.8 or newer). */
int cudnn_target_describe(const struct cudnn_library *library, const char *properties_json,
                          struct cudnn_target *target, struct effnet_error *error);
/* Takes a zeroed or half-open target. */
void cudnn_target_close(struct cudnn_target *target);

/* One value of a descriptor. */
cudnnStatus_t cudnn_get(const struct cudnn_target *target, cudnnBackendDescriptor_t from,
                        cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, void *value);

enum { CUDNN_MAX_KNOBS = 16 };

/* An engine of the convolution, by cuDNN's global index, and what its knobs are set to. */
struct cudnn_config {
    int64_t engine;
    int knob_count; /* knobs that are not named keep the engine's default */
    struct cudnn_knob {
        int type; /* cudnnBackendKnobType_t */
        int64_t value;
    } knobs[CUDNN_MAX_KNOBS];
};

/* "ConvFwd_eng57_k2=3_k17=528" */
void cudnn_config_name(const struct cudnn_config *config, char *name, size_t name_size);
/* Reads such a name; false where it is none. */
bool cudnn_config_parse(const char *name, struct cudnn_config *config);

struct cudnn_config_list {
    struct cudnn_config *items; /* owned; release with cudnn_config_list_free */
    int count, capacity;
};

void cudnn_config_list_free(struct cudnn_config_list *list);

/* The operation graph of one convolution. */
struct cudnn_graph {
    const struct cudnn_target *target;
    const char *layer; /* not owned */
    cudnnBackendDescriptor_t graph;
};

/* Checks the shape and builds its graph. */
int cudnn_graph_build(const struct cudnn_target *target, const struct cudnn_conv_shape *shape,
                      const char *layer, struct cudnn_graph *out, struct effnet_error *error);
void cudnn_graph_free(struct cudnn_graph *graph);

/* One engine of the graph, by global index; EFFNET_E_UNAVAILABLE where it does not serve graph or device. */
int cudnn_engine_build(const struct cudnn_graph *graph, int64_t index, cudnnBackendDescriptor_t *out,
                       struct effnet_error *error);

/* cuDNN's quick heuristic for the graph. */
int cudnn_heuristic_build(const struct cudnn_graph *graph, cudnnBackendDescriptor_t *out,
                          struct effnet_error *error);

/* What an engine says of itself. */
struct cudnn_engine_notes {
    bool nondeterministic;
    bool imprecise; /* sums in less than fp32, or transforms its operands (Winograd, FFT), or unknown */
    bool reordered; /* wants its weights in another order */
    bool runtime_compiled, cublaslt;
};

bool cudnn_engine_notes_read(const struct cudnn_target *target, cudnnBackendDescriptor_t engine,
                             struct cudnn_engine_notes *notes);

/* Appends, without duplicates, what cuDNN's quick heuristic recommends, best first, and every engine: with
 * its default knobs, and with a grid of knob values where that stays small. Nothing is built yet: many of
 * them will turn out not to work, or not to be allowed. */
int cudnn_graph_candidates(const struct cudnn_graph *graph, struct cudnn_config_list *list,
                           struct effnet_error *error);

/* A finalised execution plan. */
struct cudnn_executable {
    const struct cudnn_target *target;
    cudnnBackendDescriptor_t config, plan;
    int64_t workspace_bytes;
};

/* Builds the plan of one configuration. EFFNET_E_UNAVAILABLE where the engine cannot run this graph on this
 * device or may not (see conv.h). */
int cudnn_executable_build(const struct cudnn_graph *graph, const struct cudnn_config *config,
                           struct cudnn_executable *out, struct effnet_error *error);
/* Takes a zeroed one. */
void cudnn_executable_free(struct cudnn_executable *executable);

enum { CUDNN_POINTERS = 4 }; /* x, w, y, workspace */

/* The pointers of a run, as cuDNN wants them. */
int cudnn_pack_build(const struct cudnn_target *target, const char *layer,
                     const void *const pointers[CUDNN_POINTERS], cudnnBackendDescriptor_t *out,
                     struct effnet_error *error);
void cudnn_descriptor_free(const struct cudnn_target *target, cudnnBackendDescriptor_t *descriptor);

#endif
