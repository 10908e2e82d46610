/* The times of kernels/linear, for tests/gpu/test_linear.c --bench. */
#ifndef EFFNET_TESTS_GPU_LINEAR_BENCH_H
#define EFFNET_TESTS_GPU_LINEAR_BENCH_H

#include "gpu.h"
#include "linear.h"

#include <dlfcn.h>

static const char *const ACTIVATIONS[] = {"none",      "relu",    "relu6",     "silu", "gelu",
                                          "gelu-relu", "sigmoid", "hardswish", "tanh"};

static size_t type_bytes(int type)
{
    return type == LINEAR_FP16 ? 2 : 4;
}

static void *noise_array(size_t count, int type, float scale, uint64_t *state)
{
    void *p = checked_malloc(count * type_bytes(type));
    for (size_t i = 0; i < count; i++)
        if (type == LINEAR_FP16)
            ((half *)p)[i] = half_from_float(scale * noise(state));
        else
            ((float *)p)[i] = scale * noise(state);
    return p;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return values[count / 2];
}

/* A launch that goes round several sets of inputs, so that they come from memory and not from L2. */
struct rotation {
    struct linear_args args;
    int config, sets, next;
    size_t x_step, w_step, y_step;
    int (*gemm)(void *, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int,
                const void *, void *, int, int, int, int);
    int (*set_stream)(void *, cudaStream_t);
    void *cublas;
};

static cudaError_t rotation_launch(void *context, cudaStream_t stream)
{
    struct rotation *r = context;
    struct linear_args a = r->args;
    const size_t at = (size_t)(r->next++ % r->sets);
    a.x = (const char *)a.x + at * r->x_step;
    a.w = (const char *)a.w + at * r->w_step;
    a.y = (char *)a.y + at * r->y_step;
    if (!r->cublas) return kernel_launch(&linear_kernels, r->config, &a, stream);
    /* y' = w x' in cuBLAS's column-major terms: transpose 1, none 0; CUDA_R_16F 2, CUDA_R_32F 0;
     * CUBLAS_COMPUTE_32F 68; CUBLAS_GEMM_DEFAULT -1 */
    const float one = 1, zero = 0;
    if (r->set_stream(r->cublas, stream)) return cudaErrorUnknown;
    return r->gemm(r->cublas, 1, 0, (int)a.n, (int)a.m, (int)a.k, &one, a.w, 2, (int)a.ldw, a.x, 2,
                   (int)a.ldx, &zero, a.y, a.y_type == LINEAR_FP16 ? 2 : 0, (int)a.ldy, 68, -1)
               ? cudaErrorUnknown
               : cudaSuccess;
}

/* cuBLAS from the library named by CUBLAS, into r->gemm; false where there is none. */
static void *open_cublas(struct rotation *r)
{
    const char *path = getenv("CUBLAS");
    void *library = path ? dlopen(path, RTLD_NOW) : NULL, *handle = NULL, *workspace = NULL;
    if (path && !library) fprintf(stderr, "%s\n", dlerror());
    if (!library) return NULL;
    int (*create)(void **), (*set_workspace)(void *, void *, size_t);
    *(void **)&create = dlsym(library, "cublasCreate_v2");
    *(void **)&set_workspace = dlsym(library, "cublasSetWorkspace_v2");
    *(void **)&r->set_stream = dlsym(library, "cublasSetStream_v2");
    *(void **)&r->gemm = dlsym(library, "cublasGemmEx");
    if (!create || !set_workspace || !r->set_stream || !r->gemm || create(&handle)) return NULL;
    CUDA_OK(cudaMalloc(&workspace, 64 << 20));
    return set_workspace(handle, workspace, 64 << 20) ? NULL : handle;
}

struct bench {
    const char *prefix; /* of configurations' names */
    void *cublas;
    struct rotation with_cublas;
    uint64_t *state;
};

/* ---------------------------------------------------------------- the device's clock and power */

/* From the driver's management library, where it is; zeros else. */
struct health {
    unsigned mhz, milliwatts;
};

