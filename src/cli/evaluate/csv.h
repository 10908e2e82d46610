/* Comma-separated values as in RFC 4180, from a file that nobody vouches for: fields may be quoted, lines end
 * with LF, CR LF or CR, and a byte order mark is passed over. */
#ifndef EFFNET_CLI_EVALUATE_CSV_H
#define EFFNET_CLI_EVALUATE_CSV_H

#include <stdbool.h>
#include <stdint.h>

struct csv {
    const char *path;
    char *text, *at; /* all of the file, and where the next record begins */
    int64_t next_line;
    char **fields; /* the record's, unquoted, in `text` */
    int field_count, capacity;
    int64_t line; /* that the record begins on, from 1 */
};

/* Reads the file; `path` must outlive it. Reports its own failure. */
int csv_open(const char *path, struct csv *out);
/* The next record with anything in it: *found, and fields[field_count] until the next call; the texts of the
 * fields live until csv_close. Reports its own failure. */
int csv_next(struct csv *csv, bool *found);
/* Takes zeroed ones. */
void csv_close(struct csv *csv);

#endif
