/* effnet bench: verifies, warms up, times. */
#include "cli/bench/bench.h"
#include "cli/compare.h"
#include "cli/images.h"
#include "cli/reference.h"
#include "cli/units.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    BATCH_MAX = 65536,
    IMAGES_DRAWN = 16, /* different images in a batch */
};

/* ---------------------------------------------------------------- verifying */

/* Fills the batch with images; the first and the last are image 0. */
static void fill_batch(struct bench *bench)
{
    int crop = effnet_model_get_info(bench->model)->preprocess.crop;
    size_t crop_bytes = (size_t)crop * (size_t)crop * 3;
    for (int i = 0; i < bench->batch; i++) {
        uint8_t *to = bench->pixels + (size_t)i * crop_bytes;
        if (i < IMAGES_DRAWN)
            images_draw(1, i, crop, to);
        else
            memcpy(to, to - IMAGES_DRAWN * crop_bytes, crop_bytes);
    }
    memcpy(bench->pixels + (size_t)(bench->batch - 1) * crop_bytes, bench->pixels, crop_bytes);
}

/* The reference's logits of image 0. */
static int make_reference(struct bench *bench)
{
    const int last = effnet_model_get_info(bench->model)->layer_count - 1;
    struct reference reference;
    EFFNET_TRY(reference_open(bench->model, bench->pixels, 1, &reference));
    int status = reference_run_all(&reference);
    if (!status) {
        reference_term_rms(&reference, last, &bench->term_rms);
        bench->reference = reference.outputs[last];
        reference.outputs[last] = NULL; /* stays */
    }
    reference_close(&reference);
    return status;
}

/* Holds the batch's first and last logits, both of image 0, against the reference's. */
static int check_batch(struct bench *bench)
{
    size_t classes = (size_t)effnet_model_get_info(bench->model)->classes;
    double allowance = find_allowance(effnet_session_get_info(bench->session)->precision).logits;
    struct effnet_error error;
    if (!bench->reference) EFFNET_TRY(make_reference(bench));
    for (size_t i = 0; i < (size_t)bench->batch * classes; i++) bench->logits[i] = NAN;
    if (effnet_session_run(bench->session, bench->pixels, bench->batch, bench->logits, &error))
        return cli_fail_library(&error);
    struct comparison comparison = {0};
    const struct shape shape = {1, 1, (int)classes};
    compare(&comparison, bench->logits, bench->reference, 1, shape, allowance, &bench->term_rms, 1);
    compare(&comparison, bench->logits + (size_t)(bench->batch - 1) * classes, bench->reference, 1, shape,
            allowance, &bench->term_rms, 1);
    if (comparison_ok(&comparison)) return EFFNET_OK;
    return cli_fail(CLI_MISS,
                    "bench: batch %d is wrong: relative L2 %.2e, %.0f %% of what is allowed; 'effnet verify' "
                    "tells more",
                    bench->batch, comparison.relative_l2, 100 * comparison.share);
}

/* The facts come from the first session. */
static int begin_report(struct bench *bench)
{
    const struct bench_options *o = bench->options;
    EFFNET_TRY(report_open(o->passes.format, stdout, &bench->report));
    report_model_facts(bench->report, bench->model);
    report_session_facts(bench->report, &o->setup, bench->session);
    report_fact(bench->report, VALUE_BOOL, "verified", "verified", "%s", report_bool(!o->passes.no_verify));
    report_fact(bench->report, VALUE_NUMBER, "warmup", "warm-up passes", "%lld", (long long)o->passes.warmup);
    if (o->layers)
        bench_units_table(bench);
    else
        bench_network_table(bench);
    return EFFNET_OK;
}

static int bench_batch(struct bench *bench, int batch)
{
    const struct bench_options *o = bench->options;
    const struct effnet_model_info *info = effnet_model_get_info(bench->model);
    size_t crop = (size_t)info->preprocess.crop;
    bench->batch = batch;
    EFFNET_TRY(sessions_open(&o->setup, bench->model, batch, &bench->sessions));
    bench->session = bench->sessions.session[0];
    int status = EFFNET_OK;
    bench->pixels = malloc((size_t)batch * crop * crop * 3);
    bench->logits = malloc((size_t)batch * (size_t)info->classes * sizeof *bench->logits);
    if (bench->pixels && bench->logits)
        fill_batch(bench);
    else
        status = cli_fail_nomem("a batch");
    if (!status && !o->passes.no_verify) status = check_batch(bench);
    if (!status && !bench->report) status = begin_report(bench);
    if (!status) status = o->layers ? bench_units(bench) : bench_network(bench);
    sessions_close(&bench->sessions);
    free(bench->pixels);
    free(bench->logits);
    return status;
}

