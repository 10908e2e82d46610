/* What a resize is made of: one prototype for each operation, a plain C version of them all, and faster ones
 * for what a processor may have.
 *
 * Sums are exact in all of them, and so equal: a weight is split into parts that the processor's instructions
 * take, the parts' sums may wrap around, and put together again they are the sum modulo 2^32, which fits.
 *
 *   image rows -> load_strip -> strip -> across -> ring of row groups -> down -> rows
 *                        image rows -> interleave -^
 *
 * A *strip* is `strip_rows` rows, laid out so that a vector holds the same pixels of all its rows. A *group*
 * is `group_rows` rows, laid out so that a vector holds the same rows of adjacent bytes. A *unit* is `unit`
 * neighbours (pixels in a strip, rows in the ring) that are multiplied by their weights at a time. How bytes
 * lie in strips and groups is a kernel's own affair. */
#ifndef EFFNET_IMAGE_RESIZE_KERNELS_H
#define EFFNET_IMAGE_RESIZE_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    RESIZE_WEIGHT_BITS = 22, /* of a weight, after the point */
    RESIZE_ROUND_HALF = 1 << (RESIZE_WEIGHT_BITS - 1),
    RESIZE_ALIGN = 64,       /* bytes: of strips, groups and their lengths */
    RESIZE_OUTPUT_BLOCK = 4, /* `across` may write as if the outputs were a multiple of this */
    RESIZE_MOST_UNIT = 4,
    RESIZE_MOST_PACKED = 4, /* the largest packed_values */
};

static inline size_t resize_align(size_t bytes)
{
    return (bytes + RESIZE_ALIGN - 1) / RESIZE_ALIGN * RESIZE_ALIGN;
}

/* One pass: the weights of each output, in units. */
struct resize_pass {
    int outputs, stride;   /* `stride`: values from one output's weights to the next's */
    const int32_t *first;  /* [outputs], the first unit */
    const int32_t *count;  /* [outputs], units: at least 1 */
    const int32_t *packed; /* [outputs][stride] */
};

/* The rows between the passes: group g lies at place g % groups. */
struct resize_ring {
    uint8_t *memory;
    int groups;
    size_t group_bytes;
};

struct resize_kernels {
    const char *name;
    bool (*supported)(void);
    int strip_rows, group_rows, unit, packed_values; /* `packed_values`: of one unit's weights */
    int strip_bytes;                                 /* of one byte of a row */

    /* The weights of one unit, as the other functions want them. */
    void (*pack)(const int32_t *weights, int32_t *packed);
    /* The first `pixels` of `rows` (1 to strip_rows) rows. Nothing beyond them is read; the strip's other
     * rows and pixels up to the next multiple of 4 get some value. */
    void (*load_strip)(const uint8_t *in, size_t stride, int rows, int pixels, uint8_t *strip);
    /* All outputs of the pass along the rows: a strip -> its groups, group_bytes apart. */
    void (*across)(const struct resize_pass *pass, const uint8_t *strip, uint8_t *groups, size_t group_bytes);
    /* The first `bytes` of `rows` (1 to group_rows) rows, as one group. */
    void (*interleave)(const uint8_t *in, size_t stride, int rows, size_t bytes, uint8_t *group);
    /* One output of the pass down the columns: `bytes` of it. */
    void (*down)(const struct resize_pass *pass, int output, const struct resize_ring *ring, size_t bytes,
                 uint8_t *out);
};

extern const struct resize_kernels resize_plain;
#if defined(__x86_64__)
extern const struct resize_kernels resize_avx2, resize_vnni;
#endif

/* All that were built, the slowest first; ends with NULL. */
extern const struct resize_kernels *const resize_all_kernels[];

/* The fastest that this processor runs. */
const struct resize_kernels *resize_best_kernels(void);

#endif
