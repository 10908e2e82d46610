#ifndef EFFNET_IMAGE_FORMATS_PNG_TEXT_H
#define EFFNET_IMAGE_FORMATS_PNG_TEXT_H

#include "image/image.h"

/* The orientation that a PNG's metadata tells, before or behind the pixels: 1 to 8, 0 for none. As in Pillow:
 * the EXIF chunk, else the text "Raw profile type exif" that ImageMagick and ExifTool write, and where EXIF
 * does not speak of it, XMP. What is broken tells nothing. */
int png_text_orientation(const uint8_t *data, size_t size_bytes);

#endif
