#include "cli/evaluate/classes.h"

#include "cli/cli.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

struct name {
    char *folded; /* as names are compared */
    const char *text;
    int index;
};

struct table {
    struct name *names; /* sorted by `folded` */
    int count;
};

struct class_names {
    struct table tables[CLASS_NAME_INDEX]; /* of ids and of labels */
    int classes;
};

const char *class_name_kind_text(enum class_name_kind kind)
{
    static const char *const texts[CLASS_NAME_KINDS] = {"WordNet id", "label", "index"};
    return texts[kind];
}

static char *fold(const char *text)
{
    char *folded = strdup(text);
    for (char *s = folded; s && *s; s++)
        *s = (char)(*s == '_' || *s == '/'       ? ' '
                    : isascii((unsigned char)*s) ? tolower((unsigned char)*s)
                                                 : *s);
    return folded;
}

static int by_folded(const void *a, const void *b)
{
    const struct name *x = a, *y = b;
    const int order = strcmp(x->folded, y->folded);
    return order ? order : x->index - y->index;
}

static bool fill_table(struct table *table, const effnet_model *model, enum class_name_kind kind, int classes)
{
    table->names = calloc((size_t)classes, sizeof *table->names);
    for (int i = 0; table->names && i < classes; i++) {
        const struct effnet_label label = effnet_model_label(model, i);
        const char *text = kind == CLASS_NAME_ID ? label.id : label.name;
        if (!*text) continue;
        char *folded = fold(text);
        if (!folded) return false;
        table->names[table->count++] = (struct name){folded, text, i};
    }
    if (!table->names) return false;
    qsort(table->names, (size_t)table->count, sizeof *table->names, by_folded);
    return true;
}

int class_names_open(const effnet_model *model, struct class_names **out)
{
    struct class_names *names = *out = calloc(1, sizeof *names);
    if (!names) return cli_fail_nomem("the labels");
    names->classes = effnet_model_get_info(model)->classes;
    for (int kind = 0; kind < CLASS_NAME_INDEX; kind++) {
        if (fill_table(&names->tables[kind], model, kind, names->classes)) continue;
        class_names_close(names);
        *out = NULL;
        return cli_fail_nomem("the labels");
    }
    return EFFNET_OK;
}

void class_names_close(struct class_names *names)
{
    if (!names) return;
    for (int kind = 0; kind < CLASS_NAME_INDEX; kind++) {
        for (int i = 0; i < names->tables[kind].count; i++) free(names->tables[kind].names[i].folded);
        free(names->tables[kind].names);
    }
    free(names);
}

static int find_index(const char *text, int classes)
{
    int64_t index = 0;
    for (const char *s = text; *s; s++) {
        if (!isdigit((unsigned char)*s)) return CLASS_UNKNOWN;
        index = 10 * index + (*s - '0');
        if (index >= classes) return CLASS_UNKNOWN;
    }
    return *text ? (int)index : CLASS_UNKNOWN;
}

int class_names_find(const struct class_names *names, enum class_name_kind kind, const char *text)
{
    if (kind == CLASS_NAME_INDEX) return find_index(text, names->classes);
    const struct table *table = &names->tables[kind];
    char *folded = fold(text);
    int low = 0, high = folded ? table->count : 0;
    while (low < high) { /* the first that is not before the text */
        const int middle = low + (high - low) / 2;
        if (strcmp(table->names[middle].folded, folded) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    int alike = CLASS_UNKNOWN, exact = CLASS_UNKNOWN;
    for (; folded && low < table->count && !strcmp(table->names[low].folded, folded); low++) {
        const int index = table->names[low].index;
        alike = alike == CLASS_UNKNOWN ? index : CLASS_AMBIGUOUS;
        if (!strcmp(table->names[low].text, text)) exact = exact == CLASS_UNKNOWN ? index : CLASS_AMBIGUOUS;
    }
    free(folded);
    return exact == CLASS_UNKNOWN ? alike : exact;
}

enum class_name_kind class_names_kind(const struct class_names *names, char *const *texts, int64_t count,
                                      int64_t *stranger, bool *any)
{
    enum class_name_kind best = CLASS_NAME_ID;
    int64_t most = -1;
    for (enum class_name_kind kind = 0; kind < CLASS_NAME_KINDS && most < count; kind++) {
        int64_t known = 0, first_unknown = -1;
        for (int64_t i = 0; i < count; i++) {
            const bool is_known = class_names_find(names, kind, texts[i]) != CLASS_UNKNOWN;
            known += is_known;
            if (!is_known && first_unknown < 0) first_unknown = i;
        }
        if (known <= most) continue;
        best = kind;
        most = known;
        *stranger = first_unknown;
    }
    *any = most > 0;
    return best;
}
