#include "backend/cuda/cudnn_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/error.h"

static const char format_line[] = "effnet cudnn plans 1";

enum { LINE_SIZE = 1024 };

/* ---------------------------------------------------------------- where */

/* The file's path in fresh memory; NULL where no folder is known or wanted. */
static char *cache_path(void)
{
    const char *folder = getenv("EFFNET_CACHE"), *below = "";
    if (folder && !*folder) return NULL;
    if (!folder) {
        folder = getenv("XDG_CACHE_HOME");
        below = "/effnet";
        if (!folder || *folder != '/') { /* the base directory specification ignores relative paths */
            folder = getenv("HOME");
            below = "/.cache/effnet";
        }
        if (!folder || !*folder) return NULL;
    }
    char *path = NULL;
    return asprintf(&path, "%s%s/cudnn-plans.txt", folder, below) < 0 ? NULL : path;
}

/* Makes the folders above the file. */
static bool make_folders(const char *path)
{
    char *copy = strdup(path);
    if (!copy) return false;
    bool made = true;
    for (char *slash = strchr(copy + 1, '/'); made && slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        made = mkdir(copy, 0700) == 0 || errno == EEXIST;
        *slash = '/';
    }
    free(copy);
    return made;
}

/* Keeps other savers, threads and processes, away from the file's folder until the descriptor is closed. -1
 * where that takes too long, or the file system has no locks: then a saver may lose another's entries. */
static int lock_folder(const char *path)
{
    enum { TRIES = 250 };
    const struct timespec pause = {.tv_nsec = 4000000};
    char *folder = strdup(path);
    if (!folder) return -1;
    *strrchr(folder, '/') = '\0';
    int descriptor = open(*folder ? folder : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    if (descriptor < 0) return -1;
    for (int i = 0; i < TRIES; i++) {
        if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) return descriptor;
        if (errno != EWOULDBLOCK) break;
        nanosleep(&pause, NULL);
    }
    close(descriptor);
    return -1;
}

/* ---------------------------------------------------------------- lines */

void cudnn_cache_key(char key[CUDNN_CACHE_KEY_SIZE], const char *device, size_t version,
                     const struct cudnn_conv_shape *s, const struct cudnn_plan_options *options)
{
    snprintf(key, CUDNN_CACHE_KEY_SIZE,
             "%s, cudnn %zu, fp16 nhwc, %dx%dx%dx%d to %dx%dx%d, groups %d, kernel %d, stride %d, "
             "pad %d %d %d %d, workspace %" PRId64 "%s",
             device, version, s->n, s->h, s->w, s->c_in, s->out_h, s->out_w, s->c_out, s->groups, s->kernel,
             s->stride, s->pad_top, s->pad_left, s->pad_bottom, s->pad_right, options->workspace_limit_bytes,
             options->tune ? ", tune" : "");
    for (char *c = key; *c; c++)
        if ((unsigned char)*c < ' ') *c = ' '; /* tabs and newlines are the file's own */
}

/* Reads an integer in [least, most] and moves on to what follows it. */
static bool parse_int64(char **text, int64_t least, int64_t most, int64_t *out)
{
    if ((**text < '0' || **text > '9') && **text != '-') return false;
    char *end;
    errno = 0;
    long long value = strtoll(*text, &end, 10);
    if (errno || end == *text || value < least || value > most) return false;
    *text = end;
    *out = value;
    return true;
}

static bool parse_knobs(char *text, struct cudnn_config *config)
{
    while (*text) {
        int64_t type, value;
        if (config->knob_count == CUDNN_MAX_KNOBS || !parse_int64(&text, 0, 1023, &type) || *text++ != '=' ||
            !parse_int64(&text, INT32_MIN, INT32_MAX, &value))
            return false;
        config->knobs[config->knob_count++] = (struct cudnn_knob){.type = (int)type, .value = value};
        if (*text == ',' && text[1])
            text++;
        else if (*text)
            return false;
    }
    return true;
}

/* A line without its newline; changes it. */
static bool parse_entry(char *line, struct cudnn_cache_entry *entry)
{
    char *fields[5];
    for (int i = 0; i < 5; i++) fields[i] = strsep(&line, "\t");
    if (!fields[4] || line) return false;

    *entry = (struct cudnn_cache_entry){0};
    size_t length = strlen(fields[0]);
    if (length == 0 || length >= sizeof entry->key) return false;
    memcpy(entry->key, fields[0], length + 1);
    if (!parse_int64(&fields[1], 0, 9999, &entry->config.engine) || *fields[1]) return false;
    if (!parse_knobs(fields[2], &entry->config)) return false;
    if (!parse_int64(&fields[3], 0, INT64_MAX, &entry->workspace_bytes) || *fields[3]) return false;
    return parse_int64(&fields[4], 1, INT64_MAX, &entry->elapsed_ns) && !*fields[4];
}

static void print_entry(FILE *file, const struct cudnn_cache_entry *entry)
{
    fprintf(file, "%s\t%" PRId64 "\t", entry->key, entry->config.engine);
    for (int i = 0; i < entry->config.knob_count; i++)
        fprintf(file, "%s%d=%" PRId64, i ? "," : "", entry->config.knobs[i].type,
                entry->config.knobs[i].value);
    fprintf(file, "\t%" PRId64 "\t%" PRId64 "\n", entry->workspace_bytes, entry->elapsed_ns);
}

/* ---------------------------------------------------------------- entries */

