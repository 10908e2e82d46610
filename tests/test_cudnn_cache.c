/* The cache of cuDNN's plans on disk: round trip, keys, damage, limits, places, several threads and
 * processes. */
#ifndef EFFNET_HAVE_CUDA
#include <stdio.h>
int main(void)
{
    puts("skipped: built without CUDA");
    return 77;
}
#else

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/cuda/cudnn_cache.h"
#include "cudnn_shapes.h"

static char folder[] = "/tmp/effnet-cudnn-XXXXXX";

static char *cache_file(void)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/sub/folder/cudnn-plans.txt", folder);
    return path;
}

static int remove_one(const char *path, const struct stat *about, int type, struct FTW *where)
{
    (void)about, (void)type, (void)where;
    return remove(path);
}

static int cache_reset(void **state)
{
    (void)state;
    char sub[256];
    snprintf(sub, sizeof sub, "%s/sub", folder);
    nftw(sub, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    snprintf(sub, sizeof sub, "%s/sub/folder", folder);
    return setenv("EFFNET_CACHE", sub, 1);
}

static struct cudnn_cache cache_new(void)
{
    struct cudnn_cache cache;
    struct effnet_error error = {0};
    if (cudnn_cache_open(&cache, &error)) fail_msg("%s", error.message);
    return cache;
}

static struct cudnn_cache_entry entry_new(int i)
{
    struct cudnn_cache_entry entry = {.config = {.engine = i % 100, .knob_count = i % (CUDNN_MAX_KNOBS + 1)},
                                      .workspace_bytes = (int64_t)i << 20,
                                      .elapsed_ns = 1000 + i};
    snprintf(entry.key, sizeof entry.key, "GPU number %d, layer", i);
    for (int k = 0; k < entry.config.knob_count; k++)
        entry.config.knobs[k] = (struct cudnn_knob){k, i - 5 * k};
    return entry;
}

static void expect_entry(const struct cudnn_cache *cache, const struct cudnn_cache_entry *wanted)
{
    const struct cudnn_cache_entry *found = cudnn_cache_find(cache, wanted->key);
    assert_non_null(found);
    assert_string_equal(found->key, wanted->key);
    assert_int_equal(found->workspace_bytes, wanted->workspace_bytes);
    assert_int_equal(found->elapsed_ns, wanted->elapsed_ns);
    char a[400], b[400];
    cudnn_config_name(&found->config, a, sizeof a);
    cudnn_config_name(&wanted->config, b, sizeof b);
    assert_string_equal(a, b);
}

/* In the cache's folder. */
static int files_left(void)
{
    char path[256];
    snprintf(path, sizeof path, "%s/sub/folder", folder);
    DIR *listing = opendir(path);
    assert_non_null(listing);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(listing));) count += entry->d_name[0] != '.';
    closedir(listing);
    return count;
}

static void cache_add(struct cudnn_cache *cache, const struct cudnn_cache_entry *entry)
{
    struct effnet_error error = {0};
    assert_int_equal(cudnn_cache_put(cache, entry, &error), EFFNET_OK);
}

static void write_text(const char *path, const char *text, size_t length)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

static void test_cache_round_trip(void **state)
{
    (void)state;
    struct cudnn_cache cache = cache_new();
    assert_int_equal(cache.count, 0);
    for (int i = 0; i < 40; i++) {
        struct cudnn_cache_entry entry = entry_new(i);
        cache_add(&cache, &entry);
    }
    struct cudnn_cache_entry replaced = entry_new(7);
    replaced.elapsed_ns = 5;
    cache_add(&cache, &replaced);
    assert_int_equal(cache.count, 40);
    assert_true(cudnn_cache_save(&cache));
    cudnn_cache_close(&cache);

    cache = cache_new();
    assert_int_equal(cache.count, 40);
    expect_entry(&cache, &replaced);
    for (int i = 0; i < 40; i++) {
        struct cudnn_cache_entry entry = entry_new(i);
        if (i != 7) expect_entry(&cache, &entry);
    }
    assert_null(cudnn_cache_find(&cache, "GPU number 40, layer"));
    cudnn_cache_close(&cache);
}

