/* What `effnet merge` has to know of a part, the output of one shard: in a small file beside it, NAME.shard.
 * It is there before the part has its name.
 *
 *   effnet shard 1
 *   shard=2/7
 *   columns=0             of an array of floats; 0: lines of results
 *   bytes=5120            the part's
 *   hash=0123456789abcdef
 *   output=results        what follows is the same in all parts of a run:
 *   names=40 ...          how many names it has, and their hash
 *   ...                   then the options that results depend on
 */
#ifndef EFFNET_CLI_PART_H
#define EFFNET_CLI_PART_H

#include "cli/resume.h"
#include "pipeline/shard.h"

#include <stdio.h>

enum { PART_RUN_BYTES = RESUME_HEADER_BYTES };

struct part {
    struct shard shard;
    int64_t columns, bytes;
    uint64_t hash;
    char run[PART_RUN_BYTES]; /* lines of key=value */
};

/* Before long work: EFFNET_E_OUTPUT, reported, where the part's small file would replace another's. `path` is
 * the part's own name here and below. */
int part_check_place(const char *path);
/* Fills in bytes and hash from the part, which is open for reading at any place, and writes its small file.
 * Reports: EFFNET_E_OUTPUT. */
int part_write(const char *path, struct part *part, FILE *file);
/* Reads the small file. Reports: EFFNET_E_NOINPUT, EFFNET_E_DATA. */
int part_read(const char *path, struct part *part);

#endif
