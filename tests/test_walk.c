/* Names of what is to be classified: lists, folders with odd links, shards. */
#include "pipeline/list.h"
#include "pipeline/walk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char base[64]; /* a folder of this test's own, in which it works */

static int set_up(void **state)
{
    (void)state;
    strcpy(base, "/tmp/effnet_walk_XXXXXX");
    return !mkdtemp(base) || chdir(base);
}

static int tear_down(void **state)
{
    (void)state;
    char command[256];
    snprintf(command, sizeof command, "chmod -R u+rwx %s && rm -rf %s", base, base);
    return chdir("/") || system(command);
}

static void write_bytes(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void touch(const char *path)
{
    write_bytes(path, "x", 1);
}

/* Goes through all names; they come out joined by '|', those that were found in a folder with a '+' before.
 */
static char *names_of(const struct walk_options *options, char *text, size_t size)
{
    struct walk *walk;
    struct walk_entry entry;
    struct effnet_error error = {0};
    int found = 1;
    double done = 0;
    int64_t count = 0;
    *text = '\0';
    if (walk_open(options, &walk, &error)) return strcpy(text, error.message);
    int64_t total = walk_total(walk);
    while ((found = walk_next(walk, &entry, &error)) > 0) {
        assert_true(strlen(text) + strlen(entry.path) + 3 < size);
        sprintf(text + strlen(text), "%s%s%s", count ? "|" : "", entry.found ? "+" : "", entry.path);
        assert_true(entry.done < 0 || (entry.done >= done - 1e-9 && entry.done <= 1 + 1e-9));
        done = entry.done;
        count++;
    }
    if (found < 0) snprintf(text, size, "%d %s", found, error.message);
    if (!found && total >= 0) assert_int_equal(count, total);
    walk_close(walk);
    return text;
}

static void check(const struct walk_options *options, const char *expected)
{
    char text[65536];
    assert_string_equal(names_of(options, text, sizeof text), expected);
}

#define OPERANDS(...)                                                                                        \
    .operands = (char *[]){__VA_ARGS__}, .count = sizeof((char *[]){__VA_ARGS__}) / sizeof(char *)

static void test_operands_in_their_order(void **state)
{
    (void)state;
    touch("b");
    touch("a");
    mkdir("d", 0755);
    touch("d/x");
    check(&(struct walk_options){OPERANDS("b", "-", "missing", "a", "d", "b")}, "b|-|missing|a|d|b");
    check(&(struct walk_options){OPERANDS("b", "d", "-", "d/", "a"), .recursive = true}, "b|+d/x|-|+d/x|a");
}

static void test_folder_is_sorted(void **state)
{
    (void)state;
    mkdir("t", 0755);
    static const char *const files[] = {"t/b.png",   "t/a.png",   "t/B.png",     "t/\xff", "t/\xc3\xa4",
                                        "t/.hidden", "t/sub.png", "t/new\nline", "t/-"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) touch(files[i]);
    mkdir("t/sub", 0755);
    mkdir("t/sub/deep", 0755);
    touch("t/sub/z");
    touch("t/sub/deep/1");
    mkdir("t/empty", 0755);
    mkdir("t/.git", 0755);
    touch("t/.git/object");
    mkfifo("t/fifo", 0600); /* to open it would wait for ever */
    check(
        &(struct walk_options){OPERANDS("t"), .recursive = true},
        "+t/-|+t/B.png|+t/a.png|+t/b.png|+t/new\nline|+t/sub/deep/1|+t/sub/z|+t/sub.png|+t/\xc3\xa4|+t/\xff");
    check(&(struct walk_options){OPERANDS("t/empty"), .recursive = true}, "");
}

static void test_links(void **state)
{
    (void)state;
    mkdir("l", 0755);
    mkdir("l/a", 0755);
    mkdir("outside", 0755);
    touch("outside/o");
    touch("l/a/f");
    assert_int_equal(symlink("..", "l/a/up"), 0);             /* a circle */
    assert_int_equal(symlink(".", "l/self"), 0);              /* and a short one */
    assert_int_equal(symlink("../outside", "l/out1"), 0);     /* followed */
    assert_int_equal(symlink("../outside", "l/out2"), 0);     /* the second time not */
    assert_int_equal(symlink("a/f", "l/link_to_file"), 0);    /* a file */
    assert_int_equal(symlink("nowhere", "l/void"), 0);        /* named, so that somebody says so */
    assert_int_equal(symlink("../outside", "outside/in"), 0); /* back to where the link led */
    check(&(struct walk_options){OPERANDS("l"), .recursive = true},
          "+l/a/f|+l/link_to_file|+l/out1/o|+l/void");
    check(&(struct walk_options){OPERANDS("l/out1", "l/out1"), .recursive = true}, "+l/out1/o|+l/out1/o");
}

/* Folders that all link to one another: without a rule there are more paths than can be gone through. */
static void test_many_links_end(void **state)
{
    (void)state;
    enum { FOLDERS = 24 };
    char path[64], target[64];
    mkdir("web", 0755);
    for (int i = 0; i < FOLDERS; i++) {
        sprintf(path, "web/%02d", i);
        mkdir(path, 0755);
        sprintf(path, "web/%02d/file", i);
        touch(path);
        for (int k = 0; k < FOLDERS; k++) {
            sprintf(path, "web/%02d/to%02d", i, k);
            sprintf(target, "../%02d", k);
            assert_int_equal(symlink(target, path), 0);
        }
    }
    char text[65536];
    names_of(&(struct walk_options){OPERANDS("web"), .recursive = true}, text, sizeof text);
    int files = 1;
    for (const char *s = text; (s = strchr(s, '|')); s++) files++;
    assert_in_range(files, FOLDERS, 2 * FOLDERS);
}

static void test_unreadable_folder_is_named(void **state)
{
    (void)state;
    mkdir("u", 0755);
    mkdir("u/closed", 0755);
    touch("u/closed/x");
    touch("u/z");
    chmod("u/closed", 0);
    if (access("u/closed", R_OK) == 0) skip(); /* root reads everything */
    check(&(struct walk_options){OPERANDS("u"), .recursive = true}, "+u/closed|+u/z");
}

static void test_list(void **state)
{
    (void)state;
    static const char lines[] = "\xef\xbb\xbf"
                                "a\r\n\n\r\n b \n-\nc\rd\n\xff\xfe\nlast";
    write_bytes("list", lines, sizeof lines - 1);
    check(&(struct walk_options){.list = "list"}, "a| b |./-|c\rd|\xff\xfe|last");
    static const char nul[] = "a\n\0\0b\r\0-\0last";
    write_bytes("nul", nul, sizeof nul - 1);
    check(&(struct walk_options){.list = "nul", .null = true}, "a\n|b\r|./-|last");
    check(&(struct walk_options){.list = "nul"},
          "-2 nul: no list of names: a NUL byte (-0 is for names that end in NUL), after 1 names");
    write_bytes("empty", "", 0);
    check(&(struct walk_options){.list = "empty"}, "");
    check(&(struct walk_options){.list = "missing"}, "missing: No such file or directory");
    check(&(struct walk_options){.list = "."}, "-3 .: Is a directory");
    mkdir("f", 0755);
    touch("f/1");
    write_bytes("folders", "f\nlist\n", 7);
    check(&(struct walk_options){.list = "folders"}, "f|list");
    check(&(struct walk_options){.list = "folders", .recursive = true}, "+f/1|list");
}

/* Names of every length about the buffer's, against what was written. */
static void test_long_names_in_a_list(void **state)
{
    (void)state;
    static char name[LIST_NAME_MAX + 2];
    memset(name, 'n', sizeof name);
    FILE *file = fopen("long", "wb");
    enum { NAMES = 60 };
    for (int i = 0; i < NAMES; i++) fprintf(file, "%.*s\n", LIST_NAME_MAX - i * 1111 % LIST_NAME_MAX, name);
    fclose(file);
    struct list *list;
    const char *found;
    assert_int_equal(list_open("long", false, &list, NULL), EFFNET_OK);
    for (int i = 0; i < NAMES; i++) {
        assert_int_equal(list_next(list, &found, NULL), 1);
        assert_int_equal(strlen(found), LIST_NAME_MAX - i * 1111 % LIST_NAME_MAX);
    }
    assert_int_equal(list_next(list, &found, NULL), 0);
    assert_int_equal(list_next(list, &found, NULL), 0);
    list_close(list);
    file = fopen("longer", "wb");
    fprintf(file, "%.*s", LIST_NAME_MAX + 1, name);
    fclose(file);
    struct effnet_error error;
    assert_int_equal(list_open("longer", true, &list, &error), EFFNET_OK);
    assert_int_equal(list_next(list, &found, &error), EFFNET_E_DATA);
    assert_non_null(strstr(error.message, "65536"));
    list_close(list);
}

/* The blocks of all shards, one after the other, are what one process goes through. */
static void test_shards(void **state)
{
    (void)state;
    mkdir("s", 0755);
    char path[32], whole[4096], part[4096], joined[8192];
    for (int i = 0; i < 23; i++) {
        sprintf(path, "s/%02d", i);
        touch(path);
    }
    write_bytes("names", "s\nlist\ns/04\n", 12);
    static const int counts[] = {1, 2, 3, 7, 25, 26, 40};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        for (int by_list = 0; by_list < 2; by_list++) {
            struct walk_options options = {OPERANDS("s", "list", "s/04"), .recursive = true};
            if (by_list) options.list = "names";
            names_of(&options, whole, sizeof whole);
            *joined = '\0';
            for (int i = 1; i <= counts[c]; i++) {
                options.shard = (struct shard){i, counts[c]};
                names_of(&options, part, sizeof part);
                sprintf(joined + strlen(joined), "%s%s", *joined && *part ? "|" : "", part);
            }
            assert_string_equal(joined, whole);
        }
    }
}

