/* AVX2. Its only product of bytes (vpmaddubsw) saturates sums of two, so bytes are widened to 16 bits and
 * multiplied by vpmaddwd, which adds two products in 32 bits: exact, and still twice as many multiply-adds an
 * instruction as in fp32.
 *
 *   dense      weights [group][depth / 2][16 outputs][2]; rows widened to 16 bits in the scratch memory;
 *              4 rows by 16 outputs in 8 accumulators
 *   depthwise  16 channels at a time. A column of the window is interleaved, two of its rows together, and
 *              then multiplied for each output that it is part of: those are under way in `slots`.
 *              weights [block][kernel][row pairs][2 vectors][8 channels][2 rows] */
#include "backend/int8/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define TARGET "avx2,fma"
#define AVX2   __attribute__((target(TARGET)))
#define INLINE static inline __attribute__((always_inline, target(TARGET)))

enum { ROWS = 4, BLOCK = 16 };

static bool supported(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static size_t pairs_of(int depth)
{
    return ((size_t)depth + 1) / 2;
}

static size_t dense_bytes(int depth, int outputs)
{
    return (size_t)int8_groups(outputs) * pairs_of(depth) * 2 * INT8_GROUP * sizeof(int16_t);
}

static size_t dense_scratch(int depth, int rows)
{
    return (size_t)rows * pairs_of(depth) * 2 * sizeof(int16_t) + INT8_SLACK;
}

static void pack_dense(int depth, int outputs, const int8_t *weights, void *packed)
{
    int16_t *to = packed;
    for (int g = 0; g < int8_groups(outputs); g++)
        for (int k = 0; k < depth; k += 2)
            for (int o = g * INT8_GROUP; o < (g + 1) * INT8_GROUP; o++)
                for (int i = k; i < k + 2; i++)
                    *to++ = o < outputs && i < depth ? weights[(size_t)o * (size_t)depth + (size_t)i] : 0;
}

/* The rows in 16 bits, each filled up to an even number. */
AVX2 static void widen(const uint8_t *in, int rows, int depth, int16_t *to)
{
    const size_t stride = pairs_of(depth) * 2;
    for (int r = 0; r < rows; r++, in += depth, to += stride)
        for (int k = 0; k < depth; k += 16) /* what is written past the row's end, the next row replaces */
            _mm256_storeu_si256((__m256i *)(to + k),
                                _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(in + k))));
}

/* The empty asm keeps the compiler from loading all operands first, for which there are no registers. */
INLINE __m256i add_products(__m256i sums, __m256i x, __m256i w)
{
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(x, w));
    __asm__("" : "+x"(sums));
    return sums;
}

INLINE __m256 exp_minus(__m256 x)
{
    const __m256 limit = _mm256_set1_ps(INT8_EXP_LIMIT), lower = _mm256_set1_ps(-INT8_EXP_LIMIT);
    const __m256 t = _mm256_min_ps(limit, _mm256_max_ps(lower, _mm256_sub_ps(_mm256_setzero_ps(), x)));
    const __m256i n = _mm256_cvtps_epi32(_mm256_mul_ps(t, _mm256_set1_ps(INT8_LOG2_E)));
    const __m256 whole = _mm256_cvtepi32_ps(n);
    __m256 r = _mm256_fmadd_ps(whole, _mm256_set1_ps(INT8_MINUS_LN2), t);
    r = _mm256_fmadd_ps(whole, _mm256_set1_ps(INT8_MINUS_LN2B), r);
    __m256 sum = _mm256_set1_ps(int8_exp_terms[0]);
    for (int i = 1; i < INT8_EXP_TERMS; i++) sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(int8_exp_terms[i]));
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(sum, _mm256_castsi256_ps(power));
}

