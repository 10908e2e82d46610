/* Finding a device, being on it for a while, and CUDA's errors in words. */
#include <cudaTypedefs.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "backend/cuda/cuda_internal.h"
#include "common/fork.h"

/* ---------------------------------------------------------------- errors */

/* What a machine lacks or does not allow is 'not available'; what should happen nowhere is internal. */
static int status_of(cudaError_t status)
{
    switch (status) {
    case cudaErrorMemoryAllocation: return EFFNET_E_NOMEM;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorDeviceNotLicensed:
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorSystemNotReady:
    case cudaErrorStubLibrary:
    case cudaErrorCallRequiresNewerDriver:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorJitCompilerNotFound:
    case cudaErrorInitializationError: return EFFNET_E_UNAVAILABLE;
    default: return EFFNET_E_INTERNAL;
    }
}

int cuda_fail(struct effnet_error *error, cudaError_t status, const char *what)
{
    cuda_forget_error(status);
    return effnet_fail(error, status_of(status), "%s: CUDA: %s (%s)", what, cudaGetErrorString(status),
                       cudaGetErrorName(status));
}

/* ---------------------------------------------------------------- processes */

/* effnet_fork_count() of the process that uses CUDA, by this copy of the library; -1: none does yet. */
static atomic_int using_cuda = -1;

static bool is_inherited(void)
{
    const int known = atomic_load_explicit(&using_cuda, memory_order_relaxed);
    return known >= 0 && known != effnet_fork_count();
}

int cuda_process_check(struct effnet_error *error)
{
    if (is_inherited())
        return effnet_fail(
            error, EFFNET_E_UNAVAILABLE,
            "cuda: the GPU is not available to a process that was forked from one that uses it");
    atomic_store_explicit(&using_cuda, effnet_fork_count(), memory_order_relaxed);
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- devices */

/* How many devices there are, or why none can be counted. */
static int count_devices(int *count, struct effnet_error *error)
{
    *count = 0;
    if (is_inherited()) return cuda_process_check(error);
    const cudaError_t status = cudaGetDeviceCount(count);
    cuda_forget_error(status);
    if (status == cudaSuccess && *count > 0) return cuda_process_check(error);
    *count = 0;
    switch (status) {
    case cudaSuccess:
    case cudaErrorNoDevice:
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "cuda: no NVIDIA GPU that this process may use");
    case cudaErrorInsufficientDriver:
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "cuda: no NVIDIA driver, or one older than CUDA %d.%d needs: install or update it",
                           CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    case cudaErrorInitializationError:
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "cuda: the driver does not start here (%s): its device files are missing, or this "
                           "process was forked from one that uses it",
                           cudaGetErrorString(status));
    default: return effnet_fail(error, EFFNET_E_UNAVAILABLE, "cuda: %s", cudaGetErrorString(status));
    }
}

static int check_capability(int index, const struct cudaDeviceProp *p, struct effnet_error *error)
{
    if (10 * p->major + p->minor >= CUDA_LOWEST_CAPABILITY) return EFFNET_OK;
    return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                       "cuda:%d: %s has compute capability %d.%d; %d.%d or newer is needed", index, p->name,
                       p->major, p->minor, CUDA_LOWEST_CAPABILITY / 10, CUDA_LOWEST_CAPABILITY % 10);
}

/* The driver's functions that the runtime has no others for: to make a device current and have back exactly
 * what was. (Setting the caller's device again would start the one that a thread has by default, which nobody
 * may have used, and would replace a context of the caller's own.) */
static struct {
    PFN_cuDeviceGet_v2000 device_get;
    PFN_cuDevicePrimaryCtxRetain_v7000 retain;
    PFN_cuCtxPushCurrent_v4000 push;
    PFN_cuCtxPopCurrent_v4000 pop;
} driver;

static bool found_driver;

/* Not by cudaGetDriverEntryPoint, which may start the thread's default device. The runtime has loaded the
 * driver's library already, under this name. */
