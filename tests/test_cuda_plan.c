/* Which units the CUDA backend covers a network with, by measured times (src/backend/cuda/plan.c). Needs no
 * GPU. */
#ifndef EFFNET_HAVE_CUDA
#include <stdio.h>
int main(void)
{
    puts("skipped: built without CUDA");
    return 77;
}
#else

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"
#include "weights_builder.h"

/* The first layers are such as first_block computes, the head's maps small enough to be pooled by the layer
 * itself. */
enum { STEM, DEPTHWISE_0, PROJECT_0, EXPAND_1, DEPTHWISE_1, PROJECT_1, HEAD, POOL, CLASSIFIER, LAYERS };

static effnet_model *model_new(void)
{
    struct weights *w = weights_new(5, 16, 16);
    weights_conv(w, "stem", 32, 3, 2, WEIGHTS_SAME, "relu6");
    weights_mbconv(w, 16, 32, 3, 1, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 16, 96, 5, 1, WEIGHTS_SAME, "relu6", true);
    weights_head(w, 128, "relu6", 7);
    return weights_open(w);
}

struct fixture {
    effnet_model *model;
    struct backend_state state;
    struct tuning tuning;
};

/* Squeeze-and-excite behind what first_block computes; then the map that `odd` scales has two readers. */
static effnet_model *excited_model_new(bool odd)
{
    struct weights *w = weights_new(6, 16, 16);
    weights_conv(w, "stem", 32, 3, 2, WEIGHTS_SAME, "relu6");
    weights_mbconv(w, 16, 32, 3, 1, WEIGHTS_SAME, "relu6", false);
    weights_mbconv_excited(w, 16, 96, 5, 1, 6, true);
    if (odd) {
        weights_squeeze_excite(w, "odd", 4, "silu");
        weights_layer(w, "one", "pointwise", 16, 1, 1, NULL, "none", NULL, -1);
        weights_take(w, "odd.scale");
        weights_layer(w, "other", "pointwise", 16, 1, 1, NULL, "none", "one", -1);
    }
    weights_head(w, 128, "silu", 7);
    return weights_open(w);
}

static void use_model(effnet_model *model, struct cuda_network *network)
{
    network->model = model;
    network->info = effnet_model_get_info(model);
}

static int setup(void **out)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct effnet_error error;
    if (!f || setenv("EFFNET_CACHE", "", 1) || setenv("EFFNET_TUNING_WITHOUT", "NVIDIA", 1)) return -1;
    f->model = model_new();
    f->state.network = (struct cuda_network){.model = f->model,
                                             .info = effnet_model_get_info(f->model),
                                             .max_batch = 3,
                                             .features_layer = -1,
                                             .sms = 100,
                                             .chip = "test chip",
                                             .without_cudnn = true};
    assert_int_equal(f->state.network.info->layer_count, LAYERS);
    *out = f;
    return tuning_open(&f->tuning, &error);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    cuda_plan_free(&f->state, false);
    tuning_close(&f->tuning);
    effnet_model_close(f->model);
    free(f);
    return 0;
}

/* Says how long the op takes for first..last, by its first candidate that fits. */
static int first_candidate(const char *candidate, void *name, struct effnet_error *error)
{
    (void)error;
    strcpy(name, candidate);
    return EFFNET_E_USAGE; /* enough */
}

static void measured(struct fixture *f, const char *op, int first, int last, double us)
{
    char candidate[TUNING_TEXT] = "";
    struct cuda_unit unit;
    struct tuning_key key;
    for (int i = 0; i < cuda_op_count; i++) {
        if (strcmp(cuda_ops[i]->name, op) != 0) continue;
        assert_true(cuda_ops[i]->covers(&f->state.network, first) & CUDA_COVERS(last - first + 1));
        cuda_unit_make(&unit, &f->state.network, cuda_ops[i], first, last, CUDA_COMPLETE, CUDA_COMPLETE);
        cuda_unit_key(&unit, &key);
        cuda_unit_candidates(&unit, first_candidate, candidate, NULL);
        assert_string_not_equal(candidate, "");
        assert_int_equal(tuning_put(&f->tuning, &key, candidate, us, NULL), EFFNET_OK);
        return;
    }
    fail_msg("no op %s", op);
}

