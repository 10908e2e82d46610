/* Sessions: checks arguments, picks a backend, calls it. */
#include "backend/backend.h"
#include "backend/stages.h"
#include "common/cpu.h"
#include "common/error.h"
#include "common/fork.h"
#include "common/nvidia.h"
#include "common/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BATCH   65536
#define MAX_THREADS 4096
#define MAX_DEVICES 1024

/* What this build holds. */
#ifdef EFFNET_HAVE_ONEDNN
static const struct backend *const cpu_backend = &backend_onednn;
#else
static const struct backend *const cpu_backend = &backend_reference;
#endif
#ifdef EFFNET_HAVE_CUDA
static const struct backend *const cuda_backend = &backend_cuda;
#else
static const struct backend *const cuda_backend = NULL;
#endif
const char effnet_no_cuda[] =
    "this build has no CUDA backend: install the CUDA toolkit and cuDNN's headers, then build again";

struct effnet_session {
    const effnet_model *model;
    const struct backend *backend;
    struct backend_state *state;
    struct effnet_session_info info;
    struct stages stages;
    int forks; /* effnet_fork_count when it was opened */
    char notice[sizeof((struct effnet_error *)0)->message];
};

int effnet_parse_device(const char *name, enum backend_device *kind, int *index, struct effnet_error *error)
{
    static const char *const names[] = {"auto", "cpu", "reference", "cuda"}; /* by enum backend_device */
    *index = 0;
    for (int i = DEVICE_AUTO; i <= DEVICE_CUDA; i++) {
        *kind = (enum backend_device)i;
        if (!name || strcmp(name, names[i]) == 0) return EFFNET_OK;
    }
    if (strncmp(name, "cuda:", 5) != 0)
        return effnet_fail(error, EFFNET_E_USAGE,
                           "unknown device \"%s\": auto, cpu, reference, cuda or cuda:N",
                           effnet_word(name).text);
    const char *digits = name + 5;
    if (!strcmp(digits, "all") || strchr(digits, ','))
        return effnet_fail(
            error, EFFNET_E_USAGE,
            "device \"%s\": a session is on one GPU; 'effnet classify' and 'effnet bench' take "
            "several",
            effnet_word(name).text);
    size_t length = strspn(digits, "0123456789");
    if (length < 1 || length > 4 || digits[length] || atoi(digits) >= MAX_DEVICES)
        return effnet_fail(error, EFFNET_E_USAGE, "device \"%s\": N in cuda:N is a number below %d",
                           effnet_word(name).text, MAX_DEVICES);
    *index = atoi(digits);
    return EFFNET_OK;
}

/* Whether `word` is one of a NULL-terminated list. */
static bool is_one_of(const char *word, const char *const *list)
{
    while (*list && strcmp(*list, word) != 0) list++;
    return *list != NULL;
}

/* The layer whose output these are; -1: none. */
static int features_layer(const effnet_model *model, enum effnet_features features)
{
    const int pool = effnet_model_head_pool(model);
    if (features == EFFNET_FEATURES_POOLED) return pool;
    return features == EFFNET_FEATURES_MAP ? effnet_model_layer(model, pool)->inputs[0] : -1;
}

/* Integers are a property of the weights, not a choice. */
static int check_integer(const effnet_model *model, const char *precision, struct effnet_error *error)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    const bool int8 = precision && strcmp(precision, "int8") == 0;
    if (info->integer && precision && !int8)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "network %s is of integers: int8 alone, not %s",
                           info->network, precision);
    if (!info->integer && int8)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "network %s is of floats: effnet quantize makes weights for int8", info->network);
    return EFFNET_OK;
}

