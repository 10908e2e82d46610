#include "cli/part.h"

#include "cli/cli.h"
#include "cli/file.h"
#include "cli/output.h"
#include "common/hash.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC "effnet shard 1\n"

enum { MAGIC_BYTES = sizeof MAGIC - 1, HEAD_BYTES = 192, FILE_BYTES = HEAD_BYTES + PART_RUN_BYTES };

/* NAME.shard; the caller's. NULL where memory is short, which is reported. */
static char *name_of(const char *path)
{
    char *name;
    if (asprintf(&name, "%s.shard", path) >= 0) return name;
    cli_fail_nomem("a part's name");
    return NULL;
}

/* Refuses what does not begin with MAGIC, as far as it goes; fewer bytes than `least` are refused, too. */
static int check_ours(const char *name, size_t least)
{
    char bytes[MAGIC_BYTES];
    const char *reason;
    const ssize_t size = file_read_start(name, bytes, sizeof bytes, &reason);
    if (size < 0 && errno == ENOENT) return EFFNET_OK;
    const bool ours = size >= 0 && (size_t)size >= least && !memcmp(bytes, MAGIC, (size_t)size);
    return ours ? EFFNET_OK : cli_fail(EFFNET_E_OUTPUT, "%s: is in the way, and no file of effnet's", name);
}

int part_check_place(const char *path)
{
    struct output output = {0};
    char *name = name_of(path);
    if (!name) return EFFNET_E_NOMEM;
    int status = check_ours(name, MAGIC_BYTES);
    if (!status) status = output_name(&output, name);
    if (!status) status = check_ours(output.partial, 0); /* of a run that was killed */
    output_close(&output, false);
    free(name);
    return status;
}

/* The lines before part->run. */
static int print_head(char head[HEAD_BYTES], const struct part *part)
{
    return snprintf(head, HEAD_BYTES,
                    MAGIC "shard=%" PRId64 "/%" PRId64 "\ncolumns=%" PRId64 "\nbytes=%" PRId64
                          "\nhash=%016" PRIx64 "\n",
                    part->shard.number, part->shard.count, part->columns, part->bytes, part->hash);
}

int part_write(const char *path, struct part *part, FILE *file)
{
    char head[HEAD_BYTES];
    struct output output;
    part->hash = HASH_START;
    if (fseeko(file, 0, SEEK_SET) || !hash_file(file, &part->hash, &part->bytes))
        return cli_fail(EFFNET_E_OUTPUT, "%s: %s", path, strerror(errno));
    char *name = name_of(path);
    if (!name) return EFFNET_E_NOMEM;
    int status = output_name(&output, name);
    if (!status) status = output_open(&output, true, 0);
    if (!status) {
        print_head(head, part);
        fputs(head, output.file);
        fputs(part->run, output.file);
    }
    status = output_end(&output, status);
    free(name);
    return status;
}

/* Whether the text is what part_write writes; then *part has it. */
static bool parse(const char *text, struct part *part)
{
    char head[HEAD_BYTES];
    if (sscanf(text,
               MAGIC "shard=%7" SCNd64 "/%7" SCNd64 "\ncolumns=%9" SCNd64 "\nbytes=%18" SCNd64
                     "\nhash=%16" SCNx64,
               &part->shard.number, &part->shard.count, &part->columns, &part->bytes, &part->hash) != 5)
        return false;
    const size_t length = (size_t)print_head(head, part);
    if (strncmp(text, head, length) != 0 || strlen(text + length) >= sizeof part->run) return false;
    strcpy(part->run, text + length);
    return part->shard.number >= 1 && part->shard.number <= part->shard.count && part->columns >= 0 &&
           part->bytes >= 0;
}

int part_read(const char *path, struct part *part)
{
    char text[FILE_BYTES + 1], *name = name_of(path);
    if (!name) return EFFNET_E_NOMEM;
    const char *reason;
    const ssize_t size = file_read_start(name, text, FILE_BYTES, &reason);
    int status = EFFNET_OK;
    text[size > 0 ? size : 0] = '\0';
    if (size < 0)
        status = cli_fail(errno ? EFFNET_E_NOINPUT : EFFNET_E_DATA, "%s: %s%s", name, reason,
                          errno == ENOENT ? "; classify --shard writes it beside its output" : "");
    else if (size == FILE_BYTES || strlen(text) != (size_t)size || !parse(text, part))
        status = cli_fail(EFFNET_E_DATA, "%s: is not what classify --shard has written", name);
    free(name);
    return status;
}
