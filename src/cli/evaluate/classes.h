/* From what people call a class to its index: WordNet id, label, or the index itself. */
#ifndef EFFNET_CLI_EVALUATE_CLASSES_H
#define EFFNET_CLI_EVALUATE_CLASSES_H

#include "effnet.h"

enum class_name_kind { CLASS_NAME_ID, CLASS_NAME_LABEL, CLASS_NAME_INDEX, CLASS_NAME_KINDS };

enum {
    CLASS_UNKNOWN = -1,
    CLASS_AMBIGUOUS = -2, /* several classes are called so */
};

struct class_names;

/* Of an open model, which must outlive it. Reports its own failure. */
int class_names_open(const effnet_model *model, struct class_names **out);
void class_names_close(struct class_names *names);

/* The class called `text`, or one of the above. Labels match if they differ in the case of ASCII letters
 * alone, or in '_' in place of a blank or a slash, which a file's name cannot hold; one that matches exactly
 * goes first. */
int class_names_find(const struct class_names *names, enum class_name_kind kind, const char *text);

/* The kind of name that all of texts[count] are, in the order of the enum; else the one that most of them
 * are, and *stranger becomes the first that is not (-1: all are). *any: some are. */
enum class_name_kind class_names_kind(const struct class_names *names, char *const *texts, int64_t count,
                                      int64_t *stranger, bool *any);

/* "WordNet id", "label", "index" */
const char *class_name_kind_text(enum class_name_kind kind);

#endif
