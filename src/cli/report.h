/* What info, verify and bench print: facts (a key and a value), then tables, in one of several formats.
 *
 *   text      facts as lines, tables with aligned columns
 *   markdown  the same as a list and as tables
 *   json      one object: a member a fact, and an array of objects a table
 *   csv       the tables alone; every record begins with the facts, so that it can stand by itself */
#ifndef EFFNET_CLI_REPORT_H
#define EFFNET_CLI_REPORT_H

#include <stdbool.h>
#include <stdio.h>

enum value_kind {
    VALUE_TEXT,
    VALUE_NUMBER,
    VALUE_BOOL,
    VALUE_NUMBERS, /* text with several in it, "3x3x8"; in JSON an array */
    VALUE_WORDS,   /* with blanks between them; likewise */
    VALUE_NAMES,   /* with ", " between them; likewise */
};

struct column {
    const char *key; /* in JSON and CSV */
    const char *heading;
    enum value_kind kind;
};

struct report;

/* `format` is one of the names above. Returns EFFNET_OK or EFFNET_E_NOMEM, reported. */
int report_open(const char *format, FILE *out, struct report **report);

/* Facts come before tables. A number is printf'd. */
void report_text(struct report *report, const char *key, const char *heading, const char *text);
void report_numbers(struct report *report, const char *key, const char *heading, const char *text);
void report_number(struct report *report, const char *key, const char *heading, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

void report_bool(struct report *report, const char *key, const char *heading, bool value);

/* Begins a table, ends the one before. `columns` must live until report_close. */
void report_table(struct report *report, const char *key, const char *title, const struct column *columns,
                  int column_count);
/* The next cells of the table, row by row; each is of its column's kind. */
void report_cell_text(struct report *report, const char *text);
void report_cell_number(struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));
void report_cell_bool(struct report *report, bool value);

/* A line for people, after the tables before it: text and markdown alone show it. */
void report_note(struct report *report, const char *text);

/* Prints what is left, frees the report; takes NULL. Returns EFFNET_OK, or EFFNET_E_NOMEM when memory was
 * short on the way, or EFFNET_E_OUTPUT, reported. */
int report_close(struct report *report);

#endif
