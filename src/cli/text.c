#include "cli/text.h"

#include "common/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Controls of ASCII and Latin-1, line and paragraph separators, and what turns the writing direction. */
static bool is_control(unsigned code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x2028 || code == 0x2029 ||
           (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

/* Characters in `marked` get a backslash before them, which is not counted. */
static int write_text(FILE *out, const char *text, const char *marked)
{
    int columns = 0;
    for (const char *s = text; *s;) {
        unsigned code;
        int length = effnet_utf8_length(s, &code);
        if (length && !is_control(code)) {
            if (out && strchr(marked, *s)) fputc('\\', out);
            if (out) fwrite(s, 1, (size_t)length, out);
            columns++;
        } else if (*s == '\n' || *s == '\t' || *s == '\r') {
            if (out) fputs(*s == '\n' ? "\\n" : *s == '\t' ? "\\t" : "\\r", out);
            columns += 2;
            length = 1;
        } else {
            length = length ? length : 1;
            for (int i = 0; out && i < length; i++) fprintf(out, "\\x%02x", (unsigned char)s[i]);
            columns += 4 * length;
        }
        s += length;
    }
    return columns;
}

int text_write_printable(FILE *out, const char *text)
{
    return write_text(out, text, "");
}

void text_write_markdown(FILE *out, const char *text)
{
    write_text(out, text, "|*_<`\\");
}

void text_write_csv(FILE *out, const char *text)
{
    if (!text[strcspn(text, ",\"\r\n")]) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"') fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

bool text_is_slip(const char *word, const char *meant)
{
    while (*word && *word == *meant) word++, meant++;
    return (*word && !strcmp(word + 1, meant)) || (*meant && !strcmp(word, meant + 1)) ||
           (*word && *meant && !strcmp(word + 1, meant + 1)) ||
           (*word && *meant && word[0] == meant[1] && word[1] == meant[0] && !strcmp(word + 2, meant + 2));
}

bool text_find_other_lines(const char **a, const char **b)
{
    static const char no_line[] = "other options";
    while (**a && **b) {
        const size_t length = strcspn(*a, "\n");
        if (length != strcspn(*b, "\n") || memcmp(*a, *b, length) != 0) break;
        *a += length + ((*a)[length] != '\0');
        *b += length + ((*b)[length] != '\0');
    }
    if (!**a && !**b) return false;
    if (strcspn(*a, "\n") == 0) *a = no_line;
    if (strcspn(*b, "\n") == 0) *b = no_line;
    return true;
}

bool json_add_text(cJSON *object, const char *key, const char *text, bool *whole)
{
    char *repaired = malloc(3 * strlen(text) + 1), *to = repaired;
    for (const char *s = text; repaired && *s;) {
        int length = effnet_utf8_length(s, NULL);
        memcpy(to, length ? s : "\xef\xbf\xbd", length ? (size_t)length : 3);
        to += length ? length : 3;
        s += length ? length : 1;
    }
    if (repaired) *to = '\0';
    bool ok = repaired && cJSON_AddStringToObject(object, key, repaired);
    if (ok && whole) *whole = !strcmp(repaired, text);
    free(repaired);
    return ok;
}

bool json_add_number(cJSON *object, const char *key, const char *number)
{
    return cJSON_AddRawToObject(object, key, isfinite(strtod(number, NULL)) ? number : "null");
}

bool json_add_list(cJSON *object, const char *key, const char *text, const char *separator)
{
    static const char digits[] = "-0123456789";
    cJSON *list = cJSON_AddArrayToObject(object, key), *item;
    if (!separator) text += strcspn(text, digits);
    while (list && *text) {
        char *end, *word = NULL;
        if (separator) {
            end = strstr(text, separator);
            word = end ? strndup(text, (size_t)(end - text)) : strdup(text);
            item = word ? cJSON_CreateString(word) : NULL;
            text += end ? end - text + strlen(separator) : strlen(text);
        } else {
            item = cJSON_CreateNumber(strtod(text, &end));
            text = end + strcspn(end, digits);
        }
        free(word);
        if (!item || !cJSON_AddItemToArray(list, item)) return false;
    }
    return list != NULL;
}
