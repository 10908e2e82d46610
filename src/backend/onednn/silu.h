/* SiLU and what squeeze-and-excite does to maps, fp32, on what a strip has just left in the cache. All of it
 * wants AVX2 and FMA. */
#ifndef EFFNET_BACKEND_ONEDNN_SILU_H
#define EFFNET_BACKEND_ONEDNN_SILU_H

#include <stddef.h>

/* In place. */
void effnet_onednn_silu(float *values, size_t count);

/* The same for one row, [width][channels]; sums[channels] becomes the row's sums. */
void effnet_onednn_silu_sums(float *row, int width, int channels, float *sums);

/* values[p][c] *= gate[c]. */
void effnet_onednn_gate(float *values, const float *restrict gate, size_t pixels, int channels);

#endif
