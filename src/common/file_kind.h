/* What a file is that stands in place of an image or of weights, by how it begins. */
#ifndef EFFNET_COMMON_FILE_KIND_H
#define EFFNET_COMMON_FILE_KIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum file_group {
    FILE_IMAGE_READ, /* an image of a format that effnet reads and that has a signature */
    FILE_IMAGE,      /* one of another format */
    FILE_CHECKPOINT, /* what tools/convert.py reads, */
    FILE_ZIP,        /* may read */
    FILE_PACKED,     /* or would read once it is unpacked */
    FILE_ONNX,
    FILE_POINTER, /* text that stands for a file which was not fetched, */
    FILE_PAGE,    /* or that a server sent in its place */
    FILE_OTHER,
};

struct file_kind {
    const char *what; /* "a WebP image"; NULL: nothing that is known here */
    enum file_group group;
};

/* What begins with data[0..size_bytes): as many bytes as there are, 64 KB will do. */
struct file_kind effnet_file_kind(const void *data, size_t size_bytes);

/* Whether a file of the HEIF family begins there whose brands say that it has an image in AV1. */
bool effnet_is_avif(const uint8_t *data, size_t size_bytes);

#endif
