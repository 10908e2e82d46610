#include "cli/output.h"

#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail(const char *path, int reason)
{
    return cli_fail(EFFNET_E_OUTPUT, "%s: %s", path, reason ? strerror(reason) : "cannot be written");
}

/* The folder that a file of this path is in, with its slash; the caller's. NULL where memory is short. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? strndup(path, (size_t)(slash - path) + 1) : strdup("./");
}

/* Whether the path is there and no regular file. */
static bool is_special(const char *path)
{
    struct stat info;
    return !stat(path, &info) && !S_ISREG(info.st_mode);
}

int output_check(const char *path)
{
    struct stat info;
    if (!stat(path, &info) && S_ISDIR(info.st_mode)) return fail(path, EISDIR);
    if (is_special(path)) return EFFNET_OK;
    char *folder = folder_of(path);
    const int status = !folder                              ? cli_fail_nomem(path)
                       : access(folder, F_OK | W_OK | X_OK) ? fail(path, errno)
                                                            : EFFNET_OK;
    free(folder);
    return status;
}

/* Makes the temporary file, which may be read by whoever the umask lets. */
static int open_temporary(struct output *out)
{
    const mode_t mask = umask(0);
    umask(mask);
    if (asprintf(&out->temporary, "%s.XXXXXX", out->path) < 0) {
        out->temporary = NULL;
        return cli_fail_nomem(out->path);
    }
    const int fd = mkostemp(out->temporary, O_CLOEXEC);
    const int reason = errno;
    if (fd < 0) {
        free(out->temporary);
        out->temporary = NULL;
        return fail(out->path, reason);
    }
    fchmod(fd, 0666 & ~mask);
    out->file = fdopen(fd, "w");
    if (out->file) return EFFNET_OK;
    close(fd);
    return cli_fail_nomem(out->path);
}

int output_open(const char *path, struct output *out)
{
    int status = EFFNET_OK;
    *out = (struct output){0};
    if (is_special(path)) {
        out->path = strdup(path);
        if (!out->path) return cli_fail_nomem(path);
        out->file = fopen(path, "we");
        if (!out->file) status = fail(path, errno);
    } else {
        out->path = realpath(path, NULL); /* a link stays, and what it points to is replaced */
        if (!out->path) out->path = strdup(path);
        status = out->path ? open_temporary(out) : cli_fail_nomem(path);
    }
    return status ? output_close(out, status) : EFFNET_OK;
}

int output_close(struct output *output, int status)
{
    errno = 0;
    if (output->file) {
        const bool failed = ferror(output->file) != 0;
        const bool closed = fclose(output->file) == 0;
        if (!status && (failed || !closed)) status = fail(output->path, errno);
    }
    if (!status && output->temporary && rename(output->temporary, output->path))
        status = fail(output->path, errno);
    if (status && output->temporary) unlink(output->temporary);
    free(output->temporary);
    free(output->path);
    memset(output, 0, sizeof *output);
    return status;
}
