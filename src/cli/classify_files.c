#include "cli/classify.h"
#include "common/cpu.h"
#include "common/hash.h"
#include "common/npy.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { NOTE_EVERY_US = 500000 };

static int hash_file(const char *path, uint64_t *hash)
{
    FILE *file = fopen(path, "re");
    char bytes[65536];
    size_t size;
    *hash = HASH_START;
    if (!file) return cli_fail(EFFNET_E_NOINPUT, "%s: %s", path, strerror(errno));
    while ((size = fread(bytes, 1, sizeof bytes, file)) > 0) *hash = hash_add(*hash, bytes, size);
    fclose(file);
    return EFFNET_OK;
}

static const char *or_default(const char *word)
{
    return word ? word : "default";
}

/* What the bytes of the results depend on, beside the files. */
static int describe(const struct classify_options *o, const effnet_model *model, int top_k, char *text,
                    size_t size)
{
    const struct effnet_image_options *image = &o->image;
    uint64_t weights;
    EFFNET_TRY(hash_file(effnet_model_get_info(model)->path, &weights));
    snprintf(text, size,
             "weights=%016" PRIx64 "\nformat=%s\nno-header=%d\nscores=%s\ntopk=%d\nthreshold=%.17g %d\n"
             "logits=%d\nshard=%" PRId64 "/%" PRId64 "\nmax-pixels=%" PRId64 "\nignore-exif=%d\n"
             "background=%d %02x%02x%02x\nbatch-size=%" PRId64
             "\ndevice=%.80s\nprecision=%.80s\nplan=%.80s\n",
             weights, o->format, o->no_header, o->scores, top_k, o->threshold, o->threshold_given,
             o->logits != NULL, o->inputs.shard.number, o->inputs.shard.count, image->max_pixels,
             image->ignore_exif, image->has_background, image->background[0], image->background[1],
             image->background[2], o->batch_size, or_default(o->setup.device), or_default(o->setup.precision),
             or_default(o->setup.plan));
    return EFFNET_OK;
}

static int64_t row_bytes(const struct classify_files *files)
{
    return (int64_t)files->classes * (int64_t)sizeof(float);
}

static int write_array_header(struct classify_files *files)
{
    char header[NPY_HEADER_BYTES];
    npy_header(header, files->record.rows, files->classes);
    fwrite(header, 1, sizeof header, files->logits.file);
    return output_check(&files->logits);
}

static int open_resume(struct classify_files *files, const struct classify_options *options,
                       const effnet_model *model, int top_k, bool *found)
{
    char text[RESUME_HEADER_BYTES - 64], *path;
    EFFNET_TRY(describe(options, model, top_k, text, sizeof text));
    if (asprintf(&path, "%s.resume", files->results.final) < 0) return cli_fail_nomem("the resume file");
    int status = resume_open(path, text, options->resume, &files->resume, &files->record, found);
    if (!status && files->record.finished && !options->resume) {
        /* an earlier run was killed as it changed names: that is done first, and this run begins anew */
        status = output_rename(&files->results);
        if (!status && files->logits.final) status = output_rename(&files->logits);
        resume_close(files->resume, !status);
        files->resume = NULL;
        if (!status) status = resume_open(path, text, false, &files->resume, &files->record, found);
    }
    free(path);
    return status;
}

/* A slip of the shell's completion must not cost an image. */
static int check_no_image(const struct output *output)
{
    if (!output->mode || !walk_is_image(output->final)) return EFFNET_OK;
    struct stat status;
    if (stat(output->final, &status) || status.st_size == 0) return EFFNET_OK;
    return cli_fail(EFFNET_E_OUTPUT, "%s: is an image, which is not overwritten", output->name);
}

/* `ours`: what is there is an earlier run's. */
static int open_outputs(struct classify_files *files, bool ours)
{
    const int64_t rows = files->record.rows;
    if (files->results.final) EFFNET_TRY(output_open(&files->results, ours, files->record.bytes));
    if (!files->logits.final) return EFFNET_OK;
    EFFNET_TRY(output_open(&files->logits, ours, rows ? NPY_HEADER_BYTES + rows * row_bytes(files) : 0));
    return rows ? EFFNET_OK : write_array_header(files);
}

int classify_files_open(struct classify_files *files, const struct classify_options *options,
                        const effnet_model *model, int top_k)
{
    bool found = false;
    files->classes = effnet_model_get_info(model)->classes;
    files->record = (struct resume_record){.names = HASH_START};
    EFFNET_TRY(output_name(&files->results, options->output));
    if (options->logits) EFFNET_TRY(output_name(&files->logits, options->logits));
    if (options->logits && !files->logits.final)
        return cli_fail(EFFNET_E_USAGE, "--logits: %s is no regular file", options->logits);
    EFFNET_TRY(check_no_image(&files->results));
    if (options->logits) EFFNET_TRY(check_no_image(&files->logits));
    if (options->resume && !files->results.final)
        return cli_fail(EFFNET_E_USAGE, "--resume: %s is no regular file", options->output);
    if (options->logits && files->results.final && !strcmp(files->results.final, files->logits.final))
        return cli_fail(EFFNET_E_USAGE, "--output and --logits name the same file");
    if (files->results.final) EFFNET_TRY(open_resume(files, options, model, top_k, &found));
    int status = files->record.finished ? EFFNET_OK : open_outputs(files, found);
    if (status && !found) {
        resume_close(files->resume, true); /* what is in the way would pass for ours the next time */
        files->resume = NULL;
    }
    files->noted_us = effnet_clock_us();
    return status;
}

int classify_files_add_row(struct classify_files *files, const float *logits)
{
    files->record.rows++;
    if (!files->logits.file) return EFFNET_OK;
    if (logits) fwrite(logits, sizeof *logits, (size_t)files->classes, files->logits.file);
    for (int i = 0; !logits && i < files->classes; i++)
        fwrite(&(float){NAN}, sizeof(float), 1, files->logits.file);
    return output_check(&files->logits);
}

int classify_files_note(struct classify_files *files, bool now)
{
    if (!files->resume) return output_flush(&files->results);
    const double now_us = effnet_clock_us();
    if (!now && now_us - files->noted_us < NOTE_EVERY_US) return EFFNET_OK;
    files->noted_us = now_us;
    EFFNET_TRY(output_flush(&files->results));
    if (files->logits.file) EFFNET_TRY(output_flush(&files->logits));
    files->record.bytes = ftello(files->results.file);
    return resume_note(files->resume, &files->record);
}

int classify_files_finish(struct classify_files *files)
{
    if (!files->record.finished) {
        if (files->logits.file) {
            rewind(files->logits.file);
            EFFNET_TRY(write_array_header(files));
            EFFNET_TRY(output_sync(&files->logits));
        }
        EFFNET_TRY(output_sync(&files->results));
        files->record.finished = 1;
        if (files->resume) EFFNET_TRY(resume_note(files->resume, &files->record));
    }
    if (files->logits.final) EFFNET_TRY(output_rename(&files->logits));
    return output_rename(&files->results);
}

void classify_files_close(struct classify_files *files, bool done)
{
    const bool keep = done || files->resume;
    output_close(&files->results, keep);
    output_close(&files->logits, keep);
    resume_close(files->resume, done);
    files->resume = NULL;
}
