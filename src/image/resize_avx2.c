/* AVX2. A weight is hi * 2^8 + lo, two taps an instruction (pmaddwd) in each part.
 *
 * strip [pixel pair][3][8 rows][2 pixels], 16 bits each; a group [byte][4 rows]. The rows of four lie in the
 * order 0 2 1 3, so that the even bytes of a group's 32 bits are rows 0 and 1, the odd ones 2 and 3: a mask
 * or a shift makes pairs of 16 bits of them. */
#include "image/resize_x86.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define AVX2   __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline, target("avx2")))

enum {
    ROWS = 8,
    GROUP_ROWS = RESIZE_AVX2_GROUP_ROWS,
    LO_BITS = RESIZE_AVX2_LO_BITS,
    VECTOR = 8 /* bytes of a row */
};

static bool supported(void)
{
    return __builtin_cpu_supports("avx2");
}

void resize_avx2_pack(const int32_t *weights, int32_t *packed)
{
    const int16_t parts[4] = {(int16_t)(weights[0] >> LO_BITS), (int16_t)(weights[1] >> LO_BITS),
                              (int16_t)(weights[0] & ((1 << LO_BITS) - 1)),
                              (int16_t)(weights[1] & ((1 << LO_BITS) - 1))};
    memcpy(packed, parts, sizeof parts);
}

INLINE __m256i load_two(const uint8_t *a, const uint8_t *b)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a)),
                                   _mm_loadu_si128((const __m128i *)b), 1);
}

/* 4 pixels of 8 rows: 16 bytes of each row are read. */
INLINE void load_pixels(const uint8_t *const row[ROWS], size_t at, __m256i *to)
{
    const __m256i by_colour = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 6, 3, 9, 1, 7, 4, 10, 2, 8, 5, 11, -1, -1, -1, -1));
    const __m256i even = _mm256_set1_epi16(255);
    const __m256i a = _mm256_shuffle_epi8(load_two(row[0] + at, row[4] + at), by_colour);
    const __m256i b = _mm256_shuffle_epi8(load_two(row[2] + at, row[6] + at), by_colour);
    const __m256i c = _mm256_shuffle_epi8(load_two(row[1] + at, row[5] + at), by_colour);
    const __m256i d = _mm256_shuffle_epi8(load_two(row[3] + at, row[7] + at), by_colour);
    const __m256i low_ab = _mm256_unpacklo_epi32(a, b), low_cd = _mm256_unpacklo_epi32(c, d);
    const __m256i red = _mm256_unpacklo_epi64(low_ab, low_cd), green = _mm256_unpackhi_epi64(low_ab, low_cd);
    const __m256i blue = _mm256_unpacklo_epi64(_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    _mm256_store_si256(to + 0, _mm256_and_si256(red, even));
    _mm256_store_si256(to + 1, _mm256_and_si256(green, even));
    _mm256_store_si256(to + 2, _mm256_and_si256(blue, even));
    _mm256_store_si256(to + 3, _mm256_srli_epi16(red, 8));
    _mm256_store_si256(to + 4, _mm256_srli_epi16(green, 8));
    _mm256_store_si256(to + 5, _mm256_srli_epi16(blue, 8));
}

AVX2 static void load_strip(const uint8_t *in, size_t stride, int rows, int pixels, uint8_t *strip)
{
    const uint8_t *row[ROWS], *tail_row[ROWS];
    uint8_t tail[ROWS][16] = {{0}};
    for (int r = 0; r < ROWS; r++) {
        row[r] = in + (size_t)(r < rows ? r : rows - 1) * stride;
        tail_row[r] = tail[r];
    }
    __m256i *to = (__m256i *)strip;
    size_t bytes = (size_t)pixels * 3, at = 0;
    for (; at + 16 <= bytes; at += 12, to += 6) load_pixels(row, at, to);
    for (; at < bytes; at += 12, to += 6) { /* up to two times, nothing beyond the rows is read */
        size_t left = bytes - at < 12 ? bytes - at : 12;
        for (int r = 0; r < ROWS; r++) memcpy(tail[r], row[r] + at, left);
        load_pixels(tail_row, 0, to);
    }
}

struct sums {
    __m256i hi, lo;
};

INLINE struct sums sums_start(void)
{
    return (struct sums){_mm256_setzero_si256(), _mm256_set1_epi32(RESIZE_ROUND_HALF)};
}

INLINE void sums_add(struct sums *sums, __m256i pairs, __m256i hi, __m256i lo)
{
    sums->hi = _mm256_add_epi32(sums->hi, _mm256_madd_epi16(pairs, hi));
    sums->lo = _mm256_add_epi32(sums->lo, _mm256_madd_epi16(pairs, lo));
}

INLINE __m256i sums_end(struct sums sums)
{
    return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(sums.hi, LO_BITS), sums.lo),
                             RESIZE_WEIGHT_BITS);
}

/* Four vectors of 32 bits, clipped to 0..255: in each half 4 bytes of a, 4 of b, 4 of c, 4 of d. */
INLINE __m256i pack_four(__m256i a, __m256i b, __m256i c, __m256i d)
{
    return _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
}

/* One output of all rows: its three colours. */
INLINE void sum_pixel(const struct resize_pass *pass, int i, const __m256i *strip, __m256i *out)
{
    const int32_t *weights = pass->packed + (size_t)i * (size_t)pass->stride;
    const __m256i *pairs = strip + (size_t)pass->first[i] * 3;
    struct sums red = sums_start(), green = red, blue = red;
    for (int j = 0; j < pass->count[i]; j++) {
        const __m256i hi = _mm256_set1_epi32(weights[2 * j]), lo = _mm256_set1_epi32(weights[2 * j + 1]);
        sums_add(&red, pairs[3 * j], hi, lo);
        sums_add(&green, pairs[3 * j + 1], hi, lo);
        sums_add(&blue, pairs[3 * j + 2], hi, lo);
    }
    out[0] = sums_end(red);
    out[1] = sums_end(green);
    out[2] = sums_end(blue);
}