/* "first_block 0-2, pointwise 3, ..." */
static const char *plan_text(struct fixture *f)
{
    static char text[512];
    struct effnet_error error = {0};
    size_t used = 0;
    cuda_plan_free(&f->state, false);
    if (cuda_plan(&f->state, &f->tuning, &error)) fail_msg("%s", error.message);
    for (int i = 0; i < f->state.unit_count; i++) {
        const struct cuda_unit *u = &f->state.units[i];
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s %d", i ? ", " : "", u->op->name,
                                 u->unit.first);
        if (u->unit.last > u->unit.first)
            used += (size_t)snprintf(text + used, sizeof text - used, "-%d", u->unit.last);
    }
    return text;
}

/* Of rivals for the same layers those with the least sum. */
static void test_least_time(void **state)
{
    struct fixture *f = *state;
    measured(f, "pointwise", HEAD, POOL, 10);
    measured(f, "pointwise", HEAD, HEAD, 4);
    measured(f, "pool", POOL, POOL, 5.5);
    assert_string_equal(plan_text(f),
                        "first_block 0-2, pointwise 3, depthwise 4, pointwise 5, pointwise 6, pool 7, "
                        "linear 8");
    tuning_close(&f->tuning);
    assert_int_equal(tuning_open(&f->tuning, NULL), EFFNET_OK);
    measured(f, "pointwise", HEAD, POOL, 9);
    measured(f, "pointwise", HEAD, HEAD, 4);
    measured(f, "pool", POOL, POOL, 5.5);
    assert_string_equal(plan_text(f),
                        "first_block 0-2, pointwise 3, depthwise 4, pointwise 5, pointwise 6-7, linear 8");
}

/* What lives when: each unit's output until its last reader. */
static void test_tensors(void **state)
{
    struct fixture *f = *state;
    plan_text(f);
    const struct backend_state *s = &f->state;
    assert_int_equal(s->units[0].inputs[0], CUDA_PIXELS);
    assert_int_equal(s->image_tensor, -1);
    assert_int_equal(s->units[s->unit_count - 1].output, CUDA_LOGITS);
    const struct cuda_unit *project = &s->units[3];
    assert_int_equal(project->unit.first, PROJECT_1);
    assert_int_equal(project->unit.input_count, 2);
    assert_int_equal(project->inputs[1], s->units[0].output); /* the residual */
    assert_int_equal(s->tensors[s->units[0].output].first, 0);
    assert_int_equal(s->tensors[s->units[0].output].last, 3);
    assert_int_equal(s->tensors[s->units[1].output].last, 2);
    assert_int_equal(s->tensors[s->units[0].output].bytes, cuda_aligned(2u * 3 * 8 * 8 * 16));
}

/* A layer whose output is handed out ends a unit, and what it gives stays to the end of the pass. */
static void test_features(void **state)
{
    struct fixture *f = *state;
    const struct backend_state *s = &f->state;
    measured(f, "pointwise", HEAD, POOL, 1);
    measured(f, "pointwise", HEAD, HEAD, 4);
    measured(f, "pool", POOL, POOL, 5);
    f->state.network.features_layer = HEAD;
    assert_string_equal(plan_text(f),
                        "first_block 0-2, pointwise 3, depthwise 4, pointwise 5, pointwise 6, pool 7, "
                        "linear 8");
    assert_int_equal(s->features_tensor, s->units[4].output);
    assert_int_equal(s->tensors[s->features_tensor].last, 6);
    f->state.network.features_layer = POOL;
    assert_string_equal(plan_text(f),
                        "first_block 0-2, pointwise 3, depthwise 4, pointwise 5, pointwise 6-7, linear 8");
    assert_int_equal(s->features_tensor, s->units[4].output);
    assert_int_equal(s->tensors[s->features_tensor].last, 5);
    f->state.network.features_layer = -1;
    plan_text(f);
    assert_int_equal(s->features_tensor, -1);
}

/* A candidate of an entry that does not exist or does not fit is passed over. */
static void test_unknown_candidate(void **state)
{
    struct fixture *f = *state;
    struct cuda_unit unit;
    struct tuning_key key;
    for (int i = 0; i < cuda_op_count; i++) {
        if (strcmp(cuda_ops[i]->name, "depthwise") != 0) continue;
        cuda_unit_make(&unit, &f->state.network, cuda_ops[i], DEPTHWISE_1, DEPTHWISE_1, CUDA_COMPLETE,
                       CUDA_COMPLETE);
        cuda_unit_key(&unit, &key);
        assert_int_equal(tuning_put(&f->tuning, &key, "of another version", 1, NULL), EFFNET_OK);
    }
    assert_non_null(strstr(plan_text(f), "depthwise 4"));
    assert_null(strstr(f->state.units[2].kernel, "another version"));
}

