/* For test_kernel_resources.py: every configuration of the kernels that have several, a line each:
 *
 *   kernel TAB configuration TAB 1 where it is built for sm_90a alone, else 0 TAB bytes of shared memory
 *
 * with the most dynamic shared memory over all channel counts that the networks may have. Needs no device.
 * Exits with 77 where the build has no CUDA. */
#include <stdio.h>

#ifdef EFFNET_HAVE_CUDA
#include "depthwise.h"
#include "first_block.h"
#include "linear.h"
#include "pointwise.h"

enum { CHANNELS_MAX = 2560, ROWS = 64 * 64, POOL_ROWS = 8 * 8 };

/* With and without what takes memory of its own. Pointers are not looked at, only whether they are NULL. */
static int pointwise_most_shared_bytes(int config)
{
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
                                                    .pool_rows = extras & 4 ? POOL_ROWS : 0,
                                                    .w_low = extras & 8};
                const int bytes = pointwise_config_shared_bytes(config, &args);
                if (bytes > most) most = bytes;
            }
    return most;
}

int main(void)
{
    for (int i = 0; i < linear_config_count(); i++) {
        const struct linear_config *config = linear_config_get(i);
        printf("linear\t%s\t%d\t%d\n", config->name, config->sm90a, config->shared_bytes);
    }
    for (int i = 0; i < pointwise_config_count(); i++)
        printf("pointwise\t%s\t%d\t%d\n", pointwise_config_name(i), pointwise_config_sm90a(i),
               pointwise_most_shared_bytes(i));
    for (int i = 0; i < first_block_config_count(); i++)
        printf("first_block\t%s\t0\t%d\n", first_block_config_name(i), first_block_config_shared_bytes(i));
    for (int i = 0; i < depthwise_config_count(); i++)
        printf("depthwise\t%s\t0\t0\n", depthwise_config_name(i)); /* no dynamic memory */
    return 0;
}

#else

int main(void)
{
    puts("skipped: built without CUDA");
    return 77;
}

#endif
