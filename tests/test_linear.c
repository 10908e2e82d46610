/* effnet_linear on host memory, the reference's way to run it, and the reference that both are held against.
 */
#include "backend/linear_backend.h"
#include "common/half.h"
#include "random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SEED = 20260203 };

/* Uniform in [-1, 1). */
static double uniform(uint64_t *state)
{
    return random_unit(state) * 2 - 1;
}

static size_t type_bytes(enum effnet_type type)
{
    return type == EFFNET_FP16 ? 2 : 4;
}

static double get(const void *base, enum effnet_type type, int64_t i)
{
    return type == EFFNET_FP16 ? (double)half_to_float(((const half *)base)[i])
                               : (double)((const float *)base)[i];
}

static void set(void *base, enum effnet_type type, int64_t i, double v)
{
    if (type == EFFNET_FP16)
        ((half *)base)[i] = half_from_double(v);
    else
        ((float *)base)[i] = (float)v;
}

static void *noise(int64_t count, enum effnet_type type, double scale, uint64_t *state)
{
    void *p = malloc((size_t)count * type_bytes(type));
    assert_non_null(p);
    for (int64_t i = 0; i < count; i++) set(p, type, i, scale * uniform(state));
    return p;
}

/* Owns its arrays; y is poisoned and has `guard` rows behind it. */
enum { GUARD_ROWS = 2 };
struct problem {
    struct effnet_linear_args args;
    void *x, *w;
    float *scale, *shift;
    unsigned char *y;
    size_t y_bytes;
};

static struct problem problem_new(struct effnet_linear_args shape, bool scaled, bool shifted, uint64_t *state)
{
    struct problem p = {.args = shape};
    struct effnet_linear_args *a = &p.args;
    a->x = p.x = noise(a->m * a->ldx, a->x_type, 3, state);
    a->w = p.w = noise(a->n * a->ldw, a->w_type, 2 / sqrt((double)a->k), state);
    a->scale = p.scale = scaled ? noise(a->n, EFFNET_FP32, 1.5, state) : NULL;
    a->shift = p.shift = shifted ? noise(a->n, EFFNET_FP32, 1, state) : NULL;
    p.y_bytes = (size_t)((a->m + GUARD_ROWS) * a->ldy) * type_bytes(a->y_type);
    a->y = p.y = malloc(p.y_bytes);
    assert_non_null(p.y);
    memset(p.y, 0xff, p.y_bytes);
    return p;
}

static void problem_free(struct problem *p)
{
    free(p->x), free(p->w), free(p->scale), free(p->shift), free(p->y);
}

/* Every element against the reference, and nothing written elsewhere. */
static void check_result(const struct problem *p, double allowed)
{
    const struct effnet_linear_args *a = &p->args;
    double *want = malloc((size_t)a->n * sizeof *want), difference = 0, norm = 0;
    assert_non_null(want);
    for (int64_t i = 0; i < a->m + GUARD_ROWS; i++) {
        if (i < a->m) effnet_linear_reference(a, i, want);
        for (int64_t j = 0; j < a->ldy; j++) {
            const double got = get(a->y, a->y_type, i * a->ldy + j);
            if (i >= a->m || j >= a->n) {
                assert_true(isnan(got)); /* the poison */
            } else {
                assert_true(isfinite(got));
                difference += (got - want[j]) * (got - want[j]);
                norm += want[j] * want[j];
            }
        }
    }
    free(want);
    if (!(sqrt(difference) <= allowed * sqrt(norm) + 1e-6))
        fail_msg("m %lld n %lld k %lld types %d %d %d activation %d: relative L2 %g", (long long)a->m,
                 (long long)a->n, (long long)a->k, (int)a->x_type, (int)a->w_type, (int)a->y_type,
                 (int)a->activation, sqrt(difference / norm));
}

static void check(const struct problem *p, double allowed)
{
    assert_int_equal(effnet_linear(&p->args, EFFNET_MEMORY_HOST, NULL, NULL), EFFNET_OK);
    check_result(p, allowed);
    memset(p->y, 0xff, p->y_bytes);
    assert_int_equal(linear_reference.run(&p->args, NULL, NULL), EFFNET_OK);
    check_result(p, allowed);
}

