/* kernels/expand_depthwise against the two layers one after the other in double: every configuration on the
 * layers of lite1, b1-plain and b1 whose maps are small, then on seeded awkward shapes. `--small`: few and
 * small shapes, for compute-sanitizer. `--bench BATCH...`: times, beside those of the two layers' own
 * kernels.
 * `--bench-all BATCH...`: every configuration's. */
#include "depthwise.h"
#include "expand_depthwise.h"
#include "pointwise.h"
#include "small.h"

struct shape {
    const char *name;
    int side, in_channels, channels, kernel, stride, pad_before, pad_after;
};

static const struct shape LAYERS[] = {
    {"lite1 1", 120, 16, 96, 3, 2, 0, 1},    {"lite1 2", 60, 24, 144, 3, 1, 1, 1},
    {"lite1 4", 60, 24, 144, 5, 2, 1, 2},    {"lite1 5", 30, 40, 240, 5, 1, 2, 2},
    {"lite1 7", 30, 40, 240, 3, 2, 0, 1},    {"lite1 8", 15, 80, 480, 3, 1, 1, 1},
    {"lite1 11", 15, 80, 480, 5, 1, 2, 2},   {"lite1 12", 15, 112, 672, 5, 1, 2, 2},
    {"lite1 15", 15, 112, 672, 5, 2, 2, 2},  {"lite1 16", 8, 192, 1152, 5, 1, 2, 2},
    {"lite1 20", 8, 192, 1152, 3, 1, 1, 1},  {"b1-plain 2", 60, 24, 144, 3, 2, 1, 1},
    {"b1-plain 3", 30, 40, 240, 3, 2, 1, 1}, {"b1-plain 5", 15, 112, 672, 3, 2, 1, 1},
};
enum { LAYER_COUNT = sizeof LAYERS / sizeof *LAYERS };

/* With SiLU and sums. */
static const struct shape GATED_LAYERS[] = {
    {"b1 6", 30, 40, 240, 5, 1, 2, 2},   {"b1 8", 30, 40, 240, 3, 2, 0, 1},
    {"b1 9", 15, 80, 480, 3, 1, 1, 1},   {"b1 12", 15, 80, 480, 5, 1, 2, 2},
    {"b1 13", 15, 112, 672, 5, 1, 2, 2}, {"b1 16", 15, 112, 672, 5, 2, 2, 2},
    {"b1 17", 8, 192, 1152, 5, 1, 2, 2}, {"b1 21", 8, 192, 1152, 3, 1, 1, 1},
    {"b1 22", 8, 320, 1920, 3, 1, 1, 1},
};
enum { GATED_COUNT = sizeof GATED_LAYERS / sizeof *GATED_LAYERS };

static uint64_t configs_run; /* a bit each */

struct problem {
    struct expand_depthwise_args args; /* device pointers */
    half *x, *w;
    float *bias, *depthwise_w, *depthwise_bias; /* depthwise_w: [channels][kernel][kernel] */
    struct guarded y;
    size_t x_count, y_count;
};

static float *noise_float(size_t count, float scale, uint64_t *state)
{
    float *p = checked_malloc(count * sizeof *p);
    for (size_t i = 0; i < count; i++) p[i] = scale * noise(state);
    return p;
}

static half *noise_half(size_t count, float scale, uint64_t *state)
{
    half *p = checked_malloc(count * sizeof *p);
    for (size_t i = 0; i < count; i++) p[i] = half_from_float(scale * noise(state));
    return p;
}

