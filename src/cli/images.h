/* Images that verify and bench run on. */
#ifndef EFFNET_CLI_IMAGES_H
#define EFFNET_CLI_IMAGES_H

#include "effnet.h"

/* Draws image `index` of a seed into crop x crop x 3 bytes: smooth waves in each channel with a little
 * noise, so that activations are as with photos. */
void images_draw(uint64_t seed, int index, int crop, uint8_t *pixels);

/* Reads and fits n files into pixels [n][crop][crop][3]; reports the first that fails. */
int images_read(char *const *paths, int n, const struct effnet_preprocess *preprocess, uint8_t *pixels);

#endif
