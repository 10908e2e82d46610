/* The convolutions of both networks that cuDNN runs: the stem and the depthwise layers, from the networks'
 * stage tables. */
#ifndef EFFNET_TESTS_CUDNN_SHAPES_H
#define EFFNET_TESTS_CUDNN_SHAPES_H

#include <stdio.h>

#include "backend/cuda/cudnn/graph.h"
#include "random.h"

struct named_shape {
    char name[48];
    int layers; /* equal ones in the network; 0: another form of the layer before */
    struct cudnn_conv_shape shape;
};

struct stage {
    int repeats, kernel, stride, expand, out;
};

enum { NAMED_SHAPES_MAX = 64 };

/* One layer at `side` x `side`. `same`: TensorFlow's padding, the odd zero after; else kernel / 2 all round.
 */
static inline struct cudnn_conv_shape square_shape(int n, int side, int c_in, int c_out, int groups,
                                                   int kernel, int stride, bool same)
{
    int out = same ? (side + stride - 1) / stride : (side + kernel / 2 * 2 - kernel) / stride + 1;
    int total = same ? (out - 1) * stride + kernel - side : kernel / 2 * 2;
    if (total < 0) total = 0;
    int before = total / 2, after = total - before;
    return (struct cudnn_conv_shape){.n = n,
                                     .h = side,
                                     .w = side,
                                     .c_in = c_in,
                                     .out_h = out,
                                     .out_w = out,
                                     .c_out = c_out,
                                     .groups = groups,
                                     .kernel = kernel,
                                     .stride = stride,
                                     .pad_top = before,
                                     .pad_left = before,
                                     .pad_bottom = after,
                                     .pad_right = after};
}

static inline int network_shapes(const char *network, const struct stage *stages, int stage_count, bool same,
                                 int n, struct named_shape *out, int count)
{
    /* The image with three channels, and with the five that make a pixel 16 bytes. */
    for (int channels = 3; channels <= 8; channels += 5) {
        snprintf(out[count].name, sizeof out->name, "%s stem c%d", network, channels);
        out[count].layers = channels == 3;
        out[count++].shape = square_shape(n, 240, channels, 32, 1, 3, 2, same);
    }
    int side = 120, channels = 32, block = 0;
    for (int i = 0; i < stage_count; i++)
        for (int repeat = 0; repeat < stages[i].repeats; repeat++, block++) {
            int hidden = channels * stages[i].expand, stride = repeat ? 1 : stages[i].stride;
            struct cudnn_conv_shape shape = square_shape(n, side, hidden, hidden, hidden, stages[i].kernel,
                                                         stride, same);
            /* A stage's later blocks are equal. */
            if (repeat < 2) {
                snprintf(out[count].name, sizeof out->name, "%s %d.dw", network, block);
                out[count].layers = repeat ? stages[i].repeats - 1 : 1;
                out[count++].shape = shape;
            }
            side = shape.out_h;
            channels = stages[i].out;
        }
    return count;
}

/* All of them at batch n; returns how many. out[NAMED_SHAPES_MAX]. */
static inline int all_network_shapes(int n, struct named_shape *out)
{
    static const struct stage lite1[] = {{1, 3, 1, 1, 16}, {3, 3, 2, 6, 24},  {3, 5, 2, 6, 40},
                                         {4, 3, 2, 6, 80}, {4, 5, 1, 6, 112}, {5, 5, 2, 6, 192},
                                         {1, 3, 1, 6, 320}};
    static const struct stage b1_plain[] = {{1, 3, 1, 1, 16}, {1, 3, 2, 6, 24},  {1, 3, 2, 6, 40},
                                            {1, 3, 2, 6, 80}, {1, 3, 1, 6, 112}, {1, 3, 2, 6, 192},
                                            {1, 3, 1, 6, 320}};
    int count = network_shapes("lite1", lite1, 7, true, n, out, 0);
    return network_shapes("b1-plain", b1_plain, 7, false, n, out, count);
}

/* A small seeded shape of the kinds that go wrong: odd sizes, one pixel, other paddings on all sides, channel
 * counts off every tile; depthwise three times of four. */
static inline struct cudnn_conv_shape awkward_shape(uint64_t *state)
{
    static const int depthwise_channels[] = {1, 2, 3, 5, 8, 16, 24, 40, 72, 96, 129};
    static const int dense_channels[] = {1, 3, 4, 8, 13, 32, 33};
    for (;;) {
        struct cudnn_conv_shape s = {.n = random_int(state, 1, 4),
                                     .h = random_int(state, 1, 33),
                                     .w = random_int(state, 1, 33),
                                     .kernel = 2 * random_int(state, 0, 3) + 1,
                                     .stride = random_int(state, 1, 3)};
        if (random_int(state, 0, 3)) {
            s.c_in = s.c_out = s.groups = depthwise_channels[random_int(state, 0, 10)];
        } else {
            s.c_in = dense_channels[random_int(state, 0, 6)];
            s.c_out = dense_channels[random_int(state, 0, 6)];
            s.groups = 1;
        }
        s.pad_top = random_int(state, 0, s.kernel - 1);
        s.pad_left = random_int(state, 0, s.kernel - 1);
        s.pad_bottom = random_int(state, 0, s.kernel - 1);
        s.pad_right = random_int(state, 0, s.kernel - 1);
        int rows = s.h + s.pad_top + s.pad_bottom - s.kernel,
            columns = s.w + s.pad_left + s.pad_right - s.kernel;
        if (rows < 0 || columns < 0) continue;
        s.out_h = rows / s.stride + 1;
        s.out_w = columns / s.stride + 1;
        return s;
    }
}

#endif
