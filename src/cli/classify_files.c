#include "cli/classify.h"
#include "common/cpu.h"
#include "common/hash.h"
#include "common/npy.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NOTE_EVERY_US = 500000 };

static const char *const array_options[ARRAYS] = {
    [ARRAY_LOGITS] = "--logits",
    [ARRAY_EMBEDDINGS] = "--embeddings",
};

static int hash_weights(const char *path, uint64_t *hash)
{
    FILE *file = fopen(path, "re");
    int64_t bytes;
    *hash = HASH_START;
    const bool read = file && hash_file(file, hash, &bytes);
    const int status = read ? EFFNET_OK : cli_fail(EFFNET_E_NOINPUT, "%s: %s", path, strerror(errno));
    if (file) fclose(file);
    return status;
}

static const char *or_default(const char *word)
{
    return word ? word : "default";
}

/* What the bytes of the results depend on, beside the files and the shard. */
static int describe(const struct classify_options *o, const effnet_model *model, int top_k,
                    char text[CLASSIFY_RUN_BYTES])
{
    const struct effnet_image_options *image = &o->image;
    uint64_t weights;
    EFFNET_TRY(hash_weights(effnet_model_get_info(model)->path, &weights));
    snprintf(text, CLASSIFY_RUN_BYTES,
             "weights=%016" PRIx64 "\nformat=%s\nno-header=%d\nscores=%s\ntopk=%d\nthreshold=%.17g %d\n"
             "logits=%d\nembeddings=%d\ncam=%d\nmax-pixels=%" PRId64 "\nignore-exif=%d\n"
             "background=%d %02x%02x%02x\nbatch-size=%" PRId64
             "\ndevice=%.80s\nprecision=%.80s\nplan=%.80s\n",
             weights, o->format, o->no_header, o->scores, top_k, o->threshold, o->threshold_given,
             o->arrays[ARRAY_LOGITS] != NULL, o->arrays[ARRAY_EMBEDDINGS] != NULL, o->cam != NULL,
             image->max_pixels, image->ignore_exif, image->has_background, image->background[0],
             image->background[1], image->background[2], o->batch_size, or_default(o->setup.device),
             or_default(o->setup.precision), or_default(o->setup.plan));
    return EFFNET_OK;
}

static int write_array_header(struct classify_files *files, int array)
{
    char header[NPY_HEADER_BYTES];
    npy_header(header, files->record.rows, files->columns[array]);
    fwrite(header, 1, sizeof header, files->arrays[array].file);
    return output_check(&files->arrays[array]);
}

/* The results come last: where they have their name, all have. */
static int rename_all(const struct classify_files *files)
{
    for (int i = 0; i < ARRAYS; i++) EFFNET_TRY(output_rename(&files->arrays[i]));
    return output_rename(&files->results);
}

static int open_resume(struct classify_files *files, const struct classify_options *options, bool *found)
{
    char text[RESUME_HEADER_BYTES - 64], *path;
    snprintf(text, sizeof text, "%sshard=%" PRId64 "/%" PRId64 "\n", files->run, files->shard.number,
             files->shard.count);
    if (asprintf(&path, "%s.resume", files->results.final) < 0) return cli_fail_nomem("the resume file");
    int status = resume_open(path, text, options->resume, &files->resume, &files->record, found);
    if (!status && files->record.finished && !options->resume) {
        /* an earlier run was killed as it changed names: that is done first, and this run begins anew */
        status = rename_all(files);
        resume_close(files->resume, !status);
        files->resume = NULL;
        if (!status) status = resume_open(path, text, false, &files->resume, &files->record, found);
    }
    free(path);
    return status;
}

/* `ours`: what is there is an earlier run's. */
static int open_outputs(struct classify_files *files, bool ours)
{
    const int64_t rows = files->record.rows;
    if (files->results.final) EFFNET_TRY(output_open(&files->results, ours, files->record.bytes));
    for (int i = 0; i < ARRAYS; i++) {
        const int64_t row_bytes = (int64_t)files->columns[i] * (int64_t)sizeof(float);
        if (!files->arrays[i].final) continue;
        EFFNET_TRY(output_open(&files->arrays[i], ours, rows ? NPY_HEADER_BYTES + rows * row_bytes : 0));
        if (!rows) EFFNET_TRY(write_array_header(files, i));
    }
    return EFFNET_OK;
}

