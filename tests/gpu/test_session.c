/* What sessions on the GPU do to their surroundings, through effnet.h: the calling thread's current device
 * and context and the runtime's last error stay what they were; times are of the images asked for; a stream
 * of batches gives the bits of a run; features are the reference's, to rounding; sessions that are opened
 * side by side choose the same kernels; a child of the process may close a session, run none, and leave.
 * `--small`: without the child and without failures that compute-sanitizer would report. */
#include <cudaTypedefs.h>
#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>

#include "networks.h"

/* ---------------------------------------------------------------- the thread's device and error */

/* A thread's current context, by the driver's own word. (To ask the runtime could give it one.) */
static CUcontext current_context(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_LAZY);
    PFN_cuCtxGetCurrent_v4000 get = NULL;
    CUcontext context = NULL;
    if (library) *(void **)&get = dlsym(library, "cuCtxGetCurrent");
    expect(get && get(&context) == CUDA_SUCCESS, "the driver does not name the current context");
    if (library) dlclose(library);
    return context;
}

/* What must stay as it is. */
struct surroundings {
    CUcontext context;
    int device;
    cudaError_t error;
};

static struct surroundings surroundings_now(void)
{
    struct surroundings s = {.error = cudaPeekAtLastError(), .context = current_context()};
    CUDA_OK(cudaGetDevice(&s.device));
    return s;
}

static void expect_unchanged(const struct surroundings *before, const char *what)
{
    const struct surroundings now = surroundings_now();
    expect(now.context == before->context, "%s: the current context is another", what);
    expect(now.device == before->device, "%s: the current device is %d, not %d", what, now.device,
           before->device);
    expect(now.error == before->error, "%s: the last error is %s, not %s", what, cudaGetErrorName(now.error),
           cudaGetErrorName(before->error));
}

/* A failure of the caller's own, which it has not asked for yet: no call of ours is to report it, or to take
 * it away. */
static void leave_error(void)
{
    void *none = NULL;
    const cudaError_t status = cudaMalloc(&none, (size_t)1 << 45);
    expect(status == cudaErrorMemoryAllocation, "2^45 bytes: %s", cudaGetErrorName(status));
}

static void ignore_device(const struct effnet_device *device, void *context)
{
    expect(device->available || device->detail[0], "a device says nothing");
    *(int *)context += strncmp(device->name, "cuda", 4) == 0;
}

/* One linear layer of random fp16 values on the device `device` names, by its bench. */
static void check_linear_bench(const char *device, const struct surroundings *before)
{
    enum { M = 3, N = 24, K = 64 };
    static half x[M * K], w[N * K];
    uint64_t state = seed;
    for (int i = 0; i < M * K; i++) x[i] = half_from_float(noise(&state));
    for (int i = 0; i < N * K; i++) w[i] = half_from_float(noise(&state));
    const struct effnet_linear_args args = {
        .m = M, .n = N, .k = K, .x = x, .w = w, .ldx = K, .ldw = K, .y_type = EFFNET_FP32};
    const int64_t row = M - 1;
    double want[N], elapsed_us = 0;
    float got[N];
    effnet_linear_bench *bench;
    struct effnet_error error = {0};
    int status = effnet_linear_bench_open(&args, device, false, 2, &bench, &error);
    expect(!status, "linear bench on %s: %s", device, error.message);
    expect_unchanged(before, "opening a linear bench");
    if (status) return;
    status = effnet_linear_bench_rows(bench, &row, 1, got, &error);
    expect(!status, "linear bench: %s", error.message);
    effnet_linear_reference(&args, row, want);
    for (int j = 0; j < N; j++)
        expect(fabs((double)got[j] - want[j]) < 1e-3, "linear bench: column %d: %g, not %g", j,
               (double)got[j], want[j]);
    status = effnet_linear_bench_time(bench, &elapsed_us, &error);
    expect(!status && elapsed_us > 0, "linear bench: %s", error.message);
    expect_unchanged(before, "running a linear bench");
    effnet_linear_bench_close(bench);
    expect_unchanged(before, "closing a linear bench");
}

