/* kernels/linear against the double reference: every configuration that fits, on the shapes of real heads,
 * then on seeded awkward ones. `--small`: few and small shapes, for compute-sanitizer; `--small no-sm90a`:
 * without the configurations for sm_90a. `--bench [WHAT [PREFIX]]`: times (linear_bench.h), of the
 * configurations whose names start with PREFIX; with CUBLAS=/path/to/libcublas.so.N in the environment,
 * cuBLAS's bare product beside them. */
#include "effnet_linear.h"
#include "linear_bench.h"
#include "ulp.h"

static bool without_sm90a;

/* What a problem is made of. */
struct shape {
    int64_t m, n, k;
    int pad_x, pad_w, pad_y; /* leading dimensions beyond k, k, n */
    int x_type, y_type;
    enum activation activation;
    bool scaled, shifted;
    int offset; /* elements by which x, w and y miss 16-byte alignment */
};

struct problem {
    struct linear_args args; /* device pointers */
    struct effnet_linear_args host;
    void *x, *w, *device_x, *device_w;
    float *scale, *shift;
    struct guarded y;
};

/* Sums come out near 1 in size; scale and shift move them to both sides of every bend. */
static struct problem problem_new(const struct shape *s, uint64_t *state)
{
    struct problem p = {0};
    const int64_t ldx = s->k + s->pad_x, ldw = s->k + s->pad_w, ldy = s->n + s->pad_y;
    const size_t x_count = (size_t)(s->m * ldx) + 16, w_count = (size_t)(s->n * ldw) + 16, n = (size_t)s->n;
    p.x = noise_array(x_count, s->x_type, 3.0f, state);
    p.w = noise_array(w_count, LINEAR_FP16, 1.0f / sqrtf((float)s->k), state);
    if (s->scaled) p.scale = noise_array(n, LINEAR_FP32, 3.0f, state);
    if (s->shifted) p.shift = noise_array(n, LINEAR_FP32, 3.0f, state);
    p.device_x = device_copy(p.x, x_count * type_bytes(s->x_type));
    p.device_w = device_copy(p.w, w_count * 2);
    p.y = guarded_alloc((size_t)(s->m * ldy + s->offset) * type_bytes(s->y_type));
    const size_t x_offset = (size_t)s->offset * type_bytes(s->x_type), w_offset = (size_t)s->offset * 2;
    p.args = (struct linear_args){
        .x = (char *)p.device_x + x_offset,
        .w = (char *)p.device_w + w_offset,
        .scale = p.scale ? device_copy(p.scale, n * sizeof(float)) : NULL,
        .shift = p.shift ? device_copy(p.shift, n * sizeof(float)) : NULL,
        .y = (char *)p.y.data + (size_t)s->offset * type_bytes(s->y_type),
        .m = s->m,
        .n = s->n,
        .k = s->k,
        .ldx = ldx,
        .ldw = ldw,
        .ldy = ldy,
        .x_type = s->x_type,
        .y_type = s->y_type,
        .activation = s->activation,
    };
    p.host = (struct effnet_linear_args){
        .m = s->m,
        .n = s->n,
        .k = s->k,
        .ldx = ldx,
        .ldw = ldw,
        .ldy = ldy,
        .x = (char *)p.x + x_offset,
        .w = (char *)p.w + w_offset,
        .scale = p.scale,
        .shift = p.shift,
        .x_type = (enum effnet_type)s->x_type,
        .w_type = EFFNET_FP16,
        .y_type = (enum effnet_type)s->y_type,
        .activation = (enum effnet_activation)s->activation,
    };
    return p;
}

static void problem_free(struct problem *p)
{
    void *device[] = {p->device_x, p->device_w, (void *)p->args.scale, (void *)p->args.shift};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) CUDA_OK(cudaFree(device[i]));
    guarded_free(&p->y);
    free(p->x), free(p->w), free(p->scale), free(p->shift);
}

