/* A fit's tables, which the host computes, as the resize kernel takes them. */
#ifndef EFFNET_BACKEND_CUDA_RESIZE_AXIS_H
#define EFFNET_BACKEND_CUDA_RESIZE_AXIS_H

#include "image/resize.h"
#include "resize.h"

/* An axis whose tables were copied from host to device: both are the starts of all tables of the fit. */
static inline struct resize_axis axis_on_device(const struct image_axis *axis, const int32_t *host,
                                                const int32_t *device)
{
    return (struct resize_axis){.outputs = axis->outputs,
                                .first = axis->first,
                                .end = axis->end,
                                .taps = axis->taps,
                                .start = device + (axis->start - host),
                                .count = device + (axis->count - host),
                                .weights = device + (axis->weights - host)};
}

#endif
