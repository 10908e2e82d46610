/* cuDNN's plans without a GPU: graphs, candidates, rules and plans for a device that is only described (an
 * H200). tests/gpu/test_cudnn.c runs them. */
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
#include <sys/wait.h>
#include <unistd.h>

#include "backend/cuda/cudnn/conv.h"
#include "cudnn_shapes.h"
#include "random.h"

/* As cuDNN writes down the properties of an H200. */
static const char h200[] =
    "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,"
    "\"multiProcessorCount\":132,\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,"
    "\"maxSharedMemoryPerBlockOptin\":232448,\"reservedSharedMemoryPerBlock\":1024,"
    "\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,"
    "\"pciDeviceId\":0,\"isTccDriver\":0,\"supportCoopLaunch\":1,\"smClockRateKHz\":1980000,"
    "\"memClockRateKHz\":3201000,\"l2CacheSize\":62914560,\"deviceName\":\"NVIDIA H200\",\"deviceVer\":900,"
    "\"driverVer\":13000,\"totalGlobalMem\":150000000000,\"cudaDeviceId\":0}";

static const struct cudnn_library *library;
enum { WORKSPACE_MOST = 64 << 20 };

static struct cudnn_target target_new(void)
{
    struct cudnn_target target;
    struct effnet_error error = {0};
    if (cudnn_target_describe(library, h200, &target, &error)) fail_msg("%s", error.message);
    return target;
}

static struct cudnn_conv_shape some_shape(void)
{
    return square_shape(10, 30, 240, 240, 240, 5, 1, true);
}

/* ---------------------------------------------------------------- library */

/* In a process of its own: the library is looked for once. */
static void test_missing_library(void **state)
{
    (void)state;
    static const char *const wrong[] = {"/nonexistent/cudnn", "/tmp", "/etc/passwd"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            setenv("EFFNET_CUDNN", wrong[i], 1);
            const struct cudnn_library *found;
            struct effnet_error error = {0};
            int status = cudnn_library_load(&found, &error);
            bool right = status == EFFNET_E_UNAVAILABLE && !found && strstr(error.message, wrong[i]) &&
                         strstr(error.message, "EFFNET_CUDNN");
            if (!right) fprintf(stderr, "%s: %d %s\n", wrong[i], status, error.message);
            _exit(right ? 0 : 1);
        }
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
    }
}

/* ---------------------------------------------------------------- graphs, candidates, plans */

/* Every convolution of both networks has engines that may run it within the workspace limit, and all that
 * is recommended can be built again from engine and knobs, with the same workspace. */
static void test_networks(void **state)
{
    (void)state;
    struct cudnn_target target = target_new();
    static const int batches[] = {1, 10, 256};
    for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
        struct named_shape shapes[NAMED_SHAPES_MAX];
        int count = all_network_shapes(batches[b], shapes);
        assert_true(count > 20);
        for (int i = 0; i < count; i++) {
            struct effnet_error error = {0};
            struct cudnn_graph graph;
            if (cudnn_graph_build(&target, &shapes[i].shape, shapes[i].name, &graph, &error))
                fail_msg("%s", error.message);
            struct cudnn_config_list list = {0};
            if (cudnn_graph_candidates(&graph, &list, &error)) fail_msg("%s", error.message);
            int usable = 0, knobs = 0;
            for (int c = 0; c < list.count; c++) {
                struct cudnn_executable executable, again;
                knobs += list.items[c].knob_count;
                if (cudnn_executable_build(&graph, &list.items[c], &executable, &error)) continue;
                assert_true(executable.workspace_bytes >= 0);
                if (cudnn_executable_build(&graph, &list.items[c], &again, &error))
                    fail_msg("%s", error.message);
                assert_int_equal(executable.workspace_bytes, again.workspace_bytes);
                usable += executable.workspace_bytes <= WORKSPACE_MOST;
                cudnn_executable_free(&executable);
                cudnn_executable_free(&again);
            }
            if (usable < 3) fail_msg("%s, batch %d: %d engines", shapes[i].name, batches[b], usable);
            assert_true(knobs > 0);
            cudnn_config_list_free(&list);
            cudnn_graph_free(&graph);
        }
    }
    cudnn_target_close(&target);
}