/* Sends a change of the host's x to the device. */
static void upload_x(struct problem *p)
{
    const size_t bytes = ((size_t)(p->args.m * p->args.ldx) + 16) * type_bytes(p->args.x_type);
    CUDA_OK(cudaMemcpy(p->device_x, p->x, bytes, cudaMemcpyHostToDevice));
}

static double element(const void *base, int type, int64_t i)
{
    return type == LINEAR_FP16 ? (double)half_to_float(((const half *)base)[i])
                               : (double)((const float *)base)[i];
}

/* ---------------------------------------------------------------- comparison */

struct tally {
    int runs, failures;
    double worst;     /* relative L2 */
    uint64_t configs; /* bit set of those that ran */
};

/* Rows to compare, and their reference. */
struct sample {
    int64_t *row;
    double *y; /* [count][n] */
    int64_t count;
};

static struct sample sample_new(const struct problem *p, int64_t most)
{
    const int64_t m = p->args.m, n = p->args.n;
    struct sample s = {.count = m < most ? m : most};
    s.row = checked_malloc((size_t)s.count * sizeof *s.row);
    s.y = checked_malloc((size_t)(s.count * n) * sizeof *s.y);
    for (int64_t i = 0; i < s.count; i++) {
        /* both ends, and evenly between, off the tiles' grid */
        s.row[i] = s.count == m ? i : i == s.count - 1 ? m - 1 : i * (m / s.count) + (i * 37) % (m / s.count);
        effnet_linear_reference(&p->host, s.row[i], s.y + i * n);
    }
    return s;
}

static void sample_free(struct sample *s)
{
    free(s->row), free(s->y);
}

/* A copy of y, which is `bytes` long, with what lies in front of an unaligned y left out. */
static void *download(const struct problem *p)
{
    const size_t bytes = (size_t)(p->args.m * p->args.ldy) * type_bytes(p->args.y_type);
    void *got = checked_malloc(bytes);
    CUDA_OK(cudaMemcpy(got, p->args.y, bytes, cudaMemcpyDeviceToHost));
    return got;
}

static bool is_nan(const void *base, int type, int64_t i)
{
    return isnan(element(base, type, i));
}

/* Whether every element is written and no other; NaN is the poison, so a row with a NaN in it is given. */
static bool written_exactly(const struct problem *p, const void *got, int64_t nan_row)
{
    for (int64_t i = 0; i < p->args.m; i++)
        for (int64_t j = 0; j < p->args.ldy; j++)
            if (i != nan_row && is_nan(got, p->args.y_type, i * p->args.ldy + j) != (j >= p->args.n))
                return false;
    return guarded_intact(&p->y);
}

/* Relative L2 over the sampled rows; infinity where a NaN or an infinity is out of place. */
static double difference(const struct problem *p, const void *got, const struct sample *s)
{
    const int64_t n = p->args.n;
    double error = 0, norm = 0;
    for (int64_t i = 0; i < s->count; i++)
        for (int64_t j = 0; j < n; j++) {
            const double o = element(got, p->args.y_type, s->row[i] * p->args.ldy + j);
            double r = s->y[i * n + j];
            if (p->args.y_type == LINEAR_FP16) r = (double)half_to_float(half_from_double(r));
            if (!isfinite(o) || !isfinite(r)) {
                if (!(isnan(o) && isnan(r)) && o != r) return INFINITY;
                continue;
            }
            error += (o - r) * (o - r), norm += r * r;
        }
    return norm > 0 ? sqrt(error / norm) : sqrt(error) > 1e-6 ? INFINITY : 0;
}

/* What the rounding of the operands and of y leaves: fp32 sums, x rounded to fp16, y rounded to fp16. A
 * sigmoid or tanh is at most 1 even where its sum is large (test_extremes), and shows that sum's error where
 * the sum comes out near 0. */
static double allowance(const struct linear_args *a)
{
    const bool bounded = a->activation == ACTIVATION_SIGMOID || a->activation == ACTIVATION_TANH;
    const double sums = bounded ? 1e-4 : 2e-5;
    return a->x_type == LINEAR_FP32 ? 2e-3 : a->y_type == LINEAR_FP16 ? 5e-4 : sums;
}

