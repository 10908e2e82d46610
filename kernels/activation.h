/* What a layer does to each of its sums. */
#ifndef EFFNET_KERNELS_ACTIVATION_H
#define EFFNET_KERNELS_ACTIVATION_H

#include <math.h>
#include <stdbool.h>

/* In the order of enum effnet_activation. */
enum activation {
    ACTIVATION_NONE,
    ACTIVATION_RELU,
    ACTIVATION_RELU6,
    ACTIVATION_SILU,      /* v / (1 + e^-v) */
    ACTIVATION_GELU,      /* v * Phi(v), by erf */
    ACTIVATION_GELU_RELU, /* max(GELU(v), 0): v * Phi(v) for v > 0, else 0 */
    ACTIVATION_SIGMOID,   /* 1 / (1 + e^-v) */
    ACTIVATION_HARDSWISH, /* v * clamp(v + 3, 0, 6) / 6 */
    ACTIVATION_TANH,
    ACTIVATION_COUNT
};

static inline bool activation_is_relu(enum activation activation)
{
    return activation == ACTIVATION_RELU || activation == ACTIVATION_RELU6;
}

/* Gives the bounds of an activation that is a clamp; false for the others. */
static inline bool activation_clamp(enum activation activation, float *low, float *high)
{
    *low = activation == ACTIVATION_NONE ? -INFINITY : 0.0f;
    *high = activation == ACTIVATION_RELU6 ? 6.0f : INFINITY;
    return activation == ACTIVATION_NONE || activation_is_relu(activation);
}

#endif
