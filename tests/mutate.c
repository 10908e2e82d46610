#include "mutate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random.h"

void file_append(struct file *file, const void *data, size_t size)
{
    file->data = realloc(file->data, file->size + size + 1);
    if (!file->data) {
        fprintf(stderr, "out of memory\n");
        abort();
    }
    if (size > 0) memcpy(file->data + file->size, data, size);
    file->size += size;
}

void mutate(struct file *file, uint64_t *seed)
{
    static const uint8_t extremes[] = {0, 1, 0x7f, 0x80, 0xfe, 0xff};
    size_t at = (size_t)random_int(seed, 0, (int)file->size - 1);
    if (random_int(seed, 0, 1)) at %= 64; /* half of them in the header */
    at %= file->size;
    size_t left = file->size - at, length = (size_t)random_int(seed, 1, left < 40 ? (int)left : 40);
    switch (random_int(seed, 0, 5)) {
    case 0:
    case 1: file->data[at] ^= (uint8_t)(1 << random_int(seed, 0, 7)); break;
    case 2: file->data[at] = extremes[random_int(seed, 0, 5)]; break;
    case 3:
        if (length == file->size) break;
        memmove(file->data + at, file->data + at + length, left - length);
        file->size -= length;
        break;
    case 4: {
        struct file stretch = {0};
        file_append(&stretch, file->data + at, left);
        file_append(file, stretch.data, length);
        memcpy(file->data + at + length, stretch.data, left);
        free(stretch.data);
        break;
    }
    default:
        for (size_t i = 0; i < length; i++) file->data[at + i] = (uint8_t)random_next(seed);
    }
}

void repair_png(struct file *file)
{
    for (size_t at = 8; at + 12 <= file->size;) {
        const uint8_t *p = file->data + at;
        size_t length = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
        if (length > file->size - at - 12) return;
        uint32_t crc = 0xffffffff;
        for (size_t i = 4; i < length + 8; i++) {
            crc ^= p[i];
            for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
        }
        for (size_t i = 0; i < 4; i++) file->data[at + 8 + length + i] = (uint8_t)(~crc >> (24 - 8 * i));
        at += length + 12;
    }
}
