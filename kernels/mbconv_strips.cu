/* mbconv in strips, within the shared memory that every chip has. */
#include "mbconv_strips.cuh"

using namespace mbconv;

extern const kernel_config mbconv::strip_configs[] = {
    /*                     in out K  S lead tiles warps blocks buffers late */
    make_config<launcher<strip<2, 3, 3, 2, 0, 4, 6, 4, 2, true>>>("strips 16-24, 3x3 s2"),
    make_config<launcher<strip<2, 3, 3, 2, 1, 4, 6, 4, 2, true>>>("strips 16-24, 3x3 s2 lead"),
    make_config<launcher<strip<3, 3, 3, 1, 1, 4, 9, 2, 2, false>>>("strips 24-24, 3x3"),
    {},
};