/* Every public call that may use the GPU, with the thread as it is. */
static void check_surroundings(const struct subject *s, const char *device)
{
    const struct surroundings before = surroundings_now();
    struct effnet_error error = {0};
    double elapsed_us[64];
    int devices = 0;
    effnet_devices(ignore_device, &devices);
    expect(devices > 0, "no device is named cuda");
    expect_unchanged(&before, "listing the devices");
    effnet_session *session = open_session(s, device, "auto", s->max_batch);
    expect_unchanged(&before, "opening a session");
    if (!session) return;
    free(run(session, s, s->pixels, s->images));
    expect_unchanged(&before, "a run");
    expect(!effnet_session_time(session, 1, true, elapsed_us, &error), "%s", error.message);
    expect_unchanged(&before, "timing a pass");
    expect(effnet_session_unit_count(session) <= 64 &&
               !effnet_session_profile(session, 1, false, elapsed_us, &error),
           "%s", error.message);
    expect_unchanged(&before, "timing units");
    const struct effnet_session_options wrong[] = {
        {.device = device, .precision = "fp32"}, {.device = "cuda:1000"}, {.device = device, .plan = "fast"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        effnet_session *refused;
        expect(effnet_session_open(s->model, &wrong[i], &refused, NULL) && !refused, "case %zu opens", i);
        effnet_session_close(refused);
        expect_unchanged(&before, "a session that does not open");
    }
    effnet_session_close(session);
    expect_unchanged(&before, "closing a session");
    check_linear_bench(device, &before);
}

struct call {
    const struct subject *subject;
    const char *device;
    bool small;
};

/* In a thread that has no context yet, then with a device that it chose, then with an error of its own. */
static void *check_thread(void *argument)
{
    const struct call *c = argument;
    int devices;
    expect(!current_context(), "a new thread has a context");
    check_surroundings(c->subject, c->device);
    CUDA_OK(cudaGetDeviceCount(&devices));
    CUDA_OK(cudaSetDevice(devices - 1));
    check_surroundings(c->subject, c->device);
    if (c->small) return NULL; /* compute-sanitizer would report the failure */
    leave_error();
    check_surroundings(c->subject, c->device);
    (void)cudaGetLastError();
    return NULL;
}

static void check_threads_surroundings(const struct subject *s, bool small)
{
    int devices;
    char last[24];
    pthread_t thread;
    CUDA_OK(cudaGetDeviceCount(&devices));
    snprintf(last, sizeof last, "cuda:%d", devices - 1);
    const char *const names[] = {"cuda", last};
    for (int i = 0; i < (small ? 1 : 2); i++) {
        struct call call = {s, names[i], small};
        if (pthread_create(&thread, NULL, check_thread, &call)) exit(1);
        pthread_join(thread, NULL);
    }
}

/* ---------------------------------------------------------------- times */

/* Any number of images that fit, warm and cold; runs between them give the same bits. */
static void check_times(const struct subject *s, const char *plan)
{
    effnet_session *session = open_session(s, "cuda", plan, s->max_batch);
    if (!session) return;
    const int units = effnet_session_unit_count(session);
    double *unit_us = checked_malloc((size_t)units * sizeof *unit_us), elapsed_us;
    float *before = run(session, s, s->pixels, s->images);
    for (int n = 1; n <= s->max_batch; n++)
        for (int cold = 0; cold < 2; cold++) {
            struct effnet_error error = {0};
            elapsed_us = -1;
            for (int u = 0; u < units; u++) unit_us[u] = -1;
            const int status = effnet_session_time(session, n, cold, &elapsed_us, &error) ||
                               effnet_session_profile(session, n, cold, unit_us, &error);
            bool good = elapsed_us > 0 && elapsed_us < 1e6;
            for (int u = 0; u < units; u++) good &= unit_us[u] >= 0 && unit_us[u] < 1e6;
            expect(!status && good, "%s, plan %s: times of %d images: %s", s->name, plan, n, error.message);
        }
    float *after = run(session, s, s->pixels, s->images);
    expect(!memcmp(before, after, (size_t)s->images * s->classes * sizeof *after),
           "%s, plan %s: other logits after timing", s->name, plan);
    expect(effnet_session_time(session, s->max_batch + 1, false, &elapsed_us, NULL) == EFFNET_E_USAGE &&
               effnet_session_profile(session, 0, false, unit_us, NULL) == EFFNET_E_USAGE,
           "%s: times of more images than fit, or of none", s->name);
    free(before), free(after), free(unit_us);
    effnet_session_close(session);
}

/* ---------------------------------------------------------------- a stream of batches */

/* A session that hands out features; NULL, and one failure counted, where it does not open. */
static effnet_session *open_with_features(const struct subject *s, const char *device, const char *plan,
                                          enum effnet_features features)
{
    const struct effnet_session_options options = {
        .device = device, .plan = plan, .max_batch = s->max_batch, .features = features};
    struct effnet_error error = {0};
    effnet_session *session;
    expect(!effnet_session_open(s->model, &options, &session, &error), "%s on %s, plan %s, features: %s",
           s->name, device, plan, error.message);
    return session;
}

/* The features of all images, which the caller frees; *logits too. */
static float *run_features(effnet_session *session, const struct subject *s, float **logits)
{
    const size_t count = (size_t)s->images * (size_t)effnet_session_get_info(session)->feature_count;
    struct effnet_error error = {0};
    float *features = poisoned(count);
    *logits = poisoned((size_t)s->images * s->classes);
    expect(!effnet_session_run_features(session, s->pixels, s->images, *logits, features, &error), "%s: %s",
           s->name, error.message);
    expect(filled(features, count) && filled(*logits, (size_t)s->images * s->classes),
           "%s: features or logits unwritten, or written beyond", s->name);
    return features;
}

/* Against the reference; against a session without; against a stream of two passes under way at once. */
static void check_features(const struct subject *s, const char *plan, enum effnet_features kind)
{
    effnet_session *session = open_with_features(s, "cuda", plan, kind);
    effnet_session *reference = open_with_features(s, "reference", plan, kind);
    effnet_session *plain = open_session(s, "cuda", plan, s->max_batch);
    if (session && reference && plain) {
        const size_t count = (size_t)effnet_session_get_info(session)->feature_count;
        float *logits, *reference_logits, *again = poisoned((size_t)s->max_batch * s->classes);
        float *features = run_features(session, s, &logits),
              *streamed = poisoned((size_t)s->max_batch * count);
        float *expected = run_features(reference, s, &reference_logits);
        float *plain_logits = run(plain, s, s->pixels, s->images);
        double error = 0, norm = 0;
        for (size_t i = 0; i < (size_t)s->images * count; i++) {
            const double difference = (double)features[i] - (double)expected[i];
            error += difference * difference, norm += (double)expected[i] * (double)expected[i];
        }
        expect(error <= 1e-2 * 1e-2 * norm, "%s, plan %s, features %d: relative L2 %g", s->name, plan, kind,
               sqrt(error / norm));
        bool same = true;
        for (size_t i = 0; i < (size_t)s->images * s->classes; i++)
            same &=
                kind == EFFNET_FEATURES_MAP /* of which nobody may pool what the kernel before has in hand */
                    ? fabsf(logits[i] - plain_logits[i]) <= 1e-2f * (1 + fabsf(plain_logits[i]))
                    : logits[i] == plain_logits[i];
        expect(same, "%s, plan %s, features %d: other logits than without", s->name, plan, kind);
        uint8_t *stages[2];
        for (int pass = 0; pass < 2; pass++) { /* the images from `pass` on */
            expect(!effnet_session_stage(session, &stages[pass], NULL) && stages[pass], "%s: no stage",
                   s->name);
            memcpy(stages[pass], s->pixels + (size_t)pass * s->crop_bytes,
                   (size_t)s->max_batch * s->crop_bytes);
            expect(!effnet_session_submit(session, stages[pass], s->max_batch, NULL), "%s: submit", s->name);
        }
        for (int pass = 0; pass < 2; pass++) {
            int n = 0;
            expect(!effnet_session_collect_features(session, again, streamed, &n, NULL) &&
                       n == s->max_batch &&
                       !memcmp(streamed, features + (size_t)pass * count,
                               (size_t)s->max_batch * count * sizeof *features) &&
                       !memcmp(again, logits + (size_t)pass * s->classes,
                               (size_t)s->max_batch * s->classes * sizeof *logits),
                   "%s, plan %s, features %d: pass %d of a stream differs", s->name, plan, kind, pass);
        }
        expect(filled(streamed, (size_t)s->max_batch * count), "%s: features written beyond", s->name);
        free(logits), free(reference_logits), free(plain_logits), free(again);
        free(features), free(expected), free(streamed);
    }
    effnet_session_close(session);
    effnet_session_close(reference);
    effnet_session_close(plain);
}

/* Batches of one image to as many as fit, several under way at once, each from a stage of its own: every
 * image's logits are the bits of a run. */
static void check_stream(const struct subject *s, const char *plan)
{
    enum { ROUNDS = 60, MOST = 16 };
    struct {
        int first, images;
    } under_way[MOST];
    effnet_session *session = open_session(s, "cuda", plan, s->max_batch);
    if (!session) return;
    const size_t image = s->crop_bytes;
    float *expected = run(session, s, s->pixels, s->images);
    float *logits = checked_malloc((size_t)s->max_batch * s->classes * sizeof *logits);
    struct effnet_error error = {0};
    int begun = 0, ended = 0, wrong = 0;
    while (ended < ROUNDS) {
        uint8_t *pixels = NULL;
        expect(!effnet_session_stage(session, &pixels, &error), "%s: stage: %s", s->name, error.message);
        if (pixels && begun < ROUNDS) {
            const int images = 1 + begun % s->max_batch, first = begun * 7 % (s->images - images + 1);
            memcpy(pixels, s->pixels + (size_t)first * image, (size_t)images * image);
            under_way[begun++ % MOST].images = images;
            under_way[(begun - 1) % MOST].first = first;
            expect(!effnet_session_submit(session, pixels, images, &error), "%s: submit: %s", s->name,
                   error.message);
            continue;
        }
        if (pixels) effnet_session_submit(session, pixels, 0, NULL);
        int images = -1;
        memset(logits, 0xff, (size_t)s->max_batch * s->classes * sizeof *logits);
        expect(!effnet_session_collect(session, logits, &images, &error), "%s: collect: %s", s->name,
               error.message);
        const int first = under_way[ended % MOST].first;
        wrong += images != under_way[ended++ % MOST].images ||
                 memcmp(logits, expected + (size_t)first * s->classes,
                        (size_t)images * s->classes * sizeof *logits);
    }
    expect(!wrong, "%s, plan %s: %d of %d batches of a stream have other logits", s->name, plan, wrong,
           ROUNDS);
    free(expected), free(logits);
    effnet_session_close(session);
}

/* ---------------------------------------------------------------- side by side */

struct opened {
    const struct subject *subject;
    pthread_barrier_t *start;
    effnet_session *session;
    int status;
    struct effnet_error error;
    float *logits;
};

static void *open_in_thread(void *argument)
{
    struct opened *o = argument;
    pthread_barrier_wait(o->start);
    const struct effnet_session_options options = {.device = "cuda", .max_batch = 7};
    o->status = effnet_session_open(o->subject->model, &options, &o->session, &o->error);
    if (!o->status)
        o->status = effnet_session_run(o->session, o->subject->pixels, o->subject->images, o->logits,
                                       &o->error);
    return NULL;
}

/* Sessions that are opened side by side run the same. */
static void check_choices(const struct subject *s)
{
    enum { SESSIONS = 4 };
    struct opened opened[SESSIONS];
    pthread_t threads[SESSIONS];
    pthread_barrier_t start;
    if (pthread_barrier_init(&start, NULL, SESSIONS)) exit(1);
    for (int i = 0; i < SESSIONS; i++) {
        opened[i] = (struct opened){
            .subject = s, .start = &start, .logits = poisoned((size_t)s->images * s->classes)};
        if (pthread_create(&threads[i], NULL, open_in_thread, &opened[i])) exit(1);
    }
    for (int i = 0; i < SESSIONS; i++) pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&start);
    const effnet_session *first = opened[0].session;
    for (int i = 0; i < SESSIONS; i++) {
        const effnet_session *session = opened[i].session;
        expect(!opened[i].status, "session %d beside others: %s", i, opened[i].error.message);
        if (!first || !session) continue;
        for (int u = 0; u < effnet_session_unit_count(first); u++) {
            const char *want = effnet_session_unit(first, u)->kernel,
                       *got = effnet_session_unit(session, u)->kernel;
            expect(!strcmp(got, want), "unit %d of sessions opened side by side: %s, and %s", u, want, got);
        }
        expect(!memcmp(opened[i].logits, opened[0].logits,
                       (size_t)s->images * s->classes * sizeof *opened[0].logits),
               "sessions opened side by side give other logits");
    }
    for (int i = 0; i < SESSIONS; i++) {
        effnet_session_close(opened[i].session);
        free(opened[i].logits);
    }
}

