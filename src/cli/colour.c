#include "cli/colour.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    uint32_t rgb;
} names[] = {
    {"black", 0x000000},   {"silver", 0xc0c0c0}, {"gray", 0x808080}, {"grey", 0x808080},
    {"white", 0xffffff},   {"maroon", 0x800000}, {"red", 0xff0000},  {"purple", 0x800080},
    {"fuchsia", 0xff00ff}, {"green", 0x008000},  {"lime", 0x00ff00}, {"olive", 0x808000},
    {"yellow", 0xffff00},  {"navy", 0x000080},   {"blue", 0x0000ff}, {"teal", 0x008080},
    {"aqua", 0x00ffff},
};

static bool read_hex(const char *digits, uint32_t *rgb)
{
    size_t length = strlen(digits);
    if ((length != 3 && length != 6) || digits[strspn(digits, "0123456789abcdefABCDEF")]) return false;
    uint32_t value = (uint32_t)strtoul(digits, NULL, 16);
    /* of three digits each counts twice */
    if (length == 3) value = ((value & 0xf00) << 8 | (value & 0xf0) << 4 | (value & 0xf)) * 0x11;
    *rgb = value;
    return true;
}

bool colour_parse(const char *text, struct colour *colour)
{
    uint32_t rgb = 0;
    bool known = text[0] == '#' && read_hex(text + 1, &rgb);
    for (size_t i = 0; !known && i < sizeof names / sizeof names[0]; i++) {
        known = strcasecmp(text, names[i].name) == 0;
        rgb = names[i].rgb;
    }
    if (!known) return false;
    *colour = (struct colour){true, {(uint8_t)(rgb >> 16), (uint8_t)(rgb >> 8), (uint8_t)rgb}};
    return true;
}