/* Nor does cuDNN give up on odd sizes, paddings and channel counts. */
static void test_awkward(void **state)
{
    (void)state;
    uint64_t random = random_seed("awkward shapes", 11);
    struct cudnn_target target = target_new();
    for (int i = 0; i < 60; i++) {
        struct cudnn_conv_shape s = awkward_shape(&random);
        struct effnet_error error = {0};
        struct cudnn_graph graph;
        if (cudnn_graph_build(&target, &s, "awkward", &graph, &error)) fail_msg("%s", error.message);
        struct cudnn_config_list list = {0};
        if (cudnn_graph_candidates(&graph, &list, &error)) fail_msg("%s", error.message);
        int usable = 0;
        for (int c = 0; c < list.count; c++) {
            struct cudnn_executable executable;
            usable += !cudnn_executable_build(&graph, &list.items[c], &executable, &error);
            cudnn_executable_free(&executable);
        }
        if (usable < 1)
            fail_msg("%dx%dx%dx%d to %d, groups %d, kernel %d, stride %d: no engine (%s)", s.n, s.h, s.w,
                     s.c_in, s.c_out, s.groups, s.kernel, s.stride, error.message);
        cudnn_config_list_free(&list);
        cudnn_graph_free(&graph);
    }
    cudnn_target_close(&target);
}

/* No configuration twice, and each can be told by its name. */
static void test_candidates(void **state)
{
    (void)state;
    struct cudnn_target target = target_new();
    struct effnet_error error = {0};
    struct cudnn_conv_shape shape = some_shape();
    struct cudnn_graph graph;
    assert_int_equal(cudnn_graph_build(&target, &shape, "layer", &graph, &error), EFFNET_OK);
    struct cudnn_config_list list = {0};
    assert_int_equal(cudnn_graph_candidates(&graph, &list, &error), EFFNET_OK);
    assert_true(list.count > 10);
    char a[256], b[256];
    for (int i = 0; i < list.count; i++) {
        struct cudnn_config parsed;
        cudnn_config_name(&list.items[i], a, sizeof a);
        assert_true(cudnn_config_parse(a, &parsed));
        cudnn_config_name(&parsed, b, sizeof b);
        assert_string_equal(a, b);
        for (int j = 0; j < i; j++) {
            cudnn_config_name(&list.items[j], b, sizeof b);
            assert_string_not_equal(a, b);
        }
    }
    cudnn_config_list_free(&list);
    cudnn_graph_free(&graph);
    cudnn_target_close(&target);
}

static void test_config_names(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",
        "ConvFwd_eng",
        "ConvFwd_engx",
        "ConvFwd_eng-1",
        "ConvFwd_eng1_",
        "ConvFwd_eng1_k",
        "ConvFwd_eng1_k2",
        "ConvFwd_eng1_k2=",
        "ConvFwd_eng1 ",
        "convfwd_eng1",
        "ConvFwd_eng1_k2=3;",
        "ConvFwd_eng1_k-2=3",
        "ConvFwd_eng1_k2000=3",
        "ConvFwd_eng99999999999999999999",
        "tiled 128x16x32x4",
        "ConvFwd_eng1_k1=1_k1=1_k1=1_k1=1_k1=1_k1=1_k1=1_k1=1_k1=1_k1=1_k1=1_k1=1_k1=1_k1=1_k1=1_k1=1_k1=1",
    };
    struct cudnn_config config;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (cudnn_config_parse(wrong[i], &config)) fail_msg("'%s' was read", wrong[i]);
    assert_true(cudnn_config_parse("ConvFwd_eng57_k2=3_k17=-528", &config));
    assert_int_equal(config.engine, 57);
    assert_int_equal(config.knob_count, 2);
    assert_int_equal(config.knobs[1].type, 17);
    assert_int_equal(config.knobs[1].value, -528);
}

