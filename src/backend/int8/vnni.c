/* AVX-512 with VNNI: vpdpbusd multiplies four bytes with four signed ones and adds all to 32 bits, exactly.
 *
 *   dense      weights [group][depth / 4][16 outputs][4]; rows are read as they are; 6 to 12 rows by 64 to 16
 *              outputs in 24 accumulators or fewer
 *   depthwise  64 channels at a time. A column of the window is interleaved, four of its rows together, and
 *              then multiplied for each output that it is part of: those are under way in `slots`.
 *              weights [block][kernel][row quads][4 vectors][16 channels][4 rows] */
#include "backend/int8/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define TARGET "avx512f,avx512bw,avx512vl,avx512vnni"
#define VNNI   __attribute__((target(TARGET)))
#define INLINE static inline __attribute__((always_inline, target(TARGET)))

enum { BLOCK = 64, MOST_ROWS = 12, MOST_GROUPS = 4 };

static bool supported(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

static size_t quads_of(int depth)
{
    return ((size_t)depth + 3) / 4;
}

static size_t dense_bytes(int depth, int outputs)
{
    return (size_t)int8_groups(outputs) * quads_of(depth) * 4 * INT8_GROUP;
}

static size_t dense_scratch(int depth, int rows)
{
    (void)depth;
    (void)rows;
    return 0;
}

static void pack_dense(int depth, int outputs, const int8_t *weights, void *packed)
{
    int8_t *to = packed;
    for (int g = 0; g < int8_groups(outputs); g++)
        for (int k = 0; k < depth; k += 4)
            for (int o = g * INT8_GROUP; o < (g + 1) * INT8_GROUP; o++)
                for (int i = k; i < k + 4; i++)
                    *to++ = o < outputs && i < depth ? weights[(size_t)o * (size_t)depth + (size_t)i] : 0;
}

INLINE __m512 exp_minus(__m512 x)
{
    const __m512 limit = _mm512_set1_ps(INT8_EXP_LIMIT), lower = _mm512_set1_ps(-INT8_EXP_LIMIT);
    const __m512 t = _mm512_min_ps(limit, _mm512_max_ps(lower, _mm512_sub_ps(_mm512_setzero_ps(), x)));
    const __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(t, _mm512_set1_ps(INT8_LOG2_E)));
    const __m512 whole = _mm512_cvtepi32_ps(n);
    __m512 r = _mm512_fmadd_ps(whole, _mm512_set1_ps(INT8_MINUS_LN2), t);
    r = _mm512_fmadd_ps(whole, _mm512_set1_ps(INT8_MINUS_LN2B), r);
    __m512 sum = _mm512_set1_ps(int8_exp_terms[0]);
    for (int i = 1; i < INT8_EXP_TERMS; i++) sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(int8_exp_terms[i]));
    const __m512i power = _mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23);
    return _mm512_mul_ps(sum, _mm512_castsi512_ps(power));
}

INLINE __m512 activate(enum effnet_activation activation, __m512 f)
{
    const __m512 one = _mm512_set1_ps(1), zero = _mm512_setzero_ps();
    switch (activation) {
    case EFFNET_ACT_RELU: return _mm512_max_ps(f, zero);
    case EFFNET_ACT_RELU6: return _mm512_min_ps(_mm512_max_ps(f, zero), _mm512_set1_ps(6));
    case EFFNET_ACT_SILU: return _mm512_div_ps(f, _mm512_add_ps(one, exp_minus(f)));
    case EFFNET_ACT_SIGMOID: return _mm512_div_ps(one, _mm512_add_ps(one, exp_minus(f)));
    default: return f;
    }
}

/* Sixteen sums as rounded output steps, of the channels at `first` and behind it in end's arrays.
 * curved, a constant where it is called: there are out_multipliers. residual: the sixteen bytes that are
 * added, or NULL. */
INLINE __m512i steps_of(const struct int8_end *end, bool curved, __m512i sums, int first,
                        const uint8_t *residual)
{
    __m512 f = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(end->multiplier + first));
    if (curved) {
        const __m512 factor = _mm512_loadu_ps(end->out_multiplier + first);
        f = _mm512_mul_ps(activate(end->activation, f), factor);
        f = _mm512_min_ps(_mm512_set1_ps(INT8_MOST_STEPS), f);
    }
    if (residual) {
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)residual));
        const __m512i added = _mm512_sub_epi32(bytes, _mm512_set1_epi32(end->residual_zero));
        f = _mm512_fmadd_ps(_mm512_cvtepi32_ps(added), _mm512_set1_ps(end->residual_multiplier), f);
    }
    return _mm512_cvtps_epi32(f);
}

