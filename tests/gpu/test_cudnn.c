/* cuDNN's convolutions against plain loops in double: every engine that may run, on every convolution of both
 * networks at batches 1 and 10 and on seeded awkward shapes; then the cache.
 *   --small    few and small shapes, the chosen engine alone: for compute-sanitizer
 *   --bench    times instead, at batches 1, 10 and 256 (--batch N: at N): each engine's microseconds and
 * percent of the copy floor. --best: the chosen engine only. --tune: all engines, knobs and compilers */
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

#include "backend/cuda/cudnn_context.h"
#include "cudnn_shapes.h"
#include "gpu.h"

static int passed, failed;

static void check(bool good, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void check(bool good, const char *format, ...)
{
    good ? passed++ : failed++;
    if (good) return;
    va_list arguments;
    va_start(arguments, format);
    printf("FAILED: ");
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
}

static char cache_folder[] = "/tmp/effnet-cudnn-XXXXXX", cache_file[64];

static void remove_cache(void)
{
    unlink(cache_file);
    rmdir(cache_folder);
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1000.0 * (double)t.tv_sec + (double)t.tv_nsec / 1e6;
}

static struct cudnn_context *open_context(void)
{
    struct cudaDeviceProp device;
    CUDA_OK(cudaGetDeviceProperties(&device, 0));
    struct effnet_error error;
    struct cudnn_context *context;
    int status = cudnn_context_open(&device, &context, &error);
    if (!status) return context;
    printf("%s: %s\n", status == EFFNET_E_UNAVAILABLE ? "skipped" : "FAILED", error.message);
    exit(status == EFFNET_E_UNAVAILABLE ? GPU_EXIT_SKIPPED : 1);
}

/* ---------------------------------------------------------------- one problem */

struct problem {
    struct cudnn_conv_shape shape;
    size_t x_count, w_count, y_count, image_count; /* image_count: of y, one image's */
    void *x, *x_equal, *w;                         /* device; x_equal: image 0 in every place */
    struct guarded y;
    double *reference;
    half *out, *out_equal;
    half *verified; /* an output that was compared with the reference and is right, once has_verified */
    bool has_verified;
    double verified_l2;
};

/* y [n][oh][ow][k] = sum over r, s, c of x [n][oh*stride-top+r][ow*stride-left+s][c of k's group] w
 * [k][r][s][c], with zeros outside. */
static double *reference_new(const struct cudnn_conv_shape *s, const float *x, const float *w)
{
    const int depth = s->c_in / s->groups, filters = s->c_out / s->groups;
    double *y = checked_malloc((size_t)s->n * (size_t)s->out_h * (size_t)s->out_w * (size_t)s->c_out *
                               sizeof *y);
    double *to = y;
    for (int n = 0; n < s->n; n++)
        for (int oh = 0; oh < s->out_h; oh++)
            for (int ow = 0; ow < s->out_w; ow++)
                for (int k = 0; k < s->c_out; k++) {
                    double sum = 0;
                    for (int r = 0; r < s->kernel; r++)
                        for (int q = 0; q < s->kernel; q++) {
                            const int ih = oh * s->stride - s->pad_top + r,
                                      iw = ow * s->stride - s->pad_left + q;
                            if (ih < 0 || ih >= s->h || iw < 0 || iw >= s->w) continue;
                            const float *pixel = x +
                                                 (((size_t)n * (size_t)s->h + (size_t)ih) * (size_t)s->w +
                                                  (size_t)iw) *
                                                     (size_t)s->c_in +
                                                 k / filters * depth;
                            const float *tap = w + ((k * s->kernel + r) * s->kernel + q) * depth;
                            for (int c = 0; c < depth; c++) sum += (double)pixel[c] * (double)tap[c];
                        }
                    *to++ = sum;
                }
    return y;
}

/* Random halves, and the same as floats. */
static half *noise_new(size_t count, float scale, uint64_t *state, float **as_float)
{
    half *values = checked_malloc(count * sizeof *values);
    *as_float = checked_malloc(count * sizeof **as_float);
    for (size_t i = 0; i < count; i++) {
        values[i] = (half)(scale * noise(state));
        (*as_float)[i] = (float)values[i];
    }
    return values;
}

static struct problem problem_new(const struct cudnn_conv_shape *s, uint64_t *state)
{
    struct problem p = {.shape = *s};
    const size_t x_image = (size_t)s->h * (size_t)s->w * (size_t)s->c_in;
    p.x_count = (size_t)s->n * x_image;
    p.w_count = (size_t)s->c_out * (size_t)(s->kernel * s->kernel) * (size_t)(s->c_in / s->groups);
    p.image_count = (size_t)s->out_h * (size_t)s->out_w * (size_t)s->c_out;
    p.y_count = (size_t)s->n * p.image_count;
    float *x_float, *w_float;
    half *x = noise_new(p.x_count, 4.0f, state, &x_float);
    half *w = noise_new(p.w_count, 2.0f / sqrtf((float)(s->kernel * s->kernel * s->c_in / s->groups)), state,
                        &w_float);
    p.reference = reference_new(s, x_float, w_float);
    p.x = device_copy(x, p.x_count * sizeof(half));
    p.w = device_copy(w, p.w_count * sizeof(half));
    for (int n = 1; n < s->n; n++) memcpy(x + (size_t)n * x_image, x, x_image * sizeof(half));
    p.x_equal = device_copy(x, p.x_count * sizeof(half));
    p.y = guarded_alloc(p.y_count * sizeof(half));
    p.out = checked_malloc(p.y_count * sizeof(half));
    p.out_equal = checked_malloc(p.y_count * sizeof(half));
    p.verified = checked_malloc(p.y_count * sizeof(half));
    free(x), free(w), free(x_float), free(w_float);
    return p;
}

static void problem_free(struct problem *p)
{
    CUDA_OK(cudaFree(p->x));
    CUDA_OK(cudaFree(p->x_equal));
    CUDA_OK(cudaFree(p->w));
    guarded_free(&p->y);
    free(p->reference), free(p->out), free(p->out_equal), free(p->verified);
}

static void fetch(struct problem *p, half *out)
{
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpy(out, p->y.data, p->y_count * sizeof(half), cudaMemcpyDeviceToHost));
}