static struct health device_health(void)
{
    static int (*clock)(void *, int, unsigned *), (*power)(void *, unsigned *);
    static void *library, *device;
    struct health h = {0, 0};
    if (!library) {
        int (*init)(void), (*get)(unsigned, void **);
        if (!(library = dlopen("libnvidia-ml.so.1", RTLD_NOW))) return h;
        *(void **)&init = dlsym(library, "nvmlInit_v2");
        *(void **)&get = dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
        *(void **)&clock = dlsym(library, "nvmlDeviceGetClockInfo");
        *(void **)&power = dlsym(library, "nvmlDeviceGetPowerUsage");
        if (!init || !get || !clock || !power || init() || get(0, &device)) device = NULL;
    }
    if (!device) return h;
    clock(device, 1, &h.mhz); /* NVML_CLOCK_SM */
    power(device, &h.milliwatts);
    return h;
}

/* ---------------------------------------------------------------- one shape */

/* Device arrays for a shape, `sets` times. */
struct arrays {
    char *memory;
    float *scale, *shift;
    struct rotation r;
};

static struct arrays arrays_new(const struct bench *b, int64_t m, int64_t n, int64_t k, int x_type,
                                int y_type, enum activation activation, bool cold)
{
    const size_t x_step = (size_t)(m * k) * type_bytes(x_type), w_step = (size_t)(n * k) * 2,
                 y_step = (size_t)(m * n) * type_bytes(y_type), once = x_step + w_step + y_step;
    const int sets = cold ? (int)(((size_t)256 << 20) / once) + 1 : 1;
    struct arrays a = {.r = b->with_cublas};
    /* values repeat every 8 million, which no cache of an SM notices */
    enum { PERIOD = 8 << 20 };
    void *values[2] = {noise_array(PERIOD, LINEAR_FP16, 1.0f, b->state),
                       noise_array(PERIOD, LINEAR_FP32, 1.0f, b->state)};
    float *ones = checked_malloc((size_t)n * sizeof *ones);
    for (int64_t i = 0; i < n; i++) ones[i] = 0.5f + 0.5f * noise(b->state);
    CUDA_OK(cudaMalloc((void **)&a.memory, once * (size_t)sets));
    const size_t ends[3] = {x_step * (size_t)sets, (x_step + w_step) * (size_t)sets, once * (size_t)sets};
    size_t at = 0;
    for (int part = 0; part < 3; part++) {
        const int type = part == 0 ? x_type : part == 1 ? LINEAR_FP16 : y_type;
        const size_t most = PERIOD * type_bytes(type);
        while (at < ends[part]) {
            const size_t bytes = ends[part] - at < most ? ends[part] - at : most;
            CUDA_OK(cudaMemcpy(a.memory + at, values[type == LINEAR_FP32], bytes, cudaMemcpyHostToDevice));
            at += bytes;
        }
    }
    a.shift = device_copy(values[1], (size_t)n * 4);
    a.scale = device_copy(ones, (size_t)n * 4);
    a.r.args = (struct linear_args){.x = a.memory,
                                    .w = a.memory + ends[0],
                                    .y = a.memory + ends[1],
                                    .shift = a.shift,
                                    .scale = activation == ACTIVATION_GELU_RELU ? a.scale : NULL,
                                    .m = m,
                                    .n = n,
                                    .k = k,
                                    .ldx = k,
                                    .ldw = k,
                                    .ldy = n,
                                    .x_type = x_type,
                                    .y_type = y_type,
                                    .activation = activation};
    a.r.sets = sets, a.r.x_step = x_step, a.r.w_step = w_step, a.r.y_step = y_step;
    free(values[0]), free(values[1]), free(ones);
    return a;
}

static void arrays_free(struct arrays *a)
{
    CUDA_OK(cudaFree(a->memory));
    CUDA_OK(cudaFree(a->shift));
    CUDA_OK(cudaFree(a->scale));
}

/* One that is timed: a configuration, or cuBLAS. */
struct contender {
    char name[64];
    struct rotation r;
    double us, ratio; /* ratio: to cuBLAS, where that is there */
};

enum { CONTENDERS_MAX = 80 };

