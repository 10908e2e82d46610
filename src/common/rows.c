#include "common/rows.h"

#include "common/half.h"

size_t effnet_type_bytes(enum effnet_type type)
{
    return type == EFFNET_FP16 ? 2 : 4;
}

void effnet_rows_widen(const void *from, enum effnet_type type, int64_t rows, int64_t columns, int64_t ld,
                       float *to)
{
    for (int64_t i = 0; i < rows; i++, to += columns)
        if (type == EFFNET_FP16)
            for (int64_t j = 0; j < columns; j++) to[j] = half_to_float(((const half *)from)[i * ld + j]);
        else
            memcpy(to, (const float *)from + i * ld, (size_t)columns * sizeof *to);
}

void effnet_rows_narrow(const float *from, int64_t rows, int64_t columns, int64_t ld, enum effnet_type type,
                        void *to)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            if (type == EFFNET_FP16)
                ((half *)to)[i * ld + j] = half_from_float(from[i * columns + j]);
            else
                ((float *)to)[i * ld + j] = from[i * columns + j];
}
