/* How many threads the process may keep busy: affinity, also of machines with thousands of processors, and
 * the quotas of control groups as they look on machines, in containers and with both versions at once; and
 * how threads of ours are started. */
#include "common/cpu.h"
#include "common/cpu_share.h"
#include "common/thread.h"
#include "fake_root.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

/* ---------------------------------------------------------------- affinity */

/* What the system is to say: processors first, first + step, ... below end, of a kernel whose masks have
 * kernel_bits; 0 bits: the truth. */
static struct {
    size_t kernel_bits, first, step, end;
} fake_machine;

/* Takes the C library's place. */
int sched_getaffinity(pid_t pid, size_t size_bytes, cpu_set_t *set)
{
    if (!fake_machine.kernel_bits) {
        long got = syscall(SYS_sched_getaffinity, pid, size_bytes, set);
        if (got < 0) return -1;
        memset((char *)set + got, 0, size_bytes - (size_t)got);
        return 0;
    }
    if (size_bytes * 8 < fake_machine.kernel_bits) {
        errno = EINVAL;
        return -1;
    }
    memset(set, 0, size_bytes);
    for (size_t i = fake_machine.first; i < fake_machine.end; i += fake_machine.step)
        CPU_SET_S(i, size_bytes, set);
    return 0;
}

static int mask_count(void)
{
    size_t size_bytes;
    bool widened;
    cpu_set_t *mask = effnet_cpu_mask(&size_bytes, &widened);
    int count = mask ? CPU_COUNT_S(size_bytes, mask) : 0;
    CPU_FREE(mask);
    return count;
}

static void test_large_machines(void **state)
{
    (void)state;
    static const struct {
        size_t kernel_bits, first, step, end;
        int count;
    } machines[] = {{1024, 0, 1, 1, 1},
                    {1024, 5, 2, 16, 6},
                    {2048, 0, 1, 2000, 2000},
                    {8192, 1500, 1, 1504, 4},
                    {1 << 20, 0, 3, 1 << 20, 349526}};
    for (size_t i = 0; i < sizeof machines / sizeof machines[0]; i++) {
        fake_machine.kernel_bits = machines[i].kernel_bits;
        fake_machine.first = machines[i].first;
        fake_machine.step = machines[i].step;
        fake_machine.end = machines[i].end;
        assert_int_equal(mask_count(), machines[i].count);
    }
    fake_machine.kernel_bits = (size_t)1 << 30; /* more than anybody asks for */
    assert_int_equal(mask_count(), 0);
    assert_true(effnet_cpu_threads() >= 1);
    fake_machine.kernel_bits = 0;
}

