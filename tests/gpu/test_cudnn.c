/* cuDNN's convolutions against plain loops in double: every engine that may run, on every convolution of both
 * networks at batches 1 and 10 and on seeded awkward shapes; the engine that cuDNN recommends, also inside a
 * CUDA graph.
 *   --small    few and small shapes, the recommended engine alone: for compute-sanitizer */
#include <time.h>

#include "backend/cuda/cudnn/conv.h"
#include "cudnn_shapes.h"
#include "small.h"

enum { WORKSPACE_MOST = 64 << 20 };

static double engines_ms, reference_ms; /* where the time goes */

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1000.0 * (double)t.tv_sec + (double)t.tv_nsec / 1e6;
}

static struct cudnn_context *open_context(void)
{
    struct effnet_error error;
    struct cudnn_context *context;
    const int status = cudnn_context_open(&context, &error);
    if (!status) return context;
    printf("%s: %s\n", status == EFFNET_E_UNAVAILABLE ? "skipped" : "FAILED", error.message);
    exit(status == EFFNET_E_UNAVAILABLE ? GPU_EXIT_SKIPPED : 1);
}

/* ---------------------------------------------------------------- one problem */

enum { VERIFIED_MAX = 6 };

struct problem {
    struct cudnn_conv_shape shape;
    size_t x_count, w_count, y_count, image_count; /* image_count: of y, one image's */
    void *x, *x_equal, *w;                         /* device; x_equal: image 0 in every place */
    struct guarded y;
    double *reference;
    half *out, *out_equal; /* pinned: what runs leave in y */
    /* Outputs that were compared with the reference and are right; engines share a few roundings. */
    half *verified[VERIFIED_MAX];
    double verified_l2[VERIFIED_MAX];
    int verified_count;
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
        values[i] = half_from_float(scale * noise(state));
        (*as_float)[i] = half_to_float(values[i]);
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
    const double start = now_ms();
    p.reference = reference_new(s, x_float, w_float);
    reference_ms += now_ms() - start;
    p.x = device_copy(x, p.x_count * sizeof(half));
    p.w = device_copy(w, p.w_count * sizeof(half));
    for (int n = 1; n < s->n; n++) memcpy(x + (size_t)n * x_image, x, x_image * sizeof(half));
    p.x_equal = device_copy(x, p.x_count * sizeof(half));
    p.y = guarded_alloc(p.y_count * sizeof(half));
    CUDA_OK(cudaMallocHost((void **)&p.out, p.y_count * sizeof(half)));
    CUDA_OK(cudaMallocHost((void **)&p.out_equal, p.y_count * sizeof(half)));
    free(x), free(w), free(x_float), free(w_float);
    return p;
}

static void problem_free(struct problem *p)
{
    CUDA_OK(cudaFree(p->x));
    CUDA_OK(cudaFree(p->x_equal));
    CUDA_OK(cudaFree(p->w));
    guarded_free(&p->y);
    CUDA_OK(cudaFreeHost(p->out));
    CUDA_OK(cudaFreeHost(p->out_equal));
    for (int i = 0; i < p->verified_count; i++) free(p->verified[i]);
    free(p->reference);
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
    const size_t bytes = p->y_count * sizeof(half);
    for (int i = 0; i < p->verified_count; i++)
        if (!memcmp(p->out, p->verified[i], bytes) && guarded_intact(&p->y)) {
            *relative_l2 = p->verified_l2[i];
            return true;
        }
    const struct comparison c = compare_half(p->out, p->reference, p->y_count);
    *relative_l2 = c.relative_l2;
    if (c.mismatched == 0 && c.relative_l2 <= 4e-4 && c.worst <= 7e-4 && guarded_intact(&p->y)) {
        if (p->verified_count < VERIFIED_MAX) {
            p->verified_l2[p->verified_count] = c.relative_l2;
            memcpy(p->verified[p->verified_count++] = checked_malloc(bytes), p->out, bytes);
        }
        return true;
    }
    const size_t i = c.worst_index, k = (size_t)p->shape.c_out, ow = (size_t)p->shape.out_w,
                 oh = (size_t)p->shape.out_h;
    printf("  %s: %zu NaN or infinite, relative L2 %.2e, worst %.2e at n%zu h%zu w%zu c%zu (%.6g for %.6g), "
           "guards %s\n",
           what, c.mismatched, c.relative_l2, c.worst, i / k / ow / oh, i / k / ow % oh, i / k % ow, i % k,
           (double)half_to_float(p->out[i]), p->reference[i],
           guarded_intact(&p->y) ? "intact" : "OVERWRITTEN");
    return false;
}

