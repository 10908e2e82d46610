/* AVX-512 with VNNI: as AVX2 but twice as wide, with an instruction that multiplies two taps and adds
 * (vpdpwssd). strip [pixel pair][3][16 rows][2 pixels]; weights and groups are those of AVX2. Rows end under
 * a mask. */
#include "image/resize_x86.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET "avx512f,avx512bw,avx512vl,avx512vnni"
#define VNNI   __attribute__((target(TARGET)))
#define INLINE static inline __attribute__((always_inline, target(TARGET)))

enum { ROWS = 16, GROUP_ROWS = RESIZE_AVX2_GROUP_ROWS, VECTOR = 16 /* bytes of a row */ };

static bool supported(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

/* 4 pixels of the rows r, r + 4, r + 8 and r + 12, as `mask` has their bytes, sorted by colour. */
INLINE __m512i load_four(const uint8_t *const *row, size_t at, __mmask16 mask)
{
    const __m512i by_colour = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 6, 3, 9, 1, 7, 4, 10, 2, 8, 5, 11, -1, -1, -1, -1));
    __m512i four = _mm512_castsi128_si512(_mm_maskz_loadu_epi8(mask, row[0] + at));
    four = _mm512_inserti32x4(four, _mm_maskz_loadu_epi8(mask, row[4] + at), 1);
    four = _mm512_inserti32x4(four, _mm_maskz_loadu_epi8(mask, row[8] + at), 2);
    four = _mm512_inserti32x4(four, _mm_maskz_loadu_epi8(mask, row[12] + at), 3);
    return _mm512_shuffle_epi8(four, by_colour);
}

VNNI static void load_strip(const uint8_t *in, size_t stride, int rows, int pixels, uint8_t *strip)
{
    const __m512i even = _mm512_set1_epi16(255);
    const uint8_t *row[ROWS];
    for (int r = 0; r < ROWS; r++) row[r] = in + (size_t)(r < rows ? r : rows - 1) * stride;
    __m512i *to = (__m512i *)strip;
    size_t bytes = (size_t)pixels * 3;
    for (size_t at = 0; at < bytes; at += 12, to += 6) {
        const __mmask16 mask = bytes - at < 12 ? (__mmask16)((1u << (bytes - at)) - 1) : 0xfff;
        const __m512i a = load_four(row, at, mask), b = load_four(row + 2, at, mask);
        const __m512i c = load_four(row + 1, at, mask), d = load_four(row + 3, at, mask);
        const __m512i low_ab = _mm512_unpacklo_epi32(a, b), low_cd = _mm512_unpacklo_epi32(c, d);
        const __m512i red = _mm512_unpacklo_epi64(low_ab, low_cd);
        const __m512i green = _mm512_unpackhi_epi64(low_ab, low_cd);
        const __m512i blue = _mm512_unpacklo_epi64(_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        _mm512_store_si512(to + 0, _mm512_and_si512(red, even));
        _mm512_store_si512(to + 1, _mm512_and_si512(green, even));
        _mm512_store_si512(to + 2, _mm512_and_si512(blue, even));
        _mm512_store_si512(to + 3, _mm512_srli_epi16(red, 8));
        _mm512_store_si512(to + 4, _mm512_srli_epi16(green, 8));
        _mm512_store_si512(to + 5, _mm512_srli_epi16(blue, 8));
    }
}

struct sums {
    __m512i hi, lo;
};

INLINE struct sums sums_start(void)
{
    return (struct sums){_mm512_setzero_si512(), _mm512_set1_epi32(RESIZE_ROUND_HALF)};
}

INLINE void sums_add(struct sums *sums, __m512i pairs, __m512i hi, __m512i lo)
{
    sums->hi = _mm512_dpwssd_epi32(sums->hi, pairs, hi);
    sums->lo = _mm512_dpwssd_epi32(sums->lo, pairs, lo);
}

INLINE __m512i sums_end(struct sums sums)
{
    const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(sums.hi, RESIZE_AVX2_LO_BITS), sums.lo);
    return _mm512_srai_epi32(sum, RESIZE_WEIGHT_BITS);
}

/* Four vectors of 32 bits, clipped to 0..255: in each quarter 4 bytes of a, 4 of b, 4 of c, 4 of d. */
INLINE __m512i pack_four(const __m512i *sum)
{
    return _mm512_packus_epi16(_mm512_packs_epi32(sum[0], sum[1]), _mm512_packs_epi32(sum[2], sum[3]));
}

