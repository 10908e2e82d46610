/* Values in memory, float or bf16. */
#ifndef EFFNET_BACKEND_ONEDNN_VALUES_H
#define EFFNET_BACKEND_ONEDNN_VALUES_H

#include <dnnl.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t onednn_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* NaN stays one */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);                /* nearest, ties to even */
}

static inline float onednn_from_bf16(uint16_t value)
{
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

static inline void onednn_convert_in(const float *from, size_t count, dnnl_data_type_t type, void *to)
{
    if (type == dnnl_f32)
        memcpy(to, from, count * sizeof *from);
    else
        for (size_t i = 0; i < count; i++) ((uint16_t *)to)[i] = onednn_to_bf16(from[i]);
}

static inline void onednn_convert_out(const void *from, size_t count, dnnl_data_type_t type, float *to)
{
    if (type == dnnl_f32)
        memcpy(to, from, count * sizeof *to);
    else
        for (size_t i = 0; i < count; i++) to[i] = onednn_from_bf16(((const uint16_t *)from)[i]);
}

#endif
