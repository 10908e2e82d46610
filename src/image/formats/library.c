#include "image/formats/library.h"

#include <dlfcn.h>
#include <string.h>

#include "common/error.h"

static int fail_missing(const struct image_library *library, const struct image_source *source)
{
    const char *why = dlerror();
    size_t length = strlen(library->file);
    /* The loader names the file that it has not found first: this one, or one that this one needs. */
    if (!why || strncmp(why, library->file, length) == 0)
        return image_fail(source, "%s, which %s reads; it is not installed (package %s)", library->kind,
                          library->name, library->package);
    return image_fail(source, "%s, which %s reads; it cannot be loaded: %.200s", library->kind, library->name,
                      why);
}

static int load(struct image_library *library, const struct image_source *source)
{
    void *file = dlopen(library->file, RTLD_NOW | RTLD_LOCAL);
    if (!file) return fail_missing(library, source);
    for (size_t i = 0; library->names[i]; i++) {
        void *function = dlsym(file, library->names[i]);
        if (!function) {
            dlclose(file);
            return image_fail(source, "%s, which %s reads; the one here is too old, it has no %s",
                              library->kind, library->name, library->names[i]);
        }
        memcpy((char *)library->functions + i * sizeof function, &function, sizeof function);
    }
    if (library->start) library->start();
    library->loaded = true;
    return EFFNET_OK;
}

int image_library_load(struct image_library *library, const struct image_source *source)
{
    pthread_mutex_lock(&library->lock);
    int status = library->loaded ? EFFNET_OK : load(library, source);
    pthread_mutex_unlock(&library->lock);
    return status;
}

int image_fail_left_out(const struct image_source *source, const char *kind, const char *library)
{
    return image_fail(source, "%s, which %s reads; this build is without it", kind, library);
}
