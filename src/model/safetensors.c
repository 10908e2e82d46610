#include "model/safetensors.h"

#include "common/error.h"
#include "common/file_kind.h"
#include "common/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors data is little-endian");

#define LENGTH_BYTES     8
#define MAX_HEADER_BYTES 100000000
#define METADATA         "__metadata__"
#define MADE_BY          "tools/convert.py makes them" /* weights */
#define MAX_INTEGER      (INT64_C(1) << 53)            /* whole numbers up to here are exact in a double */

#define AN_IMAGE "-m takes weights, which tools/convert.py makes; images are named without -m"

/* What to do about a file of another kind. */
static const char *const advice[] = {
    [FILE_IMAGE_READ] = AN_IMAGE,
    [FILE_IMAGE] = AN_IMAGE,
    [FILE_CHECKPOINT] = "convert it with tools/convert.py",
    [FILE_ZIP] = "if it holds a PyTorch checkpoint, convert it with tools/convert.py",
    [FILE_PACKED] = "unpack it; tools/convert.py reads PyTorch checkpoints and safetensors",
    [FILE_ONNX] = "give tools/convert.py the PyTorch checkpoint or safetensors that it was made from",
    [FILE_POINTER] = "fetch that with 'git lfs pull', and see tools/convert.py",
    [FILE_PAGE] = "download the file itself, then convert it with tools/convert.py",
    [FILE_OTHER] =
        "effnet's weights come from tools/convert.py, which reads PyTorch checkpoints and safetensors",
};

static int map_file(struct safetensors *file, const char *path, struct json_context *context)
{
    /* O_NONBLOCK: a named pipe without a writer must not hang the program. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat stat;
    if (fd < 0 || fstat(fd, &stat) != 0) {
        int reason = errno;
        if (fd >= 0) close(fd);
        return effnet_fail(context->error, EFFNET_E_NOINPUT, "%s: %s", context->path, strerror(reason));
    }
    int status = EFFNET_OK;
    if (!S_ISREG(stat.st_mode))
        status = effnet_fail(context->error, EFFNET_E_NOINPUT, "%s: %s", context->path,
                             S_ISDIR(stat.st_mode) ? "a folder, not a regular file" : "not a regular file");
    else if (stat.st_size == 0)
        status = effnet_json_fail(context, "empty file: 0 bytes are too few for weights (" MADE_BY ")");
    else if ((uint64_t)stat.st_size > SIZE_MAX)
        status = effnet_fail_nomem(context->error, context->path, SIZE_MAX);
    if (!status) {
        file->size_bytes = (size_t)stat.st_size;
        file->map = mmap(NULL, file->size_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (file->map == MAP_FAILED) {
            file->map = NULL;
            status = effnet_fail(context->error, errno == ENOMEM ? EFFNET_E_NOMEM : EFFNET_E_NOINPUT,
                                 "%s: cannot be mapped: %s", context->path, strerror(errno));
        }
    }
    close(fd);
    return status;
}

static int parse_header(struct safetensors *file, struct json_context *context)
{
    uint64_t length;
    const struct file_kind kind = effnet_file_kind(file->map, file->size_bytes);
    const bool begins = file->size_bytes > LENGTH_BYTES && ((const char *)file->map)[LENGTH_BYTES] == '{';
    if (kind.what && !begins) return effnet_json_fail(context, "%s; %s", kind.what, advice[kind.group]);
    if (file->size_bytes < LENGTH_BYTES)
        return effnet_json_fail(context, "%zu bytes are too few for weights (" MADE_BY ")", file->size_bytes);
    memcpy(&length, file->map, sizeof length);
    if (length > MAX_HEADER_BYTES)
        return effnet_json_fail(context,
                                "not a safetensors file, or its header of %" PRIu64
                                " bytes is over the limit of %d (" MADE_BY ")",
                                length, MAX_HEADER_BYTES);
    /* A file without data has no tensors, and cJSON's lookahead needs a byte after the text. */
    if (length >= file->size_bytes - LENGTH_BYTES)
        return effnet_json_fail(context,
                                "header of %" PRIu64 " bytes leaves no data in a file of %zu: truncated?",
                                length, file->size_bytes);
    if (length == 0 || ((const char *)file->map)[LENGTH_BYTES] != '{')
        return effnet_json_fail(context,
                                "header without a JSON object: not a safetensors file? (" MADE_BY ")");
    file->data = (const uint8_t *)file->map + LENGTH_BYTES + length;
    file->data_bytes = file->size_bytes - LENGTH_BYTES - length;
    effnet_json_where(context, "header");
    EFFNET_TRY(effnet_json_parse(context, (const char *)file->map + LENGTH_BYTES, length, &file->header));
    for (const cJSON *item = file->header->child; item; item = item->next) {
        if (strcmp(item->string, METADATA) != 0) continue;
        if (file->metadata) return effnet_json_fail(context, METADATA " appears twice");
        file->metadata = item;
    }
    return EFFNET_OK;
}

