#include "cli/quantize/accuracy.h"

#include "cli/evaluate/folders.h"
#include "cli/evaluate/metrics.h"
#include "cli/evaluate/sides.h"
#include "pipeline/walk.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

int accuracy_dataset(const char *path, const effnet_model *model, const struct dataset_columns *columns,
                     bool sorted, struct dataset *out)
{
    char *const operands[] = {(char *)path};
    char **names = NULL;
    int folders = 0;
    struct stat status;
    if (stat(path, &status)) return cli_fail(EFFNET_E_NOINPUT, "%s: %s", path, strerror(errno));
    const bool is_folder = S_ISDIR(status.st_mode);
    const bool is_image = S_ISREG(status.st_mode) && walk_is_image(path); /* what it read of a pipe is lost */
    if (is_folder) EFFNET_TRY(folders_list(path, &names, &folders));
    folders_free(names, folders);
    if (is_folder ? !folders : is_image) return dataset_read_images(operands, 1, out);
    return is_folder ? dataset_read_folders(path, model, sorted, out)
                     : dataset_read_csv(path, columns, model, out);
}

struct job {
    const struct dataset *dataset;
    int classes;
    struct accuracy *accuracy;
    struct agreement agreement;
};

static void take_results(void *context, int64_t i, const struct effnet_result *const *results)
{
    struct job *job = context;
    const int label = job->dataset->images[i].label;
    agreement_add(&job->agreement, i, results[0]->logits, results[1]->logits, job->classes);
    if (!job->accuracy->labelled) return;
    job->accuracy->fp32_top1 += answer_of(results[0]->logits, job->classes, label).rank == 0;
    job->accuracy->int8_top1 += answer_of(results[1]->logits, job->classes, label).rank == 0;
}

int accuracy_measure(const effnet_model *floats, const effnet_model *integers, const struct setup *setup,
                     const struct dataset *dataset, struct accuracy *out)
{
    struct sides sides = {.dataset = dataset, .image = effnet_image_defaults()};
    struct job job = {dataset, effnet_model_get_info(floats)->classes, out, {0}};
    out->labelled = dataset->named_by;
    int status = sides_add(&sides, floats, setup, "cpu", 0);
    if (!status) status = sides_add(&sides, integers, setup, "cpu", 0);
    if (!status) status = sides_run(&sides, "quantize: evaluating", setup->quiet, take_results, &job);
    if (status) sides_give_up(&sides, status);
    out->images = job.agreement.images;
    out->same = job.agreement.same;
    out->failed = sides.failed;
    out->first_failure = sides.first_failure;
    sides_close(&sides);
    if (!status && !out->images)
        status = cli_fail(out->first_failure,
                          "quantize: none of the %" PRId64 " images to evaluate could be read", out->failed);
    return status;
}

static void top1_fact(struct report *report, const char *key, const char *heading, int64_t hits,
                      const struct accuracy *accuracy)
{
    report_fact(report, VALUE_NUMBER, key, heading, "%.2f", 100 * (double)hits / (double)accuracy->images);
}

void accuracy_facts(struct report *report, const char *path, const struct accuracy *accuracy)
{
    report_fact(report, VALUE_TEXT, "evaluated", "evaluated on", "%s", path);
    report_fact(report, VALUE_NUMBER, "evaluated_images", "  images", "%" PRId64, accuracy->images);
    report_fact(report, VALUE_NUMBER, "evaluated_failed", "  unreadable", "%" PRId64, accuracy->failed);
    if (accuracy->labelled) {
        top1_fact(report, "fp32_top1", "  fp32 top-1, %", accuracy->fp32_top1, accuracy);
        top1_fact(report, "int8_top1", "  int8 top-1, %", accuracy->int8_top1, accuracy);
    }
    report_fact(report, VALUE_NUMBER, "evaluated_same", "  same answer", "%" PRId64, accuracy->same);
}
