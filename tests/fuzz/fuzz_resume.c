/* Any bytes as what a killed run of `effnet classify` left: its resume file and partial outputs. A run goes
 * on from there, and another after that, or each is refused. Input: two records of RECORD_VALUES numbers for
 * a resume file with right sums and options, or with FLAG_RAW the whole file; then as many bytes as the
 * partial output has; then how many rows the arrays have, and flags. */
#include "cli/classify.h"
#include "common/hash.h"
#include "common/npy.h"
#include "fuzz.h"
#include "weights_builder.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    RECORD_VALUES = 9,
    RECORD_BYTES = 256,
    FILE_BYTES = RESUME_HEADER_BYTES + 2 * RECORD_BYTES,
    RECORDS_INPUT = 2 * RECORD_VALUES * (int)sizeof(uint64_t),
    FLAG_RAW = 1,
    FLAG_RESUME = 2,
    FLAG_LOGITS = 4,
    FLAG_NO_PARTIAL = 8,
    FLAG_NO_ARRAY = 16,
    FLAG_EMBEDDINGS = 32,
    MOST_COLUMNS = 256,
};

#define MOST_ITEMS                                                                                           \
    (INT64_C(1) << 39) /* a run that has come near the most that a record may tell ends there */

static char folder[] = "/dev/shm/effnet-fuzz-XXXXXX";
static char genuine[FILE_BYTES]; /* a resume file of this run's options */
static effnet_model *model;
static const char *const arrays[ARRAYS] = {"out.npy", "embeddings.npy"}, *const partial_arrays[ARRAYS] = {
                                                                             "out.npy.partial",
                                                                             "embeddings.npy.partial"};
static struct classify_options options = {
    .format = "text", .scores = "probabilities", .inputs.shard = {1, 1}, .output = "out"};

static void remove_all(void)
{
    unlink("out"), unlink("out.partial"), unlink("out.resume");
    for (int i = 0; i < ARRAYS; i++) unlink(arrays[i]), unlink(partial_arrays[i]);
}

static void write_file(const char *name, const void *data, size_t size)
{
    FILE *file = fopen(name, "wb");
    CHECK(file && fwrite(data, 1, size, file) == size && !fclose(file));
}

static int64_t size_of(const char *name)
{
    struct stat status;
    return stat(name, &status) ? -1 : (int64_t)status.st_size;
}

static void leave_folder(void)
{
    remove_all();
    if (chdir("/") || rmdir(folder)) perror(folder);
}

/* One more item, then what a run does as it is interrupted. */
static void go_on(struct classify_files *files)
{
    static const float row[MOST_COLUMNS];
    const struct effnet_result result = {.logits = row, .features = row};
    for (int i = 0; i < ARRAYS; i++) CHECK(files->columns[i] <= MOST_COLUMNS);
    CHECK(fputs("line\n", files->results.file) >= 0);
    CHECK(!classify_files_add_rows(files, &result));
    files->record.items++;
    CHECK(!classify_files_note(files, true));
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    model = weights_open(weights_tiny(1));
    CHECK(mkdtemp(folder) && !chdir(folder));
    atexit(leave_folder);
    return 0;
}

/* The header depends on which arrays there are. */
static void make_genuine(void)
{
    struct classify_files files = {0};
    remove_all();
    CHECK(!classify_files_open(&files, &options, model, 5));
    go_on(&files);
    classify_files_close(&files, false);
    FILE *file = fopen("out.resume", "rb");
    CHECK(file && fread(genuine, 1, FILE_BYTES, file) >= RESUME_HEADER_BYTES);
    fclose(file);
    remove_all();
}

static void write_record(char *to, const uint8_t *values)
{
    uint64_t v[RECORD_VALUES];
    int length = 0;
    memcpy(v, values, sizeof v);
    memset(to, 0, RECORD_BYTES);
    for (int i = 0; i < RECORD_VALUES; i++)
        length += snprintf(to + length, (size_t)(RECORD_BYTES - length), "%" PRIx64 " ", v[i]);
    snprintf(to + length, (size_t)(RECORD_BYTES - length), "%" PRIx64 "\n",
             hash_add(HASH_START, to, (size_t)length));
}

/* Returns how much of the input it took. */
static size_t write_resume(const uint8_t *data, size_t size, bool raw)
{
    if (raw) {
        const size_t taken = size < FILE_BYTES ? size : FILE_BYTES;
        write_file("out.resume", data, taken);
        return taken;
    }
    if (size < RECORDS_INPUT) return 0;
    write_record(genuine + RESUME_HEADER_BYTES, data);
    write_record(genuine + RESUME_HEADER_BYTES + RECORD_BYTES, data + RECORDS_INPUT / 2);
    write_file("out.resume", genuine, sizeof genuine);
    return RECORDS_INPUT;
}

static void check_sizes(const struct classify_files *files)
{
    const struct resume_record *record = &files->record;
    CHECK(record->items >= 0 && record->rows >= 0 && record->rows <= record->items);
    CHECK(size_of("out.partial") == record->bytes);
    for (int i = 0; i < ARRAYS; i++) {
        const int64_t row_bytes = files->columns[i] * (int64_t)sizeof(float);
        if (!options.arrays[i] || !record->rows) continue;
        CHECK(size_of(partial_arrays[i]) == NPY_HEADER_BYTES + record->rows * row_bytes);
    }
}

/* Two runs that go on, each by one item; then all is done. */
static void run(void)
{
    struct resume_record before = {0};
    for (int i = 0; i < 3; i++) {
        struct classify_files files = {0};
        int status = classify_files_open(&files, &options, model, 5);
        const bool finished = files.record.finished || files.record.items > MOST_ITEMS;
        CHECK(i == 0 || !status);
        if (!status && !finished) {
            check_sizes(&files);
            if (i > 0) CHECK(!memcmp(&before, &files.record, sizeof before));
            go_on(&files);
            before = files.record;
        }
        if (!status && (i == 2 || files.record.finished)) status = classify_files_finish(&files, NULL);
        classify_files_close(&files, !status && (i == 2 || finished));
        if (status || finished) return;
        options.resume = true;
    }
    CHECK(size_of("out") == before.bytes && size_of("out.resume") < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    const uint8_t flags = data[--size], rows = data[--size];
    options.arrays[ARRAY_LOGITS] = flags & FLAG_LOGITS ? arrays[ARRAY_LOGITS] : NULL;
    options.arrays[ARRAY_EMBEDDINGS] = flags & FLAG_EMBEDDINGS ? arrays[ARRAY_EMBEDDINGS] : NULL;
    options.resume = false;
    make_genuine();
    options.resume = flags & FLAG_RESUME;
    const size_t taken = write_resume(data, size, flags & FLAG_RAW);
    if (!(flags & FLAG_NO_PARTIAL)) {
        static char results[1 << 16]; /* what is in it nobody reads */
        size_t left = size - taken;
        if (left > sizeof results) left = sizeof results;
        memset(results, 'x', left);
        write_file("out.partial", results, left);
    }
    for (int i = 0; i < ARRAYS && !(flags & FLAG_NO_ARRAY); i++) {
        static const char array[NPY_HEADER_BYTES + 255 * MOST_COLUMNS * sizeof(float)];
        const struct effnet_model_info *info = effnet_model_get_info(model);
        const int columns = i == ARRAY_LOGITS ? info->classes : info->feature_channels;
        if (options.arrays[i])
            write_file(partial_arrays[i], array,
                       rows ? NPY_HEADER_BYTES + rows * (size_t)columns * sizeof(float) : 0);
    }
    run();
    remove_all();
    return 0;
}
