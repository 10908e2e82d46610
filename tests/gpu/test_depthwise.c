/* kernels/depthwise against plain loops in double: every configuration on every depthwise layer of lite1 and
 * b1-plain and on some of those with SiLU and sums, then on seeded awkward shapes. `--small`: few and small
 * shapes, for compute-sanitizer. `--bench`: times. */
#include "depthwise.h"
#include "gpu.h"

struct shape {
    const char *name;
    int side, channels, kernel, stride, pad_before, pad_after;
};

static const struct shape LAYERS[] = {
    {"lite1 0", 120, 32, 3, 1, 1, 1},    {"lite1 1", 120, 96, 3, 2, 0, 1},
    {"lite1 2", 60, 144, 3, 1, 1, 1},    {"lite1 4", 60, 144, 5, 2, 1, 2},
    {"lite1 5", 30, 240, 5, 1, 2, 2},    {"lite1 7", 30, 240, 3, 2, 0, 1},
    {"lite1 8", 15, 480, 3, 1, 1, 1},    {"lite1 11", 15, 480, 5, 1, 2, 2},
    {"lite1 12", 15, 672, 5, 1, 2, 2},   {"lite1 15", 15, 672, 5, 2, 2, 2},
    {"lite1 16", 8, 1152, 5, 1, 2, 2},   {"lite1 20", 8, 1152, 3, 1, 1, 1},
    {"b1-plain 1", 120, 96, 3, 2, 1, 1}, {"b1-plain 2", 60, 144, 3, 2, 1, 1},
    {"b1-plain 3", 30, 240, 3, 2, 1, 1}, {"b1-plain 5", 15, 672, 3, 2, 1, 1},
};
enum { LAYER_COUNT = sizeof LAYERS / sizeof *LAYERS };

/* With SiLU and sums; the last three are not timed. */
static const struct shape GATED_LAYERS[] = {
    {"b1 0", 120, 32, 3, 1, 1, 1},   {"b1 2", 120, 96, 3, 2, 0, 1},  {"b1 3", 60, 144, 3, 1, 1, 1},
    {"b1 5", 60, 144, 5, 2, 1, 2},   {"b1 6", 30, 240, 5, 1, 2, 2},  {"b1 8", 30, 240, 3, 2, 0, 1},
    {"b1 9", 15, 480, 3, 1, 1, 1},   {"b1 12", 15, 480, 5, 1, 2, 2}, {"b1 13", 15, 672, 5, 1, 2, 2},
    {"b1 16", 15, 672, 5, 2, 2, 2},  {"b1 17", 8, 1152, 5, 1, 2, 2}, {"b1 21", 8, 1152, 3, 1, 1, 1},
    {"b1 22", 8, 1920, 3, 1, 1, 1},  {"b0 15", 7, 1152, 3, 1, 1, 1}, {"b4 0", 190, 48, 3, 1, 1, 1},
    {"b4 31", 12, 2688, 3, 1, 1, 1},
};
enum { GATED_COUNT = sizeof GATED_LAYERS / sizeof *GATED_LAYERS, GATED_TIMED = GATED_COUNT - 3 };

struct problem {
    struct depthwise_args args; /* device pointers */
    half *x;
    float *w, *bias;
    struct guarded y;
    size_t x_count, y_count;
};

static float *noise_float(size_t count, float scale, uint64_t *state)
{
    float *p = checked_malloc(count * sizeof *p);
    for (size_t i = 0; i < count; i++) p[i] = scale * noise(state);
    return p;
}

