/* A map in colours over an image. */
#ifndef EFFNET_CLI_HEATMAP_H
#define EFFNET_CLI_HEATMAP_H

#include <stdint.h>

/* Draws map[height][width] over all of rgb[side][side][3], half and half: values from 0, and below, to the
 * map's largest are blue, cyan, yellow and red. Between the centres of the map's cells it is linear. */
void heatmap_draw(const float *map, int height, int width, uint8_t *rgb, int side);

#endif
