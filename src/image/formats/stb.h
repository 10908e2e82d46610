#ifndef EFFNET_IMAGE_FORMATS_STB_H
#define EFFNET_IMAGE_FORMATS_STB_H

#include "image/image.h"

/* Decodes a JPEG; `format` is its name for messages. On failure *out is zeroed. A file that
 * ends early is refused as truncated. */
int image_stb_decode(const struct image_source *source, const char *format, struct effnet_image *out,
                     struct effnet_error *error);

#endif
