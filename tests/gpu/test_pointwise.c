/* kernels/pointwise against plain loops in double: every configuration on 1x1 layers of every network, then
 * on narrow layers of every kind and on seeded awkward shapes; SiLU on every fp16 number. A shape that
 * nothing computes, or a configuration that nothing has run, is a failure. `--small`: few and small shapes,
 * for compute-sanitizer.
 * `--bench`: times. */
#include "gpu.h"
#include "pointwise.h"

struct shape {
    const char *name;
    int side, k, n;
    bool prologue, residual;
    enum activation activation;
    bool pool, w_low;
    int gate_rows; /* 0: no gate */
};

/* Expand, project and head of EfficientNet-Lite1; those of b1-plain that differ; some of b0, b1 and b4. */
static const struct shape LAYERS[] = {
    {"lite1 0 project", 120, 32, 16, true, false, ACTIVATION_NONE, false, true, 0},
    {"lite1 1 expand", 120, 16, 96, false, false, ACTIVATION_RELU6, false, false, 0},
    {"lite1 1 project", 60, 96, 24, true, false, ACTIVATION_NONE, false, true, 0},
    {"lite1 2 expand", 60, 24, 144, false, false, ACTIVATION_RELU6, false, false, 0},
    {"lite1 2 project", 60, 144, 24, true, true, ACTIVATION_NONE, false, false, 0},
    {"lite1 4 project", 30, 144, 40, true, false, ACTIVATION_NONE, false, true, 0},
    {"lite1 5 expand", 30, 40, 240, false, false, ACTIVATION_RELU6, false, false, 0},
    {"lite1 5 project", 30, 240, 40, true, true, ACTIVATION_NONE, false, false, 0},
    {"lite1 7 project", 15, 240, 80, true, false, ACTIVATION_NONE, false, true, 0},
    {"lite1 8 expand", 15, 80, 480, false, false, ACTIVATION_RELU6, false, false, 0},
    {"lite1 8 project", 15, 480, 80, true, true, ACTIVATION_NONE, false, false, 0},
    {"lite1 11 project", 15, 480, 112, true, false, ACTIVATION_NONE, false, true, 0},
    {"lite1 12 expand", 15, 112, 672, false, false, ACTIVATION_RELU6, false, false, 0},
    {"lite1 12 project", 15, 672, 112, true, true, ACTIVATION_NONE, false, false, 0},
    {"lite1 15 project", 8, 672, 192, true, false, ACTIVATION_NONE, false, true, 0},
    {"lite1 16 expand", 8, 192, 1152, false, false, ACTIVATION_RELU6, false, false, 0},
    {"lite1 16 project", 8, 1152, 192, true, true, ACTIVATION_NONE, false, false, 0},
    {"lite1 20 project", 8, 1152, 320, true, false, ACTIVATION_NONE, false, true, 0},
    {"lite1 head", 8, 320, 1280, false, false, ACTIVATION_RELU6, false, false, 0},
    {"lite1 head + pool", 8, 320, 1280, false, false, ACTIVATION_RELU6, true, false, 0},
    {"b1-plain 3 project", 15, 240, 80, true, false, ACTIVATION_NONE, false, true, 0},
    {"b1-plain 6 project", 8, 1152, 320, true, false, ACTIVATION_NONE, false, true, 0},
    {"b1-plain head + pool", 8, 320, 1280, false, false, ACTIVATION_RELU, true, false, 0},
    {"b0 6 project", 7, 672, 192, false, false, ACTIVATION_NONE, false, true, 49},
    {"b0 7 project", 7, 1152, 192, false, true, ACTIVATION_NONE, false, false, 49},
    {"b0 15 project", 7, 1152, 320, false, false, ACTIVATION_NONE, false, true, 49},
    {"b0 head + pool", 7, 320, 1280, false, false, ACTIVATION_SILU, true, false, 0},
    {"b1 0 project", 120, 32, 16, false, false, ACTIVATION_NONE, false, true, 14400},
    {"b1 1 project", 120, 16, 16, false, true, ACTIVATION_NONE, false, false, 14400},
    {"b1 2 expand", 120, 16, 96, false, false, ACTIVATION_SILU, false, false, 0},
    {"b1 2 project", 60, 96, 24, false, false, ACTIVATION_NONE, false, true, 3600},
    {"b1 3 expand", 60, 24, 144, false, false, ACTIVATION_SILU, false, false, 0},
    {"b1 3 project", 60, 144, 24, false, true, ACTIVATION_NONE, false, false, 3600},
    {"b1 5 project", 30, 144, 40, false, false, ACTIVATION_NONE, false, true, 900},
    {"b1 6 expand", 30, 40, 240, false, false, ACTIVATION_SILU, false, false, 0},
    {"b1 6 project", 30, 240, 40, false, true, ACTIVATION_NONE, false, false, 900},
    {"b1 8 project", 15, 240, 80, false, false, ACTIVATION_NONE, false, true, 225},
    {"b1 9 expand", 15, 80, 480, false, false, ACTIVATION_SILU, false, false, 0},
    {"b1 9 project", 15, 480, 80, false, true, ACTIVATION_NONE, false, false, 225},
    {"b1 12 project", 15, 480, 112, false, false, ACTIVATION_NONE, false, true, 225},
    {"b1 13 expand", 15, 112, 672, false, false, ACTIVATION_SILU, false, false, 0},
    {"b1 13 project", 15, 672, 112, false, true, ACTIVATION_NONE, false, false, 225},
    {"b1 16 project", 8, 672, 192, false, false, ACTIVATION_NONE, false, true, 64},
    {"b1 17 expand", 8, 192, 1152, false, false, ACTIVATION_SILU, false, false, 0},
    {"b1 17 project", 8, 1152, 192, false, true, ACTIVATION_NONE, false, false, 64},
    {"b1 21 project", 8, 1152, 320, false, false, ACTIVATION_NONE, false, true, 64},
    {"b1 22 expand", 8, 320, 1920, false, false, ACTIVATION_SILU, false, false, 0},
    {"b1 22 project", 8, 1920, 320, false, true, ACTIVATION_NONE, false, false, 64},
    {"b1 head + pool", 8, 320, 1280, false, false, ACTIVATION_SILU, true, false, 0},
    {"b4 0 project", 190, 48, 24, false, false, ACTIVATION_NONE, false, true, 36100},
    {"b4 3 project", 95, 192, 32, false, true, ACTIVATION_NONE, false, false, 9025},
    {"b4 7 expand", 48, 56, 336, false, false, ACTIVATION_SILU, false, false, 0},
    {"b4 7 project", 48, 336, 56, false, true, ACTIVATION_NONE, false, false, 2304},
    {"b4 17 project", 24, 960, 160, false, true, ACTIVATION_NONE, false, false, 576},
    {"b4 22 project", 12, 960, 272, false, false, ACTIVATION_NONE, false, true, 144},
    {"b4 30 project", 12, 1632, 448, false, false, ACTIVATION_NONE, false, true, 144},
    {"b4 31 project", 12, 2688, 448, false, true, ACTIVATION_NONE, false, false, 144},
    {"b4 head", 12, 448, 1792, false, false, ACTIVATION_SILU, false, false, 0},
};
enum { LAYER_COUNT = sizeof LAYERS / sizeof *LAYERS };

