/* Files that are looked into before they are read or replaced. */
#ifndef EFFNET_CLI_FILE_H
#define EFFNET_CLI_FILE_H

#include <stdio.h>
#include <sys/types.h>

/* Opens a regular file for reading. Another is not waited for, as fopen would for a pipe's writer. NULL:
 * errno and *reason, words for a message, tell why; errno is 0 of what is no regular file. */
FILE *file_open_regular(const char *path, const char **reason);

/* The first `size` bytes of a regular file, or all where it has fewer: how many. -1: as file_open_regular. */
ssize_t file_read_start(const char *path, void *bytes, size_t size, const char **reason);

#endif
