/* The CUDA backend as a whole, through effnet.h: on small networks with seeded weights, narrow ones among
 * them, and on lite1 and b1-plain where weights/ holds them. Every unit and the logits against the reference;
 * the same bits from run to run, from session to session, alone and in any company, in both plans; a batch
 * too large for the GPU; arguments that are wrong; several sessions at once.
 *
 * --small: the small networks and smaller batches, nothing that fills the GPU's memory, for
 * compute-sanitizer. */
#include <pthread.h>

#include "networks.h"

/* Each image's logits when it is alone; no two images' may be equal, or nothing would be tested. */
static float *run_alone(effnet_session *session, const struct subject *s)
{
    float *logits = checked_malloc((size_t)s->images * s->classes * sizeof *logits);
    for (int i = 0; i < s->images; i++) {
        float *one = run(session, s, s->pixels + (size_t)i * s->crop_bytes, 1);
        memcpy(logits + (size_t)i * s->classes, one, s->classes * sizeof *one);
        free(one);
        for (int j = 0; j < i; j++)
            expect(memcmp(logits + (size_t)i * s->classes, logits + (size_t)j * s->classes,
                          s->classes * sizeof *logits) != 0,
                   "%s: images %d and %d have the same logits", s->name, i, j);
    }
    return logits;
}

/* ---------------------------------------------------------------- the same bits */

/* n images, from image `first` on and round again, against each alone. */
static void check_company(effnet_session *session, const struct subject *s, const char *plan,
                          const float *alone, int n, int first)
{
    uint8_t *pixels = calloc((size_t)n, s->crop_bytes);
    if (!pixels) exit(1);
    for (int i = 0; i < n; i++)
        memcpy(pixels + (size_t)i * s->crop_bytes,
               s->pixels + (size_t)((first + i) % s->images) * s->crop_bytes, s->crop_bytes);
    float *logits = run(session, s, pixels, n);
    int different = 0;
    for (int i = 0; i < n; i++)
        different += memcmp(logits + (size_t)i * s->classes,
                            alone + (size_t)((first + i) % s->images) * s->classes,
                            s->classes * sizeof *logits) != 0;
    expect(!different, "%s, plan %s: %d of %d images from %d on have other logits than alone", s->name, plan,
           different, n, first);
    free(logits);
    free(pixels);
}

static bool same_units(const effnet_session *a, const effnet_session *b)
{
    const int count = effnet_session_unit_count(a);
    bool same = count == effnet_session_unit_count(b);
    for (int i = 0; same && i < count; i++)
        same = !strcmp(effnet_session_unit(a, i)->kernel, effnet_session_unit(b, i)->kernel);
    return same;
}

/* Part-filled, full and several passes, every image at every place of a pass; then a second session. */
static void check_bits(const struct subject *s, const char *plan)
{
    effnet_session *session = open_session(s, "cuda", plan, s->max_batch), *second;
    if (!session) return;
    float *alone = run_alone(session, s), *again = run_alone(session, s);
    expect(!memcmp(alone, again, (size_t)s->images * s->classes * sizeof *alone),
           "%s, plan %s: other logits at the second run", s->name, plan);
    free(again);
    for (int n = 1; n <= s->images; n++)
        for (int first = 0; first < (n <= s->max_batch ? s->max_batch : 2); first++)
            check_company(session, s, plan, alone, n, first);
    second = open_session(s, "cuda:0", plan, s->max_batch);
    if (second) {
        expect(same_units(session, second), "%s, plan %s: the second session runs other kernels", s->name,
               plan);
        check_company(second, s, plan, alone, s->images, 0);
    }
    effnet_session_close(second);
    effnet_session_close(session);
    free(alone);
}

/* ---------------------------------------------------------------- against the reference */

/* The worst image's relative L2 error; infinity where a value is not a number or one element is further off
 * than rounding explains: the allowance times its size and 16 times the image's root mean square. */
