/* Rows of a matrix in fp16 or fp32, to floats and back. */
#ifndef EFFNET_COMMON_ROWS_H
#define EFFNET_COMMON_ROWS_H

#include "effnet_linear.h"

size_t effnet_type_bytes(enum effnet_type type);

/* `rows` rows of `columns` elements, `ld` apart, as floats, `columns` apart. */
void effnet_rows_widen(const void *from, enum effnet_type type, int64_t rows, int64_t columns, int64_t ld,
                       float *to);
/* Floats, `columns` apart, to rows `ld` apart, rounded to `type`. */
void effnet_rows_narrow(const float *from, int64_t rows, int64_t columns, int64_t ld, enum effnet_type type,
                        void *to);

#endif