/* "[32,3,3,3]" */
static const char *shape_text(int rank, const int64_t *shape, char *text, size_t size)
{
    int length = snprintf(text, size, "[");
    for (int i = 0; i < rank; i++)
        length += snprintf(text + length, size - length, "%s%" PRId64, i ? "," : "", shape[i]);
    snprintf(text + length, size - length, "]");
    return text;
}

#define SHAPE_TEXT_SIZE (SAFETENSORS_MAX_RANK * 18 + 3)

static void at_tensor(struct json_context *context, const char *name)
{
    effnet_json_where(context, "tensor '%s'", effnet_word(name).text);
}

static void at_offset(struct json_context *context, const char *name, uint64_t begin)
{
    effnet_json_where(context, "tensor '%s' at offset %" PRIu64, effnet_word(name).text, begin);
}

static const struct {
    const char *name;
    size_t bytes;
} types[] = {[SAFETENSORS_F32] = {"F32", 4}, [SAFETENSORS_I32] = {"I32", 4}, [SAFETENSORS_I8] = {"I8", 1}};

static int read_type(const struct json_context *context, const cJSON *item, enum safetensors_type *type)
{
    static const char *const others[] = {"BOOL",    "F4",      "F6_E2M3", "F6_E3M2", "U8",  "F8_E5M2",
                                         "F8_E4M3", "F8_E8M0", "I16",     "U16",     "F16", "BF16",
                                         "U32",     "C64",     "F64",     "I64",     "U64"};
    const char *name;
    EFFNET_TRY(effnet_json_string(context, item, "dtype", &name));
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        *type = (enum safetensors_type)i;
        if (strcmp(name, types[i].name) == 0) return EFFNET_OK;
    }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (strcmp(name, others[i]) == 0)
            return effnet_json_fail(context, "type %s is not supported, only F32, I32 and I8 are", name);
    return effnet_json_fail(context, "unknown type \"%s\"", effnet_word(name).text);
}

/* Reads the shape, and checks it against the tensor's bytes. */
static int read_shape(const struct json_context *context, const cJSON *item,
                      struct safetensors_tensor *tensor)
{
    if (!cJSON_IsArray(item)) return effnet_json_fail(context, "shape is not an array");
    uint64_t bytes = types[tensor->type].bytes;
    bool overflow = false;
    for (const cJSON *size = item->child; size; size = size->next) {
        if (tensor->rank == SAFETENSORS_MAX_RANK)
            return effnet_json_fail(context, "more than %d dimensions", SAFETENSORS_MAX_RANK);
        int64_t *to = &tensor->shape[tensor->rank++];
        EFFNET_TRY(effnet_json_integer(context, size, "shape", 0, MAX_INTEGER, to));
        overflow |= __builtin_mul_overflow(bytes, (uint64_t)*to, &bytes);
    }
    char text[SHAPE_TEXT_SIZE];
    shape_text(tensor->rank, tensor->shape, text, sizeof text);
    if (overflow) return effnet_json_fail(context, "shape %s overflows 64 bits", text);
    if (bytes != tensor->end - tensor->begin)
        return effnet_json_fail(context, "shape %s takes %" PRIu64 " bytes, but its offsets span %" PRIu64,
                                text, bytes, tensor->end - tensor->begin);
    return EFFNET_OK;
}

