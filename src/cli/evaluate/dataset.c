#include "cli/evaluate/dataset.h"

#include "cli/cli.h"
#include "cli/evaluate/classes.h"
#include "cli/evaluate/csv.h"
#include "cli/evaluate/folders.h"
#include "pipeline/folder.h"
#include "pipeline/walk.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Takes path, which may be NULL for want of memory. */
static int add_image(struct dataset *dataset, char *path, int label)
{
    if (path && dataset->count == dataset->capacity) {
        const int64_t capacity = dataset->capacity ? 2 * dataset->capacity : 1024;
        struct labelled_image *images = realloc(dataset->images, (size_t)capacity * sizeof *images);
        if (images) {
            dataset->images = images;
            dataset->capacity = capacity;
        }
    }
    if (!path || dataset->count == dataset->capacity) {
        free(path);
        return cli_fail_nomem("the list of images");
    }
    dataset->images[dataset->count++] = (struct labelled_image){path, label};
    return EFFNET_OK;
}

void dataset_close(struct dataset *dataset)
{
    for (int64_t i = 0; i < dataset->count; i++) free(dataset->images[i].path);
    free(dataset->images);
    memset(dataset, 0, sizeof *dataset);
}

/* ---------------------------------------------------------------- without labels */

int dataset_read_images(char *const *operands, int count, struct dataset *out)
{
    const struct walk_options options = {
        .operands = operands, .count = count, .recursive = true, .shard = {.number = 1, .count = 1}};
    struct walk *walk;
    struct walk_entry entry;
    struct effnet_error error;
    *out = (struct dataset){0};
    if (walk_open(&options, &walk, &error)) return cli_fail_library(&error);
    int status = EFFNET_OK, more = 0;
    while (!status && (more = walk_next(walk, &entry, &error)) > 0)
        if (!entry.found || walk_is_image(entry.path))
            status = add_image(out, strdup(entry.path), CLASS_UNKNOWN);
    if (!status && more < 0) status = cli_fail_library(&error);
    if (!status && !out->count) status = cli_fail(EFFNET_E_NOINPUT, "%s: no image in it", operands[0]);
    walk_close(walk);
    if (status) dataset_close(out);
    return status;
}

/* ---------------------------------------------------------------- a folder a class */

static int check_one_label(const effnet_model *model)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    if (!info->multi_label) return EFFNET_OK;
    return cli_fail(EFFNET_E_USAGE,
                    "%s is multi-label: its images show any number of classes, and have no top-1",
                    info->network);
}

/* Adds all files below folder/name. */
static int add_folder(struct dataset *dataset, const char *folder, const char *name, int label)
{
    char *path = NULL;
    const size_t length = strlen(folder);
    const char *slash = length && folder[length - 1] == '/' ? "" : "/", *file;
    struct folder *files = NULL;
    struct effnet_error error;
    if (asprintf(&path, "%s%s%s", folder, slash, name) < 0) return cli_fail_nomem("the list of images");
    int status = folder_open(path, &files, &error), found = 0;
    if (status) cli_fail_library(&error);
    while (!status && (found = folder_next(files, &file, &error)) == 1)
        status = add_image(dataset, strdup(file), label);
    if (found < 0) status = cli_fail_library(&error);
    folder_close(files);
    free(path);
    return status;
}

/* The classes that the folders stand for, into labels [count]. */
static int label_folders(const char *folder, char *const *names, int count, const effnet_model *model,
                         struct dataset *out, int *labels)
{
    const char *network = effnet_model_get_info(model)->network;
    struct class_names *classes;
    int64_t stranger;
    bool any;
    EFFNET_TRY(class_names_open(model, &classes));
    const enum class_name_kind kind = class_names_kind(classes, names, count, &stranger, &any);
    const char *kind_text = class_name_kind_text(kind);
    int status = EFFNET_OK;
    out->named_by = kind_text;
    if (stranger >= 0)
        status = cli_fail(
            EFFNET_E_DATA,
            "%s: the folder '%s' is no class: no %s of %s; where folders are numbered by the order of "
            "their names, as by torchvision's ImageFolder, give --class-order sorted",
            folder, names[stranger], any ? kind_text : "WordNet id, label or index", network);
    for (int i = 0; !status && i < count; i++) {
        labels[i] = class_names_find(classes, kind, names[i]);
        if (labels[i] == CLASS_AMBIGUOUS)
            status = cli_fail(
                EFFNET_E_DATA,
                "%s: the folder '%s' may be one of several classes that %s calls so; name folders "
                "by WordNet ids or indices",
                folder, names[i], network);
    }
    class_names_close(classes);
    return status;
}