/* Whatever changes the answer changes the key. */
static void test_cache_key(void **state)
{
    (void)state;
    struct cudnn_conv_shape s = square_shape(10, 30, 240, 240, 240, 5, 1, true);
    struct cudnn_plan_options o = {.layer = "a", .workspace_limit_bytes = CUDNN_WORKSPACE_LIMIT};
    char keys[20][CUDNN_CACHE_KEY_SIZE];
    int count = 0;
    cudnn_cache_key(keys[count++], "GPU", 91400, &s, &o);
    cudnn_cache_key(keys[count++], "GPV", 91400, &s, &o);
    cudnn_cache_key(keys[count++], "GPU", 91401, &s, &o);
    int *const fields[] = {&s.n,       &s.h,        &s.w,          &s.c_in,     &s.out_h,
                           &s.out_w,   &s.c_out,    &s.groups,     &s.kernel,   &s.stride,
                           &s.pad_top, &s.pad_left, &s.pad_bottom, &s.pad_right};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        ++*fields[i];
        cudnn_cache_key(keys[count++], "GPU", 91400, &s, &o);
        --*fields[i];
    }
    o.tune = true;
    cudnn_cache_key(keys[count++], "GPU", 91400, &s, &o);
    o.tune = false;
    o.workspace_limit_bytes++;
    cudnn_cache_key(keys[count++], "GPU", 91400, &s, &o);
    for (int i = 0; i < count; i++)
        for (int j = 0; j < i; j++) assert_string_not_equal(keys[i], keys[j]);

    /* The layer's name does not, and a device's name cannot break the line. */
    char key[CUDNN_CACHE_KEY_SIZE];
    o = (struct cudnn_plan_options){.layer = "b", .workspace_limit_bytes = CUDNN_WORKSPACE_LIMIT};
    cudnn_cache_key(key, "GPU", 91400, &s, &o);
    assert_string_equal(key, keys[0]);
    cudnn_cache_key(key, "G\tP\nU", 91400, &s, &o);
    assert_null(strpbrk(key, "\t\n"));
}

#define TEN "0123456789"
#define LONG_KEY                                                                                             \
    TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN

static void test_cache_damage(void **state)
{
    (void)state;
    struct cudnn_cache cache = cache_new();
    struct cudnn_cache_entry entry = entry_new(3), other = entry_new(4);
    cache_add(&cache, &entry);
    assert_true(cudnn_cache_save(&cache));
    cudnn_cache_close(&cache);

    /* Bad lines are skipped, good ones around them count. */
    static const char *const bad[] = {
        "",
        "no fields",
        "key\t1\t\t5",
        "key\t1\t\t5\t6\t7",
        "\t1\t\t5\t6",
        "key\tx\t\t5\t6",
        "key\t-1\t\t5\t6",
        "key\t10000\t\t5\t6",
        "key\t99999999999999999999\t\t5\t6",
        "key\t1\t2\t5\t6",
        "key\t1\t2=\t5\t6",
        "key\t1\t2=3,\t5\t6",
        "key\t1\t2=3,,4=5\t5\t6",
        "key\t1\t2=3;4=5\t5\t6",
        "key\t1\t=3\t5\t6",
        "key\t1\t2000=3\t5\t6",
        "key\t1\t1=1,1=1,1=1,1=1,1=1,1=1,1=1,1=1,1=1,1=1,1=1,1=1,1=1,1=1,1=1,1=1,1=1\t5\t6",
        "key\t1\t\t-5\t6",
        "key\t1\t\t5\t0",
        "key\t1\t\t5\tnan",
        "key\t1\t\t5\t6 ",
        "key\t 1\t\t5\t6",
        LONG_KEY "\t1\t\t5\t6",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[4096];
        int length = snprintf(text, sizeof text,
                              "effnet cudnn plans 1\n%s\t3\t0=3,1=-2,2=-7\t3145728\t1003\n%s\n"
                              "%s\t4\t0=4,1=-1,2=-6,3=-11\t4194304\t1004\n",
                              entry.key, bad[i], other.key);
        write_text(cache_file(), text, (size_t)length);
        cache = cache_new();
        if (cache.count != 2) fail_msg("'%s' was read", bad[i]);
        expect_entry(&cache, &entry);
        expect_entry(&cache, &other);
        cudnn_cache_close(&cache);

        /* Cut anywhere, the file is no trouble, and what is whole is read. */
        for (int cut = 0; i == 0 && cut < length; cut++) {
            write_text(cache_file(), text, (size_t)cut);
            cache = cache_new();
            assert_true(cache.count <= 1);
            cudnn_cache_close(&cache);
        }
    }

    /* Files that are something else as a whole. */
    static const char *const foreign[] = {"", "\n", "effnet cudnn plans 2\n", "effnet cudnn plans 1",
                                          "effnet cudnn plans 10\n"};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        char text[512];
        int length = snprintf(text, sizeof text, "%skey\t1\t\t5\t6\n", foreign[i]);
        write_text(cache_file(), text, (size_t)length);
        cache = cache_new();
        assert_int_equal(cache.count, 0);
        cache_add(&cache, &entry);
        assert_true(cudnn_cache_save(&cache)); /* written anew */
        cudnn_cache_close(&cache);
        cache = cache_new();
        assert_int_equal(cache.count, 1);
        cudnn_cache_close(&cache);
    }
}

