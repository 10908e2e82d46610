/* kernels/mbconv against its three layers one after the other in double: every configuration on the shapes of
 * both networks, then on seeded awkward ones; a NaN stays in its window; an image's bits are the same in any
 * batch. `--small`: few and small shapes, for compute-sanitizer. `--bench BATCH...`: times;
 * `--once BATCH...`: one launch each, for a profiler. */
#include "mbconv.h"
#include "small.h"

struct shape {
    const char *name;
    int n, side, in, hidden, out, kernel, stride, pad_before, pad_after;
    bool residual, two_parts;
    int height; /* 0: side */
};

static const struct shape NETWORKS[] = {
    {"lite1 block 1", 2, 120, 16, 96, 24, 3, 2, 0, 1, false, true, 0},
    {"lite1 block 2", 2, 60, 24, 144, 24, 3, 1, 1, 1, true, false, 0},
    {"lite1 block 4", 2, 60, 24, 144, 40, 5, 2, 1, 2, false, true, 0},
    {"lite1 block 5", 2, 30, 40, 240, 40, 5, 1, 2, 2, true, false, 0},
    {"lite1 block 7", 2, 30, 40, 240, 80, 3, 2, 0, 1, false, true, 0},
    {"lite1 block 8", 2, 15, 80, 480, 80, 3, 1, 1, 1, true, false, 0},
    {"lite1 block 11", 2, 15, 80, 480, 112, 5, 1, 2, 2, false, true, 0},
    {"lite1 block 12", 2, 15, 112, 672, 112, 5, 1, 2, 2, true, false, 0},
    {"lite1 block 15", 2, 15, 112, 672, 192, 5, 2, 2, 2, false, true, 0},
    {"lite1 block 16", 2, 8, 192, 1152, 192, 5, 1, 2, 2, true, false, 0},
    {"lite1 block 20", 2, 8, 192, 1152, 320, 3, 1, 1, 1, false, true, 0},
    {"b1-plain block 1", 2, 120, 16, 96, 24, 3, 2, 1, 1, false, true, 0},
    {"b1-plain block 2", 2, 60, 24, 144, 40, 5, 2, 2, 2, false, true, 0},
    {"b1-plain block 3", 2, 30, 40, 240, 80, 3, 2, 1, 1, false, true, 0},
};
enum { NETWORK_COUNT = sizeof NETWORKS / sizeof *NETWORKS };

struct problem {
    struct mbconv_args args; /* device pointers */
    struct mbconv_layers layers;
    float *weights; /* all of them */
    half *x;
    size_t x_count, y_count;
    struct guarded y;
};

static float through_half(float v)
{
    return half_to_float(half_from_float(v));
}

static size_t total_weights(const struct shape *s)
{
    const size_t in = (size_t)s->in, hidden = (size_t)s->hidden, out = (size_t)s->out;
    return hidden * (in + 1) + hidden * ((size_t)(s->kernel * s->kernel) + 1) + out * (hidden + 1);
}

/* Weights of such sizes that sums neither vanish nor all meet their clamps. */
static void fill_weights(struct problem *p, const struct shape *s, uint64_t *state)
{
    const size_t in = (size_t)s->in, hidden = (size_t)s->hidden, out = (size_t)s->out,
                 taps = (size_t)(s->kernel * s->kernel);
    float *next = p->weights = checked_malloc(total_weights(s) * sizeof *p->weights);
    const struct {
        const float **to;
        size_t count;
        float size;
        bool rounded;
    } parts[] = {
        {&p->layers.expand_weight, hidden * in, 4 / sqrtf((float)in), true},
        {&p->layers.expand_bias, hidden, 2, false},
        {&p->layers.depthwise_weight, hidden * taps, 2 / sqrtf((float)taps), false},
        {&p->layers.depthwise_bias, hidden, 1, false},
        {&p->layers.project_weight, out * hidden, 2 / sqrtf((float)hidden), !p->layers.two_parts},
        {&p->layers.project_bias, out, 1, false},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].to = next;
        for (size_t k = 0; k < parts[i].count; k++, next++) {
            *next = parts[i].size * noise(state);
            if (parts[i].rounded) *next = through_half(*next);
        }
    }
}

