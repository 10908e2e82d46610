/* common/half against the numbers that the bits mean, in double. */
#include "common/half.h"
#include "random.h"

#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { HALVES = 1 << 16, HALF_INFINITY = 0x7c00, RANDOM_COUNT = 2000000 };
static const uint64_t SEED = 20260207;

/* The value of a half without sign, where infinity counts as the number that would follow the largest. */
static double value_of(int magnitude)
{
    const int exponent = magnitude >> 10, fraction = magnitude & 0x3ff;
    return exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
}

/* The bits of the half that is nearest to v, which is no NaN, by search. */
static uint16_t nearest(double v)
{
    const uint16_t sign = signbit(v) ? 0x8000 : 0;
    const double size = fabs(v);
    int below = 0, above = HALF_INFINITY;
    if (size >= value_of(above)) return sign | HALF_INFINITY;
    while (above - below > 1) {
        const int between = (below + above) / 2;
        *(value_of(between) <= size ? &below : &above) = between;
    }
    const double middle = (value_of(below) + value_of(above)) / 2;
    const bool up = size > middle || (size == middle && (above & 1) == 0);
    return (uint16_t)(sign | (up ? above : below));
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void test_widen(void **unused)
{
    (void)unused;
    for (int i = 0; i < HALVES; i++) {
        const half h = {(uint16_t)i};
        const int magnitude = i & 0x7fff;
        const uint32_t sign = i & 0x8000 ? 0x80000000 : 0;
        const uint32_t got = bits_of(half_to_float(h));
        if (magnitude > HALF_INFINITY)
            assert_int_equal(got, sign | 0x7f800000 | (uint32_t)(magnitude & 0x3ff) << 13);
        else if (magnitude == HALF_INFINITY)
            assert_int_equal(got, sign | 0x7f800000);
        else
            assert_int_equal(got, sign | bits_of((float)value_of(magnitude)));
    }
}

/* v, by both functions where it is a float. */
static void check(double v)
{
    const uint16_t want = nearest(v), got = half_from_double(v).bits;
    if (got != want) fail_msg("%a as a double: %04x, not %04x", v, got, want);
    if ((double)(float)v != v) return;
    const uint16_t from_float = half_from_float((float)v).bits;
    if (from_float != want) fail_msg("%a as a float: %04x, not %04x", v, from_float, want);
}

/* v and what lies next to it among floats and doubles, of both signs. */
static void check_around(double v)
{
    const double list[] = {v, nextafter(v, 0), nextafter(v, INFINITY), (double)nextafterf((float)v, 0),
                           (double)nextafterf((float)v, INFINITY)};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) check(list[i]), check(-list[i]);
}

/* A double next to a middle becomes that middle as a float, and would then go the other way. */
static void test_narrow_halves_and_middles(void **unused)
{
    (void)unused;
    for (int i = 0; i < HALF_INFINITY; i++) {
        check_around(value_of(i));
        check_around((value_of(i) + value_of(i + 1)) / 2);
    }
    check_around(value_of(HALF_INFINITY));
}

static void test_narrow_extremes(void **unused)
{
    (void)unused;
    const double list[] = {0,       65504,   65519.99, 65520,    65536,     1e30,     (double)FLT_MAX,
                           DBL_MAX, FLT_MIN, DBL_MIN,  0x1p-25,  0x1p-149,  0x1p-150, 0x1.8p-150,
                           1e-300,  1e300,   5e-324,   INFINITY, 0x1p-1074, 0x1p128};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) check_around(list[i]);
    assert_int_equal(half_from_float(-0.0f).bits, 0x8000);
    assert_int_equal(half_from_double(-0.0).bits, 0x8000);
    assert_int_equal(half_from_double(-1e-300).bits, 0x8000);
}

static void test_narrow_random(void **unused)
{
    (void)unused;
    uint64_t state = random_seed("test_half", SEED);
    for (int i = 0; i < RANDOM_COUNT; i++) {
        const float any = float_of((uint32_t)random_next(&state));
        if (!isnan(any)) check((double)any);
        check(ldexp((double)random_float(&state, 1) + 0x1p-40 * (double)random_float(&state, 1),
                    random_int(&state, -30, 20)));
    }
}

/* Quiet, of the same sign, with the upper bits of the payload. */
static void test_narrow_nan(void **unused)
{
    (void)unused;
    for (uint32_t payload = 1; payload < 0x800000; payload = payload * 2 + 1)
        for (uint32_t sign = 0; sign < 2; sign++) {
            const float nan = float_of(sign << 31 | 0x7f800000 | payload);
            const uint32_t want = sign << 15 | 0x7e00 | payload >> 13;
            assert_int_equal(half_from_float(nan).bits, want);
            assert_int_equal(half_from_double((double)nan).bits, want);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_widen),           cmocka_unit_test(test_narrow_halves_and_middles),
        cmocka_unit_test(test_narrow_extremes), cmocka_unit_test(test_narrow_random),
        cmocka_unit_test(test_narrow_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
