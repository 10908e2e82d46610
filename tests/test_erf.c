/* kernels/activation_math.h, compiled for the host, against double precision over every binade. */
#include "activation_math.h"
#include "ulp.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* |got - want| in units of fp32's spacing at want. */
static double ulp_error(float got, double want)
{
    return fabs((double)got - want) / ulp((float)want);
}

enum { STRIDE = 251 }; /* over the bit patterns: eight million of each sign */

/* The largest error over x >= 0, printed under that name. */
static double worst_ulp_error(const char *name, float (*f)(float), double (*truth)(double))
{
    double worst = 0;
    float where = 0;
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += STRIDE) {
        const float x = from_bits(bits);
        const double e = ulp_error(f(x), truth(x));
        if (!(e <= worst)) worst = e, where = x;
    }
    printf("%s, x >= 0: worst %.2f ulp at %g\n", name, worst, (double)where);
    return worst;
}

static void test_erf_within_2_ulp(void **state)
{
    (void)state;
    assert_true(worst_ulp_error("erf", activation_erf, erf) <= 2.0);
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += STRIDE)
        assert_true(activation_erf(-from_bits(bits)) == -activation_erf(from_bits(bits)));
}

static float phi(float x)
{
    return 1.0f - activation_phi_rest(x);
}

static double true_phi(double x)
{
    return 0.5 * erfc(-x * M_SQRT1_2);
}

static void test_phi_within_2_ulp(void **state)
{
    (void)state;
    assert_true(worst_ulp_error("Phi", phi, true_phi) <= 2.0);
}

static double true_gelu(double x)
{
    return x * true_phi(x);
}

static void test_gelu_relu_within_2_ulp(void **state)
{
    (void)state;
    assert_true(worst_ulp_error("GELU, then ReLU", activation_gelu_relu, true_gelu) <= 2.0);
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += STRIDE)
        assert_true(activation_gelu_relu(-from_bits(bits)) == 0.0f);
}

/* The largest relative error over x > -80; below that f is to be as good as 0. */
static double worst_relative_error(const char *name, float (*f)(float), double (*truth)(double))
{
    double worst = 0;
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += STRIDE)
        for (int sign = 0; sign < 2; sign++) {
            const float x = from_bits(bits | (uint32_t)sign << 31);
            const double want = truth(x), e = fabs((double)f(x) - want) / (fabs(want) + 0x1p-100);
            if (x > -80.0f && !(e <= worst)) worst = e;
            if (x <= -80.0f) assert_true(fabs((double)f(x)) < 1e-30);
        }
    printf("%s, x > -80: worst relative error %.2e\n", name, worst);
    return worst;
}

static double true_sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static double true_silu(double x)
{
    return x * true_sigmoid(x);
}

/* The rounding of x log2(e) grows with |x|. */
static void test_silu_and_sigmoid(void **state)
{
    (void)state;
    assert_true(worst_relative_error("SiLU", activation_silu, true_silu) <= 1e-5);
    assert_true(worst_relative_error("sigmoid", activation_sigmoid, true_sigmoid) <= 1e-5);
}

static double true_hardswish(double x)
{
    return x * fmin(fmax(x + 3, 0), 6) / 6;
}

static float negative_hardswish(float x)
{
    return activation_hardswish(-x);
}

static double true_negative_hardswish(double x)
{
    return true_hardswish(-x);
}

static void test_hardswish_and_tanh(void **state)
{
    (void)state;
    assert_true(worst_ulp_error("hardswish", activation_hardswish, true_hardswish) <= 3.0);
    assert_true(worst_ulp_error("hardswish(-x)", negative_hardswish, true_negative_hardswish) <= 3.0);
    assert_true(worst_ulp_error("tanh", activation_tanh, tanh) <= 2.5);
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += STRIDE)
        assert_true(activation_tanh(-from_bits(bits)) == -activation_tanh(from_bits(bits)));
}

static void test_special_values(void **state)
{
    (void)state;
    assert_true(isnan(activation_erf(NAN)));
    assert_true(isnan(activation_phi_rest(NAN)));
    assert_true(isnan(activation_gelu_relu(NAN)));
    assert_true(isnan(activation_silu(NAN)));
    assert_true(activation_erf(INFINITY) == 1.0f && activation_erf(-INFINITY) == -1.0f);
    assert_true(activation_erf(0.0f) == 0.0f);
    assert_true(activation_phi_rest(0.0f) == 0.5f);
    assert_true(activation_phi_rest(INFINITY) == 0.0f);
    assert_true(activation_gelu_relu(0.0f) == 0.0f);
    assert_true(activation_gelu_relu(INFINITY) == INFINITY && activation_gelu_relu(-INFINITY) == 0.0f);
    assert_true(activation_silu(0.0f) == 0.0f);
    assert_true(activation_silu(INFINITY) == INFINITY);
    assert_true(isnan(activation_sigmoid(NAN)));
    assert_true(activation_sigmoid(0.0f) == 0.5f);
    assert_true(activation_sigmoid(INFINITY) == 1.0f && activation_sigmoid(-INFINITY) == 0.0f);
    assert_true(isnan(activation_hardswish(NAN)) && isnan(activation_tanh(NAN)));
    assert_true(activation_hardswish(INFINITY) == INFINITY && activation_hardswish(3.0f) == 3.0f);
    assert_true(activation_hardswish(-3.0f) == 0.0f && activation_hardswish(-3e38f) == 0.0f);
    assert_true(activation_tanh(INFINITY) == 1.0f && activation_tanh(-INFINITY) == -1.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_erf_within_2_ulp),       cmocka_unit_test(test_phi_within_2_ulp),
        cmocka_unit_test(test_gelu_relu_within_2_ulp), cmocka_unit_test(test_silu_and_sigmoid),
        cmocka_unit_test(test_hardswish_and_tanh),     cmocka_unit_test(test_special_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
