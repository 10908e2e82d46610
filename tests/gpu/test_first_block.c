/* kernels/first_block against the three layers one after the other in double: every configuration on the
 * shapes of both networks, then on seeded awkward ones. `--small`: few and small shapes, for
 * compute-sanitizer. `--bench BATCH...`: times. */
#include "first_block.h"
#include "small.h"
#include "stem_reference.h"

enum { MIDDLE = FIRST_BLOCK_MIDDLE, OUT = FIRST_BLOCK_OUT };

struct shape {
    const char *name;
    int n, height, width, pad_before, pad_after;
    float mean[3], std[3];
    enum activation stem, depthwise, project;
};

static const struct shape NETWORKS[] = {
    {"lite1",
     2,
     240,
     240,
     0,
     1,
     {127, 127, 127},
     {128, 128, 128},
     ACTIVATION_RELU6,
     ACTIVATION_RELU6,
     ACTIVATION_NONE},
    {"b1-plain",
     2,
     240,
     240,
     1,
     1,
     {123.675f, 116.28f, 103.53f},
     {58.395f, 57.12f, 57.375f},
     ACTIVATION_RELU,
     ACTIVATION_RELU6,
     ACTIVATION_NONE},
};
enum { NETWORK_COUNT = sizeof NETWORKS / sizeof *NETWORKS };

struct problem {
    struct first_block_args args; /* device pointers */
    struct first_block_layers layers;
    float *weights; /* all of them */
    uint8_t *pixels;
    struct guarded y;
    size_t y_count;
};

static int out_side(int side, const struct shape *s)
{
    return (side + s->pad_before + s->pad_after - 3) / 2 + 1;
}

