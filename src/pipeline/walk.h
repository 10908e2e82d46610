/* The names of what is to be classified: files, folders and what lies below them, or a list. */
#ifndef EFFNET_PIPELINE_WALK_H
#define EFFNET_PIPELINE_WALK_H

#include "pipeline/shard.h"

struct walk_options {
    char *const
        *operands; /* [count]: files, folders, "-" for an image from standard input. Kept, not copied */
    int count;
    const char *list; /* names come from this file in place of the operands ("-": standard input), or NULL. A
                         "-" in it is a file of that name */
    bool null;        /* its names end in NUL and not in newlines */
    bool recursive;   /* a folder stands for all files below it (pipeline/folder.h) */
    struct shard shard;
};

struct walk;

struct walk_entry {
    const char *path; /* valid until the next call */
    bool found;       /* in a folder, and not named by the user: it may be no image at all */
    double done;      /* which part of the names this is the last of, from 0 to 1; below 0: not known */
};

/* With more than one shard the names are counted first: folders are gone through twice, and a list that
 * cannot be read twice is copied to a temporary file. The options are copied. */
int walk_open(const struct walk_options *options, struct walk **out, struct effnet_error *error);
/* How many names there will be; below 0 where that is not known. */
int64_t walk_total(const struct walk *walk);
/* How many names all shards have together, and the hash of them, each with its NUL. Of one shard nothing is
 * known: zeros. */
struct walk_names {
    int64_t count;
    uint64_t hash;
};
struct walk_names walk_names_of_all(const struct walk *walk);
/* The next name, in the order given: 1. 0: that was all. Negative: as list_next and folder_next. */
int walk_next(struct walk *walk, struct walk_entry *entry, struct effnet_error *error);
/* Whether a file is an image, by its first bytes, be it broken or of a format that is not read. A file that
 * is empty or cannot be read may be one. */
bool walk_is_image(const char *path);
/* Takes NULL. */
void walk_close(struct walk *walk);

#endif