/* fp16's rounding of a correct sum gives 2.1e-4 relative L2 and at most 4.9e-4 at one place; a sum in fp16,
 * or rounded operands, more than twice that. */
static bool right(struct problem *p, const char *what, double *relative_l2)
{
    *relative_l2 = p->verified_l2;
    if (p->has_verified && !memcmp(p->out, p->verified, p->y_count * sizeof(half)) && guarded_intact(&p->y))
        return true;
    const struct comparison c = compare_half(p->out, p->reference, p->y_count);
    *relative_l2 = c.relative_l2;
    if (c.mismatched == 0 && c.relative_l2 <= 4e-4 && c.worst <= 7e-4 && guarded_intact(&p->y)) {
        memcpy(p->verified, p->out, p->y_count * sizeof(half));
        p->has_verified = true;
        p->verified_l2 = c.relative_l2;
        return true;
    }
    const size_t i = c.worst_index, k = (size_t)p->shape.c_out, ow = (size_t)p->shape.out_w,
                 oh = (size_t)p->shape.out_h;
    printf("  %s: %zu NaN or infinite, relative L2 %.2e, worst %.2e at n%zu h%zu w%zu c%zu (%.6g for %.6g), "
           "guards %s\n",
           what, c.mismatched, c.relative_l2, c.worst, i / k / ow / oh, i / k / ow % oh, i / k % ow, i % k,
           (double)p->out[i], p->reference[i], guarded_intact(&p->y) ? "intact" : "OVERWRITTEN");
    return false;
}

/* ---------------------------------------------------------------- engines */

