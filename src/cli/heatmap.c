#include "cli/heatmap.h"

#include <stddef.h>

/* "Jet", of MATLAB: the corners of its three piecewise linear channels. */
static const struct {
    float at, rgb[3];
} colours[] = {
    {0, {0, 0, 128}},        {0.125f, {0, 0, 255}}, {0.375f, {0, 255, 255}},
    {0.625f, {255, 255, 0}}, {0.875f, {255, 0, 0}}, {1, {128, 0, 0}},
};

/* Mixes the colour of a value from 0 to 1 into a pixel. */
static void mix(float value, uint8_t pixel[3])
{
    int i = 0;
    while (value > colours[i + 1].at) i++;
    const float part = (value - colours[i].at) / (colours[i + 1].at - colours[i].at);
    for (int c = 0; c < 3; c++) {
        const float colour = colours[i].rgb[c] + part * (colours[i + 1].rgb[c] - colours[i].rgb[c]);
        pixel[c] = (uint8_t)(((float)pixel[c] + colour) / 2 + 0.5f);
    }
}

/* A pixel's two cells along one axis, and the second one's share. */
struct taps {
    int first, second;
    float part;
};

static struct taps find_taps(int pixel, int side, int cells)
{
    const float at = ((float)pixel + 0.5f) * (float)cells / (float)side - 0.5f;
    if (at <= 0) return (struct taps){0, 0, 0};
    const int first = (int)at;
    if (first >= cells - 1) return (struct taps){cells - 1, cells - 1, 0};
    return (struct taps){first, first + 1, at - (float)first};
}

void heatmap_draw(const float *map, int height, int width, uint8_t *rgb, int side)
{
    float most = 0;
    for (int i = 0; i < height * width; i++)
        if (map[i] > most) most = map[i];
    if (most <= 0) most = 1; /* nothing speaks for the class: all of it is 0 */
    for (int y = 0; y < side; y++) {
        const struct taps rows = find_taps(y, side, height);
        const float *upper = map + (ptrdiff_t)rows.first * width,
                    *lower = map + (ptrdiff_t)rows.second * width;
        for (int x = 0; x < side; x++, rgb += 3) {
            const struct taps columns = find_taps(x, side, width);
            const float above = upper[columns.first] +
                                columns.part * (upper[columns.second] - upper[columns.first]);
            const float below = lower[columns.first] +
                                columns.part * (lower[columns.second] - lower[columns.first]);
            const float value = (above + rows.part * (below - above)) / most;
            mix(value > 0 ? value < 1 ? value : 1 : 0, rgb); /* what is no number is 0 */
        }
    }
}
