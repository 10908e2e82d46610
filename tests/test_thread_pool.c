/* The pool's threads: each task once, within the number of threads asked for, and failures returned.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "random.h"

#ifdef EFFNET_HAVE_ONEDNN

#include "common/thread_pool.h"

#include <sched.h>
#include <stdatomic.h>
#include <time.h>

/* Declared here because clang's omp.h lies in a package of its own. */
extern void omp_set_num_threads(int threads);
extern int omp_get_max_threads(void);

#define MAX_TASKS   1000
#define MAX_THREADS 9

struct job {
    atomic_int done[MAX_TASKS], inside[MAX_THREADS];
    int threads, failing; /* failing: the task that returns 7, or -1 */
    bool yield;
    atomic_bool wrong;
};

static int count_task(void *context, int worker, int index)
{
    struct job *job = context;
    bool good = worker >= 0 && worker < job->threads && index >= 0 && index < MAX_TASKS;
    if (!good || omp_get_max_threads() != 1) {
        job->wrong = true;
        return 1;
    }
    if (job->inside[worker]++ != 0) job->wrong = true; /* no two tasks at once under one number */
    if (job->yield) sched_yield();
    job->done[index]++;
    job->inside[worker]--;
    return index == job->failing ? 7 : 0;
}

static void run_job(struct pool *pool, int threads, int tasks, int failing, bool yield)
{
    struct job job = {.threads = threads, .failing = failing, .yield = yield};
    int result = effnet_pool_run(pool, threads, tasks, count_task, &job);
    assert_int_equal(result, failing >= 0 && failing < tasks ? 7 : 0);
    assert_false(job.wrong);
    for (int i = 0; i < MAX_TASKS; i++) assert_int_equal(job.done[i], i < tasks);
}

static void test_jobs(void **state)
{
    (void)state;
    uint64_t random = random_seed("pool", 41);
    omp_set_num_threads(3);
    for (int threads = 1; threads <= MAX_THREADS; threads++) {
        struct pool *pool;
        assert_int_equal(effnet_pool_open(threads, &pool, NULL), EFFNET_OK);
        assert_int_equal(effnet_pool_threads(pool), threads);
        run_job(pool, threads, 0, -1, false);
        run_job(pool, threads, MAX_TASKS, MAX_TASKS - 1, true);
        for (int round = 0; round < 300; round++)
            run_job(pool, random_int(&random, 1, threads), random_int(&random, 0, 3 * threads),
                    random_int(&random, -1, 20), random_int(&random, 0, 3) == 0);
        assert_int_equal(omp_get_max_threads(), 3); /* the caller's own setting is back */
        effnet_pool_close(pool);
    }
    effnet_pool_close(NULL);
}

/* Long enough a pause that the threads go to sleep, then work again: nobody misses it. */
static void test_sleep(void **state)
{
    (void)state;
    struct pool *pool;
    assert_int_equal(effnet_pool_open(4, &pool, NULL), EFFNET_OK);
    for (int round = 0; round < 20; round++) {
        struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
        nanosleep(&pause, NULL);
        run_job(pool, 4, 40, -1, true);
    }
    effnet_pool_close(pool);
}

/* Jobs so short that each begins while threads still come out of the one before. */
static void test_short_jobs(void **state)
{
    (void)state;
    struct pool *pool;
    assert_int_equal(effnet_pool_open(4, &pool, NULL), EFFNET_OK);
    for (int round = 0; round < 20000; round++) {
        struct job job = {.threads = 4, .failing = -1};
        int tasks = 1 + round % 5;
        assert_int_equal(effnet_pool_run(pool, 4, tasks, count_task, &job), 0);
        assert_false(job.wrong);
        for (int i = 0; i < 6; i++) assert_int_equal(job.done[i], i < tasks);
    }
    effnet_pool_close(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jobs),
        cmocka_unit_test(test_sleep),
        cmocka_unit_test(test_short_jobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    printf("this build has no oneDNN\n");
    return 77;
}

#endif
