/* kernels/squeeze_excite against plain loops in double: every configuration on shapes of B0, B1 and B4, then
 * on seeded awkward ones. `--small`: few and small shapes, for compute-sanitizer. `--bench [BATCH...]`:
 * times. */
#include "small.h"
#include "squeeze_excite.h"

struct shape {
    int channels, reduced, parts, pixels;
};

static const struct shape LAYERS[] = {
    {32, 8, 90, 14400}, {16, 4, 57, 14400}, {96, 4, 38, 3600},  {144, 6, 90, 3600},  {240, 10, 30, 900},
    {480, 20, 8, 225},  {672, 28, 4, 225},  {1152, 48, 2, 64},  {1920, 80, 1, 64},   {48, 12, 128, 36100},
    {192, 8, 64, 9025}, {960, 40, 5, 576},  {1632, 68, 3, 144}, {2688, 112, 2, 144},
};
enum { LAYER_COUNT = sizeof LAYERS / sizeof *LAYERS };

struct problem {
    struct squeeze_excite_args args; /* device pointers; gate at `out` */
    float *sums, *reduce_bias, *expand_bias;
    half *reduce_w, *expand_w, *gate; /* gate: what came out */
    double *want;
    size_t sum_count, gate_count;
    struct guarded out;
};

static float *floats(size_t count, float middle, float spread, uint64_t *state)
{
    float *p = checked_malloc(count * sizeof *p);
    for (size_t i = 0; i < count; i++) p[i] = middle + spread * noise(state);
    return p;
}

static half *halves(size_t count, float spread, uint64_t *state)
{
    half *p = checked_malloc(count * sizeof *p);
    for (size_t i = 0; i < count; i++) p[i] = half_from_float(spread * noise(state));
    return p;
}

/* Means from -1 to 3, and weights that leave the gates' arguments at some units. */
static struct problem problem_new(int n, const struct shape *s, enum activation reduce,
                                  enum activation expand, uint64_t *state)
{
    const size_t channels = (size_t)s->channels, reduced = (size_t)s->reduced;
    const float part = (float)s->pixels / (float)s->parts;
    struct problem p = {.sum_count = (size_t)n * (size_t)s->parts * channels,
                        .gate_count = (size_t)n * channels};
    p.sums = floats(p.sum_count, part, 2 * part, state);
    p.reduce_w = halves(reduced * channels, 2 / sqrtf((float)channels), state);
    p.expand_w = halves(reduced * channels, 3 / sqrtf((float)reduced), state);
    p.reduce_bias = floats(reduced, 0, 1, state), p.expand_bias = floats(channels, 0, 1, state);
    p.gate = checked_malloc(p.gate_count * sizeof(half));
    p.want = checked_malloc(p.gate_count * sizeof *p.want);
    p.out = guarded_alloc(p.gate_count * sizeof(half));
    p.args = (struct squeeze_excite_args){
        .sums = device_copy(p.sums, p.sum_count * sizeof(float)),
        .reduce_w = device_copy(p.reduce_w, reduced * channels * sizeof(half)),
        .reduce_bias = device_copy(p.reduce_bias, reduced * sizeof(float)),
        .expand_w = device_copy(p.expand_w, reduced * channels * sizeof(half)),
        .expand_bias = device_copy(p.expand_bias, channels * sizeof(float)),
        .gate = p.out.data,
        .mean_factor = 1.0f / (float)s->pixels,
        .reduce_activation = reduce,
        .expand_activation = expand,
        .n = n,
        .parts = s->parts,
        .channels = s->channels,
        .reduced = s->reduced};
    return p;
}

static void problem_free(struct problem *p)
{
    CUDA_OK(cudaFree((void *)p->args.sums));
    CUDA_OK(cudaFree((void *)p->args.reduce_w));
    CUDA_OK(cudaFree((void *)p->args.reduce_bias));
    CUDA_OK(cudaFree((void *)p->args.expand_w));
    CUDA_OK(cudaFree((void *)p->args.expand_bias));
    guarded_free(&p->out);
    free(p->sums), free(p->reduce_bias), free(p->expand_bias), free(p->reduce_w), free(p->expand_w);
    free(p->gate), free(p->want);
}

