#include "common/thread.h"

#include "common/cpu_share.h"

#include <signal.h>

/* Twenty times what oneDNN and the decoders were seen to take; only pages that are touched cost memory. */
#define STACK_BYTES ((size_t)1 << 20)

/* All signals, but those that a thread's own fault raises and a profiler's. */
static void fill_blocked(sigset_t *set)
{
    static const int open[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF};
    sigfillset(set);
    for (size_t i = 0; i < sizeof open / sizeof open[0]; i++) sigdelset(set, open[i]);
}

int effnet_thread_start(pthread_t *thread, void *(*function)(void *), void *argument)
{
    pthread_attr_t attributes;
    sigset_t blocked, before;
    size_t mask_bytes;
    bool widened;
    int failure = pthread_attr_init(&attributes);
    if (failure) return failure;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    fill_blocked(&blocked);
    pthread_sigmask(SIG_BLOCK, &blocked, &before); /* a new thread has the mask of who starts it */
    failure = pthread_create(thread, &attributes, function, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (failure) return failure;
    cpu_set_t *mask = effnet_cpu_mask(&mask_bytes, &widened);
    if (widened) pthread_setaffinity_np(*thread, mask_bytes, mask); /* else it is the caller's */
    CPU_FREE(mask);
    return 0;
}
