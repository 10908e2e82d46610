#include "cli/resume.h"

#include "cli/cli.h"
#include "cli/text.h"
#include "common/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC "effnet resume 1\n"
/* So many rows of 65536 classes, the most, are fewer than 2^63 bytes. */
#define MOST_ITEMS (INT64_C(1) << 40)

enum {
    RECORD_BYTES = 256,
    RECORDS = 2,
    FILE_BYTES = RESUME_HEADER_BYTES + RECORDS * RECORD_BYTES,
    VALUES = 8,
};

struct resume {
    int fd;
    char *path;
    uint64_t sequence; /* of the next record */
};

static int fail(const struct resume *resume)
{
    return cli_fail(EFFNET_E_OUTPUT, "%s: %s", resume->path, strerror(errno));
}

/* "SEQUENCE VALUE ... SUM\n", in hexadecimal; the sum is that of the text before it. */
static void record_write(char text[RECORD_BYTES], uint64_t sequence, const struct resume_record *r)
{
    memset(text, 0, RECORD_BYTES);
    int length = snprintf(text, RECORD_BYTES,
                          "%" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64
                          " %" PRIx64 " %" PRIx64 " ",
                          sequence, (uint64_t)r->items, (uint64_t)r->rows, (uint64_t)r->failed,
                          (uint64_t)r->skipped, (uint64_t)r->bytes, r->names, (uint64_t)r->status,
                          (uint64_t)r->finished);
    snprintf(text + length, RECORD_BYTES - (size_t)length, "%" PRIx64 "\n",
             hash_add(HASH_START, text, (size_t)length));
}

static bool record_read(const char text[RECORD_BYTES], uint64_t *sequence, struct resume_record *r)
{
    uint64_t v[VALUES + 1];
    char copy[RECORD_BYTES + 1] = "", again[RECORD_BYTES], *at = copy;
    memcpy(copy, text, RECORD_BYTES);
    for (int i = 0; i <= VALUES; i++) v[i] = strtoull(at, &at, 16);
    struct resume_record read = {(int64_t)v[1], (int64_t)v[2], (int64_t)v[3], (int64_t)v[4],
                                 (int64_t)v[5], v[6],          (int64_t)v[7], (int64_t)v[8]};
    record_write(again, v[0], &read);
    if (memcmp(text, again, RECORD_BYTES) != 0) return false;
    if (read.items < 0 || read.items > MOST_ITEMS || read.rows < 0 || read.rows > read.items ||
        read.bytes < 0)
        return false;
    *sequence = v[0];
    *r = read;
    return true;
}

static void header_write(char header[RESUME_HEADER_BYTES], const char *options)
{
    memset(header, 0, RESUME_HEADER_BYTES);
    snprintf(header, RESUME_HEADER_BYTES, MAGIC "%s", options);
}

/* Names the first option that differs. */
static int compare_options(const struct resume *resume, const char *before, const char *now)
{
    if (!text_find_other_lines(&before, &now)) return EFFNET_OK;
    return cli_fail(EFFNET_E_USAGE,
                    "--resume: %s is of a run with %.*s, and this one has %.*s; to begin anew, "
                    "remove it and what is .partial",
                    resume->path, (int)strcspn(before, "\n"), before, (int)strcspn(now, "\n"), now);
}

/* Opens the file and locks it; *existed tells whether it was there. */
static int open_locked(struct resume *resume, bool *existed)
{
    for (;;) {
        struct stat mine, named;
        resume->fd = open(resume->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        *existed = resume->fd < 0 && errno == EEXIST;
        if (*existed) resume->fd = open(resume->path, O_RDWR | O_CLOEXEC);
        if (resume->fd < 0 && *existed && errno == ENOENT) continue;
        if (resume->fd < 0) return fail(resume);
        if (flock(resume->fd, LOCK_EX | LOCK_NB)) {
            if (errno == EWOULDBLOCK)
                return cli_fail(EFFNET_E_OUTPUT, "%s: another process writes these results", resume->path);
            if (errno != ENOLCK && errno != ENOSYS && errno != EOPNOTSUPP) return fail(resume);
        }
        /* who had the lock before may have removed the file */
        if (!fstat(resume->fd, &mine) && !stat(resume->path, &named) && mine.st_ino == named.st_ino)
            return EFFNET_OK;
        close(resume->fd);
    }
}

/* What an earlier run left. */
static int read_earlier(struct resume *resume, const char *options, bool go_on, struct resume_record *record)
{
    char bytes[FILE_BYTES + 1] = "";
    ssize_t size = pread(resume->fd, bytes, FILE_BYTES, 0);
    if (size < 0) return fail(resume);
    if (size == 0) return EFFNET_OK; /* killed before the first byte */
    const size_t magic = strlen(MAGIC);
    if ((size_t)size < magic || memcmp(bytes, MAGIC, magic) != 0)
        return cli_fail(EFFNET_E_OUTPUT, "%s: is in the way, and no file of effnet's", resume->path);
    bool any = false;
    for (int i = 0; i < RECORDS; i++) {
        struct resume_record read;
        uint64_t sequence;
        if (!record_read(bytes + RESUME_HEADER_BYTES + i * RECORD_BYTES, &sequence, &read)) continue;
        if (sequence % RECORDS != (uint64_t)i) continue;                     /* it is written elsewhere */
        if (any && (int64_t)(sequence + 1 - resume->sequence) < 0) continue; /* however sequences wrap */
        any = true;
        *record = read;
        resume->sequence = sequence + 1;
    }
    if (!any) return EFFNET_OK;
    if (!go_on && !record->finished)
        return cli_fail(EFFNET_E_USAGE,
                        "%s: a run broke off after %lld files: --resume goes on with it; to begin anew, "
                        "remove this and what is .partial",
                        resume->path, (long long)record->items);
    bytes[RESUME_HEADER_BYTES] = '\0';
    return go_on ? compare_options(resume, bytes + magic, options) : EFFNET_OK;
}

int resume_open(const char *path, const char *options, bool go_on, struct resume **out,
                struct resume_record *record, bool *found)
{
    *record = (struct resume_record){.names = HASH_START};
    *out = NULL;
    struct resume *resume = calloc(1, sizeof *resume);
    if (resume) {
        resume->fd = -1;
        resume->path = strdup(path);
    }
    if (!resume || !resume->path) {
        free(resume);
        return cli_fail_nomem("the resume file");
    }
    int status = open_locked(resume, found);
    if (!status && *found) status = read_earlier(resume, options, go_on, record);
    if (!status && !record->items && !record->finished) {
        char header[RESUME_HEADER_BYTES];
        header_write(header, options);
        if (ftruncate(resume->fd, 0) || pwrite(resume->fd, header, sizeof header, 0) != sizeof header)
            status = fail(resume);
    }
    if (status)
        resume_close(resume, !*found && resume->fd >= 0);
    else
        *out = resume;
    return status;
}

int resume_note(struct resume *resume, const struct resume_record *record)
{
    char text[RECORD_BYTES];
    record_write(text, resume->sequence, record);
    off_t at = RESUME_HEADER_BYTES + (off_t)(resume->sequence % RECORDS) * RECORD_BYTES;
    resume->sequence++;
    errno = ENOSPC; /* of a write that ends early */
    return pwrite(resume->fd, text, sizeof text, at) == sizeof text ? EFFNET_OK : fail(resume);
}

void resume_close(struct resume *resume, bool done)
{
    if (!resume) return;
    if (done) unlink(resume->path); /* while it is locked */
    if (resume->fd >= 0) close(resume->fd);
    free(resume->path);
    free(resume);
}
