/* Pipelines with decode_gpu against pipelines without, on the GPU: the same items in the same order with the
 * same failures, and nearly the same logits. Then pipelines that are closed at any time, and memory. The
 * CPU's twin, with a device that fails, is tests/test_pipeline_decode.c. `--small`: fewer, for
 * compute-sanitizer. */
#include "networks.h"

#ifdef EFFNET_HAVE_JPEG

#include "jpegs.h"

enum { IMAGES = 60, ITEMS = 3000, MOST_CLASSES = 64 };
/* Of the largest logit: what rounding in pixels makes of logits, several times over. */
static const float TOLERANCE = 0.05f;

static struct jpeg images[IMAGES];
static char paths[IMAGES][64];
static float wanted[IMAGES][MOST_CLASSES];
static int statuses[IMAGES];
static struct effnet_error errors[IMAGES];
static bool small; /* for compute-sanitizer */

/* Of every sampling, many sizes; every twelfth is cut, every fifteenth no JPEG. */
static void make_images(const char *folder, uint64_t *state)
{
    static const int samplings[][2] = {{0, 0}, {1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}};
    for (int i = 0; i < IMAGES; i++) {
        images[i] = make_jpeg(random_int(state, 1, 700), random_int(state, 1, 500), samplings[i % 6][0],
                              samplings[i % 6][1], random_int(state, 40, 95), state);
        if (i % 12 == 5) images[i].size = images[i].size * 2 / 3;
        if (i % 15 == 7) memset(images[i].data, 'x', 16);
        snprintf(paths[i], sizeof paths[i], "%s/%d.jpg", folder, i);
        FILE *file = fopen(paths[i], "wb");
        if (!file || fwrite(images[i].data, 1, images[i].size, file) != images[i].size || fclose(file))
            exit(1);
    }
}

struct list {
    int next, count;
};

/* Every other one from memory. */
static int next_item(void *context, struct effnet_item *item, struct effnet_error *error)
{
    struct list *list = context;
    const int i = list->next % IMAGES;
    (void)error;
    if (list->next == list->count) return 0;
    *item = (struct effnet_item){.name = paths[i]};
    if (list->next++ % 2) {
        item->data = images[i].data;
        item->size_bytes = images[i].size;
    }
    return 1;
}

static effnet_pipeline *start(effnet_session *session, const struct subject *s, struct list *list, bool gpu,
                              bool unordered)
{
    struct effnet_pipeline_options options = effnet_pipeline_defaults();
    struct effnet_error error = {0};
    effnet_pipeline *pipeline;
    options.decode_gpu = gpu;
    options.unordered = unordered;
    int status = effnet_pipeline_open(s->model, &options, next_item, list, &pipeline, &error);
    if (!status) status = effnet_pipeline_start(pipeline, session, &error);
    if (status == EFFNET_E_UNAVAILABLE) {
        printf("skipped: %s\n", error.message);
        exit(GPU_EXIT_SKIPPED);
    }
    expect(!status, "a pipeline: %s", error.message);
    if (status) exit(finish());
    return pipeline;
}

/* A late failure to find engines skips the test, too. */
static const struct effnet_result *next_result(effnet_pipeline *pipeline)
{
    const struct effnet_result *result;
    struct effnet_error error = {0};
    const int status = effnet_pipeline_next(pipeline, &result, &error);
    if (status == EFFNET_E_UNAVAILABLE) {
        printf("skipped: %s\n", error.message);
        exit(GPU_EXIT_SKIPPED);
    }
    expect(!status, "the next result: %s", error.message);
    return result;
}

/* What the CPU makes of them. */
static void fill_wanted(effnet_session *session, const struct subject *s)
{
    struct list list = {.count = IMAGES};
    effnet_pipeline *pipeline = start(session, s, &list, false, false);
    const struct effnet_result *result;
    for (int i = 0; (result = next_result(pipeline)); i++) {
        statuses[i] = result->status;
        if (result->status)
            errors[i] = *result->error;
        else
            memcpy(wanted[i], result->logits, s->classes * sizeof *wanted[i]);
    }
    effnet_pipeline_close(pipeline);
}