static void test_heads(void **unused)
{
    (void)unused;
    uint64_t state = SEED;
    const int rows[] = {1, 10, 33};
    for (int r = 0; r < 3; r++) {
        struct problem p = problem_new(effnet_linear_defaults(rows[r], 1000, 1280), false, true, &state);
        check(&p, 1e-5);
        problem_free(&p);
    }
}

static void test_awkward(void **unused)
{
    (void)unused;
    uint64_t state = random_seed("linear", SEED);
    const int sizes[] = {1, 2, 3, 7, 8, 9, 63, 64, 65, 126, 127, 129};
    const int count = sizeof sizes / sizeof *sizes;
    for (int t = 0; t < 300; t++) {
        struct effnet_linear_args a = effnet_linear_defaults(sizes[random_int(&state, 0, count - 1)],
                                                             sizes[random_int(&state, 0, count - 1)],
                                                             sizes[random_int(&state, 0, count - 1)]);
        a.ldx += random_int(&state, 0, 3), a.ldw += random_int(&state, 0, 3),
            a.ldy += random_int(&state, 0, 3);
        a.x_type = (enum effnet_type)random_int(&state, 0, 1);
        a.w_type = (enum effnet_type)random_int(&state, 0, 1);
        a.y_type = (enum effnet_type)random_int(&state, 0, 1);
        a.activation = (enum effnet_activation)random_int(&state, 0, EFFNET_ACT_TANH);
        struct problem p = problem_new(a, random_int(&state, 0, 1), random_int(&state, 0, 1), &state);
        check(&p, a.y_type == EFFNET_FP16 ? 1e-3 : 1e-5);
        problem_free(&p);
    }
}

/* Dimensions of one element, whose strides mean nothing to some libraries. */
static void test_single_elements(void **unused)
{
    (void)unused;
    uint64_t state = SEED;
    for (int t = 0; t < 8 * 8; t++) {
        struct effnet_linear_args a = effnet_linear_defaults(t & 1 ? 1 : 5, t & 2 ? 1 : 19, t & 4 ? 1 : 70);
        a.ldx += t & 8 ? 3 : 0, a.ldw += t & 16 ? 2 : 0, a.ldy += t & 32 ? 1 : 0;
        struct problem p = problem_new(a, true, true, &state);
        check(&p, 1e-5);
        problem_free(&p);
    }
}

/* A row with a NaN changes nothing in the others. */
static void test_nan_stays_in_its_row(void **unused)
{
    (void)unused;
    for (int activation = EFFNET_ACT_NONE; activation <= EFFNET_ACT_TANH; activation++) {
        uint64_t state = SEED;
        struct effnet_linear_args a = effnet_linear_defaults(5, 37, 50);
        a.activation = (enum effnet_activation)activation;
        struct problem p = problem_new(a, true, true, &state);
        ((float *)p.x)[2 * 50 + 7] = NAN;
        assert_int_equal(effnet_linear(&p.args, EFFNET_MEMORY_HOST, NULL, NULL), EFFNET_OK);
        for (int i = 0; i < 5 * 37; i++)
            if (i / 37 == 2)
                assert_true(isnan(((float *)p.y)[i]));
            else
                assert_true(isfinite(((float *)p.y)[i]));
        problem_free(&p);
    }
}

/* The reference itself, on numbers that can be worked out by hand. */
static void test_reference_by_hand(void **unused)
{
    (void)unused;
    const float x[] = {1, 2, 3, -1}, w[] = {1, 1, -2, 0.5f}, scale[] = {2, 4}, shift[] = {-1, 0.25f};
    struct effnet_linear_args a = effnet_linear_defaults(2, 2, 2);
    double y[2];
    a.x = x, a.w = w, a.scale = scale, a.shift = shift;
    effnet_linear_reference(&a, 0, y);
    assert_true(y[0] == 5 && y[1] == -3.75);
    a.activation = EFFNET_ACT_RELU6;
    effnet_linear_reference(&a, 1, y); /* 2 * 2 - 1 = 3 and 4 * -6.5 + 0.25 < 0 */
    assert_true(y[0] == 3 && y[1] == 0);
    a.activation = EFFNET_ACT_GELU_RELU;
    effnet_linear_reference(&a, 0, y);
    assert_true(fabs(y[0] - 5 * 0.99999971334842808) < 1e-12 && y[1] == 0);
}

