/* Measuring how fast a unit runs each of its candidates: alone, in a CUDA graph, between random values that
 * stay where they are, so that what fits into L2 is found there, as in a network, where the unit before has
 * just written it. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"
#include "common/cpu.h"
#include "common/random.h"

/* One go of measuring a network. */
struct tuner {
    struct backend_state *state;
    struct tuning *tuning;
    effnet_tuned_visitor *visit;
    void *context;
    unsigned char *memory; /* on the device, for one unit */
    size_t bytes;
    struct tuning_key *seen; /* measured in this go */
    int seen_count;
};

/* ---------------------------------------------------------------- memory to run in */

/* Random fp16 in +-[0.5, 1): a sign, one exponent, ten random bits. (As fp32: small numbers. Constants would
 * draw less power than a real pass.) A host block first, then doublings. */
static int fill(unsigned char *memory, size_t bytes, cudaStream_t stream, struct effnet_error *error)
{
    enum { BLOCK = 1 << 16 };
    uint16_t *block = malloc(BLOCK);
    if (!block) return effnet_fail_nomem(error, "tuning", BLOCK);
    uint64_t random = 1;
    for (size_t i = 0; i < BLOCK / sizeof *block; i++)
        block[i] = (uint16_t)(0x3800 | (random_next(&random) & 0x83ff));
    size_t filled = bytes < BLOCK ? bytes : BLOCK;
    cudaError_t status = cudaMemcpyAsync(memory, block, filled, cudaMemcpyHostToDevice, stream);
    for (; !status && filled < bytes; filled *= 2)
        status = cudaMemcpyAsync(memory + filled, memory, filled < bytes - filled ? filled : bytes - filled,
                                 cudaMemcpyDeviceToDevice, stream);
    free(block);
    CUDA_TRY(status, "tuning");
    return EFFNET_OK;
}

/* At least so many bytes, filled anew when they had to be allocated. */
static int reserve(struct tuner *t, size_t bytes, struct effnet_error *error)
{
    if (bytes <= t->bytes) return EFFNET_OK;
    cudaFree(t->memory);
    t->memory = NULL;
    t->bytes = 0;
    const cudaError_t status = cudaMalloc((void **)&t->memory, bytes);
    if (status == cudaErrorMemoryAllocation) {
        cuda_forget_error(status);
        return effnet_fail(error, EFFNET_E_NOMEM,
                           "tuning takes %zu MiB of GPU memory; a smaller batch needs less",
                           (bytes >> 20) + 1);
    }
    CUDA_TRY(status, "tuning");
    t->bytes = bytes;
    return fill(t->memory, bytes, t->state->stream, error);
}

/* In how many parts a unit takes sums; who leaves them, and so in how many, is not known here. */
enum { TYPICAL_PARTS = 8 };