static struct problem problem_new(int n, int height, int width, const struct shape *s,
                                  enum activation activation, uint64_t *state)
{
    struct problem p = {0};
    const int padded = s->pad_before + s->pad_after - s->kernel;
    const int out_height = (height + padded) / s->stride + 1, out_width = (width + padded) / s->stride + 1;
    const size_t taps = (size_t)s->kernel * (size_t)s->kernel, channels = (size_t)s->channels;
    p.x_count = (size_t)n * (size_t)height * (size_t)width * channels;
    p.y_count = (size_t)n * (size_t)out_height * (size_t)out_width * channels;
    p.x = checked_malloc(p.x_count * sizeof *p.x);
    for (size_t i = 0; i < p.x_count; i++) p.x[i] = half_from_float(3.0f + 3.0f * noise(state));
    p.w = noise_float(taps * channels, 1.0f, state);
    p.bias = noise_float(channels, 2.0f, state);
    p.y = guarded_alloc(p.y_count * sizeof(half));
    p.args = (struct depthwise_args){
        .x = device_copy(p.x, p.x_count * sizeof(half)),
        .w = device_copy(p.w, taps * channels * sizeof(float)),
        .bias = device_copy(p.bias, channels * sizeof(float)),
        .y = p.y.data,
        .activation = activation,
        .n = n,
        .channels = s->channels,
        .height = height,
        .width = width,
        .out_height = out_height,
        .out_width = out_width,
        .kernel = s->kernel,
        .stride = s->stride,
        .pad_top = s->pad_before,
        .pad_left = s->pad_before,
    };
    return p;
}

static void problem_free(struct problem *p)
{
    CUDA_OK(cudaFree((void *)p->args.x));
    CUDA_OK(cudaFree((void *)p->args.w));
    CUDA_OK(cudaFree((void *)p->args.bias));
    guarded_free(&p->y);
    free(p->x), free(p->w), free(p->bias);
}

static double reference_at(const struct problem *p, int n, int oy, int ox, int c)
{
    const struct depthwise_args *a = &p->args;
    double sum = p->bias[c];
    for (int ky = 0; ky < a->kernel; ky++)
        for (int kx = 0; kx < a->kernel; kx++) {
            const int iy = oy * a->stride - a->pad_top + ky, ix = ox * a->stride - a->pad_left + kx;
            if (iy < 0 || iy >= a->height || ix < 0 || ix >= a->width) continue;
            const size_t pixel = ((size_t)n * (size_t)a->height + (size_t)iy) * (size_t)a->width + (size_t)ix;
            sum += (double)half_to_float(p->x[pixel * (size_t)a->channels + (size_t)c]) *
                   (double)p->w[(ky * a->kernel + kx) * a->channels + c];
        }
    return activate_double(a->activation, sum);
}

static double *reference(const struct problem *p)
{
    const struct depthwise_args *a = &p->args;
    double *y = checked_malloc(p->y_count * sizeof *y), *out = y;
    for (int n = 0; n < a->n; n++)
        for (int oy = 0; oy < a->out_height; oy++)
            for (int ox = 0; ox < a->out_width; ox++)
                for (int c = 0; c < a->channels; c++) *out++ = reference_at(p, n, oy, ox, c);
    return y;
}

/* Launches with sums and gives them: [n][parts][channels]. y is poisoned before. */
static float *run_with_sums(const struct problem *p, const struct depthwise_args *args, int config, int parts,
                            bool *intact)
{
    const size_t count = (size_t)args->n * (size_t)parts * (size_t)args->channels;
    float *sums = checked_malloc(count * sizeof *sums);
    struct guarded out = guarded_alloc(count * sizeof *sums), y = p->y;
    struct depthwise_args with = *args;
    with.sums = out.data;
    guarded_poison(&y);
    CUDA_OK(kernel_launch(&depthwise_kernels, config, &with, 0));
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpy(sums, out.data, count * sizeof *sums, cudaMemcpyDeviceToHost));
    *intact = guarded_intact(&out);
    guarded_free(&out);
    return sums;
}

/* The sums of a configuration that gave `y` without them: right; the same y; the last image alone has the
 * same bits. Returns whether something failed. */
