#include "common/fork.h"

#include <pthread.h>
#include <stdatomic.h>

/* Held by fork alone, or by any number of threads that fork has to wait for. They must not keep fork waiting
 * for ever by taking turns. */
#ifdef PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP
#define LOCK_INITIALIZER PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP
#else
#define LOCK_INITIALIZER PTHREAD_RWLOCK_INITIALIZER
#endif
static pthread_rwlock_t lock = LOCK_INITIALIZER;
static atomic_int forks;
static pthread_once_t watched = PTHREAD_ONCE_INIT;

static void before_fork(void)
{
    pthread_rwlock_wrlock(&lock);
}

/* Threads that wait for the lock are not here: it is a new one. */
static void after_fork_in_child(void)
{
    static const pthread_rwlock_t unlocked = LOCK_INITIALIZER;
    lock = unlocked;
    atomic_fetch_add(&forks, 1);
}

static void watch(void)
{
    pthread_atfork(before_fork, effnet_fork_unblock, after_fork_in_child);
}

int effnet_fork_count(void)
{
    pthread_once(&watched, watch);
    return atomic_load(&forks);
}

void effnet_fork_block(void)
{
    pthread_once(&watched, watch);
    pthread_rwlock_rdlock(&lock);
}

void effnet_fork_unblock(void)
{
    pthread_rwlock_unlock(&lock);
}
