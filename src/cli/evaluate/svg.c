#include "cli/evaluate/svg.h"

#include "common/utf8.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Readers that do not know the second half draw the first, on its own background. */
static const char style_sheet[] =
    "<style>\n"
    "text{font-family:system-ui,'Segoe UI','DejaVu Sans',sans-serif;font-size:12px;fill:#1f2328}\n"
    "text.title{font-size:17px;font-weight:600} text.heading{font-size:14px;font-weight:600}\n"
    "text.faint{fill:#59636e} text.small{font-size:11px} text.light{fill:#fff}\n"
    ".paper{fill:#fff} .bar{fill:#8ab4e2} .count{fill:#8c96a0} .right{fill:#2a8f83} .wrong{fill:#c8452f}\n"
    ".empty{fill:none;stroke:#dde2e7} line{stroke:#8c96a0} line.grid{stroke:#e6e9ec}\n"
    "line.dashed{stroke:#1f2328;stroke-dasharray:5 4} line.whisker{stroke:#1f2328;stroke-width:1.5}\n"
    "@media (prefers-color-scheme:dark){text{fill:#e6edf3} text.faint{fill:#9aa4ae} text.light{fill:#fff}\n"
    ".paper{fill:#15191f} .bar{fill:#4a86c8} .empty{stroke:#2d343c} line.grid{stroke:#262c33}\n"
    "line.dashed{stroke:#e6edf3} line.whisker{stroke:#e6edf3}}\n"
    "</style>\n";

void svg_escape(FILE *out, const char *text)
{
    while (*text) {
        unsigned code;
        const int length = effnet_utf8_length(text, &code);
        if (!length || code < 0x20 || code == 0xfffe || code == 0xffff)
            fputs("\xef\xbf\xbd", out);
        else if (strchr("&<>\"'", *text))
            fprintf(out, "&#%d;", *text);
        else
            fwrite(text, 1, (size_t)length, out);
        text += length ? length : 1;
    }
}

/* Where memory is short the text is left out. */
static void escape_format(FILE *out, const char *format, va_list arguments)
{
    char *text;
    if (vasprintf(&text, format, arguments) < 0) return;
    svg_escape(out, text);
    free(text);
}

void svg_begin(FILE *out, int width, int height, const char *title)
{
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
            "role=\"img\">\n<title>",
            width, height, width, height);
    svg_escape(out, title);
    fprintf(out, "</title>\n%s<rect width=\"%d\" height=\"%d\" class=\"paper\"/>\n", style_sheet, width,
            height);
}

void svg_end(FILE *out)
{
    fputs("</svg>\n", out);
}

void svg_text(FILE *out, double x, double y, const char *class, const char *anchor, double turn,
              const char *format, ...)
{
    va_list arguments;
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\" text-anchor=\"%s\"", x, y, class, anchor);
    if (turn != 0) fprintf(out, " transform=\"rotate(%.0f %.1f %.1f)\"", turn, x, y);
    fputc('>', out);
    va_start(arguments, format);
    escape_format(out, format, arguments);
    va_end(arguments);
    fputs("</text>\n", out);
}

void svg_line(FILE *out, double x1, double y1, double x2, double y2, const char *class)
{
    fprintf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"%s\"/>\n", x1, y1, x2, y2,
            class);
}

void svg_rect(FILE *out, double x, double y, double width, double height, const char *class, double opacity,
              const char *format, ...)
{
    va_list arguments;
    fprintf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" class=\"%s\"", x, y, width,
            height, class);
    if (opacity < 1) fprintf(out, " opacity=\"%.3f\"", opacity);
    if (!format) {
        fputs("/>\n", out);
        return;
    }
    fputs("><title>", out);
    va_start(arguments, format);
    escape_format(out, format, arguments);
    va_end(arguments);
    fputs("</title></rect>\n", out);
}
