/* What a TIFF may cost, as far as its bytes tell before libtiff works on them: libtiff takes memory for every
 * entry of the directory, and time for every scan of a JPEG stream, however short. */
#ifndef EFFNET_IMAGE_FORMATS_TIFF_COST_H
#define EFFNET_IMAGE_FORMATS_TIFF_COST_H

#include "image/image.h"

struct tiff_directory {
    uint64_t memory_bytes; /* the most that libtiff takes for its values */
    bool cut;              /* a value lies behind the file's end */
};

/* Looks through the first directory of a file that begins as a TIFF does. Fails with EFFNET_E_DATA where it
 * is not all there or has too many entries. */
int tiff_read_directory(const struct image_source *source, struct tiff_directory *directory);

/* The scans of a JPEG stream, TIFF_ARITHMETIC if it is arithmetically coded. */
enum { TIFF_ARITHMETIC = -1 };
int tiff_count_scans(const uint8_t *jpeg, size_t size_bytes);

#endif
