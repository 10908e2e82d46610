#include "model/json.h"

#include "common/error.h"
#include "common/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* cJSON takes 64 bytes a value and more: without a limit a 100 MB header of "[[],[], ..." would take
 * gigabytes. A table of 1024 layers and 65536 labels has about 300 000 values. */
#define MAX_VALUES 1000000

void effnet_json_context(struct json_context *context, const char *path, struct effnet_error *error)
{
    effnet_keep_end(context->path, sizeof context->path, path);
    context->where[0] = 0;
    context->error = error;
}

void effnet_json_where(struct json_context *context, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(context->where, sizeof context->where, format, arguments);
    va_end(arguments);
}

int effnet_json_fail(const struct json_context *context, const char *format, ...)
{
    char reason[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    return effnet_fail(context->error, EFFNET_E_DATA, "%s: %s%s%s", context->path, context->where,
                       context->where[0] ? ": " : "", reason);
}

int effnet_json_parse(const struct json_context *context, const char *text, size_t length, cJSON **out)
{
    *out = NULL;
    size_t values = 1; /* at most: those inside strings are counted too */
    for (size_t i = 0; i < length; i++) values += text[i] == ',' || text[i] == '[' || text[i] == '{';
    if (values > MAX_VALUES) return effnet_json_fail(context, "more than %d JSON values", MAX_VALUES);

    const char *end = text;
    cJSON *json = cJSON_ParseWithLengthOpts(text, length, &end, 0);
    if (!json) return effnet_json_fail(context, "not valid JSON at byte %zu", (size_t)(end - text));
    for (; end < text + length; end++)
        if (!strchr(" \t\r\n", *end) || !*end) {
            cJSON_Delete(json);
            return effnet_json_fail(context, "something follows the JSON at byte %zu", (size_t)(end - text));
        }
    *out = json;
    return EFFNET_OK;
}

int effnet_json_fields(const struct json_context *context, const cJSON *object, struct json_field *fields,
                       int count, bool closed)
{
    for (int i = 0; i < count; i++) fields[i].value = NULL;
    if (!cJSON_IsObject(object)) return effnet_json_fail(context, "not a JSON object");
    for (const cJSON *item = object->child; item; item = item->next) {
        int i = 0;
        while (i < count && strcmp(fields[i].key, item->string) != 0) i++;
        if (i == count) {
            if (closed)
                return effnet_json_fail(context, "unknown key \"%s\"", effnet_word(item->string).text);
            continue;
        }
        if (fields[i].value) return effnet_json_fail(context, "key \"%s\" appears twice", fields[i].key);
        fields[i].value = item;
    }
    for (int i = 0; i < count; i++)
        if (!fields[i].value && !fields[i].optional)
            return effnet_json_fail(context, "key \"%s\" is missing", fields[i].key);
    return EFFNET_OK;
}

int effnet_json_integer(const struct json_context *context, const cJSON *item, const char *what, int64_t low,
                        int64_t high, int64_t *out)
{
    if (!cJSON_IsNumber(item)) return effnet_json_fail(context, "%s is not a number", what);
    double value = item->valuedouble; /* valueint saturates and rounds silently */
    if (!(value >= (double)low && value <= (double)high) || value != floor(value))
        return effnet_json_fail(context, "%s is %.17g, not a whole number from %lld to %lld", what, value,
                                (long long)low, (long long)high);
    *out = (int64_t)value;
    return EFFNET_OK;
}

static int check_array(const struct json_context *context, const cJSON *item, const char *what, int count)
{
    if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) != count)
        return effnet_json_fail(context, "%s is not an array of %d numbers", what, count);
    return EFFNET_OK;
}

int effnet_json_int(const struct json_context *context, const cJSON *item, const char *what, int low,
                    int high, int *out)
{
    int64_t value = 0;
    if (!item) return EFFNET_OK;
    EFFNET_TRY(effnet_json_integer(context, item, what, low, high, &value));
    *out = (int)value;
    return EFFNET_OK;
}

int effnet_json_ints(const struct json_context *context, const cJSON *item, const char *what, int low,
                     int high, int count, int *out)
{
    EFFNET_TRY(check_array(context, item, what, count));
    for (const cJSON *element = item->child; element; element = element->next)
        EFFNET_TRY(effnet_json_int(context, element, what, low, high, out++));
    return EFFNET_OK;
}

int effnet_json_floats(const struct json_context *context, const cJSON *item, const char *what, int count,
                       float *out)
{
    EFFNET_TRY(check_array(context, item, what, count));
    for (const cJSON *element = item->child; element; element = element->next) {
        if (!cJSON_IsNumber(element)) return effnet_json_fail(context, "%s holds no number", what);
        double value = element->valuedouble;
        if (!(fabs(value) <= 3.4028234663852886e38))
            return effnet_json_fail(context, "%s holds %.9g, not a finite number", what, value);
        *out++ = (float)value;
    }
    return EFFNET_OK;
}

int effnet_json_float(const struct json_context *context, const cJSON *item, const char *what, float *out)
{
    if (!cJSON_IsNumber(item)) return effnet_json_fail(context, "%s is not a number", what);
    if (!(fabs(item->valuedouble) <= 3.4028234663852886e38))
        return effnet_json_fail(context, "%s is %.9g, not a finite number", what, item->valuedouble);
    *out = (float)item->valuedouble;
    return EFFNET_OK;
}

int effnet_json_bool(const struct json_context *context, const cJSON *item, const char *what, bool *out)
{
    if (!item) return EFFNET_OK;
    if (!cJSON_IsBool(item)) return effnet_json_fail(context, "%s is neither true nor false", what);
    *out = cJSON_IsTrue(item);
    return EFFNET_OK;
}

int effnet_json_string(const struct json_context *context, const cJSON *item, const char *what,
                       const char **out)
{
    if (!item) return EFFNET_OK;
    if (!cJSON_IsString(item)) return effnet_json_fail(context, "%s is not a string", what);
    for (const char *p = item->valuestring; *p;) {
        unsigned code;
        int length = effnet_utf8_length(p, &code);
        if (!length) return effnet_json_fail(context, "%s is not valid UTF-8", what);
        if (code < 0x20 || code == 0x7f)
            return effnet_json_fail(context, "%s holds a control character", what);
        p += length;
    }
    *out = item->valuestring;
    return EFFNET_OK;
}