/* What the configurations for sm_90a need to fit, on as few rows as they take; also for --small. */
static const struct shape SMALL[] = {
    {"small expand", 33, 16, 96, false, false, ACTIVATION_RELU6, false, false, 0},
    {"small expand", 33, 24, 144, false, false, ACTIVATION_RELU6, false, false, 0},
    {"small expand", 33, 40, 240, false, false, ACTIVATION_RELU, false, false, 0},
    {"small project", 33, 136, 24, true, true, ACTIVATION_NONE, false, false, 0},
    {"small project", 33, 96, 192, true, false, ACTIVATION_NONE, false, true, 0},
    {"small head + pool", 8, 72, 240, false, false, ACTIVATION_RELU6, true, false, 0},
    {"small SiLU expand", 33, 16, 96, false, false, ACTIVATION_SILU, false, false, 0},
    {"small SiLU expand", 33, 24, 144, false, false, ACTIVATION_SILU, false, false, 0},
    {"small SiLU expand", 33, 40, 240, false, false, ACTIVATION_SILU, false, false, 0},
    {"small gated project", 33, 136, 24, false, true, ACTIVATION_NONE, false, false, 99},
    {"small gated project", 33, 96, 192, false, false, ACTIVATION_NONE, false, true, 9},
    {"small SiLU head + pool", 8, 72, 240, false, false, ACTIVATION_SILU, true, false, 0},
};
enum { SMALL_COUNT = sizeof SMALL / sizeof *SMALL };