/* ---------------------------------------------------------------- a child */

/* In the child of a process with an open session: nothing of it runs, another opens on the CPU at most, and
 * all is closed. Returns the exit status: 0, or what went wrong. */
static int use_in_child(const struct subject *s, effnet_session *session)
{
    struct effnet_error error = {0};
    effnet_session *other;
    double elapsed_us;
    float *logits = poisoned((size_t)s->images * s->classes);
    const struct effnet_session_options cuda = {.device = "cuda"}, any = {.device = "auto"};
    int devices = 0;
    if (effnet_session_run(session, s->pixels, s->images, logits, &error) != EFFNET_E_USAGE ||
        !strstr(error.message, "fork"))
        return 10;
    if (effnet_session_time(session, 1, false, &elapsed_us, &error) != EFFNET_E_USAGE) return 11;
    if (effnet_session_open(s->model, &cuda, &other, &error) != EFFNET_E_UNAVAILABLE || other ||
        !strstr(error.message, "fork"))
        return 12;
    if (effnet_session_open(s->model, &any, &other, &error) ||
        effnet_session_run(other, s->pixels, s->images, logits, &error) ||
        !filled(logits, (size_t)s->images * s->classes))
        return 13;
    effnet_session_close(other);
    effnet_devices(ignore_device, &devices);
    if (devices != 1) return 14; /* one line: why there is none */
    effnet_session_close(session);
    free(logits);
    return 0;
}

