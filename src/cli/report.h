/* What info, verify, bench and evaluate print: facts (a key and a value), then tables, in one of several
 * formats.
 *
 *   text      facts as lines, tables with aligned columns
 *   markdown  the same as a list and as tables
 *   json      one object: a member a fact, and an array of objects a table
 *   csv       the tables alone; every record begins with the facts, so that it can stand by itself. Where
 * there is no table, one record of the facts */
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

/* Facts come before tables. The value is printf'd. */
void report_fact(struct report *report, enum value_kind kind, const char *key, const char *heading,
                 const char *format, ...) __attribute__((format(printf, 5, 6)));
/* The text of a VALUE_BOOL. */
const char *report_bool(bool value);

/* Begins a table, ends the one before. `columns` must live until report_close. */
void report_table(struct report *report, const char *key, const char *title, const struct column *columns,
                  int column_count);
/* The table's next row, printf'd: a tab ends a cell, so no text of one holds any. Cells past the table's
 * columns are left out. */
void report_row(struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A line for people, after the tables before it: text and markdown alone show it. */
void report_note(struct report *report, const char *text);

/* Prints what is left, frees the report; takes NULL. Returns EFFNET_OK, or EFFNET_E_NOMEM when memory was
 * short on the way, or EFFNET_E_OUTPUT, reported. */
int report_close(struct report *report);

#endif