static double difference(const float *got, const float *want, int n, size_t size, double allowance)
{
    double worst = 0;
    for (int i = 0; i < n; i++, got += size, want += size) {
        double error = 0, norm = 0;
        for (size_t k = 0; k < size; k++) {
            const double d = (double)got[k] - (double)want[k];
            if (!isfinite(d)) return INFINITY;
            error += d * d, norm += (double)want[k] * (double)want[k];
        }
        if (norm == 0) return INFINITY; /* nothing to compare */
        for (size_t k = 0; k < size; k++)
            if (fabs((double)got[k] - (double)want[k]) >
                allowance * (fabs((double)want[k]) + 16 * sqrt(norm / (double)size)))
                return INFINITY;
        worst = fmax(worst, sqrt(error / norm));
    }
    return worst;
}

static size_t output_size(const struct effnet_layer *l)
{
    return (size_t)l->out_height * (size_t)l->out_width * (size_t)l->out_channels;
}

/* The reference's way through a network on n images. */
struct truth {
    const struct subject *subject;
    int n, layers;
    float *tensor, **output, **raw; /* of each layer; raw without bias and activation */
};

static struct truth truth_new(const struct subject *s, int n)
{
    const struct effnet_model_info *info = effnet_model_get_info(s->model);
    struct truth t = {.subject = s, .n = n, .layers = info->layer_count};
    t.tensor = checked_malloc((size_t)n * s->crop_bytes * sizeof(float));
    t.output = checked_malloc((size_t)t.layers * sizeof *t.output);
    t.raw = checked_malloc((size_t)t.layers * sizeof *t.raw);
    effnet_reference_normalise(&info->preprocess, n, s->pixels, t.tensor);
    for (int i = 0; i < t.layers; i++) {
        const struct effnet_layer *l = effnet_model_layer(s->model, i);
        const float *inputs[2];
        for (int k = 0; k < l->input_count; k++)
            inputs[k] = l->inputs[k] == EFFNET_IMAGE ? t.tensor : t.output[l->inputs[k]];
        struct effnet_error error = {0};
        t.output[i] = poisoned((size_t)n * output_size(l));
        t.raw[i] = poisoned((size_t)n * output_size(l));
        const int status = effnet_reference_layer(s->model, i, n, inputs, false, t.output[i], &error) |
                           effnet_reference_layer(s->model, i, n, inputs, true, t.raw[i], &error);
        expect(!status, "%s: the reference: %s", s->name, error.message);
    }
    return t;
}

static void truth_free(struct truth *t)
{
    for (int i = 0; i < t->layers; i++) free(t->output[i]), free(t->raw[i]);
    free(t->output), free(t->raw), free(t->tensor);
}

/* One unit on the reference's input. */
static double unit_error(effnet_session *session, const struct truth *t, int index, double allowance)
{
    const struct effnet_unit *u = effnet_session_unit(session, index);
    const effnet_model *model = t->subject->model;
    const float *want = u->raw_output ? t->raw[u->last] : t->output[u->last], *inputs[EFFNET_UNIT_INPUTS];
    for (int i = 0; i < u->input_count; i++)
        inputs[i] = u->inputs[i] == EFFNET_IMAGE ? t->tensor : t->output[u->inputs[i]];
    if (u->raw_input) inputs[0] = t->raw[u->first - 1];
    const size_t size = output_size(effnet_model_layer(model, u->last));
    float *got = poisoned((size_t)t->n * size);
    struct effnet_error error = {0};
    const int status = effnet_session_run_unit(session, index, t->n, inputs, got, &error);
    double worst = status || !filled(got, (size_t)t->n * size) ? INFINITY
                                                               : difference(got, want, t->n, size, allowance);
    if (status) printf("%s\n", error.message);
    free(got);
    return worst;
}

/* The units are the network's layers in order and agree on who applies bias and activation; each is within an
 * allowance of the reference, the logits within five times that. */