/* The weights on the device; to be called again when they have changed on the host. */
static void upload_weights(struct problem *p)
{
    struct expand_depthwise_args *a = &p->args;
    const size_t channels = (size_t)a->channels,
                 bytes = expand_depthwise_packed_bytes(a->channels, a->kernel);
    void *packed = checked_malloc(bytes);
    expand_depthwise_pack(p->depthwise_w, a->channels, a->kernel, packed);
    CUDA_OK(cudaFree((void *)a->w));
    CUDA_OK(cudaFree((void *)a->bias));
    CUDA_OK(cudaFree((void *)a->depthwise_w));
    CUDA_OK(cudaFree((void *)a->depthwise_bias));
    a->w = device_copy(p->w, channels * (size_t)a->in_channels * sizeof(half));
    a->bias = device_copy(p->bias, channels * sizeof(float));
    a->depthwise_w = device_copy(packed, bytes);
    a->depthwise_bias = device_copy(p->depthwise_bias, channels * sizeof(float));
    free(packed);
}

/* Values such that h and y are spread around a clamp's bounds. */
static struct problem problem_new(int n, int height, int width, const struct shape *s,
                                  enum activation activation, enum activation depthwise_activation,
                                  uint64_t *state)
{
    struct problem p = {0};
    const int padded = s->pad_before + s->pad_after - s->kernel;
    const int out_height = (height + padded) / s->stride + 1, out_width = (width + padded) / s->stride + 1;
    const size_t channels = (size_t)s->channels, taps = (size_t)s->kernel * (size_t)s->kernel;
    const float w_scale = 4 / sqrtf((float)s->in_channels), taps_scale = 3 / (float)s->kernel;
    p.x_count = (size_t)n * (size_t)height * (size_t)width * (size_t)s->in_channels;
    p.y_count = (size_t)n * (size_t)out_height * (size_t)out_width * channels;
    p.x = noise_half(p.x_count, 2.0f, state);
    p.w = noise_half(channels * (size_t)s->in_channels, w_scale, state);
    p.bias = noise_float(channels, 3.0f, state);
    p.depthwise_w = noise_float(channels * taps, taps_scale, state);
    p.depthwise_bias = noise_float(channels, 3.0f, state);
    p.y = guarded_alloc(p.y_count * sizeof(half));
    p.args = (struct expand_depthwise_args){
        .x = device_copy(p.x, p.x_count * sizeof(half)),
        .y = p.y.data,
        .activation = activation,
        .depthwise_activation = depthwise_activation,
        .n = n,
        .in_channels = s->in_channels,
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
    upload_weights(&p);
    return p;
}

static void problem_free(struct problem *p)
{
    CUDA_OK(cudaFree((void *)p->args.x));
    CUDA_OK(cudaFree((void *)p->args.w));
    CUDA_OK(cudaFree((void *)p->args.bias));
    CUDA_OK(cudaFree((void *)p->args.depthwise_w));
    CUDA_OK(cudaFree((void *)p->args.depthwise_bias));
    guarded_free(&p->y);
    free(p->x), free(p->w), free(p->bias), free(p->depthwise_w), free(p->depthwise_bias);
}

/* ---------------------------------------------------------------- reference */

/* h of one image, [height][width][channels]. */
static double *reference_expand(const struct problem *p, int n)
{
    const struct expand_depthwise_args *a = &p->args;
    const size_t pixels = (size_t)a->height * (size_t)a->width, in_channels = (size_t)a->in_channels,
                 channels = (size_t)a->channels;
    double *h = checked_malloc(pixels * channels * sizeof *h);
    double *w = checked_malloc(channels * in_channels * sizeof *w),
           *x = checked_malloc(in_channels * sizeof *x);
    for (size_t i = 0; i < channels * in_channels; i++) w[i] = (double)half_to_float(p->w[i]);
    for (size_t i = 0; i < pixels; i++) {
        const half *from = p->x + ((size_t)n * pixels + i) * in_channels;
        for (size_t k = 0; k < in_channels; k++) x[k] = (double)half_to_float(from[k]);
        for (size_t c = 0; c < channels; c++) {
            double sum = (double)p->bias[c];
            for (size_t k = 0; k < in_channels; k++) sum += x[k] * w[c * in_channels + k];
            h[i * channels + c] = activate_double(a->activation, sum);
        }
    }
    free(w), free(x);
    return h;
}

static double depthwise_at(const struct problem *p, const double *h, int oy, int ox, int c)
{
    const struct expand_depthwise_args *a = &p->args;
    double sum = (double)p->depthwise_bias[c];
    for (int ky = 0; ky < a->kernel; ky++)
        for (int kx = 0; kx < a->kernel; kx++) {
            const int iy = oy * a->stride - a->pad_top + ky, ix = ox * a->stride - a->pad_left + kx;
            if (iy < 0 || iy >= a->height || ix < 0 || ix >= a->width) continue;
            const size_t pixel = (size_t)iy * (size_t)a->width + (size_t)ix;
            sum += h[pixel * (size_t)a->channels + (size_t)c] *
                   (double)p->depthwise_w[(c * a->kernel + ky) * a->kernel + kx];
        }
    return activate_double(a->depthwise_activation, sum);
}

static double *reference(const struct problem *p)
{
    const struct expand_depthwise_args *a = &p->args;
    double *y = checked_malloc(p->y_count * sizeof *y), *out = y;
    for (int n = 0; n < a->n; n++) {
        double *h = reference_expand(p, n);
        for (int oy = 0; oy < a->out_height; oy++)
            for (int ox = 0; ox < a->out_width; ox++)
                for (int c = 0; c < a->channels; c++) *out++ = depthwise_at(p, h, oy, ox, c);
        free(h);
    }
    return y;
}

/* ---------------------------------------------------------------- one configuration */

static const char *config_name(int config)
{
    return kernel_get(&expand_depthwise_kernels, config)->name;
}

/* Runs a configuration into poisoned memory and gives y. */
static void run(const struct problem *p, const struct expand_depthwise_args *args, int config, half *y)
{
    struct guarded out = p->y;
    guarded_poison(&out);
    CUDA_OK(kernel_launch(&expand_depthwise_kernels, config, args, 0));
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpy(y, args->y, p->y_count * sizeof *y, cudaMemcpyDeviceToHost));
}

