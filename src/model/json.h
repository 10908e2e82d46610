/* Checked reads from JSON that nobody vouches for. Every function returns EFFNET_OK, or EFFNET_E_DATA with
 * the message "<file>: <where>: <reason>". */
#ifndef EFFNET_MODEL_JSON_H
#define EFFNET_MODEL_JSON_H

#include "effnet.h"

#include <cjson/cJSON.h>

/* Where a reader is, for its messages. */
struct json_context {
    char path[200];  /* the file, shortened at its front where it is longer */
    char where[140]; /* "network: layer 3 'blocks.0.expand'", or "" */
    struct effnet_error *error;
};

void effnet_json_context(struct json_context *context, const char *path, struct effnet_error *error);
void effnet_json_where(struct json_context *context, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
int effnet_json_fail(const struct json_context *context, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Parses text[0..length), which only white space may follow. text[length] must be readable. The caller
 * deletes *out with cJSON_Delete. Nesting is limited by cJSON, the number of values here. */
int effnet_json_parse(const struct json_context *context, const char *text, size_t length, cJSON **out);

/* One expected member of an object. */
struct json_field {
    const char *key;
    bool optional;
    const cJSON *value; /* set by effnet_json_fields; NULL where an optional member is absent */
};

/* Finds the members of an object, each at most once. Others are an error if `closed`. */
int effnet_json_fields(const struct json_context *context, const cJSON *object, struct json_field *fields,
                       int count, bool closed);

/* A whole number in [low, high]; |low| and |high| at most 2^53. */
int effnet_json_integer(const struct json_context *context, const cJSON *item, const char *what, int64_t low,
                        int64_t high, int64_t *out);
/* The same. NULL, an optional member that is absent, leaves *out. */
int effnet_json_int(const struct json_context *context, const cJSON *item, const char *what, int low,
                    int high, int *out);
/* An array of exactly `count` of them. */
int effnet_json_ints(const struct json_context *context, const cJSON *item, const char *what, int low,
                     int high, int count, int *out);
/* An array of exactly `count` numbers, finite as float. */
int effnet_json_floats(const struct json_context *context, const cJSON *item, const char *what, int count,
                       float *out);
/* A number, finite as float. */
int effnet_json_float(const struct json_context *context, const cJSON *item, const char *what, float *out);
/* true or false. NULL leaves *out. */
int effnet_json_bool(const struct json_context *context, const cJSON *item, const char *what, bool *out);
/* A string of valid UTF-8 without control characters; owned by the item. NULL leaves *out. */
int effnet_json_string(const struct json_context *context, const cJSON *item, const char *what,
                       const char **out);

#endif