static void test_cache_noise(void **state)
{
    (void)state;
    uint64_t random = random_seed("cache noise", 7);
    struct cudnn_cache cache = cache_new();
    struct cudnn_cache_entry entry = entry_new(3);
    cache_add(&cache, &entry);
    assert_true(cudnn_cache_save(&cache)); /* makes the folder */
    cudnn_cache_close(&cache);
    for (int round = 0; round < 300; round++) {
        static const char alphabet[] = "0123456789-=,\t\t\t\n\nkey \0\xff";
        char text[4096];
        size_t length = (size_t)snprintf(text, sizeof text, "effnet cudnn plans 1\n");
        size_t more = (size_t)random_int(&random, 0, (int)(sizeof text - length));
        for (size_t i = 0; i < more; i++)
            text[length++] = alphabet[random_int(&random, 0, (int)sizeof alphabet - 2)];
        write_text(cache_file(), text, length);
        cache = cache_new();
        for (int i = 0; i < cache.count; i++) {
            assert_in_range(cache.entries[i].config.knob_count, 0, CUDNN_MAX_KNOBS);
            assert_true(strlen(cache.entries[i].key) < CUDNN_CACHE_KEY_SIZE);
        }
        cudnn_cache_close(&cache);
    }
}

static void test_cache_limits(void **state)
{
    (void)state;
    /* Too many entries: the newest stay. */
    struct cudnn_cache cache = cache_new();
    for (int i = 0; i < CUDNN_CACHE_MAX_ENTRIES + 100; i++) {
        struct cudnn_cache_entry entry = entry_new(i);
        cache_add(&cache, &entry);
    }
    assert_true(cudnn_cache_save(&cache));
    cudnn_cache_close(&cache);
    struct stat about;
    assert_int_equal(stat(cache_file(), &about), 0);
    assert_true(about.st_size < CUDNN_CACHE_MAX_BYTES);
    cache = cache_new();
    assert_int_equal(cache.count, CUDNN_CACHE_MAX_ENTRIES);
    struct cudnn_cache_entry newest = entry_new(CUDNN_CACHE_MAX_ENTRIES + 99), oldest = entry_new(99);
    expect_entry(&cache, &newest);
    assert_null(cudnn_cache_find(&cache, oldest.key));
    cudnn_cache_close(&cache);

    /* Too big a file is not read. */
    FILE *file = fopen(cache_file(), "a");
    for (int i = 0; i < CUDNN_CACHE_MAX_BYTES / 64; i++) fprintf(file, "%064d\n", i);
    assert_int_equal(fclose(file), 0);
    cache = cache_new();
    assert_int_equal(cache.count, 0);
    cudnn_cache_close(&cache);

    /* Neither is a folder or a pipe that nobody writes to. */
    assert_int_equal(unlink(cache_file()), 0);
    assert_int_equal(mkfifo(cache_file(), 0600), 0);
    cache = cache_new();
    assert_int_equal(cache.count, 0);
    cudnn_cache_close(&cache);
    assert_int_equal(unlink(cache_file()), 0);
    assert_int_equal(mkdir(cache_file(), 0700), 0);
    cache = cache_new();
    cache_add(&cache, &newest);
    assert_false(cudnn_cache_save(&cache));
    cudnn_cache_close(&cache);
    assert_int_equal(rmdir(cache_file()), 0);
    assert_int_equal(files_left(), 0); /* no half-made file beside it */
}

static void test_cache_places(void **state)
{
    (void)state;
    struct cudnn_cache_entry entry = entry_new(3);
    setenv("EFFNET_CACHE", "", 1); /* none wanted */
    struct cudnn_cache cache = cache_new();
    assert_null(cache.path);
    cache_add(&cache, &entry);
    expect_entry(&cache, &entry);
    assert_true(cudnn_cache_save(&cache));
    cudnn_cache_close(&cache);

    char path[300];
    unsetenv("EFFNET_CACHE");
    setenv("XDG_CACHE_HOME", folder, 1);
    snprintf(path, sizeof path, "%s/effnet/cudnn-plans.txt", folder);
    cache = cache_new();
    assert_string_equal(cache.path, path);
    cudnn_cache_close(&cache);

    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", folder, 1);
    snprintf(path, sizeof path, "%s/.cache/effnet/cudnn-plans.txt", folder);
    cache = cache_new();
    assert_string_equal(cache.path, path);
    cudnn_cache_close(&cache);

    setenv("EFFNET_CACHE", "/dev/null/not/there", 1); /* cannot be made */
    cache = cache_new();
    cache_add(&cache, &entry);
    assert_false(cudnn_cache_save(&cache));
    cudnn_cache_close(&cache);
}

