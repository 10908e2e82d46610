/* kernels/bias_act against the definition: the sum in fp32, activated, rounded to fp16; in place and not; and
 * its sums over channels.
 * `--small`: few and small shapes, for compute-sanitizer. `--bench [BATCH...]`: times instead. */
#include "bias_act.h"
#include "small.h"

struct problem {
    struct bias_act_args args; /* device pointers; y at `out` */
    half *x, *y;               /* y: what came out */
    float *bias;
    size_t count;
    struct guarded out;
};

static struct problem problem_new(int64_t rows, int channels, enum activation activation, uint64_t *state)
{
    struct problem p = {.count = (size_t)rows * (size_t)channels};
    p.x = checked_malloc(p.count * sizeof(half));
    p.y = checked_malloc(p.count * sizeof(half));
    p.bias = checked_malloc((size_t)channels * sizeof(float));
    for (size_t i = 0; i < p.count; i++) p.x[i] = half_from_float(6 * noise(state));
    for (int c = 0; c < channels; c++) p.bias[c] = 4 * noise(state);
    p.out = guarded_alloc(p.count * sizeof(half));
    p.args = (struct bias_act_args){.x = device_copy(p.x, p.count * sizeof(half)),
                                    .y = p.out.data,
                                    .bias = device_copy(p.bias, (size_t)channels * sizeof(float)),
                                    .rows = rows,
                                    .channels = channels,
                                    .activation = activation};
    return p;
}

static void problem_free(struct problem *p)
{
    CUDA_OK(cudaFree((void *)p->args.x));
    CUDA_OK(cudaFree((void *)p->args.bias));
    guarded_free(&p->out);
    free(p->x), free(p->y), free(p->bias);
}

static void run(struct problem *p, const struct bias_act_args *args)
{
    CUDA_OK(bias_act_launch(args, 0));
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpy(p->y, p->out.data, p->count * sizeof(half), cudaMemcpyDeviceToHost));
}

/* Where y first differs from the definition, or count. A clamp is exact; SiLU is within one rounding and its
 * own error. */
static size_t first_wrong(const struct problem *p)
{
    const struct bias_act_args *a = &p->args;
    for (size_t i = 0; i < p->count; i++) {
        const float v = half_to_float(p->x[i]) + p->bias[i % (size_t)a->channels];
        const double want = activate_double(a->activation, v), got = (double)half_to_float(p->y[i]);
        const half rounded = half_from_float((float)want);
        const double bound = 1.001 * half_rounding(want) + 0x1p-15 * fabs(want);
        const bool near = a->activation == ACTIVATION_SILU && fabs(got - want) <= bound;
        if (!near && first_difference(&p->y[i], &rounded, 1) == 0) return i;
    }
    return p->count;
}

static void check_y(const struct problem *p, const char *how)
{
    const size_t at = first_wrong(p);
    expect(at == p->count, "%lld x %d, activation %d%s: value %zu is %g", (long long)p->args.rows,
           p->args.channels, (int)p->args.activation, how, at, (double)half_to_float(p->y[at % p->count]));
    expect(guarded_intact(&p->out), "%lld x %d%s: written beyond the output", (long long)p->args.rows,
           p->args.channels, how);
}

static void check_problem(struct problem *p)
{
    const struct bias_act_args *a = &p->args;
    for (int in_place = 0; in_place <= 1; in_place++) {
        struct bias_act_args args = *a;
        guarded_poison(&p->out);
        if (in_place) {
            CUDA_OK(cudaMemcpy(args.y, a->x, p->count * sizeof(half), cudaMemcpyDeviceToDevice));
            args.x = args.y;
        }
        run(p, &args);
        check_y(p, in_place ? ", in place" : "");
    }
}

/* Whether `got` is a channel's sum over so many rows from `first` on, before they are rounded: to the
 * roundings of fp32 and SiLU's own error. (Roundings to fp16 would all lie the same way where x + bias does.)
 */
static bool channel_right(const struct problem *p, size_t first, size_t rows, size_t channel, double got)
{
    const size_t channels = (size_t)p->args.channels;
    double sum = 0, size = 0;
    for (size_t row = first; row < first + rows; row++) {
        const float v = half_to_float(p->x[row * channels + channel]) + p->bias[channel];
        const double value = activate_double(p->args.activation, v);
        sum += value, size += fabs(value);
    }
    return isnan(sum)   ? isnan(got)
           : isinf(sum) ? got == sum
                        : fabs(got - sum) <= (64 * 0x1p-24 + 0x1p-15) * size;
}

/* With sums, of so many images: y as before, the sums right, and those of the last image alone the same bits.
 */
