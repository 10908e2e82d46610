/* Eight threads that open, run and close sessions of many kinds, decode images and compute linear layers, all
 * at once: nothing fails, and every result has the bits that it has alone. On the CPU; tests/gpu has the
 * twin. */
#include "effnet_linear.h"
#include "image_jpeg.h"
#include "threads.h"
#include "weights_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>
#include <png.h>

/* clang's way of saying it. */
#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

/* Rounds of each thread, with small networks and with the real ones. */
enum { THREADS = 8 };
#ifdef __SANITIZE_THREAD__
enum { SMALL_ROUNDS = 12, REAL_ROUNDS = 2 };
#else
enum { SMALL_ROUNDS = 200, REAL_ROUNDS = 10 };
#endif

/* ---------------------------------------------------------------- between sessions: images, linear layers */

enum { WIDTH = 61, HEIGHT = 47, FITTED = 21, FILES = 4, LAYERS = 3 };

struct file {
    const void *data;
    size_t size_bytes;
    uint8_t fitted[FITTED * FITTED * 3];
};

struct layer {
    struct effnet_linear_args args; /* without y */
    float *y;                       /* [m][n] */
};

struct chores {
    struct file files[FILES];
    struct layer layers[LAYERS];
    unsigned char *png, *pnm;
    char weights[128];
};

static const char *fit(const struct file *file, uint8_t *fitted)
{
    static const struct effnet_preprocess preprocess = {.short_side = 24, .crop = FITTED};
    struct effnet_image image = {0};
    int status = effnet_image_decode(file->data, file->size_bytes, "image", NULL, &image, NULL);
    if (!status) status = effnet_image_fit(&image, &preprocess, fitted, NULL);
    effnet_image_free(&image);
    return status ? "an image does not decode" : NULL;
}

static const char *multiply(const struct layer *layer, float *y)
{
    struct effnet_linear_args args = layer->args;
    args.y = y;
    memset(y, 0xff, (size_t)(args.m * args.n) * sizeof *y);
    return effnet_linear(&args, EFFNET_MEMORY_HOST, NULL, NULL) ? "a linear layer fails" : NULL;
}

static void make_files(struct chores *chores, uint64_t *random)
{
    enum { BYTES = WIDTH * HEIGHT * 3 };
    uint8_t pixels[BYTES];
    for (int i = 0; i < BYTES; i++) pixels[i] = (uint8_t)random_next(random);
    png_image png = {
        .version = PNG_IMAGE_VERSION, .width = WIDTH, .height = HEIGHT, .format = PNG_FORMAT_RGB};
    png_alloc_size_t png_bytes = 4 * BYTES;
    chores->png = malloc(png_bytes);
    chores->pnm = malloc(BYTES + 32);
    assert_true(chores->png && chores->pnm);
    assert_true(png_image_write_to_memory(&png, chores->png, &png_bytes, 0, pixels, 0, NULL));
    int head = snprintf((char *)chores->pnm, 32, "P6 %d %d 255\n", WIDTH, HEIGHT);
    memcpy(chores->pnm + head, pixels, BYTES);
    chores->files[0] = (struct file){.data = chores->png, .size_bytes = png_bytes};
    chores->files[1] = (struct file){.data = chores->pnm, .size_bytes = (size_t)head + BYTES};
    chores->files[2] = (struct file){.data = baseline_jpeg, .size_bytes = sizeof baseline_jpeg};
    chores->files[3] = (struct file){.data = progressive_jpeg, .size_bytes = sizeof progressive_jpeg};
    for (int i = 0; i < FILES; i++) assert_null(fit(&chores->files[i], chores->files[i].fitted));
}

static void make_layers(struct chores *chores, uint64_t *random)
{
    static const struct {
        int m, n, k;
        enum effnet_activation activation;
    } shapes[LAYERS] = {
        {5, 40, 70, EFFNET_ACT_GELU}, {33, 17, 129, EFFNET_ACT_RELU6}, {1, 300, 64, EFFNET_ACT_NONE}};
    for (int i = 0; i < LAYERS; i++) {
        const int m = shapes[i].m, n = shapes[i].n, k = shapes[i].k;
        const size_t x_size = (size_t)(m * k), w_size = (size_t)(n * k), y_size = (size_t)(m * n);
        float *x = malloc(x_size * sizeof *x), *w = malloc(w_size * sizeof *w);
        float *y = malloc(y_size * sizeof *y), *shift = malloc((size_t)n * sizeof *shift);
        assert_true(x && w && y && shift);
        for (size_t j = 0; j < x_size; j++) x[j] = random_float(random, 2);
        for (size_t j = 0; j < w_size; j++) w[j] = random_float(random, 1);
        for (int j = 0; j < n; j++) shift[j] = random_float(random, 1);
        chores->layers[i].y = y;
        chores->layers[i].args = (struct effnet_linear_args){.m = m,
                                                             .n = n,
                                                             .k = k,
                                                             .x = x,
                                                             .w = w,
                                                             .shift = shift,
                                                             .ldx = k,
                                                             .ldw = k,
                                                             .ldy = n,
                                                             .x_type = EFFNET_FP32,
                                                             .w_type = EFFNET_FP32,
                                                             .y_type = EFFNET_FP32,
                                                             .activation = shapes[i].activation};
        assert_null(multiply(&chores->layers[i], y));
    }
}