INLINE void store_floats(const struct int8_end *end, float *out, __m512i sums, int first, __mmask16 mask)
{
    const __m512 f = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(end->multiplier + first));
    _mm512_mask_storeu_ps(out, mask, activate(end->activation, f));
}

/* Sixteen output steps, clipped, those of `mask`, to place `at` of a tensor. */
INLINE void store_steps(const struct int8_end *end, __m512i steps, __mmask16 mask, void *out, size_t at)
{
    steps = _mm512_add_epi32(steps, _mm512_set1_epi32(end->zero));
    steps = _mm512_max_epi32(steps, _mm512_set1_epi32(end->low));
    steps = _mm512_min_epi32(steps, _mm512_set1_epi32(end->high));
    if (end->wide)
        _mm512_mask_cvtepi32_storeu_epi16((uint16_t *)out + at, mask, steps);
    else
        _mm512_mask_cvtepi32_storeu_epi8((uint8_t *)out + at, mask, steps);
}

/* The first `count` of sixteen lanes. */
INLINE __mmask16 mask_of(int count)
{
    return count < INT8_GROUP ? (__mmask16)((1u << count) - 1) : 0xffff;
}

/* The sums of one row and a group of 16 outputs, those of `mask`. */
INLINE void finish(const struct int8_end *end, bool curved, int first, __mmask16 mask, __m512i sums,
                   const uint8_t *residual, void *out, size_t at)
{
    if (end->floats)
        store_floats(end, (float *)out + at, sums, first, mask);
    else
        store_steps(end, steps_of(end, curved, sums, first, residual ? residual + at : NULL), mask, out, at);
}

