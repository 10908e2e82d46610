#include "backend/cuda/tuning.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/error.h"

static const char format_line[] = "effnet tuning 1\n";

/* ---------------------------------------------------------------- where */

/* The file's path in fresh memory; NULL where no folder is known or wanted. */
static char *file_path(void)
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
    return asprintf(&path, "%s%s/tuning.txt", folder, below) < 0 ? NULL : path;
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

/* Reads a whole number in [least, INT64_MAX] up to `end`. */
static bool parse_number(const char *text, char end, int64_t least, int64_t *out, const char **rest)
{
    char *stop;
    if (*text < '0' || *text > '9') return false;
    errno = 0;
    const long long value = strtoll(text, &stop, 10);
    if (errno || *stop != end || value < least) return false;
    *out = value;
    *rest = stop;
    return true;
}

static bool parse_sizes(const char *text, int64_t sizes[TUNING_SIZES])
{
    for (int i = 0; i < TUNING_SIZES; i++, text++) {
        const char end = strchr(text, ' ') ? ' ' : '\0';
        if (!parse_number(text, end, 1, &sizes[i], &text)) return false;
        if (!end) return true;
    }
    return false;
}

/* A line without its newline. Puts ends behind its fields, which the entry then points at. */
static bool parse_entry(char *line, struct tuning_entry *entry)
{
    enum { CHIP, CODE, WHAT, SIZE, BYTES, CANDIDATE, TIME, FIELDS };
    const char *fields[FIELDS], *rest;
    int64_t bytes;
    for (int i = 0; i < FIELDS; i++) fields[i] = strsep(&line, "\t");
    if (!fields[TIME] || line) return false;
    *entry = (struct tuning_entry){
        .chip = fields[CHIP], .code = fields[CODE], .what = fields[WHAT], .candidate = fields[CANDIDATE]};
    for (int i = 0; i < FIELDS; i++)
        if (strlen(fields[i]) >= TUNING_TEXT) return false;
    if (!*entry->chip || !*entry->what || !*entry->candidate) return false;
    if (!parse_sizes(fields[SIZE], entry->sizes)) return false;
    if (!parse_number(fields[BYTES], '\0', 1, &bytes, &rest)) return false;
    entry->bytes = (double)bytes;
    return parse_number(fields[TIME], '\0', 1, &entry->elapsed_ns, &rest);
}

