/* Any text as a weights file's header: a model that runs, or a line that says why not. The input is that
 * text, three bytes that say how much data follows it in the file, and a byte of flags. */
#include "effnet.h"
#include "fuzz.h"

#include <math.h>
#include <string.h>

enum { MOST_DATA = 1 << 18, MOST_WORK = 1 << 20, FLAG_RAW = 1, FLAG_NAN = 2, TAIL_BYTES = 4 };

static void use(const effnet_model *model)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    size_t text = strlen(info->path) + strlen(info->network) + strlen(info->source_file) +
                  strlen(info->source_sha256);
    for (int i = 0; i < info->classes; i++)
        text += strlen(effnet_model_label(model, i).id) + strlen(effnet_model_label(model, i).name);
    CHECK(text > 0 && info->classes > 0);
    const int64_t pixels = (int64_t)info->height * info->width;
    if (info->multiply_adds > MOST_WORK || pixels > MOST_WORK) return;
    effnet_session *session;
    struct effnet_session_options options = {.device = "reference"};
    struct effnet_error error;
    const int status = effnet_session_open(model, &options, &session, &error);
    CHECK(!status);
    uint8_t *image = calloc((size_t)pixels, 3);
    float *logits = malloc((size_t)info->classes * sizeof *logits);
    CHECK(image && logits);
    CHECK(!effnet_session_run(session, image, 1, logits, NULL));
    free(image);
    free(logits);
    effnet_session_close(session);
}

/* Numbers of an ordinary size. */
static void fill_data(float *data, size_t count, bool nan)
{
    for (size_t i = 0; i < count; i++) data[i] = (float)(i * 7 % 13) * 0.02f - 0.12f;
    if (nan && count) data[count / 2] = NAN;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < TAIL_BYTES) return 0;
    size -= TAIL_BYTES;
    const uint8_t *tail = data + size, flags = tail[3];
    const size_t data_bytes = (tail[0] | (size_t)tail[1] << 8 | (size_t)tail[2] << 16) % (MOST_DATA + 1);
    const size_t padding = (8 - size % 8) % 8;
    const uint64_t length = size + padding;
    uint8_t *file = malloc(8 + length + data_bytes + sizeof(float));
    CHECK(file);
    memcpy(file, &length, 8);
    memcpy(file + 8, data, size);
    memset(file + 8 + size, ' ', padding);
    fill_data((float *)(file + 8 + length), data_bytes / sizeof(float), flags & FLAG_NAN);
    memset(file + 8 + length + data_bytes / sizeof(float) * sizeof(float), 0, data_bytes % sizeof(float));
    const char *path = flags & FLAG_RAW ? fuzz_file(data, size) : fuzz_file(file, 8 + length + data_bytes);
    free(file);

    effnet_model *model;
    struct effnet_error error = {0};
    const int status = effnet_model_open(path, &model, &error);
    CHECK(status == error.status || !status);
    if (status)
        CHECK(status == EFFNET_E_DATA && !model && error.message[0] && !strchr(error.message, '\n'));
    else
        use(model);
    effnet_model_close(model);
    return 0;
}
