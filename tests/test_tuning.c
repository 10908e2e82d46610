/* What was measured on a GPU: finding the nearest entry; the file on disk: round trip, damage, limits, where
 * it lies, several threads and processes. Needs no GPU. */
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

#include "backend/cuda/cudnn/graph.h"
#include "backend/cuda/tuning.h"
#include "depthwise.h"
#include "expand_depthwise.h"
#include "first_block.h"
#include "linear.h"
#include "mbconv.h"
#include "pointwise.h"
#include "random.h"
#include "squeeze_excite.h"
#include "stem.h"

static char folder[] = "/tmp/effnet-tuning-XXXXXX";

static char *cache_file(void)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/sub/folder/tuning.txt", folder);
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

static struct tuning tuning_new(void)
{
    struct tuning tuning;
    struct effnet_error error = {0};
    if (tuning_open(&tuning, &error)) fail_msg("%s", error.message);
    return tuning;
}

/* Without the shipped entries. */
static int own_count(const struct tuning *tuning)
{
    int count = 0;
    while (count < tuning->count && !tuning->entries[count].shipped) count++;
    return count;
}

struct measurement {
    struct tuning_key key;
    char candidate[32];
    double us;
};

static struct measurement measurement_new(int i)
{
    struct measurement m = {
        .key = {.chip = "GPU of the tests", .code = "c0de", .sizes = {1 + i, 7}, .bytes = 1000}, .us = 1 + i};
    snprintf(m.key.what, sizeof m.key.what, "unit %d", i % 5);
    snprintf(m.candidate, sizeof m.candidate, "candidate %d", i);
    return m;
}

static void add(struct tuning *tuning, const struct measurement *m)
{
    struct effnet_error error = {0};
    tuning_forget(tuning, &m->key);
    assert_int_equal(tuning_put(tuning, &m->key, m->candidate, m->us, &error), EFFNET_OK);
}

static bool any(const char *candidate, void *unused)
{
    (void)candidate, (void)unused;
    return true;
}

static bool is_there(const struct tuning *tuning, const struct measurement *m)
{
    double us;
    const struct tuning_entry *e = tuning_find(tuning, &m->key, any, NULL, &us);
    return e && !strcmp(e->chip, m->key.chip) && !strcmp(e->code, m->key.code) &&
           !strcmp(e->what, m->key.what) && !memcmp(e->sizes, m->key.sizes, sizeof e->sizes) &&
           !strcmp(e->candidate, m->candidate) && us > m->us - 1e-3 && us < m->us + 1e-3;
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

static void write_text(const char *path, const char *text, size_t length)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

/* ---------------------------------------------------------------- the nearest entry */

static bool not_named(const char *candidate, void *name)
{
    return strcmp(candidate, name) != 0;
}

static const char *nearest(const struct tuning *tuning, const char *chip, const char *code, int64_t size,
                           double bytes, const char *but, double *us)
{
    struct tuning_key key = {.chip = chip, .code = code, .sizes = {size, 7}, .bytes = bytes};
    strcpy(key.what, "test unit");
    const struct tuning_entry *e = tuning_find(tuning, &key, not_named, (void *)but, us);
    return e ? e->candidate : NULL;
}

/* Same chip before another, same code before other, then the nearest size, then the fastest. */
static void test_nearest(void **state)
{
    (void)state;
    static const struct {
        const char *chip, *code, *candidate;
        int64_t size;
        double us;
    } known[] = {{"A", "1", "a16", 16, 10}, {"A", "1", "a16 slow", 16, 11},
                 {"A", "1", "a64", 64, 30}, {"A", "2", "a16 new", 16, 40},
                 {"B", "1", "b16", 16, 5},  {"B", "1", "b1024", 1024, 500}};
    struct tuning tuning = tuning_new();
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct tuning_key key = {.chip = known[i].chip,
                                 .code = known[i].code,
                                 .sizes = {known[i].size, 7},
                                 .bytes = (double)known[i].size};
        strcpy(key.what, "test unit");
        assert_int_equal(tuning_put(&tuning, &key, known[i].candidate, known[i].us, NULL), EFFNET_OK);
    }
    double us;
    assert_string_equal(nearest(&tuning, "A", "1", 16, 16, "", &us), "a16");
    assert_true(us > 9.99 && us < 10.01);
    assert_string_equal(nearest(&tuning, "A", "1", 16, 16, "a16", &us), "a16 slow");
    assert_string_equal(nearest(&tuning, "A", "2", 16, 16, "", &us), "a16 new");
    assert_string_equal(nearest(&tuning, "A", "", 16, 16, "", &us), "a16"); /* code not known: the fastest */
    assert_string_equal(nearest(&tuning, "A", "1", 20, 40, "", &us), "a16");
    assert_true(us > 24.99 && us < 25.01); /* by the bytes */
    assert_string_equal(nearest(&tuning, "A", "1", 50, 50, "", &us), "a64");
    assert_string_equal(nearest(&tuning, "B", "1", 16, 16, "", &us), "b16");
    assert_string_equal(nearest(&tuning, "C", "1", 16, 16, "", &us), "b16"); /* equally far: the fastest */
    assert_string_equal(nearest(&tuning, "A", "1", 1024, 1, "", &us), "b1024");

    struct tuning_key other = {.chip = "A", .code = "1", .sizes = {16}, .bytes = 1};
    strcpy(other.what, "test unit");
    assert_null(tuning_find(&tuning, &other, any, NULL, &us)); /* of another number of sizes */
    strcpy(other.what, "no such unit");
    assert_null(tuning_find(&tuning, &other, any, NULL, &us));
    tuning_close(&tuning);
}