/* Gives a unit memory of its own. The workspace comes last. */
static int assign_memory(struct tuner *t, struct cuda_unit *u, struct cuda_io *io, struct effnet_error *error)
{
    const size_t values = 4 * (size_t)u->network->max_batch; /* bytes at most for one of each image's */
    const size_t weights = cuda_unit_lay_out(u, NULL);
    const size_t out = cuda_aligned(values * effnet_layer_out_size(u->last));
    size_t in = 0;
    for (int i = 0; i < u->unit.input_count; i++) in += cuda_aligned(values * cuda_input_size(u, i));
    if (u->input_form == CUDA_SUMMED) u->parts = TYPICAL_PARTS;
    const size_t sums = u->input_form == CUDA_SUMMED ? TYPICAL_PARTS * out
                                                     : out; /* it leaves no more than that */
    EFFNET_TRY(reserve(t, weights + in + out + sums + CUDA_WORKSPACE_MOST, error));
    unsigned char *next = t->memory;
    *io = (struct cuda_io){.images = u->network->max_batch};
    next += cuda_unit_lay_out(u, next);
    for (int i = 0; i < u->unit.input_count; i++) {
        io->inputs[i] = next;
        next += cuda_aligned(values * cuda_input_size(u, i));
    }
    io->output = next;
    io->sums = (float *)(next + out);
    io->workspace = next + out + sums;
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- one unit */

static bool runs_everywhere(const struct cuda_unit *u)
{
    return !u->op->family || kernel_get(u->op->family, u->config)->architecture == 0;
}

struct timed {
    char candidate[TUNING_TEXT];
    bool everywhere; /* it runs on every chip */
    double us;
};

enum { TIMED_MOST = 256 };

struct trial {
    struct backend_state *state;
    struct cuda_unit *unit;
    struct cuda_io io;
    struct timed timed[TIMED_MOST]; /* in the order in which they were tried */
    int count;
};

/* The fastest so far, of all or of those that run everywhere; NULL: none. */
static const struct timed *fastest(const struct trial *t, bool everywhere)
{
    const struct timed *best = NULL;
    for (int i = 0; i < t->count; i++)
        if ((!everywhere || t->timed[i].everywhere) && (!best || t->timed[i].us < best->us))
            best = &t->timed[i];
    return best;
}

static int enqueue_once(void *trial, int call, cudaStream_t stream, struct effnet_error *error)
{
    const struct trial *t = trial;
    (void)call;
    return cuda_unit_enqueue(t->unit, &t->io, stream, error);
}

/* Microseconds of one launch: the least of `timings` graphs with `repeat` launches each. */
static int time_unit(struct trial *t, int repeat, int timings, double *elapsed_us, struct effnet_error *error)
{
    cudaGraphExec_t exec;
    EFFNET_TRY(cuda_capture(t->state->stream, enqueue_once, t, repeat, &exec, error));
    int status = EFFNET_OK;
    *elapsed_us = INFINITY;
    for (int i = 0; i < timings && !status; i++) {
        double us = 0;
        status = cuda_time_graph(&t->state->timer, exec, false, &us, error);
        *elapsed_us = fmin(*elapsed_us, us / repeat);
    }
    cudaGraphExecDestroy(exec);
    return status;
}

static int repeats(double us)
{
    enum { LONG_US = 150, MOST_REPEATS = 30 };
    return (int)fmin(MOST_REPEATS, 1 + LONG_US / us);
}

/* A look first, and a longer one at what comes near the best. */
static int time_candidate(struct trial *t, bool everywhere, double *elapsed_us, struct effnet_error *error)
{
    enum { TIMINGS = 3 };
    const struct timed *best = fastest(t, everywhere);
    EFFNET_TRY(cuda_unit_enqueue(t->unit, &t->io, t->state->stream, error)); /* loads its code */
    CUDA_TRY(cudaStreamSynchronize(t->state->stream), t->unit->layer->name);
    EFFNET_TRY(time_unit(t, 1, 1, elapsed_us, error));
    if (best && *elapsed_us > 2 * best->us + 3) return EFFNET_OK;
    return time_unit(t, repeats(*elapsed_us), TIMINGS, elapsed_us, error);
}

static int try_candidate(const char *candidate, void *context, struct effnet_error *error)
{
    struct trial *t = context;
    struct timed timed = {.us = 0};
    if (t->count == TIMED_MOST) return EFFNET_OK;
    int status = cuda_unit_choose(t->unit, candidate, error);
    timed.everywhere = !status && runs_everywhere(t->unit);
    if (!status) status = time_candidate(t, timed.everywhere, &timed.us, error);
    /* An engine may fail; a device that does not answer any more ends the search. */
    if (status && cudaStreamSynchronize(t->state->stream) == cudaSuccess) return EFFNET_OK;
    EFFNET_TRY(status);
    strcpy(timed.candidate, candidate);
    t->timed[t->count++] = timed;
    return EFFNET_OK;
}

static bool is_near(const struct timed *timed, const struct timed *best)
{
    return best && timed->us <= 1.15 * best->us + 0.1;
}

/* Those near the fastest once more, several times in turns, since clocks go up and down: the least counts. */
static int time_finalists(struct trial *t, struct effnet_error *error)
{
    enum { ROUNDS = 4, TIMINGS = 3 };
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < t->count; i++) {
            struct timed *timed = &t->timed[i];
            double us;
            if (!is_near(timed, fastest(t, false)) &&
                !(timed->everywhere && is_near(timed, fastest(t, true))))
                continue;
            EFFNET_TRY(cuda_unit_choose(t->unit, timed->candidate, error));
            EFFNET_TRY(time_unit(t, repeats(timed->us), TIMINGS, &us, error));
            timed->us = fmin(timed->us, us);
        }
    return EFFNET_OK;
}

