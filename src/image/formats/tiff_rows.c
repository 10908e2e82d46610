#include "image/formats/tiff_rows.h"

#include <string.h>

int tiff_samples_used(const struct tiff_pixel *pixel)
{
    static const int colours[] = {[TIFF_TABLE] = 1, [TIFF_COLOURS] = 3, [TIFF_INKS] = 4};
    return colours[pixel->kind] + (pixel->alpha != TIFF_NO_ALPHA);
}

/* The first sample is in a byte's high bits. */
static void unpack_small(const uint8_t *packed, unsigned bits, size_t count, uint8_t *samples)
{
    const unsigned a_byte = 8 / bits, mask = (1u << bits) - 1;
    for (size_t i = 0; i < count; i++)
        samples[i] = (uint8_t)(packed[i / a_byte] >> (8 - bits - i % a_byte * bits) & mask);
}

/* Two samples in three bytes. */
static void unpack_12(const uint8_t *packed, size_t count, uint8_t *samples)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t *pair = packed + i / 2 * 3;
        samples[i] = i % 2 ? (uint8_t)((pair[1] & 15) << 4 | pair[2] >> 4) : pair[0];
    }
}

static void unpack_16(const uint8_t *packed, size_t count, uint8_t *samples)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t value;
        memcpy(&value, packed + 2 * i, 2);
        samples[i] = (uint8_t)(value >> 8);
    }
}

void tiff_unpack(const uint8_t *packed, int bits, size_t count, uint8_t *samples)
{
    if (bits == 16)
        unpack_16(packed, count, samples);
    else if (bits == 12)
        unpack_12(packed, count, samples);
    else if (bits == 8)
        memcpy(samples, packed, count);
    else
        unpack_small(packed, (unsigned)bits, count, samples);
}

/* A sample of fewer than 8 bits, from 0 to 255. */
static uint8_t scale(const struct tiff_pixel *pixel, uint8_t sample)
{
    return pixel->bits < 8 ? (uint8_t)(sample * 255 / ((1 << pixel->bits) - 1)) : sample;
}

/* Inks as Pillow mixes them: each takes its part of what black leaves, rounded to the nearest. */
static void put_inks(const struct tiff_pixel *pixel, const uint8_t *inks, uint8_t *rgb)
{
    const int light = 255 - scale(pixel, inks[3]);
    for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)(((255 - scale(pixel, inks[c])) * light + 127) / 255);
}

static void put_colour(const struct tiff_pixel *pixel, const uint8_t *samples, uint8_t *rgb)
{
    switch (pixel->kind) {
    case TIFF_TABLE: memcpy(rgb, pixel->table[samples[0]], 3); break;
    case TIFF_COLOURS:
        memcpy(rgb, samples, 3);
        for (int c = 0; c < 3 && pixel->bits < 8; c++) rgb[c] = scale(pixel, samples[c]);
        break;
    case TIFF_INKS: put_inks(pixel, samples, rgb); break;
    }
}

/* Undoes the multiplication by alpha, as Pillow does: rounded down, and black where alpha is 0. */
static void divide(uint8_t *rgba)
{
    const int alpha = rgba[3];
    for (int c = 0; c < 3; c++) {
        const int value = alpha ? rgba[c] * 255 / alpha : 0;
        rgba[c] = (uint8_t)(value < 255 ? value : 255);
    }
}

void tiff_put_row(const struct image_source *source, const struct tiff_pixel *pixel, const uint8_t *samples,
                  size_t stride, size_t count, uint8_t *rgb, struct image_facts *facts)
{
    enum { AT_A_TIME = 256 };
    uint8_t rgba[AT_A_TIME][4];
    if (pixel->alpha == TIFF_NO_ALPHA) {
        for (size_t i = 0; i < count; i++) put_colour(pixel, samples + i * stride, rgb + 3 * i);
        return;
    }
    const int alpha_at = tiff_samples_used(pixel) - 1;
    for (size_t i = 0; i < count; i += AT_A_TIME) {
        const size_t pixels = count - i < AT_A_TIME ? count - i : AT_A_TIME;
        for (size_t k = 0; k < pixels; k++, samples += stride) {
            put_colour(pixel, samples, rgba[k]);
            rgba[k][3] = scale(pixel, samples[alpha_at]);
            if (pixel->alpha == TIFF_MULTIPLIED_ALPHA) divide(rgba[k]);
        }
        image_put_rgba(source, facts, rgba[0], pixels, rgb + 3 * i);
    }
}