static int label_sorted(const char *folder, int count, const effnet_model *model, struct dataset *out,
                        int *labels)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    if (count != info->classes)
        return cli_fail(EFFNET_E_DATA,
                        "%s: --class-order sorted wants as many folders as %s has classes, %d; there are %d",
                        folder, info->network, info->classes, count);
    for (int i = 0; i < count; i++) labels[i] = i;
    out->named_by = "order of the folders";
    return EFFNET_OK;
}

int dataset_read_folders(const char *folder, const effnet_model *model, bool sorted, struct dataset *out)
{
    char **names;
    *out = (struct dataset){0};
    EFFNET_TRY(check_one_label(model));
    EFFNET_TRY(folders_list(folder, &names, &out->folders));
    int *labels = calloc((size_t)out->folders + 1, sizeof *labels);
    int status = labels ? EFFNET_OK : cli_fail_nomem("the list of folders");
    if (!status && !out->folders)
        status = cli_fail(EFFNET_E_NOINPUT,
                          "%s: no folder in it: a folder a class is wanted, or --labels-from FILE.csv",
                          folder);
    if (!status)
        status = sorted ? label_sorted(folder, out->folders, model, out, labels)
                        : label_folders(folder, names, out->folders, model, out, labels);
    for (int i = 0; !status && i < out->folders; i++) status = add_folder(out, folder, names[i], labels[i]);
    if (!status && !out->count)
        status = cli_fail(EFFNET_E_NOINPUT, "%s: no file in any of its %d folders", folder, out->folders);
    folders_free(names, out->folders);
    free(labels);
    if (status) dataset_close(out);
    return status;
}

/* ---------------------------------------------------------------- a CSV */

static const char file_words[] = "file|filename|file_name|filepath|file_path|path|image|image_path";
static const char label_words[] = "label|class|class_id|class_index|class_name|category|index|target|wnid";

static bool is_word(const char *text, const char *words)
{
    const size_t length = strlen(text);
    for (const char *at = words; length && *at; at += strcspn(at, "|"), at += *at == '|')
        if (strcspn(at, "|") == length && !strncasecmp(at, text, length)) return true;
    return false;
}

/* A column's number, from 0, or -1 where the option gives a name. */
static int column_number(const char *option)
{
    char *end;
    if (!option || !isdigit((unsigned char)*option)) return -1;
    const long number = strtol(option, &end, 10);
    return *end || number < 1 || number > 1000000 ? -1 : (int)number - 1;
}

/* The first field that is `name` or, where that is NULL, one of the words; -1: none. */
static int find_column(const struct csv *csv, const char *name, const char *words)
{
    for (int i = 0; i < csv->field_count; i++)
        if (name ? !strcmp(csv->fields[i], name) : is_word(csv->fields[i], words)) return i;
    return -1;
}

/* Finds both columns, given the first record. *header: that one names them. */
static int choose_columns(const struct csv *csv, const struct dataset_columns *columns, int *file, int *label,
                          bool *header)
{
    const char *options[] = {columns->file, columns->label}, *const words[] = {file_words, label_words};
    int *const targets[] = {file, label};
    *header = find_column(csv, NULL, file_words) >= 0 && find_column(csv, NULL, label_words) >= 0;
    for (int i = 0; i < 2; i++)
        if (options[i] && column_number(options[i]) < 0) *header = true;
    for (int i = 0; i < 2; i++) {
        *targets[i] = options[i] ? column_number(options[i]) : *header ? -1 : i;
        if (*targets[i] < 0) *targets[i] = find_column(csv, options[i], words[i]);
        if (*targets[i] >= 0) continue;
        if (options[i])
            return cli_fail(EFFNET_E_USAGE, "%s: its first line names no column '%s'", csv->path, options[i]);
        return cli_fail(EFFNET_E_USAGE, "%s: which column holds the %s? Give --%s-column", csv->path,
                        i ? "label" : "file", i ? "label" : "file");
    }
    return EFFNET_OK;
}

/* A CSV's images with their labels as they stand there. */
struct raw_labels {
    struct dataset *dataset;
    char **labels;
    int64_t *lines;
    int64_t capacity;
};

