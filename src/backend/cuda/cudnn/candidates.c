/* Which engines and knobs are worth timing.
 *
 * Asked of cuDNN 9.14 and 9.19 for an H200, a convolution of the networks took 30 to 40 ms of host time in
 * heuristic mode A, 100 to 120 ms in mode B, 40 ms in the fallback mode, and 5 ms to go through all 81
 * engines. So mode A and the engines themselves it is. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cudnn/graph.h"
#include "common/error.h"

/* ---------------------------------------------------------------- list */

static bool config_equal(const struct cudnn_config *a, const struct cudnn_config *b)
{
    if (a->engine != b->engine || a->knob_count != b->knob_count) return false;
    for (int i = 0; i < a->knob_count; i++)
        if (a->knobs[i].type != b->knobs[i].type || a->knobs[i].value != b->knobs[i].value) return false;
    return true;
}

static int list_add(struct cudnn_config_list *list, const struct cudnn_config *config,
                    struct effnet_error *error)
{
    for (int i = 0; i < list->count; i++)
        if (config_equal(&list->items[i], config)) return EFFNET_OK;
    if (list->count == list->capacity) {
        int capacity = list->capacity ? 2 * list->capacity : 64;
        struct cudnn_config *items = realloc(list->items, (size_t)capacity * sizeof *items);
        if (!items) return effnet_fail_nomem(error, "cuDNN engines", (size_t)capacity * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = *config;
    return EFFNET_OK;
}

void cudnn_config_list_free(struct cudnn_config_list *list)
{
    free(list->items);
    *list = (struct cudnn_config_list){0};
}

/* ---------------------------------------------------------------- arrays of descriptors */

enum { KNOB_TYPES = 64 }; /* CUDNN_KNOB_TYPE_COUNTS is 44; a newer library may have more */

/* Attributes that are descriptors are read into descriptors that exist already. */
struct descriptors {
    const struct cudnn_target *target;
    cudnnBackendDescriptor_t *items;
    int64_t count;
};

static void descriptors_free(struct descriptors *d)
{
    for (int64_t i = 0; i < d->count; i++) cudnn_descriptor_free(d->target, &d->items[i]);
    free(d->items);
    *d = (struct descriptors){0};
}

static cudnnStatus_t descriptors_make(const struct cudnn_target *target, cudnnBackendDescriptorType_t type,
                                      int64_t count, struct descriptors *out)
{
    *out = (struct descriptors){.target = target};
    out->items = calloc((size_t)count + 1, sizeof *out->items);
    if (!out->items) return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    for (; out->count < count; out->count++) {
        cudnnStatus_t status = target->library->create_descriptor(type, &out->items[out->count]);
        if (status) {
            descriptors_free(out);
            return status;
        }
    }
    return CUDNN_STATUS_SUCCESS;
}

/* Reads an array of descriptors; *filled is how many came. `most` is how many to ask for at most, and 0 asks
 * the attribute itself (which knob choices do not answer). */
static cudnnStatus_t descriptors_get(const struct cudnn_target *target, cudnnBackendDescriptor_t from,
                                     cudnnBackendAttributeName_t name, cudnnBackendDescriptorType_t type,
                                     int64_t most, struct descriptors *out, int64_t *filled)
{
    const struct cudnn_library *library = target->library;
    *out = (struct descriptors){.target = target};
    *filled = 0;
    if (most == 0) {
        cudnnStatus_t status = library->get_attribute(from, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &most,
                                                      NULL);
        if (status || most <= 0) return status;
    }
    cudnnStatus_t status = descriptors_make(target, type, most, out);
    if (status) return status;
    status = library->get_attribute(from, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, most, filled, out->items);
    /* Fewer than announced may come: engines that need what this machine lacks are dropped on the way. */
    if (*filled > most) *filled = most;
    return status;
}

/* ---------------------------------------------------------------- heuristics */

/* Reads engine index and knobs out of a recommended configuration. */
static cudnnStatus_t config_read(const struct cudnn_target *target, cudnnBackendDescriptor_t from,
                                 struct cudnn_config *config)
{
    const struct cudnn_library *library = target->library;
    *config = (struct cudnn_config){0};
    cudnnBackendDescriptor_t engine = NULL;
    int64_t count = 0;
    cudnnStatus_t status = library->create_descriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine);
    if (!status)
        status = library->get_attribute(from, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                        &count, &engine);
    if (!status)
        status = library->get_attribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &count,
                                        &config->engine);
    cudnn_descriptor_free(target, &engine);
    if (status) return status;

