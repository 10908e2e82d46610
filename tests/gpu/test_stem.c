/* kernels/stem against the convolution in double: every configuration on the networks' shapes, then on seeded
 * awkward ones. `--small`: few and small shapes, for compute-sanitizer. `--bench BATCH...`: times. */
#include "stem.h"
#include "stem_reference.h"

struct shape {
    const char *name;
    int n, height, width, channels, pad_before, pad_after;
    float mean[3], std[3];
    enum activation activation;
};

static const struct shape NETWORKS[] = {
    {"b1", 2, 240, 240, 32, 0, 1, {123.675f, 116.28f, 103.53f}, {58.395f, 57.12f, 57.375f}, ACTIVATION_SILU},
    {"b3", 1, 300, 300, 40, 0, 1, {123.675f, 116.28f, 103.53f}, {58.395f, 57.12f, 57.375f}, ACTIVATION_SILU},
    {"b4", 1, 380, 380, 48, 1, 1, {123.675f, 116.28f, 103.53f}, {58.395f, 57.12f, 57.375f}, ACTIVATION_SILU},
    {"lite2", 1, 260, 260, 32, 0, 1, {127, 127, 127}, {128, 128, 128}, ACTIVATION_RELU6},
};
enum { NETWORK_COUNT = sizeof NETWORKS / sizeof *NETWORKS };

struct problem {
    struct stem_args args; /* device pointers */
    struct stem_layer layer;
    float *weights; /* and biases */
    uint8_t *pixels;
    struct guarded y;
    size_t image_count; /* values of y for an image */
};

static int out_side(int side, const struct shape *s)
{
    return (side + s->pad_before + s->pad_after - 3) / 2 + 1;
}

static struct problem problem_new(const struct shape *s, uint64_t *state)
{
    struct problem p = {0};
    const int out_height = out_side(s->height, s), out_width = out_side(s->width, s),
              weights = s->channels * 27;
    const size_t pixel_count = (size_t)s->n * (size_t)s->height * (size_t)s->width * 3;
    p.pixels = checked_malloc(pixel_count);
    for (size_t i = 0; i < pixel_count; i++) p.pixels[i] = (uint8_t)random_next(state);
    p.weights = checked_malloc((size_t)(weights + s->channels) * sizeof *p.weights);
    for (int i = 0; i < weights + s->channels; i++) p.weights[i] = noise(state);
    p.layer = (struct stem_layer){.weight = p.weights,
                                  .bias = p.weights + weights,
                                  .channels = s->channels,
                                  .pad_top = s->pad_before,
                                  .pad_left = s->pad_before};
    memcpy(p.layer.mean, s->mean, sizeof s->mean);
    memcpy(p.layer.std, s->std, sizeof s->std);
    void *packed = checked_malloc(stem_weight_bytes(s->channels));
    if (!stem_weights_fit(&p.layer)) {
        fprintf(stderr, "weights refused\n");
        exit(1);
    }
    stem_pack(&p.layer, packed);
    p.image_count = (size_t)out_height * (size_t)out_width * (size_t)s->channels;
    p.y = guarded_alloc((size_t)s->n * p.image_count * sizeof(half));
    p.args = (struct stem_args){
        .pixels = device_copy(p.pixels, pixel_count),
        .weights = device_copy(packed, stem_weight_bytes(s->channels)),
        .y = p.y.data,
        .activation = s->activation,
        .n = s->n,
        .height = s->height,
        .width = s->width,
        .out_height = out_height,
        .out_width = out_width,
        .channels = s->channels,
        .pad_top = s->pad_before,
        .pad_left = s->pad_before,
    };
    free(packed);
    return p;
}

static void problem_free(struct problem *p)
{
    CUDA_OK(cudaFree((void *)p->args.pixels));
    CUDA_OK(cudaFree((void *)p->args.weights));
    guarded_free(&p->y);
    free(p->pixels), free(p->weights);
}