INLINE __m256 activate(enum effnet_activation activation, __m256 f)
{
    const __m256 one = _mm256_set1_ps(1), zero = _mm256_setzero_ps();
    switch (activation) {
    case EFFNET_ACT_RELU: return _mm256_max_ps(f, zero);
    case EFFNET_ACT_RELU6: return _mm256_min_ps(_mm256_max_ps(f, zero), _mm256_set1_ps(6));
    case EFFNET_ACT_SILU: return _mm256_div_ps(f, _mm256_add_ps(one, exp_minus(f)));
    case EFFNET_ACT_SIGMOID: return _mm256_div_ps(one, _mm256_add_ps(one, exp_minus(f)));
    default: return f;
    }
}

/* Eight sums as rounded output steps, of the channels at `first` and behind it in end's arrays, whose
 * multipliers are in `multiplier`. curved, a constant where it is called: there are out_multipliers.
 * residual: the eight bytes that are added, or NULL. */
INLINE __m256i steps_of(const struct int8_end *end, bool curved, __m256i sums, __m256 multiplier, int first,
                        const uint8_t *residual)
{
    __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), multiplier);
    if (curved) {
        const __m256 factor = _mm256_loadu_ps(end->out_multiplier + first);
        f = _mm256_mul_ps(activate(end->activation, f), factor);
        f = _mm256_min_ps(_mm256_set1_ps(INT8_MOST_STEPS), f);
    }
    if (residual) {
        const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)residual));
        const __m256i added = _mm256_sub_epi32(bytes, _mm256_set1_epi32(end->residual_zero));
        f = _mm256_fmadd_ps(_mm256_cvtepi32_ps(added), _mm256_set1_ps(end->residual_multiplier), f);
    }
    return _mm256_cvtps_epi32(f);
}

/* Sixteen output steps, two vectors whose halves packs_epi32 brings into order, as bytes. */
INLINE __m128i bytes_of(const struct int8_end *end, __m256i steps)
{
    steps = _mm256_adds_epi16(steps, _mm256_set1_epi16((short)end->zero));
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(steps), _mm256_extracti128_si256(steps, 1));
    return _mm_min_epu8(_mm_max_epu8(bytes, _mm_set1_epi8((char)end->low)), _mm_set1_epi8((char)end->high));
}

/* Sixteen output steps in their order, in 16 bits, the first `count` of which there are. */
INLINE void store_wide(const struct int8_end *end, uint16_t *out, __m256i a, __m256i b, int count)
{
    uint16_t all[16];
    const __m256i zero = _mm256_set1_epi32(end->zero);
    __m256i steps = _mm256_packs_epi32(_mm256_add_epi32(a, zero), _mm256_add_epi32(b, zero));
    steps = _mm256_permute4x64_epi64(steps, 0xd8);
    steps = _mm256_max_epi16(steps, _mm256_set1_epi16((short)end->low));
    steps = _mm256_min_epi16(steps, _mm256_set1_epi16((short)end->high));
    _mm256_storeu_si256((__m256i *)all, steps);
    memcpy(out, all, sizeof *out * (size_t)count);
}

INLINE void store_bytes(uint8_t *out, __m128i bytes, int count)
{
    uint8_t all[16];
    if (count >= 16) {
        _mm_storeu_si128((__m128i *)out, bytes);
    } else {
        _mm_storeu_si128((__m128i *)all, bytes);
        memcpy(out, all, (size_t)count);
    }
}

INLINE void store_floats(const struct int8_end *end, float *out, __m256i sums, __m256 multiplier, int count)
{
    float all[8];
    _mm256_storeu_ps(all, activate(end->activation, _mm256_mul_ps(_mm256_cvtepi32_ps(sums), multiplier)));
    if (count > 0) memcpy(out, all, sizeof(float) * (size_t)(count < 8 ? count : 8));
}

