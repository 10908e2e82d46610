#include "backend/cuda/cudnn/conv.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

/* ---------------------------------------------------------------- context */

struct cudnn_context {
    struct cudnn_target target;
    char name[32];
};

int cudnn_context_open(struct cudnn_context **out, struct effnet_error *error)
{
    *out = NULL;
    const struct cudnn_library *library;
    EFFNET_TRY(cudnn_library_load(&library, error));
    struct cudnn_context *context = calloc(1, sizeof *context);
    if (!context) return effnet_fail_nomem(error, "cuDNN", sizeof *context);
    const int status = cudnn_target_open(library, &context->target, error);
    if (status) {
        free(context);
        return status;
    }
    const size_t version = library->version;
    snprintf(context->name, sizeof context->name, "cuDNN %zu.%zu.%zu", version / 10000, version / 100 % 100,
             version % 100);
    *out = context;
    return EFFNET_OK;
}

void cudnn_context_close(struct cudnn_context *context, bool abandoned)
{
    if (context && !abandoned) cudnn_target_close(&context->target);
    free(context);
}

const char *cudnn_context_name(const struct cudnn_context *context)
{
    return context->name;
}

/* ---------------------------------------------------------------- convolution */

struct cudnn_conv {
    struct cudnn_context *context;
    char layer[64], engine[240];
    int64_t workspace_most;
    struct cudnn_graph graph;
    struct cudnn_executable executable;
    cudnnBackendDescriptor_t pack; /* of the pointers below, or NULL */
    const void *pointers[CUDNN_POINTERS];
};

int cudnn_conv_open(struct cudnn_context *context, const struct cudnn_conv_shape *shape, const char *layer,
                    int64_t workspace_most, struct cudnn_conv **out, struct effnet_error *error)
{
    *out = NULL;
    struct cudnn_conv *conv = calloc(1, sizeof *conv);
    if (!conv) return effnet_fail_nomem(error, layer, sizeof *conv);
    conv->context = context;
    conv->workspace_most = workspace_most;
    snprintf(conv->layer, sizeof conv->layer, "%s", layer);
    const int status = cudnn_graph_build(&context->target, shape, conv->layer, &conv->graph, error);
    if (status)
        free(conv);
    else
        *out = conv;
    return status;
}

static void forget_engine(struct cudnn_conv *conv)
{
    cudnn_descriptor_free(&conv->context->target, &conv->pack);
    cudnn_executable_free(&conv->executable);
    *conv->engine = '\0';
}

void cudnn_conv_close(struct cudnn_conv *conv, bool abandoned)
{
    if (conv && !abandoned) {
        forget_engine(conv);
        cudnn_graph_free(&conv->graph);
    }
    free(conv);
}

int cudnn_conv_candidates(const struct cudnn_conv *conv,
                          int (*visit)(const char *engine, void *context, struct effnet_error *error),
                          void *context, struct effnet_error *error)
{
    struct cudnn_config_list list = {0};
    int status = cudnn_graph_candidates(&conv->graph, &list, error);
    for (int i = 0; !status && i < list.count; i++) {
        char engine[sizeof conv->engine];
        cudnn_config_name(&list.items[i], engine, sizeof engine);
        if (strlen(engine) + 1 < sizeof engine) status = visit(engine, context, error); /* else cut short */
    }
    cudnn_config_list_free(&list);
    return status;
}

/* For cudnn_conv_candidates: ends with FOUND at the first that may run. */
enum { FOUND = 1 };

static int try_engine(const char *engine, void *conv, struct effnet_error *error)
{
    (void)error;
    return cudnn_conv_choose(conv, engine, NULL) == EFFNET_OK ? FOUND : EFFNET_OK;
}

int cudnn_conv_choose(struct cudnn_conv *conv, const char *engine, struct effnet_error *error)
{
    if (!engine) {
        const int status = cudnn_conv_candidates(conv, try_engine, conv, error);
        if (status == FOUND) return EFFNET_OK;
        return status ? status
                      : effnet_fail(error, EFFNET_E_UNAVAILABLE, "%s: %s has no engine for this convolution",
                                    conv->layer, conv->context->name);
    }
    struct cudnn_config config;
    forget_engine(conv);
    if (!cudnn_config_parse(engine, &config))
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "%s: %s is no engine of cuDNN", conv->layer, engine);
    EFFNET_TRY(cudnn_executable_build(&conv->graph, &config, &conv->executable, error));
    if (conv->executable.workspace_bytes > conv->workspace_most) {
        const int64_t bytes = conv->executable.workspace_bytes;
        forget_engine(conv);
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "%s: workspace of %" PRId64 " bytes is over the limit", conv->layer, bytes);
    }
    snprintf(conv->engine, sizeof conv->engine, "%s", engine);
    return EFFNET_OK;
}

const char *cudnn_conv_engine(const struct cudnn_conv *conv)
{
    return conv->engine;
}

int64_t cudnn_conv_workspace_bytes(const struct cudnn_conv *conv)
{
    return conv->executable.workspace_bytes;
}

int cudnn_conv_run(struct cudnn_conv *conv, const void *x, const void *w, void *y, void *workspace,
                   cudaStream_t stream, struct effnet_error *error)
{
    const struct cudnn_target *target = &conv->context->target;
    const void *const pointers[CUDNN_POINTERS] = {x, w, y, workspace};
    if (!conv->pack || memcmp(conv->pointers, pointers, sizeof pointers) != 0) {
        cudnn_descriptor_free(target, &conv->pack);
        EFFNET_TRY(cudnn_pack_build(target, conv->layer, pointers, &conv->pack, error));
        memcpy(conv->pointers, pointers, sizeof pointers);
    }
    const struct cudnn_library *library = target->library;
    cudnnStatus_t status = library->set_stream(target->handle, stream);
    if (status) return cudnn_fail(library, status, conv->layer, "stream", error);
    status = library->execute(target->handle, conv->executable.plan, conv->pack);
    return status ? cudnn_fail(library, status, conv->layer, "execution", error) : EFFNET_OK;
}