/* Runs every configuration that fits. y is rounded once to fp16. */
static void check(const struct shape *s, uint64_t *state)
{
    struct problem p = problem_new(s, state);
    const size_t count = (size_t)s->n * p.image_count, pixels = (size_t)s->height * (size_t)s->width * 3;
    double *want = checked_malloc(count * sizeof *want), worst = 0;
    for (int n = 0; n < s->n; n++) {
        double *image = stem_reference(&p.layer, s->activation, p.pixels + (size_t)n * pixels, s->height,
                                       s->width, p.args.out_height, p.args.out_width);
        memcpy(want + (size_t)n * p.image_count, image, p.image_count * sizeof *image);
        free(image);
    }
    half *got = checked_malloc(count * sizeof *got), *first = NULL;
    for (int config = 0; config < kernel_count(&stem_kernels); config++) {
        const char *name = kernel_get(&stem_kernels, config)->name;
        if (!kernel_fits(&stem_kernels, config, &p.args)) continue;
        guarded_poison(&p.y);
        CUDA_OK(kernel_launch(&stem_kernels, config, &p.args, 0));
        CUDA_OK(cudaDeviceSynchronize());
        CUDA_OK(cudaMemcpy(got, p.y.data, count * sizeof *got, cudaMemcpyDeviceToHost));
        const struct comparison c = compare_half(got, want, count);
        if (c.relative_l2 > worst) worst = c.relative_l2;
        expect(!c.mismatched && c.relative_l2 <= 3e-4 && c.worst <= 5e-4,
               "%s, %s: relative L2 %.2e, worst %.2e at %zu: %g, not %g; %zu NaN or infinite", s->name, name,
               c.relative_l2, c.worst, c.worst_index, (double)half_to_float(got[c.worst_index]),
               want[c.worst_index], c.mismatched);
        expect(guarded_intact(&p.y), "%s, %s: wrote outside y", s->name, name);
        if (!first) {
            first = checked_malloc(count * sizeof *first);
            memcpy(first, got, count * sizeof *first);
        }
        expect(!memcmp(first, got, count * sizeof *got), "%s, %s: other bits than the first", s->name, name);
    }
    printf("%-10s %dx%dx%d to %d, pad %d %d: worst relative L2 %.1e\n", s->name, s->n, s->height, s->width,
           s->channels, s->pad_before, s->pad_after, worst);
    expect(first != NULL, "%s: no configuration fits", s->name);
    free(want), free(got), free(first);
    problem_free(&p);
}

static void check_awkward(int count, int side_most, uint64_t *state)
{
    static const enum activation activations[] = {ACTIVATION_NONE, ACTIVATION_RELU, ACTIVATION_RELU6,
                                                  ACTIVATION_SILU};
    for (int i = 0; i < count; i++) {
        struct shape s = {.name = "awkward", .n = random_int(state, 1, 3)};
        s.height = random_int(state, 4, side_most), s.width = 4 * random_int(state, 1, side_most / 4);
        s.channels = 8 * random_int(state, 4, 6);
        s.pad_before = random_int(state, 0, 1), s.pad_after = random_int(state, 0, 1);
        s.activation = activations[random_int(state, 0, 3)];
        for (int c = 0; c < 3; c++) s.mean[c] = 128 + 100 * noise(state), s.std[c] = 80 + 60 * noise(state);
        check(&s, state);
    }
}

static void check_refusals(void)
{
    const struct stem_args good = {.n = 1,
                                   .height = 8,
                                   .width = 8,
                                   .out_height = 4,
                                   .out_width = 4,
                                   .channels = 40,
                                   .activation = ACTIVATION_SILU};
    struct stem_args bad[8] = {good, good, good, good, good, good, good, good};
    bad[0].n = 0, bad[1].width = 10, bad[2].pad_left = 2, bad[3].height = 3, bad[4].out_height = 5,
    bad[5].out_height = 2, bad[6].channels = 56, bad[7].activation = ACTIVATION_GELU;
    expect(kernel_fits(&stem_kernels, 0, &good), "refusals: a good shape is refused");
    for (int i = 0; i < 8; i++)
        expect(kernel_launch(&stem_kernels, 0, &bad[i], 0) == cudaErrorInvalidValue,
               "refusals: bad shape %d runs", i);
    expect(stem_weight_bytes(24) == 0 && stem_weight_bytes(36) == 0, "refusals: 24 or 36 channels are taken");
    static const float zeros[40 * 27];
    float large[40 * 27] = {[5] = 1e6f};
    struct stem_layer layer = {.weight = zeros, .bias = zeros, .std = {1, 1, 1}, .channels = 40};
    expect(stem_weights_fit(&layer), "refusals: zeros are refused");
    layer.weight = large;
    expect(!stem_weights_fit(&layer), "refusals: a weight past fp16 is taken");
}

static void bench(int batch, uint64_t *state)
{
    struct shape s = NETWORKS[0];
    s.n = batch;
    struct problem p = problem_new(&s, state);
    const double bytes = (double)batch * (240.0 * 240 * 3 + (double)p.image_count * 2);
    for (int config = 0; config < kernel_count(&stem_kernels); config++) {
        char name[64];
        struct bench_context context = {&stem_kernels, &p.args, config};
        snprintf(name, sizeof name, "batch %d, %s", batch, kernel_get(&stem_kernels, config)->name);
        bench_line(name, bench_launch, &context, bytes);
    }
    problem_free(&p);
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && !strcmp(argv[1], "--small"),
               timing = argc > 1 && !strcmp(argv[1], "--bench");
    check_refusals();
    if (failed) return finish();
    gpu_require();
    uint64_t state = random_seed("shapes and data", 20261128);
    for (int i = 2; timing && i < argc; i++) bench(atoi(argv[i]), &state);
    if (timing) return 0;
    for (int i = 0; i < NETWORK_COUNT && !small; i++) check(&NETWORKS[i], &state);
    check_awkward(small ? 4 : 40, small ? 24 : 150, &state);
    return finish();
}
