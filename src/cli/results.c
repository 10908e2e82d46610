#include "cli/results.h"

#include "cli/cli.h"
#include "cli/text.h"

#include <stdlib.h>
#include <string.h>

/* Nine digits bring every float back unchanged. */
static const char *score_text(const struct result *result, int i, char text[32])
{
    const struct effnet_class *class = &result->top[i];
    snprintf(text, 32, "%.9g", (double)(result->logits ? class->logit : class->probability));
    return text;
}

/* ---------------------------------------------------------------- text */

static int text_print(FILE *out, const struct result *result)
{
    struct style style = style_for(out);
    fputs(style.bold, out);
    text_write_printable(out, result->filename);
    fprintf(out, "%s\n", style.reset);
    if (result->count == 0) fprintf(out, "      no class at or above %g %%\n", 100 * result->threshold);
    for (int i = 0; i < result->count; i++) {
        const struct effnet_class *class = &result->top[i];
        struct effnet_label label = effnet_model_label(result->model, class->index);
        fprintf(out, "%s%4d  ", i == 0 ? style.good : "", i + 1);
        if (result->logits)
            fprintf(out, "%9.4f  ", (double)class->logit);
        else
            fprintf(out, "%6.2f %%  ", 100.0 * (double)class->probability);
        text_write_printable(out, label.name);
        fputs(i == 0 ? style.reset : "", out);
        if (*label.id) {
            fprintf(out, "  %s(", style.dim);
            text_write_printable(out, label.id);
            fprintf(out, ")%s", style.reset);
        }
        fputc('\n', out);
    }
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- json */

/* A name that JSON cannot hold is there a second time, byte for byte in hexadecimal. */
static bool json_add_filename(cJSON *object, const char *filename)
{
    bool whole;
    if (!json_add_text(object, "filename", filename, &whole)) return false;
    if (whole) return true;
    size_t length = strlen(filename);
    char *hex = malloc(2 * length + 1);
    for (size_t i = 0; hex && i < length; i++) sprintf(hex + 2 * i, "%02x", (unsigned char)filename[i]);
    bool ok = hex && cJSON_AddStringToObject(object, "filename_hex", hex);
    free(hex);
    return ok;
}

static bool json_add_class(cJSON *classes, const struct result *result, int i)
{
    const struct effnet_class *class = &result->top[i];
    struct effnet_label label = effnet_model_label(result->model, class->index);
    char score[32];
    cJSON *object = cJSON_CreateObject();
    if (!object || !cJSON_AddItemToArray(classes, object)) {
        cJSON_Delete(object);
        return false;
    }
    return cJSON_AddNumberToObject(object, "index", class->index) &&
           json_add_text(object, "label", label.name, NULL) && json_add_text(object, "id", label.id, NULL) &&
           json_add_number(object, result->logits ? "logit" : "probability", score_text(result, i, score));
}

static int json_print(FILE *out, const struct result *result)
{
    cJSON *object = cJSON_CreateObject();
    bool ok = object && json_add_filename(object, result->filename);
    cJSON *classes = ok ? cJSON_AddArrayToObject(object, "classes") : NULL;
    ok = classes != NULL;
    for (int i = 0; ok && i < result->count; i++) ok = json_add_class(classes, result, i);
    char *line = ok ? cJSON_PrintUnformatted(object) : NULL;
    cJSON_Delete(object);
    if (!line) return cli_fail_nomem("the output");
    fprintf(out, "%s\n", line);
    cJSON_free(line);
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- csv, as in RFC 4180 */

/* All records have as many fields: those of classes that an image does not get are empty. */
static void csv_begin(FILE *out, int most, bool logits)
{
    fputs("filename", out);
    for (int i = 0; i < most; i++)
        fprintf(out, ",index_%d,label_%d,%s_%d", i, i, logits ? "logit" : "prob", i);
    fputs("\r\n", out);
}

static int csv_print(FILE *out, const struct result *result)
{
    text_write_csv(out, result->filename);
    for (int i = 0; i < result->count; i++) {
        char score[32];
        fprintf(out, ",%d,", result->top[i].index);
        text_write_csv(out, effnet_model_label(result->model, result->top[i].index).name);
        fprintf(out, ",%s", score_text(result, i, score));
    }
    for (int i = result->count; i < result->most; i++) fputs(",,,", out);
    fputs("\r\n", out);
    return EFFNET_OK;
}

const struct result_format *result_format_find(const char *name)
{
    static const struct result_format formats[] = {
        {"text", NULL, text_print}, {"json", NULL, json_print}, {"csv", csv_begin, csv_print}};
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (!strcmp(formats[i].name, name)) return &formats[i];
    return NULL;
}
