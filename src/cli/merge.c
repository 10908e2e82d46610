/* effnet merge: the parts that shards have written become what one run would have. */
#include "cli/cli.h"
#include "cli/file.h"
#include "cli/output.h"
#include "cli/part.h"
#include "cli/text.h"
#include "common/hash.h"
#include "common/npy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct merge_options {
    const char *output;
    char *const *operands; /* [count] */
    int count;
};

struct merge_part {
    const char *name; /* as the user gave it; NULL: not there yet */
    int64_t bytes;
    uint64_t hash;
};

struct merge {
    const struct merge_options *options;
    struct part first;        /* the first part that was named; all others have to agree */
    const char *first_name;   /* NULL: none yet */
    struct merge_part *parts; /* [first.shard.count], in the order of the shards */
    char *output;             /* its real path, or NULL where there is none yet */
    int64_t bytes;            /* of all parts, arrays' headers not counted */
};

/* ---------------------------------------------------------------- checking */

static int compare_runs(const struct merge *merge, const char *name, const struct part *part)
{
    const char *first = merge->first.run, *this = part->run;
    if (part->shard.count != merge->first.shard.count)
        return cli_fail(EFFNET_E_DATA, "%s: is one of %" PRId64 " shards, and %s one of %" PRId64, name,
                        part->shard.count, merge->first_name, merge->first.shard.count);
    if (text_find_other_lines(&first, &this))
        return cli_fail(EFFNET_E_DATA, "%s: is of a run with %.*s, and %s of one with %.*s", name,
                        (int)strcspn(this, "\n"), this, merge->first_name, (int)strcspn(first, "\n"), first);
    if (part->columns == merge->first.columns) return EFFNET_OK;
    return cli_fail(EFFNET_E_DATA, "%s: has %" PRId64 " columns, and %s %" PRId64, name, part->columns,
                    merge->first_name, merge->first.columns);
}

/* The part without an array's header, in bytes; EFFNET_E_DATA where it is no whole number of rows. */
static int count_bytes(const char *name, const struct part *part, int64_t *bytes)
{
    const int64_t header = part->columns ? NPY_HEADER_BYTES : 0, row = part->columns * (int64_t)sizeof(float);
    *bytes = part->bytes - header;
    if (*bytes >= 0 && (!row || *bytes % row == 0)) return EFFNET_OK;
    return cli_fail(EFFNET_E_DATA, "%s: %" PRId64 " bytes are no array of %" PRId64 " columns", name,
                    part->bytes, part->columns);
}

/* Its real path in *real, which the caller frees. */
static int check_file(const struct merge *merge, const char *name, char **real, int64_t *bytes)
{
    struct stat status;
    *real = realpath(name, NULL);
    if (!*real || stat(*real, &status)) return cli_fail(EFFNET_E_NOINPUT, "%s: %s", name, strerror(errno));
    if (!S_ISREG(status.st_mode)) return cli_fail(EFFNET_E_DATA, "%s: is no regular file", name);
    if (merge->output && !strcmp(merge->output, *real))
        return cli_fail(EFFNET_E_USAGE, "merge: %s is a part, and cannot be the output, too", name);
    *bytes = status.st_size;
    return EFFNET_OK;
}

static int add_part(struct merge *merge, const char *name, const struct part *part, int64_t file_bytes)
{
    int64_t bytes;
    if (!merge->first_name) {
        merge->parts = calloc((size_t)part->shard.count, sizeof *merge->parts);
        if (!merge->parts) return cli_fail_nomem("the parts");
        merge->first = *part;
        merge->first_name = name;
    }
    EFFNET_TRY(compare_runs(merge, name, part));
    struct merge_part *place = &merge->parts[part->shard.number - 1];
    if (place->name)
        return cli_fail(EFFNET_E_DATA, "%s: is shard %" PRId64 "/%" PRId64 ", and so is %s", name,
                        part->shard.number, part->shard.count, place->name);
    if (file_bytes != part->bytes)
        return cli_fail(EFFNET_E_DATA, "%s: has %" PRId64 " bytes, and had %" PRId64 " when it was written",
                        name, file_bytes, part->bytes);
    EFFNET_TRY(count_bytes(name, part, &bytes));
    if (__builtin_add_overflow(merge->bytes, bytes, &merge->bytes))
        return cli_fail(EFFNET_E_DATA, "%s: all parts have too many bytes", name);
    *place = (struct merge_part){.name = name, .bytes = part->bytes, .hash = part->hash};
    return EFFNET_OK;
}

static bool names_shard_file(const char *name)
{
    const size_t length = strlen(name), ending = strlen(".shard");
    return length > ending && !strcmp(name + length - ending, ".shard");
}

