/* Which engine is fastest.
 *
 * Each candidate runs once alone, which loads its kernels and shows a hopeless one; then RUNS times in a row
 * inside a CUDA graph, as the network will run it, so that device time is measured and not the host's way
 * of launching. Eight launches of the graph are queued with events between them; the median of the seven
 * intervals counts. Input and weights are random numbers in +-[0.5, 1), and stay where they are: what fits
 * into L2 is found there, as in the network, where the layer before has just written it. */
#include "backend/cuda/cudnn_context.h"

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "common/error.h"
#include "last_error.h"

static const double runs_target_us = 200; /* device time of one graph, about */
enum { RUNS_LEAST = 2, RUNS_MOST = 16 };

/* A candidate whose one run took more than this, a launch by the host included, is not timed further. */
static double hopeless_us(double best_us)
{
    return 4 * best_us + 50;
}

/* To build a runtime-compiled plan takes a compiler at every start: it has to win by this much. */
static const double runtime_compiled_handicap = 1.03;

static int cuda_fail(cudaError_t code, const char *layer, const char *what, struct effnet_error *error)
{
    cuda_forget_error(code);
    int status = code == cudaErrorMemoryAllocation ? EFFNET_E_NOMEM : EFFNET_E_INTERNAL;
    return effnet_fail(error, status, "%s: CUDA, %s: %s", layer, what, cudaGetErrorString(code));
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1000.0 * (double)t.tv_sec + (double)t.tv_nsec / 1e6;
}

/* ---------------------------------------------------------------- scratch */

/* Where a shape's tensors lie in the scratch memory. */
struct operands {
    void *w, *x, *y, *workspace;
};

void cudnn_scratch_free(struct cudnn_scratch *scratch)
{
    if (scratch->memory) cudaFree(scratch->memory);
    for (int i = 0; i <= CUDNN_TIMINGS; i++)
        if (scratch->events[i]) cudaEventDestroy(scratch->events[i]);
    if (scratch->stream) cudaStreamDestroy(scratch->stream);
    *scratch = (struct cudnn_scratch){0};
}

/* Brings an idle GPU's clocks up, so that the first candidates are not timed at a tenth of the speed. */
static cudaError_t warm_up(const struct cudnn_scratch *scratch)
{
    const double warm_up_ms = 50, start = now_ms();
    cudaError_t code = cudaSuccess;
    while (!code && now_ms() - start < warm_up_ms) {
        for (int i = 0; !code && i < 8; i++)
            code = cudaMemsetAsync(scratch->memory, 0, scratch->size_bytes, scratch->stream);
        if (!code) code = cudaStreamSynchronize(scratch->stream);
    }
    return code;
}

static int scratch_reserve(struct cudnn_scratch *scratch, size_t size_bytes, const char *layer,
                           struct effnet_error *error)
{
    cudaError_t code = cudaSuccess;
    if (!scratch->stream) code = cudaStreamCreateWithFlags(&scratch->stream, cudaStreamNonBlocking);
    for (int i = 0; !code && i <= CUDNN_TIMINGS; i++)
        if (!scratch->events[i]) code = cudaEventCreate(&scratch->events[i]);
    if (code) return cuda_fail(code, layer, "stream and events", error);
    if (size_bytes <= scratch->size_bytes) return EFFNET_OK;
    bool first = !scratch->memory;

    cudaFree(scratch->memory);
    scratch->memory = NULL;
    scratch->size_bytes = 0;
    code = cudaMalloc(&scratch->memory, size_bytes);
    if (code == cudaErrorMemoryAllocation) {
        cuda_forget_error(code);
        scratch->memory = NULL;
        return effnet_fail(error, EFFNET_E_NOMEM, "%s: timing cuDNN's engines takes %zu MiB of device memory",
                           layer, (size_bytes >> 20) + 1);
    }
    if (code) return cuda_fail(code, layer, "cudaMalloc", error);
    scratch->size_bytes = size_bytes;
    if (first) code = warm_up(scratch);
    return code ? cuda_fail(code, layer, "warming up", error) : EFFNET_OK;
}

