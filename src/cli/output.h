/* Files of results: written under another name and then renamed, so that a file of the name that was asked
 * for is whole or is the one from before. Functions report their own failures, as EFFNET_E_OUTPUT. */
#ifndef EFFNET_CLI_OUTPUT_H
#define EFFNET_CLI_OUTPUT_H

#include <stdio.h>

struct output {
    FILE *file;
    char *path,
        *temporary; /* NULL: `path` is no regular file (a device, a pipe), and is written to as it is */
};

/* Before long work: whether a file could be made there. */
int output_check(const char *path);
int output_open(const char *path, struct output *out);
/* Closes the file and gives it its name; or, where something was not written or `status` is a failure, takes
 * it away. Returns status, or its own failure. */
int output_close(struct output *output, int status);

#endif
