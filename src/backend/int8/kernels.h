/* What integer networks are run by: one prototype for each operation, a plain C version of them all, and
 * faster ones for what a processor may have. All of them give the same bytes (docs/weights-format.md).
 *
 * A pointwise, linear or full convolution is a dense product: rows of `depth` bytes (pixels, or what lies
 * under a window) times weights. Output channels come in groups of 16, the last one filled up. */
#ifndef EFFNET_BACKEND_INT8_KERNELS_H
#define EFFNET_BACKEND_INT8_KERNELS_H

#include "effnet_lab.h"

enum {
    INT8_GROUP = 16,  /* output channels */
    INT8_SLACK = 128, /* bytes that may be read behind a tensor */
};

/* From sums to outputs. Arrays are filled up to whole groups, or blocks of a depthwise layer, in the kernels'
 * order. */
struct int8_end {
    const int32_t *start; /* what a sum begins with: the bias, less the input's zero times the weights */
    const float *multiplier, *out_multiplier; /* out_multiplier: of SiLU and sigmoid, else NULL */
    float residual_multiplier;
    int residual_zero, zero, low, high;
    bool wide;   /* the output has 15 bits in 16, not bytes */
    bool floats; /* the last layer: of floats by `activation` alone */
    enum effnet_activation activation;
};

struct int8_dense {
    int depth, outputs;
    const void *weights; /* as pack_dense left them */
    struct int8_end end;
};

struct int8_depthwise {
    int channels, kernel, stride, pad_top, pad_left;
    int in_height, in_width, out_width;
    bool wide;           /* the map has 15 bits in 16, not bytes */
    const void *weights; /* as pack_depthwise left them */
    const void *zeros;   /* [channels], and INT8_SLACK bytes: a pixel outside of the map */
    struct int8_end end;
};

struct int8_kernels {
    const char *name;
    bool (*supported)(void);

    /* Bytes of packed weights, and of what a call of dense needs beside. */
    size_t (*dense_bytes)(int depth, int outputs);
    size_t (*dense_scratch)(int depth, int rows);
    /* weights [outputs][depth] */
    void (*pack_dense)(int depth, int outputs, const int8_t *weights, void *packed);
    /* Rows in[rows][depth], of output channels 16 first_group to 16 end_group: out[rows][outputs]: bytes,
     * wide or floats. residual, bytes, may be NULL. */
    void (*dense)(const struct int8_dense *d, const uint8_t *in, int rows, int first_group, int end_group,
                  const uint8_t *residual, void *out, void *scratch);

    /* Whether depthwise can; the plain one can always. */
    bool (*has_depthwise)(const struct effnet_layer *layer);
    int block; /* channels that depthwise computes at a time: its arrays are filled up to a multiple */
    /* Where in a block's arrays the channel at place `at` of it lies. */
    int (*place)(int at, bool wide);
    size_t (*depthwise_bytes)(int channels, int kernel, bool wide);
    /* weights [channels][kernel][kernel] */
    void (*pack_depthwise)(int channels, int kernel, bool wide, const int8_t *weights, void *packed);
    /* Rows first_row to end_row of the output, channels block * first_block to block * end_block. residual,
     * bytes, may be NULL. */
    void (*depthwise)(const struct int8_depthwise *d, const void *map, int first_row, int end_row,
                      int first_block, int end_block, const uint8_t *residual, void *out);

    /* Each of a map's pixels [channels], less `zero`, times factors[channels], whole numbers. end's
     * multipliers are in the channels' order, and may be read, as the factors, up to the next multiple of 16.
     */
    void (*scale)(const struct int8_end *end, const uint8_t *map, int zero, const float *factors, int pixels,
                  int channels, void *out);
};

/* e^-x, SiLU and sigmoid as docs/weights-format.md defines them: by these operations in this order, so that
 * vectors give the same bits. */
#define INT8_EXP_LIMIT  80.0f
#define INT8_LOG2_E     0x1.715476p+0f
#define INT8_MINUS_LN2  (-0x1.62e430p-1f)
#define INT8_MINUS_LN2B 0x1.05c610p-29f /* the rest of it */
#define INT8_MOST_STEPS 0x1p20f         /* before an output step is rounded */
static const float int8_exp_terms[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};
enum { INT8_EXP_TERMS = sizeof int8_exp_terms / sizeof int8_exp_terms[0] };

static inline int int8_groups(int outputs)
{
    return (outputs + INT8_GROUP - 1) / INT8_GROUP;
}

extern const struct int8_kernels int8_plain;
#if defined(__x86_64__)
extern const struct int8_kernels int8_avx2, int8_vnni;
#endif

/* All that were built, the slowest first; ends with NULL. */
extern const struct int8_kernels *const int8_all_kernels[];

/* The fastest that this processor runs. */
const struct int8_kernels *int8_best_kernels(void);

#endif