static int read_tensor(const struct safetensors *file, struct json_context *context, const cJSON *item,
                       struct safetensors_tensor *tensor)
{
    enum { TYPE, SHAPE, OFFSETS, FIELDS };
    struct json_field fields[FIELDS] = {{.key = "dtype"}, {.key = "shape"}, {.key = "data_offsets"}};
    *tensor = (struct safetensors_tensor){.name = item->string};
    at_tensor(context, item->string);
    EFFNET_TRY(effnet_json_fields(context, item, fields, FIELDS, true));

    const cJSON *offsets = fields[OFFSETS].value;
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2)
        return effnet_json_fail(context, "data_offsets is not an array of 2 numbers");
    int64_t begin, end;
    EFFNET_TRY(effnet_json_integer(context, offsets->child, "data_offsets", 0, MAX_INTEGER, &begin));
    at_offset(context, item->string, (uint64_t)begin);
    EFFNET_TRY(effnet_json_integer(context, offsets->child->next, "data_offsets", 0, MAX_INTEGER, &end));
    if (end < begin) return effnet_json_fail(context, "ends before it begins, at %" PRId64, end);
    if ((uint64_t)end > file->data_bytes)
        return effnet_json_fail(context,
                                "ends at %" PRId64 ", but there are %" PRIu64 " bytes of data: truncated?",
                                end, file->data_bytes);
    tensor->begin = (uint64_t)begin;
    tensor->end = (uint64_t)end;

    EFFNET_TRY(read_type(context, fields[TYPE].value, &tensor->type));
    if (tensor->begin % types[tensor->type].bytes != 0)
        return effnet_json_fail(context, "is not aligned: of type %s, at no multiple of %zu bytes",
                                types[tensor->type].name, types[tensor->type].bytes);
    return read_shape(context, fields[SHAPE].value, tensor);
}

