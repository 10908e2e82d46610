/* Integer networks for tests. */
#ifndef EFFNET_TESTS_WEIGHTS_INTEGER_H
#define EFFNET_TESTS_WEIGHTS_INTEGER_H

#include "weights_builder.h"

/* Makes a network of floats, with activations none, relu, relu6, silu and sigmoid alone, one of integers:
 * drawn weights of the same shapes, and scales with which most bytes are neither 0 nor 255. */
void weights_make_integer(struct weights *w);

/* An integer network with every op that there is: odd maps, channels that no vector width divides, windows of
 * 3 and 5, strides 1 to 3, asymmetric padding, a residual before a ReLU, two linear layers. 21 x 21 images,
 * 11 classes. */
struct weights *weights_tiny_integer(uint64_t seed);

/* weights_tiny_excited made one of integers. */
struct weights *weights_excited_integer(uint64_t seed);

/* An integer network of random layers, squeeze-and-excite among them, from one to 300 channels, on maps of 1
 * to 40 pixels a side. */
struct weights *weights_random_integer(uint64_t seed);

#endif
