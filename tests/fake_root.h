/* A folder that stands for / in tests of what the library reads of /proc, /sys and /dev. One at a time. Ends
 * the program where the folder cannot be written. */
#ifndef EFFNET_TESTS_FAKE_ROOT_H
#define EFFNET_TESTS_FAKE_ROOT_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char fake_root[64];

static inline void fake_root_require(bool good)
{
    if (good) return;
    perror(fake_root);
    exit(1);
}

static inline void fake_root_new(void)
{
    strcpy(fake_root, "/tmp/effnet-root-XXXXXX");
    fake_root_require(mkdtemp(fake_root));
}

/* Writes a file, with the folders that it wants. */
static inline void fake_root_put(const char *name, const char *text)
{
    char path[8192];
    snprintf(path, sizeof path, "%s%s", fake_root, name);
    for (char *slash = strchr(path + strlen(fake_root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        fake_root_require(mkdir(path, 0700) == 0 || errno == EEXIST);
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    fake_root_require(file && fputs(text, file) >= 0 && !fclose(file));
}

static inline void fake_root_remove(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", fake_root);
    fake_root_require(system(command) == 0);
}

#endif
