/* Seeded random numbers for tests. */
#ifndef EFFNET_TESTS_RANDOM_H
#define EFFNET_TESTS_RANDOM_H

#include "common/random.h"

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

/* A whole number in [low, high]. */
static inline int random_int(uint64_t *state, int low, int high)
{
    return low + (int)(random_next(state) % ((uint64_t)high - (uint64_t)low + 1));
}

/* Uniform in [-limit, limit). */
static inline float random_float(uint64_t *state, double limit)
{
    return (float)((random_unit(state) * 2 - 1) * limit);
}

#endif
