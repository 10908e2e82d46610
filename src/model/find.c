/* Which file is meant by a network's name. */
#include "common/error.h"
#include "common/utf8.h"
#include "effnet_lab.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WEIGHTS_SUFFIX ".safetensors"

/* Where `make weights` puts networks and `make install` copies them, from the folder of the program:
 * build/effnet, build/san/effnet, PREFIX/bin/effnet. */
static const char *const places[] = {"../weights", "../../weights", "../share/effnet"};
enum { PLACES = sizeof places / sizeof places[0] };

static bool find_network(const char *name, const char *const *folders, int count, char path[PATH_MAX])
{
    for (int i = 0; i < count * PLACES; i++) {
        char candidate[PATH_MAX];
        int length = snprintf(candidate, sizeof candidate, "%s/%s/%s" WEIGHTS_SUFFIX, folders[i / PLACES],
                              places[i % PLACES], name);
        if (length >= 0 && length < PATH_MAX && realpath(candidate, path)) return true;
    }
    return false;
}

/* A word that could be a network's name: no folder, no suffix. */
static bool is_network_name(const char *word)
{
    size_t length = strlen(word), suffix = strlen(WEIGHTS_SUFFIX);
    return !strchr(word, '/') && !(length >= suffix && !strcmp(word + length - suffix, WEIGHTS_SUFFIX));
}

int effnet_model_find(const char *word, const char *const *folders, int count, char *path,
                      struct effnet_error *error)
{
    const char *environment = getenv("EFFNET_MODEL");
    const char *asked = word ? word : environment && *environment ? environment : NULL;
    if (!asked) {
        if (find_network(EFFNET_DEFAULT_NETWORK, folders, count, path)) return EFFNET_OK;
        return effnet_fail(error, EFFNET_E_NOINPUT,
                           "no weights: there is no " EFFNET_DEFAULT_NETWORK WEIGHTS_SUFFIX
                           " in weights or share/effnet beside the program's folder; run 'make weights', or "
                           "name a file (effnet -m, EFFNET_MODEL)");
    }
    char shown[240];
    effnet_keep_end(shown, sizeof shown, asked);
    const char *origin = word ? "" : "EFFNET_MODEL: ";
    if (strlen(asked) >= PATH_MAX)
        return effnet_fail(error, EFFNET_E_NOINPUT, "%s%s: %s", origin, shown, strerror(ENAMETOOLONG));
    strcpy(path, asked);
    if (access(asked, F_OK) == 0) return EFFNET_OK;
    if (!is_network_name(asked))
        return effnet_fail(error, EFFNET_E_NOINPUT,
                           "%s%s: %s; 'make weights' makes those of the known networks", origin, shown,
                           strerror(errno));
    if (find_network(asked, folders, count, path)) return EFFNET_OK;
    return effnet_fail(
        error, EFFNET_E_NOINPUT,
        "%s%s: no such file, and no network of that name in weights or share/effnet beside the program's "
        "folder; 'make weights NETWORKS=...' makes lite0, lite1, lite2 and b1-plain, and of each NAME-int8, "
        "tools/convert.py others from a checkpoint",
        origin, shown);
}
