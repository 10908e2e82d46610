#include "cli/evaluate/folders.h"

#include "cli/cli.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int is_shown(const struct dirent *entry)
{
    return *entry->d_name != '.';
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* Adds the name to names [*count] if it is a folder's. */
static int add_folder(const char *folder, const char *name, char **names, int *count)
{
    char *path;
    struct stat info;
    if (asprintf(&path, "%s/%s", folder, name) < 0) return cli_fail_nomem(folder);
    const bool is_folder = !stat(path, &info) && S_ISDIR(info.st_mode);
    free(path);
    if (!is_folder) return EFFNET_OK;
    names[*count] = strdup(name);
    if (!names[*count]) return cli_fail_nomem(folder);
    ++*count;
    return EFFNET_OK;
}

int folders_list(const char *folder, char ***names, int *count)
{
    struct dirent **entries;
    const int entry_count = scandir(folder, &entries, is_shown, by_bytes);
    int status = EFFNET_OK;
    *count = 0;
    *names = NULL;
    if (entry_count < 0) return cli_fail(EFFNET_E_NOINPUT, "%s: %s", folder, strerror(errno));
    *names = calloc((size_t)entry_count + 1, sizeof **names);
    if (!*names) status = cli_fail_nomem(folder);
    for (int i = 0; !status && i < entry_count; i++)
        status = add_folder(folder, entries[i]->d_name, *names, count);
    for (int i = 0; i < entry_count; i++) free(entries[i]);
    free(entries);
    if (status) {
        folders_free(*names, *count);
        *names = NULL;
    }
    return status;
}

void folders_free(char **names, int count)
{
    for (int i = 0; i < count; i++) free(names[i]);
    free(names);
}