static int contenders_new(const struct bench *b, const struct rotation *r, struct contender *all)
{
    int count = 0;
    const int chosen = linear_choose(&r->args);
    for (int c = 0; c < kernel_count(&linear_kernels) && count < CONTENDERS_MAX - 1; c++) {
        const char *name = kernel_get(&linear_kernels, c)->name;
        if (!kernel_fits(&linear_kernels, c, &r->args) || strncmp(name, b->prefix, strlen(b->prefix)) != 0)
            continue;
        struct contender *one = &all[count++];
        *one = (struct contender){.r = *r};
        one->r.config = c;
        snprintf(one->name, sizeof one->name, "%s%s", name, c == chosen ? " *" : "");
    }
    if (b->cublas && r->args.x_type == LINEAR_FP16) {
        all[count] = (struct contender){.name = "cuBLAS, product alone", .r = *r};
        all[count++].r.cublas = b->cublas;
    }
    return count;
}

static void print_contender(const struct contender *c)
{
    const struct linear_args *a = &c->r.args;
    const double m = (double)a->m, n = (double)a->n, k = (double)a->k;
    const double bytes = (double)type_bytes(a->x_type) * m * k + 2 * n * k +
                         (double)type_bytes(a->y_type) * m * n;
    printf("%6lld %5lld %5lld %-9s fp%d>fp%d %-26s %9.2f us %7.1f TFLOP/s %6.0f GB/s %6.3f%s",
           (long long)a->m, (long long)a->n, (long long)a->k,
           c->r.cublas ? "none" : ACTIVATIONS[a->activation], a->x_type == LINEAR_FP16 ? 16 : 32,
           a->y_type == LINEAR_FP16 ? 16 : 32, c->name, c->us, 2 * m * n * k / c->us / 1e6,
           bytes / c->us / 1e3, c->ratio, c->r.sets > 1 ? " cold" : "");
}

static int faster(const void *a, const void *b)
{
    const struct contender *x = a, *y = b;
    return (x->us > y->us) - (x->us < y->us);
}

/* Small shapes: each by itself; prints the fastest, what linear_choose takes, and cuBLAS. */
static void bench_each(const struct bench *b, int64_t m, int64_t n, int64_t k, int x_type, bool cold)
{
    enum { SHOWN = 5 };
    static struct contender all[CONTENDERS_MAX];
    struct arrays a = arrays_new(b, m, n, k, x_type, LINEAR_FP32, ACTIVATION_NONE, cold);
    const int count = contenders_new(b, &a.r, all);
    const double flops = 2.0 * (double)m * (double)n * (double)k;
    for (int i = 0; i < count; i++)
        all[i].us = graph_time_us(rotation_launch, &all[i].r, flops > 1e11 ? 3 : flops > 1e9 ? 20 : 100, 11);
    if (count && all[count - 1].r.cublas)
        for (int i = 0; i < count; i++) all[i].ratio = all[i].us / all[count - 1].us;
    qsort(all, (size_t)count, sizeof *all, faster);
    for (int i = 0; i < count; i++)
        if (i < SHOWN || all[i].r.cublas || strchr(all[i].name, '*')) print_contender(&all[i]), putchar('\n');
    fflush(stdout);
    arrays_free(&a);
}

/* Launches for so long. */
static int launch_for(double ms, struct contender *c)
{
    const int calls = (int)(ms * 1e3 / c->us) + 1;
    for (int i = 0; i < calls; i++) CUDA_OK(rotation_launch(&c->r, 0));
    return calls;
}

/* Large shapes: all in turns, round after round, there and back, because the chip runs slower as it grows hot
 * and reaches its limit of power, which takes it a tenth of a second: that is not counted. The median of the
 * rounds, the ratio within a round, clock and power within a turn. */
