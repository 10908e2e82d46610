#include "common/cpu.h"

#include "common/error.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static char cpu_name[128];

static void read_cpu_name(void)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[512];
    while (file && !cpu_name[0] && fgets(line, sizeof line, file)) {
        char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !value) continue;
        value += 1 + strspn(value + 1, " \t");
        value[strcspn(value, "\n")] = 0;
        snprintf(cpu_name, sizeof cpu_name, "%.*s", (int)sizeof cpu_name - 1, value);
    }
    if (file) fclose(file);
    struct utsname system;
    if (!cpu_name[0] && uname(&system) == 0)
        snprintf(cpu_name, sizeof cpu_name, "%.*s processor", 64, system.machine);
}

const char *effnet_cpu_name(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_cpu_name);
    return cpu_name;
}

/* Processors in the affinity mask, or those online where the mask cannot be had. */
static int affinity_count(void)
{
    for (int cpus = 1024; cpus <= 1 << 20; cpus *= 4) { /* the kernel's mask may be wider than cpu_set_t */
        cpu_set_t *set = CPU_ALLOC(cpus);
        if (!set) break;
        size_t size = CPU_ALLOC_SIZE(cpus);
        int count = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (count > 0) return count;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

/* Whole processors that one control group's cpu.max ("200000 100000", "max 100000") allows, or `limit`. */
static int quota_of(const char *group, int limit)
{
    char path[4200];
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
    FILE *file = fopen(path, "re");
    if (!file) return limit;
    double quota, period;
    if (fscanf(file, "%lf %lf", &quota, &period) == 2 && quota > 0 && period > 0) {
        double cpus = quota / period;
        int whole = cpus < limit ? (int)cpus + (cpus > (int)cpus) : limit;
        if (whole < limit) limit = whole;
    }
    fclose(file);
    return limit;
}

int effnet_cpu_threads(void)
{
    int threads = affinity_count();
    char group[4096] = "";
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[4096];
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, "0::", 3) == 0) snprintf(group, sizeof group, "%s", line + 3);
    }
    if (file) fclose(file);
    /* A parent's limit holds for its children too: walk up to the root. */
    for (;;) {
        threads = quota_of(group, threads);
        char *slash = strrchr(group, '/');
        if (!slash) break;
        *slash = 0;
    }
    return threads > 0 ? threads : 1;
}

double effnet_clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

int effnet_evict_caches(struct effnet_error *error)
{
    long cache = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE /* glibc's */
    cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    if (cache < 32L << 20) cache = 32L << 20; /* virtual machines often tell nothing */
    if (cache > 512L << 20) cache = 512L << 20;
    size_t size = 2 * (size_t)cache;
    volatile char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return effnet_fail_nomem(error, "cache eviction", size);
    for (size_t i = 0; i < size; i += 64) memory[i] = 1;
    munmap((void *)memory, size);
    return EFFNET_OK;
}
