/* Text from outside (file names, labels) on its way into the output's formats. */
#ifndef EFFNET_CLI_TEXT_H
#define EFFNET_CLI_TEXT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdio.h>

/* Writes text so that it stays on its line and cannot steer a terminal: control characters and bytes that
 * are not UTF-8 come out as \n, \t, \xNN. Returns how many characters were written; `out` NULL counts
 * only. */
int text_write_printable(FILE *out, const char *text);

/* The same between the bars of a Markdown table: no bar, no markup. */
void text_write_markdown(FILE *out, const char *text);

/* Writes one field of a CSV record as in RFC 4180: quoted where it holds a comma, a quote or a line end. */
void text_write_csv(FILE *out, const char *text);

/* Whether `word` is what comes of one slip in typing `meant`: a letter more, less or other, or two exchanged.
 */
bool text_is_slip(const char *word, const char *meant);

/* Of two runs' options, a line each: moves both to the first lines that differ, which messages name; where
 * one has none there, to words for that. False: they are the same to the end. */
bool text_find_other_lines(const char **a, const char **b);

/* Adds text to a JSON object; bytes that are not UTF-8 become U+FFFD, and *whole, where that is not NULL,
 * tells whether there were none. False when memory is short. */
bool json_add_text(cJSON *object, const char *key, const char *text, bool *whole);
/* Adds an array: of what stands in the text between separators, or where that is NULL, of the numbers in it.
 */
bool json_add_list(cJSON *object, const char *key, const char *text, const char *separator);
/* Adds a number that is printed already; what is no JSON number ("nan", "inf") becomes null. */
bool json_add_number(cJSON *object, const char *key, const char *number);

#endif