/* Checks the options that every backend has, and applies the defaults. */
static int check_options(const effnet_model *model, const struct effnet_session_options *from,
                         struct backend_options *to, struct effnet_error *error)
{
    static const char *const precisions[] = {"fp32", "bf16", "fp16", "int8", NULL};
    static const char *const plans[] = {"auto", "cudnn", NULL};
    if (from->precision && !is_one_of(from->precision, precisions))
        return effnet_fail(error, EFFNET_E_USAGE, "unknown precision \"%s\": fp32, bf16, fp16 or int8",
                           effnet_word(from->precision).text);
    if (from->plan && !is_one_of(from->plan, plans))
        return effnet_fail(error, EFFNET_E_USAGE, "unknown plan \"%s\": auto or cudnn",
                           effnet_word(from->plan).text);
    if (from->max_batch < 0 || from->max_batch > MAX_BATCH)
        return effnet_fail(error, EFFNET_E_USAGE, "batch size %d is not from 1 to %d", from->max_batch,
                           MAX_BATCH);
    if (from->threads < 0 || from->threads > MAX_THREADS)
        return effnet_fail(error, EFFNET_E_USAGE, "%d threads: from 1 to %d, or 0 for all", from->threads,
                           MAX_THREADS);
    if ((unsigned)from->features > EFFNET_FEATURES_MAP)
        return effnet_fail(error, EFFNET_E_USAGE, "session: unknown features %d", (int)from->features);
    EFFNET_TRY(effnet_check_reserved(from->reserved, sizeof from->reserved, "session", error));
    int cpu_threads = effnet_cpu_threads();
    EFFNET_TRY(check_integer(model, from->precision, error));
    *to = (struct backend_options){
        .precision = effnet_model_get_info(model)->integer ? NULL : from->precision,
        .plan = from->plan ? from->plan : "auto",
        .max_batch = from->max_batch ? from->max_batch : 1,
        .threads = from->threads               ? from->threads
                   : cpu_threads < MAX_THREADS ? cpu_threads
                                               : MAX_THREADS,
        .features_layer = features_layer(model, from->features),
    };
    if (from->features && to->features_layer < 0)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "network %s has no feature map: its last pooling reads the image",
                           effnet_model_get_info(model)->network);
    return EFFNET_OK;
}

struct effnet_session_options effnet_session_defaults(void)
{
    return (struct effnet_session_options){0};
}

static int open_backend(struct effnet_session *session, const struct backend *backend,
                        const struct backend_options *options, struct effnet_error *error)
{
    int status = backend->open(session->model, options, &session->state, error);
    if (!status) session->backend = backend;
    return status;
}

/* The GPU where there is one that can do this; else the CPU, and the notice says why, whatever it was. Where
 * there is no such hardware nobody asks why, save who wants what only a GPU has. */
static int open_auto(struct effnet_session *session, const struct backend_choice *choice,
                     const struct backend_options *options, struct effnet_error *error)
{
    struct effnet_error gpu = {0}, cpu = {0};
    if (choice->nvidia_hardware("")) {
        if (!choice->cuda)
            effnet_fail(&gpu, EFFNET_E_UNAVAILABLE, "%s", effnet_no_cuda);
        else if (!open_backend(session, choice->cuda, options, &gpu))
            return EFFNET_OK;
        char reason[420]; /* which leaves room for what open_device adds */
        effnet_keep_start(reason, sizeof reason, gpu.message);
        snprintf(session->notice, sizeof session->notice, "using the CPU: %s", reason);
    } else if (options->precision && strcmp(options->precision, "fp16") == 0) {
        effnet_fail(&gpu, EFFNET_E_UNAVAILABLE, "no NVIDIA GPU in this machine");
    }
    int status = open_backend(session, choice->cpu, options, &cpu);
    if (status && gpu.status) { /* neither can; say both */
        char reason[240];
        effnet_keep_start(reason, sizeof reason, cpu.message);
        return effnet_fail(error, status, "%s; nor on a GPU: %s", reason, gpu.message);
    }
    return status ? effnet_fail(error, status, "%s", cpu.message) : EFFNET_OK;
}

