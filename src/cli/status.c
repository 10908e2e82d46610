#include "cli/cli.h"
#include "cli/text.h"
#include "common/utf8.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

static const struct {
    int status, exit_status;
    const char *meaning;
} statuses[] = {
    {EFFNET_OK, EX_OK, "all went well"},
    {CLI_MISS, 1, "verify or bench: a result is outside its allowance"},
    {EFFNET_E_USAGE, EX_USAGE, "wrong usage"},
    {EFFNET_E_DATA, EX_DATAERR, "an image, a list, a part or a weights file is broken or not supported"},
    {EFFNET_E_NOINPUT, EX_NOINPUT, "an image, a list, a part or a weights file is missing or cannot be read"},
    {EFFNET_E_UNAVAILABLE, EX_UNAVAILABLE, "no such device, or it lacks a library or the precision"},
    {EFFNET_E_INTERNAL, EX_SOFTWARE, "internal error"},
    {EFFNET_E_NOMEM, EX_OSERR, "out of memory"},
    {EFFNET_E_OUTPUT, EX_IOERR, "results could not be written"},
};
enum { STATUS_COUNT = sizeof statuses / sizeof statuses[0] };

int cli_exit_status(int status)
{
    for (int i = 0; i < STATUS_COUNT; i++)
        if (statuses[i].status == status) return statuses[i].exit_status;
    return EX_SOFTWARE;
}

void cli_print_exit_statuses(FILE *out)
{
    for (int i = 0; i < STATUS_COUNT; i++)
        fprintf(out, "  %2d  %s\n", statuses[i].exit_status, statuses[i].meaning);
}

static void write_notice(FILE *out, const char *message)
{
    fputs("effnet: ", out);
    text_write_printable(out, message);
    fputc('\n', out);
}

/* In one piece, since standard error has no buffer, and a million files may each have something to say. */
void cli_notice(const char *message)
{
    char *line = NULL;
    size_t bytes = 0;
    FILE *whole = open_memstream(&line, &bytes);
    progress_clear();
    if (whole) write_notice(whole, message);
    if (whole && !fclose(whole))
        fwrite(line, 1, bytes, stderr);
    else
        write_notice(stderr, message);
    free(line);
}

int cli_fail(int status, const char *format, ...)
{
    char *message;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&message, format, arguments) < 0) message = NULL;
    va_end(arguments);
    /* What the user gave is as long as he likes: of a long line the middle is left out. */
    char start[512], end[1024];
    if (message && strlen(message) >= sizeof start + sizeof end) {
        effnet_keep_start(start, sizeof start, message);
        effnet_keep_end(end, sizeof end, message);
        sprintf(message, "%s%s", start, end + strlen("..."));
    }
    cli_notice(message ? message : format);
    free(message);
    return status;
}

int cli_fail_library(const struct effnet_error *error)
{
    /* A long name may have pushed the reason out of the message. */
    size_t length = strlen(error->message);
    bool cut = length + 8 > sizeof error->message && !strcmp(error->message + length - 3, "...");
    return cut ? cli_fail(error->status, "%s (%s)", error->message, effnet_status_text(error->status))
               : cli_fail(error->status, "%s", error->message);
}

int cli_fail_nomem(const char *what)
{
    return cli_fail(EFFNET_E_NOMEM, "out of memory for %s", what);
}

int cli_flush_output(void)
{
    static bool reported;
    int reason = ferror(stdout) ? errno : 0; /* a full buffer was written earlier, and that failed */
    errno = 0;
    if (reported) return EFFNET_E_OUTPUT;
    if (!fflush(stdout) && !ferror(stdout)) return EFFNET_OK;
    if (errno) reason = errno;
    reported = true;
    return cli_fail(EFFNET_E_OUTPUT, "standard output: %s", reason ? strerror(reason) : "cannot be written");
}

int cli_check_output(void)
{
    return ferror(stdout) ? cli_flush_output() : EFFNET_OK;
}

_Noreturn void cli_exit_now(int status)
{
    progress_clear();
    _exit(cli_exit_status(status));
}