/* The sums of one row and a group of 16 outputs, the first `count` of which there are. */
INLINE void finish(const struct int8_end *end, bool curved, int first, int count, __m256i a, __m256i b,
                   const uint8_t *residual, void *out, size_t at)
{
    const __m256 low = _mm256_loadu_ps(end->multiplier + first);
    const __m256 high = _mm256_loadu_ps(end->multiplier + first + 8);
    if (end->floats) {
        store_floats(end, (float *)out + at, a, low, count);
        store_floats(end, (float *)out + at + 8, b, high, count - 8);
        return;
    }
    a = steps_of(end, curved, a, low, first, residual ? residual + at : NULL);
    b = steps_of(end, curved, b, high, first + 8, residual ? residual + at + 8 : NULL);
    if (end->wide)
        store_wide(end, (uint16_t *)out + at, a, b, count);
    else
        store_bytes((uint8_t *)out + at,
                    bytes_of(end, _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8)), count);
}

/* `rows` rows, 1 or ROWS, by one group. */
INLINE void tile(const struct int8_dense *d, bool curved, const int16_t *x, int rows, int group,
                 const uint8_t *residual, void *out, size_t first_row)
{
    const size_t pairs = pairs_of(d->depth);
    const __m256i *w = (const __m256i *)d->weights + (size_t)group * pairs * 2;
    const int first = group * INT8_GROUP;
    const int count = d->outputs - first < INT8_GROUP ? d->outputs - first : INT8_GROUP;
    __m256i a[ROWS], b[ROWS];
    for (int r = 0; r < rows; r++) {
        a[r] = _mm256_loadu_si256((const __m256i *)(d->end.start + first));
        b[r] = _mm256_loadu_si256((const __m256i *)(d->end.start + first + 8));
    }
    for (size_t k = 0; k < pairs; k++) {
        const __m256i w0 = _mm256_loadu_si256(w + 2 * k), w1 = _mm256_loadu_si256(w + 2 * k + 1);
        for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, x + ((size_t)r * pairs + k) * 2, sizeof pair);
            const __m256i both = _mm256_set1_epi32(pair);
            a[r] = add_products(a[r], both, w0);
            b[r] = add_products(b[r], both, w1);
        }
    }
    for (int r = 0; r < rows; r++)
        finish(&d->end, curved, first, count, a[r], b[r], residual, out,
               (first_row + (size_t)r) * (size_t)d->outputs + (size_t)first);
}

/* All rows by one group. */
INLINE void tiles(const struct int8_dense *d, bool curved, const int16_t *x, int rows, int group,
                  const uint8_t *residual, void *out)
{
    const size_t stride = pairs_of(d->depth) * 2;
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        tile(d, curved, x + (size_t)r * stride, ROWS, group, residual, out, (size_t)r);
    for (; r < rows; r++) tile(d, curved, x + (size_t)r * stride, 1, group, residual, out, (size_t)r);
}

AVX2 static void dense(const struct int8_dense *d, const uint8_t *in, int rows, int first_group,
                       int end_group, const uint8_t *residual, void *out, void *scratch)
{
    int16_t *x = scratch;
    widen(in, rows, d->depth, x);
    for (int g = first_group; g < end_group; g++) {
        if (d->end.out_multiplier)
            tiles(d, true, x, rows, g, residual, out);
        else
            tiles(d, false, x, rows, g, residual, out);
    }
}

/* ---------------------------------------------------------------- depthwise */

static bool has_depthwise(const struct effnet_layer *layer)
{
    return (layer->kernel == 3 || layer->kernel == 5) && layer->stride <= 2 && layer->residual < 0 &&
           layer->integer->out_most == EFFNET_MOST_BYTE;
}

/* unpack puts channels 0 to 3 and 8 to 11 into the first vector. */
static int place(int at, bool wide)
{
    (void)wide;
    return at % 4 + at / 8 * 4 + at / 4 % 2 * 8;
}

static int row_pairs(int kernel)
{
    return (kernel + 1) / 2;
}

static size_t depthwise_bytes(int channels, int kernel, bool wide)
{
    (void)wide;
    return (size_t)((channels + BLOCK - 1) / BLOCK) * (size_t)(kernel * row_pairs(kernel)) * BLOCK * 2 *
           sizeof(int16_t);
}

