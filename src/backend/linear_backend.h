/* One linear layer outside a network: what a backend implements for it. src/backend/linear.c checks the
 * arguments, picks the backend and calls through this table; nobody else does. */
#ifndef EFFNET_BACKEND_LINEAR_BACKEND_H
#define EFFNET_BACKEND_LINEAR_BACKEND_H

#include "effnet_linear.h"

enum { LINEAR_SIZE_END = 1 << 30 }; /* largest m, n and k */

struct linear_bench_state; /* each backend's own */

struct linear_backend {
    const char *name;
    /* As effnet_linear. The host's backends are given no stream. */
    int (*run)(const struct effnet_linear_args *args, void *stream, struct effnet_error *error);
    const char *kernel; /* of a host's backend: what runs, in words */

    /* As the functions effnet_linear_bench_*, arguments checked already. NULL: linear.c times `run` by the
     * wall clock. bench_open fills `info`, whose strings live as long as the state; *out is NULL on failure.
     */
    int (*bench_open)(const struct effnet_linear_args *args, int device_index, bool cold, int calls,
                      struct linear_bench_state **out, struct effnet_linear_bench_info *info,
                      struct effnet_error *error);
    void (*bench_close)(struct linear_bench_state *state);
    int (*bench_rows)(struct linear_bench_state *state, const int64_t *rows, int count, float *y,
                      struct effnet_error *error);
    int (*bench_time)(struct linear_bench_state *state, double *elapsed_us, struct effnet_error *error);
};

extern const struct linear_backend linear_reference;
extern const struct linear_backend linear_onednn;
extern const struct linear_backend linear_cuda;

#endif
