/* Finding, checking and launching configurations, whatever their family (kernel_config.h). */
#include "device.cuh"
#include "kernel_config.h"

#include <string.h>

const kernel_config *kernel_get(const kernel_family *family, int index)
{
    for (int i = 0; index >= 0 && i < KERNEL_LISTS_MAX && family->lists[i]; i++)
        for (const kernel_config *c = family->lists[i]; c->name; c++)
            if (index-- == 0) return c;
    return nullptr;
}

int kernel_count(const kernel_family *family)
{
    int count = 0;
    for (int i = 0; i < KERNEL_LISTS_MAX && family->lists[i]; i++)
        for (const kernel_config *c = family->lists[i]; c->name; c++) count++;
    return count;
}

int kernel_find(const kernel_family *family, const char *name)
{
    for (int i = 0; const kernel_config *c = kernel_get(family, i); i++)
        if (!strcmp(c->name, name)) return i;
    return -1;
}

bool kernel_fits(const kernel_family *family, int index, const void *args)
{
    const kernel_config *c = kernel_get(family, index);
    return c && family->valid(args) && c->fits(args) &&
           (!c->architecture || c->architecture == compute_capability());
}

cudaError_t kernel_launch(const kernel_family *family, int index, const void *args, cudaStream_t stream)
{
    if (!kernel_fits(family, index, args)) return cudaErrorInvalidValue;
    return kernel_get(family, index)->launch(args, stream);
}