/* `rows` rows by `groups` groups; both constants where it is called. */
INLINE void tile(const struct int8_dense *d, bool curved, const uint8_t *x, int rows, int group, int groups,
                 const uint8_t *residual, void *out, size_t first_row)
{
    const size_t quads = quads_of(d->depth), depth = (size_t)d->depth;
    const __m512i *w = (const __m512i *)d->weights + (size_t)group * quads;
    __m512i sums[MOST_ROWS][MOST_GROUPS];
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < groups; g++)
            sums[r][g] = _mm512_loadu_si512(d->end.start + (group + g) * INT8_GROUP);
    for (size_t k = 0; k < quads; k++) {
        __m512i weights[MOST_GROUPS];
        for (int g = 0; g < groups; g++) weights[g] = _mm512_loadu_si512(w + (size_t)g * quads + k);
        for (int r = 0; r < rows; r++) {
            int32_t quad;
            memcpy(&quad, x + (size_t)r * depth + 4 * k, sizeof quad);
            const __m512i four = _mm512_set1_epi32(quad);
            for (int g = 0; g < groups; g++) sums[r][g] = _mm512_dpbusd_epi32(sums[r][g], four, weights[g]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < groups; g++) {
            const int first = (group + g) * INT8_GROUP;
            finish(&d->end, curved, first, mask_of(d->outputs - first), sums[r][g], residual, out,
                   (first_row + (size_t)r) * (size_t)d->outputs + (size_t)first);
        }
}

/* All rows by `groups` groups, `step` rows at a time. What is left over is less than a step: the last step
 * begins earlier, and computes some rows again. */
INLINE void tiles(const struct int8_dense *d, bool curved, const uint8_t *in, int rows, int step, int group,
                  int groups, const uint8_t *residual, void *out)
{
    const size_t depth = (size_t)d->depth;
    if (rows < step) {
        for (int r = 0; r < rows; r++)
            tile(d, curved, in + (size_t)r * depth, 1, group, groups, residual, out, (size_t)r);
        return;
    }
    for (int r = 0; r < rows; r += step) {
        const int first = r + step <= rows ? r : rows - step;
        tile(d, curved, in + (size_t)first * depth, step, group, groups, residual, out, (size_t)first);
    }
}

INLINE void any_tiles(const struct int8_dense *d, bool curved, const uint8_t *in, int rows, int first_group,
                      int end_group, const uint8_t *residual, void *out)
{
    int g = first_group;
    while (g < end_group) {
        const int left = end_group - g;
        if (left >= 4 && left != 5) {
            tiles(d, curved, in, rows, 6, g, 4, residual, out);
            g += 4;
        } else if (left >= 3) {
            tiles(d, curved, in, rows, 8, g, 3, residual, out);
            g += 3;
        } else if (left == 2) {
            tiles(d, curved, in, rows, 12, g, 2, residual, out);
            g += 2;
        } else {
            tiles(d, curved, in, rows, 12, g, 1, residual, out);
            g++;
        }
    }
}

VNNI static void dense(const struct int8_dense *d, const uint8_t *in, int rows, int first_group,
                       int end_group, const uint8_t *residual, void *out, void *scratch)
{
    (void)scratch;
    if (d->end.out_multiplier)
        any_tiles(d, true, in, rows, first_group, end_group, residual, out);
    else
        any_tiles(d, false, in, rows, first_group, end_group, residual, out);
}

/* ---------------------------------------------------------------- depthwise */

static bool has_depthwise(const struct effnet_layer *layer)
{
    return (layer->kernel == 3 || layer->kernel == 5) && layer->stride <= 2 && layer->residual < 0 &&
           layer->integer->out_most == EFFNET_MOST_BYTE;
}

/* Each quarter of a vector has 16 channels; unpack puts the first four of each into the first vector. Of wide
 * maps a quarter has 8, and a vector half of the block. */
static int place(int at, bool wide)
{
    return wide ? at / 32 * 32 + at / 4 % 2 * 16 + at % 32 / 8 * 4 + at % 4
                : at / 4 % 4 * 16 + at / 16 * 4 + at % 4;
}

/* Vectors of rows that are multiplied together: four bytes or two steps of 16 bits. */
static int row_sets(int kernel, bool wide)
{
    return wide ? (kernel + 1) / 2 : (kernel + 3) / 4;
}

static size_t depthwise_bytes(int channels, int kernel, bool wide)
{
    return (size_t)((channels + BLOCK - 1) / BLOCK) * (size_t)(kernel * row_sets(kernel, wide)) * BLOCK * 4;
}

static void pack_depthwise(int channels, int kernel, bool wide, const int8_t *weights, void *packed)
{
    const int together = wide ? 2 : 4;
    size_t set = 0;
    memset(packed, 0, depthwise_bytes(channels, kernel, wide));
    for (int first = 0; first < channels; first += BLOCK)
        for (int kx = 0; kx < kernel; kx++, set += (size_t)row_sets(kernel, wide))
            for (int c = first; c < first + BLOCK && c < channels; c++)
                for (int ky = 0; ky < kernel; ky++) {
                    const size_t at = (set + (size_t)(ky / together)) * BLOCK +
                                      (size_t)place(c - first, wide);
                    const int8_t weight = weights[(c * kernel + ky) * kernel + kx];
                    if (wide)
                        ((int16_t *)packed)[at * 2 + (size_t)(ky % 2)] = weight;
                    else
                        ((int8_t *)packed)[at * 4 + (size_t)(ky % 4)] = weight;
                }
}

/* A column of `kernel` rows, in fours: [quad][4 vectors]. */
INLINE void load_column(const uint8_t *const *rows, __mmask64 mask, int kernel, __m512i (*column)[4])
{
    for (int q = 0; 4 * q < kernel; q++) {
        __m512i row[4];
        for (int i = 0; i < 4; i++)
            row[i] = 4 * q + i < kernel ? _mm512_maskz_loadu_epi8(mask, rows[4 * q + i])
                                        : _mm512_setzero_si512();
        const __m512i low01 = _mm512_unpacklo_epi8(row[0], row[1]);
        const __m512i high01 = _mm512_unpackhi_epi8(row[0], row[1]);
        const __m512i low23 = _mm512_unpacklo_epi8(row[2], row[3]);
        const __m512i high23 = _mm512_unpackhi_epi8(row[2], row[3]);
        column[q][0] = _mm512_unpacklo_epi16(low01, low23);
        column[q][1] = _mm512_unpackhi_epi16(low01, low23);
        column[q][2] = _mm512_unpacklo_epi16(high01, high23);
        column[q][3] = _mm512_unpackhi_epi16(high01, high23);
    }
}

/* The same of a wide map, in twos: [pair][4 vectors]. */
INLINE void load_wide_column(const uint8_t *const *rows, __mmask64 mask, int kernel, __m512i (*column)[4])
{
    for (int p = 0; 2 * p < kernel; p++)
        for (int h = 0; h < 2; h++) {
            const __mmask32 half = (__mmask32)(mask >> (32 * h));
            const __m512i a = _mm512_maskz_loadu_epi16(half, rows[2 * p] + 64 * h);
            const __m512i b = 2 * p + 1 < kernel ? _mm512_maskz_loadu_epi16(half, rows[2 * p + 1] + 64 * h)
                                                 : _mm512_setzero_si512();
            column[p][2 * h] = _mm512_unpacklo_epi16(a, b);
            column[p][2 * h + 1] = _mm512_unpackhi_epi16(a, b);
        }
}

/* The sums of 64 channels of one output. */
INLINE void finish_block(const struct int8_end *end, bool curved, int first, __mmask64 mask, bool wide,
                         const __m512i *sums, uint8_t *out)
{
    __m512i steps[4];
    for (int v = 0; v < 4; v++) steps[v] = steps_of(end, curved, sums[v], first + 16 * v, NULL);
    const __m512i zero = _mm512_set1_epi16((short)end->zero);
    const __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(steps[0], steps[1]), zero);
    const __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(steps[2], steps[3]), zero);
    __m512i bytes = _mm512_packus_epi16(low, high);
    if (wide) /* quarters of 8 channels of the one half and 8 of the other */
        bytes = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), bytes);
    bytes = _mm512_max_epu8(bytes, _mm512_set1_epi8((char)end->low));
    bytes = _mm512_min_epu8(bytes, _mm512_set1_epi8((char)end->high));
    _mm512_mask_storeu_epi8(out, mask, bytes);
}

