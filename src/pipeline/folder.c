#include "pipeline/folder.h"

#include "common/error.h"
#include "common/utf8.h"

#include <dirent.h>
#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct identity {
    dev_t device;
    ino_t inode;
};

/* A folder that the path leads through. */
struct level {
    struct identity identity;
    size_t path_length; /* of its own path, with the slash behind */
    char *bytes;        /* its names, each behind a byte that tells the type and before a NUL */
    size_t used, size;
    const char **names; /* sorted; point behind the types in `bytes` */
    size_t count, next;
};

struct folder {
    struct level *levels;
    size_t depth, level_size;
    char *path; /* of the file that is handed out */
    size_t path_size;
    void *followed; /* tsearch's tree of struct identity: where links led to */
    bool started;
};

static int fail_nomem(struct effnet_error *error, size_t size_bytes)
{
    return effnet_fail_nomem(error, "the names in a folder", size_bytes);
}

/* Makes room for `wanted` elements of element_bytes each. */
static int reserve(void **memory, size_t *size, size_t wanted, size_t element_bytes,
                   struct effnet_error *error)
{
    if (wanted <= *size) return EFFNET_OK;
    size_t grown = *size ? 2 * *size : 64;
    if (grown < wanted) grown = wanted;
    void *more = realloc(*memory, grown * element_bytes);
    if (!more) return fail_nomem(error, grown * element_bytes);
    *memory = more;
    *size = grown;
    return EFFNET_OK;
}

int folder_open(const char *path, struct folder **out, struct effnet_error *error)
{
    *out = NULL;
    struct folder *folder = calloc(1, sizeof *folder);
    if (!folder) return fail_nomem(error, sizeof *folder);
    int status = reserve((void **)&folder->path, &folder->path_size, strlen(path) + 2, 1, error);
    if (status) {
        folder_close(folder);
        return status;
    }
    strcpy(folder->path, path);
    *out = folder;
    return EFFNET_OK;
}

static int add_name(struct level *level, const struct dirent *entry, struct effnet_error *error)
{
    size_t length = strlen(entry->d_name);
    EFFNET_TRY(reserve((void **)&level->bytes, &level->size, level->used + length + 2, 1, error));
    level->bytes[level->used] = (char)entry->d_type;
    memcpy(level->bytes + level->used + 1, entry->d_name, length + 1);
    level->used += length + 2;
    level->count++;
    return EFFNET_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int sort_names(struct level *level, struct effnet_error *error)
{
    level->names = malloc((level->count + 1) * sizeof *level->names);
    if (!level->names) return fail_nomem(error, (level->count + 1) * sizeof *level->names);
    const char *name = level->bytes;
    for (size_t i = 0; i < level->count; i++) {
        level->names[i] = name + 1;
        name += strlen(name + 1) + 2;
    }
    qsort(level->names, level->count, sizeof *level->names, by_name);
    return EFFNET_OK;
}

static int read_names(struct level *level, DIR *directory, const char *path, struct effnet_error *error)
{
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(directory);
        if (!entry && errno) {
            char name[EFFNET_PATH_TEXT_SIZE];
            int reason = errno;
            effnet_keep_end(name, sizeof name, path);
            return effnet_fail(error, EFFNET_E_NOINPUT, "%s: %s", name, strerror(reason));
        }
        if (!entry) return sort_names(level, error);
        if (entry->d_name[0] != '.') EFFNET_TRY(add_name(level, entry, error));
    }
}

static bool is_same(const struct identity *a, const struct identity *b)
{
    return a->device == b->device && a->inode == b->inode;
}

static int by_identity(const void *a, const void *b)
{
    const struct identity *x = a, *y = b;
    if (x->device != y->device) return x->device < y->device ? -1 : 1;
    return (x->inode > y->inode) - (x->inode < y->inode);
}

