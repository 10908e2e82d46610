/* fp32's spacing. */
#ifndef EFFNET_TESTS_ULP_H
#define EFFNET_TESTS_ULP_H

#include <math.h>

/* From |value| to the next larger number; among the subnormals, theirs. */
static inline double ulp(float value)
{
    const float near = fabsf(value);
    return near < 0x1p-126f ? 0x1p-149 : (double)(nextafterf(near, INFINITY) - near);
}

#endif
