/* What kernels do to a sum before they store it. A NaN stays one. */
#ifndef EFFNET_KERNELS_EPILOGUE_CUH
#define EFFNET_KERNELS_EPILOGUE_CUH

#include "activation.h"
#include "activation_math.h"
#include "ptx.cuh"

#include <type_traits>

namespace epilogue
{

/* Clamps that let a NaN through, unlike fminf and fmaxf. */
__device__ __forceinline__ float clamp(float value, float low, float high)
{
    return ptx::min_nan(ptx::max_nan(value, low), high);
}

__device__ __forceinline__ __half2 clamp(__half2 pair, __half2 low, __half2 high)
{
    return __hmin2_nan(__hmax2_nan(pair, low), high);
}

/* v / (1 + e^-v) for a result that is rounded to fp16: relative error below 2^-15. In as few instructions as
 * can be, five, for kernels whose arithmetic fills the issue slots. -infinity gives a NaN. */
__device__ __forceinline__ float silu_for_half(float v)
{
    return v * ptx::reciprocal_approx(1.0f + ptx::exp2_approx(-1.44269504f * v));
}

/* activation_gelu_relu(a), with the same bits except of a NaN, in predicated instructions, which are faster
 * beside wgmma than the same ones on zeros: docs/linear.md. The bits of a finite a >= 0 are, as an unsigned
 * number, less than infinity's; those of all other values are not. */
__device__ __forceinline__ float gelu_relu(float a)
{
    float v = ptx::max_nan(a, 0.0f), g = fmaf(v, -ACTIVATION_PHI_7, -ACTIVATION_PHI_6);
    asm("{\n\t"
        ".reg .pred finite;\n\t"
        "setp.lt.u32 finite, %2, 0x7f800000;\n\t"
        "@finite fma.rn.f32 %1, %1, %0, %3;\n\t"
        "@finite fma.rn.f32 %1, %1, %0, %4;\n\t"
        "@finite fma.rn.f32 %1, %1, %0, %5;\n\t"
        "@finite fma.rn.f32 %1, %1, %0, %6;\n\t"
        "@finite fma.rn.f32 %1, %1, %0, %7;\n\t"
        "@finite fma.rn.f32 %1, %1, %0, %8;\n\t"
        "@finite fma.rn.f32 %1, %1, %0, 0fBF800000;\n\t"
        "@finite ex2.approx.ftz.f32 %1, %1;\n\t"
        "neg.f32 %1, %1;\n\t"
        "@finite fma.rn.f32 %0, %1, %0, %0;\n\t"
        "}"
        : "+f"(v), "+f"(g)
        : "r"(__float_as_uint(a)), "f"(-ACTIVATION_PHI_5), "f"(-ACTIVATION_PHI_4), "f"(-ACTIVATION_PHI_3),
          "f"(-ACTIVATION_PHI_2), "f"(-ACTIVATION_PHI_1), "f"(-ACTIVATION_PHI_0));
    return v;
}

/* SiLU of both: x / (1 + e^-x). The exponential and the reciprocal run on the unit that makes one of 16
 * values a clock on an SM, and a layer that does little but write its output waits for it. So two values
 * share a reciprocal: 1 / a is b / (a b). From -40 down, where silu is 0 in fp16, x is taken as -40, or a b
 * would overflow. A NaN stays one, and does not reach the other value. */
__device__ __forceinline__ void silu_pair(float &x, float &y)
{
    constexpr float LOWEST = -40.0f;
    const float a = 1.0f + ptx::exp2_approx(-1.44269504f * fmaxf(x, LOWEST)); /* of a NaN: of LOWEST */
    const float b = 1.0f + ptx::exp2_approx(-1.44269504f * fmaxf(y, LOWEST));
    const float r = ptx::reciprocal_approx(a * b);
    x = ptx::max_nan(x, LOWEST) * (r * b);
    y = ptx::max_nan(y, LOWEST) * (r * a);
}

/* act(v); a NaN stays one. */
template <int ACTIVATION> __device__ __forceinline__ float activate(float v)
{
    if constexpr (ACTIVATION == ACTIVATION_RELU) v = ptx::max_nan(v, 0.0f);
    if constexpr (ACTIVATION == ACTIVATION_RELU6) v = clamp(v, 0.0f, 6.0f);
    if constexpr (ACTIVATION == ACTIVATION_SILU) v = activation_silu(v);
    if constexpr (ACTIVATION == ACTIVATION_GELU) {
        const float half = 0.5f * v;
        v = fmaf(half, activation_erf(0.70710678f * v), half);
    }
    if constexpr (ACTIVATION == ACTIVATION_GELU_RELU) v = gelu_relu(v);
    if constexpr (ACTIVATION == ACTIVATION_SIGMOID) v = activation_sigmoid(v);
    if constexpr (ACTIVATION == ACTIVATION_HARDSWISH) v = activation_hardswish(v);
    if constexpr (ACTIVATION == ACTIVATION_TANH) v = activation_tanh(v);
    return v;
}

/* Calls f with the activation as a constant: in f(auto a), decltype(a)::value. LAST: the last activation that
 * the caller can meet, GELU_RELU or one behind it. */
#pragma nv_exec_check_disable
template <int LAST, class F>
__host__ __device__ __forceinline__ auto for_activation(int activation, const F &f)
{
    static_assert(LAST >= ACTIVATION_GELU_RELU && LAST < ACTIVATION_COUNT,
                  "code for the others is always there");
    switch (activation) {
    case ACTIVATION_NONE: return f(std::integral_constant<int, ACTIVATION_NONE>());
    case ACTIVATION_RELU: return f(std::integral_constant<int, ACTIVATION_RELU>());
    case ACTIVATION_RELU6: return f(std::integral_constant<int, ACTIVATION_RELU6>());
    case ACTIVATION_SILU: return f(std::integral_constant<int, ACTIVATION_SILU>());
    case ACTIVATION_GELU: return f(std::integral_constant<int, ACTIVATION_GELU>());
    case ACTIVATION_SIGMOID:
        if constexpr (LAST >= ACTIVATION_SIGMOID) return f(std::integral_constant<int, ACTIVATION_SIGMOID>());
        break;
    case ACTIVATION_HARDSWISH:
        if constexpr (LAST >= ACTIVATION_HARDSWISH)
            return f(std::integral_constant<int, ACTIVATION_HARDSWISH>());
        break;
    case ACTIVATION_TANH:
        if constexpr (LAST >= ACTIVATION_TANH) return f(std::integral_constant<int, ACTIVATION_TANH>());
        break;
    }
    return f(std::integral_constant<int, ACTIVATION_GELU_RELU>());
}

/* activate with an activation that is not a constant. */
template <int LAST> __device__ __forceinline__ float activate_any(int activation, float v)
{
    return for_activation<LAST>(activation, [&](auto a) { return activate<decltype(a)::value>(v); });
}

} // namespace epilogue

#endif