static void run_engine(struct cudnn_context *context, const struct cudnn_executable *executable,
                       struct problem *p, const void *x, void *workspace, half *out, const char *name)
{
    struct effnet_error error = {0};
    cudnnBackendDescriptor_t pack = NULL;
    guarded_poison(&p->y);
    int status = cudnn_pack_build(&context->target, name, x, p->w, p->y.data, workspace, &pack, &error);
    if (!status) status = cudnn_execute(context, executable, pack, NULL, name, &error);
    cudnn_descriptor_free(&context->target, &pack);
    if (status) printf("  %s\n", error.message); /* the poison then fails the comparison */
    fetch(p, out);
}

struct engine_counts {
    int ran;
    double worst_l2;
};

/* Every engine that the rules admit, whether timing would choose it or not: the right values, and for equal
 * images the same bits at every place in the batch as among other images. */
static struct engine_counts check_engines(struct cudnn_context *context, struct problem *p, const char *name,
                                          bool tune)
{
    struct engine_counts counts = {0};
    struct effnet_error error = {0};
    struct cudnn_graph graph;
    struct cudnn_config_list list = {0};
    int status = cudnn_graph_build(&context->target, &p->shape, name, &graph, &error);
    if (!status) status = cudnn_graph_candidates(&graph, tune, &list, &error);
    check(!status, "%s", error.message);
    for (int i = 0; !status && i < list.count; i++) {
        struct cudnn_executable executable;
        if (cudnn_executable_build(&graph, &list.items[i], tune, &executable, &error)) continue;
        if (executable.workspace_bytes <= CUDNN_WORKSPACE_LIMIT) {
            char engine[200];
            double relative_l2;
            cudnn_config_name(&list.items[i], engine, sizeof engine);
            struct guarded workspace = guarded_alloc((size_t)executable.workspace_bytes);
            run_engine(context, &executable, p, p->x, workspace.data, p->out, engine);
            bool good = right(p, engine, &relative_l2);
            run_engine(context, &executable, p, p->x_equal, workspace.data, p->out_equal, engine);
            bool same = true;
            for (int n = 0; n < p->shape.n; n++)
                same &= !memcmp(p->out_equal + (size_t)n * p->image_count, p->out,
                                p->image_count * sizeof(half));
            check(good, "%s: %s is wrong", name, engine);
            check(same, "%s: %s: an image's bits depend on its place in the batch", name, engine);
            check(guarded_intact(&workspace), "%s: %s writes past its workspace", name, engine);
            guarded_free(&workspace);
            counts.ran++;
            if (relative_l2 > counts.worst_l2) counts.worst_l2 = relative_l2;
        }
        cudnn_executable_free(&executable);
    }
    cudnn_config_list_free(&list);
    cudnn_graph_free(&graph);
    return counts;
}

/* ---------------------------------------------------------------- plans */

/* The chosen plan: right, the same bits again, and the same from a CUDA graph. */
static void check_plan(struct cudnn_plan *plan, struct problem *p, const char *name)
{
    const struct cudnn_plan_info *info = cudnn_plan_describe(plan);
    struct effnet_error error = {0};
    struct guarded workspace = guarded_alloc((size_t)info->workspace_bytes);
    double relative_l2;
    cudaStream_t stream;
    CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));

    guarded_poison(&p->y);
    CUDA_OK(cudaDeviceSynchronize());
    int status = cudnn_plan_run(plan, p->x, p->w, p->y.data, workspace.data, stream, &error);
    check(!status, "%s", error.message);
    fetch(p, p->out);
    check(right(p, info->engine, &relative_l2), "%s: plan", name);

    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    status = cudnn_plan_run(plan, p->x, p->w, p->y.data, workspace.data, stream, &error);
    CUDA_OK(cudaStreamEndCapture(stream, &graph));
    check(!status, "%s", error.message);
    CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
    for (int replay = 0; replay < 2; replay++) {
        guarded_poison(&p->y);
        CUDA_OK(cudaDeviceSynchronize());
        CUDA_OK(cudaGraphLaunch(exec, stream));
        fetch(p, p->out_equal);
        check(!memcmp(p->out, p->out_equal, p->y_count * sizeof(half)), "%s: %s: other bits in a CUDA graph",
              name, info->engine);
    }
    check(guarded_intact(&workspace) && guarded_intact(&p->y), "%s: guards", name);
    CUDA_OK(cudaGraphExecDestroy(exec));
    CUDA_OK(cudaGraphDestroy(graph));
    CUDA_OK(cudaStreamDestroy(stream));
    guarded_free(&workspace);
}

