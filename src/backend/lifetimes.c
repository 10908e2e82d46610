#include "backend/lifetimes.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* The lowest offset at which `tensor` meets no living one. order[placed]: what has a place, by its offset. */
static size_t lowest_offset(const struct lifetime *tensors, const int *order, int placed,
                            const struct lifetime *tensor)
{
    size_t offset = 0;
    for (int i = 0; i < placed; i++) {
        const struct lifetime *other = &tensors[order[i]];
        if (other->first > tensor->last || tensor->first > other->last) continue;
        if (other->offset >= offset + tensor->bytes) break; /* it fits in before this one */
        if (other->offset + other->bytes > offset) offset = other->offset + other->bytes;
    }
    return offset;
}

/* Largest first, each at the lowest offset where no tensor that is alive with it lies: the usual greedy
 * answer, within a few percent of the lower bound for a network with residuals. */
size_t effnet_place(struct lifetime *tensors, int count)
{
    bool *placed = calloc((size_t)count, sizeof *placed);
    int *order = calloc((size_t)count, sizeof *order);
    size_t total = placed && order ? 0 : SIZE_MAX;
    for (int round = 0; total != SIZE_MAX && round < count; round++) {
        int next = -1; /* the largest that has no place yet; of several, the first */
        for (int i = 0; i < count; i++)
            if (!placed[i] && (next < 0 || tensors[i].bytes > tensors[next].bytes)) next = i;
        struct lifetime *tensor = &tensors[next];
        tensor->offset = lowest_offset(tensors, order, round, tensor);
        placed[next] = true;
        int at = round;
        for (; at > 0 && tensors[order[at - 1]].offset > tensor->offset; at--) order[at] = order[at - 1];
        order[at] = next;
        if (tensor->offset + tensor->bytes > total) total = tensor->offset + tensor->bytes;
    }
    free(placed);
    free(order);
    return total;
}