static struct chores *chores_new(uint64_t *random)
{
    struct chores *chores = calloc(1, sizeof *chores);
    assert_non_null(chores);
    make_files(chores, random);
    make_layers(chores, random);
    struct weights *weights = weights_tiny(random_next(random));
    snprintf(chores->weights, sizeof chores->weights, "%s", weights_save(weights));
    weights_free(weights);
    return chores;
}

static void chores_free(struct chores *chores)
{
    for (int i = 0; i < LAYERS; i++) {
        struct layer *layer = &chores->layers[i];
        free((void *)(uintptr_t)layer->args.x);
        free((void *)(uintptr_t)layer->args.w);
        free((void *)(uintptr_t)layer->args.shift);
        free(layer->y);
    }
    free(chores->png);
    free(chores->pnm);
    free(chores);
}

static void ignore_device(const struct effnet_device *device, void *context)
{
    (void)device;
    (void)context;
}

/* One image, one linear layer, one model, and at times the list of devices. */
static const char *do_chores(void *context, int thread, uint64_t *random)
{
    (void)thread;
    const struct chores *chores = context;
    const struct file *file = &chores->files[random_int(random, 0, FILES - 1)];
    uint8_t fitted[sizeof file->fitted];
    const char *wrong = fit(file, fitted);
    if (!wrong && memcmp(fitted, file->fitted, sizeof fitted) != 0) wrong = "other pixels than alone";

    const struct layer *layer = &chores->layers[random_int(random, 0, LAYERS - 1)];
    const size_t bytes = (size_t)(layer->args.m * layer->args.n) * sizeof *layer->y;
    float *y = malloc(bytes);
    if (!y) return "out of memory";
    if (!wrong) wrong = multiply(layer, y);
    if (!wrong && memcmp(y, layer->y, bytes) != 0) wrong = "other results of a linear layer than alone";
    free(y);

    effnet_model *model;
    if (effnet_model_open(chores->weights, &model, NULL) && !wrong) wrong = "a model does not open";
    effnet_model_close(model);
    if (random_int(random, 0, 9) == 0) effnet_devices(ignore_device, NULL);
    return wrong;
}

/* ---------------------------------------------------------------- sessions */

/* Whether the CPU backend of this build and machine runs bf16. */
static bool has_bf16(const effnet_model *model)
{
    const struct effnet_session_options options = {.device = "cpu", .precision = "bf16"};
    effnet_session *session;
    bool has = effnet_session_open(model, &options, &session, NULL) == EFFNET_OK;
    effnet_session_close(session);
    return has;
}

/* Batches 1 to 3 on 1 to 4 threads, and more images than a pass holds. */
static int add_cases(struct threads_case *cases, int count, const char *name, const effnet_model *model,
                     const char *device, const char *precision)
{
    for (int batch = 1; batch <= 3; batch++)
        cases[count++] = (struct threads_case){
            .name = name,
            .model = model,
            .images = batch == 2 ? 5 : batch,
            .options = {
                .device = device, .precision = precision, .max_batch = batch, .threads = 1 + batch % 4}};
    return count;
}

static void run_cases(struct threads_case *cases, int count, int rounds, uint64_t *random)
{
    struct chores *chores = chores_new(random);
    int failed = threads_prepare(cases, count, random_next(random));
    if (!failed) failed = threads_run(cases, count, THREADS, rounds, random_next(random), do_chores, chores);
    threads_free(cases, count);
    chores_free(chores);
    assert_int_equal(failed, 0);
}

static void test_small_networks(void **state)
{
    (void)state;
    uint64_t random = random_seed("small networks", 71);
    effnet_model *one = weights_open(weights_tiny(random_next(&random)));
    effnet_model *two = weights_open(weights_tiny(random_next(&random)));
    struct threads_case cases[16];
    int count = add_cases(cases, 0, "small, reference", one, "reference", NULL);
    count = add_cases(cases, count, "small, cpu", one, "cpu", NULL);
    count = add_cases(cases, count, "another, cpu", two, "cpu", NULL);
    if (has_bf16(two)) count = add_cases(cases, count, "another, bf16", two, "cpu", "bf16");
    run_cases(cases, count, SMALL_ROUNDS, &random);
    effnet_model_close(one);
    effnet_model_close(two);
}

#ifdef EFFNET_HAVE_ONEDNN /* the reference takes seconds for one image */
static effnet_model *open_network(const char *path)
{
    effnet_model *model;
    struct effnet_error error = {0};
    if (effnet_model_open(path, &model, &error)) fail_msg("%s (`make weights` makes it)", error.message);
    return model;
}

static void test_real_networks(void **state)
{
    (void)state;
    effnet_model *lite1 = open_network("weights/lite1.safetensors");
    effnet_model *b1_plain = open_network("weights/b1-plain.safetensors");
    uint64_t random = random_seed("real networks", 72);
    struct threads_case cases[16];
    int count = add_cases(cases, 0, "lite1", lite1, "cpu", NULL);
    count = add_cases(cases, count, "b1-plain", b1_plain, "cpu", NULL);
    if (has_bf16(b1_plain)) count = add_cases(cases, count, "b1-plain, bf16", b1_plain, "cpu", "bf16");
    run_cases(cases, count, REAL_ROUNDS, &random);
    effnet_model_close(lite1);
    effnet_model_close(b1_plain);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_networks),
#ifdef EFFNET_HAVE_ONEDNN
        cmocka_unit_test(test_real_networks),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
