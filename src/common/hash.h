/* FNV-1a (Fowler, Noll and Vo; http://www.isthe.com/chongo/tech/comp/fnv/), 64 bits: to tell whether bytes
 * are the same as before. No protection against who wants two to be alike. */
#ifndef EFFNET_COMMON_HASH_H
#define EFFNET_COMMON_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define HASH_START UINT64_C(0xcbf29ce484222325)

/* The hash of what `hash` stands for and then these bytes. */
static inline uint64_t hash_add(uint64_t hash, const void *bytes, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++)
        hash = (hash ^ ((const uint8_t *)bytes)[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* Adds the file's bytes, from where it stands to its end; *count: how many. False where reading failed, with
 * errno. */
static inline bool hash_file(FILE *file, uint64_t *hash, int64_t *count)
{
    char bytes[1 << 14];
    size_t size;
    *count = 0;
    while ((size = fread(bytes, 1, sizeof bytes, file)) > 0) {
        *hash = hash_add(*hash, bytes, size);
        *count += (int64_t)size;
    }
    return !ferror(file);
}

#endif