static void report(const struct linear_args *a, const char *config, const char *what)
{
    printf("FAIL %s: m %lld n %lld k %lld ld %lld %lld %lld x fp%d y fp%d %s scale %d shift %d: %s\n", config,
           (long long)a->m, (long long)a->n, (long long)a->k, (long long)a->ldx, (long long)a->ldw,
           (long long)a->ldy, a->x_type == LINEAR_FP16 ? 16 : 32, a->y_type == LINEAR_FP16 ? 16 : 32,
           ACTIVATIONS[a->activation], a->scale != NULL, a->shift != NULL, what);
}

/* Runs every configuration that fits, of which there must be one. */
static void check(struct problem *p, int64_t rows, int64_t nan_row, struct tally *tally)
{
    struct sample want = sample_new(p, rows);
    char what[128];
    int fitting = 0;
    for (int c = 0; c < kernel_count(&linear_kernels); c++) {
        const char *name = kernel_get(&linear_kernels, c)->name;
        if (!kernel_fits(&linear_kernels, c, &p->args) ||
            (without_sm90a && kernel_get(&linear_kernels, c)->architecture))
            continue;
        fitting++;
        guarded_poison(&p->y);
        const cudaError_t status = kernel_launch(&linear_kernels, c, &p->args, 0);
        if (status != cudaSuccess) {
            report(&p->args, name, cudaGetErrorString(status));
            tally->runs++, tally->failures++;
            continue;
        }
        CUDA_OK(cudaDeviceSynchronize());
        void *got = download(p);
        const double relative_l2 = difference(p, got, &want);
        const bool exact = written_exactly(p, got, nan_row);
        free(got);
        tally->runs++, tally->configs |= UINT64_C(1) << c;
        if (isfinite(relative_l2) && relative_l2 > tally->worst) tally->worst = relative_l2;
        if (!exact || !(relative_l2 <= allowance(&p->args))) {
            snprintf(what, sizeof what, "relative L2 %.2e%s", relative_l2,
                     exact ? "" : ", an element unwritten or one outside overwritten");
            report(&p->args, name, what);
            tally->failures++;
        }
    }
    if (!fitting) {
        report(&p->args, "no configuration", "nothing computes it");
        tally->runs++, tally->failures++;
    }
    sample_free(&want);
}

static void check_shape(const struct shape *s, int64_t rows, uint64_t *state, struct tally *tally)
{
    struct problem p = problem_new(s, state);
    check(&p, rows, -1, tally);
    problem_free(&p);
}

/* ---------------------------------------------------------------- tests */

static void test_heads(uint64_t *state, struct tally *tally)
{
    const int64_t m[] = {1, 10, 64, 256, 1024};
    for (int i = 0; i < 5; i++)
        for (int y_type = LINEAR_FP16; y_type <= LINEAR_FP32; y_type++) {
            check_shape(&(struct shape){m[i], 1000, 1280, .y_type = y_type, .shifted = true}, 64, state,
                        tally);
            check_shape(&(struct shape){m[i], 512, 1280, .y_type = y_type, .scaled = true, .shifted = true,
                                        .activation = ACTIVATION_GELU_RELU},
                        64, state, tally);
        }
}

/* The two layers of a squeeze-and-excite block, between a pooled map and its gate. */
static void test_gates(uint64_t *state, struct tally *tally)
{
    static const int widths[][2] = {{96, 4}, {144, 6}, {240, 10}, {672, 28}, {1152, 48}};
    static const int rows[] = {1, 10, 77};
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < 3; j++) {
            const int wide = widths[i][0], narrow = widths[i][1];
            check_shape(
                &(struct shape){rows[j], narrow, wide, .shifted = true, .activation = ACTIVATION_SILU},
                rows[j], state, tally);
            check_shape(
                &(struct shape){rows[j], wide, narrow, .shifted = true, .activation = ACTIVATION_SIGMOID},
                rows[j], state, tally);
        }
}