static bool check_sums(const char *name, const struct problem *p, const half *y, int config)
{
    struct depthwise_args args = p->args;
    const int parts = depthwise_sum_parts(config, &args);
    const char *label = kernel_get(&depthwise_kernels, config)->name;
    if (parts < 1) {
        printf("FAIL %s, %s: no sums\n", name, label);
        return true;
    }
    const size_t channels = (size_t)args.channels, row = (size_t)parts * channels,
                 pixels = (size_t)args.out_height * (size_t)args.out_width;
    half *again = checked_malloc(p->y_count * sizeof *again);
    bool intact, alone_intact;
    float *sums = run_with_sums(p, &args, config, parts, &intact);
    CUDA_OK(cudaMemcpy(again, p->y.data, p->y_count * sizeof *again, cudaMemcpyDeviceToHost));
    const bool same = !memcmp(y, again, p->y_count * sizeof *again);
    int wrong = 0;
    for (int n = 0; n < args.n; n++)
        for (int c = 0; c < args.channels; c++) {
            double sum = 0;
            for (int part = 0; part < parts; part++)
                sum += (double)sums[((size_t)n * (size_t)parts + (size_t)part) * channels + (size_t)c];
            wrong += !sum_right(y + (size_t)n * pixels * channels + c, pixels, channels, sum);
        }
    const int last = args.n - 1;
    args.planned_n = args.planned_n ? args.planned_n : args.n, args.n = 1;
    args.x = (const half *)args.x + (size_t)last * (p->x_count / (size_t)p->args.n);
    float *alone = run_with_sums(p, &args, config, parts, &alone_intact);
    const bool same_alone = depthwise_sum_parts(config, &args) == parts &&
                            !memcmp(alone, sums + (size_t)last * row, row * sizeof *sums);
    const bool failed = wrong || !same || !same_alone || !intact || !alone_intact;
    if (failed)
        printf("FAIL %s, %s: %d of %zu sums wrong; y %s; sums alone %s; guards %s\n", name, label, wrong,
               (size_t)p->args.n * channels, same ? "the same" : "differs",
               same_alone ? "the same" : "differ", intact && alone_intact ? "intact" : "overwritten");
    free(again), free(sums), free(alone);
    return failed;
}

/* Runs every configuration that fits, of which there must be one; returns how many failed. */
static int check(const char *name, const struct problem *p, int *runs)
{
    double *want = reference(p), worst = 0;
    half *got = checked_malloc(p->y_count * sizeof *got), *first = NULL;
    struct guarded y = p->y;
    int failures = 0;
    for (int config = 0; config < kernel_count(&depthwise_kernels); config++) {
        if (!kernel_fits(&depthwise_kernels, config, &p->args)) continue;
        guarded_poison(&y);
        CUDA_OK(kernel_launch(&depthwise_kernels, config, &p->args, 0));
        CUDA_OK(cudaDeviceSynchronize());
        CUDA_OK(cudaMemcpy(got, y.data, p->y_count * sizeof *got, cudaMemcpyDeviceToHost));
        const struct comparison c = compare_half(got, want, p->y_count);
        const bool intact = guarded_intact(&y);
        bool same = true; /* all configurations promise the same bits */
        if (first)
            same = !memcmp(first, got, p->y_count * sizeof *got);
        else {
            first = checked_malloc(p->y_count * sizeof *first);
            memcpy(first, got, p->y_count * sizeof *first);
        }
        (*runs)++;
        if (c.relative_l2 > worst) worst = c.relative_l2;
        if (c.mismatched || !intact || !same || !(c.relative_l2 <= 4e-4) || !(c.worst <= 1e-3)) {
            failures++;
            printf("FAIL %s, %s: relative L2 %.2e, worst %.2e at %zu: %g, not %g; %zu NaN or infinite out of "
                   "place; "
                   "guards %s; bits %s\n",
                   name, kernel_get(&depthwise_kernels, config)->name, c.relative_l2, c.worst, c.worst_index,
                   (double)half_to_float(got[c.worst_index]), want[c.worst_index], c.mismatched,
                   intact ? "intact" : "overwritten",
                   same ? "the same" : "differ from the first configuration's");
        }
        if (p->args.activation == ACTIVATION_SILU) (*runs)++, failures += check_sums(name, p, got, config);
    }
    printf("%-16s n %d %dx%dx%d k%d s%d worst relative L2 %.1e\n", name, p->args.n, p->args.height,
           p->args.width, p->args.channels, p->args.kernel, p->args.stride, worst);
    if (!first) {
        failures++, (*runs)++;
        printf("FAIL %s: no configuration computes it\n", name);
    }
    free(want), free(got), free(first);
    return failures;
}

