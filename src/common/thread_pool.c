#include "common/thread_pool.h"

#include "common/error.h"
#include "common/fork.h"
#include "common/memory.h"
#include "common/thread.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/* How often a thread that waits looks again before it sleeps. One look takes 10 to 50 ns, a layer 20 to 400
 * us, and waking a sleeping thread up to 50 us. A worker looks long, since the next layer starts without the
 * workers that sleep. The caller looks for less time. Tasks of one layer take about equally long, so when the
 * caller has waited longer than they differ, some worker has been taken off its processor, and by sleeping
 * the caller offers its own. */
#define WORKER_SPINS 8192
#define CALLER_SPINS 2048

/* What there is to claim, in one word, so that a claim cannot mix two jobs: how many workers may claim, how
 * many tasks there are, which is next. */
#define FIELD_BITS 24
#define FIELD_MASK ((UINT64_C(1) << FIELD_BITS) - 1)

/* Weak, as most builds and programs have no OpenMP; oneDNN brings it. */
extern void omp_set_num_threads(int threads) __attribute__((weak));
extern int omp_get_max_threads(void) __attribute__((weak));

struct pool_worker {
    struct pool *pool;
    pthread_t thread;
    int number;
};

struct pool {
    int threads;
    int forks; /* effnet_fork_count when it was made: a child has the pool, but not its threads */
    _Atomic uint64_t claims; /* workers:16 tasks:24 next:24 */
    atomic_int unfinished, failure;
    /* Written by the caller while nothing is left to claim or unfinished; read after a claim. */
    pool_task task;
    void *context;
    /* Sleeping. */
    pthread_mutex_t mutex;
    pthread_cond_t wake, done;
    atomic_int sleepers;
    atomic_bool caller_sleeps, stop;
    struct pool_worker workers[]; /* [0] is the caller's and has no thread */
};

int effnet_omp_set_threads(int threads)
{
    if (!omp_set_num_threads || !omp_get_max_threads) return threads;
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    return before;
}

static void spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Whether worker `number` could claim a task. */
static bool has_work(uint64_t claims, int number)
{
    uint64_t next = claims & FIELD_MASK, tasks = claims >> FIELD_BITS & FIELD_MASK;
    return next < tasks && (uint64_t)number < claims >> 2 * FIELD_BITS;
}

/* The thread that finishes the last task wakes the caller, if that sleeps. No wake-up is lost: this thread
 * lowers `unfinished` and then reads caller_sleeps, the caller sets caller_sleeps and then reads
 * `unfinished`, so at least one of them sees what the other has written. */
static void finish_task(struct pool *pool)
{
    if (atomic_fetch_sub(&pool->unfinished, 1) > 1 || !atomic_load(&pool->caller_sleeps)) return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->mutex);
}

static void wait_for_tasks(struct pool *pool)
{
    for (int spins = 0; spins < CALLER_SPINS; spins++) {
        if (atomic_load(&pool->unfinished) == 0) return;
        spin_pause();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->unfinished) > 0) pthread_cond_wait(&pool->done, &pool->mutex);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->mutex);
}

/* Claims and runs tasks until none is left for this worker. */
static void work(struct pool *pool, int number)
{
    uint64_t claims = atomic_load(&pool->claims);
    while (has_work(claims, number)) {
        if (!atomic_compare_exchange_weak(&pool->claims, &claims, claims + 1)) continue;
        int failure = pool->task(pool->context, number, (int)(claims & FIELD_MASK));
        if (failure) atomic_store(&pool->failure, failure);
        finish_task(pool);
        claims = atomic_load(&pool->claims);
    }
}

/* No wake-up is lost here either: the caller publishes work and then reads `sleepers`, a worker raises
 * `sleepers` and then looks for work. */
static void sleep_until_work(struct pool *pool, int number)
{
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!atomic_load(&pool->stop) && !has_work(atomic_load(&pool->claims), number))
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void wake_sleepers(struct pool *pool)
{
    if (atomic_load(&pool->sleepers) == 0) return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *argument)
{
    struct pool_worker *worker = argument;
    struct pool *pool = worker->pool;
    effnet_omp_set_threads(1); /* concerns this thread alone */
    while (!atomic_load(&pool->stop)) {
        work(pool, worker->number);
        int spins = 0;
        while (spins < WORKER_SPINS && !atomic_load(&pool->stop) &&
               !has_work(atomic_load_explicit(&pool->claims, memory_order_relaxed), worker->number)) {
            spin_pause();
            spins++;
        }
        if (spins == WORKER_SPINS) sleep_until_work(pool, worker->number);
    }
    return NULL;
}

/* What glibc reserves for a thread that allocates for the first time, while it looks for an aligned arena;
 * and what is to be left to work with. Where address space is short, fewer threads. */
#define ARENA_BYTES ((size_t)128 << 20)
#define WORK_BYTES  ((size_t)32 << 20)

int effnet_pool_open(int threads, struct pool **out, struct effnet_error *error)
{
    while (threads > 1 && !effnet_memory_left(WORK_BYTES, (size_t)(threads - 1) * ARENA_BYTES)) threads--;
    size_t size = sizeof(struct pool) + (size_t)threads * sizeof(struct pool_worker);
    struct pool *pool = calloc(1, size);
    *out = pool;
    if (!pool) return effnet_fail_nomem(error, "threads", size);
    pool->forks = effnet_fork_count();
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    for (pool->threads = 1; pool->threads < threads; pool->threads++) {
        struct pool_worker *worker = &pool->workers[pool->threads];
        *worker = (struct pool_worker){.pool = pool, .number = pool->threads};
        if (effnet_thread_start(&worker->thread, worker_main, worker)) break;
    }
    return EFFNET_OK;
}

void effnet_pool_close(struct pool *pool)
{
    if (!pool) return;
    if (effnet_pool_lost(pool)) { /* nobody to wait for, and the mutex as a thread left it */
        free(pool);
        return;
    }
    atomic_store(&pool->stop, true);
    wake_sleepers(pool);
    for (int i = 1; i < pool->threads; i++) pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

bool effnet_pool_lost(const struct pool *pool)
{
    return pool->forks != effnet_fork_count();
}

int effnet_pool_threads(const struct pool *pool)
{
    return pool->threads;
}

int effnet_pool_run(struct pool *pool, int threads, int tasks, pool_task task, void *context)
{
    int caller_omp_threads = effnet_omp_set_threads(1);
    atomic_store(&pool->failure, 0);
    if (tasks == 1) { /* nothing to share: the threads need not hear of it */
        int failure = task(context, 0, 0);
        effnet_omp_set_threads(caller_omp_threads);
        return failure;
    }
    pool->task = task;
    pool->context = context;
    atomic_store(&pool->unfinished, tasks);
    atomic_store(&pool->claims, (uint64_t)threads << 2 * FIELD_BITS | (uint64_t)tasks << FIELD_BITS);
    if (threads > 1 && tasks > 1) wake_sleepers(pool);
    work(pool, 0);
    wait_for_tasks(pool);
    effnet_omp_set_threads(caller_omp_threads);
    return atomic_load(&pool->failure);
}
