/* Writes SVG: shapes and text in pixels from the top left, coloured by the classes of the style sheet in
 * svg.c. Write errors stay with the stream. */
#ifndef EFFNET_CLI_EVALUATE_SVG_H
#define EFFNET_CLI_EVALUATE_SVG_H

#include <stdio.h>

/* Begins a drawing with a background; `title` is what a reader hears of it. */
void svg_begin(FILE *out, int width, int height, const char *title);
void svg_end(FILE *out);

/* Any text, as XML that holds it: what XML cannot hold, and bytes that are not UTF-8, become U+FFFD. */
void svg_escape(FILE *out, const char *text);

/* `anchor` is "start", "middle" or "end"; `turn` in degrees, clockwise. */
void svg_text(FILE *out, double x, double y, const char *class, const char *anchor, double turn,
              const char *format, ...) __attribute__((format(printf, 7, 8)));
void svg_line(FILE *out, double x1, double y1, double x2, double y2, const char *class);
/* `opacity` in [0, 1]. Whoever points at it sees the text; NULL: none. */
void svg_rect(FILE *out, double x, double y, double width, double height, const char *class, double opacity,
              const char *format, ...) __attribute__((format(printf, 8, 9)));

#endif