/* The program's own table: all of it can be read, and EFFNET_TUNING_WITHOUT hides a chip. */
static void test_shipped(void **state)
{
    (void)state;
    int lines = 0;
    for (const char *c = effnet_shipped_tuning; *c; c++) lines += *c == '\n';
    struct tuning tuning = tuning_new();
    assert_int_equal(tuning.count, lines);
    assert_true(lines > 0);
    int h100 = 0;
    for (int i = 0; i < tuning.count; i++) {
        assert_true(tuning.entries[i].shipped);
        h100 += strstr(tuning.entries[i].chip, "H100") != NULL;
    }
    assert_true(h100 > 0);
    tuning_close(&tuning);
    setenv("EFFNET_TUNING_WITHOUT", "H100", 1);
    tuning = tuning_new();
    unsetenv("EFFNET_TUNING_WITHOUT");
    assert_int_equal(tuning.count, lines - h100);
    tuning_close(&tuning);
}

/* Whether there is such a candidate for a unit of that kind. */
static bool exists(const char *what, const char *candidate)
{
    static const struct {
        const char *begin;
        const struct kernel_family *family;
    } kinds[] = {{"first block", &first_block_kernels},
                 {"depthwise ", &depthwise_kernels},
                 {"pointwise", &pointwise_kernels},
                 {"linear ", &linear_kernels},
                 {"squeeze_excite", &squeeze_excite_kernels},
                 {"stem", &stem_kernels},
                 {"mbconv ", &mbconv_kernels},
                 {"expand_depthwise ", &expand_depthwise_kernels}};
    struct cudnn_config config;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strncmp(what, kinds[i].begin, strlen(kinds[i].begin)))
            return kernel_find(kinds[i].family, candidate) >= 0;
    return !strncmp(what, "conv ", 5) ? cudnn_config_parse(candidate, &config)
                                      : !strcmp(what, "pool") && !strcmp(candidate, "pool");
}

/* A configuration that has another name now would silently be passed over. */
static void test_shipped_candidates(void **state)
{
    (void)state;
    struct tuning tuning = tuning_new();
    for (int i = 0; i < tuning.count; i++)
        if (!exists(tuning.entries[i].what, tuning.entries[i].candidate))
            fail_msg("%s: there is no %s", tuning.entries[i].what, tuning.entries[i].candidate);
    tuning_close(&tuning);
}

/* ---------------------------------------------------------------- the file */

