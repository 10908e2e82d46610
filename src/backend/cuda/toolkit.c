/* Where the libraries of CUDA's toolkit lie that are loaded when they are first wanted. */
#include "backend/cuda/toolkit.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void *toolkit_open_path(char reason[TOOLKIT_REASON], const char *format, ...)
{
    char path[4096];
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(path, sizeof path, format, arguments);
    va_end(arguments);
    if (length >= (int)sizeof path) return NULL;
    void *file = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    const char *why = file ? NULL : dlerror();
    if (!file && !*reason) snprintf(reason, TOOLKIT_REASON, "%.200s", why ? why : path);
    return file;
}

void *toolkit_open(const char *name, char reason[TOOLKIT_REASON])
{
    static const char *const subfolders[] = {"lib64", "lib", "targets/x86_64-linux/lib"};
    const char *roots[] = {getenv("CUDA_HOME"), getenv("CUDA_PATH"), "/usr/local/cuda", "/opt/cuda"};
    void *file = toolkit_open_path(reason, "%s", name);
    for (size_t i = 0; !file && i < sizeof roots / sizeof *roots; i++)
        for (size_t j = 0; !file && roots[i] && *roots[i] && j < sizeof subfolders / sizeof *subfolders; j++)
            file = toolkit_open_path(reason, "%s/%s/%s", roots[i], subfolders[j], name);
    return file;
}
