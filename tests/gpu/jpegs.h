/* Drawn JPEGs for the tests of the GPU's decoder. */
#ifndef EFFNET_TESTS_GPU_JPEGS_H
#define EFFNET_TESTS_GPU_JPEGS_H

#include "small.h"

#include <jpeglib.h>

struct jpeg {
    uint8_t *data;
    unsigned long size;
    int width, height;
    char name[48];
};

/* h, v: of luma, where chroma has one sample; 0: grey. A picture with edges, colour and some noise. */
static inline struct jpeg make_jpeg(int width, int height, int h, int v, int quality, uint64_t *state)
{
    struct jpeg jpeg = {.width = width, .height = height};
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr errors;
    const int channels = h ? 3 : 1, phase = random_int(state, 0, 200), slope = random_int(state, 1, 9);
    uint8_t *row = checked_malloc((size_t)width * 3);
    c.err = jpeg_std_error(&errors);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &jpeg.data, &jpeg.size);
    c.image_width = (JDIMENSION)width;
    c.image_height = (JDIMENSION)height;
    c.input_components = channels;
    c.in_color_space = h ? JCS_RGB : JCS_GRAYSCALE;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, quality, TRUE);
    if (h) c.comp_info[0].h_samp_factor = h, c.comp_info[0].v_samp_factor = v;
    if (phase % 3 == 0) c.restart_in_rows = 1;
    jpeg_start_compress(&c, TRUE);
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++)
            for (int i = 0; i < channels; i++) {
                const int wave = (x * slope / 8 + y * (i + 1) + phase) % 256,
                          edge = ((x / 37 + y / 23 + i) & 1) * 60;
                row[x * channels + i] = (uint8_t)((wave * 3 / 5 + edge + random_int(state, 0, 20)) % 256);
            }
        jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    free(row);
    snprintf(jpeg.name, sizeof jpeg.name, "%d x %d, %dx%d, quality %d", width, height, h, v, quality);
    return jpeg;
}

#endif