static void print_sizes(const int64_t sizes[TUNING_SIZES], char *text, size_t size)
{
    size_t used = 0;
    *text = '\0';
    for (int i = 0; i < TUNING_SIZES && sizes[i] && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%" PRId64, i ? " " : "", sizes[i]);
}

static void print_entry(FILE *file, const struct tuning_entry *e)
{
    char sizes[TUNING_TEXT];
    print_sizes(e->sizes, sizes, sizeof sizes);
    fprintf(file, "%s\t%s\t%s\t%s\t%.0f\t%s\t%" PRId64 "\n", e->chip, e->code, e->what, sizes, e->bytes,
            e->candidate, e->elapsed_ns);
}

/* ---------------------------------------------------------------- entries */

/* Inserts at `index`. */
static int insert_entry(struct tuning *tuning, const struct tuning_entry *entry, int index,
                        struct effnet_error *error)
{
    if (tuning->count == tuning->capacity) {
        const int capacity = tuning->capacity ? 2 * tuning->capacity : 256;
        void *entries = realloc(tuning->entries, (size_t)capacity * sizeof *tuning->entries);
        if (!entries)
            return effnet_fail_nomem(error, "tuning table", (size_t)capacity * sizeof *tuning->entries);
        tuning->entries = entries;
        tuning->capacity = capacity;
    }
    memmove(tuning->entries + index + 1, tuning->entries + index,
            (size_t)(tuning->count - index) * sizeof *tuning->entries);
    tuning->entries[index] = *entry;
    tuning->count++;
    return EFFNET_OK;
}

/* Where the shipped entries begin. */
static int shipped_from(const struct tuning *tuning)
{
    int index = tuning->count;
    while (index > 0 && tuning->entries[index - 1].shipped) index--;
    return index;
}

/* Takes the text over, also on failure. */
static int keep_text(struct tuning *tuning, char *text, struct effnet_error *error)
{
    const size_t bytes = (size_t)(tuning->text_count + 1) * sizeof *tuning->texts;
    char **texts = text ? realloc(tuning->texts, bytes) : NULL;
    if (!texts) {
        free(text);
        return effnet_fail_nomem(error, "tuning table", bytes);
    }
    tuning->texts = texts;
    texts[tuning->text_count++] = text;
    return EFFNET_OK;
}

enum origin { FROM_FILE, MEASURED, SHIPPED };

/* Adds every line of a text, but of chips whose name holds `without`. */
static int add_lines(struct tuning *tuning, char *text, enum origin origin, const char *without,
                     struct effnet_error *error)
{
    EFFNET_TRY(keep_text(tuning, text, error));
    while (text) {
        char *line = strsep(&text, "\n");
        struct tuning_entry entry;
        if (!text || !parse_entry(line, &entry)) continue; /* a last line without its end was cut short */
        if (without && strstr(entry.chip, without)) continue;
        entry.measured = origin == MEASURED;
        entry.shipped = origin == SHIPPED;
        EFFNET_TRY(insert_entry(tuning, &entry, entry.shipped ? tuning->count : shipped_from(tuning), error));
    }
    return EFFNET_OK;
}

/* The file's text behind its first line, in fresh memory; NULL where there is none of this format. */
static char *read_file(const char *path)
{
    /* Not blocking: whatever stands there instead of a file must not stop us. */
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) return NULL;
    struct stat about;
    char *text = NULL;
    if (!fstat(descriptor, &about) && S_ISREG(about.st_mode) && about.st_size <= TUNING_MAX_BYTES)
        text = malloc((size_t)about.st_size + 1);
    size_t length = 0;
    for (ssize_t got = 1; text && got > 0 && length < (size_t)about.st_size; length += (size_t)got) {
        got = read(descriptor, text + length, (size_t)about.st_size - length);
        if (got < 0) got = 0;
    }
    close(descriptor);
    if (!text) return NULL;
    text[length] = '\0';
    const size_t header = sizeof format_line - 1;
    if (strncmp(text, format_line, header) != 0) {
        free(text);
        return NULL;
    }
    memmove(text, text + header, length + 1 - header);
    return text;
}

static int add_file(struct tuning *tuning, struct effnet_error *error)
{
    char *text = tuning->path ? read_file(tuning->path) : NULL;
    return text ? add_lines(tuning, text, FROM_FILE, NULL, error) : EFFNET_OK;
}

int tuning_open(struct tuning *tuning, struct effnet_error *error)
{
    *tuning = (struct tuning){.path = file_path()};
    int status = add_file(tuning, error);
    const char *without = getenv("EFFNET_TUNING_WITHOUT");
    if (!status) status = add_lines(tuning, strdup(effnet_shipped_tuning), SHIPPED, without, error);
    if (status) tuning_close(tuning);
    return status;
}

void tuning_close(struct tuning *tuning)
{
    for (int i = 0; i < tuning->text_count; i++) free(tuning->texts[i]);
    free(tuning->texts);
    free(tuning->entries);
    free(tuning->path);
    *tuning = (struct tuning){0};
}

/* ---------------------------------------------------------------- answers */

/* How far an entry is from a key, as tuning_find has it. */
static double distance(const struct tuning_entry *e, const struct tuning_key *key)
{
    double away = strcmp(e->chip, key->chip) ? 2 : 0;
    if (*key->code && strcmp(e->code, key->code)) away += 0.5;
    for (int i = 0; i < TUNING_SIZES; i++) {
        if (!e->sizes[i] != !key->sizes[i]) return INFINITY;
        if (e->sizes[i] != key->sizes[i]) away += fabs(log2((double)e->sizes[i] / (double)key->sizes[i]));
    }
    return away;
}