    struct descriptors choices;
    int64_t filled = 0;
    status = descriptors_get(target, from, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                             CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, KNOB_TYPES, &choices, &filled);
    if (!status && filled > CUDNN_MAX_KNOBS) status = CUDNN_STATUS_NOT_SUPPORTED;
    for (int64_t i = 0; !status && i < filled; i++) {
        cudnnBackendKnobType_t type;
        int64_t value = 0;
        status = library->get_attribute(choices.items[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE,
                                        CUDNN_TYPE_KNOB_TYPE, 1, &count, &type);
        if (!status)
            status = library->get_attribute(choices.items[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE,
                                            CUDNN_TYPE_INT64, 1, &count, &value);
        if (!status)
            config->knobs[config->knob_count++] = (struct cudnn_knob){.type = (int)type, .value = value};
    }
    descriptors_free(&choices);
    return status;
}

/* One mode's recommendations. A mode that has none for this graph is no error. */
static int add_recommended(const struct cudnn_graph *graph, cudnnBackendHeurMode_t mode,
                           struct cudnn_config_list *list, struct effnet_error *error)
{
    const struct cudnn_target *target = graph->target;
    const struct cudnn_library *library = target->library;
    cudnnBackendDescriptor_t heuristic = NULL, op_graph = graph->graph, properties = target->properties;
    cudnnStatus_t status = library->create_descriptor(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &heuristic);
    if (!status)
        status = library->set_attribute(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
                                        CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &op_graph);
    if (!status)
        status = library->set_attribute(heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1,
                                        &mode);
    if (!status && properties)
        status = library->set_attribute(heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP,
                                        CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &properties);
    if (!status) {
        /* Mode B is not safe to ask from two threads. */
        static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
        pthread_mutex_lock(&mutex);
        status = library->finalize(heuristic);
        pthread_mutex_unlock(&mutex);
    }

    struct descriptors configs = {0};
    int64_t filled = 0;
    if (!status)
        status = descriptors_get(target, heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                 CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, 0, &configs, &filled);
    int result = EFFNET_OK;
    for (int64_t i = 0; !status && !result && i < filled; i++) {
        struct cudnn_config config;
        if (config_read(target, configs.items[i], &config) == CUDNN_STATUS_SUCCESS)
            result = list_add(list, &config, error);
    }
    descriptors_free(&configs);
    cudnn_descriptor_free(target, &heuristic);
    return result;
}

/* ---------------------------------------------------------------- engines */

enum { GRID_VALUES = 12, GRID_MAX = 128 };

/* The values of one knob to try: all of them when they are few, else powers of two. */
struct knob_values {
    int type, count;
    int64_t values[GRID_VALUES];
};

static cudnnStatus_t knob_values_read(const struct cudnn_library *library, cudnnBackendDescriptor_t info,
                                      struct knob_values *out)
{
    cudnnBackendKnobType_t type;
    int64_t least = 0, most = 0, stride = 1, count = 0;
    cudnnStatus_t status = library->get_attribute(info, CUDNN_ATTR_KNOB_INFO_TYPE, CUDNN_TYPE_KNOB_TYPE, 1,
                                                  &count, &type);
    if (!status)
        status = library->get_attribute(info, CUDNN_ATTR_KNOB_INFO_MINIMUM_VALUE, CUDNN_TYPE_INT64, 1, &count,
                                        &least);
    if (!status)
        status = library->get_attribute(info, CUDNN_ATTR_KNOB_INFO_MAXIMUM_VALUE, CUDNN_TYPE_INT64, 1, &count,
                                        &most);
    if (!status)
        status = library->get_attribute(info, CUDNN_ATTR_KNOB_INFO_STRIDE, CUDNN_TYPE_INT64, 1, &count,
                                        &stride);
    if (status) return status;

    *out = (struct knob_values){.type = (int)type};
    if (stride < 1) stride = 1;
    if ((most - least) / stride < 8)
        for (int64_t value = least; value <= most; value += stride) out->values[out->count++] = value;
    else
        for (int64_t value = 1; value <= most && out->count < GRID_VALUES; value *= 2)
            if (value >= least) out->values[out->count++] = value;
    return CUDNN_STATUS_SUCCESS;
}

/* Lists the engine with its default knobs. If its knobs have at most GRID_MAX combinations of values, lists
 * those, too: this tries out the engines made for depthwise convolutions, which have one or two knobs. Other
 * engines have thousands of combinations, and one that is compiled at run time would be compiled for each. */
static int add_engine(const struct cudnn_graph *graph, int64_t index, struct cudnn_config_list *list,
                      struct effnet_error *error)
{
    const struct cudnn_target *target = graph->target;
    cudnnBackendDescriptor_t engine = NULL;
    if (cudnn_engine_build(graph, index, &engine, NULL)) return EFFNET_OK; /* not for this graph or device */

    struct cudnn_config config = {.engine = index};
    int result = list_add(list, &config, error);

    struct cudnn_engine_notes notes;
    if (result || !cudnn_engine_notes_read(target, engine, &notes) || notes.runtime_compiled) {
        cudnn_descriptor_free(target, &engine);
        return result;
    }

    struct descriptors infos;
    struct knob_values knobs[CUDNN_MAX_KNOBS];
    int64_t filled = 0, combinations = 1;
    cudnnStatus_t status = descriptors_get(target, engine, CUDNN_ATTR_ENGINE_KNOB_INFO,
                                           CUDNN_BACKEND_KNOB_INFO_DESCRIPTOR, KNOB_TYPES, &infos, &filled);
    if (filled > CUDNN_MAX_KNOBS) status = CUDNN_STATUS_NOT_SUPPORTED;
    for (int64_t i = 0; !status && i < filled && combinations <= GRID_MAX; i++) {
        status = knob_values_read(target->library, infos.items[i], &knobs[i]);
        combinations *= knobs[i].count;
    }
    if (!status && filled > 0 && combinations <= GRID_MAX) {
        config.knob_count = (int)filled;
        for (int64_t c = 0; !result && c < combinations; c++) {
            int64_t rest = c;
            for (int i = 0; i < config.knob_count; rest /= knobs[i++].count)
                config.knobs[i] = (struct cudnn_knob){knobs[i].type, knobs[i].values[rest % knobs[i].count]};
            result = list_add(list, &config, error);
        }
    }
    descriptors_free(&infos);
    cudnn_descriptor_free(target, &engine);
    return result;
}

int cudnn_graph_candidates(const struct cudnn_graph *graph, struct cudnn_config_list *list,
                           struct effnet_error *error)
{
    const struct cudnn_library *library = graph->target->library;
    int status = cudnn_library_need_cublaslt(library, error);
    if (status) return status;
    int64_t engines = 0, count = 0;
    cudnnStatus_t got = library->get_attribute(graph->graph, CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT,
                                               CUDNN_TYPE_INT64, 1, &count, &engines);
    if (got) return cudnn_fail(library, got, graph->layer, "engine count", error);
    status = add_recommended(graph, CUDNN_HEUR_MODE_A, list, error);
    for (int64_t i = 0; !status && i < engines; i++) status = add_engine(graph, i, list, error);
    return status;
}
