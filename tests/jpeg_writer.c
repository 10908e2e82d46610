#include "jpeg_writer.h"

#ifdef EFFNET_HAVE_JPEG
#include <stdio.h>

#include <jpeglib.h>

#include "image/image.h"

/* libjpeg's own error handler ends the program, which is right for a test. */
uint8_t *write_jpeg(const uint8_t *samples, int width, int height, struct jpeg_kind kind, size_t *size_bytes)
{
    struct jpeg_compress_struct jpeg = {0};
    struct jpeg_error_mgr errors = {0};
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    unsigned char *data = NULL;
    unsigned long size = 0;
    jpeg_mem_dest(&jpeg, &data, &size);
    jpeg.image_width = (JDIMENSION)width;
    jpeg.image_height = (JDIMENSION)height;
    jpeg.input_components = kind.components;
    jpeg.in_color_space = kind.components == 1 ? JCS_GRAYSCALE : kind.components == 3 ? JCS_RGB : JCS_CMYK;
    jpeg_set_defaults(&jpeg);
    jpeg.arith_code = kind.arithmetic;
    jpeg.restart_in_rows = kind.restart_rows;
    if (kind.progressive) jpeg_simple_progression(&jpeg);
    jpeg_start_compress(&jpeg, TRUE);
    while (jpeg.next_scanline < jpeg.image_height) {
        JSAMPROW row = (JSAMPROW)samples +
                       (size_t)jpeg.next_scanline * (size_t)width * (size_t)kind.components;
        jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    IMAGE_WRITTEN(data, size);
    *size_bytes = size;
    return data;
}
#endif