static uint64_t configs_run; /* a bit each */

struct problem {
    struct pointwise_args args; /* device pointers */
    half *x, *w, *residual, *input_bias, *gate;
    float *bias;
    struct guarded y;
    size_t y_count;
};

static half *noise_half(size_t count, float scale, uint64_t *state)
{
    half *p = checked_malloc(count * sizeof *p);
    for (size_t i = 0; i < count; i++) p[i] = half_from_float(scale * noise(state));
    return p;
}

static half half_times(half a, float factor)
{
    return half_from_float(half_to_float(a) * factor);
}

/* Values such that sums stay near 1 and both ends of a clamp are hit. */
static struct problem problem_new(int m, const struct shape *s, uint64_t *state)
{
    struct problem p = {0};
    const size_t x_count = (size_t)m * (size_t)s->k, w_count = (size_t)s->n * (size_t)s->k;
    const size_t full = (size_t)m * (size_t)s->n;
    p.x = noise_half(x_count, 4.0f, state);
    p.w = noise_half(s->w_low ? 2 * w_count : w_count, 2.0f / sqrtf((float)s->k), state);
    for (size_t i = 0; s->w_low && i < w_count; i++)
        p.w[w_count + i] = half_times(p.w[w_count + i], 0x1p-7f); /* enough to be missed */
    p.bias = checked_malloc((size_t)s->n * sizeof *p.bias);
    for (int i = 0; i < s->n; i++) p.bias[i] = 2.0f * noise(state);
    if (s->residual) p.residual = noise_half(full, 3.0f, state);
    if (s->prologue) { /* high parts, then low ones that are their rounding errors */
        p.input_bias = noise_half(2 * (size_t)s->k, 3.0f, state);
        for (int i = s->k; i < 2 * s->k; i++) p.input_bias[i] = half_times(p.input_bias[i], 0x1p-11f);
    }
    const size_t gate_count = s->gate_rows ? (size_t)(m / s->gate_rows) * (size_t)s->k : 0;
    if (s->gate_rows) p.gate = noise_half(gate_count, 1.0f, state);
    for (size_t i = 0; i < gate_count; i += 5) p.gate[i] = half_from_float(0.0f);
    const int pool_rows = s->pool ? s->side * s->side : 0;
    p.y_count = pool_rows ? full / (size_t)pool_rows : full;
    p.y = guarded_alloc(p.y_count * sizeof(half));
    p.args = (struct pointwise_args){
        .x = device_copy(p.x, x_count * sizeof(half)),
        .w = device_copy(p.w, (s->w_low ? 2 : 1) * w_count * sizeof(half)),
        .w_low = s->w_low,
        .bias = device_copy(p.bias, (size_t)s->n * sizeof(float)),
        .residual = s->residual ? device_copy(p.residual, full * sizeof(half)) : NULL,
        .input_bias = s->prologue ? device_copy(p.input_bias, 2 * (size_t)s->k * sizeof(half)) : NULL,
        .input_activation = ACTIVATION_RELU6,
        .gate = s->gate_rows ? device_copy(p.gate, gate_count * sizeof(half)) : NULL,
        .gate_rows = s->gate_rows,
        .activation = s->activation,
        .y = p.y.data,
        .m = m,
        .n = s->n,
        .k = s->k,
        .pool_rows = pool_rows,
    };
    return p;
}

static void problem_free(struct problem *p)
{
    const void *device[] = {p->args.x,        p->args.w,          p->args.bias,
                            p->args.residual, p->args.input_bias, p->args.gate};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) CUDA_OK(cudaFree((void *)device[i]));
    guarded_free(&p->y);
    free(p->x), free(p->w), free(p->residual), free(p->input_bias), free(p->gate), free(p->bias);
}

static double round_to_half(double v)
{
    return (double)half_to_float(half_from_double(v));
}