static void check_sums(struct problem *p, int images)
{
    struct bias_act_args args = p->args;
    args.rows_per_image = (int)(args.rows / images);
    const int parts = bias_act_sum_parts(&args);
    const size_t channels = (size_t)args.channels, row = (size_t)parts * channels,
                 pixels = (size_t)args.rows_per_image, last = (size_t)images - 1;
    struct guarded out = guarded_alloc((size_t)images * row * sizeof(float));
    float *sums = checked_malloc(out.bytes), *alone = checked_malloc(row * sizeof *alone);
    guarded_poison(&p->out);
    args.sums = out.data;
    run(p, &args);
    check_y(p, ", with sums");
    CUDA_OK(cudaMemcpy(sums, out.data, out.bytes, cudaMemcpyDeviceToHost));
    int wrong = 0;
    for (size_t image = 0; image <= last; image++)
        for (size_t c = 0; c < channels; c++) {
            double sum = 0;
            for (int part = 0; part < parts; part++)
                sum += (double)sums[image * row + (size_t)part * channels + c];
            wrong += !channel_right(p, image * pixels, pixels, c, sum);
        }
    expect(!wrong, "%d x %zu x %zu, activation %d: %d sums wrong", images, pixels, channels,
           (int)args.activation, wrong);
    args.rows = args.rows_per_image, args.x = (const half *)args.x + last * pixels * channels;
    expect(bias_act_sum_parts(&args) == parts, "%zu x %zu: other parts for one image", pixels, channels);
    run(p, &args);
    CUDA_OK(cudaMemcpy(alone, out.data, row * sizeof *alone, cudaMemcpyDeviceToHost));
    expect(!memcmp(alone, sums + last * row, row * sizeof *alone), "%d x %zu x %zu: other sums alone", images,
           pixels, channels);
    expect(guarded_intact(&out), "%d x %zu x %zu: written beyond the sums", images, pixels, channels);
    guarded_free(&out);
    free(sums), free(alone);
}

static void check_images(int images, int pixels, int channels, uint64_t *state)
{
    struct problem p = problem_new((int64_t)images * pixels, channels,
                                   random_int(state, 0, 2) ? ACTIVATION_SILU : ACTIVATION_RELU6, state);
    check_sums(&p, images);
    problem_free(&p);
}

static void check(int64_t rows, int channels, uint64_t *state)
{
    struct problem p = problem_new(
        rows, channels, (enum activation)random_int(state, ACTIVATION_NONE, ACTIVATION_SILU), state);
    check_problem(&p);
    problem_free(&p);
}

static void check_special_values(uint64_t *state)
{
    struct problem p = problem_new(33, 24, ACTIVATION_RELU6, state);
    p.x[0] = p.x[25] = p.x[33 * 24 - 1] = half_from_float(NAN);
    p.x[50] = half_from_float(INFINITY), p.x[51] = half_from_float(-INFINITY),
    p.x[52] = half_from_float(65504), p.x[53] = half_from_float(-0.0);
    CUDA_OK(cudaMemcpy((void *)p.args.x, p.x, p.count * sizeof(half), cudaMemcpyHostToDevice));
    check_problem(&p);
    check_sums(&p, 3);
    p.args.activation = ACTIVATION_NONE;
    check_problem(&p);
    problem_free(&p);
}

static void check_refusals(void)
{
    static const struct bias_act_args wrong[] = {
        {.rows = 0, .channels = 8},
        {.rows = -1, .channels = 8},
        {.rows = 1, .channels = 0},
        {.rows = 1, .channels = 12},
        {.rows = 1, .channels = (1 << 20) + 8},
        {.rows = INT64_MAX, .channels = 8},
        {.rows = 1, .channels = 8, .activation = ACTIVATION_GELU},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect(bias_act_launch(&wrong[i], 0) == cudaErrorInvalidValue, "refusal %zu", i);
    struct bias_act_args torn = {.rows = 7, .channels = 8, .rows_per_image = 2};
    float sums;
    expect(!bias_act_sum_parts(&torn), "parts of an image that is not whole");
    torn.sums = &sums;
    expect(bias_act_launch(&torn, 0) == cudaErrorInvalidValue, "refusal of an image that is not whole");
}

static cudaError_t launch(void *context, cudaStream_t stream)
{
    return bias_act_launch(context, stream);
}

/* The stem's output; b1-plain's has the same shape. */
static void bench(int batch, uint64_t *state)
{
    char name[64];
    struct problem p = problem_new((int64_t)batch * 120 * 120, 32, ACTIVATION_RELU6, state);
    struct bias_act_args in_place = p.args;
    in_place.x = in_place.y;
    snprintf(name, sizeof name, "bias_act %d x 120 x 120 x 32, in place", batch);
    bench_line(name, launch, &in_place, 4.0 * (double)p.count);
    problem_free(&p);
}

int main(int argc, char **argv)
{
    static const int channels[] = {8, 16, 24, 40, 56, 96, 144, 1152, 1280, 2048, 2056, 4088};
    const bool small = argc > 1 && !strcmp(argv[1], "--small");
    gpu_require();
    uint64_t state = random_seed("shapes and data", 20260104);
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        for (int i = 2; i < argc; i++) bench(atoi(argv[i]), &state);
        return 0;
    }
    check_refusals();
    check_special_values(&state);
    for (size_t i = 0; i < sizeof channels / sizeof *channels; i++) {
        check(1, channels[i], &state);
        check(small ? 9 : 1000, channels[i], &state);
    }
    for (int i = 0; i < (small ? 5 : 60); i++)
        check(random_int(&state, 1, small ? 50 : 3000), 8 * random_int(&state, 1, small ? 40 : 200), &state);
    for (int i = 0; i < (small ? 4 : 20); i++)
        check_images(random_int(&state, 1, 3), random_int(&state, 1, small ? 40 : 1000),
                     8 * random_int(&state, 1, small ? 20 : 200), &state);
    if (!small) {
        check_images(2, 120 * 120, 32, &state);
        check_images(2, 8 * 8, 1152, &state);
        check(120 * 120, 32, &state);
        check(3 * 120 * 120, 32, &state);
        check(300001, 120, &state); /* more vectors than the threads take in one turn of their loop */
        check(2, 1 << 20, &state);
    }
    return finish();
}
