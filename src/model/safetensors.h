/* A safetensors file, mapped read-only: eight bytes of header length, little-endian; the header, a JSON
 * object of tensor name -> {"dtype", "shape", "data_offsets"}; the tensors' data. float32, int32 and int8 are
 * taken. */
#ifndef EFFNET_MODEL_SAFETENSORS_H
#define EFFNET_MODEL_SAFETENSORS_H

#include "model/json.h"

#define SAFETENSORS_MAX_RANK 8

enum safetensors_type { SAFETENSORS_F32, SAFETENSORS_I32, SAFETENSORS_I8 };

struct safetensors_tensor {
    const char *name; /* in the header */
    enum safetensors_type type;
    int rank;
    int64_t shape[SAFETENSORS_MAX_RANK];
    uint64_t begin, end; /* bytes from the start of the data */
    bool taken;
};

struct safetensors {
    void *map;
    size_t size_bytes;
    cJSON *header;
    const cJSON *metadata; /* the object __metadata__, or NULL */
    const uint8_t *data;
    uint64_t data_bytes;
    struct safetensors_tensor *tensors; /* by name */
    int tensor_count;
};

/* Maps the file, parses its header and finds the metadata; a file of another kind is named. The mapping is
 * only as good as the file: whoever truncates it while it is open makes later reads fault. *file may be
 * closed whether this succeeds or not. */
int effnet_safetensors_open(struct safetensors *file, const char *path, struct json_context *context);
/* Reads and checks the tensors' names, types, shapes and offsets. */
int effnet_safetensors_read_tensors(struct safetensors *file, struct json_context *context);
void effnet_safetensors_close(struct safetensors *file); /* takes zeroed structs */

/* Finds a tensor of this type and shape, and checks that its values are finite. *out points into the mapping.
 */
int effnet_safetensors_take(struct safetensors *file, struct json_context *context, const char *name,
                            enum safetensors_type type, int rank, const int64_t *shape, const void **out);
/* Whether every tensor has been taken. */
int effnet_safetensors_finish(const struct safetensors *file, struct json_context *context);

#endif
