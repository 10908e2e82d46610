#include "cli/evaluate/sides.h"

static int next_item(void *context, struct effnet_item *item, struct effnet_error *error)
{
    struct side *side = context;
    (void)error;
    if (side->next == side->dataset->count) return 0;
    *item = (struct effnet_item){.name = side->dataset->images[side->next++].path};
    return 1;
}

/* The pipeline comes before the session, so that the first images are decoded while that is built. */
int sides_add(struct sides *sides, const effnet_model *model, const struct setup *setup, const char *decode,
              int64_t batch_size)
{
    const int64_t batch = batch_size ? batch_size : IMAGE_BATCH_DEFAULT, count = sides->dataset->count;
    struct effnet_pipeline_options pipeline = setup_pipeline_options(setup, decode);
    struct side *side = &sides->side[sides->count++];
    struct effnet_error error;
    pipeline.image = sides->image;
    *side = (struct side){.dataset = sides->dataset};
    if (effnet_pipeline_open(model, &pipeline, next_item, side, &side->pipeline, &error))
        return cli_fail_library(&error);
    EFFNET_TRY(setup_open_session(setup, model, (int)(batch < count ? batch : count), &side->session));
    return effnet_pipeline_start(side->pipeline, side->session, &error) ? cli_fail_library(&error)
                                                                        : EFFNET_OK;
}

/* Says of a file that it has no answer; of one that both sides failed at, once. Whether it has none. */
static bool count_failure(struct sides *sides, const struct effnet_result *const *results)
{
    const struct effnet_result *failed = NULL;
    for (int s = sides->count - 1; s >= 0; s--)
        if (results[s]->status) failed = results[s];
    if (!failed) return false;
    cli_fail_library(failed->error);
    sides->failed++;
    if (!sides->first_failure) sides->first_failure = failed->status;
    return true;
}

int sides_run(struct sides *sides, const char *what, bool quiet,
              void (*take)(void *context, int64_t image, const struct effnet_result *const *results),
              void *context)
{
    const struct effnet_result *results[2] = {NULL, NULL};
    struct effnet_error error;
    for (int64_t i = 0; i < sides->dataset->count; i++) {
        for (int s = 0; s < sides->count; s++) {
            if (effnet_pipeline_next(sides->side[s].pipeline, &results[s], &error))
                return cli_fail_library(&error);
            if (!results[s]) return cli_fail(EFFNET_E_INTERNAL, "%s: a result is missing", what);
        }
        if (!count_failure(sides, results)) {
            sides->blank += results[0]->blank_without_alpha;
            take(context, i, results);
        }
        if (!quiet) progress_show(what, i + 1, sides->dataset->count);
    }
    progress_clear();
    return EFFNET_OK;
}

void sides_give_up(const struct sides *sides, int status)
{
    if (sides->side[0].pipeline) cli_exit_now(status);
}

void sides_close(struct sides *sides)
{
    for (int s = 0; s < sides->count; s++) {
        effnet_pipeline_close(sides->side[s].pipeline);
        effnet_session_close(sides->side[s].session);
    }
}
