#include "backend/cuda/nvjpeg/library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/toolkit.h"
#include "common/error.h"

enum { LOWEST_VERSION = 12001 };

static void *open_nvjpeg(char reason[TOOLKIT_REASON])
{
    const char *wanted = getenv("EFFNET_NVJPEG");
    if (wanted && *wanted) return toolkit_open_path(reason, "%s%s", strchr(wanted, '/') ? "" : "./", wanted);
    void *file = toolkit_open("libnvjpeg.so.13", reason);
    return file ? file : toolkit_open("libnvjpeg.so.12", reason);
}

static int load(struct nvjpeg_library *library, struct effnet_error *error)
{
    char reason[TOOLKIT_REASON] = "";
    int major = 0, minor = 0;
    void *file = open_nvjpeg(reason);
    if (!file)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "nvJPEG is missing (%s): install NVIDIA's libnvjpeg-13-0 (apt) or nvidia-nvjpeg "
                           "(pip), or set EFFNET_NVJPEG to libnvjpeg.so.13",
                           reason);
#define NVJPEG_RESOLVE(member, symbol, parameters)                                                           \
    *(void **)&library->member = dlsym(file, #symbol);                                                       \
    if (!library->member) {                                                                                  \
        dlclose(file);                                                                                       \
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,                                                      \
                           "the nvJPEG library found here has no " #symbol ": 12.1 or newer is needed");     \
    }
    NVJPEG_SYMBOLS(NVJPEG_RESOLVE)
#undef NVJPEG_RESOLVE
    library->get_property(MAJOR_VERSION, &major);
    library->get_property(MINOR_VERSION, &minor);
    library->version = 1000 * major + minor;
    if (library->version >= LOWEST_VERSION) return EFFNET_OK;
    dlclose(file);
    return effnet_fail(error, EFFNET_E_UNAVAILABLE, "nvJPEG %d.%d is too old: 12.1 or newer is needed", major,
                       minor);
}

int nvjpeg_library_load(const struct nvjpeg_library **out, struct effnet_error *error)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static struct nvjpeg_library library;
    static bool loaded;

    pthread_mutex_lock(&mutex);
    const int status = loaded ? EFFNET_OK : load(&library, error);
    loaded = status == EFFNET_OK;
    pthread_mutex_unlock(&mutex);

    *out = status == EFFNET_OK ? &library : NULL;
    return status;
}

int nvjpeg_fail(nvjpegStatus_t status, const char *what, struct effnet_error *error)
{
    static const char *const words[] = {"success",          "not initialised",    "invalid parameter",
                                        "bad JPEG",         "JPEG not supported", "an allocation failed",
                                        "execution failed", "not for this GPU",   "internal error",
                                        "not supported",    "incomplete JPEG"};
    const int code = status == NVJPEG_STATUS_ALLOCATOR_FAILURE ? EFFNET_E_NOMEM
                     : status == NVJPEG_STATUS_ARCH_MISMATCH   ? EFFNET_E_UNAVAILABLE
                                                               : EFFNET_E_INTERNAL;
    const bool known = (size_t)status < sizeof words / sizeof *words;
    return effnet_fail(error, code, "nvJPEG, %s: %s (%d)", what, known ? words[status] : "unknown error",
                       (int)status);
}