/* The reference's sums to the bit, with k on both sides of what it widens at a time. */
static void test_reference_long(void **unused)
{
    (void)unused;
    uint64_t state = SEED;
    const int64_t k[] = {511, 512, 513, 1500};
    for (int t = 0; t < 16; t++) {
        struct effnet_linear_args a = effnet_linear_defaults(3, 5, k[t / 4]);
        a.ldx += 3, a.ldw += 1;
        a.x_type = (enum effnet_type)(t % 2);
        a.w_type = (enum effnet_type)(t / 2 % 2);
        struct problem p = problem_new(a, false, false, &state);
        double y[5];
        effnet_linear_reference(&p.args, 1, y);
        for (int64_t j = 0; j < a.n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < a.k; l++)
                sum += get(p.x, a.x_type, a.ldx + l) * get(p.w, a.w_type, j * a.ldw + l);
            assert_true(y[j] == sum);
        }
        problem_free(&p);
    }
}

static void test_fold_batch_norm(void **unused)
{
    (void)unused;
    const float bias[] = {0.5f, -1}, gamma[] = {2, -3}, beta[] = {0.25f, 1}, mean[] = {1, 0.5f},
                variance[] = {3, 0};
    float scale[2], shift[2];
    effnet_fold_batch_norm(2, bias, gamma, beta, mean, variance, 1.0, scale, shift);
    assert_true(fabsf(scale[0] - 1) < 1e-7f && fabsf(shift[0] - -0.25f) < 1e-7f);
    assert_true(fabsf(scale[1] - -3) < 1e-7f && fabsf(shift[1] - 5.5f) < 1e-6f);
    effnet_fold_batch_norm(2, NULL, gamma, beta, mean, variance, 1.0, scale, shift);
    assert_true(fabsf(shift[0] - -0.75f) < 1e-7f);
}

static void test_refusals(void **unused)
{
    (void)unused;
    uint64_t state = SEED;
    struct problem p = problem_new(effnet_linear_defaults(2, 3, 4), true, true, &state);
    struct effnet_linear_args a;
    struct effnet_error error;
#define REFUSED(change, word)                                                                                \
    do {                                                                                                     \
        a = p.args;                                                                                          \
        change;                                                                                              \
        assert_int_equal(effnet_linear(&a, EFFNET_MEMORY_HOST, NULL, &error), EFFNET_E_USAGE);               \
        assert_non_null(strstr(error.message, word));                                                        \
    } while (0)
    REFUSED(a.m = 0, "m is 0");
    REFUSED(a.n = -1, "n is -1");
    REFUSED(a.k = (1 << 30) + 1, "k is 1073741825");
    REFUSED(a.x = NULL, "x is NULL");
    REFUSED(a.w = NULL, "w is NULL");
    REFUSED(a.y = NULL, "y is NULL");
    REFUSED(a.ldx = 3, "rows of x");
    REFUSED(a.ldw = 3, "rows of w");
    REFUSED(a.ldy = 2, "rows of y");
    REFUSED(a.ldy = INT64_C(1) << 32, "rows of y");
    REFUSED(a.x = (const char *)a.x + 1, "aligned");
    REFUSED(a.y = (char *)a.y + 2, "aligned");
    REFUSED(a.shift = (const float *)((const char *)a.shift + 2), "aligned");
    REFUSED(a.y_type = (enum effnet_type)2, "type");
    REFUSED(a.activation = (enum effnet_activation)9, "activation");
    int dummy;
    assert_int_equal(effnet_linear(&p.args, EFFNET_MEMORY_HOST, &dummy, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_linear(&p.args, (enum effnet_memory)2, NULL, &error), EFFNET_E_USAGE);
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_by_hand),
        cmocka_unit_test(test_reference_long),
        cmocka_unit_test(test_fold_batch_norm),
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_awkward),
        cmocka_unit_test(test_single_elements),
        cmocka_unit_test(test_nan_stays_in_its_row),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