static void check_reference(const struct subject *s, const char *plan, int n, double unit_allowance)
{
    const double logits_allowance = 5 * unit_allowance;
    effnet_session *session = open_session(s, "cuda", plan, s->max_batch);
    if (!session) return;
    struct truth t = truth_new(s, n);
    double worst = 0;
    int next = 0;
    bool raw = false;
    for (int i = 0; i < effnet_session_unit_count(session); i++) {
        const struct effnet_unit *u = effnet_session_unit(session, i);
        expect(u->first == next && u->last >= u->first && u->raw_input == raw,
               "%s, plan %s: unit %d (%s) does not follow on the one before", s->name, plan, i, u->kernel);
        next = u->last + 1, raw = u->raw_output;
        for (int l = u->first; l < u->last; l++)
            expect(effnet_model_layer(s->model, l)->last_reader <= u->last,
                   "%s, plan %s: unit %d (%s) hides what '%s' gives from layers behind it", s->name, plan, i,
                   u->kernel, effnet_model_layer(s->model, l)->name);
        const double error = unit_error(session, &t, i, unit_allowance);
        expect(error <= unit_allowance, "%s, plan %s: unit %d, %s (%s): relative L2 %.2e", s->name, plan, i,
               effnet_model_layer(s->model, u->first)->name, u->kernel, error);
        worst = fmax(worst, error);
    }
    expect(next == t.layers && !raw, "%s, plan %s: the units end before the network does", s->name, plan);
    float *logits = run(session, s, s->pixels, n);
    const double error = difference(logits, t.output[t.layers - 1], n, s->classes, logits_allowance);
    expect(error <= logits_allowance, "%s, plan %s: logits: relative L2 %.2e", s->name, plan, error);
    printf("%s, plan %s: %d units, relative L2 up to %.1e; logits %.1e\n", s->name, plan,
           effnet_session_unit_count(session), worst, error);
    free(logits);
    truth_free(&t);
    effnet_session_close(session);
}

/* The narrow network with one class to eight, which the last layer computes in another way each. */
static void check_narrow(bool small)
{
    for (int classes = 1; classes <= 8; classes += small ? 7 : 1) {
        char name[32];
        snprintf(name, sizeof name, "narrow, %d classes", classes);
        struct subject narrow = subject_new(name, narrow_model(classes), small ? 3 : 7, 3);
        for (int plan = 0; plan < 2; plan++) {
            /* sums of eight terms cancel at times */
            check_reference(&narrow, PLANS[plan], small ? 1 : 3, 5e-3);
            if (classes == 1 || classes == 8) check_bits(&narrow, PLANS[plan]);
        }
        subject_free(&narrow);
    }
}

/* ---------------------------------------------------------------- memory */

static size_t free_bytes(void)
{
    size_t available, total;
    CUDA_OK(cudaMemGetInfo(&available, &total));
    return available;
}

/* A batch that does not fit: the message says what it needs and what would fit; no memory is kept. Returns
 * what would fit, or 0. */
static int check_too_large(const struct subject *s, const char *plan, int batch)
{
    const struct effnet_session_options options = {.device = "cuda", .plan = plan, .max_batch = batch};
    struct effnet_error error = {0};
    effnet_session *session;
    const size_t before = free_bytes();
    const int status = effnet_session_open(s->model, &options, &session, &error);
    int named = 0, fits = 0;
    long long needed = 0, available = 0;
    const char *words = strstr(error.message, "a batch of ");
    printf("%s, plan %s: status %d, %s\n", s->name, plan, status, error.message);
    expect(status == EFFNET_E_NOMEM && error.status == status && !session, "%s: a batch of %d: status %d",
           s->name, batch, status);
    expect(words &&
               sscanf(words,
                      "a batch of %d needs %lld MiB of GPU memory and %lld MiB are free; about %d images fit",
                      &named, &needed, &available, &fits) == 4,
           "%s: a batch of %d: the message is \"%s\"", s->name, batch, error.message);
    expect(named == batch && needed > available && (size_t)available <= before >> 20 && fits > 0 &&
               fits < batch,
           "%s: a batch of %d: \"%s\" with %zu MiB free", s->name, batch, error.message, before >> 20);
    expect(free_bytes() + (64u << 20) >= before, "%s: a batch of %d: %zu MiB are lost", s->name, batch,
           (before - free_bytes()) >> 20);
    effnet_session_close(session);
    return fits;
}

/* With all but 1 GiB of the GPU's memory taken, the largest batch fails and seven eighths of what the message
 * names work; afterwards all is as before. */
