/* SiLU, sums of rows and the gate, against double; what lies around a row stays as it was. */
#include "random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#if defined(EFFNET_HAVE_ONEDNN) && defined(__x86_64__)

#include "backend/onednn/silu.h"

#define RELATIVE 3e-7
#define GUARD    8

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static void check(double got, double x, double allowance)
{
    if (!(fabs(got - silu(x)) <= allowance * fabs(silu(x))))
        fail_msg("silu(%.9g) is %.9g, not %.9g", x, got, silu(x));
}

static void test_range(void **state)
{
    (void)state;
    for (double x = -87; x <= 100; x += 1.0 / 512 + 1e-6) {
        float value = (float)x;
        const double exact = (double)value;
        effnet_onednn_silu(&value, 1);
        check((double)value, exact, RELATIVE + 6e-9 * fabs(exact)); /* one constant for ln 2 */
    }
}

static void test_ends(void **state)
{
    (void)state;
    float values[] = {0, INFINITY, 3e38f, -90, -3e38f, NAN, 1e-38f, -INFINITY};
    effnet_onednn_silu(values, sizeof values / sizeof values[0]);
    assert_true(values[0] == 0);
    assert_true(values[1] == INFINITY);
    assert_true(values[2] == 3e38f);
    assert_true(values[3] == 0 && values[4] == 0 && values[7] == 0);
    assert_true(isnan(values[5]));
    assert_true(values[6] > 0.49e-38f && values[6] < 0.51e-38f);
}

/* Rows of any channels and widths: the values as without sums, the sums of just them, the gate's products. */
static void test_rows(void **state)
{
    (void)state;
    uint64_t random = random_seed("rows", 51);
    for (int round = 0; round < 40; round++) {
        const int width = random_int(&random, 1, 40), channels = random_int(&random, 1, 100);
        const size_t count = (size_t)width * (size_t)channels;
        float row[GUARD + 4000 + GUARD], want[4000], sums[100 + GUARD], gate[100];
        for (size_t i = 0; i < GUARD + count + GUARD; i++) row[i] = random_float(&random, 6);
        float before[GUARD], behind[GUARD];
        memcpy(before, row, sizeof before);
        memcpy(behind, row + GUARD + count, sizeof behind);
        memcpy(want, row + GUARD, count * sizeof *want);
        for (int c = 0; c < channels + GUARD; c++) sums[c] = NAN;
        effnet_onednn_silu_sums(row + GUARD, width, channels, sums);
        for (size_t i = 0; i < count; i++) check((double)row[GUARD + i], (double)want[i], RELATIVE);
        for (int c = 0; c < channels; c++) {
            double sum = 0, size = 0;
            for (int x = 0; x < width; x++) {
                const double value = (double)row[GUARD + x * channels + c];
                sum += value;
                size += fabs(value);
            }
            if (!(fabs((double)sums[c] - sum) <= 2e-6 * size))
                fail_msg("%d x %d, channel %d: %g, expected %g", width, channels, c, (double)sums[c], sum);
            gate[c] = random_float(&random, 1);
        }
        for (int c = channels; c < channels + GUARD; c++) assert_true(isnan(sums[c]));
        memcpy(want, row + GUARD, count * sizeof *want);
        effnet_onednn_gate(row + GUARD, gate, (size_t)width, channels);
        for (size_t i = 0; i < count; i++)
            assert_true(row[GUARD + i] == want[i] * gate[i % (size_t)channels]);
        assert_memory_equal(row, before, sizeof before);
        assert_memory_equal(row + GUARD + count, behind, sizeof behind);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_range),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_rows),
    };
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        printf("this processor has no AVX2\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

#include <stdio.h>

int main(void)
{
    printf("this build has no SiLU of its own\n");
    return 77;
}

#endif
