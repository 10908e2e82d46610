#include "cli/images.h"

#include "cli/cli.h"
#include "common/random.h"

#include <math.h>

enum { WAVES = 6 };

void images_draw(uint64_t seed, int index, int crop, uint8_t *pixels)
{
    uint64_t state = seed ^ (uint64_t)index << 32;
    for (int channel = 0; channel < 3; channel++) {
        double fx[WAVES], fy[WAVES], phase[WAVES], amplitude[WAVES];
        for (int i = 0; i < WAVES; i++) { /* up to 1, 2, 4 ... 32 periods across, weaker as they get finer */
            fx[i] = (2 * random_unit(&state) - 1) * (1 << i) * 2 * M_PI / crop;
            fy[i] = (2 * random_unit(&state) - 1) * (1 << i) * 2 * M_PI / crop;
            phase[i] = random_unit(&state) * 2 * M_PI;
            amplitude[i] = (20 + 50 * random_unit(&state)) / (1 + i);
        }
        double mean = 80 + 90 * random_unit(&state);
        for (int y = 0; y < crop; y++)
            for (int x = 0; x < crop; x++) {
                double value = mean + 16 * (random_unit(&state) - 0.5);
                for (int i = 0; i < WAVES; i++) value += amplitude[i] * sin(fx[i] * x + fy[i] * y + phase[i]);
                pixels[((size_t)y * (size_t)crop + (size_t)x) * 3 + (size_t)channel] = (uint8_t)fmax(
                    0, fmin(255, value));
            }
    }
}

int images_read(char *const *paths, int n, const struct effnet_preprocess *preprocess, uint8_t *pixels)
{
    size_t size = (size_t)preprocess->crop * (size_t)preprocess->crop * 3;
    for (int i = 0; i < n; i++) {
        struct effnet_image image = {0};
        struct effnet_error error;
        int status = effnet_image_read(paths[i], NULL, &image, &error);
        if (!status) status = effnet_image_fit(&image, preprocess, pixels + (size_t)i * size, &error);
        effnet_image_free(&image);
        if (status) return cli_fail_library(&error);
    }
    return EFFNET_OK;
}
