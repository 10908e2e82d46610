/* What the decoders share: limits, allocation, messages, alpha. */
#include "image/image.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/error.h"
#include "image/workspace.h"

int image_fail(const struct image_source *source, const char *format, ...)
{
    char reason[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    return effnet_fail(source->error, EFFNET_E_DATA, "%s: %s", source->name, reason);
}

bool image_buffer_reserve(struct image_buffer *buffer, size_t size_bytes)
{
    bool too_large = buffer->capacity > IMAGE_KEPT_BYTES && size_bytes < buffer->capacity / 4;
    if (buffer->data && buffer->capacity >= size_bytes && !too_large) return true;
    image_buffer_free(buffer);
    uint8_t *data = malloc(size_bytes);
    if (data) *buffer = (struct image_buffer){data, size_bytes};
    return data;
}

void image_buffer_free(struct image_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct image_buffer){0};
}

int image_check_size(const struct image_source *source, int64_t width, int64_t height)
{
    if (width < 1 || height < 1)
        return image_fail(source, "bad size, %lld x %lld", (long long)width, (long long)height);
    if (width > IMAGE_MAX_SIDE || height > IMAGE_MAX_SIDE)
        return image_fail(source, "too large, %lld x %lld; the longest side allowed is %d", (long long)width,
                          (long long)height, IMAGE_MAX_SIDE);
    if (width * height > source->max_pixels)
        return image_fail(source, "too large, %lld x %lld is more than the limit of %lld pixels",
                          (long long)width, (long long)height, (long long)source->max_pixels);
    const struct image_gate *gate = source->gate;
    if (gate && width * height * 3 > IMAGE_LARGE_BYTES && !gate->pass(gate->context))
        return image_fail(source, "not wanted any more");
    return EFFNET_OK;
}

int image_alloc(const struct image_source *source, int64_t width, int64_t height, struct effnet_image *out)
{
    EFFNET_TRY(image_check_size(source, width, height));
    size_t size_bytes = (size_t)width * (size_t)height * 3;
    if (!image_buffer_reserve(source->pixels, size_bytes))
        return effnet_fail_nomem(source->error, source->name, size_bytes);
    *out = (struct effnet_image){.width = (int)width, .height = (int)height, .rgb = source->pixels->data};
    return EFFNET_OK;
}

int image_fail_truncated(const struct image_source *source)
{
    if (source->more)
        return image_fail(source, "more than %zu bytes, too large for an image", source->size_bytes);
    return image_fail(source, "truncated, the file ends before the image does");
}

int image_check_unpacked(const struct image_source *source, uint64_t bytes)
{
    uint64_t limit = UINT64_C(768) << 20;
    if (source->max_pixels > EFFNET_MAX_PIXELS_DEFAULT) limit = (uint64_t)source->max_pixels * 9 / 2;
    if (bytes <= limit) return EFFNET_OK;
    return image_fail(source, "too large, its rows unpack to %llu bytes, more than the limit of %llu",
                      (unsigned long long)bytes, (unsigned long long)limit);
}

uint64_t image_get_uint(const uint8_t *p, size_t bytes, bool big_endian)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++) value = value << 8 | p[big_endian ? i : bytes - 1 - i];
    return value;
}

void effnet_image_free(struct effnet_image *image)
{
    if (!image) return;
    free(image->rgb);
    *image = (struct effnet_image){0};
}

void image_note_alpha(struct image_facts *facts, uint8_t alpha)
{
    if (!facts->alpha_seen) facts->first_alpha = alpha;
    facts->alpha_seen = true;
    if (alpha != facts->first_alpha) facts->alpha_varies = true;
}

/* (colour * alpha + below * (255 - alpha)) / 255, rounded to the nearest: the same number as Pillow's
 * alpha_composite over an opaque image, and as its paste with a mask. */
static uint8_t blend(uint8_t colour, uint8_t below, uint8_t alpha)
{
    return (uint8_t)((colour * alpha + below * (255 - alpha) + 127) / 255);
}

void image_put_rgba(const struct image_source *source, struct image_facts *facts, const uint8_t *rgba,
                    size_t pixels, uint8_t *rgb)
{
    const uint8_t *background = source->background;
    for (size_t i = 0; i < pixels; i++, rgba += 4, rgb += 3) {
        uint8_t alpha = rgba[3];
        image_note_alpha(facts, alpha);
        for (int c = 0; c < 3; c++) rgb[c] = background ? blend(rgba[c], background[c], alpha) : rgba[c];
    }
}
