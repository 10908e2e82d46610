/* Weights files that are wrong in one place: what is edited, and what the refusal must say. Include after
 * cmocka.h. */
#ifndef EFFNET_TESTS_REJECTS_H
#define EFFNET_TESTS_REJECTS_H

#include "weights_builder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum tree { TENSORS, METADATA, NETWORK, PREPROCESS, LABELS, SOURCE };

/* One edit of a small network's file, and what the message must say. In `at`, a number is an array's index
 * and a last part with '+' adds a member beside those of the same name. json NULL removes. */
struct edit {
    enum tree tree;
    const char *at, *json, *message;
};

static inline cJSON **tree_of(struct weights *w, enum tree tree)
{
    switch (tree) {
    case TENSORS: return &w->tensors;
    case METADATA: return &w->metadata;
    case NETWORK: return &w->network;
    case PREPROCESS: return &w->preprocess;
    case LABELS: return &w->labels;
    case SOURCE: return &w->source;
    }
    return NULL;
}

/* Any text: a tree would print infinity as null. */
static inline cJSON *raw(const char *json)
{
    cJSON *item = cJSON_CreateRaw(json);
    assert_non_null(item);
    return item;
}

static inline void apply(struct weights *w, const struct edit *edit)
{
    cJSON **root = tree_of(w, edit->tree), *parent = *root;
    if (!edit->at[0]) {
        cJSON_Delete(*root);
        *root = edit->json ? raw(edit->json) : NULL;
        return;
    }
    char parts[128];
    snprintf(parts, sizeof parts, "%s", edit->at);
    char *part = parts, *slash;
    for (; (slash = strchr(part, '/')); part = slash + 1) {
        *slash = 0;
        parent = cJSON_IsArray(parent) ? cJSON_GetArrayItem(parent, atoi(part))
                                       : cJSON_GetObjectItem(parent, part);
        if (!parent) fail_msg("no %s in %s", part, edit->at);
    }
    if (part[0] == '+') {
        cJSON_AddItemToObject(parent, part + 1, raw(edit->json));
    } else if (cJSON_IsArray(parent)) {
        if (!edit->json)
            cJSON_DeleteItemFromArray(parent, atoi(part));
        else
            assert_true(cJSON_ReplaceItemInArray(parent, atoi(part), raw(edit->json)));
    } else if (!edit->json) {
        assert_non_null(cJSON_GetObjectItem(parent, part));
        cJSON_DeleteItemFromObject(parent, part);
    } else {
        assert_true(cJSON_ReplaceItemInObject(parent, part, raw(edit->json)));
    }
}

/* Saves w, and expects that it is refused with a message that names the file and holds `message`. */
static inline void expect_rejected(struct weights *w, const char *what, const char *message)
{
    struct effnet_error error = {0};
    effnet_model *model = NULL;
    const char *path = weights_save(w);
    int status = effnet_model_open(path, &model, &error);
    if (status != EFFNET_E_DATA || model || error.status != status ||
        strncmp(error.message, path, strlen(path)) != 0 || !strstr(error.message, message) ||
        strchr(error.message, '\n'))
        fail_msg("%s: status %d, message \"%s\"; expected \"%s\"", what, status, error.message, message);
    weights_free(w);
}

static inline void run_edits(struct weights *(*network)(uint64_t seed), const struct edit *edits,
                             size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct weights *w = network(i);
        apply(w, &edits[i]);
        expect_rejected(w, edits[i].at, edits[i].message);
    }
}

#define RUN_ON(network, edits) run_edits(network, edits, sizeof(edits) / sizeof(edits)[0])
#define RUN(edits)             RUN_ON(weights_tiny, edits)

#endif
