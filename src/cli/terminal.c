#include "cli/cli.h"
#include "common/cpu.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool is_terminal(FILE *stream)
{
    const char *term = getenv("TERM");
    return isatty(fileno(stream)) && !(term && !strcmp(term, "dumb"));
}

struct style style_for(FILE *stream)
{
    const char *no_color = getenv("NO_COLOR"); /* no-color.org: set and not empty */
    if ((no_color && *no_color) || !is_terminal(stream)) return (struct style){"", "", "", "", ""};
    return (struct style){
        .bold = "\033[1m", .dim = "\033[2m", .good = "\033[32m", .bad = "\033[31m", .reset = "\033[0m"};
}

static bool progress_shown;

void progress_show(const char *what, int64_t done, int64_t total)
{
    /* with both on one terminal the results themselves are the progress */
    if (!is_terminal(stderr) || is_terminal(stdout)) return;
    fprintf(stderr, "\r%s %lld of %lld\033[K", what, (long long)done, (long long)total);
    progress_shown = true;
}

void progress_show_rate(const char *what, const struct pace *pace)
{
    static double shown_us;
    const double now_us = effnet_clock_us(), seconds = (now_us - pace->start_us) / 1e6;
    const bool last = pace->done == pace->total;
    if (!is_terminal(stderr) || is_terminal(stdout)) return;
    if (progress_shown && !last && now_us - shown_us < 1e5) return; /* ten times a second can be read */
    shown_us = now_us;
    progress_shown = true;
    fprintf(stderr, "\r%s %lld", what, (long long)pace->done);
    if (pace->total >= 0)
        fprintf(stderr, " of %lld", (long long)pace->total);
    else if (pace->part >= 0)
        fprintf(stderr, " (%.0f %%)", 100 * pace->part);
    if (seconds > 0) fprintf(stderr, ", %.0f images/s", (double)(pace->done - pace->done_before) / seconds);
    const double part_now = pace->part - pace->part_before;
    if (pace->part >= 0 && part_now > 0 && !last) {
        const long long left = (long long)(seconds * (1 - pace->part) / part_now + 0.5);
        if (left >= 3600)
            fprintf(stderr, ", %lld:%02lld:%02lld left", left / 3600, left / 60 % 60, left % 60);
        else
            fprintf(stderr, ", %lld:%02lld left", left / 60, left % 60);
    }
    fputs("\033[K", stderr);
}

void progress_clear(void)
{
    if (progress_shown) fputs("\r\033[K", stderr);
    progress_shown = false;
}
