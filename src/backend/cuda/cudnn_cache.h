/* Measured results on disk: which cuDNN engine was fastest for a convolution on a GPU.
 *
 * One text file, cudnn-plans.txt, in the folder that EFFNET_CACHE names (set but empty: no cache), else in
 * $XDG_CACHE_HOME/effnet, else in ~/.cache/effnet. After a line with the format's version, one line an
 * entry, fields separated by tabs:
 *     key   engine   knob=value,...   workspace bytes   nanoseconds
 * where the key says all that the result depends on (cudnn_cache_key), so that several GPUs and versions of
 * cuDNN may share the file.
 *
 * Nothing in it is trusted: a line that does not parse is skipped, a file of another format or over 1 MiB is
 * ignored and written anew, and an entry that cuDNN then refuses is timed again. A cache that cannot be
 * read or written is no error. Files are replaced as a whole by renaming, so readers never see half of one;
 * who saves locks the folder and keeps what others have saved. (Where the file system has no locks, of two
 * that save at the same moment one may lose new entries, which are then timed again.) */
#ifndef EFFNET_BACKEND_CUDA_CUDNN_CACHE_H
#define EFFNET_BACKEND_CUDA_CUDNN_CACHE_H

#include "backend/cuda/cudnn_graph.h"

enum {
    CUDNN_CACHE_KEY_SIZE = 256,
    CUDNN_CACHE_MAX_ENTRIES = 1024, /* the oldest go first */
    CUDNN_CACHE_MAX_BYTES = 1 << 20,
};

struct cudnn_cache_entry {
    char key[CUDNN_CACHE_KEY_SIZE];
    struct cudnn_config config;
    int64_t workspace_bytes;
    int64_t elapsed_ns;
};

struct cudnn_cache {
    char *path;                        /* of the file; NULL: kept in memory only */
    struct cudnn_cache_entry *entries; /* oldest first, keys unique */
    int count, capacity;
    bool changed; /* since it was read or saved */
};

/* Reads the file, if there is one. The only failure is memory. */
int cudnn_cache_open(struct cudnn_cache *cache, struct effnet_error *error);
/* Adds what others have saved since, except under keys that are here already. */
void cudnn_cache_refresh(struct cudnn_cache *cache);
/* Frees it without saving. Takes a zeroed one. */
void cudnn_cache_close(struct cudnn_cache *cache);

/* `device` is the GPU's name and what else counts of it; `version` cuDNN's. */
void cudnn_cache_key(char key[CUDNN_CACHE_KEY_SIZE], const char *device, size_t version,
                     const struct cudnn_conv_shape *shape, const struct cudnn_plan_options *options);

/* NULL where there is none; valid until the next put or save. */
const struct cudnn_cache_entry *cudnn_cache_find(const struct cudnn_cache *cache, const char *key);
/* Adds an entry or replaces that of the same key. */
int cudnn_cache_put(struct cudnn_cache *cache, const struct cudnn_cache_entry *entry,
                    struct effnet_error *error);

/* Writes the file if something changed, together with what other processes wrote since. Returns false if
 * that did not work (no folder, no space ...): nothing depends on it. */
bool cudnn_cache_save(struct cudnn_cache *cache);

#endif