/* Whether a folder is to be entered. One that a link led to is remembered. */
static int may_enter(struct folder *folder, const struct identity *identity, bool linked, bool *enter,
                     struct effnet_error *error)
{
    *enter = false;
    for (size_t i = 0; i < folder->depth; i++)
        if (is_same(&folder->levels[i].identity, identity)) return EFFNET_OK;
    if (linked) {
        struct identity *key = malloc(sizeof *key), **found = NULL;
        if (key) {
            *key = *identity;
            found = tsearch(key, &folder->followed, by_identity);
        }
        if (!found) {
            free(key);
            return fail_nomem(error, sizeof *key);
        }
        if (*found != key) {
            free(key);
            return EFFNET_OK;
        }
    }
    *enter = true;
    return EFFNET_OK;
}

/* Enters the folder folder->path. *opened false: it cannot be opened. */
static int enter(struct folder *folder, const struct identity *identity, bool *opened,
                 struct effnet_error *error)
{
    DIR *directory = opendir(folder->path);
    *opened = directory != NULL;
    if (!directory) return EFFNET_OK;
    int status = reserve((void **)&folder->levels, &folder->level_size, folder->depth + 1,
                         sizeof *folder->levels, error);
    if (!status) {
        struct level *level = &folder->levels[folder->depth++];
        size_t length = strlen(folder->path);
        *level = (struct level){.identity = *identity, .path_length = length};
        status = read_names(level, directory, folder->path, error);
        if (!status) status = reserve((void **)&folder->path, &folder->path_size, length + 2, 1, error);
        if (!status && (!length || folder->path[length - 1] != '/')) {
            strcpy(folder->path + length, "/");
            level->path_length++;
        }
    }
    closedir(directory);
    return status;
}

static void leave(struct folder *folder)
{
    struct level *level = &folder->levels[--folder->depth];
    free(level->bytes);
    free(level->names);
}

/* What folder->path is: 1, a file to hand out; 0, nothing, or a folder that is now entered. */
static int visit(struct folder *folder, unsigned char type, struct effnet_error *error)
{
    struct stat status;
    if (type == DT_REG) return 1;
    if (type != DT_DIR && type != DT_LNK && type != DT_UNKNOWN) return 0;
    const bool linked = type == DT_LNK ||
                        (type == DT_UNKNOWN && !lstat(folder->path, &status) && S_ISLNK(status.st_mode));
    if (stat(folder->path, &status)) return 1; /* a link into the void: who reads it will say so */
    if (!S_ISDIR(status.st_mode)) return S_ISREG(status.st_mode);
    const struct identity identity = {status.st_dev, status.st_ino};
    bool wanted, opened;
    EFFNET_TRY(may_enter(folder, &identity, linked, &wanted, error));
    if (!wanted) return 0;
    EFFNET_TRY(enter(folder, &identity, &opened, error));
    return !opened;
}

int folder_next(struct folder *folder, const char **path, struct effnet_error *error)
{
    int found = 0;
    if (!folder->started) {
        folder->started = true;
        found = visit(folder, DT_DIR, error);
    }
    while (!found && folder->depth) {
        struct level *level = &folder->levels[folder->depth - 1];
        if (level->next == level->count) {
            leave(folder);
            continue;
        }
        const char *name = level->names[level->next++];
        size_t length = strlen(name) + 1;
        EFFNET_TRY(
            reserve((void **)&folder->path, &folder->path_size, level->path_length + length, 1, error));
        memcpy(folder->path + level->path_length, name, length);
        found = visit(folder, (unsigned char)name[-1], error);
    }
    *path = folder->path;
    return found;
}

double folder_done(const struct folder *folder)
{
    double done = folder->started && !folder->depth ? 1 : 0, part = 1;
    for (size_t i = 0; i < folder->depth; i++) {
        const struct level *level = &folder->levels[i];
        if (!level->count) break;
        /* of the entry that is being gone through, the next levels tell how much is done */
        const bool last = i + 1 == folder->depth;
        part /= (double)level->count;
        done += part * (double)(level->next - !last);
    }
    return done;
}

/* tdestroy is not in every C library. */
static void forget_followed(struct folder *folder)
{
    while (folder->followed) {
        struct identity *key = *(struct identity **)folder->followed;
        tdelete(key, &folder->followed, by_identity);
        free(key);
    }
}

void folder_close(struct folder *folder)
{
    if (!folder) return;
    while (folder->depth) leave(folder);
    forget_followed(folder);
    free(folder->levels);
    free(folder->path);
    free(folder);
}