static int by_offset(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int by_name(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* Checks that the tensors fill the data, each byte once. Sorts them by offset. */
static int check_offsets(const struct safetensors *file, struct json_context *context)
{
    qsort(file->tensors, (size_t)file->tensor_count, sizeof file->tensors[0], by_offset);
    uint64_t filled = 0;
    for (int i = 0; i < file->tensor_count; i++) {
        const struct safetensors_tensor *tensor = &file->tensors[i];
        at_offset(context, tensor->name, tensor->begin);
        if (tensor->begin < filled)
            return effnet_json_fail(context, "overlaps tensor '%s', which ends at %" PRIu64,
                                    effnet_word(tensor[-1].name).text, filled);
        if (tensor->begin > filled)
            return effnet_json_fail(
                context, "there is a hole before it: the bytes from %" PRIu64 " are nobody's", filled);
        filled = tensor->end;
    }
    if (filled < file->data_bytes)
        return effnet_json_fail(
            context, "is the last and ends at %" PRIu64 ", but there are %" PRIu64 " bytes of data", filled,
            file->data_bytes);
    return EFFNET_OK;
}

int effnet_safetensors_read_tensors(struct safetensors *file, struct json_context *context)
{
    size_t length = (size_t)(file->data - (const uint8_t *)file->map) - LENGTH_BYTES;
    effnet_json_where(context, "header");
    if (length % sizeof(float) != 0)
        return effnet_json_fail(context, "%zu bytes misalign the data: not a multiple of 4", length);
    size_t count = (size_t)cJSON_GetArraySize(file->header);
    file->tensors = calloc(count + 1, sizeof file->tensors[0]);
    if (!file->tensors)
        return effnet_fail_nomem(context->error, "tensor list", count * sizeof file->tensors[0]);
    for (const cJSON *item = file->header->child; item; item = item->next) {
        if (item == file->metadata) continue;
        EFFNET_TRY(read_tensor(file, context, item, &file->tensors[file->tensor_count]));
        file->tensor_count++;
    }
    effnet_json_where(context, "header");
    if (file->tensor_count == 0) return effnet_json_fail(context, "no tensors");

    qsort(file->tensors, (size_t)file->tensor_count, sizeof file->tensors[0], by_name);
    for (int i = 1; i < file->tensor_count; i++) {
        const struct safetensors_tensor *tensor = &file->tensors[i];
        at_offset(context, tensor->name, tensor->begin);
        if (strcmp(tensor[-1].name, tensor->name) == 0)
            return effnet_json_fail(context, "there is another of this name at offset %" PRIu64,
                                    tensor[-1].begin);
    }
    int status = check_offsets(file, context);
    qsort(file->tensors, (size_t)file->tensor_count, sizeof file->tensors[0], by_name);
    return status;
}

int effnet_safetensors_open(struct safetensors *file, const char *path, struct json_context *context)
{
    *file = (struct safetensors){0};
    EFFNET_TRY(map_file(file, path, context));
    return parse_header(file, context);
}

void effnet_safetensors_close(struct safetensors *file)
{
    cJSON_Delete(file->header);
    free(file->tensors);
    if (file->map) munmap(file->map, file->size_bytes);
    *file = (struct safetensors){0};
}

/* Index of the first value that is infinite or NaN, or -1. Those have all exponent bits set; adding one to
 * the exponent of the magnitude carries into the sign bit exactly then, and the loop is whole-number
 * arithmetic that a compiler turns into vector code. */
static int64_t find_not_finite(const float *values, int64_t count)
{
    const int64_t block = 4096;
    for (int64_t start = 0; start < count; start += block) {
        int64_t end = start + block < count ? start + block : count;
        uint32_t seen = 0;
        for (int64_t i = start; i < end; i++) {
            uint32_t bits;
            memcpy(&bits, &values[i], sizeof bits);
            seen |= (bits & 0x7fffffffu) + 0x00800000u;
        }
        for (int64_t i = start; seen >> 31 && i < end; i++)
            if (!__builtin_isfinite(values[i])) return i;
    }
    return -1;
}

int effnet_safetensors_take(struct safetensors *file, struct json_context *context, const char *name,
                            enum safetensors_type type, int rank, const int64_t *shape, const void **out)
{
    struct safetensors_tensor key = {.name = name};
    struct safetensors_tensor *tensor = bsearch(&key, file->tensors, (size_t)file->tensor_count, sizeof key,
                                                by_name);
    at_tensor(context, name);
    if (!tensor) return effnet_json_fail(context, "is missing");

    at_offset(context, name, tensor->begin);
    if (tensor->type != type)
        return effnet_json_fail(context, "type %s, but the layer table makes it %s", types[tensor->type].name,
                                types[type].name);
    if (tensor->rank != rank || memcmp(tensor->shape, shape, (size_t)rank * sizeof shape[0]) != 0) {
        char is[SHAPE_TEXT_SIZE], wanted[SHAPE_TEXT_SIZE];
        return effnet_json_fail(context, "shape %s, but the layer table makes it %s",
                                shape_text(tensor->rank, tensor->shape, is, sizeof is),
                                shape_text(rank, shape, wanted, sizeof wanted));
    }
    const float *values = (const float *)(const void *)(file->data + tensor->begin);
    int64_t bad = -1;
    if (type == SAFETENSORS_F32)
        bad = find_not_finite(values, (int64_t)((tensor->end - tensor->begin) / sizeof(float)));
    if (bad >= 0)
        return effnet_json_fail(context, "value %" PRId64 " is %g, not finite", bad, (double)values[bad]);
    tensor->taken = true;
    *out = file->data + tensor->begin;
    return EFFNET_OK;
}

int effnet_safetensors_finish(const struct safetensors *file, struct json_context *context)
{
    for (int i = 0; i < file->tensor_count; i++) {
        const struct safetensors_tensor *tensor = &file->tensors[i];
        at_offset(context, tensor->name, tensor->begin);
        if (!tensor->taken) return effnet_json_fail(context, "belongs to no layer of the table");
    }
    return EFFNET_OK;
}
