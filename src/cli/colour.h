/* A colour as the command line takes it. */
#ifndef EFFNET_CLI_COLOUR_H
#define EFFNET_CLI_COLOUR_H

#include <stdbool.h>
#include <stdint.h>

struct colour {
    bool given;
    uint8_t rgb[3];
};

/* "#rgb", "#rrggbb" or one of CSS's sixteen basic names, also "grey", in any case. False for anything else;
 * then *colour stays. */
bool colour_parse(const char *text, struct colour *colour);

#endif
