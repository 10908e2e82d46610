#include "common/cpu_share.h"

#include "common/cpu.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---------------------------------------------------------------- affinity */

/* OpenMP's run time, where the program has one: with oneDNN, or the caller's own. None of these binds a
 * thread, as omp_get_place_num does. */
extern int omp_get_num_places(void) __attribute__((weak));
extern int omp_get_place_num_procs(int place) __attribute__((weak));
extern void omp_get_place_proc_ids(int place, int *ids) __attribute__((weak));

enum { MASK_FIRST = 1024, MASK_LAST = 1 << 20 }; /* processors */

/* The calling thread's mask. The kernel refuses sets smaller than its own. */
static cpu_set_t *thread_mask(size_t *size_bytes)
{
    for (int cpus = MASK_FIRST; cpus <= MASK_LAST; cpus *= 4) {
        cpu_set_t *set = CPU_ALLOC(cpus);
        if (!set) return NULL;
        *size_bytes = CPU_ALLOC_SIZE(cpus);
        CPU_ZERO_S(*size_bytes, set);
        if (sched_getaffinity(0, *size_bytes, set) == 0 && CPU_COUNT_S(*size_bytes, set) > 0) return set;
        CPU_FREE(set);
    }
    return NULL;
}

static void add_place(int place, cpu_set_t *set, size_t size_bytes)
{
    int count = omp_get_place_num_procs(place);
    int *ids = count > 0 ? malloc((size_t)count * sizeof *ids) : NULL;
    if (!ids) return;
    omp_get_place_proc_ids(place, ids);
    for (int i = 0; i < count; i++) CPU_SET_S((size_t)ids[i], size_bytes, set);
    free(ids);
}

/* Leaves in `all` what the kernel lets this thread have of it: places may name processors that are not there,
 * or not for this process. Only a thread that takes a mask learns that; this one, whose own is `mask`, takes
 * it back. */
static void keep_allowed(cpu_set_t *all, const cpu_set_t *mask, size_t size_bytes)
{
    if (sched_setaffinity(0, size_bytes, all) != 0) return;
    if (sched_getaffinity(0, size_bytes, all) != 0) memcpy(all, mask, size_bytes);
    sched_setaffinity(0, size_bytes, mask);
}

/* Where `mask` is one of OpenMP's places, widens it to all of them; returns whether it did. */
static bool widen_to_places(cpu_set_t *mask, size_t size_bytes)
{
    if (!omp_get_num_places || !omp_get_place_num_procs || !omp_get_place_proc_ids) return false;
    cpu_set_t *place = malloc(size_bytes), *all = malloc(size_bytes);
    bool bound = false;
    if (place && all) {
        CPU_ZERO_S(size_bytes, all);
        for (int i = 0; i < omp_get_num_places(); i++) {
            CPU_ZERO_S(size_bytes, place);
            add_place(i, place, size_bytes);
            bound = bound || CPU_EQUAL_S(size_bytes, place, mask);
            CPU_OR_S(size_bytes, all, all, place);
        }
        bound = bound && !CPU_EQUAL_S(size_bytes, all, mask);
        if (bound) keep_allowed(all, mask, size_bytes);
        if (bound) memcpy(mask, all, size_bytes);
    }
    free(place);
    free(all);
    return bound;
}

cpu_set_t *effnet_cpu_mask(size_t *size_bytes, bool *widened)
{
    cpu_set_t *mask = thread_mask(size_bytes);
    *widened = mask && widen_to_places(mask, *size_bytes);
    return mask;
}

/* ---------------------------------------------------------------- control groups */

enum version { V1, V2, VERSIONS };

/* One hierarchy of groups that may limit this process. */
struct hierarchy {
    char *group;     /* the process's, as /proc/self/cgroup names it; NULL: it is in none */
    char *mount;     /* the first place where the hierarchy is mounted */
    bool group_seen; /* the group lies below one of the mounts */
    int limit;       /* the least so far, in processors; 0: none */
};

static int min_limit(int a, int b)
{
    return !a || (b && b < a) ? b : a;
}

/* The whole numbers at the beginning of folder/name, up to two; returns how many. */
static int read_numbers(const char *folder, const char *name, long long numbers[2])
{
    char *path;
    if (asprintf(&path, "%s/%s", folder, name) < 0) return 0;
    FILE *file = fopen(path, "re");
    free(path);
    if (!file) return 0;
    int count = fscanf(file, "%lld %lld", &numbers[0], &numbers[1]);
    fclose(file);
    return count;
}

/* What one group allows. v2: cpu.max holds "QUOTA PERIOD" or "max PERIOD"; v1: a file each, and -1 for none.
 */
static int group_limit(const char *folder, enum version version)
{
    long long numbers[2], period[2];
    if (version == V2) {
        if (read_numbers(folder, "cpu.max", numbers) < 2) return 0;
    } else {
        if (read_numbers(folder, "cpu.cfs_quota_us", numbers) < 1) return 0;
        if (read_numbers(folder, "cpu.cfs_period_us", period) < 1) return 0;
        numbers[1] = period[0];
    }
    if (numbers[0] <= 0 || numbers[1] <= 0) return 0;
    long long processors = numbers[0] / numbers[1] + (numbers[0] % numbers[1] > 0);
    return processors < INT_MAX ? (int)processors : INT_MAX;
}

/* A parent's limit holds for its children too: the least from a group up to the mount. A group that cannot be
 * seen there (a container's, on the machine outside) has no files, which limits nothing. */
