/* The bytes of an image file. */
#ifndef EFFNET_IMAGE_READ_H
#define EFFNET_IMAGE_READ_H

#include "image/image.h"

/* Reads as much of a file as its decoder may want, which its first bytes tell, into `bytes`: source->data,
 * ->size_bytes and ->more. `path` "-" is standard input. source->name, ->error and ->max_pixels are set. */
int image_read_file(const char *path, struct image_source *source, struct image_buffer *bytes);

#endif