static double activated(enum activation activation, double v)
{
    if (activation == ACTIVATION_SIGMOID) return 1 / (1 + exp(-v));
    if (activation != ACTIVATION_GELU && activation != ACTIVATION_GELU_RELU)
        return activate_double(activation, v);
    const double gelu = 0.5 * v * (1 + erf(v * sqrt(0.5)));
    return activation == ACTIVATION_GELU_RELU && gelu < 0 ? 0 : gelu;
}

static void reference(struct problem *p)
{
    const struct squeeze_excite_args *a = &p->args;
    const size_t channels = (size_t)a->channels, reduced = (size_t)a->reduced, parts = (size_t)a->parts;
    double *mean = checked_malloc(channels * sizeof *mean),
           *hidden = checked_malloc(reduced * sizeof *hidden);
    for (size_t n = 0; n < (size_t)a->n; n++) {
        for (size_t c = 0; c < channels; c++) {
            mean[c] = 0;
            for (size_t part = 0; part < parts; part++)
                mean[c] += (double)p->sums[(n * parts + part) * channels + c];
            mean[c] *= (double)a->mean_factor;
        }
        for (size_t r = 0; r < reduced; r++) {
            double sum = (double)p->reduce_bias[r];
            for (size_t c = 0; c < channels; c++)
                sum += mean[c] * (double)half_to_float(p->reduce_w[r * channels + c]);
            hidden[r] = activated(a->reduce_activation, sum);
        }
        for (size_t c = 0; c < channels; c++) {
            double sum = (double)p->expand_bias[c];
            for (size_t r = 0; r < reduced; r++)
                sum += hidden[r] * (double)half_to_float(p->expand_w[r * channels + c]);
            p->want[n * channels + c] = activated(a->expand_activation, sum);
        }
    }
    free(mean), free(hidden);
}

static void run(struct problem *p, int config, const struct squeeze_excite_args *args)
{
    CUDA_OK(kernel_launch(&squeeze_excite_kernels, config, args, 0));
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpy(p->gate, p->out.data, p->gate_count * sizeof(half), cudaMemcpyDeviceToHost));
}

/* Each image alone: the same bits. */
static bool same_alone(struct problem *p, int config)
{
    const struct squeeze_excite_args *a = &p->args;
    half *first = checked_malloc(p->gate_count * sizeof(half));
    memcpy(first, p->gate, p->gate_count * sizeof(half));
    guarded_poison(&p->out);
    for (int n = 0; n < a->n; n++) {
        struct squeeze_excite_args one = *a;
        one.n = 1;
        one.sums += (size_t)n * (size_t)a->parts * (size_t)a->channels;
        one.gate = (half *)one.gate + (size_t)n * (size_t)a->channels;
        run(p, config, &one);
    }
    const bool same = !memcmp(first, p->gate, p->gate_count * sizeof(half));
    free(first);
    return same;
}

static uint64_t ran; /* a bit for each configuration */

static void check_problem(struct problem *p)
{
    const struct squeeze_excite_args *a = &p->args;
    reference(p);
    for (int config = 0; config < kernel_count(&squeeze_excite_kernels); config++) {
        if (!kernel_fits(&squeeze_excite_kernels, config, a)) continue;
        guarded_poison(&p->out);
        run(p, config, a);
        ran |= UINT64_C(1) << config;
        const struct comparison c = compare_half(p->gate, p->want, p->gate_count);
        const bool intact = guarded_intact(&p->out), same = same_alone(p, config);
        expect(
            !c.mismatched && c.relative_l2 <= 5e-4 && c.worst <= 6e-4 && intact && same,
            "n %d, %d parts, %d channels, %d reduced, activations %d %d, %s: relative L2 %.2e, worst %.2e at "
            "%zu, %zu NaN or infinite out of place; guards %s; an image alone %s",
            a->n, a->parts, a->channels, a->reduced, (int)a->reduce_activation, (int)a->expand_activation,
            kernel_get(&squeeze_excite_kernels, config)->name, c.relative_l2, c.worst, c.worst_index,
            c.mismatched, intact ? "intact" : "overwritten", same ? "the same" : "differs");
    }
}

