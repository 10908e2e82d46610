#include "backend/cuda/cudnn/library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/cuda/toolkit.h"
#include "common/error.h"

static void *open_cudnn(char reason[TOOLKIT_REASON])
{
    /* libcudnn_graph holds the graph API and loads the rest of cuDNN as it needs it; libcudnn is the shim
     * over all parts, which forwards the same functions. */
    static const char graph_name[] = "libcudnn_graph.so.9", shim_name[] = "libcudnn.so.9";
    const char *wanted = getenv("EFFNET_CUDNN");
    struct stat status;
    void *file;
    if (!wanted || !*wanted) {
        file = toolkit_open(graph_name, reason);
        return file ? file : toolkit_open(shim_name, reason);
    }
    if (stat(wanted, &status) || !S_ISDIR(status.st_mode))
        return toolkit_open_path(reason, "%s%s", strchr(wanted, '/') ? "" : "./", wanted);
    file = toolkit_open_path(reason, "%s/%s", wanted, graph_name);
    return file ? file : toolkit_open_path(reason, "%s/%s", wanted, shim_name);
}

static int load(struct cudnn_library *library, struct effnet_error *error)
{
    char reason[TOOLKIT_REASON] = "";
    void *file = open_cudnn(reason);
    if (!file)
        return effnet_fail(
            error, EFFNET_E_UNAVAILABLE,
            "cuDNN 9 is missing (%s): install NVIDIA's cudnn9-cuda-13 (apt) or nvidia-cudnn-cu13 "
            "(pip), or set EFFNET_CUDNN to the folder with libcudnn_graph.so.9",
            reason);

#define CUDNN_RESOLVE(member, symbol)                                                                        \
    *(void **)&library->member = dlsym(file, #symbol);                                                       \
    if (!library->member) {                                                                                  \
        dlclose(file);                                                                                       \
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,                                                      \
                           "the cuDNN library found here has no " #symbol ": cuDNN 9 is needed");            \
    }
    CUDNN_SYMBOLS(CUDNN_RESOLVE)
#undef CUDNN_RESOLVE

    library->version = library->get_version();
    return EFFNET_OK;
}

int cudnn_library_load(const struct cudnn_library **out, struct effnet_error *error)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static struct cudnn_library library;
    static bool loaded;

    pthread_mutex_lock(&mutex);
    int status = loaded ? EFFNET_OK : load(&library, error);
    loaded = status == EFFNET_OK;
    pthread_mutex_unlock(&mutex);

    *out = status == EFFNET_OK ? &library : NULL;
    return status;
}

int cudnn_library_need_cublaslt(const struct cudnn_library *library, struct effnet_error *error)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static void *file;

    char name[64], reason[TOOLKIT_REASON] = "", unused[TOOLKIT_REASON] = "";
    const size_t cuda = library->get_cudart_version() / 1000;
    snprintf(name, sizeof name, "libcublasLt.so.%zu", cuda);
    pthread_mutex_lock(&mutex);
    Dl_info where;
    if (!file && dladdr(*(void *const *)&library->get_version, &where) && where.dli_fname) {
        /* Beside cuDNN first; Python's packages have it in a folder of their own, whose name has changed. */
        const char *slash = strrchr(where.dli_fname, '/');
        const char *const folders[] = {"", "/../../cublas/lib", "/../../cu13/lib", "/../../cu12/lib"};
        for (size_t i = 0; !file && slash && i < sizeof folders / sizeof *folders; i++)
            file = toolkit_open_path(unused, "%.*s%s/%s", (int)(slash - where.dli_fname), where.dli_fname,
                                     folders[i], name);
    }
    if (!file) file = toolkit_open(name, reason);
    bool found = file != NULL;
    pthread_mutex_unlock(&mutex);
    if (found) return EFFNET_OK;
    return effnet_fail(
        error, EFFNET_E_UNAVAILABLE,
        "cuDNN needs cuBLASLt, which is missing (%s): install libcublas-%zu-0 (apt) or nvidia-cublas "
        "(pip), or put its folder into LD_LIBRARY_PATH",
        reason, cuda);
}

int cudnn_fail(const struct cudnn_library *library, cudnnStatus_t status, const char *layer, const char *what,
               struct effnet_error *error)
{
    char detail[256] = "";
    library->get_last_error_string(detail, sizeof detail);
    detail[strcspn(detail, "\r\n")] = '\0';

    int code = EFFNET_E_INTERNAL;
    if (CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED ||
        (CUDNN_STATUS_CATEGORY(status) == 1000 && status < CUDNN_STATUS_RUNTIME_IN_PROGRESS) ||
        status == CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED)
        code = EFFNET_E_UNAVAILABLE;
    if (status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
        status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)
        code = EFFNET_E_NOMEM;
    return effnet_fail(error, code, "%s: cuDNN %zu.%zu.%zu, %s: %s%s%s", layer, library->version / 10000,
                       library->version / 100 % 100, library->version % 100, what,
                       library->get_error_string(status), *detail ? ": " : "", detail);
}
