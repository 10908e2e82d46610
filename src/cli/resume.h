/* How far a run has come, in a small file beside its results (NAME.resume), so that another run can go on
 * after the process was killed at any point.
 *
 *   +--------------------------------+ 0
 *   | "effnet resume 1", then a line |   what the results depend on
 *   | key=value for each option      |
 *   +--------------------------------+ RESUME_HEADER_BYTES
 *   | a record                       |   written in turn: one of them is always whole,
 *   +--------------------------------+   and the newer whole one counts
 *   | a record                       |
 *   +--------------------------------+
 */
#ifndef EFFNET_CLI_RESUME_H
#define EFFNET_CLI_RESUME_H

#include <stdbool.h>
#include <stdint.h>

enum { RESUME_HEADER_BYTES = 2048 };

struct resume_record {
    int64_t items;           /* names that are done: answered, failed or skipped */
    int64_t rows;            /* of arrays: as many without those skipped */
    int64_t failed, skipped; /* of the items */
    int64_t bytes;           /* of the results */
    uint64_t names;          /* hash of the items' names */
    int64_t status;          /* that the first failure gave, or EFFNET_OK */
    int64_t finished;        /* 1: all is written, and only names are to be changed */
};

struct resume;

/* Makes the file, or takes an earlier run's: *record tells how far that came, or is all zeros, and *found
 * whether the file was there and is effnet's. `options`: lines of key=value, under RESUME_HEADER_BYTES - 64
 * bytes. Reports: EFFNET_E_USAGE, the earlier run has begun, and `go_on` is false or its options are others;
 * EFFNET_E_OUTPUT, another process uses the file, or it is not effnet's. */
int resume_open(const char *path, const char *options, bool go_on, struct resume **out,
                struct resume_record *record, bool *found);
/* Writes how far the run has come. What it counts must have been written before. */
int resume_note(struct resume *resume, const struct resume_record *record);
/* Removes the file if all is done. Takes NULL. */
void resume_close(struct resume *resume, bool done);

#endif
