/* What the files of src/image share. The way of an image, which workspace.c leads: read.c reads the bytes, a
 * decoder of formats/ recognises them and makes RGB8 of them, orient.c turns that as the EXIF data says,
 * resize_run.c makes the crop that the network takes, with the weights of resize.c. */
#ifndef EFFNET_IMAGE_IMAGE_H
#define EFFNET_IMAGE_IMAGE_H

#include "effnet.h"

/* Longest side allowed, whatever the pixel limit. Up to here a side is exact in float, in which Pillow
 * keeps it while resizing, and short_side * side is exact in double. */
#define IMAGE_MAX_SIDE (1 << 24)

/* Tells clang's memory sanitizer that a library, which is not built with it, has written these bytes, or this
 * text. */
#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#include <sanitizer/msan_interface.h>
#define IMAGE_WRITTEN(bytes, count) __msan_unpoison(bytes, count)
#define IMAGE_WRITTEN_TEXT(text)    __msan_unpoison_string(text)
#endif
#endif
#ifndef IMAGE_WRITTEN
#define IMAGE_WRITTEN(bytes, count) ((void)0)
#define IMAGE_WRITTEN_TEXT(text)    ((void)0)
#endif

/* What a file may have beside the pixels: profiles, text, thumbnails. */
#define IMAGE_METADATA_BYTES (64 << 20)

/* Where a decoder's library needs memory beside the pixels: the most that the file, the pixels and that come
 * to. */
#define IMAGE_DECODING_BYTES INT64_C(1130000000)

/* An image is large whose pixels take more. Some 33 million are less. */
#define IMAGE_LARGE_BYTES (INT64_C(96) << 20)

/* Memory that is kept from image to image. */
struct image_buffer {
    uint8_t *data;
    size_t capacity;
};

/* A larger buffer is not kept for an image that needs less than a quarter of it. */
#define IMAGE_KEPT_BYTES ((size_t)8 << 20)

/* Makes room for size_bytes; what was in the buffer is lost. False without memory. */
bool image_buffer_reserve(struct image_buffer *buffer, size_t size_bytes);
void image_buffer_free(struct image_buffer *buffer);

/* Columns [left, right) and rows [top, bottom) of an image. */
struct image_window {
    int left, top, right, bottom;
};

/* An encoded image in memory. */
struct image_source {
    const uint8_t *data;
    size_t size_bytes;
    const char *name;            /* for messages, */
    struct effnet_error *error;  /* which go there; may be NULL */
    int64_t max_pixels;          /* at most IMAGE_MAX_SIDE squared */
    const uint8_t *background;   /* [3], what shows through where alpha is not full; NULL: alpha is dropped */
    bool more;                   /* the file goes on behind these bytes, further than it may */
    struct image_buffer *pixels; /* where image_alloc takes them from */

    const struct effnet_preprocess *preprocess; /* whose crop alone is wanted; NULL: all pixels are */
    struct image_fit *fit;                      /* made for the image by image_find_window */
    const struct image_gate *gate;              /* of workspace.h; NULL: none */
    bool ignore_exif;
};

/* What a decoder finds in the file beside the pixels. Zeroed by the caller. */
struct image_facts {
    int orientation; /* 1 to 8, as EXIF counts them; 0 where nothing is said, which is as good as 1 */
    bool alpha_seen, alpha_varies; /* kept by image_note_alpha */
    uint8_t first_alpha;

    /* Where less than the whole image was decoded: the size of that, and the part of it. All as stored. */
    int width, height; /* 0: the pixels are all of it */
    struct image_window window;
};

/* Fails with EFFNET_E_DATA for sides below 1 or above IMAGE_MAX_SIDE, for more than source->max_pixels, and
 * for a large image that source->gate refuses. */
int image_check_size(const struct image_source *source, int64_t width, int64_t height);

/* image_check_size, then room for the pixels in source->pixels, uninitialised. */
int image_alloc(const struct image_source *source, int64_t width, int64_t height, struct effnet_image *out);

/* The part of an image of width x height, as stored, that the crop needs; all of it without
 * source->preprocess. */
int image_find_window(const struct image_source *source, int width, int height, int orientation,
                      struct image_window *window);

/* Fails with EFFNET_E_DATA where the rows of a packed file come to more bytes than they may, once unpacked.
 * What unpacking takes goes by them. At the default limit of pixels, every image of up to 32 bits a pixel
 * passes; whoever wants more pixels gets more bytes, too. */
int image_check_unpacked(const struct image_source *source, uint64_t bytes);

void image_note_alpha(struct image_facts *facts, uint8_t alpha);

/* rgba [pixels][4] -> rgb [pixels][3], which may be the same memory: over source->background, rounded as
 * Pillow's alpha_composite rounds, or without alpha where there is no background. Notes every alpha. */
void image_put_rgba(const struct image_source *source, struct image_facts *facts, const uint8_t *rgba,
                    size_t pixels, uint8_t *rgb);

/* Fails with EFFNET_E_DATA and "NAME: ", then the reason (printf style). */
int image_fail(const struct image_source *source, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* "NAME: the file ends early"; every decoder says it in the same words. */
int image_fail_truncated(const struct image_source *source);

/* A whole number of up to eight bytes. */
uint64_t image_get_uint(const uint8_t *p, size_t bytes, bool big_endian);

/* Orientation in a block of EXIF data, with or without the "Exif\0\0" before its TIFF header: 1 to 8, 1 for
 * a value that means nothing and for a block without that header, 0 where the data does not speak of it. XMP
 * counts only where EXIF gives 0. */
int image_exif_orientation(const uint8_t *exif, size_t size_bytes);

/* The same for an XMP packet, which is XML text. */
int image_xmp_orientation(const uint8_t *xmp, size_t size_bytes);

/* Where a window of an image of width x height comes to lie when that is turned so. */
struct image_window image_orient_window(struct image_window window, int width, int height, int orientation);

/* Turns and mirrors the image so that orientation 1 to 8 becomes 1; 0 is taken for 1. Where that moves
 * pixels, *image is in `turned` afterwards. */
int image_orient(struct effnet_image *image, int orientation, struct image_buffer *turned, const char *name,
                 struct effnet_error *error);

#endif
