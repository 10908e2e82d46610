/* Labelled images: a folder a class, or a CSV of file and label. Every label is looked up before any image is
 * read. Functions report their own failures. */
#ifndef EFFNET_CLI_EVALUATE_DATASET_H
#define EFFNET_CLI_EVALUATE_DATASET_H

#include "effnet.h"

struct labelled_image {
    char *path;
    int label; /* class index */
};

struct dataset {
    struct labelled_image *images;
    int64_t count, capacity;
    int folders;          /* 0: of a CSV */
    const char *named_by; /* what its classes are called by: "WordNet id" */
};

/* Which columns of a CSV are meant: by name or by number, from 1; NULL is the usual ones (docs/evaluate.md).
 */
struct dataset_columns {
    const char *file, *label;
};

/* The images in the sub-folders of `folder`, each named as a class is, in the order of their names. With
 * `sorted` the names do not matter: as in torchvision's ImageFolder, a folder's place among the sorted ones
 * is its class, and there must be as many as the model has classes. */
int dataset_read_folders(const char *folder, const effnet_model *model, bool sorted, struct dataset *out);
/* The images that a CSV names, in its order; relative paths begin at its folder. */
int dataset_read_csv(const char *path, const struct dataset_columns *columns, const effnet_model *model,
                     struct dataset *out);
/* Takes zeroed ones. */
void dataset_close(struct dataset *dataset);

#endif