static void test_round_trip(void **state)
{
    (void)state;
    struct tuning tuning = tuning_new();
    assert_int_equal(own_count(&tuning), 0);
    for (int i = 0; i < 40; i++) {
        const struct measurement m = measurement_new(i);
        add(&tuning, &m);
    }
    struct measurement replaced = measurement_new(7);
    replaced.us = 0.5;
    strcpy(replaced.candidate, "a better one");
    add(&tuning, &replaced);
    assert_int_equal(own_count(&tuning), 40);
    assert_true(tuning_save(&tuning));
    tuning_close(&tuning);

    tuning = tuning_new();
    assert_int_equal(own_count(&tuning), 40);
    assert_true(is_there(&tuning, &replaced));
    for (int i = 0; i < 40; i++) {
        const struct measurement m = measurement_new(i);
        if (i != 7) assert_true(is_there(&tuning, &m));
    }
    const struct measurement missing = measurement_new(40);
    assert_false(is_there(&tuning, &missing));
    tuning_close(&tuning);
}

/* Other code's entry goes when this code is measured. */
static void test_other_code(void **state)
{
    (void)state;
    struct tuning tuning = tuning_new();
    struct measurement old = measurement_new(1), new = measurement_new(1);
    new.key.code = "c0de2";
    add(&tuning, &old);
    assert_true(tuning_save(&tuning));
    add(&tuning, &new);
    assert_true(tuning_save(&tuning));
    tuning_close(&tuning);
    tuning = tuning_new();
    assert_int_equal(own_count(&tuning), 1);
    assert_true(is_there(&tuning, &new));
    tuning_close(&tuning);
}

#define TEN "0123456789"
#define LONG_TEXT                                                                                            \
    TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN

static void test_damage(void **state)
{
    (void)state;
    const struct measurement before = measurement_new(3), behind = measurement_new(4);
    struct tuning tuning = tuning_new();
    add(&tuning, &before);
    assert_true(tuning_save(&tuning)); /* makes the folder */
    tuning_close(&tuning);

    /* Bad lines are skipped, good ones around them count. */
    static const char *const bad[] = {
        "",
        "no fields",
        "chip\tcode\twhat\t1\t2\tcandidate",
        "chip\tcode\twhat\t1\t2\tcandidate\t3\t4",
        "\tcode\twhat\t1\t2\tcandidate\t3",
        "chip\tcode\t\t1\t2\tcandidate\t3",
        "chip\tcode\twhat\t\t2\tcandidate\t3",
        "chip\tcode\twhat\t0\t2\tcandidate\t3",
        "chip\tcode\twhat\t-1\t2\tcandidate\t3",
        "chip\tcode\twhat\t1 \t2\tcandidate\t3",
        "chip\tcode\twhat\t1  2\t2\tcandidate\t3",
        "chip\tcode\twhat\t1 2 3 4 5 6 7\t2\tcandidate\t3",
        "chip\tcode\twhat\t1x\t2\tcandidate\t3",
        "chip\tcode\twhat\t99999999999999999999\t2\tcandidate\t3",
        "chip\tcode\twhat\t1\t0\tcandidate\t3",
        "chip\tcode\twhat\t1\tnan\tcandidate\t3",
        "chip\tcode\twhat\t1\t2\t\t3",
        "chip\tcode\twhat\t1\t2\tcandidate\t0",
        "chip\tcode\twhat\t1\t2\tcandidate\t1.5",
        "chip\tcode\twhat\t1\t2\tcandidate\t3 ",
        LONG_TEXT "\tcode\twhat\t1\t2\tcandidate\t3",
        "chip\tcode\twhat\t1\t2\t" LONG_TEXT "\t3",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[4096];
        int length = snprintf(
            text, sizeof text,
            "effnet tuning 1\nGPU of the tests\tc0de\tunit 3\t4 7\t1000\tcandidate 3\t4000\n%s\n"
            "GPU of the tests\tc0de\tunit 4\t5 7\t1000\tcandidate 4\t5000\n",
            bad[i]);
        write_text(cache_file(), text, (size_t)length);
        tuning = tuning_new();
        if (own_count(&tuning) != 2) fail_msg("'%s' was read", bad[i]);
        assert_true(is_there(&tuning, &before));
        assert_true(is_there(&tuning, &behind));
        tuning_close(&tuning);

        /* Cut anywhere, the file is no trouble, and what is whole is read. */
        for (int cut = 0; i == 0 && cut < length; cut++) {
            write_text(cache_file(), text, (size_t)cut);
            tuning = tuning_new();
            assert_true(own_count(&tuning) <= 1);
            tuning_close(&tuning);
        }
    }

    /* Files that are something else as a whole. */
    static const char *const foreign[] = {"", "\n", "effnet tuning 2\n", "effnet tuning 1",
                                          "effnet tuning 10\n"};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        char text[512];
        int length = snprintf(text, sizeof text, "%schip\tcode\twhat\t1\t2\tcandidate\t3\n", foreign[i]);
        write_text(cache_file(), text, (size_t)length);
        tuning = tuning_new();
        assert_int_equal(own_count(&tuning), 0);
        add(&tuning, &before);
        assert_true(tuning_save(&tuning)); /* written anew */
        tuning_close(&tuning);
        tuning = tuning_new();
        assert_int_equal(own_count(&tuning), 1);
        tuning_close(&tuning);
    }
}

