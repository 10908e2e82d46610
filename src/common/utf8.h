/* UTF-8 in text that nobody vouches for, and text cut to fit into a message. */
#ifndef EFFNET_COMMON_UTF8_H
#define EFFNET_COMMON_UTF8_H

#include <stddef.h>

/* Bytes of the sequence that text begins with and, where code is not NULL, its code point. 0 where there is
 * none: a stray or missing continuation, an overlong form, a surrogate, past U+10FFFF (RFC 3629). */
int effnet_utf8_length(const char *text, unsigned *code);

/* Both copy text into to[size], size being at least 8; what is longer is cut between characters, and "..."
 * stands for the rest. keep_end is for paths, whose end says more; keep_start for names. Both return to. */
char *effnet_keep_end(char *to, size_t size, const char *text);
char *effnet_keep_start(char *to, size_t size, const char *text);

/* The start of a word from outside, short enough for any message: effnet_word(name).text. */
struct effnet_word {
    char text[84];
};
struct effnet_word effnet_word(const char *text);

/* Room that a path gets in a message of the library, so that the reason fits behind it. */
#define EFFNET_PATH_TEXT_SIZE 300

#endif
