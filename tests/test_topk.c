#include "effnet.h"
#include "random.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void expect_order(const float *logits, int classes, const int *order, int k)
{
    struct effnet_class top[16];
    assert_int_equal(effnet_top_k(logits, classes, k, top), k);
    for (int i = 0; i < k; i++) {
        assert_int_equal(top[i].index, order[i]);
        assert_memory_equal(&top[i].logit, &logits[order[i]], sizeof(float));
    }
}

static void test_order_and_ties(void **state)
{
    (void)state;
    float logits[] = {1, 3, 2, 3, -1, 3, 2};
    expect_order(logits, 7, (int[]){1, 3, 5, 2, 6, 0, 4}, 7);
    expect_order(logits, 7, (int[]){1, 3}, 2);
    expect_order(logits, 7, (int[]){1}, 1);
    float zeros[] = {-0.0f, 0.0f, 0.0f, -0.0f};
    expect_order(zeros, 4, (int[]){0, 1, 2, 3}, 4);
}

static void test_not_finite(void **state)
{
    (void)state;
    float logits[] = {NAN, 1, -INFINITY, INFINITY, -NAN, 2, INFINITY};
    expect_order(logits, 7, (int[]){3, 6, 5, 1, 2, 0, 4}, 7);
    expect_order(logits, 7, (int[]){3, 6, 5}, 3);
    struct effnet_class top[7];
    effnet_top_k(logits, 7, 7, top);
    assert_true(top[0].probability == 0.5f && top[1].probability == 0.5f);
    assert_true(top[2].probability == 0 && top[4].probability == 0);
    assert_true(isnan(top[5].probability) && isnan(top[6].probability));

    float all_nan[] = {NAN, NAN, NAN};
    expect_order(all_nan, 3, (int[]){0, 1, 2}, 3);
    float lowest[] = {-INFINITY, -INFINITY};
    assert_int_equal(effnet_top_k(lowest, 2, 2, top), 2);
    assert_true(top[0].probability == 0.5f && top[1].probability == 0.5f);
    float one_nan[] = {0, NAN, 0};
    assert_int_equal(effnet_top_k(one_nan, 3, 3, top), 3);
    assert_true(top[0].probability == 0.5f && top[1].index == 2 && isnan(top[2].probability));
}

/* Logits whose exponentials overflow and vanish even in double. */
static void test_softmax(void **state)
{
    (void)state;
    struct effnet_class top[4];
    float large[] = {88000, 88001, 87999};
    assert_int_equal(effnet_top_k(large, 3, 3, top), 3);
    double sum = 1 + exp(-1) + exp(-2);
    assert_true(fabs(top[0].probability - 1 / sum) < 1e-7);
    assert_true(fabs(top[1].probability - exp(-1) / sum) < 1e-7);
    assert_true(fabs(top[2].probability - exp(-2) / sum) < 1e-7);
    float extremes[] = {-FLT_MAX, FLT_MAX, 0};
    assert_int_equal(effnet_top_k(extremes, 3, 3, top), 3);
    assert_true(top[0].probability == 1 && top[1].probability == 0 && top[2].probability == 0);
    float small[] = {-90000, -90000, -90000, -90000};
    effnet_top_k(small, 4, 1, top);
    assert_true(top[0].probability == 0.25f);

    float many[1000]; /* a sum in float would lose the small ones' share: 999 exp(-17.5) = 2.5e-5 */
    for (int i = 0; i < 1000; i++) many[i] = i == 500 ? 17.5f : 0;
    effnet_top_k(many, 1000, 1, top);
    assert_int_equal(top[0].index, 500);
    assert_true(fabs(top[0].probability - 1 / (1 + 999 * exp(-17.5))) <= 6e-8);
}

