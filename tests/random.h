/* Seeded random numbers for tests: SplitMix64 (Steele, Lea and Flood, 2014). */
#ifndef EFFNET_TESTS_RANDOM_H
#define EFFNET_TESTS_RANDOM_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* EFFNET_TEST_SEED where it is set, else `seed`; printed, so that a failure can be had again. */
static inline uint64_t random_seed(const char *what, uint64_t seed)
{
    const char *wanted = getenv("EFFNET_TEST_SEED");
    if (wanted) seed = strtoull(wanted, NULL, 0);
    printf("%s: EFFNET_TEST_SEED=%llu\n", what, (unsigned long long)seed);
    return seed;
}

static inline uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* A whole number in [low, high]. */
static inline int random_int(uint64_t *state, int low, int high)
{
    return low + (int)(random_next(state) % ((uint64_t)high - (uint64_t)low + 1));
}

/* Uniform in [-limit, limit). */
static inline float random_float(uint64_t *state, double limit)
{
    return (float)(((double)(random_next(state) >> 11) * 0x1p-53 * 2 - 1) * limit);
}

#endif