/* A thread bound to one processor counts one, and so do those that it starts. */
static void test_bound_thread(void **state)
{
    (void)state;
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    int all = CPU_COUNT(&before), last = 0;
    assert_int_equal(mask_count(), all);
    assert_in_range(effnet_cpu_threads(), 1, all);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &before)) last = i;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(effnet_cpu_threads(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

/* ---------------------------------------------------------------- control groups */

#define V2_MOUNT "31 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
#define V1_MOUNT(root, place)                                                                                \
    "32 31 0:29 " root " " place " rw,relatime shared:9 master:3 - cgroup cgroup rw,cpu,cpuacct\n"

struct file {
    const char *name, *text;
};

struct tree {
    const char *what;
    int limit;
    struct file files[8];
};

static const struct tree trees[] = {
    {"no /proc at all", 0, {{"/etc/empty", ""}}},
    {"v2, no limit",
     0,
     {{"/proc/self/cgroup", "0::/user.slice/a.scope\n"},
      {"/proc/self/mountinfo", V2_MOUNT},
      {"/sys/fs/cgroup/user.slice/a.scope/cpu.max", "max 100000\n"}}},
    {"v2, two and a half",
     3,
     {{"/proc/self/cgroup", "0::/user.slice/a.scope\n"},
      {"/proc/self/mountinfo", V2_MOUNT},
      {"/sys/fs/cgroup/user.slice/a.scope/cpu.max", "250000 100000\n"}}},
    {"v2, less than one",
     1,
     {{"/proc/self/cgroup", "0::/a\n"},
      {"/proc/self/mountinfo", V2_MOUNT},
      {"/sys/fs/cgroup/a/cpu.max", "1000 100000\n"}}},
    {"v2, a parent's limit is the least",
     2,
     {{"/proc/self/cgroup", "0::/a/b/c\n"},
      {"/proc/self/mountinfo", V2_MOUNT},
      {"/sys/fs/cgroup/a/cpu.max", "200000 100000\n"},
      {"/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"},
      {"/sys/fs/cgroup/a/b/c/cpu.max", "400000 100000\n"}}},
    {"v2, a namespace of its own: the mount is the group",
     4,
     {{"/proc/self/cgroup", "0::/\n"},
      {"/proc/self/mountinfo", V2_MOUNT},
      {"/sys/fs/cgroup/cpu.max", "400000 100000\n"}}},
    {"v2, moved out of its namespace's group",
     2,
     {{"/proc/self/cgroup", "0::/../other\n"},
      {"/proc/self/mountinfo", V2_MOUNT},
      {"/sys/fs/cgroup/cpu.max", "200000 100000\n"},
      {"/sys/fs/other/cpu.max", "100000 100000\n"}}},
    {"v2, a place with a space, and a group's name that begins like the mount's",
     5,
     {{"/proc/self/cgroup", "0::/pod/x\n"},
      {"/proc/self/mountinfo", "9 1 0:26 /po /elsewhere rw - cgroup2 none rw\n"
                               "31 23 0:26 /pod /my\\040groups rw - cgroup2 none rw\n"},
      {"/elsewhere/cpu.max", "100000 100000\n"},
      {"/elsewhere/d/x/cpu.max", "100000 100000\n"},
      {"/my groups/x/cpu.max", "500000 100000\n"}}},
    {"v1",
     2,
     {{"/proc/self/cgroup", "5:cpuacct,cpu:/a\n4:memory:/b\n"},
      {"/proc/self/mountinfo", V1_MOUNT("/", "/sys/fs/cgroup/cpu,cpuacct")},
      {"/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "150000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"}}},
    {"v1, no limit; cpuset and cpuacct are not cpu",
     0,
     {{"/proc/self/cgroup", "5:cpuset:/a\n6:cpu:/\n7:cpuacct:/a\n"},
      {"/proc/self/mountinfo", "1 2 0:9 / /c rw - cgroup cgroup rw,cpuset\n" V1_MOUNT("/", "/g")},
      {"/c/a/cpu.cfs_quota_us", "100000\n"},
      {"/c/a/cpu.cfs_period_us", "100000\n"},
      {"/g/cpu.cfs_quota_us", "-1\n"},
      {"/g/cpu.cfs_period_us", "100000\n"}}},
    {"v1 in a container: the mount's root is the group",
     3,
     {{"/proc/self/cgroup", "2:cpu,cpuacct:/docker/0123abcd\n"},
      {"/proc/self/mountinfo", V1_MOUNT("/docker/0123abcd", "/sys/fs/cgroup/cpu,cpuacct")},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "300000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"}}},
    {"v1 in a container that does not see its own name",
     1,
     {{"/proc/self/cgroup", "2:cpu,cpuacct:/docker/0123abcd\n"},
      {"/proc/self/mountinfo", V1_MOUNT("/", "/sys/fs/cgroup/cpu,cpuacct")},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"}}},
    {"v1, a mount of another group does not count where ours is mounted",
     6,
     {{"/proc/self/cgroup", "2:cpu:/ours\n"},
      {"/proc/self/mountinfo", V1_MOUNT("/theirs", "/theirs") V1_MOUNT("/", "/all")},
      {"/theirs/cpu.cfs_quota_us", "100000\n"},
      {"/theirs/cpu.cfs_period_us", "100000\n"},
      {"/all/ours/cpu.cfs_quota_us", "600000\n"},
      {"/all/ours/cpu.cfs_period_us", "100000\n"}}},
    {"both: cpu is with v1, v2 has no limits",
     2,
     {{"/proc/self/cgroup", "3:cpu:/a\n0::/a\n"},
      {"/proc/self/mountinfo",
       V1_MOUNT("/", "/sys/fs/cgroup/cpu") "9 1 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"},
      {"/sys/fs/cgroup/unified/a/cpu.stat", "usage_usec 1\n"},
      {"/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "200000\n"},
      {"/sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n"}}},
    {"both limit: the least counts",
     1,
     {{"/proc/self/cgroup", "3:cpu:/a\n0::/a\n"},
      {"/proc/self/mountinfo", V1_MOUNT("/", "/one") "9 1 0:26 / /two rw - cgroup2 cgroup2 rw\n"},
      {"/two/a/cpu.max", "90000 100000\n"},
      {"/one/a/cpu.cfs_quota_us", "200000\n"},
      {"/one/a/cpu.cfs_period_us", "100000\n"}}},
    {"nonsense limits nothing",
     0,
     {{"/proc/self/cgroup", "\n0\n:\n0:\n0::\n3:cpu\nx:y:z:w\n0::/a\n"},
      {"/proc/self/mountinfo", "\n-\n - \n1 2 3 - cgroup2 x y\n1 2 3 / /m rw - cgroup2\n" V2_MOUNT},
      {"/sys/fs/cgroup/a/cpu.max", "0 0\n"},
      {"/sys/fs/cgroup/cpu.max", "-5 100000\n"}}},
    {"numbers past any",
     2147483647,
     {{"/proc/self/cgroup", "0::/a\n"},
      {"/proc/self/mountinfo", V2_MOUNT},
      {"/sys/fs/cgroup/a/cpu.max", "9223372036854775807 1\n"}}},
};

static void test_quotas(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof trees / sizeof trees[0]; i++) {
        fake_root_new();
        for (const struct file *file = trees[i].files; file->name; file++)
            fake_root_put(file->name, file->text);
        int limit = effnet_cpu_quota(fake_root);
        if (limit != trees[i].limit) fail_msg("%s: %d, expected %d", trees[i].what, limit, trees[i].limit);
        fake_root_remove();
    }
}

/* Names as long as the kernel allows. */
static void test_long_names(void **state)
{
    (void)state;
    enum { DEPTH = 60, NAME = 60 };
    char group[DEPTH * (NAME + 1) + 1] = "", line[sizeof group + 16];
    for (int i = 0; i < DEPTH; i++) sprintf(group + strlen(group), "/%0*d", NAME, i);
    fake_root_new();
    snprintf(line, sizeof line, "0::%s\n", group);
    fake_root_put("/proc/self/cgroup", line);
    fake_root_put("/proc/self/mountinfo", V2_MOUNT);
    fake_root_put("/sys/fs/cgroup/cpu.max", "700000 100000\n");
    assert_int_equal(effnet_cpu_quota(fake_root), 7);
    fake_root_remove();
}

/* ---------------------------------------------------------------- threads of ours */

struct seen {
    sigset_t blocked;
    size_t stack_bytes;
};

static void *look(void *argument)
{
    struct seen *seen = argument;
    pthread_attr_t attributes;
    pthread_sigmask(SIG_BLOCK, NULL, &seen->blocked);
    if (!pthread_getattr_np(pthread_self(), &attributes)) {
        pthread_attr_getstacksize(&attributes, &seen->stack_bytes);
        pthread_attr_destroy(&attributes);
    }
    return NULL;
}

/* Signals stay with the caller's threads, and the caller's own mask stays as it is. */
static void test_thread(void **state)
{
    (void)state;
    struct seen seen = {0};
    sigset_t before, after;
    pthread_t thread;
    sigemptyset(&before);
    sigaddset(&before, SIGUSR2);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    assert_int_equal(effnet_thread_start(&thread, look, &seen), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    assert_true(sigismember(&after, SIGUSR2) && !sigismember(&after, SIGUSR1) &&
                !sigismember(&after, SIGINT));
    static const int ours[] = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGCHLD, SIGPIPE};
    static const int its_own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
        assert_true(sigismember(&seen.blocked, ours[i]));
    for (size_t i = 0; i < sizeof its_own / sizeof its_own[0]; i++)
        assert_false(sigismember(&seen.blocked, its_own[i]));
    assert_true(seen.stack_bytes >= (size_t)1 << 20);
    sigemptyset(&before);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_large_machines), cmocka_unit_test(test_bound_thread),
        cmocka_unit_test(test_quotas),         cmocka_unit_test(test_long_names),
        cmocka_unit_test(test_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