static void test_limits(void **state)
{
    (void)state;
    float logits[] = {1, 2, 3};
    struct effnet_class top[4];
    memset(top, 0x55, sizeof top);
    struct effnet_class guard = top[3];
    assert_int_equal(effnet_top_k(logits, 3, 100, top), 3);
    assert_memory_equal(&top[3], &guard, sizeof guard);
    assert_int_equal(effnet_top_k(logits, 1, 5, top), 1);
    assert_true(top[0].probability == 1);
    memset(top, 0x55, sizeof top);
    assert_int_equal(effnet_top_k(logits, 3, 0, top), 0);
    assert_int_equal(effnet_top_k(logits, 3, -1, top), 0);
    assert_int_equal(effnet_top_k(logits, 0, 3, top), 0);
    assert_int_equal(effnet_top_k(NULL, 3, 3, top), 0);
    assert_int_equal(effnet_top_k(logits, 3, 3, NULL), 0);
    assert_memory_equal(&top[0], &guard, sizeof guard);
}

/* Each class by itself, in the order of the softmax. */
static void test_multi_label(void **state)
{
    (void)state;
    struct effnet_class top[6];
    float logits[] = {-2, 800, NAN, 0, -800, 3};
    static const int order[] = {1, 5, 3, 0, 4, 2};
    assert_int_equal(effnet_top_k_multi_label(logits, 6, 9, top), 6);
    for (int i = 0; i < 6; i++) assert_int_equal(top[i].index, order[i]);
    assert_true(top[0].probability == 1 && top[4].probability == 0 && isnan(top[5].probability));
    assert_true(top[2].probability == 0.5f);
    assert_true(top[1].probability == (float)(1 / (1 + exp(-3))));
    assert_true(top[3].probability == (float)(1 / (1 + exp(2))));
    assert_int_equal(effnet_top_k_multi_label(logits, 6, 2, top), 2);
    assert_true(top[0].index == 1 && top[1].index == 5 && top[1].logit == 3);
    float alone[] = {-1}, infinite[] = {-INFINITY, INFINITY};
    assert_int_equal(effnet_top_k_multi_label(alone, 1, 1, top), 1);
    assert_true(top[0].probability == (float)(1 / (1 + exp(1))));
    assert_int_equal(effnet_top_k_multi_label(infinite, 2, 2, top), 2);
    assert_true(top[0].probability == 1 && top[1].probability == 0);
    assert_int_equal(effnet_top_k_multi_label(alone, 0, 1, top), 0);
    assert_int_equal(effnet_top_k_multi_label(NULL, 1, 1, top), 0);
    assert_int_equal(effnet_top_k_multi_label(alone, 1, 1, NULL), 0);
}

/* How many classes come before class i, counted one by one. */
static int rank_of(const float *logits, int classes, int i)
{
    int rank = 0;
    for (int j = 0; j < classes; j++) {
        if (isnan(logits[i]))
            rank += !isnan(logits[j]) || j < i;
        else
            rank += logits[j] > logits[i] || (logits[j] == logits[i] && j < i);
    }
    return rank;
}

static void test_random(void **state)
{
    (void)state;
    uint64_t random = random_seed("top k", 7);
    static float logits[300];
    static struct effnet_class top[300];
    for (int round = 0; round < 500; round++) {
        int classes = random_int(&random, 1, 300), k = random_int(&random, 1, classes);
        int steps = random_int(&random, 1, 400); /* few steps: many ties */
        for (int i = 0; i < classes; i++)
            logits[i] = random_int(&random, 0, 40) ? (float)random_int(&random, -steps, steps) / 8 : NAN;
        assert_int_equal(effnet_top_k(logits, classes, k, top), k);
        for (int i = 0; i < k; i++) assert_int_equal(rank_of(logits, classes, top[i].index), i);
        double total = 0;
        for (int i = 0; i < k; i++) total += isnan(top[i].probability) ? 0 : top[i].probability;
        assert_true(total < 1 + 1e-4);
        if (k == classes && !isnan(top[0].logit)) assert_true(total > 1 - 1e-4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_ties), cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_softmax),        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_random),         cmocka_unit_test(test_multi_label),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
