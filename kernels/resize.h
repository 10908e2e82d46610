/* Resizes an RGB image and cuts the crop out of it, in integers, as effnet_image_fit does, byte for byte:
 *
 *   out[i] = clip((2^21 + sum_j weights[i][j] * in[first + start[i] + j]) >> 22, 0, 255)      j < count[i]
 *
 * once along the rows and once down the columns, with 8 bits between the two. The host computes the tables
 * (src/image/resize.h: image_fit_make). */
#ifndef EFFNET_KERNELS_RESIZE_H
#define EFFNET_KERNELS_RESIZE_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One pass, as struct image_axis, with the tables on the device. Neither start nor start + count falls from
 * one output to the next, start + count is at most end - first, and |weights| of an output adds up to less
 * than 2^31 / 255. */
struct resize_axis {
    int outputs;            /* of the crop, in this direction */
    int first, end;         /* the inputs that any output needs: [first, end) */
    int taps;               /* weights of an output in the table, >= its count */
    const int32_t *start;   /* [outputs], first input, counted from `first` */
    const int32_t *count;   /* [outputs] */
    const int32_t *weights; /* [outputs][taps] */
};

struct resize_args {
    const uint8_t *image; /* [height][width][3], 4-byte aligned */
    int width, height;
    struct resize_axis across, down; /* along the rows; down the columns */
    bool columns_first;              /* the pass down the columns is the first */
    void *scratch;                   /* resize_scratch_bytes, 4-byte aligned */
    uint8_t *crop;                   /* [down.outputs][across.outputs][3] */
};

/* Pointers are not looked at. */
size_t resize_scratch_bytes(const struct resize_args *args);

/* Enqueues both passes: no allocation, no synchronisation, may be captured. cudaErrorInvalidValue: sizes that
 * contradict one another, or a NULL; cudaErrorMisalignedAddress: image or scratch; else what the launches
 * returned. */
cudaError_t resize_launch(const struct resize_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
