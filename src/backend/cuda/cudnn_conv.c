#include "backend/cuda/cudnn_conv.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cudnn_context.h"
#include "common/error.h"

/* ---------------------------------------------------------------- context */

int cudnn_context_open_on(const struct cudnn_target *target, const char *device, struct cudnn_context **out,
                          struct effnet_error *error)
{
    *out = NULL;
    struct cudnn_context *context = calloc(1, sizeof *context);
    if (!context) {
        struct cudnn_target unused = *target;
        cudnn_target_close(&unused);
        return effnet_fail_nomem(error, "cuDNN", sizeof *context);
    }
    context->target = *target;
    size_t version = target->library->version;
    snprintf(context->name, sizeof context->name, "cuDNN %zu.%zu.%zu", version / 10000, version / 100 % 100,
             version % 100);
    snprintf(context->device, sizeof context->device, "%s", device);
    int status = cudnn_cache_open(&context->cache, error);
    if (status) {
        cudnn_context_close(context);
        return status;
    }
    *out = context;
    return EFFNET_OK;
}

int cudnn_context_open(const struct cudaDeviceProp *device, struct cudnn_context **out,
                       struct effnet_error *error)
{
    *out = NULL;
    const struct cudnn_library *library;
    struct cudnn_target target;
    int status = cudnn_library_load(&library, error);
    if (!status) status = cudnn_target_open(library, &target, error);
    if (status) return status;

    /* A slice of a GPU has its name and fewer multiprocessors. */
    char name[160];
    snprintf(name, sizeof name, "%.96s sm_%d%d %d SMs", device->name, device->major, device->minor,
             device->multiProcessorCount);
    return cudnn_context_open_on(&target, name, out, error);
}

void cudnn_context_release(struct cudnn_context *context)
{
    /* The stream that timing used goes; the handle shall not keep it. */
    if (context->scratch.stream) context->target.library->set_stream(context->target.handle, NULL);
    cudnn_scratch_free(&context->scratch);
}

/* Of the contexts of a process one measures at a time, since times of two at once would be of both. */
static pthread_mutex_t measuring = PTHREAD_MUTEX_INITIALIZER;

/* Waits for this context's turn, which lasts until it has settled. Returns whether it had to be taken: then
 * another may have found meanwhile what was to be measured here, and two sessions that are opened side by
 * side run the same. */
static bool begin_measuring(struct cudnn_context *context)
{
    if (context->measures) return false;
    pthread_mutex_lock(&measuring);
    context->measures = true;
    cudnn_cache_refresh(&context->cache);
    return true;
}

void cudnn_context_settle(struct cudnn_context *context)
{
    cudnn_context_release(context);
    cudnn_cache_save(&context->cache);
    if (context->measures) pthread_mutex_unlock(&measuring);
    context->measures = false;
}

void cudnn_context_close(struct cudnn_context *context)
{
    if (!context) return;
    cudnn_context_settle(context);
    cudnn_cache_close(&context->cache);
    cudnn_target_close(&context->target);
    free(context);
}

void cudnn_context_abandon(struct cudnn_context *context)
{
    if (context) cudnn_cache_close(&context->cache);
    free(context);
}

const char *cudnn_context_name(const struct cudnn_context *context)
{
    return context->name;
}

int cudnn_execute(struct cudnn_context *context, const struct cudnn_executable *executable,
                  cudnnBackendDescriptor_t pack, cudaStream_t stream, const char *layer,
                  struct effnet_error *error)
{
    const struct cudnn_library *library = context->target.library;
    cudnnStatus_t status = library->set_stream(context->target.handle, stream);
    if (status) return cudnn_fail(library, status, layer, "stream", error);
    status = library->execute(context->target.handle, executable->plan, pack);
    return status ? cudnn_fail(library, status, layer, "execution", error) : EFFNET_OK;
}

/* ---------------------------------------------------------------- plan */

struct cudnn_plan {
    struct cudnn_context *context;
    struct cudnn_executable executable;
    struct cudnn_plan_info info;
    char layer[64];
    cudnnBackendDescriptor_t pack; /* of the pointers below, or NULL */
    const void *x, *w;
    void *y, *workspace;
};

/* The plan that was found before, if it still holds: the engine may run under today's rules, and takes the
 * workspace that it took then. Whatever stands in the way, the answer is to time again. */
static bool plan_recall(struct cudnn_plan *plan, const struct cudnn_graph *graph,
                        const struct cudnn_plan_options *options, const char *key)
{
    const struct cudnn_cache_entry *entry = cudnn_cache_find(&plan->context->cache, key);
    if (!entry || entry->workspace_bytes > options->workspace_limit_bytes) return false;
    if (cudnn_executable_build(graph, &entry->config, options->tune, &plan->executable, NULL)) return false;
    if (plan->executable.workspace_bytes != entry->workspace_bytes) {
        cudnn_executable_free(&plan->executable);
        return false;
    }
    plan->info.cached = true;
    plan->info.elapsed_us = (double)entry->elapsed_ns / 1000;
    cudnn_config_name(&entry->config, plan->info.engine, sizeof plan->info.engine);
    return true;
}