/* Random fp16 in +-[0.5, 1): a sign, one exponent, ten random bits. A host block first, then doublings. */
static int fill(void *memory, size_t size_bytes, cudaStream_t stream, const char *layer,
                struct effnet_error *error)
{
    enum { BLOCK = 1 << 16 };
    uint16_t *block = malloc(BLOCK);
    if (!block) return effnet_fail_nomem(error, layer, BLOCK);
    uint64_t state = 0x9e3779b97f4a7c15;
    for (size_t i = 0; i < BLOCK / sizeof *block; i++) {
        state = state * 6364136223846793005 + 1442695040888963407; /* Knuth's MMIX generator */
        block[i] = (uint16_t)(0x3800 | (state >> 48 & 0x83ff));
    }
    size_t filled = size_bytes < BLOCK ? size_bytes : BLOCK;
    cudaError_t code = cudaMemcpyAsync(memory, block, filled, cudaMemcpyHostToDevice, stream);
    for (; !code && filled < size_bytes; filled *= 2)
        code = cudaMemcpyAsync((char *)memory + filled, memory,
                               filled < size_bytes - filled ? filled : size_bytes - filled,
                               cudaMemcpyDeviceToDevice, stream);
    cudaError_t after = cudaStreamSynchronize(stream);
    free(block);
    return code || after ? cuda_fail(code ? code : after, layer, "filling scratch", error) : EFFNET_OK;
}

static int scratch_lay_out(struct cudnn_scratch *scratch, const struct cudnn_conv_shape *s,
                           int64_t workspace_bytes, const char *layer, struct operands *out,
                           struct effnet_error *error)
{
    const size_t sizes[4] = {
        (size_t)s->c_out * (size_t)(s->kernel * s->kernel) * (size_t)(s->c_in / s->groups) * 2,
        (size_t)s->n * (size_t)s->h * (size_t)s->w * (size_t)s->c_in * 2,
        (size_t)s->n * (size_t)s->out_h * (size_t)s->out_w * (size_t)s->c_out * 2, (size_t)workspace_bytes};
    size_t offsets[5] = {0};
    for (int i = 0; i < 4; i++) offsets[i + 1] = offsets[i] + ((sizes[i] + 255) & ~(size_t)255);
    int status = scratch_reserve(scratch, offsets[4], layer, error);
    if (status) return status;
    char *base = scratch->memory;
    *out = (struct operands){base, base + offsets[1], base + offsets[2], base + offsets[3]};
    return fill(base, offsets[2], scratch->stream, layer, error); /* weights and input */
}

/* ---------------------------------------------------------------- timing */

struct subject {
    struct cudnn_context *context;
    const struct cudnn_executable *executable;
    cudnnBackendDescriptor_t pack;
    const char *layer;
};

static int run(const struct subject *s, struct effnet_error *error)
{
    return cudnn_execute(s->context, s->executable, s->pack, s->context->scratch.stream, s->layer, error);
}

/* One run to load the kernels, one between two events. */
static int time_once(const struct subject *s, double *elapsed_us, struct effnet_error *error)
{
    const struct cudnn_scratch *scratch = &s->context->scratch;
    int status = run(s, error);
    if (status) return status;
    cudaError_t code = cudaEventRecord(scratch->events[0], scratch->stream);
    status = run(s, error);
    if (status) return status;
    float elapsed_ms = 0;
    if (!code) code = cudaEventRecord(scratch->events[1], scratch->stream);
    if (!code) code = cudaEventSynchronize(scratch->events[1]);
    if (!code) code = cudaEventElapsedTime(&elapsed_ms, scratch->events[0], scratch->events[1]);
    *elapsed_us = 1000 * (double)elapsed_ms;
    return code ? cuda_fail(code, s->layer, "timing one run", error) : EFFNET_OK;
}

