/* What an AVIF may cost, as far as its bytes tell before libavif works on them: an image may hide any number
 * of AV1 frames, of which one shows. */
#ifndef EFFNET_IMAGE_FORMATS_AVIF_COST_H
#define EFFNET_IMAGE_FORMATS_AVIF_COST_H

#include "image/image.h"

/* Fails with EFFNET_E_DATA where the file's AV1 is too long, has too many frames or is not all there, and
 * where there is none. *most_pixels: of the largest frame. */
int avif_check_cost(const struct image_source *source, uint64_t *most_pixels);

#endif
