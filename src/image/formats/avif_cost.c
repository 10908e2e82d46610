/* Reads as much of the container (ISO 14496-12) as tells where the images' AV1 is: the types of the items
 * (iinf) and the places of their bytes (iloc); and as much of AV1 as tells how many frames there are and how
 * large. What is malformed ends the search there, since it ends libavif's or the decoder's work, too. */
#include "image/formats/avif_cost.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"

/* libaom takes up to 175 ns a byte. */
#define MAX_AV1_BYTES UINT64_C(40000000)

/* Of all frames; a pixel takes 20 ns and more, whatever is coded. */
#define MAX_AV1_PIXELS ((uint64_t)EFFNET_MAX_PIXELS_DEFAULT)

/* For one of the lists in `meta`: libavif's time goes by the square of their entries. A grid of 256 tiles
 * takes 6 KB. */
enum { MAX_LIST_BYTES = 64 << 10 };

/* Bytes that are still to be read. */
struct span {
    const uint8_t *data;
    size_t size_bytes;
};

/* A number of the next `bytes` bytes, highest first; 0 where there are not as many, and then none are left.
 */
static uint64_t take(struct span *span, size_t bytes)
{
    if (span->size_bytes < bytes) bytes = span->size_bytes = 0;
    const uint64_t value = image_get_uint(span->data, bytes, true);
    span->data += bytes;
    span->size_bytes -= bytes;
    return value;
}

struct box {
    const uint8_t *type; /* four letters */
    struct span content;
    bool cut; /* it is to be longer than there are bytes */
};

static bool is_type(const uint8_t *type, const char *name)
{
    return memcmp(type, name, 4) == 0;
}

/* Takes the next box, as much as there is of it; false at the end. */
static bool take_box(struct span *span, struct box *box)
{
    if (span->size_bytes < 8) return false;
    uint64_t size_bytes = take(span, 4), header_bytes = 8;
    box->type = span->data;
    take(span, 4);
    if (size_bytes == 1) {
        size_bytes = take(span, 8);
        header_bytes = 16;
    }
    if (size_bytes == 0) size_bytes = header_bytes + span->size_bytes; /* to the end */
    if (size_bytes < header_bytes) return false;
    box->cut = size_bytes - header_bytes > span->size_bytes;
    box->content = (struct span){span->data, box->cut ? span->size_bytes : size_bytes - header_bytes};
    span->data += box->content.size_bytes;
    span->size_bytes -= box->content.size_bytes;
    return true;
}

/* ---------------------------------------------------------------- AV1 */

struct bits {
    struct span span;
    size_t at; /* in bits */
};

static uint32_t take_bits(struct bits *bits, int count)
{
    uint32_t value = 0;
    for (; count > 0; count--, bits->at++) {
        const bool there = bits->at / 8 < bits->span.size_bytes;
        value = value << 1 | (there ? bits->span.data[bits->at / 8] >> (7 - bits->at % 8) & 1u : 0u);
    }
    return value;
}

/* Section 5.5 of AV1's specification, up to the operating points' end. */
static void skip_operating_points(struct bits *bits)
{
    int delay_bits = 0;
    if (take_bits(bits, 1)) { /* timing_info_present_flag */
        take_bits(bits, 32);
        take_bits(bits, 32);
        if (take_bits(bits, 1)) { /* equal_picture_interval */
            int zeros = 0;        /* then a number with as many bits as zeros before it */
            while (zeros < 32 && bits->at / 8 < bits->span.size_bytes && !take_bits(bits, 1)) zeros++;
            if (zeros < 32) take_bits(bits, zeros);
        }
        if (take_bits(bits, 1)) { /* decoder_model_info_present_flag */
            delay_bits = (int)take_bits(bits, 5) + 1;
            take_bits(bits, 32);
            take_bits(bits, 10);
        }
    }
    const bool display_delays = take_bits(bits, 1);
    for (int points = (int)take_bits(bits, 5) + 1; points > 0; points--) {
        take_bits(bits, 12);
        if (take_bits(bits, 5) > 7) take_bits(bits, 1);
        if (delay_bits && take_bits(bits, 1)) {
            take_bits(bits, delay_bits);
            take_bits(bits, delay_bits);
            take_bits(bits, 1);
        }
        if (display_delays && take_bits(bits, 1)) take_bits(bits, 4);
    }
}

