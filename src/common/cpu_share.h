/* Which part of the machine's processors is this process's: the parts of effnet_cpu_threads (cpu.h). */
#ifndef EFFNET_COMMON_CPU_SHARE_H
#define EFFNET_COMMON_CPU_SHARE_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>

/* The processors that threads of ours may run on, as many as the machine has; freed with CPU_FREE. NULL where
 * the system does not tell. That is the calling thread's affinity, with one exception: where OpenMP's run
 * time has bound the calling thread to one of its places (OMP_PROC_BIND, OMP_PLACES, GOMP_CPU_AFFINITY), it
 * is all places, and *widened is true. */
cpu_set_t *effnet_cpu_mask(size_t *size_bytes, bool *widened);

/* Processors' worth of time that control groups (v2, v1 or both) allow this process, rounded up; 0: no limit.
 * What is read lies under the folder `root`: "" is the machine's own /proc and /sys. */
int effnet_cpu_quota(const char *root);

#endif