static struct problem problem_new(const struct shape *s, uint64_t *state)
{
    struct problem p = {0};
    const int height = s->height ? s->height : s->side, pads = s->pad_before + s->pad_after - s->kernel;
    const int out_height = (height + pads) / s->stride + 1, out_width = (s->side + pads) / s->stride + 1;
    p.x_count = (size_t)s->n * (size_t)height * (size_t)s->side * (size_t)s->in;
    p.y_count = (size_t)s->n * (size_t)out_height * (size_t)out_width * (size_t)s->out;
    p.x = checked_malloc(p.x_count * sizeof *p.x);
    for (size_t i = 0; i < p.x_count; i++) p.x[i] = half_from_float(2 * noise(state));
    p.layers.two_parts = s->two_parts;
    fill_weights(&p, s, state);
    p.layers.in_channels = s->in, p.layers.hidden = s->hidden, p.layers.out_channels = s->out;
    p.layers.kernel = s->kernel;
    const size_t bytes = mbconv_weight_bytes(&p.layers);
    void *packed = checked_malloc(bytes);
    mbconv_pack(&p.layers, packed);
    p.y = guarded_alloc(p.y_count * sizeof(half));
    p.args = (struct mbconv_args){
        .x = device_copy(p.x, p.x_count * sizeof *p.x),
        .weights = device_copy(packed, bytes),
        .y = p.y.data,
        .expand_activation = random_int(state, 0, 3) ? ACTIVATION_RELU6 : ACTIVATION_RELU,
        .depthwise_activation = random_int(state, 0, 3) ? ACTIVATION_RELU6 : ACTIVATION_RELU,
        .activation = random_int(state, 0, 3) ? ACTIVATION_NONE : ACTIVATION_RELU6,
        .n = s->n,
        .height = height,
        .width = s->side,
        .out_height = out_height,
        .out_width = out_width,
        .in_channels = s->in,
        .hidden = s->hidden,
        .out_channels = s->out,
        .kernel = s->kernel,
        .stride = s->stride,
        .pad_top = s->pad_before,
        .pad_left = s->pad_before,
        .residual = s->residual,
        .two_parts = p.layers.two_parts,
    };
    free(packed);
    return p;
}

static void problem_free(struct problem *p)
{
    CUDA_OK(cudaFree((void *)p->args.x));
    CUDA_OK(cudaFree((void *)p->args.weights));
    guarded_free(&p->y);
    free(p->x), free(p->weights);
}

/* [rows][from] to [rows][to]: weight [to][from]. */
static double *dense(const double *x, size_t rows, int from, int to, const float *weight, const float *bias)
{
    double *y = checked_malloc(rows * (size_t)to * sizeof *y);
    for (size_t r = 0; r < rows; r++)
        for (int o = 0; o < to; o++) {
            double sum = bias[o];
            const float *w = weight + (size_t)o * (size_t)from;
            for (int i = 0; i < from; i++) sum += x[r * (size_t)from + (size_t)i] * (double)w[i];
            y[r * (size_t)to + (size_t)o] = sum;
        }
    return y;
}

static void depthwise_pixel(const struct problem *p, const double *h, int oy, int ox, double *to)
{
    const struct mbconv_args *a = &p->args;
    for (int c = 0; c < a->hidden; c++) {
        double sum = p->layers.depthwise_bias[c];
        for (int ky = 0; ky < a->kernel; ky++)
            for (int kx = 0; kx < a->kernel; kx++) {
                const int y = oy * a->stride - a->pad_top + ky, x = ox * a->stride - a->pad_left + kx;
                if (y < 0 || y >= a->height || x < 0 || x >= a->width) continue;
                sum += h[((size_t)y * (size_t)a->width + (size_t)x) * (size_t)a->hidden + (size_t)c] *
                       (double)p->layers.depthwise_weight[(c * a->kernel + ky) * a->kernel + kx];
            }
        to[c] = activate_double(a->depthwise_activation, sum);
    }
}

