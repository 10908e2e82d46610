/* Eight threads that open, run and close sessions of several networks, batches and plans on the GPU at once,
 * and between them launch kernels and compute linear layers on streams of their own: nothing fails, and every
 * result has the bits that it has alone. The twin of tests/test_threads.c. At times a thread leaves a failure
 * of its own behind, which no other call may report or take away. `--small`: fewer threads and rounds, for
 * compute-sanitizer. */
#include "effnet_linear.h"
#include "threads.h"

#include <time.h>

#include "networks.h"
#include "pointwise.h"

enum { THREADS = 8, PROBLEMS = 6, LAYERS = 8, CONFIGS_MAX = 64 };

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Host noise of `count` halves on the device. */
static half *device_noise(size_t count, float scale, uint64_t *state)
{
    half *values = checked_malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = half_from_float(scale * noise(state));
    half *device = device_copy(values, count * sizeof *values);
    free(values);
    return device;
}

/* ---------------------------------------------------------------- kernels and linear layers */

/* A call, and what it gives alone. */
struct call {
    size_t bytes;                     /* of y */
    void *expected[CONFIGS_MAX];      /* pointwise: of each configuration, NULL where it does not fit */
    struct pointwise_args pointwise;  /* without y */
    struct effnet_linear_args linear; /* without y */
};

struct shared_work {
    struct call problems[PROBLEMS], layers[LAYERS];
    size_t most_bytes; /* of a y */
    bool provoke;      /* failures; compute-sanitizer would report them */
    struct thread_work {
        cudaStream_t stream;
        void *device, *host; /* [most_bytes], a y */
        bool left_error;
    } threads[THREADS];
};

/* A y on the thread's stream, over NaNs. Returns NULL, or what went wrong. */
static const char *compute(const struct call *p, int config, const struct thread_work *t)
{
    struct pointwise_args pointwise = p->pointwise;
    struct effnet_linear_args linear = p->linear;
    cudaError_t status = cudaMemsetAsync(t->device, 0xff, p->bytes, t->stream);
    if (status == cudaSuccess && pointwise.x) {
        pointwise.y = t->device;
        status = kernel_launch(&pointwise_kernels, config, &pointwise, t->stream);
    } else if (status == cudaSuccess) {
        linear.y = t->device;
        if (effnet_linear(&linear, EFFNET_MEMORY_CUDA, t->stream, NULL)) return "a linear layer fails";
    }
    if (status == cudaSuccess)
        status = cudaMemcpyAsync(t->host, t->device, p->bytes, cudaMemcpyDeviceToHost, t->stream);
    if (status == cudaSuccess) status = cudaStreamSynchronize(t->stream);
    return status == cudaSuccess ? NULL : cudaGetErrorString(status);
}

static void keep(struct call *p, int config, const struct thread_work *t)
{
    const char *wrong = compute(p, config, t);
    expect(!wrong, "alone: %s", wrong ? wrong : "");
    p->expected[config] = checked_malloc(p->bytes);
    memcpy(p->expected[config], t->host, p->bytes);
}

/* Of one configuration some want more shared memory than others: a prologue with few channels and with many.
 */
static void make_problems(struct shared_work *work, uint64_t *state)
{
    static const struct {
        int m, n, k;
        bool prologue, residual, w_low;
    } shapes[PROBLEMS] = {{900, 16, 32, true, false, true},    {2049, 80, 240, true, false, true},
                          {1600, 112, 672, true, true, false}, {1087, 192, 1152, true, true, false},
                          {77, 8, 8, false, false, false},     {2304, 96, 16, false, false, false}};
    for (int i = 0; i < PROBLEMS; i++) {
        const size_t m = (size_t)shapes[i].m, n = (size_t)shapes[i].n, k = (size_t)shapes[i].k;
        float *bias = checked_malloc(n * sizeof *bias);
        for (size_t j = 0; j < n; j++) bias[j] = noise(state);
        struct call *p = &work->problems[i];
        *p = (struct call){
            .bytes = m * n * sizeof(half),
            .pointwise = {.x = device_noise(m * k, 2, state),
                          .w = device_noise((shapes[i].w_low ? 2 : 1) * n * k, 0.25f, state),
                          .w_low = shapes[i].w_low,
                          .bias = device_copy(bias, n * sizeof *bias),
                          .residual = shapes[i].residual ? device_noise(m * n, 1, state) : NULL,
                          .input_bias = shapes[i].prologue ? device_noise(2 * k, 1, state) : NULL,
                          .input_activation = ACTIVATION_RELU6,
                          .activation = ACTIVATION_RELU6,
                          .m = shapes[i].m,
                          .n = shapes[i].n,
                          .k = shapes[i].k}};
        free(bias);
        if (p->bytes > work->most_bytes) work->most_bytes = p->bytes;
    }
}