/* Row by row. */
static double *reference(const struct problem *p)
{
    const struct pointwise_args *a = &p->args;
    const size_t w_count = (size_t)a->n * a->k;
    double *y = checked_malloc(p->y_count * sizeof *y), *row = checked_malloc((size_t)a->k * sizeof *row),
           *w = checked_malloc(w_count * sizeof *w);
    for (size_t i = 0; i < w_count; i++) /* here, once */
        w[i] = (double)half_to_float(p->w[i]) + (a->w_low ? (double)half_to_float(p->w[w_count + i]) : 0);
    if (a->pool_rows) memset(y, 0, p->y_count * sizeof *y);
    for (int m = 0; m < a->m; m++) {
        for (int k = 0; k < a->k; k++) {
            double v = (double)half_to_float(p->x[(size_t)m * a->k + k]);
            if (p->input_bias) { /* two sums in half, as the interface says */
                v = round_to_half(v + (double)half_to_float(p->input_bias[k]));
                v = round_to_half(v + (double)half_to_float(p->input_bias[a->k + k]));
                v = activate_double(a->input_activation, v);
            }
            if (p->gate)
                v = round_to_half(v * (double)half_to_float(p->gate[(size_t)(m / a->gate_rows) * a->k + k]));
            row[k] = v;
        }
        for (int n = 0; n < a->n; n++) {
            double sum = 0;
            for (int k = 0; k < a->k; k++) sum += row[k] * w[(size_t)n * a->k + k];
            sum += p->bias[n];
            if (p->residual) sum += (double)half_to_float(p->residual[(size_t)m * a->n + n]);
            sum = activate_double(a->activation, sum);
            if (a->pool_rows)
                y[(size_t)(m / a->pool_rows) * a->n + n] += sum / a->pool_rows;
            else
                y[(size_t)m * a->n + n] = sum;
        }
    }
    free(row), free(w);
    return y;
}

/* Runs every configuration that fits, of which there must be one; returns how many failed. */
static int check(const char *name, const struct problem *p, int *runs)
{
    double *want = reference(p);
    half *got = checked_malloc(p->y_count * sizeof *got);
    struct guarded y = p->y;
    int failures = 0, fitting = 0;
    double worst = 0;
    for (int config = 0; config < kernel_count(&pointwise_kernels); config++) {
        if (!kernel_fits(&pointwise_kernels, config, &p->args)) continue;
        fitting++;
        guarded_poison(&y);
        const cudaError_t status = kernel_launch(&pointwise_kernels, config, &p->args, 0);
        if (status != cudaSuccess) {
            printf("FAIL %s, %s: launch: %s\n", name, kernel_get(&pointwise_kernels, config)->name,
                   cudaGetErrorString(status));
            failures++;
            continue;
        }
        CUDA_OK(cudaDeviceSynchronize());
        CUDA_OK(cudaMemcpy(got, y.data, p->y_count * sizeof *got, cudaMemcpyDeviceToHost));
        const struct comparison c = compare_half(got, want, p->y_count);
        const bool intact = guarded_intact(&y);
        (*runs)++;
        configs_run |= UINT64_C(1) << config;
        if (c.relative_l2 > worst) worst = c.relative_l2;
        if (c.mismatched || !intact || !(c.relative_l2 <= 5e-4) || !(c.worst <= 2e-3)) {
            failures++;
            printf("FAIL %s, %s: m %d n %d k %d: relative L2 %.2e, worst %.2e at (%zu, %zu): %g, not %g; "
                   "%zu NaN or infinite out of place; guards %s\n",
                   name, kernel_get(&pointwise_kernels, config)->name, p->args.m, p->args.n, p->args.k,
                   c.relative_l2, c.worst, c.worst_index / (size_t)p->args.n,
                   c.worst_index % (size_t)p->args.n, (double)half_to_float(got[c.worst_index]),
                   want[c.worst_index], c.mismatched, intact ? "intact" : "overwritten");
        }
    }
    printf("%-24s m %-7d n %-5d k %-5d %2d configurations, worst relative L2 %.1e\n", name, p->args.m,
           p->args.n, p->args.k, fitting, worst);
    if (!fitting) {
        failures++, (*runs)++;
        printf("FAIL %s: no configuration computes it\n", name);
    }
    free(want), free(got);
    return failures;
}

static int check_layer(const struct shape *s, int batch, uint64_t *state, int *runs)
{
    struct problem p = problem_new(batch * s->side * s->side, s, state);
    const int failures = check(s->name, &p, runs);
    problem_free(&p);
    return failures;
}

