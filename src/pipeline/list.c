#include "pipeline/list.h"

#include "common/error.h"
#include "common/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct list {
    const char *path;
    bool null, ended;
    int fd;
    FILE *copy;         /* holds fd, where list_keep made a copy */
    int64_t size_bytes; /* of a regular file, else 0 */
    int64_t read_bytes, names;
    size_t start, end; /* of what is in the buffer and not handed out */
    char buffer[2 * LIST_NAME_MAX];
};

static const char *label(const struct list *list, char text[EFFNET_PATH_TEXT_SIZE])
{
    return effnet_keep_end(text, EFFNET_PATH_TEXT_SIZE,
                           strcmp(list->path, "-") ? list->path : "standard input");
}

static int fail_system(const struct list *list, struct effnet_error *error)
{
    char text[EFFNET_PATH_TEXT_SIZE];
    int reason = errno;
    return effnet_fail(error, EFFNET_E_NOINPUT, "%s: %s", label(list, text), strerror(reason));
}

static void note_size(struct list *list)
{
    struct stat status;
    const bool regular = !fstat(list->fd, &status) && S_ISREG(status.st_mode);
    list->size_bytes = regular ? (int64_t)status.st_size : 0;
}

int list_open(const char *path, bool null, struct list **out, struct effnet_error *error)
{
    *out = NULL;
    struct list *list = malloc(sizeof *list);
    if (!list) return effnet_fail_nomem(error, "a list of names", sizeof *list);
    list->path = path;
    list->null = null;
    list->ended = false;
    list->copy = NULL;
    list->read_bytes = list->names = 0;
    list->start = list->end = 0;
    list->fd = strcmp(path, "-") ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
    if (list->fd < 0) {
        int status = fail_system(list, error);
        free(list);
        return status;
    }
    note_size(list);
    *out = list;
    return EFFNET_OK;
}

/* Reads on, once: names of a pipe are handed out as they come. */
static int fill(struct list *list, struct effnet_error *error)
{
    if (list->start) {
        memmove(list->buffer, list->buffer + list->start, list->end - list->start);
        list->end -= list->start;
        list->start = 0;
    }
    ssize_t got;
    do {
        got = read(list->fd, list->buffer + list->end, sizeof list->buffer - list->end);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return fail_system(list, error);
    list->ended = got == 0;
    list->end += (size_t)got;
    list->read_bytes += got;
    return EFFNET_OK;
}

static int fail_name(const struct list *list, const char *what, struct effnet_error *error)
{
    char text[EFFNET_PATH_TEXT_SIZE];
    return effnet_fail(error, EFFNET_E_DATA, "%s: no list of names: %s, after %lld names", label(list, text),
                       what, (long long)list->names);
}

/* The next name in the buffer, which may be empty; the buffer is read on as long as it has no end. */
static int next_line(struct list *list, char **name, struct effnet_error *error)
{
    size_t searched = 0;
    for (;;) {
        char *text = list->buffer + list->start;
        size_t length = list->end - list->start;
        char *stop = memchr(text + searched, list->null ? '\0' : '\n', length - searched);
        if (!stop && list->ended) stop = text + length;
        if (stop && stop - text <= LIST_NAME_MAX) {
            if (list->ended && stop == text + length && !length) return 0;
            list->start += (size_t)(stop - text) + (stop < text + length);
            if (!list->null && memchr(text, '\0', (size_t)(stop - text)))
                return fail_name(list, "a NUL byte (-0 is for names that end in NUL)", error);
            *stop = '\0'; /* there is room: the longest name leaves half the buffer */
            *name = text;
            return 1;
        }
        if (length > LIST_NAME_MAX) return fail_name(list, "a name of more than 65536 bytes", error);
        searched = length;
        int status = fill(list, error);
        if (status) return status;
    }
}

int list_next(struct list *list, const char **name, struct effnet_error *error)
{
    for (;;) {
        const bool first = list->read_bytes == 0;
        char *line = NULL;
        int found = next_line(list, &line, error);
        if (found <= 0) return found;
        if (!list->null) {
            if (first && !strncmp(line, "\xef\xbb\xbf", 3)) line += 3; /* UTF-8's mark */
            size_t length = strlen(line);
            if (length && line[length - 1] == '\r') line[length - 1] = '\0';
        }
        if (!*line) continue;
        list->names++;
        *name = line;
        return 1;
    }
}

double list_done(const struct list *list)
{
    if (!list->size_bytes) return -1;
    double done = (double)(list->read_bytes - (int64_t)(list->end - list->start)) / (double)list->size_bytes;
    return done < 1 ? done : 1;
}

int list_rewind(struct list *list, struct effnet_error *error)
{
    if (lseek(list->fd, 0, SEEK_SET) < 0) return fail_system(list, error);
    list->ended = false;
    list->read_bytes = list->names = 0;
    list->start = list->end = 0;
    return EFFNET_OK;
}

int list_keep(struct list *list, struct effnet_error *error)
{
    if (lseek(list->fd, 0, SEEK_SET) == 0) return EFFNET_OK;
    FILE *copy = tmpfile();
    if (!copy) return effnet_fail(error, EFFNET_E_OUTPUT, "a temporary file for a list: %s", strerror(errno));
    int status = EFFNET_OK;
    while (!status && !list->ended) {
        list->start = list->end = 0;
        status = fill(list, error);
        if (!status && fwrite(list->buffer, 1, list->end, copy) != list->end)
            status = effnet_fail(error, EFFNET_E_OUTPUT, "a temporary file for a list: %s", strerror(errno));
    }
    if (!status && fflush(copy))
        status = effnet_fail(error, EFFNET_E_OUTPUT, "a temporary file for a list: %s", strerror(errno));
    if (list->fd != STDIN_FILENO) close(list->fd);
    list->copy = copy;
    list->fd = fileno(copy);
    note_size(list);
    return status ? status : list_rewind(list, error);
}

void list_close(struct list *list)
{
    if (!list) return;
    if (list->copy)
        fclose(list->copy);
    else if (list->fd != STDIN_FILENO)
        close(list->fd);
    free(list);
}
