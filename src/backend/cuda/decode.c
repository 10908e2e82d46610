#include "backend/cuda/decode.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/nvjpeg/library.h"
#include "backend/cuda/resize_axis.h"
#include "image/plain_jpeg.h"

enum {
    MOST_PIXELS = 64 << 20, /* of an image; sides are below 65536 in any JPEG */
    PART_BYTES = 256 << 20, /* of pixels that are decoded together: a batch of large images goes in parts */
    ALIGNMENT = 256,        /* of an image, and of its tables */
    GROWTH = 1 << 20,       /* memory grows to multiples of this */
    PARTS = 2,              /* one is decoded while the one before is resized */
    FITS = 128,             /* sizes whose tables are kept; a part has no more of them */
};

struct memory {
    uint8_t *data;
    size_t bytes;
};

/* What a part of a batch needs until it is resized. */
struct part {
    struct memory pixels, scratch, tables; /* on the device */
    struct memory host_tables;             /* pinned */
    cudaEvent_t done;
};

/* Tables of a size, and where they lie in the last part that had it. */
struct fit {
    int width, height; /* 0: none yet */
    struct image_fit fit;
    uint64_t part; /* its number, from 1; */
    size_t offset; /* in its tables */
};

/* The part that is being made. */
struct layout {
    int images;
    size_t pixel_bytes, table_bytes;
};

struct cuda_decoder {
    const struct nvjpeg_library *library;
    nvjpegHandle_t handle;
    nvjpegJpegState_t state;
    nvjpegJpegStream_t header; /* for accepts, */
    pthread_mutex_t header_lock;
    int max_batch, initialized; /* the batch that nvJPEG was last told of */
    struct effnet_preprocess preprocess;

    struct part parts[PARTS];
    uint64_t part_count; /* begun so far */
    struct fit fits[FITS];
    int next_fit;

    /* [max_batch], of the part that is being made */
    const unsigned char **data;
    size_t *sizes;
    size_t *offsets; /* in the part's pixels */
    struct fit **used;
    nvjpegImage_t *images;
    struct resize_args *resizes;
};

static size_t rounded(size_t bytes, size_t to)
{
    return (bytes + to - 1) / to * to;
}

/* Makes room for `bytes`; what was there is lost. Nobody uses it any more. */
static int grow(struct memory *memory, size_t bytes, bool pinned, struct effnet_error *error)
{
    if (bytes <= memory->bytes) return EFFNET_OK;
    bytes = rounded(bytes, GROWTH);
    if (pinned)
        cudaFreeHost(memory->data);
    else
        cudaFree(memory->data);
    *memory = (struct memory){0};
    CUDA_TRY(pinned ? cudaMallocHost((void **)&memory->data, bytes)
                    : cudaMalloc((void **)&memory->data, bytes),
             "decoding");
    memory->bytes = bytes;
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- opening */

static int open_library(struct cuda_decoder *decoder, struct effnet_error *error)
{
    const struct nvjpeg_library *library;
    EFFNET_TRY(nvjpeg_library_load(&library, error));
    decoder->library = library;
    nvjpegStatus_t status = library->create(NVJPEG_BACKEND_HARDWARE, NULL, NULL,
                                            NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION, &decoder->handle);
    if (status) decoder->handle = NULL;
    if (status == NVJPEG_STATUS_ARCH_MISMATCH)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "this GPU has no JPEG engines; A100, A30, H100, H200 and newer have");
    if (!status) status = library->state_create(decoder->handle, &decoder->state);
    if (!status) status = library->stream_create(decoder->handle, &decoder->header);
    return status ? nvjpeg_fail(status, "start", error) : EFFNET_OK;
}

static int open_memory(struct cuda_decoder *decoder, struct effnet_error *error)
{
    const size_t n = (size_t)decoder->max_batch;
    decoder->data = calloc(n, sizeof *decoder->data);
    decoder->sizes = calloc(n, sizeof *decoder->sizes);
    decoder->offsets = calloc(n, sizeof *decoder->offsets);
    decoder->used = calloc(n, sizeof *decoder->used);
    decoder->images = calloc(n, sizeof *decoder->images);
    decoder->resizes = calloc(n, sizeof *decoder->resizes);
    if (!decoder->data || !decoder->sizes || !decoder->offsets || !decoder->used || !decoder->images ||
        !decoder->resizes)
        return effnet_fail_nomem(error, "decoder", n * sizeof *decoder->resizes);
    for (int i = 0; i < PARTS; i++)
        CUDA_TRY(cudaEventCreateWithFlags(&decoder->parts[i].done, cudaEventDisableTiming), "event");
    return EFFNET_OK;
}