static void test_large(uint64_t *state, struct tally *tally)
{
    for (int y_type = LINEAR_FP16; y_type <= LINEAR_FP32; y_type++)
        check_shape(&(struct shape){16384, 4096, 4096, .y_type = y_type, .scaled = true, .shifted = true,
                                    .activation = ACTIVATION_GELU_RELU},
                    6, state, tally);
    check_shape(&(struct shape){3001, 2056, 4104, .y_type = LINEAR_FP32, .shifted = true}, 12, state, tally);
    /* wgmma: steps of 64 in k fewer than its consumers lie apart, as many, and more; tails of rows and
     * columns */
    static const int64_t k[] = {64, 960, 1016, 1024, 1032, 1280, 2056};
    for (int i = 0; i < 7; i++)
        check_shape(&(struct shape){401, 772 + 4 * i, k[i], .pad_y = i % 2 ? 4 : 8, .y_type = i % 2,
                                    .scaled = true, .shifted = true},
                    401, state, tally);
    /* several of its tiles one after the other, with steps that both consumers make and without */
    check_shape(&(struct shape){16390, 516, 72, .shifted = true}, 40, state, tally);
    check_shape(&(struct shape){13001, 516, 1160, .y_type = LINEAR_FP32, .scaled = true}, 24, state, tally);
}

/* Every activation on an aligned and an unaligned shape of several tiles. */
static void test_activations(uint64_t *state, struct tally *tally)
{
    for (int activation = 0; activation < ACTIVATION_COUNT; activation++)
        for (int y_type = LINEAR_FP16; y_type <= LINEAR_FP32; y_type++)
            for (int odd = 0; odd < 2; odd++)
                check_shape(&(struct shape){301, 264 + odd, 200 + odd, .y_type = y_type, .scaled = true,
                                            .shifted = true, .activation = (enum activation)activation},
                            301, state, tally);
}

static void test_awkward(int count, int largest, uint64_t *state, struct tally *tally)
{
    static const int sizes[] = {1,  2,  3,  7,   8,   9,   15,  16,  17,  31,  33,
                                63, 64, 65, 126, 127, 128, 129, 255, 256, 257, 300};
    int known = 0;
    while (known < (int)(sizeof sizes / sizeof *sizes) && sizes[known] <= largest) known++;
    for (int t = 0; t < count; t++) {
        int64_t size[3];
        for (int i = 0; i < 3; i++)
            size[i] = random_int(state, 0, 2) ? sizes[random_int(state, 0, known - 1)]
                                              : random_int(state, 1, largest);
        const bool aligned = random_int(state, 0, 1);
        if (aligned) size[2] = (size[2] + 7) / 8 * 8;
        struct shape s = {
            size[0],
            size[1],
            size[2],
            .pad_x = aligned ? 8 * random_int(state, 0, 2) : random_int(state, 0, 9),
            .pad_w = aligned ? 8 * random_int(state, 0, 2) : random_int(state, 0, 9),
            .pad_y = random_int(state, 0, 9),
            .x_type = random_int(state, 0, 3) == 0,
            .y_type = random_int(state, 0, 1),
            .activation = (enum activation)random_int(state, 0, ACTIVATION_COUNT - 1),
            .scaled = random_int(state, 0, 1),
            .shifted = random_int(state, 0, 1),
            .offset = aligned ? 0 : random_int(state, 0, 3),
        };
        if (aligned && random_int(state, 0, 1))
            s.pad_y = (int)((s.n + 7) / 8 * 8 - s.n); /* rows of y aligned to 16 bytes */
        check_shape(&s, largest, state, tally);
    }
}

/* For compute-sanitizer: every configuration, on few and small shapes: each way that x is loaded, tails of
 * every tile, enough of k for every split of it. */
