#include "image/resize_kernels.h"

const struct resize_kernels *const resize_all_kernels[] = {
    &resize_plain,
#if defined(__x86_64__)
    &resize_avx2,
    &resize_vnni,
#endif
    NULL,
};

const struct resize_kernels *resize_best_kernels(void)
{
    const struct resize_kernels *best = resize_all_kernels[0];
    for (int i = 1; resize_all_kernels[i]; i++)
        if (resize_all_kernels[i]->supported()) best = resize_all_kernels[i];
    return best;
}