static int open_integer(struct effnet_session *session, enum backend_device kind,
                        const struct backend_options *options, struct effnet_error *error)
{
    if (kind == DEVICE_CUDA)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "network %s is of integers, which run on the CPU alone",
                           effnet_model_get_info(session->model)->network);
    return open_backend(session, kind == DEVICE_REFERENCE ? &backend_reference : &backend_int8, options,
                        error);
}

/* Opens the backend that the device names. */
static int choose_backend(struct effnet_session *session, const struct backend_choice *choice,
                          const char *device, enum backend_device kind, const struct backend_options *options,
                          struct effnet_error *error)
{
    struct effnet_error reason = {0};
    if (effnet_model_get_info(session->model)->integer) return open_integer(session, kind, options, error);
    switch (kind) {
    case DEVICE_AUTO: return open_auto(session, choice, options, error);
    case DEVICE_CPU: return open_backend(session, choice->cpu, options, error);
    case DEVICE_REFERENCE: return open_backend(session, &backend_reference, options, error);
    case DEVICE_CUDA: break;
    }
    if (!choice->cuda)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "device \"%s\": %s", device, effnet_no_cuda);
    const int status = open_backend(session, choice->cuda, options, &reason);
    return status ? effnet_fail(error, status, "%s", reason.message) : EFFNET_OK;
}

static int open_device(struct effnet_session *session, const struct backend_choice *choice,
                       const struct effnet_session_options *from, struct effnet_error *error)
{
    struct backend_options options;
    enum backend_device kind;
    EFFNET_TRY(check_options(session->model, from, &options, error));
    EFFNET_TRY(effnet_parse_device(from->device, &kind, &options.device_index, error));
    options.each_layer = choice->each_layer;
    EFFNET_TRY(choose_backend(session, choice, from->device, kind, &options, error));
    const size_t length = strlen(session->notice);
    if (session->backend != choice->cuda && strcmp(options.plan, "cudnn") == 0)
        snprintf(session->notice + length, sizeof session->notice - length,
                 "%splan cudnn is for a GPU alone and not used here", length ? "; " : "");
    session->info = (struct effnet_session_info){
        .backend = session->backend->name,
        .notice = session->notice,
        .max_batch = options.max_batch,
    };
    if (options.features_layer >= 0)
        session->info.feature_count = (int)effnet_layer_out_size(
            effnet_model_layer(session->model, options.features_layer));
    session->backend->describe(session->state, &session->info);
    const struct effnet_model_info *info = effnet_model_get_info(session->model);
    effnet_stages_open(&session->stages, session->backend, session->state,
                       (size_t)options.max_batch * (size_t)info->height * (size_t)info->width * 3);
    return EFFNET_OK;
}

int effnet_session_open_from(const struct backend_choice *choice, const effnet_model *model,
                             const struct effnet_session_options *options, effnet_session **out,
                             struct effnet_error *error)
{
    const struct effnet_session_options defaults = effnet_session_defaults();
    if (!out) return effnet_fail(error, EFFNET_E_USAGE, "session: no place to put it");
    *out = NULL;
    if (!model) return effnet_fail(error, EFFNET_E_USAGE, "session: no model");
    struct effnet_session *session = calloc(1, sizeof *session);
    if (!session) return effnet_fail_nomem(error, "session", sizeof *session);
    session->model = model;
    session->forks = effnet_fork_count();
    int status = open_device(session, choice, options ? options : &defaults, error);
    if (status)
        free(session);
    else
        *out = session;
    return status;
}

int effnet_session_open(const effnet_model *model, const struct effnet_session_options *options,
                        effnet_session **out, struct effnet_error *error)
{
    const struct backend_choice choice = {cpu_backend, cuda_backend, effnet_nvidia_hardware, false};
    return effnet_session_open_from(&choice, model, options, out, error);
}

int effnet_session_open_layers(const effnet_model *model, int threads, effnet_session **out,
                               struct effnet_error *error)
{
    const struct backend_choice choice = {cpu_backend, cuda_backend, effnet_nvidia_hardware, true};
    const struct effnet_session_options options = {.device = "cpu", .threads = threads};
    return effnet_session_open_from(&choice, model, &options, out, error);
}