static int plan_measure(struct cudnn_plan *plan, const struct cudnn_graph *graph,
                        const struct cudnn_conv_shape *shape, const struct cudnn_plan_options *options,
                        const char *key, struct effnet_error *error)
{
    struct cudnn_cache_entry entry = {0};
    int status = cudnn_tune(plan->context, graph, shape, options, NULL, NULL, &entry, &plan->executable,
                            error);
    if (status) return status;
    snprintf(entry.key, sizeof entry.key, "%s", key);
    plan->info.elapsed_us = (double)entry.elapsed_ns / 1000;
    cudnn_config_name(&entry.config, plan->info.engine, sizeof plan->info.engine);
    return cudnn_cache_put(&plan->context->cache, &entry, error);
}

int cudnn_plan_create(struct cudnn_context *context, const struct cudnn_conv_shape *shape,
                      const struct cudnn_plan_options *asked, struct cudnn_plan **out,
                      struct effnet_error *error)
{
    *out = NULL;
    struct cudnn_plan_options options = *asked;
    if (options.workspace_limit_bytes == 0) options.workspace_limit_bytes = CUDNN_WORKSPACE_LIMIT;

    struct cudnn_plan *plan = calloc(1, sizeof *plan);
    if (!plan) return effnet_fail_nomem(error, options.layer, sizeof *plan);
    plan->context = context;
    snprintf(plan->layer, sizeof plan->layer, "%s", options.layer);
    options.layer = plan->layer;

    struct cudnn_graph graph;
    int status = cudnn_graph_build(&context->target, shape, plan->layer, &graph, error);
    if (!status) {
        char key[CUDNN_CACHE_KEY_SIZE];
        cudnn_cache_key(key, context->device, context->target.library->version, shape, &options);
        bool known = plan_recall(plan, &graph, &options, key);
        if (!known && begin_measuring(context)) known = plan_recall(plan, &graph, &options, key);
        if (!known) status = plan_measure(plan, &graph, shape, &options, key, error);
        cudnn_graph_free(&graph);
    }
    if (status) {
        cudnn_plan_destroy(plan);
        return status;
    }
    plan->info.workspace_bytes = plan->executable.workspace_bytes;
    plan->info.runtime_compiled = plan->executable.runtime_compiled;
    *out = plan;
    return EFFNET_OK;
}

void cudnn_plan_destroy(struct cudnn_plan *plan)
{
    if (!plan) return;
    cudnn_descriptor_free(&plan->context->target, &plan->pack);
    cudnn_executable_free(&plan->executable);
    free(plan);
}

void cudnn_plan_abandon(struct cudnn_plan *plan)
{
    free(plan);
}

const struct cudnn_plan_info *cudnn_plan_describe(const struct cudnn_plan *plan)
{
    return &plan->info;
}

int cudnn_plan_run(struct cudnn_plan *plan, const void *x, const void *w, void *y, void *workspace,
                   cudaStream_t stream, struct effnet_error *error)
{
    const struct cudnn_target *target = &plan->context->target;
    if (!plan->pack || plan->x != x || plan->w != w || plan->y != y || plan->workspace != workspace) {
        cudnn_descriptor_free(target, &plan->pack);
        int status = cudnn_pack_build(target, plan->layer, x, w, y, workspace, &plan->pack, error);
        if (status) return status;
        plan->x = x;
        plan->w = w;
        plan->y = y;
        plan->workspace = workspace;
    }
    return cudnn_execute(plan->context, &plan->executable, plan->pack, stream, plan->layer, error);
}

/* ---------------------------------------------------------------- our own kernels' choices */

static void choice_key(char key[CUDNN_CACHE_KEY_SIZE], const struct cudnn_context *context, const char *what)
{
    snprintf(key, CUDNN_CACHE_KEY_SIZE, "%s, cudnn %zu, %s", context->device,
             context->target.library->version, what);
}

bool cudnn_context_recall(struct cudnn_context *context, const char *what, int *choice)
{
    char key[CUDNN_CACHE_KEY_SIZE];
    choice_key(key, context, what);
    const struct cudnn_cache_entry *entry = cudnn_cache_find(&context->cache, key);
    if (!entry && begin_measuring(context)) entry = cudnn_cache_find(&context->cache, key);
    if (entry) *choice = (int)entry->config.engine;
    return entry != NULL;
}

void cudnn_context_remember(struct cudnn_context *context, const char *what, int choice, double elapsed_us)
{
    struct cudnn_cache_entry entry = {.config.engine = choice,
                                      .elapsed_ns = (int64_t)(1000 * elapsed_us) + 1};
    choice_key(entry.key, context, what);
    cudnn_cache_put(&context->cache, &entry, NULL); /* without memory for it, it is timed again */
}
