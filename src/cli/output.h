/* A file of results. It has a name of its own, NAME.partial, until it is whole: then it is synchronised with
 * the disk and takes the place of NAME. What is no regular file (a terminal, a pipe, /dev/null) is written
 * straight. */
#ifndef EFFNET_CLI_OUTPUT_H
#define EFFNET_CLI_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct output {
    FILE *file;       /* NULL: there is none */
    const char *name; /* as the user gave it, for messages */
    char *final;      /* NULL: written straight */
    char *partial;
    unsigned mode; /* of the file that is replaced, or 0 */
    bool hasty;    /* takes its name without waiting for the disk: one of many, which can be made again */
    bool reported;
};

/* Fills in the names and opens nothing but what is written straight; name NULL is standard output. All that
 * follow report their failures, by EFFNET_E_OUTPUT. */
int output_name(struct output *output, const char *name);
/* Opens the partial file. `ours`: one that is there is left by an earlier run of effnet; its first
 * `keep_bytes` stay and what follows goes. Else none may be there. */
int output_open(struct output *output, bool ours, int64_t keep_bytes);
/* Right after printing, while errno still tells the reason: whether a write has failed. */
int output_check(struct output *output);
int output_flush(struct output *output);
/* What is in the partial file becomes safe on disk; */
int output_sync(struct output *output);
/* then it takes its final name. One that is not there any more has taken it before. */
int output_rename(const struct output *output);
/* Closes the file, and removes the partial one unless it is to be kept. Takes zeroed structs. */
void output_close(struct output *output, bool keep);

/* Where a file or folder of this name is or would be: an absolute path without links, the caller's. NULL: its
 * folder is not there, or memory is short. */
char *output_place(const char *name);
/* Whether both names lead there, in whatever spelling. */
bool output_same_place(const char *a, const char *b);

/* Refuses to write to what is read: a list, labels, weights. Either may be NULL; an input "-" is no file. */
int output_check_not_read(const char *name, const char *input);
/* A slip of the shell's completion must not cost an image: refuses to replace one. */
int output_check_no_image(const char *name);

/* Refuses the endings of what is made beside an output: it may be another output's, and would be lost.
 * Reports: EFFNET_E_USAGE. */
int output_check_ending(const char *name);

/* For what is written in one go. Before long work: whether a file could be made there, and may be by its
 * ending; */
int output_check_place(const char *name);
/* output_name and output_open; */
int output_begin(struct output *output, const char *name);
/* and the file takes its name or, where something was not written or `status` is a failure, is removed.
 * Returns status, or its own failure. */
int output_end(struct output *output, int status);

#endif
