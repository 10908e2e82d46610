#include "cli/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

FILE *file_open_regular(const char *path, const char **reason)
{
    struct stat info;
    FILE *file = NULL;
    const int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    int why = fd < 0 || fstat(fd, &info) ? errno : 0;
    if (!why && S_ISREG(info.st_mode)) {
        file = fdopen(fd, "r");
        if (!file) why = errno;
    }
    if (!file && fd >= 0) close(fd);
    if (!file) *reason = why ? strerror(why) : "is no regular file";
    errno = why;
    return file;
}
