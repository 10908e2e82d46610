/* kernels/pool against plain loops in double. `--small`: few and small shapes, for compute-sanitizer.
 * `--bench [BATCH...]`: times instead. */
#include "pool.h"
#include "small.h"

struct problem {
    struct pool_args args; /* device pointers */
    half *x, *y;           /* y: what came out */
    size_t x_count, y_count;
    struct guarded out;
};

/* As behind a ReLU6: from 0 to 6, so that the sums grow. */
static struct problem problem_new(int n, int pixels, int channels, uint64_t *state)
{
    struct problem p = {.x_count = (size_t)n * (size_t)pixels * (size_t)channels,
                        .y_count = (size_t)n * (size_t)channels};
    p.x = checked_malloc(p.x_count * sizeof(half));
    p.y = checked_malloc(p.y_count * sizeof(half));
    for (size_t i = 0; i < p.x_count; i++) p.x[i] = half_from_float(3 + 3 * noise(state));
    p.out = guarded_alloc(p.y_count * sizeof(half));
    p.args = (struct pool_args){.x = device_copy(p.x, p.x_count * sizeof(half)),
                                .y = p.out.data,
                                .n = n,
                                .pixels = pixels,
                                .channels = channels};
    return p;
}

static void problem_free(struct problem *p)
{
    CUDA_OK(cudaFree((void *)p->args.x));
    guarded_free(&p->out);
    free(p->x), free(p->y);
}

static void run(struct problem *p)
{
    guarded_poison(&p->out);
    CUDA_OK(pool_launch(&p->args, 0));
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpy(p->y, p->out.data, p->y_count * sizeof(half), cudaMemcpyDeviceToHost));
}

/* The mean of image i, channel c; *size receives the mean of the magnitudes. */
static double mean(const struct problem *p, int i, int c, double *size)
{
    double sum = 0, magnitude = 0;
    for (int q = 0; q < p->args.pixels; q++) {
        const double x = (double)half_to_float(p->x[((size_t)i * p->args.pixels + q) * p->args.channels + c]);
        sum += x, magnitude += fabs(x);
    }
    *size = magnitude / p->args.pixels;
    return sum / p->args.pixels;
}

/* Within one rounding to fp16, and fp32 sums' own error. */
static void check_values(const struct problem *p, const char *name)
{
    const struct pool_args *a = &p->args;
    int wrong = 0;
    for (int i = 0; i < a->n; i++)
        for (int c = 0; c < a->channels; c++) {
            double size;
            const double want = mean(p, i, c, &size),
                         got = (double)half_to_float(p->y[(size_t)i * a->channels + c]);
            const double bound = 1.001 * half_rounding(want) + (a->pixels / 32 + 16) * 0x1p-24 * size;
            const bool good = isfinite(want) ? fabs(got - want) <= bound
                              : isnan(want)  ? isnan(got)
                                             : got == want;
            if (!good && wrong++ == 0)
                printf("%s: %d x %d x %d: image %d, channel %d: %.9g, not %.9g\n", name, a->n, a->pixels,
                       a->channels, i, c, got, want);
        }
    expect(!wrong, "%s: %d wrong values", name, wrong);
    expect(guarded_intact(&p->out), "%s: written beyond the output", name);
}

/* The same bits again, and from each image alone. */
static void check_bits(struct problem *p, const char *name)
{
    const size_t row = (size_t)p->args.channels;
    half *first = checked_malloc(p->y_count * sizeof(half));
    memcpy(first, p->y, p->y_count * sizeof(half));
    run(p);
    expect(!memcmp(first, p->y, p->y_count * sizeof(half)), "%s: other bits at the second run", name);
    for (int i = 0; i < p->args.n; i++) {
        struct pool_args one = p->args;
        one.n = 1;
        one.x = (const half *)one.x + (size_t)i * (size_t)one.pixels * row;
        one.y = (half *)one.y + (size_t)i * row;
        CUDA_OK(pool_launch(&one, 0));
    }
    CUDA_OK(cudaMemcpy(p->y, p->out.data, p->y_count * sizeof(half), cudaMemcpyDeviceToHost));
    expect(!memcmp(first, p->y, p->y_count * sizeof(half)), "%s: other bits for an image alone", name);
    free(first);
}

