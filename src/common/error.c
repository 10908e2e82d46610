#include "common/error.h"

#include "common/utf8.h"

#include <stdarg.h>
#include <stdio.h>

const char *effnet_version(void)
{
    return EFFNET_VERSION;
}

const char *effnet_status_text(int status)
{
    switch (status) {
    case EFFNET_OK: return "ok";
    case EFFNET_E_USAGE: return "wrong argument";
    case EFFNET_E_DATA: return "bad data";
    case EFFNET_E_NOINPUT: return "cannot read input";
    case EFFNET_E_UNAVAILABLE: return "not available here";
    case EFFNET_E_INTERNAL: return "internal error";
    case EFFNET_E_NOMEM: return "out of memory";
    case EFFNET_E_OUTPUT: return "cannot write output";
    }
    return "unknown status";
}

int effnet_fail(struct effnet_error *error, int status, const char *format, ...)
{
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        error->status = status;
        char message[2 * sizeof error->message]; /* what does not fit is cut between characters */
        vsnprintf(message, sizeof message, format, arguments);
        va_end(arguments);
        effnet_keep_start(error->message, sizeof error->message, message);
        /* A file name may hold control characters; the message stays one line. */
        for (char *p = error->message; *p; p++)
            if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    }
    return status;
}

int effnet_fail_nomem(struct effnet_error *error, const char *what, size_t size_bytes)
{
    return effnet_fail(error, EFFNET_E_NOMEM, "%s: cannot allocate %zu bytes", what, size_bytes);
}

int effnet_check_reserved(const void *reserved, size_t size_bytes, const char *what,
                          struct effnet_error *error)
{
    const unsigned char *bytes = reserved;
    for (size_t i = 0; i < size_bytes; i++)
        if (bytes[i])
            return effnet_fail(error, EFFNET_E_USAGE,
                               "%s: an option is set that this library, effnet %s, does not know", what,
                               EFFNET_VERSION);
    return EFFNET_OK;
}
