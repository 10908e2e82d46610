/* Starting threads of our own. */
#ifndef EFFNET_COMMON_THREAD_H
#define EFFNET_COMMON_THREAD_H

#include <pthread.h>

/* pthread_create for a thread that leaves the caller's program alone and is left alone by it: signals go to
 * the program's own threads, the stack is large enough whatever `ulimit -s` says, and the thread may run on
 * every processor that effnet_cpu_threads counts (with musl: on those of the caller). Returns 0 or an errno
 * value: the system may refuse any thread. */
int effnet_thread_start(pthread_t *thread, void *(*function)(void *), void *argument);

#endif
