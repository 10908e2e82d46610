/* For test_kernel_resources.py: every configuration of the kernels that have several, a line each:
 *
 *   kernel TAB configuration TAB 1 where it is built for sm_90a alone, else 0 TAB bytes of shared memory
 *
 * with the most dynamic shared memory over the shapes below, or -1 where none of them fits. Needs no device.
 * Exits with 77 where the build has no CUDA. */
#include <stdio.h>

#ifdef EFFNET_HAVE_CUDA
#include "depthwise.h"
#include "expand_depthwise.h"
#include "first_block.h"
#include "linear.h"
#include "mbconv.h"
#include "pointwise.h"
#include "squeeze_excite.h"
#include "stem.h"

static void raise_most(const struct kernel_family *family, const struct kernel_config *config,
                       const void *args, int *most)
{
    if (!family->valid(args) || !config->fits(args)) return;
    const int bytes = config->shared_bytes(args);
    if (bytes > *most) *most = bytes;
}

/* Over all channel counts that the networks may have, with and without what takes memory of its own. Pointers
 * are not looked at, only whether they are NULL. */
static int pointwise_most(const struct kernel_config *config)
{
    enum { CHANNELS_MAX = 2560, ROWS = 64 * 64, POOL_ROWS = 8 * 8 };
    static const char there;
    int most = -1;
    for (int n = 8; n <= CHANNELS_MAX; n += 8)
        for (int k = 8; k <= CHANNELS_MAX; k += 8)
            for (int extras = 0; extras < 16; extras++) {
                const struct pointwise_args args = {.m = ROWS,
                                                    .n = n,
                                                    .k = k,
                                                    .residual = extras & 1 ? &there : NULL,
                                                    .input_bias = extras & 2 ? &there : NULL,
                                                    .input_activation = ACTIVATION_RELU,
                                                    .pool_rows = extras & 4 ? POOL_ROWS : 0,
                                                    .w_low = extras & 8};
                raise_most(&pointwise_kernels, config, &args, &most);
            }
    return most;
}

static int depthwise_most(const struct kernel_config *config)
{
    const struct depthwise_args args = {.n = 1,
                                        .channels = 8,
                                        .height = 4,
                                        .width = 4,
                                        .out_height = 4,
                                        .out_width = 4,
                                        .kernel = 3,
                                        .stride = 1};
    int most = -1;
    raise_most(&depthwise_kernels, config, &args, &most);
    return most;
}

/* What takes memory grows with everything: of what fits, the most. */
static int expand_depthwise_most(const struct kernel_config *config)
{
    static const int in_channels[] = {64, 128, 192, 320};
    int most = -1;
    for (int i = 0; i < 4; i++)
        for (int side = 1; side <= 256; side++)
            for (int window = 0; window < 4; window++) {
                const int stride = window / 2 + 1;
                const struct expand_depthwise_args args = {.n = 1,
                                                           .in_channels = in_channels[i],
                                                           .channels = 8,
                                                           .height = side,
                                                           .width = side,
                                                           .out_height = (side + stride - 1) / stride,
                                                           .out_width = (side + stride - 1) / stride,
                                                           .kernel = window % 2 ? 5 : 3,
                                                           .stride = stride};
                raise_most(&expand_depthwise_kernels, config, &args, &most);
            }
    return most;
}

static int first_block_most(const struct kernel_config *config)
{
    const struct first_block_args args = {.n = 1,
                                          .height = 8,
                                          .width = 8,
                                          .out_height = 4,
                                          .out_width = 4,
                                          .stem_activation = ACTIVATION_RELU,
                                          .depthwise_activation = ACTIVATION_RELU};
    int most = -1;
    raise_most(&first_block_kernels, config, &args, &most);
    return most;
}