static void make_layers(struct shared_work *work, uint64_t *state)
{
    static const struct {
        int m, n, k;
        enum effnet_type x_type, y_type;
        enum effnet_activation activation;
    } shapes[LAYERS] = {{1, 8, 64, EFFNET_FP16, EFFNET_FP32, EFFNET_ACT_NONE},
                        {1, 1000, 1280, EFFNET_FP16, EFFNET_FP32, EFFNET_ACT_NONE},
                        {5, 3, 70, EFFNET_FP16, EFFNET_FP32, EFFNET_ACT_SILU},
                        {40, 136, 2048, EFFNET_FP16, EFFNET_FP16, EFFNET_ACT_GELU},
                        {200, 256, 1024, EFFNET_FP16, EFFNET_FP16, EFFNET_ACT_GELU_RELU},
                        {3, 1000, 320, EFFNET_FP32, EFFNET_FP32, EFFNET_ACT_RELU6},
                        {130, 72, 256, EFFNET_FP32, EFFNET_FP16, EFFNET_ACT_RELU},
                        {512, 1024, 512, EFFNET_FP16, EFFNET_FP16, EFFNET_ACT_NONE}};
    for (int i = 0; i < LAYERS; i++) {
        const size_t m = (size_t)shapes[i].m, n = (size_t)shapes[i].n, k = (size_t)shapes[i].k;
        const bool wide = shapes[i].x_type == EFFNET_FP32;
        float *x = checked_malloc(m * k * sizeof *x), *shift = checked_malloc(n * sizeof *shift);
        for (size_t j = 0; j < m * k; j++) x[j] = noise(state);
        for (size_t j = 0; j < n; j++) shift[j] = noise(state);
        struct call *p = &work->layers[i];
        *p = (struct call){
            .bytes = m * n * (shapes[i].y_type == EFFNET_FP32 ? sizeof(float) : sizeof(half)),
            .linear = {.m = shapes[i].m,
                       .n = shapes[i].n,
                       .k = shapes[i].k,
                       .x = wide ? device_copy(x, m * k * sizeof *x) : device_noise(m * k, 1, state),
                       .w = device_noise(n * k, 0.5f, state),
                       .shift = device_copy(shift, n * sizeof *shift),
                       .ldx = shapes[i].k,
                       .ldw = shapes[i].k,
                       .ldy = shapes[i].n,
                       .x_type = shapes[i].x_type,
                       .y_type = shapes[i].y_type,
                       .activation = shapes[i].activation}};
        free(x), free(shift);
        if (p->bytes > work->most_bytes) work->most_bytes = p->bytes;
    }
}

static struct shared_work *work_new(uint64_t *state)
{
    struct shared_work *work = checked_malloc(sizeof *work);
    memset(work, 0, sizeof *work);
    make_problems(work, state);
    make_layers(work, state);
    for (int i = 0; i < THREADS; i++) {
        struct thread_work *t = &work->threads[i];
        CUDA_OK(cudaStreamCreateWithFlags(&t->stream, cudaStreamNonBlocking));
        CUDA_OK(cudaMalloc(&t->device, work->most_bytes));
        t->host = checked_malloc(work->most_bytes);
    }
    for (int i = 0; i < PROBLEMS; i++)
        for (int c = 0; c < kernel_count(&pointwise_kernels) && c < CONFIGS_MAX; c++)
            if (kernel_fits(&pointwise_kernels, c, &work->problems[i].pointwise))
                keep(&work->problems[i], c, &work->threads[0]);
    for (int i = 0; i < LAYERS; i++) keep(&work->layers[i], 0, &work->threads[0]);
    return work;
}

static void call_free(struct call *p)
{
    const void *const device[] = {p->pointwise.x,        p->pointwise.w,          p->pointwise.bias,
                                  p->pointwise.residual, p->pointwise.input_bias, p->linear.x,
                                  p->linear.w,           p->linear.shift};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) CUDA_OK(cudaFree((void *)device[i]));
    for (int c = 0; c < CONFIGS_MAX; c++) free(p->expected[c]);
}

static void work_free(struct shared_work *work)
{
    for (int i = 0; i < PROBLEMS; i++) call_free(&work->problems[i]);
    for (int i = 0; i < LAYERS; i++) call_free(&work->layers[i]);
    for (int i = 0; i < THREADS; i++) {
        CUDA_OK(cudaStreamDestroy(work->threads[i].stream));
        CUDA_OK(cudaFree(work->threads[i].device));
        free(work->threads[i].host);
    }
    free(work);
}

static void ignore_device(const struct effnet_device *device, void *context)
{
    (void)device, (void)context;
}

/* The thread's last failure is still the one that it left, or none. */
static const char *check_last_error(struct thread_work *t, bool provoke, uint64_t *random)
{
    const cudaError_t want = t->left_error ? cudaErrorMemoryAllocation : cudaSuccess;
    if (cudaGetLastError() != want)
        return t->left_error ? "a failure of its own is gone" : "a failure is left";
    t->left_error = provoke && random_int(random, 0, 3) == 0;
    if (t->left_error) {
        void *none;
        if (cudaMalloc(&none, (size_t)1 << 45) != cudaErrorMemoryAllocation) return "2^45 bytes are there";
    }
    return NULL;
}

