#include "cli/classify.h"
#include "cli/text.h"
#include "common/cpu.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void classify_stats_begin(struct classify_stats *stats)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    *stats = (struct classify_stats){.before_main = (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3,
                                     .start = effnet_clock_us()};
}

static double time_of(const struct slow_file *file)
{
    return file->read_us + file->decode_us + file->fit_us;
}

void classify_stats_add(struct classify_stats *stats, const struct effnet_result *result)
{
    struct slow_file file = {result->read_us, result->decode_us, result->fit_us, NULL};
    struct slow_file *last = &stats->slowest[SLOWEST - 1];
    if (time_of(&file) <= time_of(last) || !(file.name = strdup(result->name))) return;
    free(last->name);
    for (; last > stats->slowest && time_of(last - 1) < time_of(&file); last--) *last = last[-1];
    *last = file;
}

static void print_row(const char *name, double us, const char *note)
{
    fprintf(stderr, "  %-13s %10.2f%s\n", name, us / 1e3, note);
}

void classify_stats_print(const struct classify_stats *stats, const struct effnet_pipeline_stats *pipeline,
                          const struct resume_record *record)
{
    const double total = effnet_clock_us() - stats->start + stats->before_main;
    const double known = stats->before_main + stats->load_model + stats->open_session + stats->wait +
                         stats->print;
    char beside[64];
    snprintf(beside, sizeof beside, "  in %d thread%s beside the above", pipeline->threads,
             pipeline->threads == 1 ? "" : "s");
    fprintf(stderr, "stats: %" PRId64 " files, %" PRId64 " failed, %" PRId64 " skipped\n", record->items,
            record->failed, record->skipped);
    fprintf(stderr, "  %.1f images/s, %" PRId64 " passes through the network\n",
            (double)pipeline->items / total * 1e6, pipeline->passes);
    fputs("time, ms\n", stderr);
    print_row("start", stats->before_main, "  before main: the libraries");
    print_row("load model", stats->load_model, "");
    print_row("open session", stats->open_session, "");
    print_row("wait", stats->wait, "  for results");
    print_row("print", stats->print, "");
    print_row("other", total - known, "");
    print_row("total", total, "");
    print_row("compute", pipeline->device_us, "  beside the above");
    print_row("read", pipeline->read_us, beside);
    print_row("decode", pipeline->decode_us, "  likewise");
    print_row("fit", pipeline->fit_us, "  likewise");
    print_row("wait for seat", pipeline->seat_wait_us, "  likewise: for the network");
    if (pipeline->decoded_gpu) {
        snprintf(beside, sizeof beside, "  of %" PRId64 " files, beside the above", pipeline->decoded_gpu);
        print_row("decode gpu", pipeline->decode_gpu_us, beside);
    }
    fputs("slowest files, ms: read, decode, fit\n", stderr);
    for (int i = 0; i < SLOWEST && stats->slowest[i].name; i++) {
        const struct slow_file *file = &stats->slowest[i];
        fprintf(stderr, "  %8.2f %8.2f %8.2f  ", file->read_us / 1e3, file->decode_us / 1e3,
                file->fit_us / 1e3);
        text_write_printable(stderr, file->name);
        fputc('\n', stderr);
    }
}

void classify_stats_free(struct classify_stats *stats)
{
    for (int i = 0; i < SLOWEST; i++) free(stats->slowest[i].name);
}
