/* How a kernel's launcher becomes a struct kernel_config. */
#ifndef EFFNET_KERNELS_KERNEL_CONFIG_CUH
#define EFFNET_KERNELS_KERNEL_CONFIG_CUH

#include "kernel_config.h"

/* Only for its type: the arguments that a function `fits` takes. */
template <class Args> Args args_of(bool (*)(const Args &));

/* Arguments as the kernels read them. A family whose kernels read an activation's bounds overloads it. */
template <class Args> const Args &for_kernel(const Args &args)
{
    return args;
}

/* From a struct L with the static functions fits(args), shared_bytes(args) and launch(for_kernel(args),
 * stream).
 */
template <class L> constexpr kernel_config make_config(const char *name, int architecture = 0)
{
    using args = decltype(args_of(L::fits));
    return {name,
            architecture,
            [](const void *a) { return L::fits(*static_cast<const args *>(a)); },
            [](const void *a) { return L::shared_bytes(*static_cast<const args *>(a)); },
            [](const void *a, cudaStream_t stream) {
                return L::launch(for_kernel(*static_cast<const args *>(a)), stream);
            },
            nullptr,
            nullptr};
}

/* The same, and cost_us(args, sms). */
template <class L> constexpr kernel_config make_config_with_cost(const char *name, int architecture = 0)
{
    kernel_config config = make_config<L>(name, architecture);
    config.cost_us = [](const void *a, int sms) {
        return L::cost_us(*static_cast<const decltype(args_of(L::fits)) *>(a), sms);
    };
    return config;
}

/* As make_config, and sum_parts(args). */
template <class L> constexpr kernel_config make_config_with_sums(const char *name)
{
    kernel_config config = make_config<L>(name);
    config.sum_parts = [](const void *a) {
        return L::sum_parts(*static_cast<const decltype(args_of(L::fits)) *>(a));
    };
    return config;
}

#endif