static void reference_image(const struct problem *p, const half *x, double *y)
{
    const struct mbconv_args *a = &p->args;
    const size_t pixels = (size_t)a->height * (size_t)a->width, count = pixels * (size_t)a->in_channels,
                 out_pixels = (size_t)a->out_height * (size_t)a->out_width, hidden = (size_t)a->hidden;
    double *wide = checked_malloc(count * sizeof *wide), *d = checked_malloc(out_pixels * hidden * sizeof *d);
    for (size_t i = 0; i < count; i++) wide[i] = (double)half_to_float(x[i]);
    double *h = dense(wide, pixels, a->in_channels, a->hidden, p->layers.expand_weight,
                      p->layers.expand_bias);
    for (size_t i = 0; i < pixels * hidden; i++) h[i] = activate_double(a->expand_activation, h[i]);
    for (int oy = 0; oy < a->out_height; oy++)
        for (int ox = 0; ox < a->out_width; ox++)
            depthwise_pixel(p, h, oy, ox, d + ((size_t)oy * (size_t)a->out_width + (size_t)ox) * hidden);
    double *sums = dense(d, out_pixels, a->hidden, a->out_channels, p->layers.project_weight,
                         p->layers.project_bias);
    for (size_t i = 0; i < out_pixels * (size_t)a->out_channels; i++)
        y[i] = activate_double(a->activation, sums[i] + (a->residual ? wide[i] : 0));
    free(wide), free(d), free(h), free(sums);
}

static double *reference(const struct problem *p)
{
    const size_t image = p->y_count / (size_t)p->args.n;
    double *y = checked_malloc(p->y_count * sizeof *y);
    for (int n = 0; n < p->args.n; n++)
        reference_image(p, p->x + (size_t)n * (p->x_count / (size_t)p->args.n), y + (size_t)n * image);
    return y;
}

static void run(const struct problem *p, int config, half *got)
{
    CUDA_OK(kernel_launch(&mbconv_kernels, config, &p->args, 0));
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpy(got, p->y.data, p->y_count * sizeof *got, cudaMemcpyDeviceToHost));
}

/* An image alone, with the same bits. A kernel cuts it into other parts than those of many. */
static void check_alone(struct problem *p, const char *name, int config, const half *all, int which)
{
    const struct mbconv_args args = p->args;
    const size_t image = p->y_count / (size_t)args.n, before = (size_t)which * image;
    half *got = checked_malloc(p->y_count * sizeof *got);
    p->args.n = 1;
    p->args.x = (const half *)args.x + (size_t)which * (p->x_count / (size_t)args.n);
    guarded_poison(&p->y);
    run(p, config, got);
    expect(!memcmp(got, all + before, image * sizeof *got), "%s, %s: an image alone has other bits", name,
           kernel_get(&mbconv_kernels, config)->name);
    p->args = args;
    free(got);
}

/* Runs every configuration that fits. d and y are rounded once to fp16 each. Returns whether one did. */
static bool check(const struct shape *s, uint64_t *ran, uint64_t *state)
{
    struct problem p = problem_new(s, state);
    double *want = NULL, worst = 0;
    half *got = checked_malloc(p.y_count * sizeof *got), *first = NULL;
    for (int config = 0; config < kernel_count(&mbconv_kernels); config++) {
        const char *name = kernel_get(&mbconv_kernels, config)->name;
        if (!kernel_fits(&mbconv_kernels, config, &p.args)) continue;
        if (!want) want = reference(&p);
        guarded_poison(&p.y);
        run(&p, config, got);
        const struct comparison c = compare_half(got, want, p.y_count);
        if (c.relative_l2 > worst) worst = c.relative_l2;
        expect(!c.mismatched && c.relative_l2 <= 5e-4 && c.worst <= 4e-3,
               "%s, %s: relative L2 %.2e, worst %.2e at %zu: %g, not %g; %zu NaN or infinite", s->name, name,
               c.relative_l2, c.worst, c.worst_index, (double)half_to_float(got[c.worst_index]),
               want[c.worst_index], c.mismatched);
        expect(guarded_intact(&p.y), "%s, %s: wrote outside y", s->name, name);
        *ran |= 1ull << config;
        if (first)
            expect(!memcmp(first, got, p.y_count * sizeof *got), "%s: %s has other bits", s->name, name);
        else {
            first = checked_malloc(p.y_count * sizeof *first);
            memcpy(first, got, p.y_count * sizeof *first);
        }
        check_alone(&p, s->name, config, got, p.args.n - 1);
    }
    if (want)
        printf("%-16s %dx%dx%d, %d-%d-%d, %dx%d s%d pad %d %d%s: worst relative L2 %.1e\n", s->name, p.args.n,
               p.args.height, p.args.width, s->in, s->hidden, s->out, s->kernel, s->kernel, s->stride,
               s->pad_before, s->pad_after, s->residual ? ", residual" : "", worst);
    const bool fits = want != NULL;
    free(want), free(got), free(first);
    problem_free(&p);
    return fits;
}

