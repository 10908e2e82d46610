/* One linear layer on random data, verified, then timed. */
#include "cli/bench/bench.h"
#include "common/cpu.h"
#include "common/half.h"
#include "common/nvidia.h"
#include "common/random.h"
#include "common/rows.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SIZE_MAX_OPTION = 1 << 20,
    SWEEP_LAST = 65536,
    ROWS_MIN = 4, /* verified, where there are so many */
    ROWS_MAX = 64,
};
static const double REFERENCE_PRODUCTS = 1e8; /* multiply-adds in double that verifying may cost */

static const struct epilogue {
    const char *name;
    bool bias, batch_norm;
    enum effnet_activation activation;
} epilogues[] = {
    {"none", false, false, EFFNET_ACT_NONE},
    {"bias", true, false, EFFNET_ACT_NONE},
    {"relu", true, false, EFFNET_ACT_RELU},
    {"relu6", true, false, EFFNET_ACT_RELU6},
    {"silu", true, false, EFFNET_ACT_SILU},
    {"gelu", true, false, EFFNET_ACT_GELU},
    {"bn-gelu-relu", true, true, EFFNET_ACT_GELU_RELU},
};

struct linear_options {
    struct pass_options passes;
    int64_t m, n, k, seed;
    const char *epilogue, *x_type, *y_type, *device;
    double pause; /* milliseconds before each pass, or 0 */
    bool m_given, sweep, quiet;
};

struct linear {
    const struct linear_options *options;
    struct report *report;
    const char *device; /* as the library takes it */
    struct effnet_linear_args args;
    void *x, *w;
    float *scale, *shift;
    double peak; /* TFLOP/s */
    char peak_of[96];
    effnet_linear_bench *layer; /* of the shape at hand */
    double relative_l2;         /* of its sampled rows; NaN where nothing is verified */
    struct samples samples;
};

static const char *type_name(enum effnet_type type)
{
    return type == EFFNET_FP16 ? "fp16" : "fp32";
}

/* ---------------------------------------------------------------- the device */

/* "auto" is the GPU where there is one on which a small layer opens; else the CPU, with a line that says why
 * unless the machine has no such hardware. */
static const char *find_device(const struct linear_options *o)
{
    if (strcmp(o->device, "auto") != 0) return o->device;
    if (!effnet_nvidia_hardware("")) return "cpu";
    enum { SIDE = 8 };
    static const uint16_t zeros[SIDE * SIDE]; /* fp16 */
    const struct effnet_linear_args args = {
        .m = SIDE, .n = SIDE, .k = SIDE, .x = zeros, .w = zeros, .ldx = SIDE, .ldw = SIDE};
    struct effnet_error error;
    effnet_linear_bench *layer;
    if (!effnet_linear_bench_open(&args, "cuda", false, 1, &layer, &error)) {
        effnet_linear_bench_close(layer);
        return "cuda";
    }
    char notice[600];
    snprintf(notice, sizeof notice, "using the CPU: %s", error.message);
    if (!o->quiet) cli_notice(notice);
    return "cpu";
}

static bool on_gpu(const struct linear *linear)
{
    return strncmp(linear->device, "cuda", 4) == 0;
}

/* ---------------------------------------------------------------- random data */

/* Nearly normal, mean 0, variance 1: the sum of four uniform numbers. */
static double next_normal(uint64_t *state)
{
    const uint64_t bits = random_next(state);
    int sum = 0;
    for (int i = 0; i < 64; i += 16) sum += (int16_t)(bits >> i);
    return (sum + 2) * (0.8660254037844386 / 32768); /* the mean of int16_t is -1/2; sqrt(3)/2 */
}

static void *make_noise(int64_t count, enum effnet_type type, double size, double offset, uint64_t seed)
{
    void *data = malloc((size_t)count * effnet_type_bytes(type));
    for (int64_t i = 0; data && i < count; i++) {
        const double v = offset + size * next_normal(&seed);
        if (type == EFFNET_FP16)
            ((half *)data)[i] = half_from_double(v);
        else
            ((float *)data)[i] = (float)v;
    }
    return data;
}