int cuda_decoder_open(int max_batch, const struct effnet_preprocess *preprocess, struct cuda_decoder **out,
                      struct effnet_error *error)
{
    *out = NULL;
    struct cuda_decoder *decoder = calloc(1, sizeof *decoder);
    if (!decoder) return effnet_fail_nomem(error, "decoder", sizeof *decoder);
    decoder->max_batch = max_batch;
    decoder->preprocess = *preprocess;
    pthread_mutex_init(&decoder->header_lock, NULL);
    int status = open_library(decoder, error);
    if (!status) status = open_memory(decoder, error);
    if (status)
        cuda_decoder_close(decoder, false);
    else
        *out = decoder;
    return status;
}

static void close_part(struct part *part)
{
    if (part->done) {
        cuda_forget_error(cudaEventSynchronize(part->done));
        cudaEventDestroy(part->done);
    }
    cudaFree(part->pixels.data);
    cudaFree(part->scratch.data);
    cudaFree(part->tables.data);
    cudaFreeHost(part->host_tables.data);
}

void cuda_decoder_close(struct cuda_decoder *decoder, bool abandoned)
{
    if (!decoder) return;
    if (!abandoned) {
        for (int i = 0; i < PARTS; i++) close_part(&decoder->parts[i]);
        if (decoder->header) decoder->library->stream_destroy(decoder->header);
        if (decoder->state) decoder->library->state_destroy(decoder->state);
        if (decoder->handle) decoder->library->destroy(decoder->handle);
    }
    for (int i = 0; i < FITS; i++) image_fit_free(&decoder->fits[i].fit);
    free(decoder->data);
    free(decoder->sizes);
    free(decoder->offsets);
    free(decoder->used);
    free(decoder->images);
    free(decoder->resizes);
    pthread_mutex_destroy(&decoder->header_lock);
    free(decoder);
}

bool cuda_decoder_accepts(struct cuda_decoder *decoder, const void *data, size_t size_bytes,
                          struct backend_jpeg *jpeg)
{
    const struct nvjpeg_library *library = decoder->library;
    int reason_against = 0;
    *jpeg = (struct backend_jpeg){.data = data, .size_bytes = size_bytes};
    if (!image_is_plain_jpeg(data, size_bytes, &jpeg->width, &jpeg->height)) return false;
    if ((int64_t)jpeg->width * jpeg->height > MOST_PIXELS) return false;
    /* What nvJPEG would refuse fails the whole batch. */
    pthread_mutex_lock(&decoder->header_lock);
    nvjpegStatus_t status = library->parse_header(decoder->handle, data, size_bytes, decoder->header);
    if (!status) status = library->batch_supported(decoder->handle, decoder->header, &reason_against);
    pthread_mutex_unlock(&decoder->header_lock);
    return !status && !reason_against;
}

/* ---------------------------------------------------------------- decoding */

/* The tables of a size, made where they are not known; *out NULL: all are used by the part that is being
 * made. */
static int find_fit(struct cuda_decoder *decoder, int width, int height, struct fit **out,
                    struct effnet_error *error)
{
    struct fit *unused = NULL;
    for (int i = 0; i < FITS; i++) {
        struct fit *fit = &decoder->fits[(decoder->next_fit + i) % FITS];
        *out = fit;
        if (fit->width == width && fit->height == height) return EFFNET_OK;
        if (!unused && fit->part != decoder->part_count) unused = fit;
    }
    *out = unused;
    if (!unused) return EFFNET_OK;
    decoder->next_fit = (int)(unused - decoder->fits + 1) % FITS;
    image_fit_free(&unused->fit);
    *unused = (struct fit){0};
    EFFNET_TRY(image_fit_make(width, height, &decoder->preprocess, &unused->fit, error));
    unused->width = width;
    unused->height = height;
    return EFFNET_OK;
}

/* Takes as many of the n JPEGs as go together, at least one, and finds their places. */
static int plan_part(struct cuda_decoder *decoder, const struct backend_jpeg *jpegs, int n,
                     struct layout *layout, struct effnet_error *error)
{
    *layout = (struct layout){0};
    decoder->part_count++;
    for (int i = 0; i < n; i++) {
        const size_t bytes = rounded(3 * (size_t)jpegs[i].width * (size_t)jpegs[i].height, ALIGNMENT);
        struct fit *fit;
        if (i > 0 && layout->pixel_bytes + bytes > PART_BYTES) break;
        EFFNET_TRY(find_fit(decoder, jpegs[i].width, jpegs[i].height, &fit, error));
        if (!fit) break;
        if (fit->part != decoder->part_count) {
            fit->part = decoder->part_count;
            fit->offset = layout->table_bytes;
            layout->table_bytes += rounded(fit->fit.table_bytes, ALIGNMENT);
        }
        decoder->images[i] = (nvjpegImage_t){.pitch = {3 * (size_t)jpegs[i].width}};
        decoder->offsets[i] = layout->pixel_bytes;
        decoder->used[i] = fit;
        decoder->data[i] = jpegs[i].data;
        decoder->sizes[i] = jpegs[i].size_bytes;
        layout->pixel_bytes += bytes;
        layout->images++;
    }
    return EFFNET_OK;
}