/* The most pixels of a frame, by a sequence header. */
static uint64_t frame_pixels(struct span header)
{
    struct bits bits = {header, 0};
    take_bits(&bits, 4);     /* profile, still_picture */
    if (take_bits(&bits, 1)) /* reduced_still_picture_header */
        take_bits(&bits, 5);
    else
        skip_operating_points(&bits);
    const int width_bits = (int)take_bits(&bits, 4) + 1, height_bits = (int)take_bits(&bits, 4) + 1;
    const uint64_t width = (uint64_t)take_bits(&bits, width_bits) + 1;
    return width * ((uint64_t)take_bits(&bits, height_bits) + 1);
}

/* A number of seven bits a byte, the lowest first; above all sizes where it does not end. */
static uint64_t take_leb128(struct span *span)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) {
        const bool there = span->size_bytes > 0;
        const uint64_t byte = take(span, 1);
        value |= (byte & 0x7f) << (7 * i);
        if (there && !(byte & 0x80)) return value;
    }
    return UINT64_MAX;
}

/* Of all items. */
struct cost {
    uint64_t bytes, pixels;
    uint64_t most_pixels; /* of a frame */
    uint64_t frames;      /* without a sequence header of their own: a grid's tiles may share one */
};

/* Adds the frames in a sequence of OBUs. */
static void add_frames(struct span obus, struct cost *cost)
{
    enum { SEQUENCE_HEADER = 1, FRAME_HEADER = 3, FRAME = 6, REPEATED_HEADER = 7 };
    uint64_t a_frame = 0;
    while (obus.size_bytes > 0) {
        const unsigned header = (unsigned)take(&obus, 1), type = header >> 3 & 15;
        if (header & 4) take(&obus, 1);
        const uint64_t size_bytes = header & 2 ? take_leb128(&obus) : obus.size_bytes;
        if (size_bytes > obus.size_bytes) break;
        if (type == SEQUENCE_HEADER) a_frame = frame_pixels((struct span){obus.data, size_bytes});
        if (type == FRAME_HEADER || type == FRAME || type == REPEATED_HEADER) {
            cost->pixels += a_frame;
            cost->frames += a_frame == 0;
        }
        if (a_frame > cost->most_pixels) cost->most_pixels = a_frame;
        obus.data += size_bytes;
        obus.size_bytes -= size_bytes;
    }
}

/* ---------------------------------------------------------------- the container */

/* The boxes of `meta` that count here, without their headers; empty where there is none. */
struct meta {
    struct span infos, places, idat;
    uint64_t list_bytes; /* of the longest list */
};

/* The properties themselves may be long; of the lists that give them to items, all count as one. */
static uint64_t association_bytes(struct span properties)
{
    struct box box;
    uint64_t bytes = 0;
    while (take_box(&properties, &box))
        if (!is_type(box.type, "ipco")) bytes += box.content.size_bytes;
    return bytes;
}

static void read_meta(struct span boxes, struct meta *meta)
{
    struct box box;
    while (take_box(&boxes, &box)) {
        uint64_t bytes = box.content.size_bytes;
        if (is_type(box.type, "iinf")) meta->infos = box.content;
        if (is_type(box.type, "iloc")) meta->places = box.content;
        if (is_type(box.type, "iprp")) bytes = association_bytes(box.content);
        if (is_type(box.type, "idat")) {
            meta->idat = box.content;
            continue;
        }
        if (bytes > meta->list_bytes) meta->list_bytes = bytes;
    }
}

/* Whether an entry of the list calls the item AV1. */
static bool is_av1(struct span infos, uint64_t item)
{
    struct box box;
    const bool long_count = take(&infos, 4) >> 24; /* version, then flags */
    take(&infos, long_count ? 4 : 2);
    while (take_box(&infos, &box)) {
        struct span info = box.content;
        const bool short_item = take(&info, 4) >> 24 == 2;
        const bool same = take(&info, short_item ? 2 : 4) == item;
        take(&info, 2); /* protection */
        if (same && info.size_bytes >= 4 && is_type(info.data, "av01")) return true;
    }
    return false;
}

static int check_bytes(const struct image_source *source, uint64_t bytes)
{
    if (bytes <= MAX_AV1_BYTES) return EFFNET_OK;
    return image_fail(source, "too large, this AVIF has more than the limit of %llu MB of AV1",
                      (unsigned long long)MAX_AV1_BYTES / 1000000);
}

/* An item's bytes, as they lie in the file or put together. */
struct item {
    struct span bytes;
    uint8_t *copy; /* to be freed */
};

