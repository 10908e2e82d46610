/* What the kernel of expand_depthwise and the packing of its weights agree on (expand_depthwise.h). */
#ifndef EFFNET_KERNELS_EXPAND_DEPTHWISE_CUH
#define EFFNET_KERNELS_EXPAND_DEPTHWISE_CUH

#include "expand_depthwise.h"

#include <cuda_fp16.h>
#include <stdint.h>

namespace expand_depthwise
{

/* A row of a channel's window as pairs of neighbouring weights w[kx], w[kx + 1], from kx = FIRST_TAP on, each
 * the sum of two fp16 numbers. Weights outside the window are 0. So the first and the last pair are 0, which
 * stands for all that lie further out. */
constexpr int FIRST_TAP = -2, TAP_PAIRS = 8;

struct tap_row {
    __half2 high[TAP_PAIRS], low[TAP_PAIRS];
};
static_assert(sizeof(tap_row) == 64 && FIRST_TAP + TAP_PAIRS - 1 == 5, "holds a row of a 5x5 window");

} // namespace expand_depthwise

#endif