static void check(int n, const struct shape *s, enum activation reduce, enum activation expand,
                  uint64_t *state)
{
    struct problem p = problem_new(n, s, reduce, expand, state);
    check_problem(&p);
    problem_free(&p);
}

/* A NaN makes all of its image's gates one, and none of the others'. */
static void check_nan(uint64_t *state)
{
    const struct shape s = {72, 5, 3, 10};
    struct problem p = problem_new(9, &s, ACTIVATION_SILU, ACTIVATION_SIGMOID, state);
    p.sums[(4 * 3 + 1) * 72 + 70] = NAN;
    CUDA_OK(cudaMemcpy((void *)p.args.sums, p.sums, p.sum_count * sizeof(float), cudaMemcpyHostToDevice));
    check_problem(&p);
    problem_free(&p);
}

static void check_refusals(void)
{
    static const struct squeeze_excite_args good = {.n = 1, .parts = 1, .channels = 8, .reduced = 1};
    struct squeeze_excite_args bad[7] = {good, good, good, good, good, good, good};
    bad[0].n = 0, bad[1].parts = 0, bad[2].channels = 12, bad[3].channels = 4104, bad[4].reduced = 0,
    bad[5].reduced = 1025, bad[6].expand_activation = ACTIVATION_HARDSWISH;
    expect(kernel_fits(&squeeze_excite_kernels, 0, &good), "what is good fits");
    for (int i = 0; i < 7; i++)
        expect(kernel_launch(&squeeze_excite_kernels, 0, &bad[i], 0) == cudaErrorInvalidValue, "refusal %d",
               i);
}

static void bench(int batch, uint64_t *state)
{
    for (int l = 0; l < LAYER_COUNT; l++) {
        const struct shape *s = &LAYERS[l];
        struct problem p = problem_new(batch, s, ACTIVATION_SILU, ACTIVATION_SIGMOID, state);
        printf("%4d %3d parts %4d channels %3d reduced |", batch, s->parts, s->channels, s->reduced);
        for (int config = 0; config < kernel_count(&squeeze_excite_kernels); config++) {
            struct bench_context context = {&squeeze_excite_kernels, &p.args, config};
            if (kernel_fits(&squeeze_excite_kernels, config, &p.args))
                printf(" %.2f", graph_time_us(bench_launch, &context, 20, 9));
            else
                printf(" -");
        }
        printf("\n");
        problem_free(&p);
    }
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && !strcmp(argv[1], "--small");
    gpu_require();
    uint64_t state = random_seed("shapes and data", 20261127);
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        for (int i = 0; i < kernel_count(&squeeze_excite_kernels); i++)
            printf("%d: %s; ", i, kernel_get(&squeeze_excite_kernels, i)->name);
        printf("\n");
        for (int i = 2; i < argc; i++) bench(atoi(argv[i]), &state);
        return 0;
    }
    check_refusals();
    check_nan(&state);
    for (int l = 0; l < LAYER_COUNT && !small; l++)
        check(l % 2 ? 1 : 10, &LAYERS[l], ACTIVATION_SILU, ACTIVATION_SIGMOID, &state);
    for (int i = 0; i < (small ? 4 : 60); i++) {
        const struct shape s = {8 * random_int(&state, 1, small ? 30 : 200), random_int(&state, 1, 70),
                                random_int(&state, 1, 40), random_int(&state, 40, 4000)};
        check(random_int(&state, 1, small ? 3 : 20), &s,
              (enum activation)random_int(&state, 0, ACTIVATION_SIGMOID),
              (enum activation)random_int(&state, 0, ACTIVATION_SIGMOID), &state);
    }
    if (!small) check(2, &(struct shape){4096, 168, 2, 49}, ACTIVATION_RELU, ACTIVATION_SIGMOID, &state);
    int configurations = 0;
    const int missing = check_all_ran(&squeeze_excite_kernels, ran, &configurations);
    failed += missing, passed += configurations - missing;
    return finish();
}
