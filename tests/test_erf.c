/* kernels/linear_math.h, compiled for the host, against double precision over every binade. */
#include "linear_math.h"
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
    assert_true(worst_ulp_error("erf", linear_erf, erf) <= 2.0);
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += STRIDE)
        assert_true(linear_erf(-from_bits(bits)) == -linear_erf(from_bits(bits)));
}

static float phi(float x)
{
    return 1.0f - linear_phi_rest(x);
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
    assert_true(worst_ulp_error("GELU, then ReLU", linear_gelu_relu, true_gelu) <= 2.0);
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += STRIDE)
        assert_true(linear_gelu_relu(-from_bits(bits)) == 0.0f);
}

static void test_silu(void **state)
{
    (void)state;
    double worst = 0;
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += STRIDE) {
        for (int sign = 0; sign < 2; sign++) {
            const float x = from_bits(bits | (uint32_t)sign << 31);
            const double want = (double)x / (1.0 + exp(-(double)x));
            const double e = fabs((double)linear_silu(x) - want) / (fabs(want) + 0x1p-100);
            if (x > -80.0f && !(e <= worst)) worst = e;
            if (x <= -80.0f) assert_true(fabs((double)linear_silu(x)) < 1e-30);
        }
    }
    printf("SiLU, x > -80: worst relative error %.2e\n", worst);
    assert_true(worst <= 1e-5); /* the rounding of x log2(e) grows with |x| */
}

static void test_special_values(void **state)
{
    (void)state;
    assert_true(isnan(linear_erf(NAN)));
    assert_true(isnan(linear_phi_rest(NAN)));
    assert_true(isnan(linear_gelu_relu(NAN)));
    assert_true(isnan(linear_silu(NAN)));
    assert_true(linear_erf(INFINITY) == 1.0f && linear_erf(-INFINITY) == -1.0f);
    assert_true(linear_erf(0.0f) == 0.0f);
    assert_true(linear_phi_rest(0.0f) == 0.5f);
    assert_true(linear_phi_rest(INFINITY) == 0.0f);
    assert_true(linear_gelu_relu(0.0f) == 0.0f);
    assert_true(linear_gelu_relu(INFINITY) == INFINITY && linear_gelu_relu(-INFINITY) == 0.0f);
    assert_true(linear_silu(0.0f) == 0.0f);
    assert_true(linear_silu(INFINITY) == INFINITY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_erf_within_2_ulp),       cmocka_unit_test(test_phi_within_2_ulp),
        cmocka_unit_test(test_gelu_relu_within_2_ulp), cmocka_unit_test(test_silu),
        cmocka_unit_test(test_special_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
