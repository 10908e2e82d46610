/* What the GPU tests share: seeded noise, guarded device buffers, comparison, and the skip. */
#ifndef EFFNET_TESTS_GPU_GPU_H
#define EFFNET_TESTS_GPU_GPU_H

#include "activation.h"
#include "common/half.h"
#include "kernel_config.h"
#include "random.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GPU_EXIT_SKIPPED = 77 };

/* A failed CUDA call ends the test: nothing after it could be trusted. */
#define CUDA_OK(call)                                                                                        \
    do {                                                                                                     \
        cudaError_t status_ = (call);                                                                        \
        if (status_ != cudaSuccess) {                                                                        \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(status_));      \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* Ends the program with 77 where there is no device. */
static inline void gpu_require(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        printf("skipped: no CUDA device\n");
        exit(GPU_EXIT_SKIPPED);
    }
}

/* Uniform in [-1, 1). */
static inline float noise(uint64_t *state)
{
    return random_float(state, 1);
}

/* Device memory between two guard zones of GUARD bytes, all of it poisoned with 0xff, which is a NaN in every
 * float format. */
enum { GUARD = 4096 };

struct guarded {
    unsigned char *base;
    void *data;
    size_t bytes;
};

static inline void guarded_poison(struct guarded *g)
{
    CUDA_OK(cudaMemset(g->base, 0xff, g->bytes + 2 * GUARD));
}

static inline struct guarded guarded_alloc(size_t bytes)
{
    struct guarded g = {NULL, NULL, bytes};
    CUDA_OK(cudaMalloc((void **)&g.base, bytes + 2 * GUARD));
    g.data = g.base + GUARD;
    guarded_poison(&g);
    return g;
}

static inline void guarded_free(struct guarded *g)
{
    CUDA_OK(cudaFree(g->base));
    memset(g, 0, sizeof *g);
}

