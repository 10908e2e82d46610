/* What this machine's processor is and what the process may use of it. */
#ifndef EFFNET_COMMON_CPU_H
#define EFFNET_COMMON_CPU_H

#include "effnet.h"

/* "AMD EPYC 7763 64-Core Processor"; the architecture's name where the system tells no more. Static. */
const char *effnet_cpu_name(void);

/* How many threads of this process can run at once, for all who share out work: the processors that the
 * calling thread may run on, or fewer where control groups allow less time (a part of one counts as one); at
 * least 1. */
int effnet_cpu_threads(void);

/* Microseconds on the monotonic clock, from an arbitrary start. */
double effnet_clock_us(void);
/* Adds the time since *since_us to *step_us, and restarts it. */
void effnet_clock_lap(double *since_us, double *step_us);

/* Replaces what the processor's caches hold by writing twice the last level's size. */
int effnet_evict_caches(struct effnet_error *error);

#endif