static void check(int n, int pixels, int channels, const char *name, uint64_t *state)
{
    struct problem p = problem_new(n, pixels, channels, state);
    run(&p);
    check_values(&p, name);
    check_bits(&p, name);
    problem_free(&p);
}

/* More images than a grid holds along y. */
static void check_many(int n, uint64_t *state)
{
    struct problem p = problem_new(n, 3, 72, state);
    run(&p);
    check_values(&p, "many images");
    problem_free(&p);
}

/* A NaN and infinities stay in their channels; sums beyond fp16's range do not overflow. */
static void check_special_values(uint64_t *state)
{
    struct problem p = problem_new(3, 70, 72, state);
    const size_t image = 70 * 72;
    p.x[image + 5 * 72 + 3] = half_from_float(NAN);
    p.x[image + 69 * 72 + 71] = half_from_float(INFINITY);
    p.x[2 * image + 33 * 72] = half_from_float(-INFINITY);
    for (int q = 0; q < 70; q++)
        p.x[q * 72 + 8] = half_from_float(65504), p.x[q * 72 + 9] = half_from_float(q % 2 ? 65504 : -65504);
    CUDA_OK(cudaMemcpy((void *)p.args.x, p.x, p.x_count * sizeof(half), cudaMemcpyHostToDevice));
    run(&p);
    check_values(&p, "special values");
    problem_free(&p);
}

static void check_refusals(void)
{
    static const struct pool_args wrong[] = {
        {.n = 0, .pixels = 1, .channels = 8},    {.n = 1, .pixels = 0, .channels = 8},
        {.n = 1, .pixels = 1, .channels = 0},    {.n = 1, .pixels = 1, .channels = 12},
        {.n = -1, .pixels = -1, .channels = -8},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect(pool_launch(&wrong[i], 0) == cudaErrorInvalidValue, "refusal %zu", i);
}

static cudaError_t launch(void *context, cudaStream_t stream)
{
    return pool_launch(context, stream);
}

static void bench(int batch, uint64_t *state)
{
    static const int sides[] = {8, 15};
    for (int i = 0; i < 2; i++) {
        char name[64];
        struct problem p = problem_new(batch, sides[i] * sides[i], 1280, state);
        snprintf(name, sizeof name, "pool %d x %d x %d x 1280", batch, sides[i], sides[i]);
        bench_line(name, launch, &p.args, 2.0 * (double)(p.x_count + p.y_count));
        problem_free(&p);
    }
}

int main(int argc, char **argv)
{
    static const int heads[][2] = {{64, 1280}, {49, 1280}, {225, 1280}, {100, 1792}};
    static const int edges[][2] = {{1, 8}, {31, 56}, {32, 64}, {33, 72}, {127, 120}, {129, 8}, {1000, 40}};
    const bool small = argc > 1 && !strcmp(argv[1], "--small");
    gpu_require();
    uint64_t state = random_seed("shapes and data", 20260102);
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        for (int i = 2; i < argc; i++) bench(atoi(argv[i]), &state);
        return 0;
    }
    check_refusals();
    for (size_t i = 0; !small && i < sizeof heads / sizeof *heads; i++)
        for (int n = 1; n <= 10; n += 9) check(n, heads[i][0], heads[i][1], "head", &state);
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
        check(3, edges[i][0], edges[i][1], "edge", &state);
    for (int n = 65535; !small && n <= 65537; n++) check_many(n, &state);
    check_special_values(&state);
    for (int i = 0; i < (small ? 5 : 60); i++)
        check(random_int(&state, 1, 5), random_int(&state, 1, small ? 80 : 500),
              8 * random_int(&state, 1, small ? 20 : 200), "random", &state);
    return finish();
}