/* The same bits on another run, and of the last image alone. */
static void check_bits(const char *name, const struct problem *p, int config, const half *y)
{
    const size_t image = p->y_count / (size_t)p->args.n, last = (size_t)p->args.n - 1;
    half *again = checked_malloc(p->y_count * sizeof *again);
    struct expand_depthwise_args args = p->args;
    run(p, &args, config, again);
    expect(!memcmp(again, y, p->y_count * sizeof *y), "%s, %s: another run gives other bits", name,
           config_name(config));
    args.n = 1;
    args.x = (const half *)args.x + last * (p->x_count / (size_t)p->args.n);
    run(p, &args, config, again);
    expect(!memcmp(again, y + last * image, image * sizeof *y), "%s, %s: an image alone has other bits", name,
           config_name(config));
    free(again);
}

/* The sums of a configuration that gave `y` without them: right; the same y; the last image alone has the
 * same bits. */
static void check_sums(const char *name, const struct problem *p, int config, const half *y)
{
    struct expand_depthwise_args args = p->args;
    const int parts = expand_depthwise_sum_parts(config, &args);
    expect(parts >= 1, "%s, %s: no sums", name, config_name(config));
    if (parts < 1) return;
    const size_t channels = (size_t)args.channels, row = (size_t)parts * channels, last = (size_t)args.n - 1,
                 pixels = (size_t)args.out_height * (size_t)args.out_width, count = (size_t)args.n * row;
    float *sums = checked_malloc(count * sizeof *sums), *alone = checked_malloc(row * sizeof *alone);
    half *again = checked_malloc(p->y_count * sizeof *again);
    struct guarded out = guarded_alloc(count * sizeof *sums);
    args.sums = out.data;
    run(p, &args, config, again);
    CUDA_OK(cudaMemcpy(sums, out.data, count * sizeof *sums, cudaMemcpyDeviceToHost));
    expect(guarded_intact(&out) && !memcmp(again, y, p->y_count * sizeof *y),
           "%s, %s: with sums y differs, or wrote outside", name, config_name(config));
    size_t wrong = 0;
    for (size_t n = 0; n <= last; n++)
        for (size_t c = 0; c < channels; c++) {
            double sum = 0;
            for (size_t part = 0; part < (size_t)parts; part++)
                sum += (double)sums[n * row + part * channels + c];
            wrong += !sum_right(y + n * pixels * channels + c, pixels, channels, sum);
        }
    expect(wrong == 0, "%s, %s: %zu sums wrong", name, config_name(config), wrong);
    args.n = 1;
    args.x = (const half *)args.x + last * (p->x_count / (size_t)p->args.n);
    guarded_poison(&out);
    run(p, &args, config, again);
    CUDA_OK(cudaMemcpy(alone, out.data, row * sizeof *alone, cudaMemcpyDeviceToHost));
    expect(!memcmp(alone, sums + last * row, row * sizeof *alone), "%s, %s: sums of an image alone differ",
           name, config_name(config));
    guarded_free(&out);
    free(sums), free(alone), free(again);
}