/* scale and shift of a bias and, where the epilogue has it, of batch norm. */
static int make_columns(struct linear *linear, const struct epilogue *epilogue, uint64_t seed)
{
    enum { BIAS, GAMMA, BETA, MEAN, VARIANCE, PARTS };
    const int64_t n = linear->args.n;
    float *part[PARTS] = {NULL};
    bool made = true;
    for (int i = 0; i < PARTS; i++) {
        part[i] = make_noise(n, EFFNET_FP32, i == VARIANCE ? 0.1 : 0.5, i == VARIANCE || i == GAMMA,
                             seed + (uint64_t)i);
        made = made && part[i];
    }
    for (int64_t j = 0; made && j < n; j++) part[VARIANCE][j] = fabsf(part[VARIANCE][j]);
    if (epilogue->batch_norm) linear->scale = malloc((size_t)n * sizeof(float));
    if (epilogue->bias) linear->shift = malloc((size_t)n * sizeof(float));
    made = made && (linear->scale || !epilogue->batch_norm) && (linear->shift || !epilogue->bias);
    if (made && epilogue->batch_norm)
        effnet_fold_batch_norm(n, part[BIAS], part[GAMMA], part[BETA], part[MEAN], part[VARIANCE], 1e-5,
                               linear->scale, linear->shift);
    else if (made && epilogue->bias)
        memcpy(linear->shift, part[BIAS], (size_t)n * sizeof(float));
    for (int i = 0; i < PARTS; i++) free(part[i]);
    return made ? EFFNET_OK : cli_fail_nomem("the columns' parameters");
}

/* Refuses what cannot fit into this machine's memory, before any of it is touched. */
static int check_memory(const struct linear *linear)
{
    const struct effnet_linear_args *a = &linear->args;
    const double x = (double)a->m * (double)a->k, w = (double)a->n * (double)a->k,
                 y = (double)a->m * (double)a->n;
    double bytes = x * (double)effnet_type_bytes(a->x_type) + w * (double)effnet_type_bytes(a->w_type);
    /* on the CPU y too, and fp32 copies of what is fp16 */
    if (!on_gpu(linear))
        bytes += y * (double)effnet_type_bytes(a->y_type) + (a->x_type == EFFNET_FP16 ? 4 * x : 0) +
                 (a->w_type == EFFNET_FP16 ? 4 * w : 0) + (a->y_type == EFFNET_FP16 ? 4 * y : 0);
    const double most = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (bytes <= most) return EFFNET_OK;
    return cli_fail(EFFNET_E_NOMEM, "bench linear: the arrays are %.1f GB, this machine's memory %.1f GB",
                    bytes * 1e-9, most * 1e-9);
}

static void free_arrays(struct linear *linear)
{
    free(linear->x);
    free(linear->w);
    free(linear->scale);
    free(linear->shift);
    linear->x = linear->w = NULL;
    linear->scale = linear->shift = NULL;
}

static const struct epilogue *find_epilogue(const char *name)
{
    size_t i = 0;
    while (strcmp(epilogues[i].name, name) != 0) i++;
    return &epilogues[i];
}

