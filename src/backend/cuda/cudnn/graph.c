/* Attribute names, types and counts as the graph API's reference lists them for each descriptor. */
#include "backend/cuda/cudnn/graph.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

/* ---------------------------------------------------------------- descriptors */

/* A descriptor under construction. The first failure sticks: what follows does nothing, and build_end
 * reports it. */
struct build {
    const struct cudnn_target *target;
    cudnnBackendDescriptor_t descriptor;
    cudnnStatus_t status;
};

static struct build build_begin(const struct cudnn_target *target, cudnnBackendDescriptorType_t type)
{
    struct build build = {.target = target};
    build.status = target->library->create_descriptor(type, &build.descriptor);
    return build;
}

static void build_set(struct build *build, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                      int64_t count, const void *values)
{
    if (build->status == CUDNN_STATUS_SUCCESS)
        build->status = build->target->library->set_attribute(build->descriptor, name, type, count, values);
}

static void build_set_int64(struct build *build, cudnnBackendAttributeName_t name, int64_t value)
{
    build_set(build, name, CUDNN_TYPE_INT64, 1, &value);
}

static void build_set_descriptor(struct build *build, cudnnBackendAttributeName_t name,
                                 cudnnBackendDescriptor_t value)
{
    build_set(build, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

/* Finalises the descriptor into *out, which is NULL on failure. */
static int build_end(struct build *build, const char *layer, const char *what, cudnnBackendDescriptor_t *out,
                     struct effnet_error *error)
{
    const struct cudnn_library *library = build->target->library;
    if (build->status == CUDNN_STATUS_SUCCESS) build->status = library->finalize(build->descriptor);
    if (build->status == CUDNN_STATUS_SUCCESS) {
        *out = build->descriptor;
        return EFFNET_OK;
    }
    int status = cudnn_fail(library, build->status, layer, what, error);
    cudnn_descriptor_free(build->target, &build->descriptor);
    *out = NULL;
    return status;
}

void cudnn_descriptor_free(const struct cudnn_target *target, cudnnBackendDescriptor_t *descriptor)
{
    if (*descriptor) target->library->destroy_descriptor(*descriptor);
    *descriptor = NULL;
}

cudnnStatus_t cudnn_get(const struct cudnn_target *target, cudnnBackendDescriptor_t from,
                        cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, void *value)
{
    int64_t count = 0;
    return target->library->get_attribute(from, name, type, 1, &count, value);
}

/* ---------------------------------------------------------------- targets */

int cudnn_target_open(const struct cudnn_library *library, struct cudnn_target *target,
                      struct effnet_error *error)
{
    *target = (struct cudnn_target){.library = library};
    cudnnStatus_t status = library->create(&target->handle);
    if (status == CUDNN_STATUS_SUCCESS) return EFFNET_OK;
    target->handle = NULL;
    return cudnn_fail(library, status, "GPU", "cudnnCreate", error);
}

int cudnn_target_describe(const struct cudnn_library *library, const char *properties_json,
                          struct cudnn_target *target, struct effnet_error *error)
{
    *target = (struct cudnn_target){.library = library};
    struct build build = build_begin(target, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    build_set(&build, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
              (int64_t)strlen(properties_json), properties_json);
    return build_end(&build, "GPU", "device properties", &target->properties, error);
}

void cudnn_target_close(struct cudnn_target *target)
{
    if (target->properties) cudnn_descriptor_free(target, &target->properties);
    if (target->handle) target->library->destroy(target->handle);
    target->handle = NULL;
}

/* ---------------------------------------------------------------- graph */

enum { UID_X = 1, UID_W = 2, UID_Y = 3 };

/* Dimensions are N, C, H, W in that order whatever the layout; the strides make it NHWC. */
static int tensor_build(const struct cudnn_graph *graph, int64_t uid, int64_t n, int64_t c, int64_t h,
                        int64_t w, cudnnBackendDescriptor_t *out, struct effnet_error *error)
{
    const int64_t dimensions[4] = {n, c, h, w};
    const int64_t strides[4] = {h * w * c, 1, w * c, c};
    const cudnnDataType_t type = CUDNN_DATA_HALF;
    struct build build = build_begin(graph->target, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    build_set(&build, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    build_set(&build, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dimensions);
    build_set(&build, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
    build_set_int64(&build, CUDNN_ATTR_TENSOR_UNIQUE_ID, uid);
    build_set_int64(&build, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 16);
    return build_end(&build, graph->layer, "tensor", out, error);
}

static int convolution_build(const struct cudnn_graph *graph, const struct cudnn_conv_shape *s,
                             cudnnBackendDescriptor_t *out, struct effnet_error *error)
{
    const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION; /* no flipped filters, as networks mean it */
    const int64_t before[2] = {s->pad_top, s->pad_left}, after[2] = {s->pad_bottom, s->pad_right};
    const int64_t strides[2] = {s->stride, s->stride}, dilations[2] = {1, 1};
    struct build build = build_begin(graph->target, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    build_set(&build, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
    build_set(&build, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    build_set_int64(&build, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 2);
    build_set(&build, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, before);
    build_set(&build, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, after);
    build_set(&build, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, strides);
    build_set(&build, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, dilations);
    return build_end(&build, graph->layer, "convolution", out, error);
}

/* What a graph is built of. */
enum { X, W, Y, CONVOLUTION, OPERATION, PARTS };

static int operation_build(const struct cudnn_graph *graph, cudnnBackendDescriptor_t parts[PARTS],
                           struct effnet_error *error)
{
    const float alpha = 1, beta = 0;
    struct build build = build_begin(graph->target, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    build_set_descriptor(&build, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, parts[X]);
    build_set_descriptor(&build, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, parts[W]);
    build_set_descriptor(&build, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, parts[Y]);
    build_set_descriptor(&build, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, parts[CONVOLUTION]);
    build_set(&build, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, &alpha);
    build_set(&build, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, &beta);
    return build_end(&build, graph->layer, "convolution operation", &parts[OPERATION], error);
}

static int shape_check(const struct cudnn_conv_shape *s, const char *layer, struct effnet_error *error)
{
    bool sane = s->n > 0 && s->h > 0 && s->w > 0 && s->c_in > 0 && s->c_out > 0 && s->groups > 0 &&
                s->kernel > 0 && s->stride > 0 && s->pad_top >= 0 && s->pad_left >= 0 && s->pad_bottom >= 0 &&
                s->pad_right >= 0;
    if (sane) {
        int64_t rows = (int64_t)s->h + s->pad_top + s->pad_bottom - s->kernel;
        int64_t columns = (int64_t)s->w + s->pad_left + s->pad_right - s->kernel;
        sane = rows >= 0 && columns >= 0 && rows / s->stride + 1 == s->out_h &&
               columns / s->stride + 1 == s->out_w && s->c_in % s->groups == 0 && s->c_out % s->groups == 0;
    }
    return sane ? EFFNET_OK
                : effnet_fail(error, EFFNET_E_INTERNAL, "%s: no such convolution: %dx%dx%dx%d to %dx%dx%d",
                              layer, s->n, s->h, s->w, s->c_in, s->out_h, s->out_w, s->c_out);
}

static int graph_build(struct cudnn_graph *graph, const struct cudnn_conv_shape *s,
                       cudnnBackendDescriptor_t parts[PARTS], struct effnet_error *error)
{
    EFFNET_TRY(shape_check(s, graph->layer, error));
    EFFNET_TRY(tensor_build(graph, UID_X, s->n, s->c_in, s->h, s->w, &parts[X], error));
    EFFNET_TRY(
        tensor_build(graph, UID_W, s->c_out, s->c_in / s->groups, s->kernel, s->kernel, &parts[W], error));
    EFFNET_TRY(tensor_build(graph, UID_Y, s->n, s->c_out, s->out_h, s->out_w, &parts[Y], error));
    EFFNET_TRY(convolution_build(graph, s, &parts[CONVOLUTION], error));
    EFFNET_TRY(operation_build(graph, parts, error));
    struct build build = build_begin(graph->target, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    build_set_descriptor(&build, CUDNN_ATTR_OPERATIONGRAPH_OPS, parts[OPERATION]);
    if (graph->target->handle)
        build_set(&build, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &graph->target->handle);
    return build_end(&build, graph->layer, "operation graph", &graph->graph, error);
}

int cudnn_graph_build(const struct cudnn_target *target, const struct cudnn_conv_shape *shape,
                      const char *layer, struct cudnn_graph *out, struct effnet_error *error)
{
    cudnnBackendDescriptor_t parts[PARTS] = {NULL};
    *out = (struct cudnn_graph){.target = target, .layer = layer};
    int status = graph_build(out, shape, parts, error);
    /* Finalised descriptors hold what they were given. */
    for (int i = PARTS; i-- > 0;) cudnn_descriptor_free(target, &parts[i]);
    return status;
}

void cudnn_graph_free(struct cudnn_graph *graph)
{
    if (graph->target) cudnn_descriptor_free(graph->target, &graph->graph);
}

/* ---------------------------------------------------------------- plans */

int cudnn_engine_build(const struct cudnn_graph *graph, int64_t index, cudnnBackendDescriptor_t *out,
                       struct effnet_error *error)
{
    const struct cudnn_target *target = graph->target;
    struct build build = build_begin(target, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    build_set_descriptor(&build, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph->graph);
    build_set_int64(&build, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, index);
    if (target->properties) build_set_descriptor(&build, CUDNN_ATTR_ENGINE_DEVICEPROP, target->properties);
    return build_end(&build, graph->layer, "engine", out, error);
}

int cudnn_heuristic_build(const struct cudnn_graph *graph, cudnnBackendDescriptor_t *out,
                          struct effnet_error *error)
{
    const struct cudnn_target *target = graph->target;
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    struct build build = build_begin(target, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    build_set_descriptor(&build, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph->graph);
    build_set(&build, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (target->properties)
        build_set_descriptor(&build, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, target->properties);
    return build_end(&build, graph->layer, "heuristic", out, error);
}

bool cudnn_engine_notes_read(const struct cudnn_target *target, cudnnBackendDescriptor_t engine,
                             struct cudnn_engine_notes *notes)
{
    enum {
        MAX_NOTES = 64,
        NOTE_CUBLASLT = 4, /* CUDNN_BEHAVIOR_NOTE_CUBLASLT_DEPENDENCY; 9.14's header has no name for it */
    };
    const struct cudnn_library *library = target->library;
    cudnnBackendNumericalNote_t numerical[MAX_NOTES];
    cudnnBackendBehaviorNote_t behavior[MAX_NOTES];
    int64_t numericals = 0, behaviors = 0;
    *notes = (struct cudnn_engine_notes){0};
    if (library->get_attribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, MAX_NOTES,
                               &numericals, numerical) ||
        library->get_attribute(engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE, MAX_NOTES,
                               &behaviors, behavior))
        return false;

    for (int64_t i = 0; i < numericals && i < MAX_NOTES; i++) switch ((int)numerical[i]) {
        case CUDNN_NUMERICAL_NOTE_TENSOR_CORE:
        case CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP: break;
        case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC: notes->nondeterministic = true; break;
        default: notes->imprecise = true; /* also what this cuDNN does not know of yet */
        }
    for (int64_t i = 0; i < behaviors && i < MAX_NOTES; i++) switch ((int)behavior[i]) {
        case CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION: notes->runtime_compiled = true; break;
        case NOTE_CUBLASLT: notes->cublaslt = true; break;
        case CUDNN_BEHAVIOR_NOTE_REQUIRES_FILTER_INT8x32_REORDER:
        case CUDNN_BEHAVIOR_NOTE_REQUIRES_BIAS_INT8x32_REORDER: notes->reordered = true; break;
        default: break;
        }
    return true;
}

/* Why an engine may not run, or NULL; conv.h has the reasons. */
static const char *engine_objection(const struct cudnn_engine_notes *notes)
{
    if (notes->nondeterministic) return "not deterministic";
    if (notes->imprecise) return "reduced precision";
    if (notes->reordered) return "needs reordered weights";
    if (notes->runtime_compiled) return "compiled at run time";
    if (notes->cublaslt) return "needs cuBLASLt";
    return NULL;
}

static int config_build(const struct cudnn_graph *graph, const struct cudnn_config *config,
                        cudnnBackendDescriptor_t engine, cudnnBackendDescriptor_t *out,
                        struct effnet_error *error)
{
    const struct cudnn_target *target = graph->target;
    assert(config->knob_count >= 0 && config->knob_count <= CUDNN_MAX_KNOBS);
    cudnnBackendDescriptor_t choices[CUDNN_MAX_KNOBS] = {NULL};
    int status = EFFNET_OK;
    for (int i = 0; !status && i < config->knob_count; i++) {
        const cudnnBackendKnobType_t type = (cudnnBackendKnobType_t)config->knobs[i].type;
        struct build build = build_begin(target, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
        build_set(&build, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
        build_set_int64(&build, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, config->knobs[i].value);
        status = build_end(&build, graph->layer, "knob choice", &choices[i], error);
    }
    if (!status) {
        struct build build = build_begin(target, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
        build_set_descriptor(&build, CUDNN_ATTR_ENGINECFG_ENGINE, engine);
        if (config->knob_count > 0)
            build_set(&build, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                      config->knob_count, choices);
        status = build_end(&build, graph->layer, "engine configuration", out, error);
    }
    for (int i = 0; i < config->knob_count; i++) cudnn_descriptor_free(target, &choices[i]);
    return status;
}

static int plan_build(const struct cudnn_graph *graph, struct cudnn_executable *executable,
                      struct effnet_error *error)
{
    const struct cudnn_target *target = graph->target;
    struct build build = build_begin(target, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    if (target->handle)
        build_set(&build, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &target->handle);
    else
        build_set_descriptor(&build, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, target->properties);
    build_set_descriptor(&build, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, executable->config);
    EFFNET_TRY(build_end(&build, graph->layer, "execution plan", &executable->plan, error));
    cudnnStatus_t got = cudnn_get(target, executable->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                  CUDNN_TYPE_INT64, &executable->workspace_bytes);
    return got ? cudnn_fail(target->library, got, graph->layer, "workspace size", error) : EFFNET_OK;
}

int cudnn_executable_build(const struct cudnn_graph *graph, const struct cudnn_config *config,
                           struct cudnn_executable *out, struct effnet_error *error)
{
    *out = (struct cudnn_executable){.target = graph->target};
    /* Seen on an H200 with cuDNN 9.14, on the stem at batch 10, with two settings of its knobs. */
    if (config->engine == 62)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "%s: engine 62 depends on the place in the batch",
                           graph->layer);
    for (int i = 0; i < config->knob_count; i++)
        if (config->knobs[i].type == CUDNN_KNOB_TYPE_STREAM_K && config->knobs[i].value != 0)
            return effnet_fail(error, EFFNET_E_UNAVAILABLE, "%s: stream-K depends on the place in the batch",
                               graph->layer);

    cudnnBackendDescriptor_t engine = NULL;
    int status = cudnn_engine_build(graph, config->engine, &engine, error);
    if (!status) {
        struct cudnn_engine_notes notes;
        const char *objection = cudnn_engine_notes_read(graph->target, engine, &notes)
                                    ? engine_objection(&notes)
                                    : "its notes cannot be read";
        if (objection)
            status = effnet_fail(error, EFFNET_E_UNAVAILABLE, "%s: engine %" PRId64 ": %s", graph->layer,
                                 config->engine, objection);
    }
    if (!status) status = config_build(graph, config, engine, &out->config, error);
    if (!status) status = plan_build(graph, out, error);
    cudnn_descriptor_free(graph->target, &engine);
    if (status) cudnn_executable_free(out);
    return status;
}

void cudnn_executable_free(struct cudnn_executable *executable)
{
    if (!executable->target) return;
    cudnn_descriptor_free(executable->target, &executable->plan);
    cudnn_descriptor_free(executable->target, &executable->config);
}

int cudnn_pack_build(const struct cudnn_target *target, const char *layer,
                     const void *const pointers[CUDNN_POINTERS], cudnnBackendDescriptor_t *out,
                     struct effnet_error *error)
{
    const int64_t uids[3] = {UID_X, UID_W, UID_Y};
    struct build build = build_begin(target, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    build_set(&build, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 3, uids);
    build_set(&build, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 3, pointers);
    build_set(&build, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &pointers[3]);
    return build_end(&build, layer, "variant pack", out, error);
}

void cudnn_config_name(const struct cudnn_config *config, char *name, size_t name_size)
{
    int used = snprintf(name, name_size, "ConvFwd_eng%" PRId64, config->engine);
    for (int i = 0; i < config->knob_count && used > 0 && (size_t)used < name_size; i++)
        used += snprintf(name + used, name_size - (size_t)used, "_k%d=%" PRId64, config->knobs[i].type,
                         config->knobs[i].value);
}

/* Reads a whole number behind `start`, which the text must begin with. */
static bool parse_after(const char **text, const char *start, int64_t *out)
{
    const size_t length = strlen(start);
    char *end;
    if (strncmp(*text, start, length) != 0) return false;
    *text += length;
    if ((**text < '0' || **text > '9') && **text != '-') return false;
    errno = 0;
    *out = strtoll(*text, &end, 10);
    *text = end;
    return errno == 0;
}

bool cudnn_config_parse(const char *name, struct cudnn_config *config)
{
    *config = (struct cudnn_config){0};
    if (!parse_after(&name, "ConvFwd_eng", &config->engine)) return false;
    while (*name) {
        int64_t type, value;
        if (config->knob_count == CUDNN_MAX_KNOBS || !parse_after(&name, "_k", &type) || type < 0 ||
            type > 1023 || !parse_after(&name, "=", &value))
            return false;
        config->knobs[config->knob_count++] = (struct cudnn_knob){.type = (int)type, .value = value};
    }
    return config->engine >= 0;
}