/* So many images that blocks take whole columns of them: the bits of images alone, which `check` has
 * compared. */
static void check_many(const struct shape *like, uint64_t *state)
{
    struct shape s = *like;
    s.n = 280;
    struct problem p = problem_new(&s, state);
    half *got = checked_malloc(p.y_count * sizeof *got);
    for (int config = 0; config < kernel_count(&mbconv_kernels); config++) {
        if (!kernel_fits(&mbconv_kernels, config, &p.args)) continue;
        for (int repeat = 0; repeat < 3; repeat++) {
            guarded_poison(&p.y);
            run(&p, config, got);
            expect(guarded_intact(&p.y), "%s, many: wrote outside y", s.name);
            for (int which = 0; which < s.n; which += 93) check_alone(&p, s.name, config, got, which);
        }
    }
    free(got);
    problem_free(&p);
}

/* A NaN and an infinity in the first image: just the outputs whose windows hold them are NaN. */
static void check_nan(const struct shape *s, uint64_t *state)
{
    struct problem p = problem_new(s, state);
    const int places[][2] = {
        {0, 0}, {p.args.height / 2, p.args.width / 2}, {p.args.height - 1, p.args.width - 1}};
    for (int i = 0; i < 3; i++)
        p.x[((size_t)places[i][0] * (size_t)p.args.width + (size_t)places[i][1]) * (size_t)s->in +
            (size_t)random_int(state, 0, s->in - 1)] = half_from_float(i == 1 ? INFINITY : NAN);
    CUDA_OK(cudaMemcpy((void *)p.args.x, p.x, p.x_count * sizeof *p.x, cudaMemcpyHostToDevice));
    double *want = NULL;
    half *got = checked_malloc(p.y_count * sizeof *got);
    for (int config = 0; config < kernel_count(&mbconv_kernels); config++) {
        if (!kernel_fits(&mbconv_kernels, config, &p.args)) continue;
        if (!want) want = reference(&p);
        guarded_poison(&p.y);
        run(&p, config, got);
        const struct comparison c = compare_half(got, want, p.y_count);
        expect(!c.mismatched && c.relative_l2 <= 5e-4, "%s, %s, NaN: %zu NaN or infinite, relative L2 %.2e",
               s->name, kernel_get(&mbconv_kernels, config)->name, c.mismatched, c.relative_l2);
    }
    free(want), free(got);
    problem_free(&p);
}

