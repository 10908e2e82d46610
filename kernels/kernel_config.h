/* The one interface of kernels that come in several configurations. A family computes one operation; its
 * configurations compute the same function with other tiles, or in another way. Which is fastest depends on
 * shape and chip, so the caller times those that fit, or chooses by cost_us.
 *
 * `args` is a pointer to the family's struct of arguments: struct pointwise_args for pointwise_kernels, and
 * so on. */
#ifndef EFFNET_KERNELS_KERNEL_CONFIG_H
#define EFFNET_KERNELS_KERNEL_CONFIG_H

#include <cuda_runtime_api.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kernel_config {
    const char *name; /* for people and for tuning keys ("tiled 128x96x32x4"); unique in its family */
    int architecture; /* 0: compute capability 8.0 and up; 90: 9.0 and nothing else (sm_90a) */
    /* Whether it computes args that are valid, on a device of its architecture. */
    bool (*fits)(const void *args);
    /* For args that fit: dynamic shared memory of a block; the launch. */
    int (*shared_bytes)(const void *args);
    cudaError_t (*launch)(const void *args, cudaStream_t stream);
    /* An estimate of the time for args that fit, on a chip of so many SMs; NULL: there is none. */
    double (*cost_us)(const void *args, int sms);
    /* For args that are valid: the parts of the sums that it takes along (depthwise.h); NULL: it takes none.
     */
    int (*sum_parts)(const void *args);
};

enum { KERNEL_LISTS_MAX = 4 };

struct kernel_family {
    const char *name;
    bool (*valid)(const void *args); /* whether args describe something that the family may compute */
    /* The last entry of a list has no name. NULL: no more lists. */
    const struct kernel_config *lists[KERNEL_LISTS_MAX];
};

/* Configurations are numbered from 0, list after list. */
int kernel_count(const struct kernel_family *family);
/* NULL where there is none of that number. */
const struct kernel_config *kernel_get(const struct kernel_family *family, int index);
/* -1 where there is none of that name. */
int kernel_find(const struct kernel_family *family, const char *name);
/* Whether there is such a configuration and it computes args on the current device. */
bool kernel_fits(const struct kernel_family *family, int index, const void *args);
/* Enqueues it on the current device: no allocation, no synchronisation, may be captured.
 * cudaErrorInvalidValue where it does not fit, else what the launch returned. */
cudaError_t kernel_launch(const struct kernel_family *family, int index, const void *args,
                          cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
