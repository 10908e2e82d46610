#include "cli/evaluate/csv.h"

#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    PART_BYTES = 1 << 16,
    SIZE_MAX_BYTES = 1 << 30, /* some ten million lines; what is longer is no list of images */
};

static const char byte_order_mark[] = "\xef\xbb\xbf";

/* Reads all of a file that holds text into a string. */
static int read_text(const char *path, int fd, char **out)
{
    size_t size = 0, capacity = PART_BYTES;
    char *text = malloc(capacity + 1);
    *out = NULL;
    while (text) {
        const ssize_t got = read(fd, text + size, capacity - size);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            const int reason = errno;
            text[size] = '\0';
            if (got == 0) {
                *out = text;
                return EFFNET_OK;
            }
            free(text);
            return cli_fail(EFFNET_E_NOINPUT, "%s: %s", path, strerror(reason));
        }
        const bool binary = memchr(text + size, '\0', (size_t)got) != NULL;
        size += (size_t)got;
        if (binary || size >= SIZE_MAX_BYTES) {
            free(text);
            return cli_fail(EFFNET_E_DATA, "%s: %s", path,
                            binary ? "no text: it holds a byte that is 0" : "more than 1 GiB of text");
        }
        if (size == capacity) {
            capacity *= 2;
            char *larger = realloc(text, capacity + 1);
            if (!larger) free(text);
            text = larger;
        }
    }
    return cli_fail_nomem(path);
}

int csv_open(const char *path, struct csv *out)
{
    *out = (struct csv){.path = path, .next_line = 1};
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return cli_fail(EFFNET_E_NOINPUT, "%s: %s", path, strerror(errno));
    const int status = read_text(path, fd, &out->text);
    close(fd);
    if (status) return status;
    const size_t mark = sizeof byte_order_mark - 1;
    out->at = out->text + (strncmp(out->text, byte_order_mark, mark) ? 0 : mark);
    return EFFNET_OK;
}

static int add_field(struct csv *csv, char *field)
{
    if (csv->field_count == csv->capacity) {
        const int capacity = csv->capacity ? 2 * csv->capacity : 16;
        char **fields = realloc(csv->fields, (size_t)capacity * sizeof *fields);
        if (!fields) return cli_fail_nomem(csv->path);
        csv->fields = fields;
        csv->capacity = capacity;
    }
    csv->fields[csv->field_count++] = field;
    return EFFNET_OK;
}

/* Passes over a line end at csv->at, if there is one. */
static bool skip_line_end(struct csv *csv)
{
    if (*csv->at != '\r' && *csv->at != '\n') return false;
    csv->at += csv->at[0] == '\r' && csv->at[1] == '\n' ? 2 : 1;
    csv->next_line++;
    return true;
}

/* Takes the field at csv->at, unquoted in place. csv->at becomes what ends it: a comma, a line end or the
 * end. */
static int take_field(struct csv *csv, char **out)
{
    char *from = csv->at, *to = csv->at;
    *out = to;
    if (*from != '"') {
        csv->at += strcspn(csv->at, ",\r\n");
        return EFFNET_OK;
    }
    for (from++; *from != '"' || from[1] == '"'; from++) {
        if (!*from)
            return cli_fail(EFFNET_E_DATA, "%s:%" PRId64 ": a quote is opened and not closed", csv->path,
                            csv->line);
        if (*from == '"') from++;
        csv->next_line += *from == '\n' || (*from == '\r' && from[1] != '\n');
        *to++ = *from;
    }
    csv->at = from + 1;
    if (*csv->at && !strchr(",\r\n", *csv->at))
        return cli_fail(EFFNET_E_DATA, "%s:%" PRId64 ": text follows a closing quote", csv->path, csv->line);
    *to = '\0'; /* on the closing quote or before it */
    return EFFNET_OK;
}

int csv_next(struct csv *csv, bool *found)
{
    csv->field_count = 0;
    while (skip_line_end(csv)) continue;
    csv->line = csv->next_line;
    *found = *csv->at != '\0';
    while (*found) {
        char *field;
        EFFNET_TRY(take_field(csv, &field));
        EFFNET_TRY(add_field(csv, field));
        char *const end = csv->at;
        const bool more = *end == ',';
        if (more)
            csv->at++;
        else
            skip_line_end(csv);
        *end = '\0';
        if (!more) break;
    }
    return EFFNET_OK;
}

void csv_close(struct csv *csv)
{
    free(csv->text);
    free(csv->fields);
    memset(csv, 0, sizeof *csv);
}