static void check_awkward(int count, int side_most, uint64_t *ran, uint64_t *state)
{
    for (int done = 0, tries = 0; done < count && tries < 1000 * count; tries++) {
        const struct shape *like = &NETWORKS[random_int(state, 0, NETWORK_COUNT - 1)];
        struct shape s = *like;
        s.name = "awkward";
        s.n = random_int(state, 1, 3);
        s.side = random_int(state, 5, side_most), s.height = random_int(state, 1, side_most);
        s.hidden = 16 * random_int(state, 1, like->hidden / 16);
        s.in -= 8 * random_int(state, 0, 1) * (s.in > 16),
            s.out -= 8 * random_int(state, 0, 1) * (s.out > 16);
        s.pad_before = random_int(state, 0, s.kernel - 1), s.pad_after = random_int(state, 0, s.kernel - 1);
        if (random_int(state, 0, 1)) s.pad_before = like->pad_before, s.in = like->in, s.out = like->out;
        if (like->side <= 15 &&
            random_int(state, 0, 3)) { /* kernels for small maps take hardly any other side */
            s.side = like->side + random_int(state, 0, 1), s.height = like->side - random_int(state, 0, 1);
            s.n = random_int(state, 1, 5), s.pad_after = random_int(state, 0, like->pad_after);
        }
        s.residual = s.stride == 1 && s.in == s.out && s.pad_before + s.pad_after == s.kernel - 1;
        s.two_parts = !s.residual && random_int(state, 0, 3);
        if (s.side + s.pad_before + s.pad_after < s.kernel ||
            s.height + s.pad_before + s.pad_after < s.kernel)
            continue;
        done += check(&s, ran, state);
    }
}

static void check_refusals(void)
{
    const struct mbconv_args good = {.n = 1,
                                     .height = 60,
                                     .width = 60,
                                     .out_height = 60,
                                     .out_width = 60,
                                     .in_channels = 24,
                                     .hidden = 144,
                                     .out_channels = 24,
                                     .kernel = 3,
                                     .stride = 1,
                                     .pad_top = 1,
                                     .pad_left = 1,
                                     .residual = true,
                                     .expand_activation = ACTIVATION_RELU6,
                                     .depthwise_activation = ACTIVATION_RELU6};
    struct mbconv_args bad[10];
    for (int i = 0; i < 10; i++) bad[i] = good;
    bad[0].n = 0, bad[1].in_channels = 20, bad[2].hidden = 136, bad[3].out_channels = 28, bad[4].kernel = 4;
    bad[5].stride = 3, bad[6].pad_left = 3, bad[7].out_height = 59,
    bad[8].expand_activation = ACTIVATION_NONE;
    bad[9].activation = ACTIVATION_GELU;
    for (int config = 0; config < kernel_count(&mbconv_kernels); config++)
        for (int i = 0; i < 10; i++)
            expect(kernel_launch(&mbconv_kernels, config, &bad[i], 0) == cudaErrorInvalidValue,
                   "refusals: %s runs bad shape %d", kernel_get(&mbconv_kernels, config)->name, i);
}

static void bench(int batch, bool once, uint64_t *state)
{
    for (int i = 0; i < NETWORK_COUNT; i++) {
        struct shape s = NETWORKS[i];
        s.n = batch;
        struct problem p = problem_new(&s, state);
        for (int config = 0; config < kernel_count(&mbconv_kernels); config++) {
            char name[96];
            struct bench_context context = {&mbconv_kernels, &p.args, config};
            if (!kernel_fits(&mbconv_kernels, config, &p.args)) continue;
            if (once) {
                CUDA_OK(bench_launch(&context, 0));
                continue;
            }
            snprintf(name, sizeof name, "%d %s, %s", batch, s.name,
                     kernel_get(&mbconv_kernels, config)->name);
            bench_line(name, bench_launch, &context, 2.0 * (double)(p.x_count + p.y_count));
        }
        CUDA_OK(cudaDeviceSynchronize());
        problem_free(&p);
    }
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && !strcmp(argv[1], "--small"), once = argc > 1 && !strcmp(argv[1], "--once"),
               timing = once || (argc > 1 && !strcmp(argv[1], "--bench"));
    check_refusals();
    if (failed) return finish();
    gpu_require();
    uint64_t state = random_seed("shapes and data", 20261128), ran = 0;
    for (int i = 2; timing && i < argc; i++) bench(atoi(argv[i]), once, &state);
    if (timing) return 0;
    for (int i = 0; i < NETWORK_COUNT && !small; i++) {
        check(&NETWORKS[i], &ran, &state);
        check_many(&NETWORKS[i], &state);
        check_nan(&NETWORKS[i], &state);
    }
    check_awkward(small ? 6 : 60, small ? 36 : 70, &ran, &state);
    if (!small) failed += check_all_ran(&mbconv_kernels, ran, &passed);
    return finish();
}