/* Copies what a test has changed of p->x and p->gate to the device. */
static void upload_again(const struct problem *p)
{
    const struct pointwise_args *a = &p->args;
    CUDA_OK(cudaMemcpy((void *)a->x, p->x, (size_t)a->m * a->k * sizeof(half), cudaMemcpyHostToDevice));
    if (a->gate)
        CUDA_OK(cudaMemcpy((void *)a->gate, p->gate, (size_t)(a->m / a->gate_rows) * a->k * sizeof(half),
                           cudaMemcpyHostToDevice));
}

/* A NaN and an infinity in one row must stay in that row, and in one image's gate in that image. */
static int check_special_values(uint64_t *state, int *runs)
{
    enum { M = 1078, K = 72, N = 56 }; /* 22 images of 49 pixels */
    static const enum activation activations[] = {ACTIVATION_RELU6, ACTIVATION_SILU};
    int failures = 0;
    for (int way = 0; way < 6; way++) {
        const struct shape s = {"NaN and infinity",
                                1,
                                K,
                                N,
                                false,
                                false,
                                activations[way % 2],
                                false,
                                false,
                                way / 2 == 0   ? 0
                                : way / 2 == 1 ? 49
                                               : 1};
        struct problem p = problem_new(M, &s, state);
        p.x[5 * K + 3] = half_from_float(NAN);
        p.x[500 * K + 71] = half_from_float(INFINITY);
        for (int k = 0; k < K; k++) p.x[77 * K + k] = half_from_float(3e3f * noise(state));
        if (s.gate_rows) {
            const int last = M / s.gate_rows - 1; /* what is behind it is no gate */
            p.gate[2 * K + 71] = half_from_float(NAN);
            p.gate[4 * K + 8] = half_from_float(INFINITY);
            memset(p.gate + 6 * K, 0, K * sizeof(half));
            p.gate[last * K + K - 1] = half_from_float(NAN);
        }
        upload_again(&p);
        failures += check(s.name, &p, runs);
        problem_free(&p);
    }
    return failures;
}

/* SiLU of every finite fp16 number, which weights that are the identity pass on: the nearest fp16 number, or
 * where the exact value is halfway between two, either. */
static int check_silu_values(uint64_t *state, int *runs)
{
    enum { M = 1024, N = 64 };
    const struct shape s = {"SiLU of every number", 1, N, N, false, false, ACTIVATION_SILU, false, false, 0};
    struct problem p = problem_new(M, &s, state);
    half *got = checked_malloc(p.y_count * sizeof *got);
    int failures = 0;
    for (int i = 0; i < M * N; i++) {
        const uint16_t bits = (uint16_t)i;
        memcpy(&p.x[i], &bits, sizeof bits);
        if (!isfinite(half_to_float(p.x[i]))) p.x[i] = half_from_float(0.0f);
    }
    for (int i = 0; i < N * N; i++) p.w[i] = half_from_float(i % (N + 1) == 0 ? 1.0f : 0.0f);
    upload_again(&p);
    CUDA_OK(cudaMemcpy((void *)p.args.w, p.w, N * N * sizeof(half), cudaMemcpyHostToDevice));
    CUDA_OK(cudaMemset((void *)p.args.bias, 0, N * sizeof(float)));
    for (int config = 0; config < kernel_count(&pointwise_kernels); config++) {
        int wrong = 0, first = -1;
        if (!kernel_fits(&pointwise_kernels, config, &p.args)) continue;
        guarded_poison(&p.y);
        CUDA_OK(kernel_launch(&pointwise_kernels, config, &p.args, 0));
        CUDA_OK(cudaMemcpy(got, p.y.data, p.y_count * sizeof *got, cudaMemcpyDeviceToHost));
        for (int i = 0; i < M * N; i++) {
            const double want = activate_double(ACTIVATION_SILU, (double)half_to_float(p.x[i]));
            const double allowed = fabs(round_to_half(want) - want) + 2e-6 * fabs(want) + 1e-15;
            if (fabs((double)half_to_float(got[i]) - want) <= allowed) continue;
            if (!wrong++) first = i;
        }
        (*runs)++;
        if (!wrong) continue;
        failures++;
        printf("FAIL %s, %s: %d are wrong, the first of %g: %g\n", s.name,
               kernel_get(&pointwise_kernels, config)->name, wrong, (double)half_to_float(p.x[first]),
               (double)half_to_float(got[first]));
    }
    free(got);
    problem_free(&p);
    return failures;
}