static void pack_depthwise(int channels, int kernel, bool wide, const int8_t *weights, void *packed)
{
    int16_t *to = packed;
    memset(packed, 0, depthwise_bytes(channels, kernel, wide));
    for (int first = 0; first < channels; first += BLOCK)
        for (int kx = 0; kx < kernel; kx++, to += (size_t)row_pairs(kernel) * BLOCK * 2)
            for (int c = first; c < first + BLOCK && c < channels; c++)
                for (int ky = 0; ky < kernel; ky++)
                    to[(ky / 2 * BLOCK + place(c - first, wide)) * 2 + ky % 2] =
                        weights[(c * kernel + ky) * kernel + kx];
}

/* Sixteen steps in 16 bits. */
INLINE __m256i load_steps(const uint8_t *from, bool wide)
{
    return wide ? _mm256_loadu_si256((const __m256i *)from)
                : _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)from));
}

/* Rows a and b of a column, two by two: channels 0 to 3 and 8 to 11, and the others. b may be NULL: 0. */
INLINE void load_pair(const uint8_t *a, const uint8_t *b, bool wide, __m256i pair[2])
{
    const __m256i x = load_steps(a, wide), y = b ? load_steps(b, wide) : _mm256_setzero_si256();
    pair[0] = _mm256_unpacklo_epi16(x, y);
    pair[1] = _mm256_unpackhi_epi16(x, y);
}

/* One row of one block. rows: of the map, or NULL outside of it. Output x has the columns stride * x to
 * stride * x + kernel - 1, counted from the padding's first; slot i is output x - i. */
INLINE void depthwise_row(const struct int8_depthwise *d, const uint8_t *const *rows, int block, int kernel,
                          int stride, bool wide, bool curved, uint8_t *out)
{
    const uint8_t *zeros = d->zeros;
    enum { MOST_SLOTS = 5, MOST_PAIRS = 3 };
    const int slots = (kernel + stride - 1) / stride, pairs = (kernel + 1) / 2, first = block * BLOCK;
    const int count = d->channels - first < BLOCK ? d->channels - first : BLOCK;
    const __m256i *w = (const __m256i *)d->weights + (size_t)block * (size_t)(kernel * pairs * 2);
    const __m256i start0 = _mm256_loadu_si256((const __m256i *)(d->end.start + first));
    const __m256i start1 = _mm256_loadu_si256((const __m256i *)(d->end.start + first + 8));
    const __m256 low = _mm256_loadu_ps(d->end.multiplier + first);
    const __m256 high = _mm256_loadu_ps(d->end.multiplier + first + 8);
    __m256i sums[MOST_SLOTS][2];
    for (int i = 0; i < slots; i++) sums[i][0] = sums[i][1] = _mm256_setzero_si256();
    for (int x = 0; x < d->out_width + slots - 1; x++) {
        for (int i = slots - 1; i > 0; i--) {
            sums[i][0] = sums[i - 1][0];
            sums[i][1] = sums[i - 1][1];
        }
        sums[0][0] = start0;
        sums[0][1] = start1;
        for (int c = 0; c < stride; c++) {
            const int ix = x * stride + c - d->pad_left;
            const bool inside = ix >= 0 && ix < d->in_width;
            const size_t at = ((inside ? (size_t)ix * (size_t)d->channels : 0) + (size_t)first) << wide;
            const uint8_t *from[2 * MOST_PAIRS];
            for (int ky = 0; ky < kernel; ky++)
                from[ky] = inside && rows[ky] ? rows[ky] + at : zeros + ((size_t)first << wide);
            for (int p = 0; p < pairs; p++) {
                __m256i pair[2];
                load_pair(from[2 * p], 2 * p + 1 < kernel ? from[2 * p + 1] : NULL, wide, pair);
                for (int i = 0; i < slots; i++) {
                    const int kx = i * stride + c;
                    if (kx >= kernel) continue;
                    const __m256i *taps = w + (kx * pairs + p) * 2;
                    sums[i][0] = add_products(sums[i][0], pair[0], _mm256_loadu_si256(taps));
                    sums[i][1] = add_products(sums[i][1], pair[1], _mm256_loadu_si256(taps + 1));
                }
            }
        }
        if (x < slots - 1) continue;
        const __m256i steps = _mm256_packs_epi32(
            steps_of(&d->end, curved, sums[slots - 1][0], low, first, NULL),
            steps_of(&d->end, curved, sums[slots - 1][1], high, first + 8, NULL));
        store_bytes(out + (size_t)(x - slots + 1) * (size_t)d->channels + first, bytes_of(&d->end, steps),
                    count);
    }
}