static void find_driver(void)
{
    static const struct {
        const char *name;
        void *function;
    } functions[] = {{"cuDeviceGet", &driver.device_get},
                     {"cuDevicePrimaryCtxRetain", &driver.retain},
                     {"cuCtxPushCurrent_v2", &driver.push},
                     {"cuCtxPopCurrent_v2", &driver.pop}};
    void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    found_driver = library != NULL;
    for (size_t i = 0; i < sizeof functions / sizeof *functions && found_driver; i++) {
        void *function = dlsym(library, functions[i].name);
        *(void **)functions[i].function = function;
        found_driver = function != NULL;
    }
    if (library && !found_driver) dlclose(library);
}

/* Starts the device for this process, which takes a few hundred megabytes of its memory. */
static int start_device(int index, struct effnet_error *error)
{
    const cudaError_t status = cudaInitDevice(index, 0, 0);
    char name[24];
    cuda_forget_error(status);
    switch (status) {
    case cudaSuccess: return EFFNET_OK;
    case cudaErrorDevicesUnavailable:
        return effnet_fail(
            error, EFFNET_E_UNAVAILABLE,
            "cuda:%d: the GPU is busy or not available: another process may hold it in exclusive "
            "mode, or the mode prohibits its use",
            index);
    case cudaErrorMemoryAllocation:
        return effnet_fail(error, EFFNET_E_NOMEM, "cuda:%d: too little GPU memory is free to start on it",
                           index);
    default: snprintf(name, sizeof name, "cuda:%d", index); return cuda_fail(error, status, name);
    }
}

/* The reference is not given back: as the runtime sees it, too, a device's primary context stays for as long
 * as the process does. */
static int retain_device(struct cuda_device *device, struct effnet_error *error)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    CUdevice handle;
    pthread_once(&once, find_driver);
    if (!found_driver)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "cuda: the driver's libcuda.so.1 is not found, or lacks functions");
    if (driver.device_get(&handle, device->index) == CUDA_SUCCESS &&
        driver.retain(&device->context, handle) == CUDA_SUCCESS)
        return EFFNET_OK;
    device->context = NULL;
    return effnet_fail(error, EFFNET_E_INTERNAL, "cuda:%d: the driver does not give its context",
                       device->index);
}

int cuda_device_open(int index, struct cuda_device *device, struct effnet_error *error)
{
    int count;
    *device = (struct cuda_device){.index = index};
    EFFNET_TRY(count_devices(&count, error));
    if (index < 0 || index >= count)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "cuda:%d: no such device; there %s %d, counted from 0", index,
                           count == 1 ? "is" : "are", count);
    CUDA_TRY(cudaGetDeviceProperties(&device->properties, index), "cuda device");
    EFFNET_TRY(check_capability(index, &device->properties, error));
    EFFNET_TRY(start_device(index, error));
    return retain_device(device, error);
}

int cuda_device_enter(const struct cuda_device *device, struct effnet_error *error)
{
    EFFNET_TRY(cuda_process_check(error));
    if (driver.push(device->context) == CUDA_SUCCESS) return EFFNET_OK;
    return effnet_fail(error, EFFNET_E_INTERNAL, "cuda:%d: the device's context is gone", device->index);
}

void cuda_device_leave(void)
{
    CUcontext context;
    driver.pop(&context);
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
        const cudaError_t described = cudaGetDeviceProperties(&p, i);
        cuda_forget_error(described);
        snprintf(name, sizeof name, "cuda:%d", i);
        device.name = name;
        device.description = described == cudaSuccess ? p.name : "NVIDIA GPU";
        device.available = described == cudaSuccess && check_capability(i, &p, &error) == EFFNET_OK;
        if (device.available)
            snprintf(detail, sizeof detail, "compute capability %d.%d, %d SMs, %zu MiB", p.major, p.minor,
                     p.multiProcessorCount, p.totalGlobalMem >> 20);
        device.detail = device.available           ? detail
                        : described == cudaSuccess ? error.message
                                                   : "the driver does not describe it";
        visit(&device, context);
    }
}
