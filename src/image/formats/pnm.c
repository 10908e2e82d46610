/* PBM, PGM and PPM, plain (P1 to P3) and raw (P4 to P6), by hand: stb_image ignores the maximum value,
 * takes the low byte of 16-bit samples and does not know P1 to P4, and Netpbm's own library exits on
 * errors. Samples are scaled to 0..255 and rounded as Pillow does:
 *
 *   round_half_even(sample / maximum * 255), at most 255
 *
 * Grey of more than 8 bits is scaled to 0..65535 in the same way, as Pillow does, and its high byte is kept,
 * as of a PNG's. (Pillow's convert("RGB") clips it at 255, which turns nearly everything white.)
 *
 * A file with several images gives its first. */
#include "image/formats/formats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

struct pnm {
    const struct image_source *source;
    size_t at;
    int kind; /* 1 to 6, the digit of the signature */
    int channels, maximum;
    uint8_t *scale; /* [maximum + 1], sample to 0..255 */
};

static bool is_space(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Steps over white space and over comments, which go from # to the end of the line. */
static void skip_space(struct pnm *pnm)
{
    const struct image_source *source = pnm->source;
    bool comment = false;
    for (; pnm->at < source->size_bytes; pnm->at++) {
        uint8_t c = source->data[pnm->at];
        if (comment)
            comment = c != '\n' && c != '\r';
        else if (c == '#')
            comment = true;
        else if (!is_space(c))
            return;
    }
}

/* The next number, at most `limit`. */
static int read_number(struct pnm *pnm, int limit, int *value)
{
    const struct image_source *source = pnm->source;
    skip_space(pnm);
    size_t first = pnm->at;
    int64_t number = 0;
    while (pnm->at < source->size_bytes && source->data[pnm->at] >= '0' && source->data[pnm->at] <= '9') {
        number = number * 10 + (source->data[pnm->at++] - '0');
        if (number > limit) return image_fail(source, "bad PNM: a number above %d", limit);
    }
    if (pnm->at > first) {
        *value = (int)number;
        return EFFNET_OK;
    }
    if (pnm->at == source->size_bytes) return image_fail_truncated(source);
    return image_fail(source, "bad PNM: a number is expected at byte %zu", first);
}

static int make_scale(struct pnm *pnm)
{
    size_t size = (size_t)pnm->maximum + 1;
    pnm->scale = malloc(size);
    if (!pnm->scale) return effnet_fail_nomem(pnm->source->error, pnm->source->name, size);
    bool deep_grey = pnm->channels == 1 && pnm->maximum > 255;
    for (int i = 0; i <= pnm->maximum; i++) {
        double share = (double)i / pnm->maximum;
        pnm->scale[i] = (uint8_t)(deep_grey ? (int)nearbyint(share * 65535) >> 8
                                            : (int)nearbyint(share * 255));
    }
    return EFFNET_OK;
}

static int read_plain(struct pnm *pnm, const struct effnet_image *image)
{
    size_t pixels = (size_t)image->width * (size_t)image->height;
    uint8_t *out = image->rgb;
    for (size_t i = 0; i < pixels; i++, out += 3) {
        for (int c = 0; c < pnm->channels; c++) {
            int sample;
            EFFNET_TRY(read_number(pnm, pnm->maximum, &sample));
            out[c] = pnm->scale[sample];
        }
        if (pnm->channels == 1) out[1] = out[2] = out[0];
    }
    return EFFNET_OK;
}

/* P1's samples are single digits, with or without space between them, and 1 is black. */
static int read_plain_bits(struct pnm *pnm, const struct effnet_image *image)
{
    const struct image_source *source = pnm->source;
    size_t pixels = (size_t)image->width * (size_t)image->height;
    for (size_t i = 0; i < pixels; i++) {
        skip_space(pnm);
        if (pnm->at == source->size_bytes) return image_fail_truncated(source);
        uint8_t c = source->data[pnm->at++];
        if (c != '0' && c != '1')
            return image_fail(source, "bad PNM: neither 0 nor 1 at byte %zu", pnm->at - 1);
        memset(image->rgb + i * 3, c == '0' ? 255 : 0, 3);
    }
    return EFFNET_OK;
}

/* P4: eight pixels a byte, the first in the high bit, 1 is black; each row begins a byte. */
static void read_raw_bits(const uint8_t *in, const struct effnet_image *image)
{
    size_t row_bytes = ((size_t)image->width + 7) / 8;
    uint8_t *out = image->rgb;
    for (int y = 0; y < image->height; y++, in += row_bytes)
        for (int x = 0; x < image->width; x++, out += 3)
            memset(out, in[x / 8] >> (7 - x % 8) & 1 ? 0 : 255, 3);
}

/* P5 and P6: one byte a sample, or two, high byte first, if the maximum is above 255. */
static void read_raw(const struct pnm *pnm, const uint8_t *in, const struct effnet_image *image)
{
    size_t pixels = (size_t)image->width * (size_t)image->height;
    uint8_t *out = image->rgb;
    for (size_t i = 0; i < pixels; i++, out += 3) {
        for (int c = 0; c < pnm->channels; c++) {
            int sample = *in++;
            if (pnm->maximum > 255) sample = sample << 8 | *in++;
            out[c] = sample <= pnm->maximum ? pnm->scale[sample] : 255;
        }
        if (pnm->channels == 1) out[1] = out[2] = out[0];
    }
}

/* Fewest bytes that `height` rows of `width` pixels take. */
static size_t size_needed(const struct pnm *pnm, size_t width, size_t height)
{
    size_t samples = width * height * (size_t)pnm->channels;
    if (pnm->kind == 1) return samples;
    if (pnm->kind < 4) return samples * 2 - 1; /* a digit each, and space between them */
    if (pnm->kind == 4) return (width + 7) / 8 * height;
    return pnm->maximum > 255 ? samples * 2 : samples;
}

static int read_pixels(struct pnm *pnm, int width, int height, struct effnet_image *out)
{
    const struct image_source *source = pnm->source;
    if (pnm->maximum < 1) return image_fail(source, "bad PNM: the maximum is 0");
    /* Checked first, so that a short file cannot ask for much memory. */
    EFFNET_TRY(image_check_size(source, width, height));
    if (source->size_bytes - pnm->at < size_needed(pnm, (size_t)width, (size_t)height))
        return image_fail_truncated(source);
    EFFNET_TRY(make_scale(pnm));
    EFFNET_TRY(image_alloc(source, width, height, out));
    switch (pnm->kind) {
    case 1: return read_plain_bits(pnm, out);
    case 2:
    case 3: return read_plain(pnm, out);
    case 4: read_raw_bits(source->data + pnm->at, out); break;
    default: read_raw(pnm, source->data + pnm->at, out); break;
    }
    return EFFNET_OK;
}

static bool matches(const uint8_t *data, size_t size_bytes)
{
    return size_bytes >= 3 && data[0] == 'P' && data[1] >= '1' && data[1] <= '6' &&
           (is_space(data[2]) || data[2] == '#');
}

static int read_header(struct pnm *pnm, int *width, int *height)
{
    const struct image_source *source = pnm->source;
    pnm->at = 2;
    pnm->kind = source->data[1] - '0';
    pnm->channels = pnm->kind % 3 == 0 ? 3 : 1;
    pnm->maximum = 1;
    EFFNET_TRY(read_number(pnm, INT32_MAX, width));
    EFFNET_TRY(read_number(pnm, INT32_MAX, height));
    if (pnm->kind % 3 != 1) EFFNET_TRY(read_number(pnm, 65535, &pnm->maximum));
    if (pnm->kind < 4 || pnm->at == source->size_bytes) return EFFNET_OK;

    /* One byte of white space ends a raw image's header: what follows may look like space, too. */
    if (!is_space(source->data[pnm->at])) return image_fail(source, "bad PNM: no space behind the header");
    pnm->at++;
    return EFFNET_OK;
}

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    (void)facts;
    struct pnm pnm = {.source = source};
    int width, height;
    EFFNET_TRY(read_header(&pnm, &width, &height));
    int status = read_pixels(&pnm, width, height, out);
    free(pnm.scale);
    return status;
}

/* Between plain numbers, and in the header, space and comments can be of any length. */
static int extent(const struct image_source *start, uint64_t *extent_bytes)
{
    struct pnm pnm = {.source = start};
    int width, height;
    int status = read_header(&pnm, &width, &height);
    *extent_bytes = UINT64_MAX;
    if (pnm.at == start->size_bytes) return EFFNET_OK;
    if (!status) status = image_check_size(start, width, height);
    if (!status && pnm.kind >= 4) *extent_bytes = pnm.at + size_needed(&pnm, (size_t)width, (size_t)height);
    return status;
}

const struct image_format image_format_pnm = {"PNM", matches, decode, extent};