static void test_shard_ranges(void **state)
{
    (void)state;
    for (int64_t total = 0; total < 40; total++)
        for (int64_t count = 1; count < 45; count++) {
            int64_t at = 0, first, end;
            for (int64_t i = 1; i <= count; i++) {
                shard_range(&(struct shard){i, count}, total, &first, &end);
                assert_int_equal(first, at);
                assert_in_range(end - first, total / count, total / count + 1);
                at = end;
            }
            assert_int_equal(at, total);
        }
}

static void test_shard_as_text(void **state)
{
    (void)state;
    struct shard shard;
    assert_int_equal(shard_parse("3/7", &shard, NULL), EFFNET_OK);
    assert_true(shard.number == 3 && shard.count == 7);
    static const char *const wrong[] = {
        "",   "1",    "0/3",  "4/3",  "-1/3", "1/0",  "1/",
        "/3", "1/3x", " 1/3", "1 /3", "a/b",  "1//3", "1/99999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(shard_parse(wrong[i], &shard, NULL), EFFNET_E_USAGE);
}

static void test_shard_of_the_environment(void **state)
{
    (void)state;
    static const struct {
        const char *variables[12]; /* name, value, ... */
        int64_t number, count;     /* 0: refused */
        const char *origin;
    } cases[] = {
        {{0}, 1, 1, NULL},
        {{"OMPI_COMM_WORLD_RANK", "2", "OMPI_COMM_WORLD_SIZE", "4", "SLURM_PROCID", "0", "SLURM_NTASKS", "4"},
         3,
         4,
         "Open MPI"},
        {{"PMI_RANK", "0", "PMI_SIZE", "4"}, 1, 4, "MPI"},
        {{"MV2_COMM_WORLD_RANK", "3", "MV2_COMM_WORLD_SIZE", "4"}, 4, 4, "MVAPICH2"},
        {{"PMI_RANK", "4", "PMI_SIZE", "4"}, 0, 0, NULL},
        {{"PMI_RANK", "x", "PMI_SIZE", "4"}, 0, 0, NULL},
        {{"PMI_RANK", "1"}, 0, 0, NULL},
        {{"SLURM_PROCID", "0", "SLURM_NTASKS", "4", "SLURM_STEP_NUM_TASKS", "4"}, 1, 4, "Slurm"},
        {{"SLURM_PROCID", "3", "SLURM_NTASKS", "4"}, 4, 4, "Slurm"},
        {{"SLURM_PROCID", "0", "SLURM_NTASKS", "1"}, 1, 1, "Slurm"},
        {{"SLURM_PROCID", "0", "SLURM_NTASKS", "4"}, 0, 0, NULL}, /* the batch script */
        {{"SLURM_ARRAY_TASK_ID", "5", "SLURM_ARRAY_TASK_MIN", "1", "SLURM_ARRAY_TASK_MAX", "7",
          "SLURM_ARRAY_TASK_COUNT", "4"},
         3,
         4,
         "Slurm"},
        {{"SLURM_ARRAY_TASK_ID", "0", "SLURM_ARRAY_TASK_MIN", "0", "SLURM_ARRAY_TASK_MAX", "0",
          "SLURM_ARRAY_TASK_COUNT", "1"},
         1,
         1,
         "Slurm"},
        {{"SLURM_ARRAY_TASK_ID", "3", "SLURM_ARRAY_TASK_MIN", "1", "SLURM_ARRAY_TASK_MAX", "8",
          "SLURM_ARRAY_TASK_COUNT", "3"},
         0,
         0,
         NULL},
    };
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK",
                                        "OMPI_COMM_WORLD_SIZE",
                                        "MV2_COMM_WORLD_RANK",
                                        "MV2_COMM_WORLD_SIZE",
                                        "PMI_RANK",
                                        "PMI_SIZE",
                                        "SLURM_PROCID",
                                        "SLURM_NTASKS",
                                        "SLURM_STEP_NUM_TASKS",
                                        "SLURM_ARRAY_TASK_ID",
                                        "SLURM_ARRAY_TASK_MIN",
                                        "SLURM_ARRAY_TASK_MAX",
                                        "SLURM_ARRAY_TASK_COUNT"};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) unsetenv(names[i]);
        for (int i = 0; cases[c].variables[i]; i += 2)
            setenv(cases[c].variables[i], cases[c].variables[i + 1], 1);
        struct shard shard;
        const char *origin;
        int status = shard_from_environment(&shard, &origin, NULL);
        assert_int_equal(status, cases[c].count ? EFFNET_OK : EFFNET_E_USAGE);
        if (status) continue;
        assert_true(shard.number == cases[c].number && shard.count == cases[c].count);
        assert_true(origin == cases[c].origin || !strcmp(origin, cases[c].origin));
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) unsetenv(names[i]);
}