/* One output of all rows: its three colours. */
INLINE void sum_pixel(const struct resize_pass *pass, int i, const __m512i *strip, __m512i *out)
{
    const int32_t *weights = pass->packed + (size_t)i * (size_t)pass->stride;
    const __m512i *pairs = strip + (size_t)pass->first[i] * 3;
    struct sums red = sums_start(), green = red, blue = red;
    for (int j = pass->count[i]; j > 0; j--, weights += 2, pairs += 3) {
        const __m512i hi = _mm512_set1_epi32(weights[0]), lo = _mm512_set1_epi32(weights[1]);
        sums_add(&red, pairs[0], hi, lo);
        sums_add(&green, pairs[1], hi, lo);
        sums_add(&blue, pairs[2], hi, lo);
    }
    out[0] = sums_end(red);
    out[1] = sums_end(green);
    out[2] = sums_end(blue);
}

VNNI static void across(const struct resize_pass *pass, const uint8_t *strip, uint8_t *groups,
                        size_t group_bytes)
{
    for (int i = 0; i < pass->outputs; i += RESIZE_OUTPUT_BLOCK) {
        __m512i sum[RESIZE_OUTPUT_BLOCK * 3];
        for (int k = 0; k < RESIZE_OUTPUT_BLOCK; k++)
            sum_pixel(pass, i + k < pass->outputs ? i + k : pass->outputs - 1, (const __m512i *)strip,
                      sum + 3 * (ptrdiff_t)k);
        uint8_t *to = groups + (size_t)i * 3 * GROUP_ROWS;
        for (int k = 0; k < 3; k++, to += 16) {
            const __m512i four = pack_four(sum + 4 * (ptrdiff_t)k);
            _mm_store_si128((__m128i *)to, _mm512_castsi512_si128(four));
            _mm_store_si128((__m128i *)(to + group_bytes), _mm512_extracti32x4_epi32(four, 1));
            _mm_store_si128((__m128i *)(to + 2 * group_bytes), _mm512_extracti32x4_epi32(four, 2));
            _mm_store_si128((__m128i *)(to + 3 * group_bytes), _mm512_extracti32x4_epi32(four, 3));
        }
    }
}

/* `vectors` vectors of an output of the pass down the columns, from byte x of the rows. */
INLINE void sum_bytes(const struct resize_column *column, size_t x, int vectors, __m512i *sum)
{
    const __m512i even = _mm512_set1_epi16(255);
    const int32_t *weights = column->weights;
    const uint8_t *group = column->group + x * GROUP_ROWS, *end = column->end + x * GROUP_ROWS;
    struct sums sums[4];
    for (int v = 0; v < vectors; v++) sums[v] = sums_start();
    for (int pair = column->pair; pair < column->last; pair++, weights += 2) {
        const __m512i *rows = (const __m512i *)group;
        const __m512i hi = _mm512_set1_epi32(weights[0]), lo = _mm512_set1_epi32(weights[1]);
        if (pair % 2 == 0) {
            for (int v = 0; v < vectors; v++) sums_add(&sums[v], _mm512_and_si512(rows[v], even), hi, lo);
        } else {
            for (int v = 0; v < vectors; v++) sums_add(&sums[v], _mm512_srli_epi16(rows[v], 8), hi, lo);
            group += column->group_bytes;
            if (group == end) group -= column->ring_bytes;
        }
    }
    for (int v = 0; v < vectors; v++) sum[v] = sums_end(sums[v]);
}

VNNI static void down(const struct resize_pass *pass, int output, const struct resize_ring *ring,
                      size_t bytes, uint8_t *out)
{
    const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const struct resize_column column = resize_column(pass, output, ring);
    __m512i sum[4];
    size_t x = 0;
    for (; x + 4 * VECTOR <= bytes; x += 4 * VECTOR) {
        sum_bytes(&column, x, 4, sum);
        _mm512_storeu_si512(out + x, _mm512_permutexvar_epi32(in_order, pack_four(sum)));
    }
    for (; x < bytes; x += VECTOR) {
        sum_bytes(&column, x, 1, sum);
        const __m512i positive = _mm512_max_epi32(sum[0], _mm512_setzero_si512());
        const __mmask16 mask = bytes - x < VECTOR ? (__mmask16)((1u << (bytes - x)) - 1) : 0xffff;
        _mm_mask_storeu_epi8(out + x, mask, _mm512_cvtusepi32_epi8(positive));
    }
}

const struct resize_kernels resize_vnni = {
    .name = "avx512-vnni",
    .supported = supported,
    .strip_rows = ROWS,
    .group_rows = GROUP_ROWS,
    .unit = 2,
    .packed_values = 2,
    .strip_bytes = ROWS * 2,
    .pack = resize_avx2_pack,
    .load_strip = load_strip,
    .across = across,
    .interleave = resize_avx2_interleave,
    .down = down,
};
#endif
