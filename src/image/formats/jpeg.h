/* JPEG in three files: jpeg.c recognises it and reads its metadata; jpeg_turbo.c decodes through
 * libjpeg-turbo, and jpeg_stb.c through stb_image in a build without that. */
#ifndef EFFNET_IMAGE_FORMATS_JPEG_H
#define EFFNET_IMAGE_FORMATS_JPEG_H

#include "image/image.h"

/* Markers, the second byte after 0xff (ITU-T T.81, table B.1). */
enum {
    MARKER_TEM = 0x01,
    MARKER_SOF0 = 0xc0,
    MARKER_SOF3 = 0xc3,
    MARKER_DHT = 0xc4,
    MARKER_SOF5 = 0xc5,
    MARKER_SOF6 = 0xc6,
    MARKER_SOF7 = 0xc7,
    MARKER_SOF11 = 0xcb,
    MARKER_SOF13 = 0xcd,
    MARKER_SOF14 = 0xce,
    MARKER_SOF15 = 0xcf,
    MARKER_RST0 = 0xd0,
    MARKER_RST7 = 0xd7,
    MARKER_SOI = 0xd8,
    MARKER_EOI = 0xd9,
    MARKER_SOS = 0xda,
    MARKER_DQT = 0xdb,
    MARKER_DRI = 0xdd,
    MARKER_DHP = 0xde,
    MARKER_APP0 = 0xe0,
    MARKER_APP1 = 0xe1,
    MARKER_APP14 = 0xee,
    MARKER_APP15 = 0xef,
    MARKER_SOF55 = 0xf7, /* T.87 */
    MARKER_COM = 0xfe,
};

/* A marker and what belongs to it. */
struct jpeg_segment {
    int marker;
    const uint8_t *data; /* behind the length field */
    size_t size_bytes;   /* as the length field says; 0 for markers that stand alone */
    size_t available;    /* of these bytes in the file */
};

/* Gives the segment at or after *at and moves *at behind it; false when there is no other. Entropy-coded
 * data, restart markers and stray bytes are stepped over. *at begins as 0. */
bool image_jpeg_next_segment(const struct image_source *source, size_t *at, struct jpeg_segment *segment);

/* As EXIF counts it, 1 to 8; 0 where nothing is said. Fails without memory alone. */
int image_jpeg_orientation(const struct image_source *source, int *orientation);

/* Pixels as they are stored, as the format's decode; facts->orientation is known. An image that is turned
 * upright takes memory for as many pixels again, within the limit. */
int image_jpeg_decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts);

#endif