static void test_noise(void **state)
{
    (void)state;
    uint64_t random = random_seed("tuning noise", 7);
    struct tuning tuning = tuning_new();
    const struct measurement m = measurement_new(3);
    add(&tuning, &m);
    assert_true(tuning_save(&tuning)); /* makes the folder */
    tuning_close(&tuning);
    for (int round = 0; round < 300; round++) {
        static const char alphabet[] = "0123456789-= \t\t\t\n\nkey \0\xff";
        char text[4096];
        size_t length = (size_t)snprintf(text, sizeof text, "effnet tuning 1\n");
        size_t more = (size_t)random_int(&random, 0, (int)(sizeof text - length));
        for (size_t i = 0; i < more; i++)
            text[length++] = alphabet[random_int(&random, 0, (int)sizeof alphabet - 2)];
        write_text(cache_file(), text, length);
        tuning = tuning_new();
        for (int i = 0; i < own_count(&tuning); i++) {
            assert_true(strlen(tuning.entries[i].candidate) < TUNING_TEXT);
            assert_true(tuning.entries[i].sizes[0] > 0 && tuning.entries[i].elapsed_ns > 0);
        }
        tuning_close(&tuning);
    }
}

static void test_limits(void **state)
{
    (void)state;
    /* Too many entries: the newest stay. */
    struct tuning tuning = tuning_new();
    for (int i = 0; i < TUNING_MAX_ENTRIES + 100; i++) {
        const struct measurement m = measurement_new(i);
        assert_int_equal(tuning_put(&tuning, &m.key, m.candidate, m.us, NULL), EFFNET_OK);
    }
    assert_true(tuning_save(&tuning));
    tuning_close(&tuning);
    struct stat about;
    assert_int_equal(stat(cache_file(), &about), 0);
    assert_true(about.st_size < TUNING_MAX_BYTES);
    tuning = tuning_new();
    assert_int_equal(own_count(&tuning), TUNING_MAX_ENTRIES);
    const struct measurement newest = measurement_new(TUNING_MAX_ENTRIES + 99), oldest = measurement_new(99);
    assert_true(is_there(&tuning, &newest));
    assert_false(is_there(&tuning, &oldest));
    tuning_close(&tuning);

    /* Too big a file is not read. */
    FILE *file = fopen(cache_file(), "a");
    for (int i = 0; i < TUNING_MAX_BYTES / 64; i++) fprintf(file, "%064d\n", i);
    assert_int_equal(fclose(file), 0);
    tuning = tuning_new();
    assert_int_equal(own_count(&tuning), 0);
    tuning_close(&tuning);

    /* Neither is a folder or a pipe that nobody writes to. */
    assert_int_equal(unlink(cache_file()), 0);
    assert_int_equal(mkfifo(cache_file(), 0600), 0);
    tuning = tuning_new();
    assert_int_equal(own_count(&tuning), 0);
    tuning_close(&tuning);
    assert_int_equal(unlink(cache_file()), 0);
    assert_int_equal(mkdir(cache_file(), 0700), 0);
    tuning = tuning_new();
    add(&tuning, &newest);
    assert_false(tuning_save(&tuning));
    tuning_close(&tuning);
    assert_int_equal(rmdir(cache_file()), 0);
    assert_int_equal(files_left(), 0); /* no half-made file beside it */
}

