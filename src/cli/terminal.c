#include "cli/cli.h"

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

void progress_clear(void)
{
    if (progress_shown) fputs("\r\033[K", stderr);
    progress_shown = false;
}