static void expect_refused(const struct cudnn_graph *graph, const struct cudnn_config *config,
                           const char *why)
{
    struct effnet_error error = {0};
    struct cudnn_executable executable;
    int status = cudnn_executable_build(graph, config, &executable, &error);
    if (status != EFFNET_E_UNAVAILABLE && status != EFFNET_E_INTERNAL) fail_msg("%s: status %d", why, status);
    assert_int_equal(error.status, status);
    if (!strstr(error.message, "layer seven") || !strstr(error.message, why))
        fail_msg("'%s' is not in '%s'", why, error.message);
    assert_null(executable.plan);
    cudnn_executable_free(&executable);
}

static void test_refusals(void **state)
{
    (void)state;
    struct cudnn_target target = target_new();
    struct effnet_error error = {0};
    struct cudnn_conv_shape shape = some_shape();
    struct cudnn_graph graph;
    assert_int_equal(cudnn_graph_build(&target, &shape, "layer seven", &graph, &error), EFFNET_OK);

    expect_refused(&graph, &(struct cudnn_config){.engine = 9999}, "engine");
    expect_refused(&graph, &(struct cudnn_config){.engine = -1}, "engine");
    struct cudnn_config config = {.engine = 0, .knob_count = 1, .knobs = {{CUDNN_KNOB_TYPE_STREAM_K, 1}}};
    expect_refused(&graph, &config, "stream-K");
    config.knobs[0] = (struct cudnn_knob){CUDNN_KNOB_TYPE_TILE_SIZE, 1}; /* engine 0 has no knobs */
    expect_refused(&graph, &config, "cuDNN");

    /* Engines that announce a compiler at run time, of which there are some, are out. */
    int64_t engines = 0, count = 0, compiled = 0;
    assert_int_equal(library->get_attribute(graph.graph, CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT,
                                            CUDNN_TYPE_INT64, 1, &count, &engines),
                     CUDNN_STATUS_SUCCESS);
    for (int64_t i = 0; i < engines; i++) {
        cudnnBackendDescriptor_t engine;
        if (cudnn_engine_build(&graph, i, &engine, &error)) continue;
        struct cudnn_engine_notes notes;
        assert_true(cudnn_engine_notes_read(&target, engine, &notes));
        cudnn_descriptor_free(&target, &engine);
        if (notes.runtime_compiled) {
            expect_refused(&graph, &(struct cudnn_config){.engine = i}, "compiled at run time");
            compiled++;
        }
    }
    assert_true(compiled > 0);
    cudnn_graph_free(&graph);
    cudnn_target_close(&target);
}

static void test_bad_shapes(void **state)
{
    (void)state;
    struct cudnn_target target = target_new();
    struct cudnn_conv_shape good = some_shape(), bad[9];
    for (int i = 0; i < 9; i++) bad[i] = good;
    bad[0].n = 0;
    bad[1].out_h++;
    bad[2].out_w--;
    bad[3].groups = 7;
    bad[4].pad_top = -1;
    bad[5].kernel = 99;
    bad[6].stride = 0;
    bad[7].c_out = -240;
    bad[8].c_in = 241;
    for (int i = 0; i < 9; i++) {
        struct effnet_error error = {0};
        struct cudnn_graph graph;
        assert_int_equal(cudnn_graph_build(&target, &bad[i], "layer seven", &graph, &error),
                         EFFNET_E_INTERNAL);
        assert_string_equal(strstr(error.message, "layer seven: no such convolution") ? "" : error.message,
                            "");
        cudnn_graph_free(&graph);
    }
    cudnn_target_close(&target);
}

/* ---------------------------------------------------------------- main */

int main(void)
{
    const struct CMUnitTest before[] = {cmocka_unit_test(test_missing_library),
                                        cmocka_unit_test(test_config_names)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_networks), cmocka_unit_test(test_awkward),    cmocka_unit_test(test_candidates),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_bad_shapes),
    };
    int failed = cmocka_run_group_tests_name("cudnn library", before, NULL, NULL);

    struct effnet_error error = {0};
    if (cudnn_library_load(&library, &error) || cudnn_library_need_cublaslt(library, &error)) {
        printf("the rest is skipped: %s\n", error.message);
        return failed;
    }
    if (library->version < 90800) {
        printf("the rest is skipped: cuDNN %zu cannot plan for a described device\n", library->version);
        return failed;
    }
    failed += cmocka_run_group_tests_name("cudnn plans", tests, NULL, NULL);
    return failed;
}
#endif