static int add_extent(const struct image_source *source, struct item *item, struct span in, uint64_t offset,
                      uint64_t length)
{
    if (offset > in.size_bytes || length > in.size_bytes - offset) return image_fail_truncated(source);
    if (length == 0) length = in.size_bytes - offset;
    const size_t all = item->bytes.size_bytes + length;
    EFFNET_TRY(check_bytes(source, all));
    if (item->bytes.size_bytes == 0) {
        item->bytes = (struct span){in.data + offset, length};
        return EFFNET_OK;
    }
    uint8_t *longer = realloc(item->copy, all);
    if (!longer) return effnet_fail_nomem(source->error, source->name, all);
    if (!item->copy) memcpy(longer, item->bytes.data, item->bytes.size_bytes);
    memcpy(longer + item->bytes.size_bytes, in.data + offset, length);
    item->copy = longer;
    item->bytes = (struct span){longer, all};
    return EFFNET_OK;
}

/* The list of places: sizes of its numbers in bytes. */
struct places {
    uint64_t version;
    size_t offset, length, base, index;
};

/* Takes the next item's place from the list, and adds what it costs. */
static int add_item(const struct image_source *source, const struct meta *meta, const struct places *places,
                    struct span *list, struct cost *cost)
{
    const bool counts = is_av1(meta->infos, take(list, places->version < 2 ? 2 : 4));
    const bool in_idat = places->version > 0 && (take(list, 2) & 15) == 1;
    take(list, 2); /* which file */
    const uint64_t base = take(list, places->base), extents = take(list, 2);
    const struct span in = in_idat ? meta->idat : (struct span){source->data, source->size_bytes};
    struct item item = {0};
    int status = EFFNET_OK;
    for (uint64_t i = 0; i < extents && list->size_bytes > 0 && !status; i++) {
        take(list, places->index);
        const uint64_t offset = base + take(list, places->offset), length = take(list, places->length);
        if (counts) status = add_extent(source, &item, in, offset, length);
    }
    cost->bytes += item.bytes.size_bytes;
    add_frames(item.bytes, cost);
    free(item.copy);
    return status;
}

static int add_items(const struct image_source *source, const struct meta *meta, struct cost *cost)
{
    struct span list = meta->places;
    struct places places = {.version = take(&list, 4) >> 24};
    const uint64_t sizes = take(&list, 2);
    places.offset = sizes >> 12 & 15;
    places.length = sizes >> 8 & 15;
    places.base = sizes >> 4 & 15;
    places.index = places.version > 0 ? sizes & 15 : 0;
    if (places.offset > 8 || places.length > 8 || places.base > 8 || places.index > 8) return EFFNET_OK;
    for (uint64_t items = take(&list, places.version < 2 ? 2 : 4); items > 0 && list.size_bytes > 0;
         items--) {
        EFFNET_TRY(add_item(source, meta, &places, &list, cost));
        EFFNET_TRY(check_bytes(source, cost->bytes));
    }
    return EFFNET_OK;
}

static int check_cost(const struct image_source *source, const struct cost *cost)
{
    if (cost->bytes == 0) return image_fail(source, "bad AVIF: no image in it");
    /* Below 2^64: there are fewer frames than bytes, and none has more than 2^32 pixels. */
    if (cost->pixels + cost->frames * cost->most_pixels <= MAX_AV1_PIXELS) return EFFNET_OK;
    return image_fail(source, "too large, this AVIF's frames have more than the limit of %llu pixels",
                      (unsigned long long)MAX_AV1_PIXELS);
}

int avif_check_cost(const struct image_source *source, uint64_t *most_pixels)
{
    struct span boxes = {source->data, source->size_bytes};
    struct box box;
    struct cost cost = {0};
    bool complete = false;
    while (take_box(&boxes, &box)) {
        if (!is_type(box.type, "meta")) continue;
        if (box.cut) return image_fail_truncated(source);
        const struct span none = {source->data, 0};
        struct meta meta = {none, none, none, 0};
        take(&box.content, 4); /* version and flags */
        read_meta(box.content, &meta);
        if (meta.list_bytes > MAX_LIST_BYTES)
            return image_fail(source, "bad AVIF: a list of %llu bytes", (unsigned long long)meta.list_bytes);
        EFFNET_TRY(add_items(source, &meta, &cost));
        complete = true;
    }
    if (!complete) return image_fail_truncated(source);
    *most_pixels = cost.most_pixels;
    return check_cost(source, &cost);
}
