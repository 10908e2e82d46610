/* mbconv in strips, for more channels, whose d and weights take more shared memory. */
#include "mbconv_strips.cuh"

using namespace mbconv;

extern const kernel_config mbconv::wide_strip_configs[] = {
    /*                     in out K  S lead tiles warps blocks buffers late */
    make_config<launcher<strip<3, 5, 5, 2, 1, 4, 9, 2, 2, true>>>("strips 24-40, 5x5 s2", 90),
    make_config<launcher<strip<3, 5, 5, 2, 2, 4, 9, 2, 2, true>>>("strips 24-40, 5x5 s2 lead", 90),
    make_config<launcher<strip<5, 5, 5, 1, 2, 2, 15, 1, 2, true>>>("strips 40-40, 5x5, narrow", 90),
    make_config<launcher<strip<5, 5, 5, 1, 2, 4, 15, 1, 1, false>>>("strips 40-40, 5x5", 90),
    make_config<launcher<strip<5, 10, 3, 2, 0, 4, 15, 1, 2, true>>>("strips 40-80, 3x3 s2", 90),
    make_config<launcher<strip<5, 10, 3, 2, 1, 4, 15, 1, 2, true>>>("strips 40-80, 3x3 s2 lead", 90),
    {},
};
