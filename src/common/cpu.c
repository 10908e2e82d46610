#include "common/cpu.h"

#include "common/error.h"

#include <pthread.h>
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

double effnet_clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

void effnet_clock_lap(double *since_us, double *step_us)
{
    const double now_us = effnet_clock_us();
    *step_us += now_us - *since_us;
    *since_us = now_us;
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