/* Runs every configuration that fits, of which there must be one. h and y are rounded to fp16, y's sums of
 * rounded h's being of about the size of their terms: a relative L2 of about 4e-4. */
static void check(const char *name, const struct problem *p)
{
    double *want = reference(p), worst_l2 = 0, worst = 0;
    half *got = checked_malloc(p->y_count * sizeof *got), *first = NULL;
    for (int config = 0; config < kernel_count(&expand_depthwise_kernels); config++) {
        if (!kernel_fits(&expand_depthwise_kernels, config, &p->args)) continue;
        configs_run |= UINT64_C(1) << config;
        run(p, &p->args, config, got);
        const struct comparison c = compare_half(got, want, p->y_count);
        if (c.relative_l2 > worst_l2) worst_l2 = c.relative_l2;
        if (c.worst > worst) worst = c.worst;
        expect(!c.mismatched && c.relative_l2 <= 6e-4 && c.worst <= 4e-3 && guarded_intact(&p->y),
               "%s, %s: relative L2 %.2e, worst %.2e at %zu: %g, not %g; %zu NaN or infinite; guards %s",
               name, config_name(config), c.relative_l2, c.worst, c.worst_index,
               (double)half_to_float(got[c.worst_index]), want[c.worst_index], c.mismatched,
               guarded_intact(&p->y) ? "intact" : "overwritten");
        if (first) {
            expect(!memcmp(first, got, p->y_count * sizeof *got), "%s, %s: other bits than the first's", name,
                   config_name(config));
        } else {
            first = checked_malloc(p->y_count * sizeof *first);
            memcpy(first, got, p->y_count * sizeof *first);
        }
        check_bits(name, p, config, got);
        if (p->args.activation == ACTIVATION_SILU) check_sums(name, p, config, got);
    }
    printf("%-12s n %d %dx%dx%d to %d k%d s%d pad %d %d relative L2 %.1e worst %.1e\n", name, p->args.n,
           p->args.height, p->args.width, p->args.in_channels, p->args.channels, p->args.kernel,
           p->args.stride, p->args.pad_top, p->args.pad_left, worst_l2, worst);
    expect(first != NULL, "%s: no configuration computes it", name);
    free(want), free(got), free(first);
}

/* ---------------------------------------------------------------- NaN */

/* Whether y is NaN where `want` is, and elsewhere, where it may not be NaN, has the bits of `clean`. */
static bool nan_stays(const struct problem *p, const half *y, const half *clean, const double *want,
                      size_t image, int channel)
{
    const size_t channels = (size_t)p->args.channels, values = p->y_count / (size_t)p->args.n;
    for (size_t i = 0; i < p->y_count; i++) {
        const bool may = i / values == image || (channel >= 0 && i % channels == (size_t)channel);
        const float v = half_to_float(y[i]);
        if (isnan(want[i]) ? !isnan(v) : !may && memcmp(&y[i], &clean[i], sizeof *y)) return false;
    }
    return true;
}

