/* Files that are no weights of effnet's, by how they begin: what a user may take for such. */
#ifndef EFFNET_MODEL_FOREIGN_H
#define EFFNET_MODEL_FOREIGN_H

#include <stddef.h>

struct foreign_kind {
    const char *what;   /* "a PyTorch checkpoint" */
    const char *advice; /* what to do about it; names tools/convert.py */
};

/* What a file that begins with data[0..size) is; NULL where that tells nothing, as for safetensors. */
const struct foreign_kind *effnet_foreign_kind(const void *data, size_t size);

#endif