/* Images alone, and one after the other in a batch: the same bits. No tile begins where an image does, except
 * by chance. */
static int check_alone(uint64_t *state, int *runs)
{
    static const struct shape shapes[] = {
        {"alone", 1, 144, 24, false, true, ACTIVATION_NONE, false, false, 225},
        {"alone", 1, 104, 112, false, false, ACTIVATION_NONE, false, true, 49},
        {"alone", 1, 40, 240, false, false, ACTIVATION_SILU, false, false, 81},
    };
    int failures = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape *s = &shapes[i];
        const int images = 1024 / s->gate_rows + 1;
        struct problem p = problem_new(images * s->gate_rows, s, state);
        const size_t bytes = p.y_count * sizeof(half);
        unsigned char *together = checked_malloc(bytes), *alone = checked_malloc(bytes);
        for (int config = 0; config < kernel_count(&pointwise_kernels); config++) {
            if (!kernel_fits(&pointwise_kernels, config, &p.args)) continue;
            CUDA_OK(kernel_launch(&pointwise_kernels, config, &p.args, 0));
            CUDA_OK(cudaMemcpy(together, p.y.data, bytes, cudaMemcpyDeviceToHost));
            guarded_poison(&p.y);
            for (int image = 0; image < images; image++) {
                const size_t row = (size_t)image * (size_t)s->gate_rows;
                struct pointwise_args one = p.args; /* which may be too small for the configuration to fit */
                one.m = s->gate_rows;
                one.x = (const half *)p.args.x + row * (size_t)s->k;
                one.gate = (const half *)p.args.gate + image * s->k;
                if (s->residual) one.residual = (const half *)p.args.residual + row * (size_t)s->n;
                one.y = (half *)p.args.y + row * (size_t)s->n;
                CUDA_OK(kernel_get(&pointwise_kernels, config)->launch(&one, 0));
            }
            CUDA_OK(cudaMemcpy(alone, p.y.data, bytes, cudaMemcpyDeviceToHost));
            (*runs)++;
            if (!memcmp(together, alone, bytes) && guarded_intact(&p.y)) continue;
            failures++;
            printf("FAIL k %d n %d, gate_rows %d, %s: other bits in a batch\n", s->k, s->n, s->gate_rows,
                   kernel_get(&pointwise_kernels, config)->name);
        }
        free(together), free(alone);
        problem_free(&p);
    }
    return failures;
}

/* As few channels as a network may have, in every way that a layer may have them: behind a depthwise layer,
 * behind a gate or behind neither; with a residual, with weights in two parts, or with neither. */
static int check_narrow(bool small, uint64_t *state, int *runs)
{
    static const int widths[] = {8, 16, 24, 40}, depths[] = {8, 16, 24, 72, 520}, rows[] = {77, 1, 1087};
    int failures = 0, turn = 0;
    for (size_t n = 0; n < (small ? 1 : sizeof widths / sizeof *widths); n++)
        for (size_t k = 0; k < (small ? 2 : sizeof depths / sizeof *depths); k++)
            for (int way = 0; way < 9; way++) {
                const int m = rows[small ? 0 : turn++ % 3];
                const struct shape s = {.name = "narrow",
                                        .side = 1,
                                        .k = depths[k],
                                        .n = widths[n],
                                        .prologue = way % 3 == 1,
                                        .residual = way / 3 == 1,
                                        .w_low = way / 3 == 2,
                                        .activation = way / 3 == 0 ? ACTIVATION_RELU6 : ACTIVATION_NONE,
                                        .gate_rows = way % 3 != 2 ? 0
                                                     : m == 77    ? 7
                                                     : m == 1     ? 1
                                                                  : m};
                struct problem p = problem_new(m, &s, state);
                failures += check(s.name, &p, runs);
                problem_free(&p);
            }
    return failures;
}

/* Whether an image's pixels can be averaged where they are made; else a network has a unit for that. */
static bool pools(const struct shape *s, int m)
{
    const struct pointwise_args args = {
        .m = m, .n = s->n, .k = s->k, .w_low = s->w_low, .pool_rows = s->side * s->side};
    for (int c = 0; c < kernel_count(&pointwise_kernels); c++)
        if (kernel_fits(&pointwise_kernels, c, &args)) return true;
    return false;
}

