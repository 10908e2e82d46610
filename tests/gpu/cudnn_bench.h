/* The times of cuDNN's engines, for tests/gpu/test_cudnn.c --bench, and the context that both open. */
#ifndef EFFNET_TESTS_GPU_CUDNN_BENCH_H
#define EFFNET_TESTS_GPU_CUDNN_BENCH_H

#include <time.h>

#include "backend/cuda/cudnn_context.h"
#include "cudnn_shapes.h"
#include "small.h"

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
    expect(!status, "%s", error.message);
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

#endif