const struct cudnn_cache_entry *cudnn_cache_find(const struct cudnn_cache *cache, const char *key)
{
    for (int i = 0; i < cache->count; i++)
        if (strcmp(cache->entries[i].key, key) == 0) return &cache->entries[i];
    return NULL;
}

/* Appends, or replaces in place. */
static int add(struct cudnn_cache *cache, const struct cudnn_cache_entry *entry, struct effnet_error *error)
{
    const struct cudnn_cache_entry *old = cudnn_cache_find(cache, entry->key);
    if (old) {
        cache->entries[old - cache->entries] = *entry;
        return EFFNET_OK;
    }
    if (cache->count == cache->capacity) {
        int capacity = cache->capacity ? 2 * cache->capacity : 64;
        struct cudnn_cache_entry *entries = realloc(cache->entries, (size_t)capacity * sizeof *entries);
        if (!entries) return effnet_fail_nomem(error, "cuDNN cache", (size_t)capacity * sizeof *entries);
        cache->entries = entries;
        cache->capacity = capacity;
    }
    cache->entries[cache->count++] = *entry;
    return EFFNET_OK;
}

int cudnn_cache_put(struct cudnn_cache *cache, const struct cudnn_cache_entry *entry,
                    struct effnet_error *error)
{
    cache->changed = true;
    return add(cache, entry, error);
}

/* Adds the file's entries, of equal keys the last. */
static int read_file(struct cudnn_cache *cache, struct effnet_error *error)
{
    /* Not blocking: whatever stands there instead of a file must not stop us. */
    int descriptor = open(cache->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    FILE *file = descriptor >= 0 ? fdopen(descriptor, "r") : NULL;
    if (!file && descriptor >= 0) close(descriptor);
    if (!file) return EFFNET_OK;
    struct stat about;
    char line[LINE_SIZE];
    int status = EFFNET_OK;
    if (fstat(fileno(file), &about) || !S_ISREG(about.st_mode) || about.st_size > CUDNN_CACHE_MAX_BYTES ||
        !fgets(line, sizeof line, file) || line[strcspn(line, "\n")] != '\n' ||
        strncmp(line, format_line, sizeof format_line - 1) != 0 || strlen(line) != sizeof format_line)
        goto done;
    /* The file may grow while it is read: not more entries than a file may have. */
    for (int lines = 0; !status && lines < 2 * CUDNN_CACHE_MAX_ENTRIES && fgets(line, sizeof line, file);
         lines++) {
        size_t length = strcspn(line, "\n");
        if (line[length] != '\n') continue; /* too long, cut short, or with a zero byte */
        line[length] = '\0';
        struct cudnn_cache_entry entry;
        if (parse_entry(line, &entry)) status = add(cache, &entry, error);
    }
done:
    fclose(file);
    return status;
}

int cudnn_cache_open(struct cudnn_cache *cache, struct effnet_error *error)
{
    *cache = (struct cudnn_cache){.path = cache_path()};
    int status = cache->path ? read_file(cache, error) : EFFNET_OK;
    if (status) cudnn_cache_close(cache);
    return status;
}

void cudnn_cache_refresh(struct cudnn_cache *cache)
{
    if (!cache->path) return;
    struct cudnn_cache file = {.path = cache->path};
    if (read_file(&file, NULL) == EFFNET_OK)
        for (int i = 0; i < file.count; i++)
            if (!cudnn_cache_find(cache, file.entries[i].key)) add(cache, &file.entries[i], NULL);
    free(file.entries);
}

void cudnn_cache_close(struct cudnn_cache *cache)
{
    free(cache->path);
    free(cache->entries);
    *cache = (struct cudnn_cache){0};
}

/* Writes the newest entries to a new file beside the old one, and puts it in its place. */
static bool write_file(const struct cudnn_cache *cache)
{
    char *name = NULL;
    if (asprintf(&name, "%s.XXXXXX", cache->path) < 0) return false;
    int descriptor = mkostemp(name, O_CLOEXEC);
    FILE *file = descriptor >= 0 ? fdopen(descriptor, "w") : NULL;
    if (!file && descriptor >= 0) close(descriptor);
    bool written = file != NULL;
    if (file) {
        fprintf(file, "%s\n", format_line);
        int first = cache->count > CUDNN_CACHE_MAX_ENTRIES ? cache->count - CUDNN_CACHE_MAX_ENTRIES : 0;
        for (int i = first; i < cache->count; i++) print_entry(file, &cache->entries[i]);
        written = !ferror(file);
        written = fclose(file) == 0 && written;
    }
    written = written && rename(name, cache->path) == 0;
    if (!written && descriptor >= 0) unlink(name);
    free(name);
    return written;
}

bool cudnn_cache_save(struct cudnn_cache *cache)
{
    if (!cache->path || !cache->changed) return true;
    if (!make_folders(cache->path)) return false;
    const int lock = lock_folder(cache->path);
    /* What others wrote since first, our own over it: theirs may be newer only for keys we did not time. */
    struct cudnn_cache merged = {.path = cache->path};
    bool saved = read_file(&merged, NULL) == EFFNET_OK;
    for (int i = 0; saved && i < cache->count; i++)
        saved = add(&merged, &cache->entries[i], NULL) == EFFNET_OK;
    saved = saved && write_file(&merged);
    free(merged.entries);
    if (lock >= 0) close(lock);
    if (saved) cache->changed = false;
    return saved;
}