static int bench_all(const struct bench_options *options, char *const *paths, int count)
{
    struct bench bench = {.options = options, .paths = paths, .count = count};
    int status = setup_open_model(&options->setup, &bench.model);
    for (int i = 0; !status && i < options->batches.count; i++)
        status = bench_batch(&bench, (int)options->batches.values[i]);
    for (int i = 0; i < bench.note_count; i++) report_note(bench.report, bench.notes[i]);
    int printed = report_close(bench.report); /* what was measured before a failure, too */
    effnet_model_close(bench.model);
    free(bench.reference);
    return status ? status : printed;
}

static int check_usage(const struct bench_options *o, char *const *paths, int count)
{
    if (count && !o->end_to_end)
        return cli_fail(EFFNET_E_USAGE,
                        "bench: unexpected '%s': files go with --end-to-end (see 'effnet bench "
                        "--help')",
                        paths[0]);
    if (o->end_to_end && !count) return cli_fail(EFFNET_E_USAGE, "bench: --end-to-end needs image files");
    if (o->end_to_end && o->layers)
        return cli_fail(EFFNET_E_USAGE, "bench: --layers and --end-to-end do not go together");
    if (!o->end_to_end && !strcmp(o->decode, "gpu"))
        return cli_fail(EFFNET_E_USAGE, "bench: --decode gpu goes with --end-to-end");
    if (!o->layers && (o->peak_bandwidth > 0 || o->passes.peak_compute > 0))
        return cli_fail(EFFNET_E_USAGE, "bench: --peak-bandwidth and --peak-compute go with --layers");
    for (int i = 0; i < count; i++)
        if (!strcmp(paths[i], "-"))
            return cli_fail(EFFNET_E_USAGE,
                            "bench: files are read many times, which standard input cannot be");
    return EFFNET_OK;
}

int cmd_bench(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "linear")) return cmd_bench_linear(argc - 1, argv + 1);
    static const struct command_help help = {
        "bench",
        "[options] [--end-to-end FILE...]",
        "Measures speed: for each batch size, holds one image's logits against the reference,\n"
        "warms up, and times. 'compute' is the device's work alone on its own clock; 'run' is the\n"
        "host's wall time from pixels in memory to logits; on a GPU 'upload' is the pixels' way\n"
        "there and 'stream' a batch of many that follow one another. With FILEs, 'end-to-end' is\n"
        "the wall time of all of them once, as 'classify' takes them, 'read', 'decode' and 'fit'\n"
        "what these steps take of it in all threads, over their number, with --decode gpu 'decode\n"
        "gpu' what the engines take beside them, and a note says which step binds. Prints median, min, p90, "
        "p99 (nearest rank) and images/s of the median. Exits with\n"
        "1 where the results are wrong. 'effnet bench linear' measures one linear layer\n"
        "instead: see its --help.",
    };
    struct bench_options o = {
        .batches = {.count = 1, .values = {1}}, .passes = pass_defaults, .decode = "cpu"};
    const struct option_spec options[] = {
        OPTION_SPEC('b', "batch-size", "N[,N...]", "images a pass, one measure each (default 1)",
                    OPTION_INTEGER_LIST, struct integer_list, &o.batches, 1, BATCH_MAX, NULL),
        FLAG(0, "cold", "evict the caches before each pass of 'compute' and --layers", &o.passes.cold),
        FLAG(0, "end-to-end", "also from FILEs: decode, fit and run", &o.end_to_end),
        DECODE_OPTION(&o.decode),
        FLAG(0, "layers", "a profile unit by unit instead, with bytes and FLOPs", &o.layers),
        REAL(0, "peak-bandwidth", "GB/S", "the machine's memory bandwidth: adds percent of roofline",
             &o.peak_bandwidth, 0.001, 1e9),
        REAL(0, "peak-compute", "GFLOP/S", "the machine's arithmetic, likewise", &o.passes.peak_compute,
             0.001, 1e12),
        PASS_OPTIONS(&o.passes),
    };
    int first = setup_parse(&help, options, sizeof options / sizeof options[0], &o.setup, NULL, argc, argv);
    if (first <= 0) return first;
    EFFNET_TRY(check_usage(&o, argv + first, argc - first));
    return bench_all(&o, argv + first, argc - first);
}