static int capture(const struct subject *s, int runs, cudaGraphExec_t *out, struct effnet_error *error)
{
    const struct cudnn_scratch *scratch = &s->context->scratch;
    *out = NULL;
    cudaError_t code = cudaStreamBeginCapture(scratch->stream, cudaStreamCaptureModeThreadLocal);
    if (code) return cuda_fail(code, s->layer, "capture", error);
    int status = EFFNET_OK;
    for (int i = 0; !status && i < runs; i++) status = run(s, error);
    cudaGraph_t graph = NULL;
    code = cudaStreamEndCapture(scratch->stream, &graph);
    if (!status && code) status = cuda_fail(code, s->layer, "capture", error);
    if (!status) {
        code = cudaGraphInstantiate(out, graph, 0);
        if (code) status = cuda_fail(code, s->layer, "graph", error);
    }
    if (graph) cudaGraphDestroy(graph);
    cuda_forget_error(code);
    return status;
}

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Median device time of one run, in graphs of `runs`. */
static int time_many(const struct subject *s, int runs, double *elapsed_us, struct effnet_error *error)
{
    const struct cudnn_scratch *scratch = &s->context->scratch;
    cudaGraphExec_t graph;
    int status = capture(s, runs, &graph, error);
    if (status) return status;
    cudaError_t code = cudaGraphLaunch(graph, scratch->stream);
    for (int i = 0; !code && i <= CUDNN_TIMINGS; i++) {
        code = cudaEventRecord(scratch->events[i], scratch->stream);
        if (!code && i < CUDNN_TIMINGS) code = cudaGraphLaunch(graph, scratch->stream);
    }
    if (!code) code = cudaStreamSynchronize(scratch->stream);
    float elapsed_ms[CUDNN_TIMINGS];
    for (int i = 0; !code && i < CUDNN_TIMINGS; i++)
        code = cudaEventElapsedTime(&elapsed_ms[i], scratch->events[i], scratch->events[i + 1]);
    cudaGraphExecDestroy(graph);
    if (code) return cuda_fail(code, s->layer, "timing", error);
    qsort(elapsed_ms, CUDNN_TIMINGS, sizeof *elapsed_ms, compare_floats);
    *elapsed_us = 1000 * (double)elapsed_ms[CUDNN_TIMINGS / 2] / runs;
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- choice */

/* Builds and times one candidate; what is wrong with it, if anything, is in *refusal. */
static int try_candidate(struct cudnn_context *context, const struct cudnn_graph *graph,
                         const struct cudnn_plan_options *options, const struct operands *operands,
                         double best_us, struct cudnn_executable *executable, struct cudnn_trial *trial,
                         struct effnet_error *refusal)
{
    double start = now_ms();
    int status = cudnn_executable_build(graph, trial->config, options->tune, executable, refusal);
    trial->build_ms = now_ms() - start;
    if (status) return status;
    trial->executable = executable;
    if (executable->workspace_bytes > options->workspace_limit_bytes)
        return effnet_fail(refusal, EFFNET_E_UNAVAILABLE,
                           "%s: workspace of %" PRId64 " bytes is over the limit", graph->layer,
                           executable->workspace_bytes);

    struct subject subject = {.context = context, .executable = executable, .layer = graph->layer};
    status = cudnn_pack_build(graph->target, graph->layer, operands->x, operands->w, operands->y,
                              operands->workspace, &subject.pack, refusal);
    if (status) return status;
    status = time_once(&subject, &trial->elapsed_us, refusal);
    trial->rough = best_us > 0 && trial->elapsed_us > hopeless_us(best_us);
    if (!status && !trial->rough) {
        double runs = trial->elapsed_us > 0 ? runs_target_us / trial->elapsed_us : RUNS_MOST;
        int count = runs < RUNS_LEAST ? RUNS_LEAST : runs > RUNS_MOST ? RUNS_MOST : (int)runs;
        status = time_many(&subject, count, &trial->elapsed_us, refusal);
    }
    cudnn_descriptor_free(graph->target, &subject.pack);
    return status;
}

int cudnn_tune(struct cudnn_context *context, const struct cudnn_graph *graph,
               const struct cudnn_conv_shape *shape, const struct cudnn_plan_options *options,
               cudnn_trial_visitor *visit, void *visitor_context, struct cudnn_cache_entry *entry,
               struct cudnn_executable *executable, struct effnet_error *error)
{
    *executable = (struct cudnn_executable){0};
    struct cudnn_config_list list = {0};
    struct operands operands;
    int status = cudnn_graph_candidates(graph, options->tune, &list, error);
    if (!status)
        status = scratch_lay_out(&context->scratch, shape, options->workspace_limit_bytes, graph->layer,
                                 &operands, error);

    double best_us = 0, best_score = 0;
    struct effnet_error refusal = {.message = "no engine was offered"};
    for (int i = 0; !status && i < list.count; i++) {
        struct cudnn_executable candidate = {0};
        struct cudnn_trial trial = {.config = &list.items[i]};
        int outcome = try_candidate(context, graph, options, &operands, best_us, &candidate, &trial,
                                    &refusal);
        trial.refused = outcome ? refusal.message : NULL;
        if (visit) visit(&trial, visitor_context);

        /* An engine may fail; a device that does not answer any more ends the search. */
        cudaError_t device = outcome ? cudaStreamSynchronize(context->scratch.stream) : cudaSuccess;
        if (device) status = cuda_fail(device, graph->layer, "timing", error);

        double score = trial.elapsed_us * (candidate.runtime_compiled ? runtime_compiled_handicap : 1);
        if (!outcome && !trial.rough && (best_score == 0 || score < best_score)) {
            best_score = score;
            best_us = trial.elapsed_us;
            entry->config = list.items[i];
            entry->workspace_bytes = candidate.workspace_bytes;
            entry->elapsed_ns = trial.elapsed_us > 0.001 ? (int64_t)(1000 * trial.elapsed_us + 0.5) : 1;
            cudnn_executable_free(executable);
            *executable = candidate;
        } else {
            cudnn_executable_free(&candidate);
        }
    }
    cudnn_config_list_free(&list);
    if (!status && best_score == 0)
        status = effnet_fail(error, EFFNET_E_UNAVAILABLE, "%s: %s has no engine for this convolution (%s)",
                             graph->layer, context->name, refusal.message);
    if (status) cudnn_executable_free(executable);
    return status;
}