/* Returns the largest difference of a logit, as a share of the largest. */
static float check_result(const struct effnet_result *result, const struct subject *s)
{
    const int i = (int)(result->index % IMAGES);
    float largest = 0, difference = 0, best = -INFINITY;
    size_t top = 0;
    expect(!strcmp(result->name, paths[i]), "item %d is %s", i, result->name);
    expect(result->status == statuses[i], "%s: status %d, by the CPU %d", paths[i], result->status,
           statuses[i]);
    if (result->status || statuses[i]) {
        expect(!strcmp(result->error->message, errors[i].message), "%s, by the CPU %s",
               result->error->message, errors[i].message);
        return 0;
    }
    for (size_t c = 0; c < s->classes; c++) {
        largest = fmaxf(largest, fabsf(wanted[i][c]));
        best = fmaxf(best, wanted[i][c]);
        difference = fmaxf(difference, fabsf(wanted[i][c] - result->logits[c]));
        if (result->logits[c] > result->logits[top]) top = c;
    }
    expect(difference <= TOLERANCE * largest, "%s: a logit differs by %g of %g", paths[i], difference,
           largest);
    expect(best - wanted[i][top] <= 2 * difference, "%s: another class", paths[i]);
    return difference / largest;
}

/* `opened`: the session has its decoder by now, so that the CPU cannot have done everything. */
static void check_whole(effnet_session *session, const struct subject *s, bool unordered, bool opened)
{
    const int items = small ? 200 : ITEMS;
    struct list list = {.count = items};
    struct effnet_pipeline_stats stats;
    effnet_pipeline *pipeline = start(session, s, &list, true, unordered);
    const struct effnet_result *result;
    float difference = 0;
    int count = 0;
    for (; (result = next_result(pipeline)); count++) {
        if (!unordered) expect(result->index == count, "item %d after %d", (int)result->index, count - 1);
        difference = fmaxf(difference, check_result(result, s));
    }
    effnet_pipeline_get_stats(pipeline, &stats);
    printf("%d items, %d by the GPU, largest difference %g of the largest logit\n", count,
           (int)stats.decoded_gpu, difference);
    expect(count == items, "%d results", count);
    expect(!opened || stats.decoded_gpu > 0, "the GPU has decoded nothing");
    effnet_pipeline_close(pipeline);
}

static void check_cancel(effnet_session *session, const struct subject *s, uint64_t *state)
{
    for (int round = 0; round < 30; round++) {
        struct list list = {.count = 1 << 30};
        effnet_pipeline *pipeline = start(session, s, &list, true, round % 2);
        const int taken = random_int(state, 0, 1500);
        for (int i = 0; i < taken; i++) check_result(next_result(pipeline), s);
        if (round % 3) effnet_pipeline_cancel(pipeline);
        effnet_pipeline_close(pipeline);
    }
}

static size_t free_memory(void)
{
    size_t free_bytes = 0, total = 0;
    CUDA_OK(cudaMemGetInfo(&free_bytes, &total));
    return free_bytes;
}

static void check_subject(const char *name, effnet_model *model, int max_batch, uint64_t *state)
{
    struct subject s = subject_new(name, model, 1, max_batch);
    size_t before = 0;
    for (int round = 0; round < (small ? 1 : 3); round++) {
        effnet_session *session = open_session(&s, "cuda", "auto", max_batch);
        if (!session) break;
        fill_wanted(session, &s);
        check_whole(session, &s, round % 2, false);
        check_whole(session, &s, false, true);
        if (round == 0 && !small) check_cancel(session, &s, state);
        effnet_session_close(session);
        if (round == 1) before = free_memory();
    }
    expect(free_memory() + (8 << 20) >= before, "device memory is not given back");
    subject_free(&s);
}

int main(int argc, char **argv)
{
    char folder[] = "/tmp/effnet-test-XXXXXX";
    small = argc > 1 && !strcmp(argv[1], "--small");
    gpu_require();
    seed = random_seed("images and weights", seed);
    uint64_t state = seed;
    if (!mkdtemp(folder)) return 1;
    make_images(folder, &state);
    check_subject("lite", lite_model(), 64, &state);
    check_subject("heads", heads_model(), 5, &state);
    for (int i = 0; i < IMAGES; i++) {
        unlink(paths[i]);
        free(images[i].data);
    }
    rmdir(folder);
    return finish();
}

#else

int main(void)
{
    printf("skipped: a build without libjpeg-turbo\n");
    return GPU_EXIT_SKIPPED;
}

#endif