static int tune_unit(struct tuner *t, struct cuda_unit *u, struct tuning_key *key, struct effnet_tuned *tuned,
                     struct effnet_error *error)
{
    struct trial trial = {.state = t->state, .unit = u};
    EFFNET_TRY(assign_memory(t, u, &trial.io, error));
    EFFNET_TRY(cuda_unit_candidates(u, try_candidate, &trial, error));
    EFFNET_TRY(time_finalists(&trial, error));
    const struct timed *best = fastest(&trial, false), *portable = fastest(&trial, true);
    *tuned = (struct effnet_tuned){.candidates = trial.count};
    if (!best) return EFFNET_OK;
    cuda_unit_key(u, key); /* cuDNN's version is known by now */
    tuning_forget(t->tuning, key);
    EFFNET_TRY(tuning_put(t->tuning, key, best->candidate, best->us, error));
    if (portable && portable != best)
        EFFNET_TRY(tuning_put(t->tuning, key, portable->candidate, portable->us, error));
    strcpy(tuned->candidate, best->candidate);
    tuned->elapsed_us = best->us;
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- all that a network could consist of */

static bool is_new(struct tuner *t, const struct tuning_key *key)
{
    for (int i = 0; i < t->seen_count; i++)
        if (!strcmp(t->seen[i].what, key->what) && !memcmp(t->seen[i].sizes, key->sizes, sizeof key->sizes))
            return false;
    t->seen[t->seen_count++] = *key;
    return true;
}

/* The unit that an op makes of first..last, if it can stand there and was not measured yet. */
static int tune_forms(struct tuner *t, const struct cuda_op *op, int first, int last, enum cuda_form from,
                      enum cuda_form to, struct effnet_error *error)
{
    struct cuda_unit unit;
    struct tuning_key key;
    struct effnet_tuned tuned;
    cuda_unit_make(&unit, &t->state->network, op, first, last, from, to);
    cuda_unit_key(&unit, &key);
    if (!cuda_unit_usable(&unit, NULL) || !is_new(t, &key)) return EFFNET_OK;
    int status = tune_unit(t, &unit, &key, &tuned, error);
    cuda_unit_release(&unit, false);
    if (status || !tuned.candidates) return status;
    tuned.what = key.what;
    tuned.layer = unit.layer->name;
    if (t->visit) t->visit(&tuned, t->context);
    return EFFNET_OK;
}

/* The forms in which the output of the layer before may come, as CUDA_FORM. */
static unsigned forms_before(const struct cuda_network *network, int layer)
{
    unsigned forms = CUDA_FORM(CUDA_COMPLETE);
    for (int o = 0; o < cuda_op_count && layer > 0; o++)
        if (cuda_ops[o]->covers(network, layer - 1) & CUDA_COVERS(1))
            forms |= cuda_op_leaves(cuda_ops[o], network, layer - 1);
    return forms;
}

static int tune_op(struct tuner *t, const struct cuda_op *op, int first, int last, struct effnet_error *error)
{
    const struct cuda_network *network = &t->state->network;
    const unsigned takes = cuda_op_takes(op) & forms_before(network, first),
                   leaves = cuda_op_leaves(op, network, first);
    for (enum cuda_form from = 0; from < CUDA_FORMS; from++)
        for (enum cuda_form to = 0; to < CUDA_FORMS; to++)
            if (takes & CUDA_FORM(from) && leaves & CUDA_FORM(to))
                EFFNET_TRY(tune_forms(t, op, first, last, from, to, error));
    return EFFNET_OK;
}

static int tune_from(struct tuner *t, int first, struct effnet_error *error)
{
    const struct cuda_network *network = &t->state->network;
    for (int o = 0; o < cuda_op_count; o++) {
        const struct cuda_op *op = cuda_ops[o];
        const unsigned lengths = op->covers(network, first);
        for (int count = 1; count <= CUDA_COVERS_MOST; count++) {
            if (lengths & CUDA_COVERS(count)) EFFNET_TRY(tune_op(t, op, first, first + count - 1, error));
        }
    }
    return EFFNET_OK;
}

/* Brings an idle GPU's clocks up, so that the first candidates are not timed at a tenth of the speed. */
static int warm_up(const struct tuner *t, struct effnet_error *error)
{
    const double end_us = effnet_clock_us() + 50000;
    const size_t half = t->bytes / 2;
    while (effnet_clock_us() < end_us) {
        for (int i = 0; i < 8; i++)
            CUDA_TRY(cudaMemcpyAsync(t->memory, t->memory + half, half, cudaMemcpyDeviceToDevice,
                                     t->state->stream),
                     "tuning");
        CUDA_TRY(cudaStreamSynchronize(t->state->stream), "tuning");
    }
    return EFFNET_OK;
}

int cuda_tune_network(struct backend_state *state, struct tuning *tuning, effnet_tuned_visitor *visit,
                      void *context, struct effnet_error *error)
{
    /* One at a time in a process: times of two at once would be of both. */
    static pthread_mutex_t measuring = PTHREAD_MUTEX_INITIALIZER;
    const int layers = state->network.info->layer_count;
    const size_t keys = (size_t)layers * (size_t)cuda_op_count * CUDA_FORMS * CUDA_FORMS * CUDA_COVERS_MOST;
    struct tuner t = {.state = state, .tuning = tuning, .visit = visit, .context = context};
    t.seen = malloc(keys * sizeof *t.seen);
    if (!t.seen) return effnet_fail_nomem(error, "tuning", keys * sizeof *t.seen);
    pthread_mutex_lock(&measuring);
    int status = reserve(&t, CUDA_WORKSPACE_MOST, error);
    if (!status) status = warm_up(&t, error);
    for (int first = 0; first < layers && !status; first++) status = tune_from(&t, first, error);
    cudaFree(t.memory);
    pthread_mutex_unlock(&measuring);
    free(t.seen);
    return status;
}