/* `window`: kernel and stride; `size`: of the map, of the three for which there are kernels. */
static void raise_mbconv(const struct kernel_config *config, int in, int out, int window, int pad,
                         bool residual, int size, int *most)
{
    const int stride = window / 2 + 1,
              side = size == 0   ? 8
                     : size == 1 ? 15
                                 : 32 * stride,
              out_side = (side + stride - 1) / stride;
    const struct mbconv_args args = {.n = 1,
                                     .in_channels = in,
                                     .hidden = 6 * in,
                                     .out_channels = out,
                                     .height = side,
                                     .width = side,
                                     .out_height = out_side,
                                     .out_width = out_side,
                                     .kernel = window % 2 ? 5 : 3,
                                     .stride = stride,
                                     .pad_top = pad,
                                     .pad_left = pad,
                                     .residual = residual,
                                     .two_parts = !residual,
                                     .expand_activation = ACTIVATION_RELU,
                                     .depthwise_activation = ACTIVATION_RELU};
    raise_most(&mbconv_kernels, config, &args, most);
}

/* The shapes for which there are configurations, each with the most hidden channels and weights in two parts.
 */
static int mbconv_most(const struct kernel_config *config)
{
    int most = -1;
    for (int in = 16; in <= 192; in += 8)
        for (int out = 16; out <= 320; out += 8)
            for (int window = 0; window < 4; window++)
                for (int pad = 0; pad <= 2; pad++)
                    for (int residual = 0; residual <= (in == out && window < 2); residual++)
                        for (int i = 0; i < 3; i++)
                            raise_mbconv(config, in, out, window, pad, residual, i, &most);
    return most;
}

static int stem_most(const struct kernel_config *config)
{
    int most = -1;
    for (int channels = 32; channels <= 48; channels += 8) {
        const struct stem_args args = {
            .n = 1, .height = 8, .width = 8, .out_height = 4, .out_width = 4, .channels = channels};
        raise_most(&stem_kernels, config, &args, &most);
    }
    return most;
}

/* What takes memory grows with channels and hidden channels: of those that fit, the largest count. */
static int squeeze_excite_most(const struct kernel_config *config)
{
    enum { CHANNELS_MAX = 4096, REDUCED_MAX = 1024 };
    int most = -1;
    for (int channels = 8; channels <= CHANNELS_MAX; channels += 8)
        for (int reduced = 1; reduced <= REDUCED_MAX; reduced++) {
            const struct squeeze_excite_args args = {
                .n = 1, .parts = 1, .channels = channels, .reduced = reduced};
            raise_most(&squeeze_excite_kernels, config, &args, &most);
        }
    return most;
}

/* For each way that x and w may come in; what takes memory grows with k. */
static int linear_most(const struct kernel_config *config)
{
    static _Alignas(16) float memory[4];
    int most = -1;
    for (int x_type = LINEAR_FP16; x_type <= LINEAR_FP32; x_type++)
        for (int64_t k = 1 << 20; k > (1 << 20) - 8; k -= 7) { /* aligned rows, and others */
            const struct linear_args args = {.x = memory,
                                             .w = memory,
                                             .y = memory,
                                             .m = 4096,
                                             .n = 4096,
                                             .k = k,
                                             .ldx = k,
                                             .ldw = k,
                                             .ldy = 4096,
                                             .x_type = x_type};
            raise_most(&linear_kernels, config, &args, &most);
        }
    return most;
}

static void print_family(const struct kernel_family *family, int (*most)(const struct kernel_config *))
{
    const struct kernel_config *config;
    for (int i = 0; (config = kernel_get(family, i)); i++)
        printf("%s\t%s\t%d\t%d\n", family->name, config->name, config->architecture == 90, most(config));
}

int main(void)
{
    print_family(&linear_kernels, linear_most);
    print_family(&pointwise_kernels, pointwise_most);
    print_family(&first_block_kernels, first_block_most);
    print_family(&depthwise_kernels, depthwise_most);
    print_family(&expand_depthwise_kernels, expand_depthwise_most);
    print_family(&mbconv_kernels, mbconv_most);
    print_family(&stem_kernels, stem_most);
    print_family(&squeeze_excite_kernels, squeeze_excite_most);
    return 0;
}

#else

int main(void)
{
    puts("skipped: built without CUDA");
    return 77;
}

#endif