/* A few calls, each by a configuration that is drawn, and at times the list of devices. */
static const char *do_work(void *context, int thread, uint64_t *random)
{
    struct shared_work *work = context;
    struct thread_work *t = &work->threads[thread];
    const char *wrong = check_last_error(t, work->provoke, random);
    for (int i = 0; i < 4 && !wrong; i++) {
        const struct call *p = &work->problems[random_int(random, 0, PROBLEMS - 1)];
        int config = random_int(random, 0, CONFIGS_MAX - 1);
        while (!p->expected[config]) config = (config + 1) % CONFIGS_MAX;
        wrong = compute(p, config, t);
        if (!wrong && memcmp(t->host, p->expected[config], p->bytes) != 0)
            wrong = kernel_get(&pointwise_kernels, config)->name;
        if (wrong) break;
        p = &work->layers[random_int(random, 0, LAYERS - 1)];
        wrong = compute(p, 0, t);
        if (!wrong && memcmp(t->host, p->expected[0], p->bytes) != 0)
            wrong = "other results of a linear layer than alone";
    }
    if (random_int(random, 0, 9) == 0) effnet_devices(ignore_device, NULL);
    return wrong;
}

/* ---------------------------------------------------------------- sessions */

static int add_cases(struct threads_case *cases, int count, const char *name, const effnet_model *model,
                     int batch)
{
    for (int plan = 0; plan < 2; plan++)
        cases[count++] = (struct threads_case){
            .name = name,
            .model = model,
            .images = batch == 2 ? 7 : batch,
            .options = {.device = "cuda", .plan = PLANS[plan], .max_batch = batch}};
    return count;
}

/* `rounds` sessions of each thread, in portions, or as many as fit into `limit_s` seconds. */
static void run_cases(const char *name, struct threads_case *cases, int count, int threads, int rounds,
                      double limit_s, struct shared_work *work, uint64_t *random)
{
    const int portion = rounds < 10 ? rounds : 10;
    int failures = threads_prepare(cases, count, random_next(random)), done = 0;
    expect(!failures, "%s: %d cases fail alone", name, failures);
    const double start_s = now_s();
    while (!failures && done < rounds && (done == 0 || now_s() - start_s < limit_s)) {
        failures = threads_run(cases, count, threads, portion, random_next(random), do_work, work);
        for (int i = 0; i < threads; i++) work->threads[i].left_error = false; /* with the thread */
        done += portion;
    }
    expect(!failures, "%s: %d rounds failed", name, failures);
    printf("%s: %d rounds of %d threads in %.1f s\n", name, done, threads, now_s() - start_s);
    threads_free(cases, count);
}

/* NULL where weights/ does not hold it. */
static effnet_model *open_network(const char *path)
{
    effnet_model *model = NULL;
    struct effnet_error error = {0};
    if (access(path, R_OK)) {
        printf("skipped: %s is not here (make weights)\n", path);
        return NULL;
    }
    expect(!effnet_model_open(path, &model, &error), "%s", error.message);
    return model;
}

static void check_small_networks(bool small, struct shared_work *work, uint64_t *random)
{
    effnet_model *lite = lite_model(), *heads = heads_model(), *narrow = narrow_model(5);
    struct threads_case cases[10];
    int count = add_cases(cases, 0, "lite", lite, 4);
    count = add_cases(cases, count, "heads", heads, 2);
    if (!small) {
        count = add_cases(cases, count, "lite", lite, 1);
        count = add_cases(cases, count, "heads", heads, 5);
        count = add_cases(cases, count, "narrow", narrow, 3);
    }
    run_cases("small networks", cases, count, small ? 3 : THREADS, small ? 2 : 200, 75, work, random);
    effnet_model_close(lite);
    effnet_model_close(heads);
    effnet_model_close(narrow);
}

static void check_real_networks(struct shared_work *work, uint64_t *random)
{
    effnet_model *lite1 = open_network("weights/lite1.safetensors");
    effnet_model *b1_plain = open_network("weights/b1-plain.safetensors");
    struct threads_case cases[8];
    int count = 0;
    for (int batch = 1; batch <= 3; batch += 2) {
        if (lite1) count = add_cases(cases, count, "lite1", lite1, batch);
        if (b1_plain) count = add_cases(cases, count, "b1-plain", b1_plain, batch);
    }
    if (count) run_cases("real networks", cases, count, THREADS, 200, 75, work, random);
    effnet_model_close(lite1);
    effnet_model_close(b1_plain);
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && !strcmp(argv[1], "--small");
    gpu_require();
    uint64_t random = random_seed("threads", 73), state = seed;
    struct shared_work *work = work_new(&state);
    work->provoke = !small;
    check_small_networks(small, work, &random);
    if (!small) check_real_networks(work, &random);
    work_free(work);
    return finish();
}
