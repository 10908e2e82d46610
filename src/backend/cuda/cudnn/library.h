/* NVIDIA's cuDNN, loaded when a plan first needs it and never linked: the program starts without it. */
#ifndef EFFNET_BACKEND_CUDA_CUDNN_LIBRARY_H
#define EFFNET_BACKEND_CUDA_CUDNN_LIBRARY_H

#include <cudnn_backend.h>

#include "effnet.h"

/* Every function of libcudnn_graph that we call: member, symbol. */
#define CUDNN_SYMBOLS(X)                                                                                     \
    X(create, cudnnCreate)                                                                                   \
    X(destroy, cudnnDestroy)                                                                                 \
    X(set_stream, cudnnSetStream)                                                                            \
    X(get_version, cudnnGetVersion)                                                                          \
    X(get_cudart_version, cudnnGetCudartVersion)                                                             \
    X(get_error_string, cudnnGetErrorString)                                                                 \
    X(get_last_error_string, cudnnGetLastErrorString)                                                        \
    X(create_descriptor, cudnnBackendCreateDescriptor)                                                       \
    X(destroy_descriptor, cudnnBackendDestroyDescriptor)                                                     \
    X(set_attribute, cudnnBackendSetAttribute)                                                               \
    X(get_attribute, cudnnBackendGetAttribute)                                                               \
    X(finalize, cudnnBackendFinalize)                                                                        \
    X(execute, cudnnBackendExecute)

struct cudnn_library {
#define CUDNN_MEMBER(member, symbol) __typeof__(symbol) *member;
    CUDNN_SYMBOLS(CUDNN_MEMBER)
#undef CUDNN_MEMBER
    size_t version; /* of the library that was loaded: 91400 is 9.14.0 */
};

/* Finds and loads cuDNN 9 once a process, and never unloads it. With EFFNET_CUDNN set (the library itself
 * or the folder that holds it) only that is tried; otherwise the loader's own search, then CUDA's usual
 * folders. Python's nvidia-cudnn packages put the library in <site-packages>/nvidia/cudnn/lib, which the
 * loader does not search: EFFNET_CUDNN names it. EFFNET_E_UNAVAILABLE says what to install. Thread-safe. */
int cudnn_library_load(const struct cudnn_library **out, struct effnet_error *error);

/* Makes sure that cuBLASLt is there. Some of cuDNN's engines load it as soon as cuDNN looks at them, be it to
 * recommend others, and abort the process if they do not find it; so this comes first. An engine that was
 * chosen before does without it. EFFNET_E_UNAVAILABLE says what to install. Thread-safe. */
int cudnn_library_need_cublaslt(const struct cudnn_library *library, struct effnet_error *error);

/* Fails with cuDNN's own words for `status`; `layer` is whose convolution it was (or what, if not one), and
 * `what` the step. Not supported and not initialised are EFFNET_E_UNAVAILABLE, failed allocations
 * EFFNET_E_NOMEM, the rest EFFNET_E_INTERNAL. */
int cudnn_fail(const struct cudnn_library *library, cudnnStatus_t status, const char *layer, const char *what,
               struct effnet_error *error);

#endif
