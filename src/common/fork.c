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

static void before_fork(void)
{
    pthread_rwlock_wrlock(&lock);
}

static void after_fork_in_parent(void)
{
    pthread_rwlock_unlock(&lock);
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
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static void watch_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch);
}

int effnet_fork_count(void)
{
    watch_once();
    return atomic_load(&forks);
}

void effnet_fork_block(void)
{
    watch_once();
    pthread_rwlock_rdlock(&lock);
}

void effnet_fork_unblock(void)
{
    pthread_rwlock_unlock(&lock);
}