AVX2 static void across(const struct resize_pass *pass, const uint8_t *strip, uint8_t *groups,
                        size_t group_bytes)
{
    for (int i = 0; i < pass->outputs; i += RESIZE_OUTPUT_BLOCK) {
        __m256i sum[RESIZE_OUTPUT_BLOCK * 3];
        for (int k = 0; k < RESIZE_OUTPUT_BLOCK; k++)
            sum_pixel(pass, i + k < pass->outputs ? i + k : pass->outputs - 1, (const __m256i *)strip,
                      sum + 3 * k);
        uint8_t *to = groups + (size_t)i * 3 * GROUP_ROWS;
        for (int k = 0; k < 3; k++, to += 16) {
            const __m256i four = pack_four(sum[4 * k], sum[4 * k + 1], sum[4 * k + 2], sum[4 * k + 3]);
            _mm_store_si128((__m128i *)to, _mm256_castsi256_si128(four));
            _mm_store_si128((__m128i *)(to + group_bytes), _mm256_extracti128_si256(four, 1));
        }
    }
}

/* 16 bytes of 4 rows. */
INLINE void interleave_bytes(const uint8_t *const row[GROUP_ROWS], size_t at, __m128i *to)
{
    const __m128i a = _mm_loadu_si128((const __m128i *)(row[0] + at)),
                  b = _mm_loadu_si128((const __m128i *)(row[2] + at)),
                  c = _mm_loadu_si128((const __m128i *)(row[1] + at)),
                  d = _mm_loadu_si128((const __m128i *)(row[3] + at));
    const __m128i low_ab = _mm_unpacklo_epi8(a, b), high_ab = _mm_unpackhi_epi8(a, b);
    const __m128i low_cd = _mm_unpacklo_epi8(c, d), high_cd = _mm_unpackhi_epi8(c, d);
    _mm_store_si128(to + 0, _mm_unpacklo_epi16(low_ab, low_cd));
    _mm_store_si128(to + 1, _mm_unpackhi_epi16(low_ab, low_cd));
    _mm_store_si128(to + 2, _mm_unpacklo_epi16(high_ab, high_cd));
    _mm_store_si128(to + 3, _mm_unpackhi_epi16(high_ab, high_cd));
}

AVX2 void resize_avx2_interleave(const uint8_t *in, size_t stride, int rows, size_t bytes, uint8_t *group)
{
    const uint8_t *row[GROUP_ROWS], *tail_row[GROUP_ROWS];
    uint8_t tail[GROUP_ROWS][16] = {{0}};
    for (int r = 0; r < GROUP_ROWS; r++) {
        row[r] = in + (size_t)(r < rows ? r : rows - 1) * stride;
        tail_row[r] = tail[r];
    }
    __m128i *to = (__m128i *)group;
    size_t at = 0;
    for (; at + 16 <= bytes; at += 16, to += 4) interleave_bytes(row, at, to);
    if (at == bytes) return;
    for (int r = 0; r < GROUP_ROWS; r++) memcpy(tail[r], row[r] + at, bytes - at);
    interleave_bytes(tail_row, 0, to);
}

/* `vectors` vectors of an output of the pass down the columns, from byte x of the rows. */
INLINE void sum_bytes(const struct resize_column *column, size_t x, int vectors, __m256i *sum)
{
    const __m256i even = _mm256_set1_epi16(255);
    const int32_t *weights = column->weights;
    const uint8_t *group = column->group + x * GROUP_ROWS, *end = column->end + x * GROUP_ROWS;
    struct sums sums[4];
    for (int v = 0; v < vectors; v++) sums[v] = sums_start();
    for (int pair = column->pair; pair < column->last; pair++, weights += 2) {
        const __m256i *rows = (const __m256i *)group;
        const __m256i hi = _mm256_set1_epi32(weights[0]), lo = _mm256_set1_epi32(weights[1]);
        if (pair % 2 == 0) {
            for (int v = 0; v < vectors; v++) sums_add(&sums[v], _mm256_and_si256(rows[v], even), hi, lo);
        } else {
            for (int v = 0; v < vectors; v++) sums_add(&sums[v], _mm256_srli_epi16(rows[v], 8), hi, lo);
            group += column->group_bytes;
            if (group == end) group -= column->ring_bytes;
        }
    }
    for (int v = 0; v < vectors; v++) sum[v] = sums_end(sums[v]);
}

AVX2 static void down(const struct resize_pass *pass, int output, const struct resize_ring *ring,
                      size_t bytes, uint8_t *out)
{
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const struct resize_column column = resize_column(pass, output, ring);
    __m256i sum[4];
    size_t x = 0;
    for (; x + 4 * VECTOR <= bytes; x += 4 * VECTOR) {
        sum_bytes(&column, x, 4, sum);
        const __m256i four = pack_four(sum[0], sum[1], sum[2], sum[3]);
        _mm256_storeu_si256((__m256i *)(out + x), _mm256_permutevar8x32_epi32(four, in_order));
    }
    for (; x < bytes; x += VECTOR) {
        sum_bytes(&column, x, 1, sum);
        uint8_t last[4 * VECTOR];
        const __m256i four = pack_four(sum[0], sum[0], sum[0], sum[0]);
        _mm256_storeu_si256((__m256i *)last, _mm256_permutevar8x32_epi32(four, in_order));
        memcpy(out + x, last, bytes - x < VECTOR ? bytes - x : VECTOR);
    }
}

const struct resize_kernels resize_avx2 = {
    .name = "avx2",
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
