#include "backend/int8/kernels.h"

const struct int8_kernels *const int8_all_kernels[] = {
    &int8_plain,
#if defined(__x86_64__)
    &int8_avx2,
    &int8_vnni,
#endif
    NULL,
};

const struct int8_kernels *int8_best_kernels(void)
{
    const struct int8_kernels *best = int8_all_kernels[0];
    for (int i = 1; int8_all_kernels[i]; i++)
        if (int8_all_kernels[i]->supported()) best = int8_all_kernels[i];
    return best;
}