/* ---------------------------------------------------------------- engines */

/* Memory for the largest workspace that is allowed, once for all engines: to allocate it takes as long as to
 * run one. */
static struct guarded workspace_pool;

/* The first `bytes` of it between guard zones, poisoned. */
static struct guarded workspace_of(int64_t bytes)
{
    if (!workspace_pool.base) workspace_pool = guarded_alloc((size_t)WORKSPACE_MOST);
    struct guarded view = workspace_pool;
    view.bytes = (size_t)bytes;
    guarded_poison(&view);
    return view;
}

/* Runs the chosen engine on x; what it leaves in y goes to `out`. */
static void run_engine(struct cudnn_conv *conv, struct problem *p, const void *x, void *workspace, half *out)
{
    struct effnet_error error = {0};
    guarded_poison(&p->y);
    if (cudnn_conv_run(conv, x, p->w, p->y.data, workspace, NULL, &error))
        printf("  %s\n", error.message); /* the poison then fails the comparison */
    fetch(p, out);
}

/* The engines that ran on one problem. */
struct engines {
    struct cudnn_conv *conv;
    struct problem *problem;
    const char *name;
    int ran;
    double worst_l2;
};

/* One engine: the right values, and for equal images the same bits at every place in the batch as among other
 * images. Not every candidate can run. */
static int check_engine(const char *engine, void *context, struct effnet_error *error)
{
    struct engines *e = context;
    struct problem *p = e->problem;
    double relative_l2;
    if (cudnn_conv_choose(e->conv, engine, error)) return EFFNET_OK;
    const double start = now_ms();
    const struct guarded workspace = workspace_of(cudnn_conv_workspace_bytes(e->conv));
    run_engine(e->conv, p, p->x, workspace.data, p->out);
    const bool good = right(p, engine, &relative_l2);
    bool same = true;
    if (p->shape.n > 1) run_engine(e->conv, p, p->x_equal, workspace.data, p->out_equal);
    for (int n = 0; n < p->shape.n && p->shape.n > 1; n++)
        same &= !memcmp(p->out_equal + (size_t)n * p->image_count, p->out, p->image_count * sizeof(half));
    expect(good, "%s: %s is wrong", e->name, engine);
    expect(same, "%s: %s: an image's bits depend on its place in the batch", e->name, engine);
    expect(guarded_intact(&workspace), "%s: %s writes past its workspace", e->name, engine);
    e->ran++;
    if (relative_l2 > e->worst_l2) e->worst_l2 = relative_l2;
    engines_ms += now_ms() - start;
    return EFFNET_OK;
}

/* The engine that is taken where nothing was measured: right, the same bits again, and the same from a CUDA
 * graph. */