int effnet_tune(const effnet_model *model, const struct effnet_session_options *from,
                effnet_tuned_visitor *visit, void *context, struct effnet_error *error)
{
    const struct effnet_session_options defaults = effnet_session_defaults();
    struct backend_options options;
    enum backend_device kind;
    if (!model) return effnet_fail(error, EFFNET_E_USAGE, "tuning: no model");
    if (!from) from = &defaults;
    EFFNET_TRY(check_options(model, from, &options, error));
    EFFNET_TRY(effnet_parse_device(from->device, &kind, &options.device_index, error));
    if (kind != DEVICE_AUTO && kind != DEVICE_CUDA)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "device %s has nothing to tune; a GPU has",
                           from->device);
    if (effnet_model_get_info(model)->integer)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "network %s is of integers: there is nothing to tune",
                           effnet_model_get_info(model)->network);
    if (!cuda_backend) return effnet_fail(error, EFFNET_E_UNAVAILABLE, "%s", effnet_no_cuda);
    return cuda_backend->tune(model, &options, visit, context, error);
}

/* Before a call of the backend's. What a session holds for its process, threads and a GPU, is not there in a
 * child. */
static int enter(const effnet_session *session, const char *what, struct effnet_error *error)
{
    if (session->forks != effnet_fork_count())
        return effnet_fail(
            error, EFFNET_E_USAGE,
            "%s: the session belongs to the process that this one was forked from: open another", what);
    return session->backend->enter ? session->backend->enter(session->state, error) : EFFNET_OK;
}

/* The same before a call that wants the session for itself. */
static int enter_alone(effnet_session *session, const char *what, struct effnet_error *error)
{
    if (session->forks == effnet_fork_count() && effnet_stages_busy(&session->stages))
        return effnet_fail(error, EFFNET_E_USAGE,
                           "%s: the session has stages handed out, or passes under way", what);
    return enter(session, what, error);
}

/* After it. */
static int leave(const effnet_session *session, int status)
{
    if (session->backend->leave) session->backend->leave();
    return status;
}

void effnet_session_close(effnet_session *session)
{
    if (!session) return;
    effnet_stages_close(&session->stages);
    session->backend->close(session->state);
    free(session);
}

const struct effnet_session_info *effnet_session_get_info(const effnet_session *session)
{
    return &session->info;
}

/* Whether the session can be asked for features. */
static int check_features(const effnet_session *session, const char *what, const float *features,
                          struct effnet_error *error)
{
    if (!features) return effnet_fail(error, EFFNET_E_USAGE, "%s: a place for features is needed", what);
    if (session->info.feature_count) return EFFNET_OK;
    return effnet_fail(error, EFFNET_E_USAGE, "%s: the session was opened without features", what);
}

static int run(effnet_session *session, const char *what, const uint8_t *pixels, int n, float *logits,
               float *features, struct effnet_error *error)
{
    EFFNET_TRY(enter_alone(session, what, error));
    return leave(session, session->backend->run(session->state, pixels, n, logits, features, error));
}

int effnet_session_run(effnet_session *session, const uint8_t *pixels, int n, float *logits,
                       struct effnet_error *error)
{
    if (!session || !pixels || !logits || n < 1)
        return effnet_fail(error, EFFNET_E_USAGE, "run: a session, pixels, logits and n >= 1 are needed");
    return run(session, "run", pixels, n, logits, NULL, error);
}

int effnet_session_run_features(effnet_session *session, const uint8_t *pixels, int n, float *logits,
                                float *features, struct effnet_error *error)
{
    if (!session || !pixels || !logits || n < 1)
        return effnet_fail(error, EFFNET_E_USAGE,
                           "run_features: a session, pixels, logits and n >= 1 are needed");
    EFFNET_TRY(check_features(session, "run_features", features, error));
    return run(session, "run_features", pixels, n, logits, features, error);
}

