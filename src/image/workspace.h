/* From a file or a block of memory to the crop, in steps, in memory that one thread keeps from image to
 * image. An image that is not larger than those before it allocates nothing of size; what a large one took is
 * given back before the next ordinary one is decoded. */
#ifndef EFFNET_IMAGE_WORKSPACE_H
#define EFFNET_IMAGE_WORKSPACE_H

#include "effnet.h"

struct image_workspace;

/* NULL without memory. A workspace serves one thread at a time. */
struct image_workspace *image_workspace_open(void);
void image_workspace_close(struct image_workspace *workspace); /* takes NULL */

/* Each step returns a status and writes *error, and after a failure the workspace is as good as new.
 * `options` NULL means the defaults. */

/* As much of the file as its decoder may want; what was decoded before is gone. `path` "-" is standard input.
 */
int image_workspace_read(struct image_workspace *workspace, const char *path,
                         const struct effnet_image_options *options, struct effnet_error *error);

/* The bytes that were read last, until the next call; false: `path` may go on behind them. */
bool image_workspace_bytes(const struct image_workspace *workspace, const void **data, size_t *size_bytes);

/* `to` gets the file that `from` has read last, as if it had read it, and `from` the memory that `to` had for
 * files: so that one thread may read for another. */
void image_workspace_hand_over(struct image_workspace *from, struct image_workspace *to);

/* Frees what a large file took, whose bytes are gone then. Decoding such a file does so, too. */
void image_workspace_forget_file(struct image_workspace *workspace);

/* What image_workspace_decode asks before it takes memory for a large image, once or several times. It may
 * wait; false makes decoding fail. */
struct image_gate {
    bool (*pass)(void *context);
    void *context;
};

/* For the images that follow; NULL, as at first: none. The gate is the caller's. */
void image_workspace_set_gate(struct image_workspace *workspace, const struct image_gate *gate);

/* The pixels of `data`, size_bytes long and called `name` in messages; with `data` NULL, of the file that was
 * read last (`size_bytes` and `name` do not count then). At least those that image_workspace_fit needs with
 * the same `preprocess`; with NULL, all. `data` need not live longer than the call. */
int image_workspace_decode(struct image_workspace *workspace, const void *data, size_t size_bytes,
                           const char *name, const struct effnet_image_options *options,
                           const struct effnet_preprocess *preprocess, struct effnet_error *error);

/* The crop of the image that was decoded last, [preprocess->crop][preprocess->crop][3]: the bytes of
 * effnet_image_fit. */
int image_workspace_fit(struct image_workspace *workspace, const struct effnet_preprocess *preprocess,
                        uint8_t *crop, struct effnet_error *error);

/* What was decoded last; zeros where that failed. */
struct image_decoded {
    int width, height;        /* of the whole image, upright */
    bool blank_without_alpha; /* as in struct effnet_image */
};
struct image_decoded image_workspace_decoded(const struct image_workspace *workspace);

#endif