/* What a path in the CSV means: from the CSV's folder on where it is relative. */
static char *resolve(const char *csv_path, const char *path)
{
    const char *slash = strrchr(csv_path, '/');
    char *resolved = NULL;
    if (*path == '/') return strdup(path);
    if (slash)
        return asprintf(&resolved, "%.*s/%s", (int)(slash - csv_path), csv_path, path) < 0 ? NULL : resolved;
    if (strcmp(path, "-")) return strdup(path);
    return strdup("./-"); /* a file, not standard input */
}

static int add_record(struct raw_labels *raw, const struct csv *csv, int file, int label)
{
    const int most = file > label ? file : label;
    if (csv->field_count <= most)
        return cli_fail(EFFNET_E_DATA, "%s:%" PRId64 ": %d field%s, where column %d is wanted", csv->path,
                        csv->line, csv->field_count, csv->field_count == 1 ? "" : "s", most + 1);
    if (!*csv->fields[file])
        return cli_fail(EFFNET_E_DATA, "%s:%" PRId64 ": the name of the file is empty", csv->path, csv->line);
    const int64_t i = raw->dataset->count;
    if (i == raw->capacity) {
        const int64_t capacity = raw->capacity ? 2 * raw->capacity : 1024;
        char **labels = realloc(raw->labels, (size_t)capacity * sizeof *labels);
        if (labels) raw->labels = labels;
        int64_t *lines = realloc(raw->lines, (size_t)capacity * sizeof *lines);
        if (lines) raw->lines = lines;
        if (!labels || !lines) return cli_fail_nomem("the labels");
        raw->capacity = capacity;
    }
    raw->labels[i] = csv->fields[label];
    raw->lines[i] = csv->line;
    return add_image(raw->dataset, resolve(csv->path, csv->fields[file]), CLASS_UNKNOWN);
}

static int read_records(struct csv *csv, const struct dataset_columns *columns, struct raw_labels *raw)
{
    int file = 0, label = 1;
    bool found, header;
    EFFNET_TRY(csv_next(csv, &found));
    if (found) {
        EFFNET_TRY(choose_columns(csv, columns, &file, &label, &header));
        if (header) EFFNET_TRY(csv_next(csv, &found));
    }
    while (found) {
        EFFNET_TRY(add_record(raw, csv, file, label));
        EFFNET_TRY(csv_next(csv, &found));
    }
    if (!raw->dataset->count) return cli_fail(EFFNET_E_NOINPUT, "%s: names no image", csv->path);
    return EFFNET_OK;
}

static int label_records(const char *path, const effnet_model *model, struct raw_labels *raw)
{
    const char *network = effnet_model_get_info(model)->network;
    struct dataset *dataset = raw->dataset;
    struct class_names *classes;
    int64_t stranger;
    bool any;
    EFFNET_TRY(class_names_open(model, &classes));
    const enum class_name_kind kind = class_names_kind(classes, raw->labels, dataset->count, &stranger, &any);
    int status = EFFNET_OK;
    dataset->named_by = class_name_kind_text(kind);
    if (stranger >= 0)
        status = cli_fail(
            EFFNET_E_DATA, "%s:%" PRId64 ": '%s' is no class: no %s of %s%s", path, raw->lines[stranger],
            raw->labels[stranger], any ? dataset->named_by : "WordNet id, label or index", network,
            stranger == 0 ? "; if the columns are others, give --file-column and --label-column" : "");
    for (int64_t i = 0; !status && i < dataset->count; i++) {
        dataset->images[i].label = class_names_find(classes, kind, raw->labels[i]);
        if (dataset->images[i].label == CLASS_AMBIGUOUS)
            status = cli_fail(EFFNET_E_DATA,
                              "%s:%" PRId64
                              ": '%s' may be one of several classes that %s calls so; give WordNet "
                              "ids or indices",
                              path, raw->lines[i], raw->labels[i], network);
    }
    class_names_close(classes);
    return status;
}

int dataset_read_csv(const char *path, const struct dataset_columns *columns, const effnet_model *model,
                     struct dataset *out)
{
    struct csv csv;
    struct raw_labels raw = {.dataset = out};
    *out = (struct dataset){0};
    EFFNET_TRY(check_one_label(model));
    EFFNET_TRY(csv_open(path, &csv));
    int status = read_records(&csv, columns, &raw);
    if (!status) status = label_records(path, model, &raw);
    free(raw.labels);
    free(raw.lines);
    csv_close(&csv);
    if (status) dataset_close(out);
    return status;
}