/* One row of one block. rows: of the map, or NULL outside of it. Output x has the columns stride * x to
 * stride * x + kernel - 1, counted from the padding's first; slot i is output x - i. */
INLINE void depthwise_row(const struct int8_depthwise *d, const uint8_t *const *rows, int block, int kernel,
                          int stride, bool wide, bool curved, uint8_t *out)
{
    enum { MOST_SLOTS = 5, MOST_SETS = 3 };
    const int slots = (kernel + stride - 1) / stride, first = block * BLOCK;
    const int sets = wide ? (kernel + 1) / 2 : (kernel + 3) / 4;
    const uint8_t *zeros = d->zeros;
    const int count = d->channels - first;
    const __mmask64 mask = count < BLOCK ? ((__mmask64)1 << count) - 1 : ~(__mmask64)0;
    const __m512i *w = (const __m512i *)d->weights + (size_t)block * (size_t)(kernel * sets * 4);
    __m512i sums[MOST_SLOTS][4], column[MOST_SETS][4];
    for (int i = 0; i < slots; i++)
        for (int v = 0; v < 4; v++) sums[i][v] = _mm512_setzero_si512();
    for (int x = 0; x < d->out_width + slots - 1; x++) {
        for (int i = slots - 1; i > 0; i--)
            for (int v = 0; v < 4; v++) sums[i][v] = sums[i - 1][v];
        for (int v = 0; v < 4; v++) sums[0][v] = _mm512_loadu_si512(d->end.start + first + 16 * v);
        for (int c = 0; c < stride; c++) {
            const int ix = x * stride + c - d->pad_left;
            const bool inside = ix >= 0 && ix < d->in_width;
            const size_t at = ((inside ? (size_t)ix * (size_t)d->channels : 0) + (size_t)first) << wide;
            const uint8_t *from[8];
            for (int ky = 0; ky < kernel; ky++)
                from[ky] = inside && rows[ky] ? rows[ky] + at : zeros + ((size_t)first << wide);
            if (wide)
                load_wide_column(from, mask, kernel, column);
            else
                load_column(from, mask, kernel, column);
            for (int i = 0; i < slots; i++) {
                const int kx = i * stride + c;
                if (kx >= kernel) continue;
                for (int s = 0; s < sets; s++)
                    for (int v = 0; v < 4; v++) {
                        const __m512i taps = _mm512_loadu_si512(w + (kx * sets + s) * 4 + v);
                        sums[i][v] = wide ? _mm512_dpwssd_epi32(sums[i][v], column[s][v], taps)
                                          : _mm512_dpbusd_epi32(sums[i][v], column[s][v], taps);
                    }
            }
        }
        if (x >= slots - 1)
            finish_block(&d->end, curved, first, mask, wide, sums[slots - 1],
                         out + (size_t)(x - slots + 1) * (size_t)d->channels + first);
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

VNNI static void depthwise(const struct int8_depthwise *d, const void *map, int first_row, int end_row,
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

VNNI static void scale(const struct int8_end *end, const uint8_t *map, int zero, const float *factors,
                       int pixels, int channels, void *out)
{
    for (size_t p = 0; p < (size_t)pixels; p++)
        for (int c = 0; c < channels; c += 16) {
            const size_t at = p * (size_t)channels + (size_t)c;
            const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(map + at)));
            const __m512 steps = _mm512_cvtepi32_ps(_mm512_sub_epi32(bytes, _mm512_set1_epi32(zero)));
            const __m512 product = _mm512_mul_ps(_mm512_mul_ps(steps, _mm512_loadu_ps(factors + c)),
                                                 _mm512_loadu_ps(end->multiplier + c));
            store_steps(end, _mm512_cvtps_epi32(product), mask_of(channels - c), out, at);
        }
}

const struct int8_kernels int8_vnni = {
    .name = "avx512-vnni",
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