int effnet_session_stage(effnet_session *session, uint8_t **pixels, struct effnet_error *error)
{
    if (!session || !pixels)
        return effnet_fail(error, EFFNET_E_USAGE, "stage: a session and a place for the stage are needed");
    *pixels = NULL;
    EFFNET_TRY(enter(session, "stage", error));
    return leave(session, effnet_stages_take(&session->stages, pixels, error));
}

int effnet_session_submit(effnet_session *session, uint8_t *pixels, int n, struct effnet_error *error)
{
    if (!session || !pixels)
        return effnet_fail(error, EFFNET_E_USAGE, "submit: a session and one of its stages are needed");
    if (n < 0 || n > session->info.max_batch)
        return effnet_fail(error, EFFNET_E_USAGE,
                           "submit: %d images, not from 0 to the session's batch of %d", n,
                           session->info.max_batch);
    EFFNET_TRY(enter(session, "submit", error));
    return leave(session, effnet_stages_submit(&session->stages, pixels, n, false, error));
}

static int collect(effnet_session *session, const char *what, float *logits, float *features,
                   bool keep_failed, int *n, struct effnet_error *error)
{
    *n = 0;
    EFFNET_TRY(enter(session, what, error));
    return leave(session, effnet_stages_collect(&session->stages, logits, features, keep_failed, n, error));
}

int effnet_session_collect(effnet_session *session, float *logits, int *n, struct effnet_error *error)
{
    if (!session || !logits || !n)
        return effnet_fail(error, EFFNET_E_USAGE,
                           "collect: a session, logits and a place for their number are needed");
    return collect(session, "collect", logits, NULL, false, n, error);
}

int effnet_session_collect_features(effnet_session *session, float *logits, float *features, int *n,
                                    struct effnet_error *error)
{
    if (!session || !logits || !n)
        return effnet_fail(error, EFFNET_E_USAGE,
                           "collect_features: a session, logits and a place for their number are needed");
    *n = 0;
    EFFNET_TRY(check_features(session, "collect_features", features, error));
    return collect(session, "collect_features", logits, features, false, n, error);
}

int effnet_session_collect_or_keep(effnet_session *session, float *logits, float *features, int *n,
                                   struct effnet_error *error)
{
    return collect(session, "collect", logits, features, true, n, error);
}

/* ---------------------------------------------------------------- decoding on the device */

void effnet_preload_decoder(void)
{
    if (cuda_backend) cuda_backend->load_decoder(NULL);
}

int effnet_session_load_decoder(const effnet_session *session, struct effnet_error *error)
{
    if (session->backend->load_decoder) return session->backend->load_decoder(error);
    return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                       "decoding on a GPU: the network runs on the CPU, by backend %s",
                       session->info.backend);
}

int effnet_session_open_decoder(effnet_session *session, struct effnet_error *error)
{
    EFFNET_TRY(enter(session, "decoder", error));
    return leave(session, session->backend->open_decoder(session->state, error));
}

bool effnet_session_accepts(effnet_session *session, const void *data, size_t size_bytes,
                            struct backend_jpeg *jpeg)
{
    if (enter(session, "decoder", NULL)) return false;
    const bool accepted = session->backend->accepts(session->state, data, size_bytes, jpeg);
    leave(session, EFFNET_OK);
    return accepted;
}

int effnet_session_decode(effnet_session *session, const struct backend_jpeg *jpegs, int n,
                          struct effnet_error *error)
{
    EFFNET_TRY(enter(session, "decoder", error));
    return leave(session, session->backend->decode(session->state, jpegs, n, error));
}

int effnet_session_submit_decoded(effnet_session *session, uint8_t *pixels, int n, struct effnet_error *error)
{
    EFFNET_TRY(enter(session, "submit", error));
    return leave(session, effnet_stages_submit(&session->stages, pixels, n, true, error));
}

/* ---------------------------------------------------------------- units and measures */

