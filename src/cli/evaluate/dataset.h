/* Images, and what they show: a folder a class, or a CSV of file and label. Every label is looked up before
 * any image is read. A multi-label model's images have no one label: EFFNET_E_USAGE. Functions report their
 * own failures. */
#ifndef EFFNET_CLI_EVALUATE_DATASET_H
#define EFFNET_CLI_EVALUATE_DATASET_H

#include "effnet.h"

struct labelled_image {
    char *path;
    int label; /* class index, or CLASS_UNKNOWN (classes.h) of images without labels */
};

struct dataset {
    struct labelled_image *images;
    int64_t count, capacity;
    int folders;          /* a folder a class; 0: of a CSV, or without labels */
    const char *named_by; /* what its classes are called by: "WordNet id"; NULL: it has no labels */
};

/* Which columns of a CSV are meant: by name or by number, from 1; NULL is the usual ones (docs/evaluate.md).
 */
struct dataset_columns {
    const char *file, *label;
};

/* Rows of an option table, for commands that take labels: a struct dataset_columns, and the order of classes
 * (const char **class_order, "names" before). */
#define LABEL_OPTIONS(columns, class_order)                                                                  \
    TEXT(0, "file-column", "NAME|N",                                                                         \
         "its column with the file, by name or number from 1\n(default: one called file, "                   \
         "filename, path, image, ..., else 1)",                                                              \
         &(columns)->file),                                                                                  \
        TEXT(0, "label-column", "NAME|N",                                                                    \
             "its column with the label, likewise\n(default: one called label, class, index, "               \
             "target, wnid, ..., else 2)",                                                                   \
             &(columns)->label),                                                                             \
        CHOICE(0, "class-order", "names|sorted",                                                             \
               "sorted: classes are numbered by the order of the folders' names, as by\n"                    \
               "torchvision's ImageFolder, whatever these are (default names)",                              \
               class_order)

/* The images in the sub-folders of `folder`, each named as a class is, in the order of their names. With
 * `sorted` the names do not matter: as in torchvision's ImageFolder, a folder's place among the sorted ones
 * is its class, and there must be as many as the model has classes. */
int dataset_read_folders(const char *folder, const effnet_model *model, bool sorted, struct dataset *out);
/* The images that a CSV names, in its order; relative paths begin at its folder. */
int dataset_read_csv(const char *path, const struct dataset_columns *columns, const effnet_model *model,
                     struct dataset *out);
/* Image files, and the images in and below folders, without labels. Files named by operands[count] are taken
 * for images; of those in folders the ones that are no images by their first bytes are left out. */
int dataset_read_images(char *const *operands, int count, struct dataset *out);
/* Takes zeroed ones. */
void dataset_close(struct dataset *dataset);

#endif