/* All kinds of rows, each compiled for its own. */
INLINE void depthwise_any_row(const struct int8_depthwise *d, const uint8_t *const *rows, int block,
                              bool wide, bool curved, uint8_t *out)
{
    if (d->kernel == 3 && d->stride == 1)
        depthwise_row(d, rows, block, 3, 1, wide, curved, out);
    else if (d->kernel == 3)
        depthwise_row(d, rows, block, 3, 2, wide, curved, out);
    else if (d->stride == 1)
        depthwise_row(d, rows, block, 5, 1, wide, curved, out);
    else
        depthwise_row(d, rows, block, 5, 2, wide, curved, out);
}

AVX2 static void depthwise(const struct int8_depthwise *d, const void *map, int first_row, int end_row,
                           int first_block, int end_block, const uint8_t *residual, void *out)
{
    const size_t row_bytes = ((size_t)d->in_width * (size_t)d->channels) << d->wide;
    (void)residual;
    for (int y = first_row; y < end_row; y++) {
        const uint8_t *rows[5];
        for (int ky = 0; ky < d->kernel; ky++) {
            const int iy = y * d->stride + ky - d->pad_top;
            const bool inside = iy >= 0 && iy < d->in_height;
            rows[ky] = inside ? (const uint8_t *)map + (size_t)iy * row_bytes : NULL;
        }
        uint8_t *row = (uint8_t *)out + (size_t)y * (size_t)d->out_width * (size_t)d->channels;
        for (int b = first_block; b < end_block; b++) {
            if (d->wide && d->end.out_multiplier)
                depthwise_any_row(d, rows, b, true, true, row);
            else if (d->wide)
                depthwise_any_row(d, rows, b, true, false, row);
            else if (d->end.out_multiplier)
                depthwise_any_row(d, rows, b, false, true, row);
            else
                depthwise_any_row(d, rows, b, false, false, row);
        }
    }
}

/* ---------------------------------------------------------------- scale */

INLINE __m256i scaled(const struct int8_end *end, __m128i bytes, int zero, const float *factors, int c)
{
    const __m256i steps = _mm256_sub_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_set1_epi32(zero));
    const __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(steps), _mm256_loadu_ps(factors + c));
    return _mm256_cvtps_epi32(_mm256_mul_ps(product, _mm256_loadu_ps(end->multiplier + c)));
}

AVX2 static void scale(const struct int8_end *end, const uint8_t *map, int zero, const float *factors,
                       int pixels, int channels, void *out)
{
    uint8_t *to = out;
    for (int p = 0; p < pixels; p++, map += channels, to += channels)
        for (int c = 0; c < channels; c += 16) {
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(map + c));
            const __m256i steps = _mm256_packs_epi32(
                scaled(end, bytes, zero, factors, c),
                scaled(end, _mm_unpackhi_epi64(bytes, bytes), zero, factors, c + 8));
            store_bytes(to + c, bytes_of(end, _mm256_permute4x64_epi64(steps, 0xd8)), channels - c);
        }
}

const struct int8_kernels int8_avx2 = {
    .name = "avx2",
    .supported = supported,
    .dense_bytes = dense_bytes,
    .dense_scratch = dense_scratch,
    .pack_dense = pack_dense,
    .dense = dense,
    .has_depthwise = has_depthwise,
    .block = BLOCK,
    .place = place,
    .depthwise_bytes = depthwise_bytes,
    .pack_depthwise = pack_depthwise,
    .depthwise = depthwise,
    .scale = scale,
};
#endif
