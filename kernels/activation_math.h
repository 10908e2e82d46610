/* The activations' mathematics, as functions that compile for the GPU and, unchanged, as C for the host,
 * where tests/test_erf.c sweeps them against double precision. fp32 throughout.
 *
 * The polynomials are minimax fits made for this project (weighted by what an error in the exponent does to
 * the result), rounded to fp32 and checked over every binade: see docs/linear.md. */
#ifndef EFFNET_KERNELS_ACTIVATION_MATH_H
#define EFFNET_KERNELS_ACTIVATION_MATH_H

#ifdef __CUDACC__
#define ACTIVATION_MATH static __device__ __forceinline__
/* One instruction, relative error 2^-22.5 at most; subnormal results become 0. */
#define ACTIVATION_EXP2(x)      ptx::exp2_approx(x)
#define ACTIVATION_DIVIDE(a, b) __fdividef(a, b)
#include "ptx.cuh"
#else
#include <math.h>
#define ACTIVATION_MATH         static inline
#define ACTIVATION_EXP2(x)      exp2f(x)
#define ACTIVATION_DIVIDE(a, b) ((a) / (b))
#endif

/* g's coefficients in activation_phi_rest, by powers of x. */
#define ACTIVATION_PHI_7 2.8349123e-6f
#define ACTIVATION_PHI_6 (-3.9377686e-5f)
#define ACTIVATION_PHI_5 1.8618022e-4f
#define ACTIVATION_PHI_4 1.3693640e-4f
#define ACTIVATION_PHI_3 (-7.0634200e-3f)
#define ACTIVATION_PHI_2 5.2496180e-2f
#define ACTIVATION_PHI_1 4.5920819e-1f
#define ACTIVATION_PHI_0 1.1511052f

/* 1 - Phi(x) for x >= 0, NaN for NaN, Phi being the standard normal distribution function: 2^(-1 - x g(x)),
 * where g is smooth and grows, so that no bound on x is needed. 1 less this is Phi within 2 ulp. For a
 * negative x: undefined. */
ACTIVATION_MATH float activation_phi_rest(float x)
{
    float g = fmaf(ACTIVATION_PHI_7, x, ACTIVATION_PHI_6);
    g = fmaf(g, x, ACTIVATION_PHI_5);
    g = fmaf(g, x, ACTIVATION_PHI_4);
    g = fmaf(g, x, ACTIVATION_PHI_3);
    g = fmaf(g, x, ACTIVATION_PHI_2);
    g = fmaf(g, x, ACTIVATION_PHI_1);
    g = fmaf(g, x, ACTIVATION_PHI_0);
    return ACTIVATION_EXP2(fmaf(-g, x, -1.0f));
}

/* max(GELU(x), 0), which is x Phi(x) for x > 0 and 0 for other numbers; a NaN and +infinity stay. */
ACTIVATION_MATH float activation_gelu_relu(float x)
{
    if (!(x < INFINITY)) return x;
    const float v = fmaxf(x, 0.0f);
    return fmaf(-activation_phi_rest(v), v, v);
}

/* erf(x), within 2 ulp for every x: x + x p(x^2) near 0, and 1 - 2^(-|x| g(|x|)) further out. */
ACTIVATION_MATH float activation_erf(float x)
{
    const float a = fabsf(x), s = x * x;
    float p = 8.1850885e-5f;
    p = fmaf(p, s, -8.0977025e-4f);
    p = fmaf(p, s, 5.1969518e-3f);
    p = fmaf(p, s, -2.6857706e-2f);
    p = fmaf(p, s, 1.1283664e-1f);
    p = fmaf(p, s, -3.7612632e-1f);
    p = fmaf(p, s, 1.2837917e-1f);
    const float near_zero = fmaf(p, x, x);
    const float t = fminf(a, 4.0f); /* 1 - erf(4) is a quarter of an ulp */
    float g = -3.0714498e-4f;
    g = fmaf(g, t, 4.6251714e-3f);
    g = fmaf(g, t, -3.2981142e-2f);
    g = fmaf(g, t, 1.5179452e-1f);
    g = fmaf(g, t, 9.1719842e-1f);
    g = fmaf(g, t, 1.6280869f);
    const float far = copysignf(1.0f - ACTIVATION_EXP2(-g * t), x);
    return a > 0.95f ? far : near_zero; /* NaN takes the branch that keeps it */
}

/* x / (1 + e^-x). A large negative x gives -0: the divisor overflows, and the GPU's fast division gives 0
 * for a divisor above 2^126. */
ACTIVATION_MATH float activation_silu(float x)
{
    return ACTIVATION_DIVIDE(x, 1.0f + ACTIVATION_EXP2(-1.44269504f * x));
}

/* 1 / (1 + e^-x). A large negative x gives 0, as above. */
ACTIVATION_MATH float activation_sigmoid(float x)
{
    return ACTIVATION_DIVIDE(1.0f, 1.0f + ACTIVATION_EXP2(-1.44269504f * x));
}

/* x clamp(x + 3, 0, 6) / 6; NaN for NaN and -infinity, as of the formula. */
ACTIVATION_MATH float activation_hardswish(float x)
{
    return x * (fminf(fmaxf(x + 3.0f, 0.0f), 6.0f) * (1.0f / 6.0f)); /* so that nothing overflows */
}

/* tanh(x): x + x^3 p(x^2) near 0, and 1 - 2 / (1 + e^(2 |x|)) further out, where a divisor that overflows
 * gives 1. */
ACTIVATION_MATH float activation_tanh(float x)
{
    const float a = fabsf(x), s = x * x;
    float p = -5.8951569e-3f;
    p = fmaf(p, s, 2.0795971e-2f);
    p = fmaf(p, s, -5.3783830e-2f);
    p = fmaf(p, s, 1.3331924e-1f);
    p = fmaf(p, s, -3.3333299e-1f);
    const float near_zero = fmaf(p * s, x, x);
    const float far = copysignf(1.0f - ACTIVATION_DIVIDE(2.0f, 1.0f + ACTIVATION_EXP2(2.88539008f * a)), x);
    return a > 0.6f ? far : near_zero; /* NaN takes the branch that keeps it */
}

#endif
