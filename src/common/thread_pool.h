/* A few threads that share out small numbered tasks, as quickly as layers of a network come and go.
 *
 * Tasks are claimed one by one, so a thread that the system holds up delays no more than the task it has in
 * hand, and the caller does all of them if nobody else is awake. */
#ifndef EFFNET_COMMON_THREAD_POOL_H
#define EFFNET_COMMON_THREAD_POOL_H

#include "effnet.h"

struct pool;

/* Does task `index`. `worker` is the number of the thread that runs it, 0 for the caller of effnet_pool_run;
 * no two tasks run at once under one number. Returns 0, or anything else as a failure. */
typedef int (*pool_task)(void *context, int worker, int index);

/* Makes a pool of `threads`, the caller included. Where the system refuses some of them the pool has fewer.
 */
int effnet_pool_open(int threads, struct pool **out, struct effnet_error *error);
void effnet_pool_close(struct pool *pool);
/* Whether this is a child of the process that made the pool: then its threads are not here, and it can only
 * be closed. */
bool effnet_pool_lost(const struct pool *pool);
int effnet_pool_threads(const struct pool *pool);

/* Runs tasks 0..tasks-1, each once, on at most `threads` threads (workers 0..threads-1), and returns when all
 * are done: 0, or what one of those that failed returned. OpenMP regions inside a task have one thread. From
 * one thread at a time. */
int effnet_pool_run(struct pool *pool, int threads, int tasks, pool_task task, void *context);

/* OpenMP's number of threads for the regions that the calling thread starts: sets it and returns what it was.
 * Where no OpenMP is loaded there is nothing to set. */
int effnet_omp_set_threads(int threads);

#endif