static struct problem problem_new(const struct shape *s, uint64_t *state)
{
    enum { STEM = MIDDLE * 27, DEPTHWISE = MIDDLE * 9, PROJECT = OUT * MIDDLE };
    enum { ALL = STEM + DEPTHWISE + PROJECT + 2 * MIDDLE + OUT };
    struct problem p = {0};
    const size_t pixel_count = (size_t)s->n * (size_t)s->height * (size_t)s->width * 3;
    p.pixels = checked_malloc(pixel_count);
    for (size_t i = 0; i < pixel_count; i++) p.pixels[i] = (uint8_t)random_next(state);
    p.weights = checked_malloc(ALL * sizeof *p.weights);
    for (int i = 0; i < ALL; i++) p.weights[i] = noise(state);
    float *next = p.weights;
    p.layers.stem_weight = next, next += STEM;
    p.layers.depthwise_weight = next, next += DEPTHWISE;
    p.layers.project_weight = next, next += PROJECT;
    p.layers.stem_bias = next, next += MIDDLE;
    p.layers.depthwise_bias = next, next += MIDDLE;
    p.layers.project_bias = next;
    memcpy(p.layers.mean, s->mean, sizeof s->mean);
    memcpy(p.layers.std, s->std, sizeof s->std);
    p.layers.stem_activation = s->stem, p.layers.depthwise_activation = s->depthwise;
    p.layers.pad_top = p.layers.pad_left = s->pad_before;
    void *packed = checked_malloc(first_block_weight_bytes());
    if (!first_block_weights_fit(&p.layers)) {
        fprintf(stderr, "weights refused\n");
        exit(1);
    }
    first_block_pack(&p.layers, packed);
    const int out_height = out_side(s->height, s), out_width = out_side(s->width, s);
    p.y_count = (size_t)s->n * (size_t)out_height * (size_t)out_width * OUT;
    p.y = guarded_alloc(p.y_count * sizeof(half));
    p.args = (struct first_block_args){
        .pixels = device_copy(p.pixels, pixel_count),
        .weights = device_copy(packed, first_block_weight_bytes()),
        .y = p.y.data,
        .stem_activation = s->stem,
        .depthwise_activation = s->depthwise,
        .activation = s->project,
        .n = s->n,
        .height = s->height,
        .width = s->width,
        .out_height = out_height,
        .out_width = out_width,
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

static double *reference_stem(const struct problem *p, int n)
{
    const struct first_block_args *a = &p->args;
    const struct stem_layer layer = {.weight = p->layers.stem_weight,
                                     .bias = p->layers.stem_bias,
                                     .mean = {p->layers.mean[0], p->layers.mean[1], p->layers.mean[2]},
                                     .std = {p->layers.std[0], p->layers.std[1], p->layers.std[2]},
                                     .channels = MIDDLE,
                                     .pad_top = a->pad_top,
                                     .pad_left = a->pad_left};
    return stem_reference(&layer, a->stem_activation,
                          p->pixels + (size_t)n * (size_t)a->height * (size_t)a->width * 3, a->height,
                          a->width, a->out_height, a->out_width);
}

static double *reference_depthwise(const struct problem *p, const double *s)
{
    const int height = p->args.out_height, width = p->args.out_width;
    double *d = checked_malloc((size_t)height * (size_t)width * MIDDLE * sizeof *d), *out = d;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < MIDDLE; c++) {
                double sum = p->layers.depthwise_bias[c];
                for (int ky = 0; ky < 3; ky++)
                    for (int kx = 0; kx < 3; kx++) {
                        const int iy = y - 1 + ky, ix = x - 1 + kx;
                        if (iy < 0 || iy >= height || ix < 0 || ix >= width) continue;
                        sum += s[((size_t)iy * (size_t)width + (size_t)ix) * MIDDLE + (size_t)c] *
                               p->layers.depthwise_weight[(c * 3 + ky) * 3 + kx];
                    }
                *out++ = activate_double(p->args.depthwise_activation, sum);
            }
    return d;
}

static double *reference(const struct problem *p)
{
    const size_t pixels = (size_t)p->args.out_height * (size_t)p->args.out_width;
    double *y = checked_malloc(p->y_count * sizeof *y), *out = y;
    for (int n = 0; n < p->args.n; n++) {
        double *s = reference_stem(p, n), *d = reference_depthwise(p, s);
        for (size_t i = 0; i < pixels; i++)
            for (int o = 0; o < OUT; o++) {
                double sum = p->layers.project_bias[o];
                for (int c = 0; c < MIDDLE; c++)
                    sum += d[i * MIDDLE + (size_t)c] * p->layers.project_weight[o * MIDDLE + c];
                *out++ = activate_double(p->args.activation, sum);
            }
        free(s), free(d);
    }
    return y;
}

/* Runs every configuration that fits. y is rounded once to fp16, which costs a relative L2 of at most 2.9e-4;
 * sums of some 350 fp32 products add less than 1e-5. */
static void check(const struct shape *s, uint64_t *state)
{
    struct problem p = problem_new(s, state);
    double *want = reference(&p), worst = 0;
    half *got = checked_malloc(p.y_count * sizeof *got), *first = NULL;
    for (int config = 0; config < kernel_count(&first_block_kernels); config++) {
        if (!kernel_fits(&first_block_kernels, config, &p.args)) continue;
        guarded_poison(&p.y);
        CUDA_OK(kernel_launch(&first_block_kernels, config, &p.args, 0));
        CUDA_OK(cudaDeviceSynchronize());
        CUDA_OK(cudaMemcpy(got, p.y.data, p.y_count * sizeof *got, cudaMemcpyDeviceToHost));
        const struct comparison c = compare_half(got, want, p.y_count);
        if (c.relative_l2 > worst) worst = c.relative_l2;
        expect(!c.mismatched && c.relative_l2 <= 3e-4 && c.worst <= 5e-4,
               "%s, %s: relative L2 %.2e, worst %.2e at %zu: %g, not %g; %zu NaN or infinite", s->name,
               kernel_get(&first_block_kernels, config)->name, c.relative_l2, c.worst, c.worst_index,
               (double)half_to_float(got[c.worst_index]), want[c.worst_index], c.mismatched);
        expect(guarded_intact(&p.y), "%s, %s: wrote outside y", s->name,
               kernel_get(&first_block_kernels, config)->name);
        if (first)
            expect(!memcmp(first, got, p.y_count * sizeof *got), "%s, %s: other bits than %s", s->name,
                   kernel_get(&first_block_kernels, config)->name, kernel_get(&first_block_kernels, 0)->name);
        else {
            first = checked_malloc(p.y_count * sizeof *first);
            memcpy(first, got, p.y_count * sizeof *first);
        }
    }
    printf("%-10s %dx%dx%d pad %d %d worst relative L2 %.1e\n", s->name, p.args.n, p.args.height,
           p.args.width, s->pad_before, s->pad_after, worst);
    expect(first != NULL, "%s: no configuration fits", s->name);
    free(want), free(got), free(first);
    problem_free(&p);
}

static void check_awkward(int count, int side_most, uint64_t *state)
{
    for (int i = 0; i < count; i++) {
        struct shape s = {"awkward",
                          random_int(state, 1, 3),
                          0,
                          0,
                          random_int(state, 0, 1),
                          random_int(state, 0, 1),
                          {0},
                          {0},
                          ACTIVATION_RELU,
                          ACTIVATION_RELU,
                          random_int(state, 0, 1) ? ACTIVATION_RELU6 : ACTIVATION_NONE};
        s.height = random_int(state, 4, side_most), s.width = 4 * random_int(state, 1, side_most / 4);
        s.stem = (enum activation)random_int(state, ACTIVATION_RELU, ACTIVATION_RELU6);
        s.depthwise = (enum activation)random_int(state, ACTIVATION_RELU, ACTIVATION_RELU6);
        for (int c = 0; c < 3; c++) s.mean[c] = 128 + 100 * noise(state), s.std[c] = 80 + 60 * noise(state);
        check(&s, state);
    }
}

static void check_refusals(void)
{
    const struct first_block_args good = {.n = 1,
                                          .height = 8,
                                          .width = 8,
                                          .out_height = 4,
                                          .out_width = 4,
                                          .stem_activation = ACTIVATION_RELU,
                                          .depthwise_activation = ACTIVATION_RELU6};
    struct first_block_args bad[8] = {good, good, good, good, good, good, good, good};
    bad[0].n = 0, bad[1].width = 10, bad[2].pad_left = 2, bad[3].height = 3, bad[4].out_height = 5,
    bad[5].out_height = 2, bad[6].stem_activation = ACTIVATION_NONE, bad[7].activation = ACTIVATION_GELU;
    expect(kernel_fits(&first_block_kernels, 0, &good), "refusals: a good shape is refused");
    for (int i = 0; i < 8; i++)
        expect(kernel_launch(&first_block_kernels, 0, &bad[i], 0) == cudaErrorInvalidValue,
               "refusals: bad shape %d runs", i);
    expect(kernel_launch(&first_block_kernels, kernel_count(&first_block_kernels), &good, 0) ==
               cudaErrorInvalidValue,
           "refusals: a configuration past the last runs");
    static const float zeros[MIDDLE * 27];
    float large[MIDDLE * 27] = {[5] = 1e6f};
    struct first_block_layers layers = {
        zeros, zeros, zeros, zeros, zeros, zeros, {0}, {1, 1, 1}, ACTIVATION_RELU6, ACTIVATION_RELU6, 0, 0};
    expect(first_block_weights_fit(&layers), "refusals: zeros are refused");
    layers.stem_weight = large;
    expect(!first_block_weights_fit(&layers), "refusals: a weight past fp16 is taken");
}

static void bench(int batch, uint64_t *state)
{
    struct shape s = NETWORKS[0];
    s.n = batch;
    struct problem p = problem_new(&s, state);
    const double bytes = (double)batch * (240.0 * 240 * 3 + 120.0 * 120 * OUT * 2);
    for (int config = 0; config < kernel_count(&first_block_kernels); config++) {
        char name[64];
        struct bench_context context = {&first_block_kernels, &p.args, config};
        snprintf(name, sizeof name, "batch %d, %s", batch, kernel_get(&first_block_kernels, config)->name);
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
    uint64_t state = random_seed("shapes and data", 20261121);
    for (int i = 2; timing && i < argc; i++) bench(atoi(argv[i]), &state);
    if (timing) return 0;
    for (int i = 0; i < NETWORK_COUNT && !small; i++) check(&NETWORKS[i], &state);
    check_awkward(small ? 3 : 40, small ? 24 : 150, &state);
    return finish();
}
