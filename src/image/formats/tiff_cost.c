#include "image/formats/tiff_cost.h"

#include <string.h>

#include "common/error.h"

/* As libtiff allows a BigTIFF; the time it takes over a directory goes by the square of its entries. */
enum { MAX_ENTRIES = 4096 };

static const uint8_t type_bytes[] = {[1] = 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, [16] = 8, 8, 8};

/* The bytes of an entry's value, at most all of the file: libtiff does not take more. */
static uint64_t value_bytes(const struct image_source *source, uint64_t type, uint64_t count)
{
    uint64_t bytes = type < sizeof type_bytes ? type_bytes[type] : 0;
    return bytes && count > source->size_bytes / bytes ? source->size_bytes : bytes * count;
}

int tiff_read_directory(const struct image_source *source, struct tiff_directory *directory)
{
    const uint8_t *data = source->data;
    const bool big_endian = data[0] == 'M', big = data[2] + data[3] == 43;
    const size_t word = big ? 8 : 4, header_bytes = big ? 16 : 8, counter_bytes = big ? 8 : 2;
    const size_t entry_bytes = 4 + 2 * word;
    *directory = (struct tiff_directory){0};

    if (source->size_bytes < header_bytes) return image_fail_truncated(source);
    uint64_t at = image_get_uint(data + header_bytes - word, word, big_endian);
    if (at > source->size_bytes - counter_bytes) return image_fail_truncated(source);
    const uint64_t entries = image_get_uint(data + at, counter_bytes, big_endian);
    at += counter_bytes;
    if (entries > MAX_ENTRIES)
        return image_fail(source, "bad TIFF: a directory of %llu entries", (unsigned long long)entries);
    if ((source->size_bytes - at) / entry_bytes < entries) return image_fail_truncated(source);

    for (uint64_t i = 0; i < entries; i++, at += entry_bytes) {
        const uint64_t type = image_get_uint(data + at + 2, 2, big_endian);
        const uint64_t count = image_get_uint(data + at + 4, word, big_endian);
        const uint64_t bytes = value_bytes(source, type, count);
        /* Once as they are and once as numbers of up to eight bytes. */
        directory->memory_bytes += bytes + 8 * (count < bytes ? count : bytes);
        if (bytes <= word) continue;
        const uint64_t value_at = image_get_uint(data + at + 4 + word, word, big_endian);
        if (value_at > source->size_bytes || bytes > source->size_bytes - value_at) directory->cut = true;
    }
    return EFFNET_OK;
}

int tiff_count_scans(const uint8_t *jpeg, size_t size_bytes)
{
    enum { SOS = 0xda, EOI = 0xd9, FIRST_ARITHMETIC = 0xc9, LAST_FRAME = 0xcf, DAC = 0xcc };
    const uint8_t *p = jpeg, *end = jpeg + size_bytes;
    int scans = 0;
    while ((p = memchr(p, 0xff, (size_t)(end - p))) && end - p >= 4) {
        const int marker = p[1];
        const bool alone = marker <= 1 || (marker >= 0xd0 && marker <= 0xd8) || marker == 0xff;
        if (marker == EOI) break;
        if (marker >= FIRST_ARITHMETIC && marker <= LAST_FRAME && marker != DAC) return TIFF_ARITHMETIC;
        scans += marker == SOS;
        const ptrdiff_t step = marker == 0xff ? 1 : alone ? 2 : 2 + (p[2] << 8 | p[3]);
        if (step > end - p) break;
        p += step;
    }
    return scans;
}