static void check_choice(struct cudnn_conv *conv, struct problem *p, const char *name)
{
    struct effnet_error error = {0};
    int status = cudnn_conv_choose(conv, NULL, &error);
    expect(!status, "%s", error.message);
    if (status) return;
    const char *engine = cudnn_conv_engine(conv);
    const struct guarded workspace = workspace_of(cudnn_conv_workspace_bytes(conv));
    double relative_l2;
    run_engine(conv, p, p->x, workspace.data, p->out);
    expect(right(p, engine, &relative_l2), "%s: %s, which cuDNN recommends", name, engine);

    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    status = cudnn_conv_run(conv, p->x, p->w, p->y.data, workspace.data, stream, &error);
    CUDA_OK(cudaStreamEndCapture(stream, &graph));
    expect(!status, "%s", error.message);
    CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
    for (int replay = 0; replay < 2; replay++) {
        guarded_poison(&p->y);
        CUDA_OK(cudaDeviceSynchronize());
        CUDA_OK(cudaGraphLaunch(exec, stream));
        fetch(p, p->out_equal);
        expect(!memcmp(p->out, p->out_equal, p->y_count * sizeof(half)), "%s: %s: other bits in a CUDA graph",
               name, engine);
    }
    expect(guarded_intact(&workspace) && guarded_intact(&p->y), "%s: guards", name);
    CUDA_OK(cudaGraphExecDestroy(exec));
    CUDA_OK(cudaGraphDestroy(graph));
    CUDA_OK(cudaStreamDestroy(stream));
    printf("; %s", engine);
}

/* CHOICE: the recommended engine; ENGINES: every engine. */
enum what { CHOICE = 1, ENGINES = 2 };

static void check_shape(struct cudnn_context *context, const char *name, const struct cudnn_conv_shape *s,
                        int what, uint64_t *state)
{
    struct effnet_error error = {0};
    struct problem p = problem_new(s, state);
    struct engines engines = {.problem = &p, .name = name};
    printf("%-17s n%-3d %3dx%-3d c%-4d->%-4d g%-4d k%d s%d p%d%d%d%d", name, s->n, s->h, s->w, s->c_in,
           s->c_out, s->groups, s->kernel, s->stride, s->pad_top, s->pad_left, s->pad_bottom, s->pad_right);
    const int status = cudnn_conv_open(context, s, name, WORKSPACE_MOST, &engines.conv, &error);
    expect(!status, "%s", error.message);
    if (!status && what & ENGINES) {
        expect(!cudnn_conv_candidates(engines.conv, check_engine, &engines, &error), "%s", error.message);
        expect(engines.ran > 0, "%s: no engine ran", name);
        printf(": %2d engines, worst L2 %.1e", engines.ran, engines.worst_l2);
    }
    if (!status && what & CHOICE) check_choice(engines.conv, &p, name);
    printf("\n");
    cudnn_conv_close(engines.conv, false);
    problem_free(&p);
}

/* Every distinct convolution of both networks. */
static void check_networks(struct cudnn_context *context, int batch, int what, uint64_t *state)
{
    struct named_shape shapes[NAMED_SHAPES_MAX];
    const int count = all_network_shapes(batch, shapes);
    for (int i = 0; i < count; i++) {
        bool seen = false;
        for (int j = 0; j < i; j++)
            seen |= !memcmp(&shapes[i].shape, &shapes[j].shape, sizeof shapes[i].shape);
        if (!seen) check_shape(context, shapes[i].name, &shapes[i].shape, what, state);
    }
}

/* ---------------------------------------------------------------- main */

int main(int argc, char **argv)
{
    const bool small = argc == 2 && !strcmp(argv[1], "--small");
    if (argc > 1 && !small) return fprintf(stderr, "usage: %s [--small]\n", argv[0]), 2;
    gpu_require();
    uint64_t state = random_seed("shapes and data", 20260102);
    struct cudnn_context *context = open_context();
    printf("%s\n", cudnn_context_name(context));
    if (!small) {
        check_networks(context, 1, ENGINES, &state);
        check_networks(context, 10, ENGINES | CHOICE, &state);
    }
    for (int i = 0; i < (small ? 4 : 40); i++) {
        struct cudnn_conv_shape s = awkward_shape(&state);
        char name[32];
        snprintf(name, sizeof name, "awkward %d", i);
        check_shape(context, name, &s, small ? CHOICE : i % 4 ? ENGINES : ENGINES | CHOICE, &state);
    }
    cudnn_context_close(context, false);
    printf("checking engines %.1f s, the reference %.1f s\n", engines_ms / 1000, reference_ms / 1000);
    return finish();
}
