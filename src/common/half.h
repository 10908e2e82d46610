/* IEEE 754 binary16 on the host. The bits are moved by integers: C compilers that know _Float16 are rare
 * before gcc 12, and these call a function for every conversion. Device code has CUDA's __half. */
#ifndef EFFNET_COMMON_HALF_H
#define EFFNET_COMMON_HALF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* A struct, so that no number becomes one, or is read from one, by an implicit conversion. */
typedef struct {
    uint16_t bits; /* sign, 5 bits of exponent (bias 15), 10 of fraction */
} half;

/* a where the condition (0 or 1) holds, else b. Without a branch, so that compilers make vectors of loops;
 * for the same reason integers are signed below: SSE2 compares no others. */
static inline int32_t half_select(int condition, int32_t a, int32_t b)
{
    return b ^ ((a ^ b) & -condition);
}

/* Exact. A NaN keeps its payload. Needs no subnormal float, so that flushing these to zero changes nothing.
 */
static inline float half_to_float(half from)
{
    const int32_t magnitude = from.bits & 0x7fff;
    const float scaled = (float)magnitude * 0x1p-24f; /* the value, where the half is subnormal */
    int32_t subnormal, normal = (magnitude << 13) + ((127 - 15) << 23);
    float value;
    memcpy(&subnormal, &scaled, sizeof subnormal);
    normal += half_select(magnitude >= 0x7c00, (128 - 16) << 23, 0); /* infinity, NaN: the largest exponent */
    const uint32_t bits = (uint32_t)half_select(magnitude < 0x0400, subnormal, normal) |
                          (uint32_t)(from.bits & 0x8000) << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To the nearest half, of two the even one; infinity from 65520 on. A NaN becomes a quiet one with the upper
 * bits of its payload. */
static inline half half_from_float(float value)
{
    uint32_t bits;
    int32_t subnormal;
    memcpy(&bits, &value, sizeof bits);
    const int32_t magnitude = (int32_t)(bits & 0x7fffffff);
    memcpy(&value, &magnitude, sizeof value);
    value += 0.5f; /* the last place of this sum, 2^-24, is the smallest half */
    memcpy(&subnormal, &value, sizeof subnormal);
    const int32_t nan = 0x7e00 | (magnitude >> 13 & 0x3ff);
    int32_t result = (magnitude - ((127 - 15) << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    result = half_select(magnitude < (127 - 14) << 23, subnormal - (126 << 23), result);
    result = half_select(magnitude >= (127 + 16) << 23, 0x7c00, result);
    result = half_select(magnitude > 0x7f800000, nan, result);
    return (half){(uint16_t)((uint32_t)result | (bits >> 16 & 0x8000))};
}

/* As half_from_float, rounded once. The float between has an odd last bit wherever it is not exact: so looks
 * no half and no middle of two, and the second rounding decides as the first would have (Boldo and Melquiond,
 * Emulation of a FMA and correctly rounded sums, 2008). */
static inline half half_from_double(double value)
{
    float odd = (float)value;
    const double rounded = odd;
    uint32_t bits;
    memcpy(&bits, &odd, sizeof bits);
    bits -= fabs(rounded) > fabs(value);
    bits |= rounded != value;
    memcpy(&odd, &bits, sizeof odd);
    return half_from_float(odd);
}

#endif
