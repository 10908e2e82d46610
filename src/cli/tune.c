/* effnet tune: measures, on a GPU, how to run a network, and keeps it for later starts. */
#include "cli/cli.h"
#include "cli/report.h"
#include "effnet_lab.h"

#include <inttypes.h>

enum { BATCH_MAX = 65536 };

struct tune_options {
    struct setup setup;
    struct integer_list batches;
    const char *format;
};

struct tuning_run {
    const char *format;
    struct report *report; /* begun with the first unit, so that a failure before it prints nothing */
    int64_t batch;
    int status;
};

static void report_tuned(const struct effnet_tuned *tuned, void *context)
{
    static const struct column columns[] = {
        {"batch", "batch", VALUE_NUMBER},
        {"layer", "first layer", VALUE_TEXT},
        {"what", "unit", VALUE_TEXT},
        {"candidates", "candidates", VALUE_NUMBER},
        {"elapsed_us", "fastest us", VALUE_NUMBER},
        {"candidate", "fastest", VALUE_TEXT},
    };
    struct tuning_run *run = context;
    if (!run->report) {
        if (!run->status) run->status = report_open(run->format, stdout, &run->report);
        if (run->status) return;
        report_table(run->report, "units", "What was measured", columns, sizeof columns / sizeof *columns);
    }
    report_row(run->report, "%" PRId64 "\t%s\t%s\t%d\t%.2f\t%s", run->batch, tuned->layer, tuned->what,
               tuned->candidates, tuned->elapsed_us, tuned->candidate);
}

static int tune(const struct tune_options *o)
{
    struct tuning_run run = {.format = o->format};
    effnet_model *model;
    EFFNET_TRY(setup_open_model(&o->setup, &model));
    int status = EFFNET_OK;
    for (int i = 0; !status && i < o->batches.count; i++) {
        struct effnet_error error;
        run.batch = o->batches.values[i];
        const struct effnet_session_options options = setup_session_options(&o->setup, (int)run.batch);
        if (!o->setup.quiet) progress_show("batch sizes tuned", i, o->batches.count);
        if (effnet_tune(model, &options, report_tuned, &run, &error)) status = cli_fail_library(&error);
        if (!status) status = run.status;
    }
    progress_clear();
    const int printed = report_close(run.report); /* what was measured before a failure, too */
    effnet_model_close(model);
    return status ? status : printed;
}

int cmd_tune(int argc, char **argv)
{
    static const struct command_help help = {
        "tune",
        "[options]",
        "Measures, on a GPU, every way to run each part of a network, and keeps the fastest in\n"
        "$EFFNET_CACHE or ~/.cache/effnet, where every later start finds it. Without it effnet goes by\n"
        "what was measured on known GPUs, of the nearest batch size; nothing else measures.\n"
        "Takes some ten seconds a batch size, during which nothing else should use the GPU.",
    };
    struct tune_options o = {.batches = {.count = 1, .values = {1}}, .format = "text"};
    const struct option_spec options[] = {
        OPTION_SPEC('b', "batch-size", "N[,N...]", "images a pass (default 1)", OPTION_INTEGER_LIST,
                    struct integer_list, &o.batches, 1, BATCH_MAX, NULL),
        CHOICE(0, "format", "text|json|csv|markdown", "how to print what was measured (default text)",
               &o.format),
    };
    int first = setup_parse(&help, options, sizeof options / sizeof options[0], &o.setup, NULL, argc, argv);
    if (first <= 0) return first;
    if (first < argc)
        return cli_fail(EFFNET_E_USAGE, "tune: unexpected '%s' (see 'effnet tune --help')", argv[first]);
    return tune(&o);
}
