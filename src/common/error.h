/* Status codes travel up; the place that fails writes the message. */
#ifndef EFFNET_COMMON_ERROR_H
#define EFFNET_COMMON_ERROR_H

#include "effnet.h"

/* Writes status and message (printf style, one line) and returns status: `return effnet_fail(error,
 * EFFNET_E_DATA, "%s: ...", path)`. error may be NULL. */
int effnet_fail(struct effnet_error *error, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Returns from the calling function on failure. */
#define EFFNET_TRY(call)                                                                                     \
    do {                                                                                                     \
        int status_ = (call);                                                                                \
        if (status_ != EFFNET_OK) return status_;                                                            \
    } while (0)

/* Out of memory while doing `what`. */
int effnet_fail_nomem(struct effnet_error *error, const char *what, size_t size_bytes);

/* Fails with EFFNET_E_USAGE where a struct's reserved bytes are not all zero: the caller has set an option
 * that this version does not know. */
int effnet_check_reserved(const void *reserved, size_t size_bytes, const char *what,
                          struct effnet_error *error);

#endif