static void check_shape(struct cudnn_context *context, const char *name, const struct cudnn_conv_shape *s,
                        bool plan_only, bool tune, uint64_t *state)
{
    struct effnet_error error = {0};
    struct cudnn_plan *plan;
    const struct cudnn_plan_options options = {.layer = name, .tune = tune};
    double start = now_ms();
    int status = cudnn_plan_create(context, s, &options, &plan, &error);
    double chosen_ms = now_ms() - start;
    check(!status, "%s", error.message);
    if (status) return;
    struct problem p = problem_new(s, state);
    check_plan(plan, &p, name);
    struct engine_counts counts = {0};
    if (!plan_only) {
        counts = check_engines(context, &p, name, tune);
        check(counts.ran > 0, "%s: no engine ran", name);
    }
    const struct cudnn_plan_info *info = cudnn_plan_describe(plan);
    printf("%-17s n%-3d %3dx%-3d c%-4d->%-4d g%-4d k%d s%d p%d%d%d%d: %2d engines, worst L2 %.1e; %s %.2f "
           "us%s, %.0f ms\n",
           name, s->n, s->h, s->w, s->c_in, s->c_out, s->groups, s->kernel, s->stride, s->pad_top,
           s->pad_left, s->pad_bottom, s->pad_right, counts.ran, counts.worst_l2, info->engine,
           info->elapsed_us, info->cached ? " (cached)" : "", chosen_ms);
    cudnn_plan_destroy(plan);
    problem_free(&p);
}

/* ---------------------------------------------------------------- cache */

/* All networks' plans at one batch; returns how many came from the cache, and each one's engine. */
static int make_plans(struct cudnn_context *context, int batch, char engines[NAMED_SHAPES_MAX][160],
                      double *elapsed_ms)
{
    struct named_shape shapes[NAMED_SHAPES_MAX];
    int count = all_network_shapes(batch, shapes), cached = 0;
    double start = now_ms();
    for (int i = 0; i < count; i++) {
        struct effnet_error error = {0};
        struct cudnn_plan *plan;
        const struct cudnn_plan_options options = {.layer = shapes[i].name};
        int status = cudnn_plan_create(context, &shapes[i].shape, &options, &plan, &error);
        check(!status, "%s", error.message);
        if (status) continue;
        cached += cudnn_plan_describe(plan)->cached;
        snprintf(engines[i], sizeof engines[i], "%s", cudnn_plan_describe(plan)->engine);
        cudnn_plan_destroy(plan);
    }
    cudnn_context_settle(context);
    *elapsed_ms = now_ms() - start;
    return cached;
}

/* The second start takes everything from disk; a third, with the file broken, times again. */
static void check_cache(void)
{
    static char engines[3][NAMED_SHAPES_MAX][160];
    struct named_shape shapes[NAMED_SHAPES_MAX];
    const int count = all_network_shapes(3, shapes);
    int cached[3];
    for (int start = 0; start < 3; start++) {
        if (start == 2) {
            FILE *broken = fopen(cache_file, "w");
            check(broken && fputs("not a cache\n", broken) >= 0 && fclose(broken) == 0,
                  "%s cannot be written", cache_file);
        }
        double begin = now_ms(), plans_ms;
        struct cudnn_context *context = open_context();
        double open_ms = now_ms() - begin;
        cached[start] = make_plans(context, 3, engines[start], &plans_ms);
        cudnn_context_close(context);
        printf("cache, start %d: context %.1f ms, %d plans %.1f ms, %d of them cached\n", start + 1, open_ms,
               count, plans_ms, cached[start]);
    }
    /* Equal layers of the two networks share an entry, so some are cached at once. */
    check(cached[0] < count && cached[2] == cached[0], "first and broken start: %d, %d cached", cached[0],
          cached[2]);
    check(cached[1] == count, "second start: %d of %d cached", cached[1], count);
    for (int i = 0; i < count; i++)
        check(!strcmp(engines[0][i], engines[1][i]), "%s: %s, cached %s", shapes[i].name, engines[0][i],
              engines[1][i]);
}