static void check_memory(const struct subject *s, const char *plan)
{
    enum { LARGEST = 65536 };
    effnet_session *session = open_session(s, "cuda", plan, s->max_batch);
    if (!session) return;
    float *want = run(session, s, s->pixels, s->images);
    effnet_session_close(session);

    void *hog = NULL;
    CUDA_OK(cudaMalloc(&hog, free_bytes() - ((size_t)1 << 30)));
    const int fits = check_too_large(s, plan, LARGEST);
    session = fits > 0 ? open_session(s, "cuda", plan, fits - fits / 8) : NULL;
    if (session) { /* another batch, so perhaps other kernels and other roundings */
        float *got = run(session, s, s->pixels, s->images);
        const double error = difference(got, want, s->images, s->classes, 1e-2);
        expect(error <= 1e-2, "%s: a batch of %d: relative L2 %.2e", s->name, fits - fits / 8, error);
        free(got);
    }
    effnet_session_close(session);
    CUDA_OK(cudaFree(hog));

    session = open_session(s, "cuda", plan, s->max_batch);
    if (session) {
        float *got = run(session, s, s->pixels, s->images);
        expect(!memcmp(got, want, (size_t)s->images * s->classes * sizeof *got),
               "%s: other logits after a batch that did not fit", s->name);
        free(got);
    }
    effnet_session_close(session);
    free(want);
}

/* Bytes that one image's activations take at least: a layer's input and output. */
static size_t least_bytes(const effnet_model *model)
{
    size_t most = 0;
    for (int i = 0; i < effnet_model_get_info(model)->layer_count; i++) {
        const struct effnet_layer *l = effnet_model_layer(model, i);
        const size_t values = (size_t)l->in_height * (size_t)l->in_width * (size_t)l->in_channels +
                              output_size(l);
        if (l->op == EFFNET_OP_DEPTHWISE && values > most) most = values;
    }
    return 2 * most;
}

/* ---------------------------------------------------------------- wrong arguments */

static void check_refusal(const effnet_model *model, const struct effnet_session_options *options, int want,
                          const char *word)
{
    struct effnet_error error = {0};
    effnet_session *session = (effnet_session *)&error; /* must become NULL */
    const int status = effnet_session_open(model, options, &session, &error);
    expect(status == want && error.status == want && !session && strstr(error.message, word) &&
               !strchr(error.message, '\n'),
           "device %s, precision %s, plan %s, batch %d: status %d, not %d: \"%s\", without \"%s\"",
           options->device, options->precision ? options->precision : "-",
           options->plan ? options->plan : "-", options->max_batch, status, want, error.message, word);
}

