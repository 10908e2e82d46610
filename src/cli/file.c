#include "cli/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Closes what is not wanted, with errno `why`, or 0 for what is no regular file. */
static void refuse(int fd, int why, const char **reason)
{
    if (fd >= 0) close(fd);
    *reason = why ? strerror(why) : "is no regular file";
    errno = why;
}

/* -1: as file_open_regular. */
static int open_regular(const char *path, const char **reason)
{
    struct stat info;
    const int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    const bool failed = fd < 0 || fstat(fd, &info);
    if (!failed && S_ISREG(info.st_mode)) return fd;
    refuse(fd, failed ? errno : 0, reason);
    return -1;
}

FILE *file_open_regular(const char *path, const char **reason)
{
    const int fd = open_regular(path, reason);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
    if (fd >= 0 && !file) refuse(fd, errno, reason);
    return file;
}

ssize_t file_read_start(const char *path, void *bytes, size_t size, const char **reason)
{
    const int fd = open_regular(path, reason);
    if (fd < 0) return -1;
    size_t done = 0;
    ssize_t got = 1;
    while (got > 0 && done < size) {
        got = read(fd, (char *)bytes + done, size - done);
        if (got > 0) done += (size_t)got;
    }
    if (got < 0) {
        refuse(fd, errno, reason);
        return -1;
    }
    close(fd);
    return (ssize_t)done;
}
