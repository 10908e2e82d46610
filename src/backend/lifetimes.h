/* Where tensors lie that share one piece of memory: two that are alive at the same time do not overlap. */
#ifndef EFFNET_BACKEND_LIFETIMES_H
#define EFFNET_BACKEND_LIFETIMES_H

#include <stddef.h>

struct lifetime {
    size_t bytes;    /* the caller rounds them up to its alignment; every offset is a sum of such */
    size_t offset;   /* what effnet_place finds */
    int first, last; /* the steps that write it and read it last; it is alive in both */
};

/* Sets every offset and returns the bytes that all of them need, or SIZE_MAX where memory is exhausted. */
size_t effnet_place(struct lifetime *tensors, int count);

#endif
