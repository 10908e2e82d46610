/* NVIDIA's nvJPEG, a part of the CUDA toolkit, loaded when it is first asked for and never linked. What we
 * use of its interface is declared here, as NVIDIA's documentation gives it (docs.nvidia.com/cuda/nvjpeg;
 * versions 12.1 to 13.2 agree), so that a build does not want its header. */
#ifndef EFFNET_BACKEND_CUDA_NVJPEG_LIBRARY_H
#define EFFNET_BACKEND_CUDA_NVJPEG_LIBRARY_H

#include <cuda_runtime_api.h>
#include <library_types.h>
#include <stddef.h>

#include "effnet.h"

typedef enum {
    NVJPEG_STATUS_SUCCESS = 0,
    NVJPEG_STATUS_ALLOCATOR_FAILURE = 5,
    NVJPEG_STATUS_ARCH_MISMATCH = 7,
} nvjpegStatus_t;
enum { NVJPEG_BACKEND_HARDWARE = 3, NVJPEG_OUTPUT_RGBI = 5, NVJPEG_MAX_COMPONENT = 4 };
/* Chroma as libjpeg's "fancy" upsampling makes it; from 12.1 on. */
enum { NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION = 32 };

typedef struct {
    unsigned char *channel[NVJPEG_MAX_COMPONENT];
    size_t pitch[NVJPEG_MAX_COMPONENT]; /* bytes */
} nvjpegImage_t;
typedef struct nvjpegHandle *nvjpegHandle_t;
typedef struct nvjpegJpegState *nvjpegJpegState_t;
typedef struct nvjpegJpegStream *nvjpegJpegStream_t;

/* Every function that we call: member, symbol, parameters. All return nvjpegStatus_t. */
#define NVJPEG_SYMBOLS(X)                                                                                    \
    X(get_property, nvjpegGetProperty, (libraryPropertyType type, int *value))                               \
    X(create, nvjpegCreateEx,                                                                                \
      (int backend, void *device_allocator, void *pinned_allocator, unsigned flags, nvjpegHandle_t *handle)) \
    X(destroy, nvjpegDestroy, (nvjpegHandle_t handle))                                                       \
    X(state_create, nvjpegJpegStateCreate, (nvjpegHandle_t handle, nvjpegJpegState_t * state))               \
    X(state_destroy, nvjpegJpegStateDestroy, (nvjpegJpegState_t state))                                      \
    X(stream_create, nvjpegJpegStreamCreate, (nvjpegHandle_t handle, nvjpegJpegStream_t * stream))           \
    X(stream_destroy, nvjpegJpegStreamDestroy, (nvjpegJpegStream_t stream))                                  \
    X(parse_header, nvjpegJpegStreamParseHeader,                                                             \
      (nvjpegHandle_t handle, const unsigned char *data, size_t bytes, nvjpegJpegStream_t stream))           \
    X(batch_supported, nvjpegDecodeBatchedSupported,                                                         \
      (nvjpegHandle_t handle, nvjpegJpegStream_t stream, int *reason_against))                               \
    X(batch_initialize, nvjpegDecodeBatchedInitialize,                                                       \
      (nvjpegHandle_t handle, nvjpegJpegState_t state, int batch, int cpu_threads, int output_format))       \
    X(batch_decode, nvjpegDecodeBatched,                                                                     \
      (nvjpegHandle_t handle, nvjpegJpegState_t state, const unsigned char *const *data,                     \
       const size_t *bytes, nvjpegImage_t *images, cudaStream_t stream))

struct nvjpeg_library {
#define NVJPEG_MEMBER(member, symbol, parameters) nvjpegStatus_t(*member) parameters;
    NVJPEG_SYMBOLS(NVJPEG_MEMBER)
#undef NVJPEG_MEMBER
    int version; /* 1000 * major + minor: 13000 */
};

/* Finds and loads nvJPEG 12.1 or newer once a process, and never unloads it. With EFFNET_NVJPEG set (the
 * library itself) only that is tried; otherwise the loader's own search, then CUDA's usual folders.
 * EFFNET_E_UNAVAILABLE says what to install. Thread-safe. */
int nvjpeg_library_load(const struct nvjpeg_library **out, struct effnet_error *error);

/* Fails with nvJPEG's status in words; `what` is the step. */
int nvjpeg_fail(nvjpegStatus_t status, const char *what, struct effnet_error *error);

#endif