int effnet_session_unit_count(const effnet_session *session)
{
    int count = 0;
    while (session->backend->unit(session->state, count)) count++;
    return count;
}

const struct effnet_unit *effnet_session_unit(const effnet_session *session, int index)
{
    return index < 0 ? NULL : session->backend->unit(session->state, index);
}

/* As enter_alone; n images must fit in one pass. */
static int enter_pass(struct effnet_session *session, const char *what, int n, struct effnet_error *error)
{
    if (n < 1 || n > session->info.max_batch)
        return effnet_fail(error, EFFNET_E_USAGE, "%s: %d images, not from 1 to the session's batch of %d",
                           what, n, session->info.max_batch);
    return enter_alone(session, what, error);
}

int effnet_session_run_unit(effnet_session *session, int index, int n, const float *const *inputs,
                            float *output, struct effnet_error *error)
{
    if (!session || !inputs || !output)
        return effnet_fail(error, EFFNET_E_USAGE, "run_unit: a session, inputs and an output are needed");
    const struct effnet_unit *unit = effnet_session_unit(session, index);
    if (!unit)
        return effnet_fail(error, EFFNET_E_USAGE, "run_unit: there is no unit %d, only 0 to %d", index,
                           effnet_session_unit_count(session) - 1);
    for (int i = 0; i < unit->input_count; i++)
        if (!inputs[i])
            return effnet_fail(error, EFFNET_E_USAGE, "run_unit: unit %d takes '%s', which is missing", index,
                               effnet_input_name(session->model, unit->inputs[i]));
    EFFNET_TRY(enter_pass(session, "run_unit", n, error));
    return leave(session, session->backend->run_unit(session->state, index, n, inputs, output, error));
}

int effnet_session_time(effnet_session *session, int n, bool cold, double *elapsed_us,
                        struct effnet_error *error)
{
    if (!session || !elapsed_us)
        return effnet_fail(error, EFFNET_E_USAGE, "time: a session and a place for the time are needed");
    EFFNET_TRY(enter_pass(session, "time", n, error));
    return leave(session, session->backend->time(session->state, n, cold, elapsed_us, error));
}

int effnet_session_time_upload(effnet_session *session, int n, double *elapsed_us, struct effnet_error *error)
{
    if (!session || !elapsed_us)
        return effnet_fail(error, EFFNET_E_USAGE,
                           "time_upload: a session and a place for the time are needed");
    *elapsed_us = 0;
    EFFNET_TRY(enter_pass(session, "time_upload", n, error));
    const struct backend *backend = session->backend;
    return leave(session, backend->time_upload ? backend->time_upload(session->state, n, elapsed_us, error)
                                               : EFFNET_OK);
}

int effnet_session_profile(effnet_session *session, int n, bool cold, double *unit_us,
                           struct effnet_error *error)
{
    if (!session || !unit_us)
        return effnet_fail(error, EFFNET_E_USAGE, "profile: a session and a place for the times are needed");
    EFFNET_TRY(enter_pass(session, "profile", n, error));
    return leave(session, session->backend->profile(session->state, n, cold, unit_us, error));
}

void effnet_devices(void (*visit)(const struct effnet_device *, void *), void *context)
{
    if (cuda_backend) {
        cuda_backend->devices(visit, context);
    } else {
        struct effnet_device cuda = {.name = "cuda",
                                     .description = "NVIDIA GPU",
                                     .backend = "cuda",
                                     .precisions = "fp16",
                                     .detail = effnet_no_cuda};
        visit(&cuda, context);
    }
    if (cpu_backend != &backend_reference) {
        cpu_backend->devices(visit, context);
    } else {
        struct effnet_device cpu = {.name = "cpu",
                                    .description = effnet_cpu_name(),
                                    .backend = "reference",
                                    .precisions = "fp32 int8",
                                    .detail = "this build has no oneDNN (libdnnl-dev): slow",
                                    .available = true};
        visit(&cpu, context);
    }
    backend_reference.devices(visit, context);
}