/* ---------------------------------------------------------------- bench */

/* Bytes a second, read and written, of a large device-to-device copy. */
static double copy_bandwidth(void)
{
    const size_t bytes = (size_t)1 << 30;
    void *from, *to;
    cudaEvent_t start, stop;
    float ms, best = 0;
    CUDA_OK(cudaMalloc(&from, bytes));
    CUDA_OK(cudaMalloc(&to, bytes));
    CUDA_OK(cudaMemset(from, 0x5a, bytes));
    CUDA_OK(cudaEventCreate(&start));
    CUDA_OK(cudaEventCreate(&stop));
    for (int i = 0; i < 12; i++) {
        CUDA_OK(cudaEventRecord(start, NULL));
        CUDA_OK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, NULL));
        CUDA_OK(cudaEventRecord(stop, NULL));
        CUDA_OK(cudaEventSynchronize(stop));
        CUDA_OK(cudaEventElapsedTime(&ms, start, stop));
        if (i > 1 && (best == 0 || ms < best)) best = ms;
    }
    CUDA_OK(cudaFree(from));
    CUDA_OK(cudaFree(to));
    return 2.0 * (double)bytes / (best / 1000);
}

struct bench_row {
    char engine[160];
    double elapsed_us, build_ms;
    int64_t workspace_bytes;
    bool rough, runtime_compiled;
};

struct bench_rows {
    struct bench_row rows[1024];
    int count;
};

static void bench_visit(const struct cudnn_trial *trial, void *rows_of)
{
    struct bench_rows *rows = rows_of;
    if (trial->refused || rows->count == (int)(sizeof rows->rows / sizeof *rows->rows)) return;
    struct bench_row *row = &rows->rows[rows->count++];
    *row = (struct bench_row){.elapsed_us = trial->elapsed_us,
                              .build_ms = trial->build_ms,
                              .rough = trial->rough,
                              .workspace_bytes = trial->executable->workspace_bytes,
                              .runtime_compiled = trial->executable->runtime_compiled};
    cudnn_config_name(trial->config, row->engine, sizeof row->engine);
}

static int compare_rows(const void *a, const void *b)
{
    double x = ((const struct bench_row *)a)->elapsed_us, y = ((const struct bench_row *)b)->elapsed_us;
    return (x > y) - (x < y);
}

/* Returns the chosen engine's microseconds. */
static double bench_shape(struct cudnn_context *context, const struct named_shape *named, double bandwidth,
                          bool tune, bool best_only)
{
    static struct bench_rows rows;
    rows.count = 0;
    const struct cudnn_conv_shape *s = &named->shape;
    const struct cudnn_plan_options options = {
        .layer = named->name, .tune = tune, .workspace_limit_bytes = CUDNN_WORKSPACE_LIMIT};
    struct effnet_error error = {0};
    struct cudnn_graph graph;
    struct cudnn_cache_entry chosen = {0};
    struct cudnn_executable executable = {0};
    double start = now_ms();
    int status = cudnn_graph_build(&context->target, s, named->name, &graph, &error);
    if (!status)
        status = cudnn_tune(context, &graph, s, &options, bench_visit, &rows, &chosen, &executable, &error);
    check(!status, "%s", error.message);
    cudnn_graph_free(&graph);
    if (status) return 0;

    char name[200];
    cudnn_config_name(&chosen.config, name, sizeof name);
    const double bytes = 2.0 * ((double)s->n * s->h * s->w * s->c_in +
                                (double)s->n * s->out_h * s->out_w * s->c_out +
                                (double)s->c_out * s->kernel * s->kernel * s->c_in / s->groups);
    const double floor_us = 1e6 * bytes / bandwidth, chosen_us = (double)chosen.elapsed_ns / 1000;
    printf(
        "%-17s n%-3d %3dx%-3d c%-4d k%d s%d x%d: floor %.2f us, %d engines, %.0f ms: %.2f us %.0f%% %s%s\n",
        named->name, s->n, s->h, s->w, s->c_in, s->kernel, s->stride, named->layers, floor_us, rows.count,
        now_ms() - start, chosen_us, 100 * floor_us / chosen_us, name,
        executable.runtime_compiled ? " (compiled)" : "");
    qsort(rows.rows, (size_t)rows.count, sizeof *rows.rows, compare_rows);
    for (int i = 0; !best_only && i < rows.count; i++) {
        const struct bench_row *row = &rows.rows[i];
        printf("  %9.2f us %3.0f%%  ws %8.1f KiB  build %6.1f ms  %s%s%s\n", row->elapsed_us,
               100 * floor_us / row->elapsed_us, (double)row->workspace_bytes / 1024, row->build_ms,
               row->engine, row->rough ? " (one run)" : "", row->runtime_compiled ? " (compiled)" : "");
    }
    cudnn_executable_free(&executable);
    return chosen_us;
}

