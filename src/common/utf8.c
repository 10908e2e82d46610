#include "common/utf8.h"

#include <stdbool.h>
#include <string.h>

int effnet_utf8_length(const char *text, unsigned *code)
{
    static const unsigned lowest[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *s = (const unsigned char *)text;
    int length = s[0] < 0x80 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] >= 0x80 && (s[0] < 0xc2 || s[0] > 0xf4)) return 0;
    unsigned c = length == 1 ? s[0] : s[0] & (0x7fu >> length);
    for (int i = 1; i < length; i++) { /* the terminating zero is no continuation, so this ends in time */
        if ((s[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    if (c < lowest[length] || (c >= 0xd800 && c < 0xe000) || c > 0x10ffff) return 0;
    if (code) *code = c;
    return length;
}

/* Whether text[at] is the second or a later byte of a character. */
static bool is_inside(const char *text, size_t at)
{
    for (size_t back = 1; back <= 3 && back <= at; back++)
        if (effnet_utf8_length(text + at - back, NULL) > (int)back) return true;
    return false;
}

char *effnet_keep_end(char *to, size_t size, const char *text)
{
    size_t length = strlen(text);
    if (length < size) return memcpy(to, text, length + 1);
    size_t from = length - (size - 4);
    while (is_inside(text, from)) from++;
    memcpy(to, "...", 3);
    memcpy(to + 3, text + from, length - from + 1);
    return to;
}

char *effnet_keep_start(char *to, size_t size, const char *text)
{
    size_t length = strlen(text);
    if (length < size) return memcpy(to, text, length + 1);
    length = size - 4;
    while (is_inside(text, length)) length--;
    memcpy(to, text, length);
    memcpy(to + length, "...", 4);
    return to;
}

struct effnet_word effnet_word(const char *text)
{
    struct effnet_word word;
    effnet_keep_start(word.text, sizeof word.text, text);
    return word;
}