/* Memory for the part, tables in it, and what the resizes are given but for the crops. */
static int fill_part(struct cuda_decoder *decoder, struct part *part, const struct backend_jpeg *jpegs,
                     const struct layout *layout, struct effnet_error *error)
{
    size_t scratch = 0;
    EFFNET_TRY(grow(&part->pixels, layout->pixel_bytes, false, error));
    EFFNET_TRY(grow(&part->tables, layout->table_bytes, false, error));
    EFFNET_TRY(grow(&part->host_tables, layout->table_bytes, true, error));
    for (int i = 0; i < layout->images; i++) {
        const struct fit *fit = decoder->used[i];
        const int32_t *tables = (const int32_t *)(part->tables.data + fit->offset);
        uint8_t *pixels = part->pixels.data + decoder->offsets[i];
        memcpy(part->host_tables.data + fit->offset, fit->fit.tables, fit->fit.table_bytes);
        decoder->images[i].channel[0] = pixels;
        decoder->resizes[i] = (struct resize_args){
            .image = pixels,
            .width = jpegs[i].width,
            .height = jpegs[i].height,
            .across = axis_on_device(&fit->fit.across, fit->fit.tables, tables),
            .down = axis_on_device(&fit->fit.down, fit->fit.tables, tables),
            .columns_first = fit->fit.columns_first};
        const size_t bytes = resize_scratch_bytes(&decoder->resizes[i]);
        if (bytes > scratch) scratch = bytes;
    }
    return grow(&part->scratch, scratch, false, error);
}

/* nvJPEG's engines write when they are called, whatever `stream` has not done yet (unlike its documentation,
 * and seen from 12.3 to 13.2): pixels are free before, since nobody waits for them but the part's own event.
 */
static int decode_part(struct cuda_decoder *decoder, int images, cudaStream_t stream,
                       struct effnet_error *error)
{
    const struct nvjpeg_library *library = decoder->library;
    nvjpegStatus_t status = 0;
    if (decoder->initialized != images)
        status = library->batch_initialize(decoder->handle, decoder->state, images, 1, NVJPEG_OUTPUT_RGBI);
    decoder->initialized = status ? 0 : images;
    if (!status)
        status = library->batch_decode(decoder->handle, decoder->state, decoder->data, decoder->sizes,
                                       decoder->images, stream);
    if (!status) return EFFNET_OK;
    decoder->initialized = 0;
    return nvjpeg_fail(status, "decoding", error);
}

/* The resizes run one after the other, and so share the scratch. */
static int resize_part(struct cuda_decoder *decoder, struct part *part, const struct layout *layout,
                       uint8_t *crops, cudaStream_t stream, struct effnet_error *error)
{
    const size_t crop_bytes = 3 * (size_t)decoder->preprocess.crop * (size_t)decoder->preprocess.crop;
    CUDA_TRY(cudaMemcpyAsync(part->tables.data, part->host_tables.data, layout->table_bytes,
                             cudaMemcpyHostToDevice, stream),
             "resizing");
    for (int i = 0; i < layout->images; i++) {
        decoder->resizes[i].scratch = part->scratch.data;
        decoder->resizes[i].crop = crops + (size_t)i * crop_bytes;
        CUDA_TRY(resize_launch(&decoder->resizes[i], stream), "resizing");
    }
    return EFFNET_OK;
}

static int run_part(struct cuda_decoder *decoder, const struct backend_jpeg *jpegs, int n, uint8_t *crops,
                    cudaStream_t stream, int *done, struct effnet_error *error)
{
    struct layout layout;
    EFFNET_TRY(plan_part(decoder, jpegs, n, &layout, error));
    struct part *part = &decoder->parts[decoder->part_count % PARTS];
    CUDA_TRY(cudaEventSynchronize(part->done), "decoding");
    int status = fill_part(decoder, part, jpegs, &layout, error);
    if (!status) status = decode_part(decoder, layout.images, stream, error);
    if (!status) status = resize_part(decoder, part, &layout, crops, stream, error);
    CUDA_TRY(cudaEventRecord(part->done, stream), "decoding"); /* what was begun may use the memory */
    *done = layout.images;
    return status;
}

int cuda_decoder_run(struct cuda_decoder *decoder, const struct backend_jpeg *jpegs, int n, uint8_t *crops,
                     cudaStream_t stream, struct effnet_error *error)
{
    const size_t crop_bytes = 3 * (size_t)decoder->preprocess.crop * (size_t)decoder->preprocess.crop;
    for (int first = 0, done = 0; first < n; first += done)
        EFFNET_TRY(run_part(decoder, jpegs + first, n - first, crops + (size_t)first * crop_bytes, stream,
                            &done, error));
    return EFFNET_OK;
}
