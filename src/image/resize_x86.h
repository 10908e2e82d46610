/* What the kernels for AVX2 and for AVX-512 share: weights, groups, and the way through the ring. */
#ifndef EFFNET_IMAGE_RESIZE_X86_H
#define EFFNET_IMAGE_RESIZE_X86_H

#include "image/resize_kernels.h"

enum {
    RESIZE_AVX2_GROUP_ROWS = 4,
    RESIZE_AVX2_LO_BITS = 8, /* of a weight, in the lower of its two parts */
};

void resize_avx2_pack(const int32_t *weights, int32_t *packed);
void resize_avx2_interleave(const uint8_t *in, size_t stride, int rows, size_t bytes, uint8_t *group);

/* One output of the pass down the columns. */
struct resize_column {
    const int32_t *weights;
    int pair, last;             /* pairs of rows: [pair, last) */
    const uint8_t *group, *end; /* that of the first pair; where the ring ends */
    size_t group_bytes, ring_bytes;
};

static inline struct resize_column resize_column(const struct resize_pass *pass, int output,
                                                 const struct resize_ring *ring)
{
    const int first = pass->first[output];
    const size_t ring_bytes = (size_t)ring->groups * ring->group_bytes;
    return (struct resize_column){
        .weights = pass->packed + (size_t)output * (size_t)pass->stride,
        .pair = first,
        .last = first + pass->count[output],
        .group = ring->memory + (size_t)(first / 2 % ring->groups) * ring->group_bytes,
        .end = ring->memory + ring_bytes,
        .group_bytes = ring->group_bytes,
        .ring_bytes = ring_bytes,
    };
}

#endif