/* A NaN must reach exactly the outputs whose windows hold it, also through a clamp. */
static int check_special_values(uint64_t *state, int *runs)
{
    const struct shape s = {"NaN, infinity", 9, 16, 3, 1, 1, 1};
    struct problem p = problem_new(2, 9, 9, &s, ACTIVATION_RELU6, state);
    p.x[(4 * 9 + 4) * 16 + 3] = half_from_float(NAN);
    p.x[(81 + 2 * 9 + 7) * 16 + 9] = half_from_float(INFINITY);
    CUDA_OK(cudaMemcpy((void *)p.args.x, p.x, p.x_count * sizeof(half), cudaMemcpyHostToDevice));
    int failures = check(s.name, &p, runs);
    /* SiLU of -infinity is not promised, so infinity is multiplied by positive weights */
    for (int t = 0; t < 9; t++) p.w[t * 16 + 9] = fabsf(p.w[t * 16 + 9]) + 0.1f;
    CUDA_OK(cudaMemcpy((void *)p.args.w, p.w, 9 * 16 * sizeof(float), cudaMemcpyHostToDevice));
    p.args.activation = ACTIVATION_SILU;
    failures += check(s.name, &p, runs);
    problem_free(&p);
    return failures;
}

static int check_awkward(int count, uint64_t *state, int *runs)
{
    int failures = 0;
    for (int i = 0; i < count; i++) {
        struct shape s = {"awkward",
                          0,
                          8 * random_int(state, 1, 20),
                          random_int(state, 0, 1) ? 5 : 3,
                          random_int(state, 1, 2),
                          0,
                          0};
        s.pad_before = random_int(state, 0, s.kernel - 1), s.pad_after = random_int(state, 0, s.kernel - 1);
        const int least = s.kernel > s.pad_before + s.pad_after ? s.kernel - s.pad_before - s.pad_after : 1;
        const int height = random_int(state, least, least + 17), width = random_int(state, least, least + 17);
        struct problem p = problem_new(random_int(state, 1, 3), height, width, &s,
                                       (enum activation)random_int(state, ACTIVATION_NONE, ACTIVATION_SILU),
                                       state);
        static const int planned[] = {0, 3, 30, 300};
        p.args.planned_n = planned[random_int(state, 0, 3)];
        failures += check(s.name, &p, runs);
        problem_free(&p);
    }
    return failures;
}

static int check_refusals(void)
{
    const struct depthwise_args good = {.n = 1,
                                        .channels = 8,
                                        .height = 4,
                                        .width = 4,
                                        .out_height = 4,
                                        .out_width = 4,
                                        .kernel = 3,
                                        .stride = 1,
                                        .pad_top = 1,
                                        .pad_left = 1};
    static float sums;
    struct depthwise_args bad[7] = {good, good, good, good, good, good, good};
    int failures = !kernel_fits(&depthwise_kernels, 0, &good);
    bad[0].kernel = 4, bad[1].stride = 3, bad[2].channels = 12, bad[3].n = 0,
    bad[4].activation = ACTIVATION_GELU, bad[5].sums = &sums, bad[6].planned_n = -1;
    for (int i = 0; i < 7; i++)
        failures += kernel_launch(&depthwise_kernels, 0, &bad[i], 0) != cudaErrorInvalidValue;
    failures += kernel_launch(&depthwise_kernels, kernel_count(&depthwise_kernels), &good, 0) !=
                cudaErrorInvalidValue;
    if (failures) printf("FAIL refusals: %d wrong answers\n", failures);
    return failures;
}

