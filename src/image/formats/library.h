/* Libraries that only some formats need. They are loaded when the first file of such a format is met: linked
 * to the program, they would make every start slower. Their headers give the functions' types. */
#ifndef EFFNET_IMAGE_FORMATS_LIBRARY_H
#define EFFNET_IMAGE_FORMATS_LIBRARY_H

#include <pthread.h>

#include "image/image.h"

struct image_library {
    const char *kind;         /* the file that wants it, "a WebP image" */
    const char *name;         /* "libwebp" */
    const char *file;         /* as the loader finds it, "libwebp.so.7" */
    const char *package;      /* Debian's, "libwebp7" */
    void (*start)(void);      /* called once after loading; NULL: nothing to do */
    void *functions;          /* pointers to functions that are filled in, */
    const char *const *names; /* whose names these are, up to a NULL */
    pthread_mutex_t lock;
    bool loaded;
};

/* Loads the library unless it is there; it stays. Fails with EFFNET_E_DATA and a line that names the file,
 * the library and its package. Any number of threads may call it. */
int image_library_load(struct image_library *library, const struct image_source *source);

/* For a build without the library: "NAME: KIND, which LIBRARY reads; this build is without it". */
int image_fail_left_out(const struct image_source *source, const char *kind, const char *library);

/* A struct of pointers to the functions of a list F(name) F(name)..., and their names. */
#define IMAGE_LIBRARY_POINTER(name) __typeof__(name) *name;
#define IMAGE_LIBRARY_NAME(name)    #name,

#endif