/* Fills in the names, and refuses what cannot be. */
static int name_outputs(struct classify_files *files, const struct classify_options *options)
{
    EFFNET_TRY(output_name(&files->results, options->output));
    if (options->resume && !files->results.final)
        return cli_fail(EFFNET_E_USAGE, "--resume: %s is no regular file", options->output);
    if (options->output) EFFNET_TRY(output_check_no_image(options->output));
    if (files->parts && files->results.final) EFFNET_TRY(part_check_place(files->results.final));
    for (int i = 0; i < ARRAYS; i++) {
        struct output *array = &files->arrays[i];
        if (!options->arrays[i]) continue;
        EFFNET_TRY(output_name(array, options->arrays[i]));
        if (!array->final)
            return cli_fail(EFFNET_E_USAGE, "%s: %s is no regular file", array_options[i], array->name);
        EFFNET_TRY(output_check_no_image(array->name));
        if (files->parts) EFFNET_TRY(part_check_place(array->final));
    }
    return EFFNET_OK;
}

int classify_files_open(struct classify_files *files, const struct classify_options *options,
                        const effnet_model *model, int top_k)
{
    bool found = false;
    files->columns[ARRAY_LOGITS] = effnet_model_get_info(model)->classes;
    files->columns[ARRAY_EMBEDDINGS] = effnet_model_get_info(model)->feature_channels;
    files->record = (struct resume_record){.names = HASH_START};
    files->shard = options->inputs.shard;
    files->parts = options->shard != NULL;
    EFFNET_TRY(name_outputs(files, options));
    if (files->results.final || files->parts) EFFNET_TRY(describe(options, model, top_k, files->run));
    if (files->results.final) EFFNET_TRY(open_resume(files, options, &found));
    int status = files->record.finished ? EFFNET_OK : open_outputs(files, found);
    if (status && !found) {
        resume_close(files->resume, true); /* what is in the way would pass for ours the next time */
        files->resume = NULL;
    }
    files->noted_us = effnet_clock_us();
    return status;
}

int classify_files_add_rows(struct classify_files *files, const struct effnet_result *result)
{
    const float *const rows[ARRAYS] = {
        [ARRAY_LOGITS] = result->logits, [ARRAY_EMBEDDINGS] = result->features};
    files->record.rows++;
    for (int i = 0; i < ARRAYS; i++) {
        FILE *file = files->arrays[i].file;
        if (!file) continue;
        if (rows[i]) fwrite(rows[i], sizeof(float), (size_t)files->columns[i], file);
        for (int k = 0; !rows[i] && k < files->columns[i]; k++) fwrite(&(float){NAN}, sizeof(float), 1, file);
        EFFNET_TRY(output_check(&files->arrays[i]));
    }
    return EFFNET_OK;
}

int classify_files_note(struct classify_files *files, bool now)
{
    if (!files->resume) return output_flush(&files->results);
    const double now_us = effnet_clock_us();
    if (!now && now_us - files->noted_us < NOTE_EVERY_US) return EFFNET_OK;
    files->noted_us = now_us;
    EFFNET_TRY(output_flush(&files->results));
    for (int i = 0; i < ARRAYS; i++)
        if (files->arrays[i].file) EFFNET_TRY(output_flush(&files->arrays[i]));
    files->record.bytes = ftello(files->results.file);
    return resume_note(files->resume, &files->record);
}

/* What effnet merge reads beside an output of this shard. */
static int describe_part(const struct classify_files *files, const struct walk_names *names,
                         const struct output *output, const char *what, int columns)
{
    if (!output->final) return EFFNET_OK;
    struct part part = {.shard = files->shard, .columns = columns};
    snprintf(part.run, sizeof part.run, "output=%s\nnames=%" PRId64 " %016" PRIx64 "\n%s", what, names->count,
             names->hash, files->run);
    return part_write(output->final, &part, output->file);
}

static int describe_parts(const struct classify_files *files, const struct walk *walk)
{
    if (!files->parts) return EFFNET_OK;
    struct walk_names names = walk_names_of_all(walk);
    if (files->shard.count == 1)
        names = (struct walk_names){.count = files->record.items, .hash = files->record.names};
    for (int i = 0; i < ARRAYS; i++)
        EFFNET_TRY(describe_part(files, &names, &files->arrays[i], array_options[i] + 2, files->columns[i]));
    return describe_part(files, &names, &files->results, "results", 0);
}

int classify_files_finish(struct classify_files *files, const struct walk *walk)
{
    if (!files->record.finished) {
        for (int i = 0; i < ARRAYS; i++) {
            if (!files->arrays[i].file) continue;
            rewind(files->arrays[i].file);
            EFFNET_TRY(write_array_header(files, i));
            EFFNET_TRY(output_sync(&files->arrays[i]));
        }
        EFFNET_TRY(output_sync(&files->results));
        EFFNET_TRY(describe_parts(files, walk));
        files->record.finished = 1;
        if (files->resume) EFFNET_TRY(resume_note(files->resume, &files->record));
    }
    return rename_all(files);
}

void classify_files_close(struct classify_files *files, bool done)
{
    const bool keep = done || files->resume;
    output_close(&files->results, keep);
    for (int i = 0; i < ARRAYS; i++) output_close(&files->arrays[i], keep);
    resume_close(files->resume, done);
    files->resume = NULL;
}
