#include "common/memory.h"

#include <sys/mman.h>

bool effnet_memory_left(size_t bytes, size_t reserved)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    void *space = reserved ? mmap(NULL, reserved, PROT_NONE, flags | MAP_NORESERVE, -1, 0) : NULL;
    if (space == MAP_FAILED) return false;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory != MAP_FAILED) munmap(memory, bytes);
    if (space) munmap(space, reserved);
    return memory != MAP_FAILED;
}