static int read_parts(struct merge *merge)
{
    for (int i = 0; i < merge->options->count; i++) {
        const char *name = merge->options->operands[i];
        struct part part;
        char *real = NULL;
        int64_t bytes = 0;
        if (names_shard_file(name)) continue; /* "part-*" means the parts */
        int status = check_file(merge, name, &real, &bytes);
        if (!status) status = part_read(real, &part);
        if (!status) status = add_part(merge, name, &part, bytes);
        free(real);
        if (status) return status;
    }
    return merge->first_name ? EFFNET_OK : cli_fail(EFFNET_E_USAGE, "merge: name the parts");
}

static int check_complete(const struct merge *merge)
{
    const int64_t count = merge->first.shard.count;
    int64_t missing = 0, first = 0;
    for (int64_t i = count; i > 0; i--) {
        if (merge->parts[i - 1].name) continue;
        missing++;
        first = i;
    }
    if (!missing) return EFFNET_OK;
    if (missing == 1)
        return cli_fail(EFFNET_E_NOINPUT, "merge: shard %" PRId64 "/%" PRId64 " is missing", first, count);
    return cli_fail(EFFNET_E_NOINPUT,
                    "merge: %" PRId64 " of %" PRId64 " shards are missing, the first is %" PRId64 "/%" PRId64,
                    missing, count, first, count);
}

/* ---------------------------------------------------------------- writing */

/* Copies a file without its first `skip` bytes, and holds all of it against its hash. */
static int copy_part(const struct merge_part *part, int64_t skip, struct output *output)
{
    char bytes[1 << 14];
    size_t size;
    uint64_t hash = HASH_START;
    const char *reason;
    FILE *file = file_open_regular(part->name, &reason);
    if (!file) return cli_fail(EFFNET_E_NOINPUT, "%s: %s", part->name, reason);
    while (!ferror(output->file) && (size = fread(bytes, 1, sizeof bytes, file)) > 0) {
        const size_t left_out = (int64_t)size < skip ? size : (size_t)skip;
        skip -= (int64_t)left_out;
        hash = hash_add(hash, bytes, size);
        fwrite(bytes + left_out, 1, size - left_out, output->file);
    }
    int status = output_check(output);
    if (!status && ferror(file)) status = cli_fail(EFFNET_E_NOINPUT, "%s: %s", part->name, strerror(errno));
    if (!status && hash != part->hash)
        status = cli_fail(EFFNET_E_DATA, "%s: has changed since classify has written it", part->name);
    fclose(file);
    return status;
}

static int write_all(const struct merge *merge, struct output *output)
{
    const int64_t columns = merge->first.columns;
    if (columns) {
        char header[NPY_HEADER_BYTES];
        npy_header(header, merge->bytes / (columns * (int64_t)sizeof(float)), columns);
        fwrite(header, 1, sizeof header, output->file);
    }
    for (int64_t i = 0; i < merge->first.shard.count; i++)
        EFFNET_TRY(copy_part(&merge->parts[i], columns ? NPY_HEADER_BYTES : 0, output));
    return EFFNET_OK;
}

static int merge_parts(const struct merge_options *options)
{
    struct merge merge = {.options = options};
    struct output output;
    if (options->output) {
        EFFNET_TRY(output_check_ending(options->output));
        EFFNET_TRY(output_check_no_image(options->output));
        merge.output = realpath(options->output, NULL);
    }
    int status = read_parts(&merge);
    if (!status) status = check_complete(&merge);
    if (!status) {
        status = output_begin(&output, options->output);
        if (!status) status = output_end(&output, write_all(&merge, &output));
    }
    free(merge.output);
    free(merge.parts);
    return status;
}

int cmd_merge(int argc, char **argv)
{
    static const struct command_help help = {
        "merge",
        "[options] PART...",
        "Puts together what `effnet classify --shard` has written, in the order of the files:\n"
        "the bytes are those of one run. PARTs are the shards' outputs, in any order: results\n"
        "of any format, or arrays of --logits or --embeddings. The file PART.shard beside each\n"
        "tells what it is. A part that is missing, named twice, of another run or changed since\n"
        "then is named, and the output is not made.",
    };
    struct merge_options o = {0};
    const struct option_spec options[] = {
        TEXT('o', "output", "FILE",
             "write to FILE, which appears when it is whole (default: standard output)", &o.output),
    };
    const struct option_group group = {"Options", options, sizeof options / sizeof options[0]};
    int first = args_parse(&help, &group, 1, argc, argv);
    if (first <= 0) return first;
    o.operands = argv + first;
    o.count = argc - first;
    return merge_parts(&o);
}
