#include "common/thread.h"

#include "common/cpu_share.h"

#include <signal.h>

/* Twenty times what oneDNN and the decoders were seen to take; only pages that are touched cost memory. */
#define STACK_BYTES ((size_t)1 << 20)

int effnet_thread_start(pthread_t *thread, void *(*function)(void *), void *argument)
{
    /* Signals that a thread's own fault raises, and a profiler's; all others are blocked. */
    static const int open[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF};
    pthread_attr_t attributes;
    sigset_t blocked, before;
    size_t mask_bytes;
    bool widened;
    int failure = pthread_attr_init(&attributes);
    if (failure) return failure;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    /* Set before the thread starts: of one that has ended, pthread_setaffinity_np changes the caller's. */
    cpu_set_t *mask = effnet_cpu_mask(&mask_bytes, &widened);
#ifdef __GLIBC__ /* musl has no such call; there a thread has its caller's affinity */
    if (widened) pthread_attr_setaffinity_np(&attributes, mask_bytes, mask);
#endif
    CPU_FREE(mask);
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof open / sizeof open[0]; i++) sigdelset(&blocked, open[i]);
    pthread_sigmask(SIG_BLOCK, &blocked, &before); /* a new thread has the mask of who starts it */
    failure = pthread_create(thread, &attributes, function, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failure;
}