static void test_folders(void **state)
{
    (void)state;
    const struct measurement m = measurement_new(3);
    setenv("EFFNET_CACHE", "", 1); /* none wanted */
    struct tuning tuning = tuning_new();
    assert_null(tuning.path);
    add(&tuning, &m);
    assert_true(is_there(&tuning, &m));
    assert_true(tuning_save(&tuning));
    tuning_close(&tuning);

    char path[300];
    unsetenv("EFFNET_CACHE");
    setenv("XDG_CACHE_HOME", folder, 1);
    snprintf(path, sizeof path, "%s/effnet/tuning.txt", folder);
    tuning = tuning_new();
    assert_string_equal(tuning.path, path);
    tuning_close(&tuning);

    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", folder, 1);
    snprintf(path, sizeof path, "%s/.cache/effnet/tuning.txt", folder);
    tuning = tuning_new();
    assert_string_equal(tuning.path, path);
    tuning_close(&tuning);

    setenv("EFFNET_CACHE", "/dev/null/not/there", 1); /* cannot be made */
    tuning = tuning_new();
    add(&tuning, &m);
    assert_false(tuning_save(&tuning));
    tuning_close(&tuning);
}

/* Two that were opened before either saved: neither's entries are lost, and what only one measured anew
 * stays. */
static void test_merge(void **state)
{
    (void)state;
    const struct measurement first = measurement_new(1), second = measurement_new(2);
    struct measurement again = measurement_new(1);
    again.us = 77;
    struct tuning a = tuning_new(), b = tuning_new();
    add(&a, &first);
    add(&b, &second);
    assert_true(tuning_save(&a));
    assert_true(tuning_save(&b));
    tuning_close(&a);
    tuning_close(&b);
    a = tuning_new();
    b = tuning_new();
    assert_true(is_there(&a, &first) && is_there(&a, &second));
    add(&a, &again);
    assert_true(tuning_save(&a));
    add(&b, &second);
    assert_true(tuning_save(&b)); /* b knows first from the file, but did not measure it */
    tuning_close(&a);
    tuning_close(&b);
    a = tuning_new();
    assert_true(is_there(&a, &again) && is_there(&a, &second));
    tuning_close(&a);
}

enum { SAVERS = 6, SAVER_ROUNDS = 40 };

/* Opens, adds an entry, saves and reads again, many times. Returns 0, or what went wrong. */
static int save_rounds(int saver)
{
    for (int round = 0; round < SAVER_ROUNDS; round++) {
        struct tuning tuning;
        const struct measurement m = measurement_new(saver * SAVER_ROUNDS + round);
        if (tuning_open(&tuning, NULL) || tuning_put(&tuning, &m.key, m.candidate, m.us, NULL) ||
            !tuning_save(&tuning))
            return 1;
        tuning_close(&tuning);
        /* The file exists from now on, and always begins and ends well. */
        if (tuning_open(&tuning, NULL) || !is_there(&tuning, &m)) return 2;
        tuning_close(&tuning);
    }
    return 0;
}

/* All entries of all savers are there, and no litter. */
static void expect_all_saved(void)
{
    struct tuning tuning = tuning_new();
    for (int i = 0; i < SAVERS * SAVER_ROUNDS; i++) {
        const struct measurement m = measurement_new(i);
        assert_true(is_there(&tuning, &m));
    }
    tuning_close(&tuning);
    assert_int_equal(files_left(), 1);
}

static void *save_in_thread(void *saver)
{
    return (void *)(intptr_t)save_rounds((int)(intptr_t)saver);
}

static void test_saving_threads(void **state)
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
static void test_saving_processes(void **state)
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
        cmocka_unit_test_setup(test_nearest, cache_reset),
        cmocka_unit_test_setup(test_shipped, cache_reset),
        cmocka_unit_test_setup(test_shipped_candidates, cache_reset),
        cmocka_unit_test_setup(test_round_trip, cache_reset),
        cmocka_unit_test_setup(test_other_code, cache_reset),
        cmocka_unit_test_setup(test_damage, cache_reset),
        cmocka_unit_test_setup(test_noise, cache_reset),
        cmocka_unit_test_setup(test_limits, cache_reset),
        cmocka_unit_test_setup(test_folders, cache_reset),
        cmocka_unit_test_setup(test_merge, cache_reset),
        cmocka_unit_test_setup(test_saving_threads, cache_reset),
        cmocka_unit_test_setup(test_saving_processes, cache_reset),
    };
    if (!mkdtemp(folder)) return 1;
    int failed = cmocka_run_group_tests_name("tuning", tests, NULL, NULL);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return failed;
}
#endif