const struct tuning_entry *tuning_find(const struct tuning *tuning, const struct tuning_key *key,
                                       tuning_usable *usable, void *context, double *estimate_us)
{
    const struct tuning_entry *best = NULL;
    double best_away = INFINITY;
    for (int i = 0; i < tuning->count; i++) {
        const struct tuning_entry *e = &tuning->entries[i];
        if (strcmp(e->what, key->what) != 0) continue;
        const double away = distance(e, key);
        if (!(away < best_away || (away == best_away && best && e->elapsed_ns < best->elapsed_ns))) continue;
        if (!usable(e->candidate, context)) continue;
        best = e;
        best_away = away;
    }
    if (best) *estimate_us = 1e-3 * (double)best->elapsed_ns * key->bytes / best->bytes;
    return best;
}

static void forget(struct tuning *tuning, const char *chip, const char *what, const int64_t *sizes)
{
    for (int i = shipped_from(tuning) - 1; i >= 0; i--) {
        struct tuning_entry *e = &tuning->entries[i];
        if (memcmp(e->sizes, sizes, sizeof e->sizes) || strcmp(e->what, what) || strcmp(e->chip, chip))
            continue;
        tuning->count--;
        memmove(e, e + 1, (size_t)(tuning->count - i) * sizeof *e);
    }
}

void tuning_forget(struct tuning *tuning, const struct tuning_key *key)
{
    forget(tuning, key->chip, key->what, key->sizes);
}

int tuning_put(struct tuning *tuning, const struct tuning_key *key, const char *candidate, double elapsed_us,
               struct effnet_error *error)
{
    char sizes[TUNING_TEXT], *line = NULL;
    print_sizes(key->sizes, sizes, sizeof sizes);
    if (asprintf(&line, "%s\t%s\t%s\t%s\t%.0f\t%s\t%.0f\n", key->chip, key->code, key->what, sizes,
                 fmax(key->bytes, 1), candidate, fmax(1e3 * elapsed_us, 1)) < 0)
        line = NULL;
    tuning->changed = true;
    return add_lines(tuning, line, MEASURED, NULL, error);
}

/* ---------------------------------------------------------------- saving */

/* Writes the newest entries to a new file beside the old one, and puts it in its place. */
static bool write_file(const struct tuning *tuning)
{
    char *name = NULL;
    if (asprintf(&name, "%s.XXXXXX", tuning->path) < 0) return false;
    const int descriptor = mkostemp(name, O_CLOEXEC);
    FILE *file = descriptor >= 0 ? fdopen(descriptor, "w") : NULL;
    if (!file && descriptor >= 0) close(descriptor);
    bool written = file != NULL;
    if (file) {
        const int end = shipped_from(tuning), first = end > TUNING_MAX_ENTRIES ? end - TUNING_MAX_ENTRIES : 0;
        fputs(format_line, file);
        for (int i = first; i < end; i++) print_entry(file, &tuning->entries[i]);
        written = !ferror(file);
        written = fclose(file) == 0 && written;
    }
    written = written && rename(name, tuning->path) == 0;
    if (!written && descriptor >= 0) unlink(name);
    free(name);
    return written;
}

/* Puts what was measured here in place of what the file knows of the same; `to` must not outlive `from`. */
static int add_measured(const struct tuning *from, struct tuning *to)
{
    const int count = shipped_from(from);
    const struct tuning_entry *e = from->entries;
    for (int i = 0; i < count; i++)
        if (e[i].measured) forget(to, e[i].chip, e[i].what, e[i].sizes);
    for (int i = 0; i < count; i++)
        if (e[i].measured) EFFNET_TRY(insert_entry(to, &e[i], to->count, NULL));
    return EFFNET_OK;
}

bool tuning_save(struct tuning *tuning)
{
    if (!tuning->path || !tuning->changed) return true;
    if (!make_folders(tuning->path)) return false;
    const int lock = lock_folder(tuning->path);
    struct tuning merged = {.path = tuning->path};
    const bool saved = add_file(&merged, NULL) == EFFNET_OK && add_measured(tuning, &merged) == EFFNET_OK &&
                       write_file(&merged);
    merged.path = NULL;
    tuning_close(&merged);
    if (lock >= 0) close(lock);
    if (saved) tuning->changed = false;
    return saved;
}