/* A NaN of x makes NaN of every output whose window holds it, and of none in another image; one in a
 * channel's weights of none in another channel. */
static void check_nan(enum activation activation, uint64_t *state)
{
    const struct shape s = {"NaN", 9, 24, 40, 3, 1, 1, 1};
    struct problem p = problem_new(2, 9, 9, &s, activation, activation, state);
    half *clean = checked_malloc(p.y_count * sizeof *clean), *got = checked_malloc(p.y_count * sizeof *got);
    for (int config = 0; config < kernel_count(&expand_depthwise_kernels); config++) {
        if (!kernel_fits(&expand_depthwise_kernels, config, &p.args)) continue;
        const half kept = p.x[(4 * 9 + 4) * 24 + 3], weight = p.w[21 * 24 + 5];
        run(&p, &p.args, config, clean);
        p.x[(4 * 9 + 4) * 24 + 3] = half_from_float(NAN);
        CUDA_OK(cudaMemcpy((void *)p.args.x, p.x, p.x_count * sizeof(half), cudaMemcpyHostToDevice));
        double *want = reference(&p);
        run(&p, &p.args, config, got);
        expect(nan_stays(&p, got, clean, want, 0, -1), "NaN in an image, %s: lost, or elsewhere",
               config_name(config));
        free(want);
        p.x[(4 * 9 + 4) * 24 + 3] = kept, p.w[21 * 24 + 5] = half_from_float(NAN);
        CUDA_OK(cudaMemcpy((void *)p.args.x, p.x, p.x_count * sizeof(half), cudaMemcpyHostToDevice));
        upload_weights(&p);
        want = reference(&p);
        run(&p, &p.args, config, got);
        expect(nan_stays(&p, got, clean, want, SIZE_MAX, 21), "NaN in a channel, %s: lost, or elsewhere",
               config_name(config));
        free(want);
        p.w[21 * 24 + 5] = weight;
        upload_weights(&p);
    }
    free(clean), free(got);
    problem_free(&p);
}

/* ---------------------------------------------------------------- shapes */

static void check_awkward(int count, int more, uint64_t *state)
{
    for (int i = 0; i < count; i++) {
        struct shape s = {"awkward",
                          0,
                          8 * random_int(state, 1, i % 4 ? 16 : 40),
                          8 * random_int(state, 1, 20),
                          random_int(state, 0, 1) ? 5 : 3,
                          random_int(state, 1, 2),
                          0,
                          0};
        s.pad_before = random_int(state, 0, s.kernel - 1), s.pad_after = random_int(state, 0, s.kernel - 1);
        const int least = s.kernel > s.pad_before + s.pad_after ? s.kernel - s.pad_before - s.pad_after : 1;
        const int height = random_int(state, least, least + more),
                  width = random_int(state, least, least + more);
        const bool silu = random_int(state, 0, 2) == 0;
        const enum activation expand = silu ? ACTIVATION_SILU : (enum activation)random_int(state, 0, 2),
                              depthwise = silu ? ACTIVATION_SILU : (enum activation)random_int(state, 0, 2);
        struct problem p = problem_new(random_int(state, 1, 3), height, width, &s, expand, depthwise, state);
        p.args.pad_top = random_int(state, 0, 1) ? p.args.pad_top : 0; /* below there is room */
        check(s.name, &p);
        problem_free(&p);
    }
}

