#include "cli/output.h"

#include "cli/cli.h"
#include "pipeline/walk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail(const char *name, int reason)
{
    return cli_fail(EFFNET_E_OUTPUT, "%s: %s", name, reason ? strerror(reason) : "cannot be written");
}

int output_name(struct output *output, const char *name)
{
    struct stat status;
    *output = (struct output){.name = name};
    if (!name) {
        output->file = stdout;
        output->name = "standard output";
        return EFFNET_OK;
    }
    if (!stat(name, &status)) {
        if (S_ISDIR(status.st_mode)) return fail(name, EISDIR);
        if (!S_ISREG(status.st_mode)) {
            output->file = fopen(name, "we");
            return output->file ? EFFNET_OK : fail(name, errno);
        }
        output->mode = status.st_mode & 07777;
        output->final = realpath(name, NULL); /* a link stays, and what it leads to is replaced */
    } else {
        output->final = strdup(name);
    }
    if (!output->final || asprintf(&output->partial, "%s.partial", output->final) < 0) {
        output->partial = NULL;
        return cli_fail_nomem("an output's name");
    }
    return EFFNET_OK;
}

int output_open(struct output *output, bool ours, int64_t keep_bytes)
{
    struct stat status;
    int fd = open(output->partial, O_RDWR | O_CREAT | O_CLOEXEC | (ours ? 0 : O_EXCL), 0666);
    if (fd < 0 && errno == EEXIST)
        return cli_fail(EFFNET_E_OUTPUT, "%s: is in the way: left by a run that broke off? Move or remove it",
                        output->partial);
    if (fd < 0) return fail(output->partial, errno);
    if (fstat(fd, &status) || ftruncate(fd, status.st_size < keep_bytes ? status.st_size : keep_bytes) ||
        lseek(fd, 0, SEEK_END) < 0 || (output->mode && fchmod(fd, output->mode)) ||
        !(output->file = fdopen(fd, "r+"))) {
        int reason = errno;
        close(fd);
        return fail(output->partial, reason);
    }
    if (fseeko(output->file, 0, SEEK_END)) return fail(output->partial, errno);
    if (status.st_size < keep_bytes && ours && keep_bytes)
        return cli_fail(EFFNET_E_OUTPUT,
                        "%s: has lost what it held when the run broke off; to begin anew, "
                        "remove it and its .resume file",
                        output->partial);
    return EFFNET_OK;
}

int output_check(struct output *output)
{
    if (output->file == stdout) return cli_check_output();
    if (!ferror(output->file)) return EFFNET_OK;
    if (output->reported) return EFFNET_E_OUTPUT;
    output->reported = true;
    return fail(output->name, errno);
}

int output_flush(struct output *output)
{
    if (output->file == stdout) return cli_flush_output();
    const bool failed = ferror(output->file);
    if (!fflush(output->file) && !failed) return EFFNET_OK;
    if (output->reported) return EFFNET_E_OUTPUT;
    output->reported = true;
    return fail(output->name, errno);
}

int output_sync(struct output *output)
{
    EFFNET_TRY(output_flush(output));
    if (!output->final || output->hasty || !fsync(fileno(output->file))) return EFFNET_OK;
    return fail(output->name, errno);
}

/* The folder that a file of this path is in, with its slash; the caller's. NULL where memory is short. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? strndup(path, (size_t)(slash - path) + 1) : strdup("./");
}

/* A new name is safe once its folder is. Some file systems cannot do this, and lose nothing by it. */
static void sync_folder(const char *path)
{
    char *folder = folder_of(path);
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    free(folder);
    if (fd < 0) return;
    (void)fsync(fd);
    close(fd);
}

int output_rename(const struct output *output)
{
    if (!output->final) return EFFNET_OK;
    if (rename(output->partial, output->final) && errno != ENOENT) return fail(output->name, errno);
    if (!output->hasty) sync_folder(output->final);
    return EFFNET_OK;
}

void output_close(struct output *output, bool keep)
{
    if (output->file && output->file != stdout) {
        fclose(output->file);
        if (output->partial && !keep) unlink(output->partial);
    }
    free(output->final);
    free(output->partial);
    *output = (struct output){0};
}

char *output_place(const char *name)
{
    char *there = realpath(name, NULL), *path = NULL;
    if (there) return there;
    size_t length = strlen(name);
    while (length > 1 && name[length - 1] == '/') length--;
    char *plain = strndup(name, length), *folder = plain ? folder_of(plain) : NULL;
    char *real = folder ? realpath(folder, NULL) : NULL;
    const char *slash = plain ? strrchr(plain, '/') : NULL;
    if (real && asprintf(&path, "%s/%s", strcmp(real, "/") ? real : "", slash ? slash + 1 : plain) < 0)
        path = NULL;
    free(real);
    free(folder);
    free(plain);
    return path;
}

bool output_same_place(const char *a, const char *b)
{
    char *first = output_place(a), *second = output_place(b);
    const bool same = first && second && !strcmp(first, second);
    free(first);
    free(second);
    return same;
}

int output_check_not_read(const char *name, const char *input)
{
    if (!name || !input || !strcmp(input, "-") || !output_same_place(name, input)) return EFFNET_OK;
    return cli_fail(EFFNET_E_USAGE, "%s: is read, and so not overwritten", name);
}

int output_check_no_image(const char *name)
{
    struct stat info;
    if (stat(name, &info) || !S_ISREG(info.st_mode) || info.st_size == 0 || !walk_is_image(name))
        return EFFNET_OK;
    return cli_fail(EFFNET_E_OUTPUT, "%s: is an image, which is not overwritten", name);
}

int output_check_ending(const char *name)
{
    static const char *const endings[] = {".partial", ".resume", ".shard"};
    char *place = output_place(name); /* a link's ending is not what counts */
    const char *path = place ? place : name;
    const size_t length = strlen(path);
    int status = EFFNET_OK;
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        const size_t ending = strlen(endings[i]);
        if (length >= ending && !strcmp(path + length - ending, endings[i]))
            status = cli_fail(EFFNET_E_USAGE,
                              "%s: no output may end in %s, as files do that effnet makes beside one", name,
                              endings[i]);
    }
    free(place);
    return status;
}

int output_check_place(const char *name)
{
    EFFNET_TRY(output_check_ending(name));
    struct stat info;
    const bool there = !stat(name, &info);
    if (there && S_ISDIR(info.st_mode)) return fail(name, EISDIR);
    if (there && !S_ISREG(info.st_mode)) return EFFNET_OK;
    char *folder = folder_of(name);
    const int status = !folder                              ? cli_fail_nomem(name)
                       : access(folder, F_OK | W_OK | X_OK) ? fail(name, errno)
                                                            : EFFNET_OK;
    free(folder);
    return status;
}

int output_begin(struct output *output, const char *name)
{
    int status = output_name(output, name);
    if (!status && output->partial) status = output_open(output, false, 0);
    if (status) output_close(output, false);
    return status;
}

int output_end(struct output *output, int status)
{
    if (!status) status = output_sync(output);
    if (!status) status = output_rename(output);
    output_close(output, status == EFFNET_OK); /* what was renamed is not to be removed */
    return status;
}