/* Children that leave at once, and that try everything first; by exit, with all that runs then. */
static void check_fork(const struct subject *s)
{
    effnet_session *session = open_session(s, "cuda", "auto", s->max_batch);
    if (!session) return;
    float *before = run(session, s, s->pixels, s->images);
    for (int child = 0; child < 2; child++) {
        int status = -1, waited = 0;
        fflush(NULL);
        const pid_t process = fork();
        if (process == 0) {
            alarm(60); /* a child that hangs ends by a signal */
            exit(child ? use_in_child(s, session) : 0);
        }
        if (process > 0) waited = waitpid(process, &status, 0) == process;
        expect(waited && WIFEXITED(status) && WEXITSTATUS(status) == 0,
               "child %d of a process with a session: %s %d", child,
               WIFEXITED(status) ? "exit status" : "signal",
               WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    }
    float *after = run(session, s, s->pixels, s->images);
    expect(!memcmp(before, after, (size_t)s->images * s->classes * sizeof *after),
           "%s: other logits after a fork", s->name);
    free(before), free(after);
    effnet_session_close(session);
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && !strcmp(argv[1], "--small");
    gpu_require();
    seed = random_seed("weights and images", seed);
    struct subject lite = subject_new("lite", lite_model(), 5, 3);
    struct subject heads = subject_new("heads", heads_model(), 6, 5);
    check_threads_surroundings(&lite, small);
    for (int plan = 0; plan < 2; plan++) {
        check_times(&lite, PLANS[plan]);
        check_stream(&lite, PLANS[plan]);
        for (enum effnet_features kind = EFFNET_FEATURES_POOLED; kind <= EFFNET_FEATURES_MAP; kind++) {
            check_features(&lite, PLANS[plan], kind);
            check_features(&heads, PLANS[plan], kind);
        }
        if (!small) check_times(&heads, PLANS[plan]);
    }
    if (!small) check_choices(&heads);
    if (!small) check_fork(&lite);
    subject_free(&lite);
    subject_free(&heads);
    return finish();
}
