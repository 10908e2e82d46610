/* What was measured: how long a candidate took for a unit of some kind, shape and batch on some chip.
 *
 * The program ships a table of such entries (tools/tuning/, compiled in), so that on a chip that it knows
 * nothing has to be measured. What `effnet tune` measures lies in one text file, tuning.txt, in the folder
 * that EFFNET_CACHE names (set but empty: nowhere), else in $XDG_CACHE_HOME/effnet, else in ~/.cache/effnet.
 * Table and file have the same form: after a line with the format's version, one line an entry, fields
 * separated by tabs: chip   code   what   size size ...   bytes   candidate   nanoseconds
 *
 * Nothing in the file is trusted: a line that does not parse is skipped, a file of another format or over
 * TUNING_MAX_BYTES is ignored and written anew, and a candidate that does not exist or does not fit is passed
 * over. A file that cannot be read or written is no error. Files are replaced as a whole by renaming, so
 * readers never see half of one; who saves locks the folder and keeps what others have saved. (Where the file
 * system has no locks, of two that save at the same moment one may lose new entries.) */
#ifndef EFFNET_BACKEND_CUDA_TUNING_H
#define EFFNET_BACKEND_CUDA_TUNING_H

#include <stdbool.h>
#include <stdint.h>

#include "effnet.h"

enum {
    TUNING_SIZES = 6,
    TUNING_TEXT = 240,            /* bytes of a text field, with its end */
    TUNING_MAX_ENTRIES = 1 << 13, /* in the file; the oldest go first */
    TUNING_MAX_BYTES = 1 << 21,
};

/* What a choice depends on. */
struct tuning_key {
    const char *chip;       /* the GPU's name, architecture and SMs */
    const char *code;       /* a hash of the kernels' machine code, or a library's version; "": not known */
    char what[TUNING_TEXT]; /* the op, and what else must be equal: "depthwise 3x3 s1" */
    int64_t sizes[TUNING_SIZES]; /* batch and shape; 0 from the first that is not used */
    double bytes;                /* that the unit reads and writes */
};

struct tuning_entry {
    const char *chip, *code, *what, *candidate; /* in one of the table's texts */
    int64_t sizes[TUNING_SIZES];
    double bytes;
    int64_t elapsed_ns;
    bool measured, shipped; /* by this process; with the program */
};

struct tuning {
    char *path;                   /* of the file; NULL: in memory only */
    struct tuning_entry *entries; /* first the file's and what is new, oldest first; then the shipped ones */
    char **texts;                 /* what the entries point into */
    int count, capacity, text_count;
    bool changed; /* since it was read or saved */
};

/* Made by tools/embed_tuning.sh: the entries that the program ships; a hash of the machine code of a family
 * of kernels.
 */
extern const char effnet_shipped_tuning[];
const char *effnet_kernel_code(const char *family);

/* Reads the file, if there is one, and the shipped table. EFFNET_TUNING_WITHOUT, for tests: leaves those
 * shipped entries out whose chip's name holds this. The only failure is memory. */
int tuning_open(struct tuning *tuning, struct effnet_error *error);
/* Frees it without saving. Takes a zeroed one. */
void tuning_close(struct tuning *tuning);

/* Whether a candidate can be used. */
typedef bool tuning_usable(const char *candidate, void *context);

/* The entry that comes nearest to the key, of those with the same `what` and a usable candidate; of equally
 * near ones the fastest. NULL: none. *estimate_us: its time, scaled by the bytes. Another size of twice or
 * half is 1 away, another chip 2, other code a half. Valid until the next put or close. */
const struct tuning_entry *tuning_find(const struct tuning *tuning, const struct tuning_key *key,
                                       tuning_usable *usable, void *context, double *estimate_us);

/* Forgets what the file knew of a key on its chip, of any code. To be followed by puts. */
void tuning_forget(struct tuning *tuning, const struct tuning_key *key);
int tuning_put(struct tuning *tuning, const struct tuning_key *key, const char *candidate, double elapsed_us,
               struct effnet_error *error);

/* Writes the file if something changed, together with what other processes wrote since. Returns false if that
 * did not work (no folder, no space ...): nothing depends on it. */
bool tuning_save(struct tuning *tuning);

#endif
