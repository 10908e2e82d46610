/* libtiff's functions, and a file in memory as libtiff reads it. */
#ifndef EFFNET_IMAGE_FORMATS_TIFF_LIBRARY_H
#define EFFNET_IMAGE_FORMATS_TIFF_LIBRARY_H

#include <tiffio.h>

#include "image/formats/library.h"

#define TIFF_FUNCTIONS(F)                                                                                    \
    F(TIFFClientOpenExt)                                                                                     \
    F(TIFFClose)                                                                                             \
    F(TIFFComputeStrip)                                                                                      \
    F(TIFFComputeTile)                                                                                       \
    F(TIFFGetField)                                                                                          \
    F(TIFFGetFieldDefaulted)                                                                                 \
    F(TIFFGetStrileByteCount)                                                                                \
    F(TIFFGetStrileOffset)                                                                                   \
    F(TIFFIsCODECConfigured)                                                                                 \
    F(TIFFIsTiled)                                                                                           \
    F(TIFFNumberOfStrips)                                                                                    \
    F(TIFFNumberOfTiles)                                                                                     \
    F(TIFFOpenOptionsAlloc)                                                                                  \
    F(TIFFOpenOptionsFree)                                                                                   \
    F(TIFFOpenOptionsSetErrorHandlerExtR)                                                                    \
    F(TIFFOpenOptionsSetMaxSingleMemAlloc)                                                                   \
    F(TIFFOpenOptionsSetWarningHandlerExtR)                                                                  \
    F(TIFFReadEncodedTile)                                                                                   \
    F(TIFFReadScanline)                                                                                      \
    F(TIFFScanlineSize64)                                                                                    \
    F(TIFFSetField)                                                                                          \
    F(TIFFTileRowSize64)                                                                                     \
    F(TIFFTileSize64)

extern struct tiff_functions {
    TIFF_FUNCTIONS(IMAGE_LIBRARY_POINTER)
} tiff;

/* image_library_load for libtiff: before any other call. */
int tiff_load(const struct image_source *source);

struct tiff_stream {
    const struct image_source *source; /* set by the caller, zeros behind it */
    uint64_t at;                       /* in the file */
    char reason[160];                  /* libtiff's words for its first error, "" while there is none */
};

/* Opens the file and reads its first directory; libtiff prints nothing and takes no more than `most_bytes` at
 * a time. *file is NULL, and the stream has a reason, where libtiff refuses it. Fails with EFFNET_E_NOMEM. To
 * be closed by tiff.TIFFClose; until then the stream stays where it is. */
int tiff_open(struct tiff_stream *stream, uint64_t most_bytes, TIFF **file);

#endif