static void test_small(uint64_t *state, struct tally *tally)
{
    for (int y_type = LINEAR_FP16; y_type <= LINEAR_FP32; y_type++)
        check_shape(&(struct shape){139, 272, 328, .y_type = y_type, .scaled = true, .shifted = true,
                                    .activation = ACTIVATION_GELU_RELU},
                    139, state, tally);
    check_shape(&(struct shape){35, 72, 136, .x_type = LINEAR_FP32, .y_type = LINEAR_FP32}, 35, state, tally);
    check_shape(&(struct shape){19, 33, 41, .shifted = true, .offset = 1}, 19, state, tally);
    /* more tiles of the largest than the chip holds at once */
    check_shape(&(struct shape){13500, 36, 136, .shifted = true}, 40, state, tally);
}

/* The largest and smallest fp16 numbers, subnormals, and a row with a NaN and one with an infinity. */
static void test_extremes(uint64_t *state, struct tally *tally)
{
    static const float values[] = {65504.0f, -65504.0f, 0x1p-24f, -0x1p-24f, 0x1.ff8p-15f, 0.0f, -0.0f, 1.0f};
    for (int y_type = LINEAR_FP16; y_type <= LINEAR_FP32; y_type++)
        for (int activation = 0; activation < ACTIVATION_COUNT; activation++) {
            struct shape s = {
                150, 136, 72, .y_type = y_type, .shifted = true, .activation = (enum activation)activation};
            struct problem p = problem_new(&s, state);
            half *x = p.x;
            for (int64_t i = 0; i < s.m * s.k; i++) x[i] = half_from_float(values[random_int(state, 0, 7)]);
            upload_x(&p);
            check(&p, s.m, -1, tally);
            x[140 * s.k + 71] = half_from_float(NAN);
            upload_x(&p);
            check(&p, s.m, 140, tally);
            problem_free(&p);
        }
    /* An infinity makes +-infinity of one sign or the other, or a NaN after GELU, in its own row. */
    struct shape s = {33, 40, 64, .y_type = LINEAR_FP32, .activation = ACTIVATION_RELU};
    struct problem p = problem_new(&s, state);
    ((half *)p.x)[17 * s.k + 5] = half_from_float(INFINITY);
    upload_x(&p);
    check(&p, s.m, 17, tally);
    problem_free(&p);
}

/* The same bits on a second run, and for a row alone. */
static void test_repeatable(uint64_t *state, struct tally *tally)
{
    struct shape s = {420,
                      328,
                      1160, /* wgmma: more steps than its consumers lie apart */
                      .y_type = LINEAR_FP32,
                      .scaled = true,
                      .shifted = true,
                      .activation = ACTIVATION_GELU_RELU};
    struct problem p = problem_new(&s, state);
    const size_t row_bytes = (size_t)p.args.ldy * 4;
    for (int c = 0; c < kernel_count(&linear_kernels); c++) {
        if (!kernel_fits(&linear_kernels, c, &p.args)) continue;
        CUDA_OK(kernel_launch(&linear_kernels, c, &p.args, 0));
        char *first = download(&p);
        guarded_poison(&p.y);
        CUDA_OK(kernel_launch(&linear_kernels, c, &p.args, 0));
        char *second = download(&p);
        bool same = !memcmp(first, second, row_bytes * (size_t)s.m);
        for (int64_t row = 3; row < s.m; row += 98) {
            struct linear_args one = p.args;
            one.m = 1;
            one.x = (const char *)one.x + row * one.ldx * 2;
            CUDA_OK(kernel_launch(&linear_kernels, c, &one, 0));
            CUDA_OK(cudaMemcpy(second, one.y, row_bytes, cudaMemcpyDeviceToHost));
            same = same && !memcmp(second, first + (size_t)row * row_bytes, row_bytes);
        }
        tally->runs++;
        if (!same)
            report(&p.args, kernel_get(&linear_kernels, c)->name,
                   "other bits on a second run, or for a row alone"),
                tally->failures++;
        free(first), free(second);
    }
    problem_free(&p);
}

/* What an error is counted in: an ulp of the result, of the argument, or of Phi times the argument. */
enum measure { OF_RESULT, OF_ARGUMENT, OF_PHI };

