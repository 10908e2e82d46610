/* The files below a folder, one after the other. */
#ifndef EFFNET_PIPELINE_FOLDER_H
#define EFFNET_PIPELINE_FOLDER_H

#include "effnet.h"

struct folder;

/* Starts on all files below `path`. What a folder holds is sorted by name, byte by byte, and gone through
 * depth first; memory holds the names of one folder a level. Names that begin with a dot are left out, and so
 * are devices, sockets and pipes. A link to a file counts as a file. A link to a folder is followed, but not
 * to one that the path leads through, and not twice to the same: there are no circles, however links lie.
 * EFFNET_E_NOMEM. */
int folder_open(const char *path, struct folder **out, struct effnet_error *error);
/* The next file's path, `path` and names joined by slashes, valid until the next call: 1. 0: that was all. A
 * folder that cannot be opened is handed out as a file, so that who reads it learns why. Negative: a folder's
 * names could not be read to the end (EFFNET_E_NOINPUT), EFFNET_E_NOMEM. */
int folder_next(struct folder *folder, const char **path, struct effnet_error *error);
/* Which part has been handed out, from 0 to 1, taking all that lies in one folder for equally large. */
double folder_done(const struct folder *folder);
/* Takes NULL. */
void folder_close(struct folder *folder);

#endif