static int least_limit(const char *root, const char *mount, const char *group, enum version version)
{
    char *folder;
    int limit = 0;
    if (asprintf(&folder, "%s%s%s", root, mount, group) < 0) return 0;
    char *below = folder + strlen(root) + strlen(mount);
    for (;;) {
        limit = min_limit(limit, group_limit(folder, version));
        char *slash = strrchr(below, '/');
        if (!slash) break;
        *slash = '\0';
    }
    free(folder);
    return limit;
}

/* Whether a list "cpu,cpuacct" has the word "cpu". */
static bool lists_cpu(const char *list)
{
    for (;;) {
        size_t length = strcspn(list, ",");
        if (length == 3 && strncmp(list, "cpu", 3) == 0) return true;
        if (!list[length]) return false;
        list += length + 1;
    }
}

/* One line of /proc/self/cgroup, "ID:CONTROLLERS:GROUP"; v2 has id 0 and no controllers. */
static void read_group(char *line, const char *root, struct hierarchy hierarchies[VERSIONS])
{
    (void)root;
    char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) return;
    *controllers++ = '\0';
    *group++ = '\0';
    bool v2 = strcmp(line, "0") == 0 && !*controllers;
    if (!v2 && !lists_cpu(controllers)) return;
    struct hierarchy *h = &hierarchies[v2 ? V2 : V1];
    if (!h->group) h->group = strdup(group);
}

/* The kernel writes a space as \040 and the like. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from; to++) {
        if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' && from[2] <= '7' &&
            from[3] >= '0' && from[3] <= '7') {
            *to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

/* The part of a group's name below the group that is mounted, or NULL where it lies elsewhere. */
static const char *group_below(const char *group, const char *mounted)
{
    if (strncmp(group, "/..", 3) == 0 && (group[3] == '/' || !group[3])) return NULL; /* out of a namespace */
    size_t length = strcmp(mounted, "/") == 0 ? 0 : strlen(mounted);
    if (strncmp(group, mounted, length) != 0 || (group[length] && group[length] != '/')) return NULL;
    return strcmp(group + length, "/") == 0 ? "" : group + length;
}

/* One line of /proc/self/mountinfo: "ID PARENT DEVICE MOUNTED PLACE OPTIONS [TAG]... - TYPE SOURCE OPTIONS".
 */
static void read_mount(char *line, const char *root, struct hierarchy hierarchies[VERSIONS])
{
    char *fields[5] = {0}, *tail = strstr(line, " - "), *rest = line, *type, *source, *options;
    if (!tail) return;
    *tail = '\0';
    tail += 3;
    for (int i = 0; i < 5; i++) fields[i] = strtok_r(rest, " ", &rest);
    type = strtok_r(tail, " ", &tail);
    source = strtok_r(tail, " ", &tail);
    options = strtok_r(tail, " ", &tail);
    if (!fields[4] || !type || !source || !options) return;
    bool v2 = strcmp(type, "cgroup2") == 0;
    if (!v2 && (strcmp(type, "cgroup") != 0 || !lists_cpu(options))) return;

    struct hierarchy *h = &hierarchies[v2 ? V2 : V1];
    if (!h->group) return;
    unescape(fields[3]);
    unescape(fields[4]);
    const char *below = group_below(h->group, fields[3]);
    if (below) {
        h->group_seen = true;
        h->limit = min_limit(h->limit, least_limit(root, fields[4], below, v2 ? V2 : V1));
    } else if (!h->mount) {
        h->mount = strdup(fields[4]);
    }
}

/* Calls one of the two above for each line of a file, without its newline. */
static void for_each_line(const char *root, const char *name,
                          void (*read)(char *line, const char *root, struct hierarchy *hierarchies),
                          struct hierarchy hierarchies[VERSIONS])
{
    char *path, *line = NULL;
    size_t size = 0;
    if (asprintf(&path, "%s%s", root, name) < 0) return;
    FILE *file = fopen(path, "re");
    free(path);
    while (file && getline(&line, &size, file) > 0) {
        line[strcspn(line, "\n")] = '\0';
        read(line, root, hierarchies);
    }
    free(line);
    if (file) fclose(file);
}

int effnet_cpu_quota(const char *root)
{
    struct hierarchy hierarchies[VERSIONS] = {0};
    int limit = 0;
    for_each_line(root, "/proc/self/cgroup", read_group, hierarchies);
    for_each_line(root, "/proc/self/mountinfo", read_mount, hierarchies);
    for (int version = V1; version < VERSIONS; version++) {
        struct hierarchy *h = &hierarchies[version];
        /* Inside a container the mount may be the process's own group under a name that it does not know. */
        if (!h->group_seen && h->mount) h->limit = least_limit(root, h->mount, "", version);
        limit = min_limit(limit, h->limit);
        free(h->group);
        free(h->mount);
    }
    return limit;
}

/* ---------------------------------------------------------------- both */

int effnet_cpu_threads(void)
{
    size_t size_bytes;
    bool widened;
    cpu_set_t *mask = effnet_cpu_mask(&size_bytes, &widened);
    long processors = mask ? CPU_COUNT_S(size_bytes, mask) : sysconf(_SC_NPROCESSORS_ONLN);
    CPU_FREE(mask);
    int quota = effnet_cpu_quota("");
    if (processors < 1) processors = 1;
    return quota && quota < processors ? quota : (int)processors;
}
