/* Seeded damage to files, for tests of decoders. */
#ifndef EFFNET_TESTS_MUTATE_H
#define EFFNET_TESTS_MUTATE_H

#include <stddef.h>
#include <stdint.h>

struct file {
    uint8_t *data; /* malloc's */
    size_t size;
};

void file_append(struct file *file, const void *data, size_t size);

/* One mutation: bits turned, a byte set to an extreme, a stretch removed, repeated or overwritten; half of
 * them in the first 64 bytes. The file has at least one byte. */
void mutate(struct file *file, uint64_t *seed);

/* Makes every chunk's checksum of a PNG right again, or libpng would look no further. */
void repair_png(struct file *file);

#endif