/* Plan cudnn takes nothing else for convolutions, which without cuDNN is none. */
static void test_plan_cudnn(void **state)
{
    struct fixture *f = *state;
    struct effnet_error error = {0};
    f->state.cudnn_only = true;
    assert_int_equal(cuda_plan(&f->state, &f->tuning, &error), EFFNET_E_UNAVAILABLE);
    f->state.cudnn_only = false;
}

/* Expand and depthwise as one kernel: never by a guess, only by a time. */
static void test_when_measured(void **state)
{
    struct fixture *f = *state;
    const char *apart = "first_block 0-2, pointwise 3, depthwise 4, pointwise 5, pointwise 6-7, linear 8",
               *together = "first_block 0-2, expand_depthwise 3-4, pointwise 5, pointwise 6-7, linear 8";
    measured(f, "pointwise", HEAD, POOL, 1);
    assert_string_equal(plan_text(f), apart);
    measured(f, "pointwise", EXPAND_1, EXPAND_1, 3);
    measured(f, "depthwise", DEPTHWISE_1, DEPTHWISE_1, 3);
    measured(f, "expand_depthwise", EXPAND_1, DEPTHWISE_1, 7);
    assert_string_equal(plan_text(f), apart);
    measured(f, "expand_depthwise", EXPAND_1, DEPTHWISE_1, 5);
    assert_string_equal(plan_text(f), together);
    f->state.network.features_layer = EXPAND_1; /* is handed out, so somebody has to store it */
    assert_string_equal(plan_text(f), apart);
    f->state.network.features_layer = -1;
    f->state.cudnn_only = true;
    assert_int_equal(cuda_plan(&f->state, &f->tuning, NULL), EFFNET_E_UNAVAILABLE);
    f->state.cudnn_only = false;
}

/* The depthwise layer leaves sums, of which one unit makes the gate, which the project layer applies. */
static void test_squeeze_excite(void **state)
{
    struct fixture *f = *state;
    effnet_model *model = excited_model_new(false);
    use_model(model, &f->state.network);
    assert_string_equal(plan_text(f),
                        "first_block 0-2, pointwise 3, depthwise 4, squeeze_excite 5-7, pointwise 8-9, "
                        "pointwise 10-11, linear 12");
    const struct backend_state *s = &f->state;
    const struct cuda_unit *depthwise = &s->units[2], *gate = &s->units[3], *project = &s->units[4];
    assert_true(depthwise->parts >= 1 && gate->parts == depthwise->parts);
    assert_true(depthwise->sums >= 0 && gate->sums == depthwise->sums && project->sums < 0);
    assert_int_equal(s->tensors[gate->sums].first, 2);
    assert_int_equal(s->tensors[gate->sums].last, 3);
    assert_int_equal(s->tensors[gate->sums].bytes, cuda_aligned(4u * 3 * 96 * (unsigned)gate->parts));
    assert_int_equal(s->tensors[gate->output].bytes, cuda_aligned(2u * 3 * 96));
    assert_int_equal(project->unit.input_count, 3);
    assert_int_equal(project->inputs[0], depthwise->output);
    assert_int_equal(project->inputs[1], gate->output);
    assert_int_equal(project->inputs[2], s->units[0].output);
    assert_string_equal(project->layer->name, "blocks.1.project");
    cuda_plan_free(&f->state, false);
    effnet_model_close(model);
}

/* Who reads a scaled map besides the pointwise layer behind would find it nowhere. */
static void test_scale_with_two_readers(void **state)
{
    struct fixture *f = *state;
    struct effnet_error error = {0};
    effnet_model *model = excited_model_new(true);
    use_model(model, &f->state.network);
    assert_int_equal(cuda_plan(&f->state, &f->tuning, &error), EFFNET_E_UNAVAILABLE);
    assert_string_equal(error.message, "layer odd.scale: no kernel computes op scale there on this GPU");
    cuda_plan_free(&f->state, false);
    effnet_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_squeeze_excite, setup, teardown),
        cmocka_unit_test_setup_teardown(test_scale_with_two_readers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_least_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tensors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_features, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown_candidate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_plan_cudnn, setup, teardown),
        cmocka_unit_test_setup_teardown(test_when_measured, setup, teardown),
    };
    return cmocka_run_group_tests_name("cuda plan", tests, NULL, NULL);
}
#endif