/* Whether both guard zones still hold the poison. */
static inline bool guarded_intact(const struct guarded *g)
{
    unsigned char zone[2 * GUARD];
    CUDA_OK(cudaMemcpy(zone, g->base, GUARD, cudaMemcpyDeviceToHost));
    CUDA_OK(cudaMemcpy(zone + GUARD, g->base + GUARD + g->bytes, GUARD, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 2 * GUARD; i++)
        if (zone[i] != 0xff) return false;
    return true;
}

/* A new device copy of host memory. */
static inline void *device_copy(const void *host, size_t bytes)
{
    void *device = NULL;
    CUDA_OK(cudaMalloc(&device, bytes));
    CUDA_OK(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
    return device;
}

static inline void *checked_malloc(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p) {
        fprintf(stderr, "out of memory: %zu bytes\n", bytes);
        exit(1);
    }
    return p;
}

/* An activation that is a clamp, or SiLU; a NaN passes. */
static inline double activate_double(enum activation activation, double v)
{
    if (activation == ACTIVATION_NONE) return v;
    if (activation == ACTIVATION_SILU) return v == -INFINITY ? 0 : v / (1 + exp(-v));
    if (v < 0) return 0;
    return activation == ACTIVATION_RELU6 && v > 6 ? 6 : v;
}

/* Half the distance between the fp16 values around v: what rounding once may cost. */
static inline double half_rounding(double v)
{
    int exponent;
    frexp(v, &exponent);
    return ldexp(0.5, (exponent > -13 ? exponent : -13) - 11);
}

/* Whether `got` is the sum of so many values, as stored, `stride` apart: to the roundings of the values and
 * of sums in fp32. Where a value is a NaN or infinite, so is the sum. */
static inline bool sum_right(const half *values, size_t count, size_t stride, double got)
{
    double sum = 0, size = 0, roundings = 0;
    for (size_t i = 0; i < count; i++) {
        const double v = (double)half_to_float(values[i * stride]);
        sum += v, size += fabs(v), roundings += half_rounding(v) * half_rounding(v);
    }
    if (isnan(sum)) return isnan(got);
    if (isinf(sum)) return got == sum;
    return fabs(got - sum) <= 4 * sqrt(roundings) + 64 * 0x1p-24 * size; /* 4 sqrt: 7 standard deviations */
}

struct comparison {
    double relative_l2; /* over the places where both are finite */
    double worst;       /* largest |out - reference| / (|reference| + rms(reference)) */
    size_t worst_index;
    size_t mismatched; /* places where just one is NaN or infinite, or the infinities differ */
};

/* out against reference; NaN and infinity must match in place. */
static inline struct comparison compare_half(const half *out, const double *reference, size_t count)
{
    struct comparison c = {0, 0, 0, 0};
    double error = 0, norm = 0;
    size_t finite = 0;
    for (size_t i = 0; i < count; i++)
        if (isfinite(reference[i])) norm += reference[i] * reference[i], finite++;
    const double rms = finite ? sqrt(norm / (double)finite) : 0;
    for (size_t i = 0; i < count; i++) {
        const double o = (double)half_to_float(out[i]), r = reference[i];
        if (!isfinite(o) || !isfinite(r)) {
            if (!(isnan(o) && isnan(r)) && o != r) c.mismatched++;
            continue;
        }
        error += (o - r) * (o - r);
        const double local = fabs(o - r) / (fabs(r) + rms + 1e-30);
        if (local > c.worst) c.worst = local, c.worst_index = i;
    }
    c.relative_l2 = norm > 0 ? sqrt(error / norm) : sqrt(error);
    return c;
}

/* Every configuration that this device runs must have computed something. `ran` has a bit for each that did.
 * Returns how many there are, and how many failed. */
static inline int check_all_ran(const struct kernel_family *family, uint64_t ran, int *count)
{
    struct cudaDeviceProp device;
    int failures = 0;
    CUDA_OK(cudaGetDeviceProperties(&device, 0));
    for (int i = 0; i < kernel_count(family); i++) {
        const struct kernel_config *config = kernel_get(family, i);
        if (config->architecture && config->architecture != 10 * device.major + device.minor) continue;
        (*count)++;
        if (ran >> i & 1) continue;
        printf("FAIL %s %s: never ran\n", family->name, config->name);
        failures++;
    }
    return failures;
}

/* A configuration's launch, for graph_time_us. */
struct bench_context {
    const struct kernel_family *family;
    const void *args;
    int config;
};

static inline cudaError_t bench_launch(void *context, cudaStream_t stream)
{
    const struct bench_context *b = context;
    return kernel_launch(b->family, b->config, b->args, stream);
}

/* Median microseconds of one call of `launch`, from graphs of `repeat` calls, so that the host's part of a
 * launch does not count. */
static inline double graph_time_us(cudaError_t (*launch)(void *, cudaStream_t), void *context, int repeat,
                                   int samples)
{
    enum { MOST = 32 };
    double sample[MOST];
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t start, stop;
    if (samples > MOST) samples = MOST;
    CUDA_OK(cudaStreamCreate(&stream));
    CUDA_OK(cudaEventCreate(&start));
    CUDA_OK(cudaEventCreate(&stop));
    CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < repeat; i++) CUDA_OK(launch(context, stream));
    CUDA_OK(cudaStreamEndCapture(stream, &graph));
    CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
    CUDA_OK(cudaGraphLaunch(exec, stream));
    for (int s = 0; s < samples; s++) {
        float ms = 0;
        CUDA_OK(cudaEventRecord(start, stream));
        CUDA_OK(cudaGraphLaunch(exec, stream));
        CUDA_OK(cudaEventRecord(stop, stream));
        CUDA_OK(cudaEventSynchronize(stop));
        CUDA_OK(cudaEventElapsedTime(&ms, start, stop));
        double us = 1e3 * ms / repeat;
        int j = s;
        for (; j > 0 && sample[j - 1] > us; j--) sample[j] = sample[j - 1];
        sample[j] = us;
    }
    CUDA_OK(cudaGraphExecDestroy(exec));
    CUDA_OK(cudaGraphDestroy(graph));
    CUDA_OK(cudaEventDestroy(start));
    CUDA_OK(cudaEventDestroy(stop));
    CUDA_OK(cudaStreamDestroy(stream));
    return sample[samples / 2];
}

#endif
