/* A list of names, read as it comes: memory does not grow with it. */
#ifndef EFFNET_PIPELINE_LIST_H
#define EFFNET_PIPELINE_LIST_H

#include "effnet.h"

struct list;

/* Opens a file of names, "-" being standard input. A name ends in a newline, or CR and newline; with `null`
 * in a NUL. EFFNET_E_NOINPUT, EFFNET_E_NOMEM. The path is kept, not copied. */
int list_open(const char *path, bool null, struct list **out, struct effnet_error *error);
/* The next name that is not empty, valid until the next call: 1. 0: that was all. Negative: the list cannot
 * be read (EFFNET_E_NOINPUT), or is none: a NUL where names end in newlines, or a name of more than
 * LIST_NAME_MAX bytes (EFFNET_E_DATA). */
enum { LIST_NAME_MAX = 65536 };
int list_next(struct list *list, const char **name, struct effnet_error *error);
/* Which part of a regular file has been handed out, from 0 to 1; below 0 where the list is none. */
double list_done(const struct list *list);
/* Starts again from the first name. What cannot be read twice, as a pipe, must have been kept by list_keep.
 */
int list_rewind(struct list *list, struct effnet_error *error);
/* Before the first name: makes a list that can be read twice of one that cannot, by a copy in a temporary
 * file, which nobody else sees and which goes when the list is closed. */
int list_keep(struct list *list, struct effnet_error *error);
/* Takes NULL. */
void list_close(struct list *list);

#endif
