/* Finding a device, and CUDA's errors in words. */
#include <stdio.h>

#include "backend/cuda/cuda_internal.h"

int cuda_fail(struct effnet_error *error, cudaError_t status, const char *what)
{
    const int code = status == cudaErrorMemoryAllocation ? EFFNET_E_NOMEM : EFFNET_E_INTERNAL;
    return effnet_fail(error, code, "%s: CUDA: %s (%s)", what, cudaGetErrorString(status),
                       cudaGetErrorName(status));
}

/* How many devices there are, or why none can be counted. */
static int count_devices(int *count, struct effnet_error *error)
{
    const cudaError_t status = cudaGetDeviceCount(count);
    if (status == cudaSuccess && *count > 0) return EFFNET_OK;
    *count = 0;
    if (status == cudaSuccess || status == cudaErrorNoDevice)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "cuda: no NVIDIA GPU in this machine");
    if (status == cudaErrorInsufficientDriver)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "cuda: no NVIDIA driver, or one older than CUDA %d.%d needs: install or update it",
                           CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    return effnet_fail(error, EFFNET_E_UNAVAILABLE, "cuda: %s", cudaGetErrorString(status));
}

static int check_capability(int index, const struct cudaDeviceProp *p, struct effnet_error *error)
{
    if (10 * p->major + p->minor >= CUDA_LOWEST_CAPABILITY) return EFFNET_OK;
    return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                       "cuda:%d: %s has compute capability %d.%d; %d.%d or newer is needed", index, p->name,
                       p->major, p->minor, CUDA_LOWEST_CAPABILITY / 10, CUDA_LOWEST_CAPABILITY % 10);
}

int cuda_device_open(int index, struct cudaDeviceProp *properties, struct effnet_error *error)
{
    int count;
    EFFNET_TRY(count_devices(&count, error));
    if (index < 0 || index >= count)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "cuda:%d: no such device; there %s %d, counted from 0", index,
                           count == 1 ? "is" : "are", count);
    CUDA_TRY(cudaGetDeviceProperties(properties, index), "cuda device");
    EFFNET_TRY(check_capability(index, properties, error));
    CUDA_TRY(cudaSetDevice(index), "cuda device");
    return EFFNET_OK;
}

void cuda_devices(void (*visit)(const struct effnet_device *, void *), void *context)
{
    struct effnet_error error;
    struct effnet_device device = {
        .name = "cuda", .description = "NVIDIA GPU", .backend = "cuda", .precisions = "fp16"};
    int count;
    if (count_devices(&count, &error) != EFFNET_OK) {
        device.detail = error.message;
        visit(&device, context);
        return;
    }
    for (int i = 0; i < count; i++) {
        struct cudaDeviceProp p;
        char name[24], detail[128];
        snprintf(name, sizeof name, "cuda:%d", i);
        device.name = name;
        device.available = false;
        device.detail = "the driver does not describe it";
        if (cudaGetDeviceProperties(&p, i) == cudaSuccess) {
            device.description = p.name;
            device.available = check_capability(i, &p, &error) == EFFNET_OK;
            snprintf(detail, sizeof detail, "compute capability %d.%d, %d multiprocessors, %zu MiB", p.major,
                     p.minor, p.multiProcessorCount, p.totalGlobalMem >> 20);
            device.detail = device.available ? detail : error.message;
        }
        visit(&device, context);
    }
}
