#include "pipeline/walk.h"

#include "common/error.h"
#include "common/file_kind.h"
#include "common/hash.h"
#include "image/formats/formats.h"
#include "pipeline/folder.h"
#include "pipeline/list.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct walk {
    struct walk_options options;
    int operand;           /* the next one */
    struct list *list;     /* or NULL */
    struct folder *folder; /* that is being gone through, or NULL */
    int64_t next;          /* the next name's number, among all shards' */
    int64_t first, end;    /* those of this shard; end < 0: not known */
    struct walk_names all;
};

static bool is_folder(const char *path)
{
    struct stat status;
    return strcmp(path, "-") != 0 && !stat(path, &status) && S_ISDIR(status.st_mode);
}

/* The next file, folder or "-" that the user has named. */
static int next_named(struct walk *walk, const char **path, struct effnet_error *error)
{
    if (walk->list) {
        int found = list_next(walk->list, path, error);
        if (found > 0 && !strcmp(*path, "-")) *path = "./-";
        return found;
    }
    if (walk->operand == walk->options.count) return 0;
    *path = walk->options.operands[walk->operand++];
    return 1;
}

static double part_done(const struct walk *walk)
{
    if (walk->end > walk->first)
        return (double)(walk->next - walk->first) / (double)(walk->end - walk->first);
    if (walk->list) return list_done(walk->list);
    double inside = walk->folder ? folder_done(walk->folder) - 1 : 0;
    return (walk->operand + inside) / walk->options.count;
}

/* The next name of any shard. */
static int next_of_all(struct walk *walk, struct walk_entry *entry, struct effnet_error *error)
{
    for (;;) {
        entry->found = walk->folder != NULL;
        int found = walk->folder ? folder_next(walk->folder, &entry->path, error)
                                 : next_named(walk, &entry->path, error);
        if (found < 0) return found;
        if (walk->folder && !found) {
            folder_close(walk->folder);
            walk->folder = NULL;
        } else if (found && !walk->folder && walk->options.recursive && is_folder(entry->path)) {
            EFFNET_TRY(folder_open(entry->path, &walk->folder, error));
        } else {
            walk->next += found;
            return found;
        }
    }
}

static int rewind_walk(struct walk *walk, struct effnet_error *error)
{
    walk->operand = 0;
    walk->next = 0;
    return walk->list ? list_rewind(walk->list, error) : EFFNET_OK;
}

/* Counts all names and passes over those of the shards before. */
static int find_shard(struct walk *walk, struct effnet_error *error)
{
    struct walk_entry entry;
    int found;
    if (walk->list) EFFNET_TRY(list_keep(walk->list, error));
    walk->all.hash = HASH_START;
    while ((found = next_of_all(walk, &entry, error)) > 0)
        walk->all.hash = hash_add(walk->all.hash, entry.path, strlen(entry.path) + 1);
    if (found < 0) return found;
    walk->all.count = walk->next;
    shard_range(&walk->options.shard, walk->next, &walk->first, &walk->end);
    EFFNET_TRY(rewind_walk(walk, error));
    while (walk->next < walk->first) {
        found = next_of_all(walk, &entry, error);
        if (found < 0) return found;
        if (!found)
            return effnet_fail(error, EFFNET_E_NOINPUT, "there are fewer files than when they were counted");
    }
    return EFFNET_OK;
}

int walk_open(const struct walk_options *options, struct walk **out, struct effnet_error *error)
{
    *out = NULL;
    struct walk *walk = calloc(1, sizeof *walk);
    if (!walk) return effnet_fail_nomem(error, "the names of files", sizeof *walk);
    walk->options = *options;
    walk->end = options->list || options->recursive ? -1 : options->count;
    int status = options->list ? list_open(options->list, options->null, &walk->list, error) : EFFNET_OK;
    if (!status && options->shard.count > 1) status = find_shard(walk, error);
    if (status)
        walk_close(walk);
    else
        *out = walk;
    return status;
}

int64_t walk_total(const struct walk *walk)
{
    return walk->end < 0 ? -1 : walk->end - walk->first;
}

struct walk_names walk_names_of_all(const struct walk *walk)
{
    return walk->all;
}

int walk_next(struct walk *walk, struct walk_entry *entry, struct effnet_error *error)
{
    if (walk->end >= 0 && walk->next >= walk->end) return 0;
    int found = next_of_all(walk, entry, error);
    if (found > 0) entry->done = part_done(walk);
    return found;
}

bool walk_is_image(const char *path)
{
    enum { FIRST_BYTES = 64 << 10 };
    char *bytes = malloc(FIRST_BYTES);
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    ssize_t size = bytes && fd >= 0 ? read(fd, bytes, FIRST_BYTES) : 0;
    /* Text may begin with a BMP's two letters, as results do whose first image is BMW.png. */
    const bool text = size > 2 && !memcmp(bytes, "BM", 2) && !memchr(bytes, '\0', (size_t)size);
    bool known = size <= 0 || (!text && image_find_format((const uint8_t *)bytes, (size_t)size));
    if (!known && !text) {
        const enum file_group group = effnet_file_kind(bytes, (size_t)size).group;
        known = group == FILE_IMAGE || group == FILE_IMAGE_READ;
    }
    if (fd >= 0) close(fd);
    free(bytes);
    return known;
}

void walk_close(struct walk *walk)
{
    if (!walk) return;
    folder_close(walk->folder);
    list_close(walk->list);
    free(walk);
}