static long peak_kb(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

/* Through a pipe, so that nothing but the reader can hold them: a million names of 100 bytes. */
static void test_a_long_list_takes_flat_memory(void **state)
{
    (void)state;
    enum { NAMES = 1000000 };
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        FILE *out = fdopen(ends[1], "w");
        for (int i = 0; i < NAMES; i++) fprintf(out, "%0100d\n", i);
        fflush(out);
        _exit(0);
    }
    close(ends[1]);
    char path[32];
    sprintf(path, "/dev/fd/%d", ends[0]);
    struct walk *walk;
    struct walk_entry entry;
    assert_int_equal(walk_open(&(struct walk_options){.list = path}, &walk, NULL), EFFNET_OK);
    long before = peak_kb();
    int64_t count = 0;
    while (walk_next(walk, &entry, NULL) > 0) {
        assert_true(entry.done < 0);
        if (count % 1000 == 0) assert_int_equal(atoi(entry.path), count);
        count++;
    }
    assert_int_equal(count, NAMES);
    assert_in_range(peak_kb() - before, 0, 20000);
    walk_close(walk);
    close(ends[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operands_in_their_order),
        cmocka_unit_test(test_folder_is_sorted),
        cmocka_unit_test(test_links),
        cmocka_unit_test(test_many_links_end),
        cmocka_unit_test(test_unreadable_folder_is_named),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_long_names_in_a_list),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_shard_ranges),
        cmocka_unit_test(test_shard_as_text),
        cmocka_unit_test(test_shard_of_the_environment),
        cmocka_unit_test(test_a_long_list_takes_flat_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
