/* The depthwise weights of expand_depthwise in the order of its kernel, on the host. */
#include "expand_depthwise.cuh"

using namespace expand_depthwise;

namespace
{

struct parts {
    __half high, low;
};

/* Of the weight at kx, which may lie outside the row. */
parts split(const float *row, int kernel, int kx)
{
    const float w = kx >= 0 && kx < kernel ? row[kx] : 0.0f;
    const __half high = __float2half_rn(w);
    return {high, __float2half_rn(w - __half2float(high))};
}

} // namespace

bool expand_depthwise_weights_fit(const float *w, int channels, int kernel)
{
    constexpr float LARGEST = 65504.0f; /* in fp16 */
    for (int i = 0; i < channels * kernel * kernel; i++)
        if (!(fabsf(w[i]) <= LARGEST)) return false;
    return true;
}

size_t expand_depthwise_packed_bytes(int channels, int kernel)
{
    return static_cast<size_t>(channels) * static_cast<size_t>(kernel) * sizeof(tap_row);
}

void expand_depthwise_pack(const float *w, int channels, int kernel, void *packed)
{
    tap_row *to = static_cast<tap_row *>(packed);
    for (int row = 0; row < channels * kernel; row++, w += kernel, to++)
        for (int i = 0; i < TAP_PAIRS; i++) {
            const parts a = split(w, kernel, FIRST_TAP + i), b = split(w, kernel, FIRST_TAP + i + 1);
            to->high[i] = __halves2half2(a.high, b.high), to->low[i] = __halves2half2(a.low, b.low);
        }
}
