/* The mean over a large map. oneDNN adds pixel after pixel in float: where an image is flat every step rounds
 * the same way, and over 14400 equal pixels that comes to 1e-4 of the mean. Here a row's sum is a float, the
 * map's a double. */
#include "backend/onednn/onednn.h"
#include "backend/onednn/values.h"

enum { BLOCK = 16, CHUNK = 256 }; /* channels whose sums stay in registers, and whose rows in the cache */

/* Adds one row's pixels to sums[channels]. Inline, so that a whole block's sums stay in registers. */
static inline void sum_row(const char *row, int width, size_t pixel_bytes, dnnl_data_type_t type,
                           int channels, double *sums)
{
    float sum[BLOCK] = {0};
    for (int x = 0; x < width; x++, row += pixel_bytes) {
        if (type == dnnl_f32)
            for (int c = 0; c < channels; c++) sum[c] += ((const float *)row)[c];
        else
            for (int c = 0; c < channels; c++) sum[c] += onednn_from_bf16(((const uint16_t *)row)[c]);
    }
    for (int c = 0; c < channels; c++) sums[c] += (double)sum[c];
}

/* At most CHUNK channels. */
static void mean_of_chunk(const struct onednn_layer *layer, const char *map, int channels, char *to)
{
    const struct effnet_layer *from = layer->layer;
    const size_t element = dnnl_data_type_size(layer->source_type);
    const size_t pixel_bytes = (size_t)from->in_channels * element;
    double sums[CHUNK] = {0};
    float mean[CHUNK];
    for (int y = 0; y < from->in_height; y++, map += (size_t)from->in_width * pixel_bytes) {
        int c = 0;
        for (; c + BLOCK <= channels; c += BLOCK)
            sum_row(map + (size_t)c * element, from->in_width, pixel_bytes, layer->source_type, BLOCK,
                    sums + c);
        if (c < channels)
            sum_row(map + (size_t)c * element, from->in_width, pixel_bytes, layer->source_type, channels - c,
                    sums + c);
    }
    for (int c = 0; c < channels; c++)
        mean[c] = (float)(sums[c] / ((double)from->in_height * from->in_width));
    onednn_convert_in(mean, (size_t)channels, layer->destination_type, to);
}

void effnet_onednn_mean_of_sums(const struct effnet_layer *layer, const float *sums, float *to)
{
    const size_t all = (size_t)layer->in_channels;
    for (size_t first = 0; first < all; first += CHUNK) {
        const size_t channels = all - first < CHUNK ? all - first : CHUNK;
        double total[CHUNK] = {0};
        for (size_t y = 0; y < (size_t)layer->in_height; y++)
            for (size_t c = 0; c < channels; c++) total[c] += (double)sums[y * all + first + c];
        for (size_t c = 0; c < channels; c++)
            to[first + c] = (float)(total[c] / ((double)layer->in_height * layer->in_width));
    }
}

void effnet_onednn_mean(const struct onednn_layer *layer, const char *map, int channels, char *to)
{
    const size_t step = CHUNK * dnnl_data_type_size(layer->source_type);
    const size_t to_step = CHUNK * dnnl_data_type_size(layer->destination_type);
    for (; channels > 0; channels -= CHUNK, map += step, to += to_step)
        mean_of_chunk(layer, map, channels < CHUNK ? channels : CHUNK, to);
}
