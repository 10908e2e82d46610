/* Which engines and knobs are worth timing.
 *
 * Asked of cuDNN 9.14 and 9.19 for an H200, a convolution of the networks took 30 to 40 ms of host time in
 * heuristic mode A, 100 to 120 ms in mode B, 40 ms in the fallback mode, and 5 ms to go through all 81
 * engines. So mode A and the engines themselves it is. */
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
    int64_t made, count; /* how many there are, and how many of them were read */
};

static void descriptors_free(struct descriptors *d)
{
    for (int64_t i = 0; i < d->made; i++) cudnn_descriptor_free(d->target, &d->items[i]);
    free(d->items);
}

/* Reads an array of descriptors, which the caller frees, also on failure. `most` is how many to ask for at
 * most, and 0 asks the attribute itself (which knob choices do not answer). */
static cudnnStatus_t descriptors_get(const struct cudnn_target *target, cudnnBackendDescriptor_t from,
                                     cudnnBackendAttributeName_t name, cudnnBackendDescriptorType_t type,
                                     int64_t most, struct descriptors *out)
{
    const struct cudnn_library *library = target->library;
    cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
    *out = (struct descriptors){.target = target};
    if (most == 0) status = library->get_attribute(from, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &most, NULL);
    if (status || most <= 0) return status;
    out->items = calloc((size_t)most, sizeof *out->items);
    if (!out->items) return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    while (!status && out->made < most) status = library->create_descriptor(type, &out->items[out->made++]);
    if (!status)
        status = library->get_attribute(from, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, most, &out->count,
                                        out->items);
    /* Fewer than announced may come: engines that need what this machine lacks are dropped on the way. */
    if (out->count > most) out->count = most;
    return status;
}

/* ---------------------------------------------------------------- heuristics */

/* Reads engine index and knobs out of a recommended configuration. */
static cudnnStatus_t config_read(const struct cudnn_target *target, cudnnBackendDescriptor_t from,
                                 struct cudnn_config *config)
{
    *config = (struct cudnn_config){0};
    cudnnBackendDescriptor_t engine = NULL;
    cudnnStatus_t status = target->library->create_descriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine);
    if (!status)
        status = cudnn_get(target, from, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, &engine);
    if (!status)
        status = cudnn_get(target, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, &config->engine);
    cudnn_descriptor_free(target, &engine);
    if (status) return status;

    struct descriptors choices;
    status = descriptors_get(target, from, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                             CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, KNOB_TYPES, &choices);
    if (!status && choices.count > CUDNN_MAX_KNOBS) status = CUDNN_STATUS_NOT_SUPPORTED;
    for (int64_t i = 0; !status && i < choices.count; i++) {
        cudnnBackendKnobType_t type;
        int64_t value = 0;
        status = cudnn_get(target, choices.items[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE,
                           &type);
        if (!status)
            status = cudnn_get(target, choices.items[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64,
                               &value);
        if (!status)
            config->knobs[config->knob_count++] = (struct cudnn_knob){.type = (int)type, .value = value};
    }
    descriptors_free(&choices);
    return status;
}

/* The heuristic's recommendations. That it has none for this graph is no error. */
static int add_recommended(const struct cudnn_graph *graph, struct cudnn_config_list *list,
                           struct effnet_error *error)
{
    cudnnBackendDescriptor_t heuristic = NULL;
    struct descriptors configs;
    int status = EFFNET_OK;
    if (cudnn_heuristic_build(graph, &heuristic, NULL)) return EFFNET_OK;
    if (!descriptors_get(graph->target, heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                         CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, 0, &configs))
        for (int64_t i = 0; !status && i < configs.count; i++) {
            struct cudnn_config config;
            if (config_read(graph->target, configs.items[i], &config) == CUDNN_STATUS_SUCCESS)
                status = list_add(list, &config, error);
        }
    descriptors_free(&configs);
    cudnn_descriptor_free(graph->target, &heuristic);
    return status;
}

/* ---------------------------------------------------------------- engines */

enum { GRID_VALUES = 12, GRID_MAX = 128 };

/* The values of one knob to try: all of them when they are few, else powers of two. */
struct knob_values {
    int type, count;
    int64_t values[GRID_VALUES];
};

static cudnnStatus_t knob_values_read(const struct cudnn_target *target, cudnnBackendDescriptor_t info,
                                      struct knob_values *out)
{
    cudnnBackendKnobType_t type;
    int64_t least = 0, most = 0, stride = 1;
    cudnnStatus_t status = cudnn_get(target, info, CUDNN_ATTR_KNOB_INFO_TYPE, CUDNN_TYPE_KNOB_TYPE, &type);
    if (!status)
        status = cudnn_get(target, info, CUDNN_ATTR_KNOB_INFO_MINIMUM_VALUE, CUDNN_TYPE_INT64, &least);
    if (!status)
        status = cudnn_get(target, info, CUDNN_ATTR_KNOB_INFO_MAXIMUM_VALUE, CUDNN_TYPE_INT64, &most);
    if (!status) status = cudnn_get(target, info, CUDNN_ATTR_KNOB_INFO_STRIDE, CUDNN_TYPE_INT64, &stride);
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
    int64_t combinations = 1;
    cudnnStatus_t status = descriptors_get(target, engine, CUDNN_ATTR_ENGINE_KNOB_INFO,
                                           CUDNN_BACKEND_KNOB_INFO_DESCRIPTOR, KNOB_TYPES, &infos);
    if (infos.count > CUDNN_MAX_KNOBS) status = CUDNN_STATUS_NOT_SUPPORTED;
    for (int64_t i = 0; !status && i < infos.count && combinations <= GRID_MAX; i++) {
        status = knob_values_read(target, infos.items[i], &knobs[i]);
        combinations *= knobs[i].count;
    }
    if (!status && infos.count > 0 && combinations <= GRID_MAX) {
        config.knob_count = (int)infos.count;
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
    EFFNET_TRY(cudnn_library_need_cublaslt(library, error));
    int64_t engines = 0;
    cudnnStatus_t got = cudnn_get(graph->target, graph->graph, CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT,
                                  CUDNN_TYPE_INT64, &engines);
    if (got) return cudnn_fail(library, got, graph->layer, "engine count", error);
    EFFNET_TRY(add_recommended(graph, list, error));
    for (int64_t i = 0; i < engines; i++) EFFNET_TRY(add_engine(graph, i, list, error));
    return EFFNET_OK;
}