/* Two that were opened before either saved: neither's entries are lost. */
static void test_cache_merge(void **state)
{
    (void)state;
    struct cudnn_cache a = cache_new(), b = cache_new();
    struct cudnn_cache_entry first = entry_new(1), second = entry_new(2);
    cache_add(&a, &first);
    cache_add(&b, &second);
    assert_true(cudnn_cache_save(&a));
    assert_true(cudnn_cache_save(&b));
    cudnn_cache_close(&a);
    cudnn_cache_close(&b);
    a = cache_new();
    expect_entry(&a, &first);
    expect_entry(&a, &second);
    cudnn_cache_close(&a);
}

/* One that reads again finds what others have saved, and keeps what it has itself. */
static void test_cache_refresh(void **state)
{
    (void)state;
    struct cudnn_cache a = cache_new(), b = cache_new();
    struct cudnn_cache_entry first = entry_new(1), other = entry_new(1), second = entry_new(2);
    other.elapsed_ns++;
    cache_add(&a, &first);
    cache_add(&b, &other);
    cache_add(&b, &second);
    assert_true(cudnn_cache_save(&b));
    cudnn_cache_refresh(&a);
    expect_entry(&a, &first);
    expect_entry(&a, &second);
    assert_int_equal(a.count, 2);
    cudnn_cache_close(&a);
    cudnn_cache_close(&b);

    setenv("EFFNET_CACHE", "", 1); /* no file */
    a = cache_new();
    cache_add(&a, &first);
    cudnn_cache_refresh(&a);
    assert_int_equal(a.count, 1);
    cudnn_cache_close(&a);
}

enum { SAVERS = 6, SAVER_ROUNDS = 40 };

/* Opens, adds an entry, saves and reads again, many times. Returns 0, or what went wrong. */
static int save_rounds(int saver)
{
    for (int round = 0; round < SAVER_ROUNDS; round++) {
        struct cudnn_cache cache;
        struct cudnn_cache_entry entry = entry_new(saver * SAVER_ROUNDS + round);
        if (cudnn_cache_open(&cache, NULL) || cudnn_cache_put(&cache, &entry, NULL) ||
            !cudnn_cache_save(&cache))
            return 1;
        cudnn_cache_close(&cache);
        /* The file exists from now on, and always begins and ends well. */
        if (cudnn_cache_open(&cache, NULL) || !cudnn_cache_find(&cache, entry.key)) return 2;
        cudnn_cache_close(&cache);
    }
    return 0;
}

/* All entries of all savers are there, and no litter. */
static void expect_all_saved(void)
{
    struct cudnn_cache cache = cache_new();
    for (int i = 0; i < SAVERS * SAVER_ROUNDS; i++) {
        struct cudnn_cache_entry entry = entry_new(i);
        expect_entry(&cache, &entry);
    }
    cudnn_cache_close(&cache);
    assert_int_equal(files_left(), 1);
}

static void *save_in_thread(void *saver)
{
    return (void *)(intptr_t)save_rounds((int)(intptr_t)saver);
}

static void test_cache_threads(void **state)
{
    (void)state;
    pthread_t threads[SAVERS];
    for (intptr_t i = 0; i < SAVERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, save_in_thread, (void *)i), 0);
    for (int i = 0; i < SAVERS; i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_null(result);
    }
    expect_all_saved();
}

/* Many processes at once: whoever reads finds a whole file, and nobody's entries are lost. */
static void test_cache_processes(void **state)
{
    (void)state;
    pid_t children[SAVERS];
    for (int p = 0; p < SAVERS; p++) {
        children[p] = fork();
        assert_true(children[p] >= 0);
        if (!children[p]) _exit(save_rounds(p));
    }
    for (int p = 0; p < SAVERS; p++) {
        int status = 0;
        assert_int_equal(waitpid(children[p], &status, 0), children[p]);
        assert_int_equal(status, 0);
    }
    expect_all_saved();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_cache_round_trip, cache_reset),
        cmocka_unit_test(test_cache_key),
        cmocka_unit_test_setup(test_cache_damage, cache_reset),
        cmocka_unit_test_setup(test_cache_noise, cache_reset),
        cmocka_unit_test_setup(test_cache_limits, cache_reset),
        cmocka_unit_test_setup(test_cache_places, cache_reset),
        cmocka_unit_test_setup(test_cache_merge, cache_reset),
        cmocka_unit_test_setup(test_cache_refresh, cache_reset),
        cmocka_unit_test_setup(test_cache_threads, cache_reset),
        cmocka_unit_test_setup(test_cache_processes, cache_reset),
    };
    if (!mkdtemp(folder)) return 1;
    int failed = cmocka_run_group_tests_name("cudnn cache", tests, NULL, NULL);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return failed;
}
#endif