static int check_awkward(int count, int largest, uint64_t *state, int *runs)
{
    static const int edges[] = {1,  7,  8,   9,   15,  16,  17,  31,   33,   63,
                                64, 65, 127, 128, 129, 225, 257, 1024, 1087, 2049};
    int failures = 0;
    for (int i = 0; i < count; i++) {
        struct shape s = {"awkward",
                          1,
                          8 * random_int(state, 1, largest / 8),
                          8 * random_int(state, 1, largest / 8),
                          random_int(state, 0, 1),
                          random_int(state, 0, 1),
                          (enum activation)random_int(state, ACTIVATION_NONE, ACTIVATION_SILU),
                          false,
                          random_int(state, 0, 1),
                          0};
        if (s.activation == ACTIVATION_SILU) s.w_low = false;
        int m = edges[random_int(state, 0, (int)(sizeof edges / sizeof *edges) - 1)];
        if (random_int(state, 0, 3) == 0) {
            s.residual = false;
            s.side = random_int(state, 1, 8);
            m = s.side * s.side * random_int(state, 1, 40);
            s.pool = pools(&s, m);
        } else if (random_int(state, 0, 1)) {
            static const int images[] = {1, 5, 31, 49, 64, 100, 225, 361, 900};
            s.prologue = false;
            s.gate_rows = images[random_int(state, 0, (int)(sizeof images / sizeof *images) - 1)];
            m = s.gate_rows * (1 + m / s.gate_rows);
        }
        struct problem p = problem_new(m, &s, state);
        failures += check(s.name, &p, runs);
        problem_free(&p);
    }
    return failures;
}

/* Whether some configuration that runs on every device computes each shape that a network may have, narrow or
 * wide. Asks no device. */
static int check_coverage(void)
{
    static const char there; /* only whether a pointer is NULL is looked at */
    static const int channels[] = {8, 16, 24, 32, 40, 56, 64, 72, 120, 136, 264, 1024, 1288, 65528};
    enum { COUNT = sizeof channels / sizeof *channels };
    int missing = 0;
    for (int i = 0; i < COUNT * COUNT * 3 * 12; i++) {
        static const int rows[] = {1, 64, 1 << 20};
        const int way = i % 12, n = channels[i / 36 % COUNT], k = channels[i / 36 / COUNT];
        const struct pointwise_args args = {.m = rows[i / 12 % 3],
                                            .n = n,
                                            .k = k,
                                            .residual = way & 1 ? &there : NULL,
                                            .w_low = !(way & 1) && !(way & 2),
                                            .input_bias = way / 4 == 1 ? &there : NULL,
                                            .input_activation = ACTIVATION_RELU,
                                            .gate = way / 4 == 2 ? &there : NULL,
                                            .gate_rows = 1,
                                            .activation = way & 2 ? ACTIVATION_SILU : ACTIVATION_NONE};
        bool found = false;
        for (int c = 0; c < kernel_count(&pointwise_kernels); c++)
            found |= !kernel_get(&pointwise_kernels, c)->architecture &&
                     kernel_fits(&pointwise_kernels, c, &args);
        missing += !found;
        if (!found) printf("FAIL nothing computes m %d n %d k %d, way %d\n", args.m, n, k, way);
    }
    return missing;
}

static int check_refusals(void)
{
    struct pointwise_args a = {.m = 64, .n = 64, .k = 64, .activation = ACTIVATION_RELU6};
    int failures = 0, accepted = 0;
    for (int c = 0; c < kernel_count(&pointwise_kernels); c++) {
        struct pointwise_args odd = a;
        accepted += kernel_fits(&pointwise_kernels, c, &a);
        odd.n = 63, failures += kernel_fits(&pointwise_kernels, c, &odd);
        odd = a, odd.k = 4, failures += kernel_fits(&pointwise_kernels, c, &odd);
        odd = a, odd.m = 0,
        failures += kernel_launch(&pointwise_kernels, c, &odd, 0) != cudaErrorInvalidValue;
        odd = a, odd.activation = ACTIVATION_GELU, failures += kernel_fits(&pointwise_kernels, c, &odd);
        odd = a, odd.activation = ACTIVATION_SILU, odd.w_low = true,
        failures += kernel_fits(&pointwise_kernels, c, &odd);
        odd = a, odd.gate = &a, odd.gate_rows = 0, failures += kernel_fits(&pointwise_kernels, c, &odd);
        odd = a, odd.gate = &a, odd.gate_rows = 63, failures += kernel_fits(&pointwise_kernels, c, &odd);
        odd = a, odd.gate = odd.input_bias = &a, odd.gate_rows = 64, odd.input_activation = ACTIVATION_RELU,
        failures += kernel_fits(&pointwise_kernels, c, &odd);
        odd = a, odd.pool_rows = 63, failures += kernel_fits(&pointwise_kernels, c, &odd);
    }
    failures += accepted == 0;
    failures += kernel_launch(&pointwise_kernels, kernel_count(&pointwise_kernels), &a, 0) !=
                cudaErrorInvalidValue;
    if (failures) printf("FAIL refusals: %d wrong answers\n", failures);
    return failures;
}