static void bench(int only_batch, bool tune, bool best_only)
{
    static const int batches[] = {1, 10, 256};
    const double bandwidth = copy_bandwidth();
    struct cudnn_context *context = open_context();
    printf("%s on %s, copy %.2f TB/s, L2 as the run before left it%s\n", cudnn_context_name(context),
           context->device, bandwidth / 1e12, tune ? ", all engines" : "");
    for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
        if (only_batch && b) break;
        const int batch = only_batch ? only_batch : batches[b];
        struct named_shape shapes[NAMED_SHAPES_MAX];
        const int count = all_network_shapes(batch, shapes);
        double lite1_us = 0, b1_plain_us = 0;
        for (int i = 0; i < count; i++) {
            double layers_us = shapes[i].layers *
                               bench_shape(context, &shapes[i], bandwidth, tune, best_only);
            *(shapes[i].name[0] == 'l' ? &lite1_us : &b1_plain_us) += layers_us;
        }
        printf("batch %d, stem and all depthwise layers: lite1 %.1f us, b1-plain %.1f us\n", batch, lite1_us,
               b1_plain_us);
    }
    cudnn_context_close(context);
}

/* ---------------------------------------------------------------- main */

int main(int argc, char **argv)
{
    bool small = false, bench_mode = false, tune = false, best_only = false;
    int batch = 0;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--small"))
            small = true;
        else if (!strcmp(argv[i], "--bench"))
            bench_mode = true;
        else if (!strcmp(argv[i], "--tune"))
            tune = true;
        else if (!strcmp(argv[i], "--best"))
            best_only = true;
        else if (!strcmp(argv[i], "--batch") && i + 1 < argc)
            batch = atoi(argv[++i]);
        else
            return fprintf(stderr, "usage: %s [--small] [--tune] [--bench [--best] [--batch N]]\n", argv[0]),
                   2;
    gpu_require();

    if (!mkdtemp(cache_folder)) return perror(cache_folder), 1;
    snprintf(cache_file, sizeof cache_file, "%s/cudnn-plans.txt", cache_folder);
    setenv("EFFNET_CACHE", cache_folder, 1);
    atexit(remove_cache);

    if (bench_mode) {
        bench(batch, tune, best_only);
    } else {
        uint64_t state = random_seed("shapes and data", 20260102);
        struct cudnn_context *context = open_context();
        printf("%s on %s\n", cudnn_context_name(context), context->device);
        for (int n = 1; !small && n <= 10; n += 9) {
            struct named_shape shapes[NAMED_SHAPES_MAX];
            int count = all_network_shapes(n, shapes);
            for (int i = 0; i < count; i++)
                check_shape(context, shapes[i].name, &shapes[i].shape, false, tune, &state);
        }
        for (int i = 0; i < (small ? 4 : 60); i++) {
            struct cudnn_conv_shape s = awkward_shape(&state);
            char name[32];
            snprintf(name, sizeof name, "awkward %d", i);
            check_shape(context, name, &s, small, tune, &state);
        }
        cudnn_context_close(context);
        if (!small) check_cache();
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
