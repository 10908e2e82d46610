/* What the tests share that count their checks: counting, exact comparison, and a bench line. */
#ifndef EFFNET_TESTS_GPU_SMALL_H
#define EFFNET_TESTS_GPU_SMALL_H

#include <stdarg.h>

#include "gpu.h"

static int passed, failed;

/* Counts one test; what went wrong is printed where it did not pass. */
static inline void __attribute__((format(printf, 2, 3))) expect(bool good, const char *format, ...)
{
    good ? passed++ : failed++;
    if (good) return;
    va_list arguments;
    va_start(arguments, format);
    printf("FAIL ");
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
}

/* The last line, and main's result. */
static inline int finish(void)
{
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}

/* Where `got` first differs in value from `want`, or count: zeros of either sign are equal, and so are NaNs.
 */
static inline size_t first_difference(const half *got, const half *want, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const float g = half_to_float(got[i]), w = half_to_float(want[i]);
        if (g != w && !(isnan(g) && isnan(w))) return i;
    }
    return count;
}

/* Median time of a launch with what it reads in the cache, as far as it fits; the rate of the fewest bytes;
 * that rate as a share of 4.27 TB/s, at which an H200 copies through its memory. */
static inline void bench_line(const char *name, cudaError_t (*launch)(void *, cudaStream_t), void *context,
                              double bytes)
{
    const double us = graph_time_us(launch, context, bytes > 1e8 ? 4 : 20, 9);
    printf("%-40s %9.2f us %8.1f GB/s %4.0f%% of a copy\n", name, us, bytes / us / 1e3, bytes / us / 4.27e4);
}

#endif