static void check_refusals(const struct subject *s)
{
    char absent[16];
    int devices;
    CUDA_OK(cudaGetDeviceCount(&devices));
    snprintf(absent, sizeof absent, "cuda:%d", devices);
    const struct {
        struct effnet_session_options options;
        int status;
        const char *word;
    } wrong[] = {
        {{.device = "cuda", .precision = "fp8"}, EFFNET_E_USAGE, "fp8"},
        {{.device = "cuda", .precision = "fp32"}, EFFNET_E_UNAVAILABLE, "fp32"},
        {{.device = "cuda", .precision = "bf16"}, EFFNET_E_UNAVAILABLE, "bf16"},
        {{.device = "cuda", .plan = "fast"}, EFFNET_E_USAGE, "fast"},
        {{.device = absent}, EFFNET_E_UNAVAILABLE, absent},
        {{.device = "cuda:1024"}, EFFNET_E_USAGE, "cuda:1024"},
        {{.device = "cuda:"}, EFFNET_E_USAGE, "cuda:"},
        {{.device = "cuda:-1"}, EFFNET_E_USAGE, "cuda:-1"},
        {{.device = "gpu"}, EFFNET_E_USAGE, "gpu"},
        {{.device = "cuda", .max_batch = -1}, EFFNET_E_USAGE, "-1"},
        {{.device = "cuda", .max_batch = 65537}, EFFNET_E_USAGE, "65537"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        check_refusal(s->model, &wrong[i].options, wrong[i].status, wrong[i].word);

    /* A network that the kernels do not take, for its channels: an error, or the CPU with a notice. */
    effnet_model *odd = weights_open(weights_tiny(seed));
    const struct effnet_session_options cuda = {.device = "cuda"}, any = {.device = "auto"};
    check_refusal(odd, &cuda, EFFNET_E_UNAVAILABLE, "stem");
    effnet_session *session;
    const int status = effnet_session_open(odd, &any, &session, NULL);
    expect(!status && strcmp(effnet_session_get_info(session)->backend, "cuda") != 0 &&
               strstr(effnet_session_get_info(session)->notice, "stem"),
           "device auto does not say why it leaves a network to the CPU");
    effnet_session_close(session);
    effnet_model_close(odd);
}

/* ---------------------------------------------------------------- several sessions */

struct worker {
    const struct subject *subject;
    effnet_session *session;
    float *alone;
    int rounds, different;
};

/* Runs all images again and again. */
static void *work(void *argument)
{
    struct worker *w = argument;
    const struct subject *s = w->subject;
    const size_t count = (size_t)s->images * s->classes;
    float *logits = poisoned(count);
    for (int round = 0; round < w->rounds; round++) {
        memset(logits, 0xff, count * sizeof *logits);
        const int status = effnet_session_run(w->session, s->pixels, s->images, logits, NULL);
        w->different += status || memcmp(logits, w->alone, count * sizeof *logits);
    }
    free(logits);
    return NULL;
}

/* Sessions of both networks and plans side by side, each in a thread of its own; on two devices where there
 * are two. Their logits are those of a session that had the device to itself. */
static void check_side_by_side(const struct subject *a, const struct subject *b, int rounds)
{
    enum { WORKERS = 4 };
    struct worker workers[WORKERS];
    pthread_t threads[WORKERS];
    int devices, good = 0;
    CUDA_OK(cudaGetDeviceCount(&devices));
    for (int i = 0; i < WORKERS; i++) {
        const struct subject *s = i % 2 ? b : a;
        workers[i] = (struct worker){.subject = s, .rounds = rounds};
        effnet_session *session = open_session(s, "cuda", PLANS[i / 2], s->max_batch);
        workers[i].alone = session ? run(session, s, s->pixels, s->images) : NULL;
        effnet_session_close(session);
    }
    for (int i = 0; i < WORKERS; i++) {
        const struct subject *s = workers[i].subject;
        workers[i].session = open_session(s, devices > 1 && i % 2 ? "cuda:1" : "cuda:0", PLANS[i / 2],
                                          s->max_batch);
        good += workers[i].session && workers[i].alone;
    }
    for (int i = 0; good == WORKERS && i < WORKERS; i++)
        if (pthread_create(&threads[i], NULL, work, &workers[i])) exit(1);
    for (int i = 0; i < WORKERS; i++) {
        if (good == WORKERS) pthread_join(threads[i], NULL);
        expect(!workers[i].different, "%s, plan %s: %d of %d runs beside other sessions gave other logits",
               workers[i].subject->name, PLANS[i / 2], workers[i].different, rounds);
        effnet_session_close(workers[i].session);
        free(workers[i].alone);
    }
}

/* ---------------------------------------------------------------- tuning */

struct tuned_units {
    struct effnet_tuned units[256];
    char whats[256][240];
    int count;
};

static void note_tuned(const struct effnet_tuned *tuned, void *context)
{
    struct tuned_units *t = context;
    if (t->count == 256) return;
    t->units[t->count] = *tuned;
    snprintf(t->whats[t->count], sizeof *t->whats, "%s", tuned->what);
    t->count++;
}

/* Whether a kind of unit that starts with this layer was measured, and what the session runs is its fastest.
 */
static bool runs_fastest(const struct tuned_units *tuned, const char *layer, const char *kernel)
{
    for (int i = 0; i < tuned->count; i++)
        if (!strcmp(tuned->units[i].layer, layer) && strstr(kernel, tuned->units[i].candidate)) return true;
    return false;
}

/* Opening a session measures nothing and writes nothing. Tuning writes what the next session then runs; its
 * results are right. */
static void check_tuning(const struct subject *s)
{
    static struct tuned_units tuned;
    char folder[] = "/tmp/effnet-gpu-XXXXXX", file[64];
    if (!mkdtemp(folder)) exit(1);
    snprintf(file, sizeof file, "%s/tuning.txt", folder);
    setenv("EFFNET_CACHE", folder, 1);
    effnet_session *session = open_session(s, "cuda", "auto", s->max_batch);
    float *before = session ? run(session, s, s->pixels, s->images) : NULL;
    effnet_session_close(session);
    expect(access(file, F_OK) != 0, "%s: opening a session has written %s", s->name, file);

    const struct effnet_session_options options = {.device = "cuda", .max_batch = s->max_batch};
    struct effnet_error error = {0};
    tuned.count = 0;
    expect(!effnet_tune(s->model, &options, note_tuned, &tuned, &error), "%s: %s", s->name, error.message);
    expect(tuned.count >= 10, "%s: %d kinds of units were measured", s->name, tuned.count);
    for (int i = 0; i < tuned.count; i++)
        expect(tuned.units[i].candidates > 0 && tuned.units[i].elapsed_us > 0 &&
                   tuned.units[i].elapsed_us < 1e6,
               "%s: %s: %d candidates, %g us", s->name, tuned.whats[i], tuned.units[i].candidates,
               tuned.units[i].elapsed_us);
    expect(access(file, R_OK) == 0, "%s: tuning has not written %s", s->name, file);

    session = open_session(s, "cuda", "auto", s->max_batch);
    int first_of_kind = 0;
    for (int i = 0; session && i < effnet_session_unit_count(session); i++) {
        const struct effnet_unit *u = effnet_session_unit(session, i);
        first_of_kind += runs_fastest(&tuned, effnet_model_layer(s->model, u->first)->name, u->kernel);
    }
    expect(first_of_kind >= 5, "%s: %d units run what tuning found", s->name, first_of_kind);
    float *after = session ? run(session, s, s->pixels, s->images) : NULL;
    if (before && after) {
        const double away = difference(after, before, s->images, s->classes, 1e-2);
        expect(away <= 1e-2, "%s: after tuning relative L2 %.2e", s->name, away);
    }
    effnet_session_close(session);
    free(before);
    free(after);
    unlink(file);
    rmdir(folder);
    setenv("EFFNET_CACHE", "", 1);
}

/* ---------------------------------------------------------------- main */

static void check_real(const char *network)
{
    char path[64];
    effnet_model *model;
    size_t available, total;
    snprintf(path, sizeof path, "weights/%s.safetensors", network);
    if (access(path, R_OK)) {
        printf("skipped: %s is not here (make weights)\n", path);
        return;
    }
    struct effnet_error error = {0};
    const int status = effnet_model_open(path, &model, &error);
    expect(!status, "%s", error.message);
    if (status) return;
    struct subject s = subject_new(network, model, 8, 3);
    for (int plan = 0; plan < 2; plan++) check_bits(&s, PLANS[plan]);
    CUDA_OK(cudaMemGetInfo(&available, &total));
    if (65536 * least_bytes(model) > total) check_too_large(&s, "auto", 65536);
    subject_free(&s);
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && !strcmp(argv[1], "--small");
    gpu_require();
    seed = random_seed("weights and images", seed);
    struct subject lite = subject_new("lite", lite_model(), small ? 5 : IMAGES_MAX, small ? 2 : 4);
    struct subject heads = subject_new("heads", heads_model(), small ? 5 : IMAGES_MAX, small ? 2 : 5);
    struct subject graph = subject_new("graph", graph_model(), small ? 5 : IMAGES_MAX, small ? 2 : 5);
    struct subject excited = subject_new("excited", excited_model(), small ? 5 : IMAGES_MAX, small ? 2 : 5);
    check_refusals(&lite);
    check_narrow(small);
    for (int plan = 0; plan < 2; plan++) {
        check_reference(&lite, PLANS[plan], small ? 1 : 3, 1e-3);
        check_reference(&heads, PLANS[plan], small ? 1 : 3, 1e-3);
        check_reference(&graph, PLANS[plan], small ? 1 : 3, 1e-3);
        check_bits(&lite, PLANS[plan]);
        check_bits(&heads, PLANS[plan]);
        check_bits(&graph, PLANS[plan]);
        check_reference(&excited, PLANS[plan], small ? 1 : 3, 1e-3);
        check_bits(&excited, PLANS[plan]);
    }
    check_side_by_side(&lite, &heads, small ? 2 : 100);
    if (!small) {
        check_tuning(&lite);
        check_tuning(&graph);
        check_tuning(&excited);
        check_memory(&lite, "auto");
        check_memory(&heads, "cudnn");
        check_real("lite1");
        check_real("b1-plain");
        check_real("b1");
    }
    subject_free(&lite);
    subject_free(&heads);
    subject_free(&graph);
    subject_free(&excited);
    return finish();
}