/* A layer's configurations, and the best one's share of a 4.27 TB/s copy; returns its time. */
static double bench_layer(const struct shape *s, int batch, enum activation activation, uint64_t *state)
{
    struct problem p = problem_new(batch, s->side, s->side, s, activation, state);
    const double floor_us = 2.0 * (double)(p.x_count + p.y_count) / 4.27e6;
    double best = INFINITY;
    printf("%4d %-11s %4d %4d k%d s%d floor %7.2f |", batch, s->name, s->side, s->channels, s->kernel,
           s->stride, floor_us);
    for (int config = 0; config < kernel_count(&depthwise_kernels); config++) {
        struct depthwise_args args = p.args;
        const int parts = depthwise_sum_parts(config, &args);
        if (parts)
            CUDA_OK(cudaMalloc((void **)&args.sums,
                               sizeof(float) * (size_t)batch * (size_t)parts * (size_t)args.channels));
        struct bench_context context = {&depthwise_kernels, &args, config};
        const double us = graph_time_us(bench_launch, &context, batch > 16 ? 2 : 20, 5);
        printf(parts ? " %.2f(%d)" : " %.2f", us, parts);
        if (us < best) best = us;
        CUDA_OK(cudaFree(args.sums));
    }
    printf(" | %3.0f%%\n", 100 * floor_us / best);
    problem_free(&p);
    return best;
}

/* The layers with ReLU6; those with sums, with the number of parts in brackets, and for comparison with ReLU6
 * and without sums. */
static void bench(int batch, uint64_t *state)
{
    double total = 0, gated = 0, plain = 0;
    for (int l = 0; l < LAYER_COUNT; l++) total += bench_layer(&LAYERS[l], batch, ACTIVATION_RELU6, state);
    for (int l = 0; l < GATED_TIMED; l++) {
        gated += bench_layer(&GATED_LAYERS[l], batch, ACTIVATION_SILU, state);
        plain += bench_layer(&GATED_LAYERS[l], batch, ACTIVATION_RELU6, state);
    }
    printf("%4d sum %.1f us; SiLU and sums %.1f us, the same with ReLU6 and without sums %.1f us\n", batch,
           total, gated, plain);
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && !strcmp(argv[1], "--small"),
               timing = argc > 1 && !strcmp(argv[1], "--bench");
    int failures = check_refusals(), runs = 1;
    if (failures) return 1;
    gpu_require();
    uint64_t state = random_seed("shapes and data", 20260301);
    if (timing) {
        for (int i = 0; i < kernel_count(&depthwise_kernels); i++)
            printf("%d: %s; ", i, kernel_get(&depthwise_kernels, i)->name);
        printf("\n");
        for (int i = 2; i < argc; i++) bench(atoi(argv[i]), &state);
        return 0;
    }
    for (int l = 0; l < LAYER_COUNT && !small; l++) {
        struct problem p = problem_new(2, LAYERS[l].side, LAYERS[l].side, &LAYERS[l], ACTIVATION_RELU6,
                                       &state);
        failures += check(LAYERS[l].name, &p, &runs);
        problem_free(&p);
    }
    for (int l = 0; l < GATED_COUNT && !small; l++) {
        struct problem p = problem_new(2, GATED_LAYERS[l].side, GATED_LAYERS[l].side, &GATED_LAYERS[l],
                                       ACTIVATION_SILU, &state);
        p.args.planned_n = l % 3 == 0 ? 0 : l % 3 == 1 ? 10 : 256;
        failures += check(GATED_LAYERS[l].name, &p, &runs);
        problem_free(&p);
    }
    failures += check_special_values(&state, &runs);
    failures += check_awkward(small ? 6 : 60, &state, &runs);
    printf("%d passed, %d failed\n", runs - failures, failures);
    return failures != 0;
}