/* Sums come out near 1 in size: on both sides of the activations' bends. */
static int make_arrays(struct linear *linear, const struct epilogue *epilogue, int64_t m, int64_t n,
                       int64_t k, enum effnet_type x_type, enum effnet_type y_type)
{
    const uint64_t seed = (uint64_t)linear->options->seed * 16;
    struct effnet_linear_args *a = &linear->args;
    *a = effnet_linear_defaults(m, n, k);
    a->x_type = x_type;
    a->w_type = on_gpu(linear) ? EFFNET_FP16 : x_type;
    a->y_type = y_type;
    a->activation = epilogue->activation;
    EFFNET_TRY(check_memory(linear));
    linear->x = make_noise(m * k, a->x_type, 1, 0, seed);
    linear->w = make_noise(n * k, a->w_type, 1 / sqrt((double)k), 0, seed + 1);
    if (!linear->x || !linear->w) return cli_fail_nomem("the arrays");
    EFFNET_TRY(make_columns(linear, epilogue, seed + 2));
    a->x = linear->x;
    a->w = linear->w;
    a->scale = linear->scale;
    a->shift = linear->shift;
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- verifying */

/* What the rounding of operands and results leaves: on a GPU x and w are fp16, and sums fp32. */
static double allowance(const struct linear *linear)
{
    const struct effnet_linear_args *a = &linear->args;
    if (on_gpu(linear) && a->x_type == EFFNET_FP32) return 2e-3;
    return a->y_type == EFFNET_FP16 ? 5e-4 : 5e-5;
}

/* Both ends and, between them, rows off the tiles' grid. */
static int sample_rows(const struct effnet_linear_args *a, int64_t rows[ROWS_MAX])
{
    const double affordable = REFERENCE_PRODUCTS / ((double)a->n * (double)a->k);
    int64_t count = affordable > ROWS_MAX ? ROWS_MAX : affordable < ROWS_MIN ? ROWS_MIN : (int64_t)affordable;
    if (count > a->m) count = a->m;
    for (int64_t i = 0; i < count; i++)
        rows[i] = i + 1 == count ? a->m - 1 : i * (a->m / count) + i * 37 % (a->m / count);
    return (int)count;
}

static int verify(struct linear *linear)
{
    const struct effnet_linear_args *a = &linear->args;
    const size_t n = (size_t)a->n;
    int64_t rows[ROWS_MAX];
    const int count = sample_rows(a, rows);
    struct effnet_error error;
    float *got = malloc((size_t)count * n * sizeof *got);
    double *want = malloc(n * sizeof *want), difference = 0, size = 0;
    int status = got && want ? EFFNET_OK : cli_fail_nomem("the reference");
    if (!status && effnet_linear_bench_rows(linear->layer, rows, count, got, &error))
        status = cli_fail_library(&error);
    for (int i = 0; !status && i < count; i++) {
        effnet_linear_reference(a, rows[i], want);
        for (size_t j = 0; j < n; j++) {
            const double d = (double)got[(size_t)i * n + j] - want[j];
            difference += d * d;
            size += want[j] * want[j];
        }
    }
    free(got);
    free(want);
    if (status) return status;
    linear->relative_l2 = difference > 0 ? sqrt(difference / size) : difference; /* NaN stays one */
    if (linear->relative_l2 <= allowance(linear)) return EFFNET_OK;
    return cli_fail(CLI_MISS,
                    "bench linear: m %" PRId64 " is wrong: relative L2 %.2e of %d rows, allowed %.0e", a->m,
                    linear->relative_l2, count, allowance(linear));
}

/* ---------------------------------------------------------------- timing */

static void rest(double ms)
{
    struct timespec left = {.tv_sec = (time_t)(ms / 1e3), .tv_nsec = (long)(fmod(ms, 1e3) * 1e6)};
    while (nanosleep(&left, &left)) continue;
}

static int time_layer(struct linear *linear, struct samples *samples)
{
    struct effnet_error error;
    double elapsed_us;
    if (effnet_linear_bench_time(linear->layer, &elapsed_us, &error)) return cli_fail_library(&error);
    return samples_add(samples, elapsed_us);
}

static int pass_linear(void *context, struct samples *samples)
{
    struct linear *linear = context;
    if (linear->options->pause > 0) rest(linear->options->pause);
    return time_layer(linear, samples);
}

/* calls: in a pass; 0 for as many as make a good one. */
static int open_layer(struct linear *linear, bool cold, int calls)
{
    struct effnet_error error;
    return effnet_linear_bench_open(&linear->args, linear->device, cold, calls, &linear->layer, &error)
               ? cli_fail_library(&error)
               : EFFNET_OK;
}

static void close_layer(struct linear *linear)
{
    effnet_linear_bench_close(linear->layer);
    linear->layer = NULL;
    samples_free(&linear->samples);
}

static double flops(const struct effnet_linear_args *a)
{
    return 2.0 * (double)a->m * (double)a->n * (double)a->k;
}

/* What the machine can do: the fastest pass of a large plain product of ours, or what the user says. */
static int find_peak(struct linear *linear)
{
    enum { PASSES = 20 };
    const double given = linear->options->passes.peak_compute, start_us = effnet_clock_us();
    if (given > 0) {
        linear->peak = given * 1e-3;
        snprintf(linear->peak_of, sizeof linear->peak_of, "as given");
        return EFFNET_OK;
    }
    const bool gpu = on_gpu(linear);
    const enum effnet_type type = gpu ? EFFNET_FP16 : EFFNET_FP32;
    int status = make_arrays(linear, find_epilogue("none"), gpu ? 16384 : 1024, gpu ? 4096 : 1024,
                             gpu ? 4096 : 1024, type, type);
    if (!status) status = open_layer(linear, false, 1);
    for (int i = 0; !status && i < PASSES && (!i || effnet_clock_us() - start_us < 5e6); i++)
        status = time_layer(linear, &linear->samples);
    if (!status) {
        const struct statistics s = statistics_of(linear->samples.values, linear->samples.count);
        linear->peak = flops(&linear->args) / s.minimum * 1e-6;
        snprintf(linear->peak_of, sizeof linear->peak_of,
                 "fastest of %zu plain products, %" PRId64 " x %" PRId64 " x %" PRId64 " %s",
                 linear->samples.count, linear->args.m, linear->args.n, linear->args.k, type_name(type));
    }
    close_layer(linear);
    free_arrays(linear);
    return status;
}

static void begin_report(struct linear *linear)
{
    static const struct column columns[] = {
        {"m", "M", VALUE_NUMBER},
        {"n", "N", VALUE_NUMBER},
        {"k", "K", VALUE_NUMBER},
        {"cache", "cache", VALUE_TEXT},
        {"kernel", "kernel", VALUE_TEXT},
        {"calls", "calls a pass", VALUE_NUMBER},
        PASS_COLUMNS("us"),
        {"tflop_per_s", "TFLOP/s", VALUE_NUMBER},
        {"gb_per_s", "GB/s", VALUE_NUMBER},
        {"peak_percent", "peak %", VALUE_NUMBER},
        {"relative_l2", "relative L2", VALUE_NUMBER},
    };
    const struct linear_options *o = linear->options;
    const struct effnet_linear_bench_info *info = effnet_linear_bench_get_info(linear->layer);
    struct report *report = linear->report;
    report_fact(report, VALUE_TEXT, "backend", "backend", "%s", info->backend);
    report_fact(report, VALUE_TEXT, "device", "device", "%s", info->device);
    report_fact(report, VALUE_TEXT, "epilogue", "epilogue", "%s", o->epilogue);
    report_fact(report, VALUE_TEXT, "x_type", "x", "%s", type_name(linear->args.x_type));
    report_fact(report, VALUE_TEXT, "w_type", "w", "%s", type_name(linear->args.w_type));
    report_fact(report, VALUE_TEXT, "y_type", "y", "%s", type_name(linear->args.y_type));
    report_fact(report, VALUE_NUMBER, "seed", "seed", "%" PRId64, o->seed);
    report_fact(report, VALUE_BOOL, "verified", "verified", "%s", report_bool(!o->passes.no_verify));
    report_fact(report, VALUE_NUMBER, "pause_ms", "pause ms", "%g", o->pause);
    report_fact(report, VALUE_NUMBER, "warmup", "warm-up passes", "%" PRId64, o->passes.warmup);
    report_fact(report, VALUE_NUMBER, "peak_tflop_per_s", "peak TFLOP/s", "%.4g", linear->peak);
    report_fact(report, VALUE_TEXT, "peak_of", "peak is", "%s", linear->peak_of);
    report_table(report, "results", "Linear layer", columns, sizeof columns / sizeof columns[0]);
}

static void report_shape(struct linear *linear)
{
    const struct effnet_linear_args *a = &linear->args;
    const struct effnet_linear_bench_info *info = effnet_linear_bench_get_info(linear->layer);
    const struct statistics s = statistics_of(linear->samples.values, linear->samples.count);
    const double m = (double)a->m, n = (double)a->n, k = (double)a->k;
    const double bytes = m * k * (double)effnet_type_bytes(a->x_type) +
                         n * k * (double)effnet_type_bytes(a->w_type) +
                         m * n * (double)effnet_type_bytes(a->y_type);
    const double rate = flops(a) / s.median * 1e-6;
    char cells[PASS_CELLS_SIZE];
    report_row(linear->report,
               "%" PRId64 "\t%" PRId64 "\t%" PRId64 "\t%s\t%s\t%d\t%s\t%.4g\t%.1f\t%.1f\t%.2e", a->m, a->n,
               a->k, linear->options->passes.cold ? "cold" : "warm", info->kernel, info->calls,
               pass_cells(&s, 1, 2, cells), rate, bytes / s.median * 1e-3, 100 * rate / linear->peak,
               linear->relative_l2);
}

/* One row of the table: the first m rows of x. */
static int bench_shape(struct linear *linear, int64_t m)
{
    const struct pass_options *o = &linear->options->passes;
    linear->args.m = m;
    linear->relative_l2 = NAN;
    int status = open_layer(linear, o->cold, linear->options->pause > 0);
    if (!status && !o->no_verify) status = verify(linear);
    if (!status && !linear->report) {
        status = report_open(o->format, stdout, &linear->report);
        if (!status) begin_report(linear);
    }
    if (!status) status = passes_run(o, pass_linear, linear, &linear->samples);
    if (!status) report_shape(linear);
    close_layer(linear);
    return status;
}

static int bench_linear(const struct linear_options *o)
{
    struct linear linear = {.options = o, .device = find_device(o)};
    const bool fp16 = o->x_type ? !strcmp(o->x_type, "fp16") : on_gpu(&linear);
    const enum effnet_type y_type = strcmp(o->y_type, "fp16") ? EFFNET_FP32 : EFFNET_FP16;
    int status = find_peak(&linear);
    if (!status)
        status = make_arrays(&linear, find_epilogue(o->epilogue), o->sweep ? SWEEP_LAST : o->m, o->n, o->k,
                             fp16 ? EFFNET_FP16 : EFFNET_FP32, y_type);
    for (int64_t m = o->sweep ? 1 : o->m; !status && m <= (o->sweep ? SWEEP_LAST : o->m); m *= 2)
        status = bench_shape(&linear, m);
    const int printed = report_close(linear.report); /* what was measured before a failure, too */
    free_arrays(&linear);
    return status ? status : printed;
}

int cmd_bench_linear(int argc, char **argv)
{
    static const struct command_help help = {
        "bench linear",
        "[options]",
        "Measures one linear layer, y = epilogue(x w'), x of M x K, w of N x K, on random data: holds rows\n"
        "of y against the reference in double precision, warms up, and times. Prints median, min, p90, p99\n"
        "(nearest rank), and of the median TFLOP/s, GB/s (each array once) and percent of the peak: that\n"
        "of the fastest of a few large plain products in the same run. On a GPU a pass is several calls in\n"
        "a row, on its own clock. Exits with 1 where the results are wrong.",
    };
    struct linear_options o = {.passes = pass_defaults,
                               .m = 16384,
                               .n = 4096,
                               .k = 4096,
                               .seed = 1,
                               .epilogue = "bn-gelu-relu",
                               .y_type = "fp32",
                               .device = "auto"};
    const struct option_spec options[] = {
        OPTION_SPEC(0, "m", "M", "rows of x (default 16384)", OPTION_INTEGER, int64_t, &o.m, 1,
                    SIZE_MAX_OPTION, &o.m_given),
        INTEGER(0, "n", "N", "rows of w: outputs (default 4096)", &o.n, 1, SIZE_MAX_OPTION),
        INTEGER(0, "k", "K", "columns of both: inputs (default 4096)", &o.k, 1, SIZE_MAX_OPTION),
        FLAG(0, "sweep", "M = 1, 2, 4, ... 65536 instead, one measure each", &o.sweep),
        CHOICE(0, "epilogue", "none|bias|relu|relu6|silu|gelu|bn-gelu-relu",
               "what follows the product; all but none begin with a bias\n(default bn-gelu-relu)",
               &o.epilogue),
        CHOICE(0, "x-type", "fp16|fp32",
               "type of x (default: fp16 on a GPU, fp32 on the CPU); w is fp16 on\na GPU, on the CPU as x",
               &o.x_type),
        CHOICE(0, "y-type", "fp16|fp32", "type of y (default fp32)", &o.y_type),
        INTEGER(0, "seed", "N", "of the random data (default 1)", &o.seed, 0, 0x1p53 - 1),
        REAL(0, "pause", "MS",
             "rest so long before each pass, which then is one call (on a GPU, warm:\n"
             "right after one that is not timed); without a pause a GPU reaches its\n"
             "limit of power (default 0)",
             &o.pause, 0, 60000),
        FLAG(0, "cold", "every call finds its inputs outside the caches", &o.passes.cold),
        REAL(0, "peak-compute", "GFLOP/S", "the machine's arithmetic, instead of measuring it",
             &o.passes.peak_compute, 0.001, 1e12),
        PASS_OPTIONS(&o.passes),
        TEXT(0, "device", "NAME",
             "auto, cpu, cuda or cuda:N (default auto: the GPU where there is one,\nelse the CPU)",
             &o.device),
        FLAG('q', "quiet", "no notices on standard error; errors stay", &o.quiet),
    };
    const struct option_group group = {"Options", options, sizeof options / sizeof options[0]};
    int first = args_parse(&help, &group, 1, argc, argv);
    if (first <= 0) return first;
    if (first < argc)
        return cli_fail(EFFNET_E_USAGE, "bench linear: unexpected '%s' (see 'effnet bench linear --help')",
                        argv[first]);
    if (o.sweep && o.m_given)
        return cli_fail(EFFNET_E_USAGE, "bench linear: --sweep and --m do not go together");
    return bench_linear(&o);
}
