/* Asking for memory before it is needed. */
#ifndef EFFNET_COMMON_MEMORY_H
#define EFFNET_COMMON_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* Whether the system would still map so many bytes for this process (`ulimit -v`, strict overcommitment). For
 * calls of libraries that end the program where they get none; what they take stays well below. */
bool effnet_memory_left(size_t bytes);

#endif