static void bench_turns(const struct bench *b, int64_t m, int64_t n, int64_t k, enum activation activation,
                        int y_type, int rounds)
{
    enum { WARM_MS = 150, TURN_MS = 400, MOST = 9 };
    static struct contender all[CONTENDERS_MAX];
    static double us[CONTENDERS_MAX][MOST], ratio[CONTENDERS_MAX][MOST];
    static struct health health[CONTENDERS_MAX];
    struct arrays a = arrays_new(b, m, n, k, LINEAR_FP16, y_type, activation, false);
    const int count = contenders_new(b, &a.r, all);
    cudaEvent_t start, middle, stop;
    CUDA_OK(cudaEventCreate(&start));
    CUDA_OK(cudaEventCreate(&middle));
    CUDA_OK(cudaEventCreate(&stop));
    for (int i = 0; i < count; i++) all[i].us = graph_time_us(rotation_launch, &all[i].r, 2, 3);
    for (int round = 0; round < rounds; round++)
        for (int j = 0; j < count; j++) {
            const int i = round % 2 ? count - 1 - j : j;
            float ms = 0;
            launch_for(WARM_MS, &all[i]);
            CUDA_OK(cudaEventRecord(start, 0));
            int calls = launch_for(TURN_MS / 2, &all[i]);
            CUDA_OK(cudaEventRecord(middle, 0));
            calls += launch_for(TURN_MS / 2, &all[i]);
            CUDA_OK(cudaEventRecord(stop, 0));
            CUDA_OK(cudaEventSynchronize(middle));
            health[i] = device_health();
            CUDA_OK(cudaEventSynchronize(stop));
            CUDA_OK(cudaEventElapsedTime(&ms, start, stop));
            us[i][round] = 1e3 * ms / calls;
        }
    for (int i = 0; i < count; i++) {
        for (int r = 0; r < rounds; r++)
            ratio[i][r] = all[count - 1].r.cublas ? us[i][r] / us[count - 1][r] : 0;
    }
    for (int i = 0; i < count; i++) {
        all[i].us = median(us[i], rounds), all[i].ratio = median(ratio[i], rounds);
        print_contender(&all[i]);
        printf("  %u MHz %u W\n", health[i].mhz, health[i].milliwatts / 1000);
    }
    fflush(stdout);
    CUDA_OK(cudaEventDestroy(start));
    CUDA_OK(cudaEventDestroy(middle));
    CUDA_OK(cudaEventDestroy(stop));
    arrays_free(&a);
}

/* what: "large", "activations", "small", "sweep", "fp32" or NULL for all; '*' marks what linear_choose
 * takes. */
static void bench(const char *what, const char *prefix, uint64_t *state)
{
    struct bench b = {.prefix = prefix, .state = state};
    b.cublas = open_cublas(&b.with_cublas);
    const bool all = !what || !strcmp(what, "all");
    if (all || !strcmp(what, "large"))
        for (int y_type = LINEAR_FP32; y_type >= LINEAR_FP16; y_type--) {
            bench_turns(&b, 16384, 4096, 4096, ACTIVATION_GELU_RELU, y_type, 5);
            bench_turns(&b, 16384, 4096, 4096, ACTIVATION_NONE, y_type, 3);
        }
    if (all || !strcmp(what, "activations"))
        for (int activation = 0; activation < ACTIVATION_COUNT; activation++)
            bench_turns(&b, 16384, 4096, 4096, (enum activation)activation, LINEAR_FP32, 3);
    static const int64_t rows[] = {1, 4, 10, 16, 32, 64, 128, 256, 512, 1024};
    if (all || !strcmp(what, "small"))
        for (int i = 0; i < 10; i++)
            for (int cold = 0; cold < 2; cold++) bench_each(&b, rows[i], 1000, 1280, LINEAR_FP16, cold);
    static const int64_t sweep[] = {1,   4,   16,  32,   64,   128,  192,  256,  320, 384,
                                    512, 640, 768, 1024, 1280, 1536, 2048, 3072, 4096};
    if (all || !strcmp(what, "sweep"))
        for (int i = 0; i < (int)(sizeof sweep / sizeof *sweep); i++) {
            bench_each(&b, sweep[i], 4096, 4096, LINEAR_FP16, false);
            bench_each(&b, sweep[i], 512, 1280, LINEAR_FP16, false);
        }
    if (all || !strcmp(what, "fp32"))
        for (int i = 0; i < 10; i += 3) {
            bench_each(&b, rows[i], 1000, 1280, LINEAR_FP32, false);
            bench_each(&b, 16 * rows[i], 4096, 4096, LINEAR_FP32, false);
        }
}

#endif