/* The epilogue on the device at chosen numbers: x is 0, so that y = act(shift). Returns the worst error. */
static double sweep(enum activation activation, float low, float high, enum measure measure)
{
    enum { COUNT = 1 << 20 };
    float *v = checked_malloc(COUNT * sizeof *v), *got = checked_malloc(COUNT * sizeof *got);
    for (int i = 0; i < COUNT; i++) v[i] = low + (high - low) * ((float)i / COUNT);
    void *zero = NULL, *w = NULL, *y = NULL;
    CUDA_OK(cudaMalloc(&zero, 16));
    CUDA_OK(cudaMemset(zero, 0, 16));
    CUDA_OK(cudaMalloc(&w, (size_t)COUNT * 16));
    CUDA_OK(cudaMemset(w, 0, (size_t)COUNT * 16));
    CUDA_OK(cudaMalloc(&y, COUNT * sizeof *got));
    float *shift = device_copy(v, COUNT * sizeof *v);
    const struct linear_args a = {.x = zero,
                                  .w = w,
                                  .shift = shift,
                                  .y = y,
                                  .m = 1,
                                  .n = COUNT,
                                  .k = 8,
                                  .ldx = 8,
                                  .ldw = 8,
                                  .ldy = COUNT,
                                  .y_type = LINEAR_FP32,
                                  .activation = activation};
    CUDA_OK(kernel_launch(&linear_kernels, linear_choose(&a), &a, 0));
    CUDA_OK(cudaMemcpy(got, y, COUNT * sizeof *got, cudaMemcpyDeviceToHost));
    double worst = 0;
    for (int i = 0; i < COUNT; i++) {
        const double x = v[i], phi = 0.5 * erfc(-x * M_SQRT1_2);
        const double want = activation == ACTIVATION_SIGMOID              ? 1 / (1 + exp(-x))
                            : activation == ACTIVATION_TANH               ? tanh(x)
                            : activation == ACTIVATION_HARDSWISH          ? x * fmin(fmax(x + 3, 0), 6) / 6
                            : activation == ACTIVATION_GELU_RELU && x < 0 ? 0
                                                                          : x * phi;
        const double unit = measure == OF_RESULT     ? ulp((float)want)
                            : measure == OF_ARGUMENT ? ulp(v[i])
                                                     : fabs(x) * ulp((float)phi);
        const double e = unit > 0 ? fabs((double)got[i] - want) / unit : 0;
        if (!(e <= worst)) worst = e;
    }
    void *all[] = {zero, w, y, shift};
    for (int i = 0; i < 4; i++) CUDA_OK(cudaFree(all[i]));
    free(v), free(got);
    return worst;
}

/* Phi within 2 ulp makes x Phi(x) within 4.5: Phi's ulp is up to twice as large, relatively, as the result's,
 * which is rounded once more. Counted in ulp of Phi that rounding is at most 1. GELU's left side is a
 * difference, so there the argument's ulp counts. */
static void test_accuracy(struct tally *tally)
{
    const double one_sided = sweep(ACTIVATION_GELU_RELU, 0.0f, 12.0f, OF_RESULT),
                 phi = sweep(ACTIVATION_GELU_RELU, 0.0f, 12.0f, OF_PHI);
    const double negative = sweep(ACTIVATION_GELU_RELU, -12.0f, 0.0f, OF_RESULT);
    const double right = sweep(ACTIVATION_GELU, 0.0f, 12.0f, OF_RESULT),
                 left = sweep(ACTIVATION_GELU, -12.0f, 0.0f, OF_ARGUMENT);
    printf("GELU+ReLU: %.2f ulp for x > 0, %.2f of Phi, %.2f below 0\n", one_sided, phi, negative);
    /* x log2(e) is rounded, which costs e^-x up to |x| ulps; a few more for the power and the division */
    const double sigmoid = sweep(ACTIVATION_SIGMOID, -12.0f, 12.0f, OF_RESULT);
    printf("GELU: %.2f ulp for x > 0, below it %.2f of x; sigmoid: %.2f ulp\n", right, left, sigmoid);
    const double hardswish = sweep(ACTIVATION_HARDSWISH, -4.0f, 4.0f, OF_RESULT);
    const double tangent = sweep(ACTIVATION_TANH, -12.0f, 12.0f, OF_RESULT);
    printf("hardswish: %.2f ulp; tanh: %.2f ulp\n", hardswish, tangent);
    tally->runs += 8;
    tally->failures += !(one_sided <= 4.5) + !(phi <= 3) + !(negative == 0) + !(right <= 4.5) +
                       !(left <= 4.5) + !(sigmoid <= 24) + !(hardswish <= 3) + !(tangent <= 6);
}

