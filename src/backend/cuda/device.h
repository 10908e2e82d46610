/* A device, CUDA's errors in words, and CUDA graphs with their device time. */
#ifndef EFFNET_BACKEND_CUDA_DEVICE_H
#define EFFNET_BACKEND_CUDA_DEVICE_H

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "common/error.h"
#include "effnet.h"
#include "last_error.h"

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

/* A process that is forked from one that uses CUDA must not call it (it fails, or waits for ever). Fails in
 * words where this is one, else notes that this process uses CUDA. */
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

#endif
