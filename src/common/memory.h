/* Asking for memory before it is needed. */
#ifndef EFFNET_COMMON_MEMORY_H
#define EFFNET_COMMON_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* Whether the system would still give this process `bytes` of memory, more than 0, and `reserved` of address
 * space beside them: `ulimit -v` and strict overcommitment may refuse. Asked before calls of libraries that
 * end the program where they get none. */
bool effnet_memory_left(size_t bytes, size_t reserved);

#endif