static void check_refusals(void)
{
    const struct expand_depthwise_args good = {.n = 1,
                                               .in_channels = 8,
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
    struct expand_depthwise_args bad[10];
    for (int i = 0; i < 10; i++) bad[i] = good;
    bad[0].kernel = 4, bad[1].stride = 3, bad[2].channels = 12, bad[3].n = 0,
    bad[4].activation = ACTIVATION_GELU, bad[5].sums = &sums, bad[6].pad_left = 3, bad[7].in_channels = 12,
    bad[8].activation = ACTIVATION_SILU, bad[9].width = 1 << 20;
    expect(kernel_fits(&expand_depthwise_kernels, 0, &good), "refusals: a good shape is refused");
    for (int i = 0; i < 10; i++)
        expect(kernel_launch(&expand_depthwise_kernels, 0, &bad[i], 0) == cudaErrorInvalidValue,
               "refusals: bad shape %d runs", i);
    expect(kernel_launch(&expand_depthwise_kernels, kernel_count(&expand_depthwise_kernels), &good, 0) ==
               cudaErrorInvalidValue,
           "refusals: a configuration past the last runs");
    float weights[9] = {1, -65504};
    expect(expand_depthwise_weights_fit(weights, 1, 3), "refusals: good weights are refused");
    weights[4] = 65536;
    expect(!expand_depthwise_weights_fit(weights, 1, 3), "refusals: a weight past fp16 is taken");
}

/* ---------------------------------------------------------------- times */

/* The fastest of a family on args, and which it is. */
static double best_us(const struct kernel_family *family, const void *args, int repeat, int *best)
{
    double least = INFINITY;
    for (int config = 0; config < kernel_count(family); config++) {
        if (!kernel_fits(family, config, args)) continue;
        struct bench_context context = {family, args, config};
        const double us = graph_time_us(bench_launch, &context, repeat, 7);
        if (us < least) least = us, *best = config;
    }
    return least;
}

struct pair_context {
    struct bench_context expand, depthwise;
};

static cudaError_t launch_pair(void *context, cudaStream_t stream)
{
    struct pair_context *pair = context;
    const cudaError_t status = bench_launch(&pair->expand, stream);
    return status ? status : bench_launch(&pair->depthwise, stream);
}

/* The two layers by kernels of their own: each one's fastest, one after the other. */
static double separate_us(const struct problem *p, int repeat, double *expand_us, double *depthwise_us)
{
    const struct expand_depthwise_args *a = &p->args;
    const int pixels = a->n * a->height * a->width;
    const size_t taps = (size_t)a->kernel * (size_t)a->kernel, channels = (size_t)a->channels;
    half *h;
    float *w = device_copy(p->depthwise_w, taps * channels * sizeof *w), *sums = NULL; /* in another order */
    CUDA_OK(cudaMalloc((void **)&h, (size_t)pixels * channels * sizeof *h));
    CUDA_OK(cudaMemset(h, 0, (size_t)pixels * channels * sizeof *h));
    if (a->activation == ACTIVATION_SILU)
        CUDA_OK(cudaMalloc((void **)&sums, (size_t)a->n * 128 * channels * sizeof *sums));
    const struct pointwise_args expand = {.x = a->x,
                                          .w = a->w,
                                          .bias = a->bias,
                                          .y = h,
                                          .m = pixels,
                                          .n = a->channels,
                                          .k = a->in_channels,
                                          .activation = a->activation};
    const struct depthwise_args depthwise = {.x = h,
                                             .w = w,
                                             .bias = a->depthwise_bias,
                                             .y = a->y,
                                             .activation = a->depthwise_activation,
                                             .n = a->n,
                                             .channels = a->channels,
                                             .height = a->height,
                                             .width = a->width,
                                             .out_height = a->out_height,
                                             .out_width = a->out_width,
                                             .kernel = a->kernel,
                                             .stride = a->stride,
                                             .pad_top = a->pad_top,
                                             .pad_left = a->pad_left,
                                             .sums = sums};
    struct pair_context pair = {{&pointwise_kernels, &expand, 0}, {&depthwise_kernels, &depthwise, 0}};
    *expand_us = best_us(&pointwise_kernels, &expand, repeat, &pair.expand.config);
    *depthwise_us = best_us(&depthwise_kernels, &depthwise, repeat, &pair.depthwise.config);
    const double us = graph_time_us(launch_pair, &pair, repeat, 9);
    CUDA_OK(cudaFree(h));
    CUDA_OK(cudaFree(w));
    CUDA_OK(cudaFree(sums));
    return us;
}

static void bench_layer(const struct shape *s, int batch, enum activation activation, bool all,
                        uint64_t *state)
{
    struct problem p = problem_new(batch, s->side, s->side, s, activation, activation, state);
    const int repeat = batch > 16 ? 4 : 20;
    double expand_us, depthwise_us, least = INFINITY;
    int best = -1;
    const double pair_us = separate_us(&p, repeat, &expand_us, &depthwise_us);
    float *sums = NULL;
    if (activation == ACTIVATION_SILU)
        CUDA_OK(cudaMalloc((void **)&sums, (size_t)batch * 64 * (size_t)s->channels * sizeof *sums));
    p.args.sums = sums;
    for (int config = 0; config < kernel_count(&expand_depthwise_kernels); config++) {
        if (!kernel_fits(&expand_depthwise_kernels, config, &p.args)) continue;
        struct bench_context context = {&expand_depthwise_kernels, &p.args, config};
        const double us = graph_time_us(bench_launch, &context, repeat, 9);
        if (all) printf("      %-24s %8.2f us\n", config_name(config), us);
        if (us < least) least = us, best = config;
    }
    printf("batch %3d %-10s %3d %3d to %4d k%d s%d: apart %7.2f + %7.2f, in turn %7.2f; together %7.2f us "
           "(%.2f), %s\n",
           batch, s->name, s->side, s->in_channels, s->channels, s->kernel, s->stride, expand_us,
           depthwise_us, pair_us, least, least / pair_us, best < 0 ? "none" : config_name(best));
    CUDA_OK(cudaFree(sums));
    problem_free(&p);
}

static void bench(int batch, bool all, uint64_t *state)
{
    for (int i = 0; i < LAYER_COUNT; i++) bench_layer(&LAYERS[i], batch, ACTIVATION_RELU6, all, state);
    for (int i = 0; i < GATED_COUNT; i++) bench_layer(&GATED_LAYERS[i], batch, ACTIVATION_SILU, all, state);
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && !strcmp(argv[1], "--small"),
               all = argc > 1 && !strcmp(argv[1], "--bench-all"),
               timing = all || (argc > 1 && !strcmp(argv[1], "--bench"));
    check_refusals();
    if (failed) return finish();
    gpu_require();
    uint64_t state = random_seed("shapes and data", 20261201);
    for (int i = 2; timing && i < argc; i++) bench(atoi(argv[i]), all, &state);
    if (timing) return 0;
    for (int i = 0; i < LAYER_COUNT && !small; i++) {
        const struct shape *s = &LAYERS[i];
        struct problem p = problem_new(2, s->side, s->side, s, ACTIVATION_RELU6, ACTIVATION_RELU6, &state);
        check(s->name, &p);
        problem_free(&p);
    }
    for (int i = 0; i < GATED_COUNT && !small; i++) {
        const struct shape *s = &GATED_LAYERS[i];
        struct problem p = problem_new(2, s->side, s->side, s, ACTIVATION_SILU, ACTIVATION_SILU, &state);
        check(s->name, &p);
        problem_free(&p);
    }
    check_nan(ACTIVATION_RELU6, &state);
    check_nan(ACTIVATION_SILU, &state);
    check_awkward(small ? 4 : 60, small ? 9 : 17, &state);
    if (!small) {
        int count = 0;
        const int missing = check_all_ran(&expand_depthwise_kernels, configs_run, &count);
        passed += count - missing, failed += missing;
    }
    return finish();
}
