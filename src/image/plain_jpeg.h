/* Which JPEGs a decoder in hardware may be given. */
#ifndef EFFNET_IMAGE_PLAIN_JPEG_H
#define EFFNET_IMAGE_PLAIN_JPEG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether it is what most cameras and programs write, whole and upright: baseline (SOF0), 8 bits, one scan of
 * all components, which are grey or YCbCr with luma sampled 1x1, 2x1, 1x2 or 2x2; valid tables; as many
 * restart markers as the header asks for, in order, and an end marker behind the scan. Bytes behind that do
 * not count. The scan's codes are not looked at: a scan that is short or damaged between its markers passes.
 * Takes any bytes; true gives the size in pixels. */
bool image_is_plain_jpeg(const uint8_t *data, size_t size_bytes, int *width, int *height);

#endif