/* The best three configurations of each layer, and the share of the roofline: 4.27 TB/s of copies and
 * 790 TFLOP/s, as measured on an H200. */
static void bench(int batch, uint64_t *state)
{
    double total = 0, total_floor = 0;
    for (int l = 0; l < LAYER_COUNT; l++) {
        const struct shape *s = &LAYERS[l];
        struct problem p = problem_new(batch * s->side * s->side, s, state);
        const double m = p.args.m, n = s->n, k = s->k;
        const double bytes = 2 * (m * k + (s->w_low ? 2 : 1) * n * k + (double)p.y_count +
                                  (s->residual ? m * n : 0));
        const double memory_us = bytes / 4.27e6, compute_us = (s->w_low ? 4 : 2) * m * n * k / 790e6;
        const double floor_us = memory_us > compute_us ? memory_us : compute_us;
        double best[4] = {1e30, 1e30, 1e30, 1e30};
        int which[4] = {-1, -1, -1, -1};
        for (int config = 0; config < kernel_count(&pointwise_kernels); config++) {
            if (!kernel_fits(&pointwise_kernels, config, &p.args)) continue;
            struct bench_context context = {&pointwise_kernels, &p.args, config};
            best[3] = graph_time_us(bench_launch, &context, batch > 16 ? 2 : 20, 5), which[3] = config;
            for (int i = 3; i > 0 && best[i] < best[i - 1]; i--) {
                const double t = best[i];
                const int w = which[i];
                best[i] = best[i - 1], which[i] = which[i - 1], best[i - 1] = t, which[i - 1] = w;
            }
        }
        total += best[0], total_floor += floor_us;
        printf("%4d %-20s %6.0f %4.0f %4.0f floor %7.2f %3.0f%% |", batch, s->name, m, n, k, floor_us,
               100 * floor_us / best[0]);
        for (int i = 0; i < 3 && which[i] >= 0; i++)
            printf(" %s %.2f", kernel_get(&pointwise_kernels, which[i])->name, best[i]);
        printf("\n");
        problem_free(&p);
    }
    printf("%4d sum %.1f us, %.0f%% of the roofline, time-weighted\n", batch, total,
           100 * total_floor / total);
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && !strcmp(argv[1], "--small"),
               timing = argc > 1 && !strcmp(argv[1], "--bench");
    int failures = check_refusals() + check_coverage(), runs = 1;
    if (failures) return 1;
    gpu_require();
    uint64_t state = random_seed("shapes and data", 20260101);
    if (timing) {
        for (int i = 2; i < argc; i++) bench(atoi(argv[i]), &state);
        return 0;
    }
    if (!small)
        for (int l = 0; l < LAYER_COUNT; l++)
            for (int batch = 1; batch <= 3; batch += 2)
                failures += check_layer(&LAYERS[l], batch, &state, &runs);
    for (int l = 0; l < SMALL_COUNT; l++)
        failures += check_layer(&SMALL[l], SMALL[l].pool ? 17 : 1, &state, &runs);
    failures += check_special_values(&state, &runs);
    failures += check_silu_values(&state, &runs);
    failures += check_alone(&state, &runs);
    failures += check_narrow(small, &state, &runs);
    failures += check_awkward(small ? 4 : 60, small ? 96 : 320, &state, &runs);
    if (!small) failures += check_all_ran(&pointwise_kernels, configs_run, &runs);
    printf("%d passed, %d failed\n", runs - failures, failures);
    return failures != 0;
}