/* Refusals need no device. */
static int check_refusals(void)
{
    static float memory[64];
    const struct linear_args good = {
        .x = memory, .w = memory, .y = memory, .m = 8, .n = 8, .k = 8, .ldx = 8, .ldw = 8, .ldy = 8};
    int failures = linear_check(&good) != cudaSuccess;
#define REFUSED(change, status)                                                                              \
    do {                                                                                                     \
        struct linear_args a = good;                                                                         \
        change;                                                                                              \
        if (linear_check(&a) != (status)) failures++, printf("FAIL refusals: %s\n", #change);                \
    } while (0)
    REFUSED(a.m = 0, cudaErrorInvalidValue);
    REFUSED(a.n = -3, cudaErrorInvalidValue);
    REFUSED(a.k = 0, cudaErrorInvalidValue);
    REFUSED(a.x = NULL, cudaErrorInvalidValue);
    REFUSED(a.ldx = 7, cudaErrorInvalidValue);
    REFUSED(a.ldw = 7, cudaErrorInvalidValue);
    REFUSED(a.ldy = 7, cudaErrorInvalidValue);
    REFUSED(a.x_type = 2, cudaErrorInvalidValue);
    REFUSED(a.activation = ACTIVATION_COUNT, cudaErrorInvalidValue);
    REFUSED(a.x = (const char *)a.x + 1, cudaErrorMisalignedAddress);
    REFUSED(a.y_type = LINEAR_FP32; a.y = (char *)a.y + 2, cudaErrorMisalignedAddress);
    REFUSED(a.shift = (const float *)((const char *)memory + 2), cudaErrorMisalignedAddress);
    REFUSED(a.m = LINEAR_SIZE_MAX + 1ll, cudaErrorInvalidConfiguration);
    REFUSED(a.ldy = INT64_C(1) << 32, cudaErrorInvalidConfiguration);
    if (kernel_launch(&linear_kernels, kernel_count(&linear_kernels), &good, 0) != cudaErrorInvalidValue)
        failures++;
    if (kernel_get(&linear_kernels, -1) || kernel_get(&linear_kernels, kernel_count(&linear_kernels)))
        failures++;
    if (kernel_find(&linear_kernels, kernel_get(&linear_kernels, 3)->name) != 3) failures++;
    if (kernel_find(&linear_kernels, "none") != -1) failures++;
    return failures;
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && !strcmp(argv[1], "--small"),
               timing = argc > 1 && !strcmp(argv[1], "--bench");
    struct tally tally = {0};
    if (check_refusals()) return 1;
    gpu_require();
    uint64_t state = random_seed("shapes and data", 20260204);
    if (timing) {
        bench(argc > 2 ? argv[2] : NULL, argc > 3 ? argv[3] : "", &state);
        return 0;
    }
    without_sm90a = small && argc > 2 && !strcmp(argv[2], "no-sm90a");
    if (small) {
        test_small(&state, &tally);
    } else {
        test_awkward(300, 600, &state, &tally);
        test_activations(&state, &tally);
        test_extremes(&state, &tally);
        test_repeatable(&state, &tally);
        test_accuracy(&tally);
        test_heads(&state, &tally);
        test_gates(&state, &tally);
        test_large(&state, &tally);
    }
    if (!small) tally.failures += check_all_ran(&linear_kernels, tally.configs, &tally.runs);
    printf("worst relative L2 %.1e", tally.worst);
    printf("\n%d passed, %d failed\n", tally.runs - tally.failures, tally.failures);
    return tally.failures != 0;
}
