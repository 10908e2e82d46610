/* effnet: EfficientNet-B1-class image classifiers, from C.
 *
 *   file -> effnet_image_read -> effnet_image_fit -> effnet_session_run -> effnet_top_k
 *
 * Many files go through an effnet_pipeline, which does the first three in threads of its own.
 *
 * One linear layer alone is in effnet_linear.h. The inside of a network, for measuring and verifying, is in
 * effnet_lab.h.
 *
 * Conventions, valid for every function here and in those two:
 *  - A function that can fail returns EFFNET_OK (0) or a negative enum effnet_status, and takes a
 *    `struct effnet_error *` last. On failure it holds the same status and one line that names the
 *    file, tensor or layer and the reason, without a newline. It may be NULL.
 *  - Objects are opaque handles. An open function sets *out to NULL on failure; a close function takes
 *    NULL. Different handles may be used from different threads; one handle, from one thread at a time
 *    (an effnet_model is read-only once open, and may be shared).
 *  - The library's own threads block signals, save those of their own faults and SIGPROF. It changes neither
 *    handlers nor the caller's threads. A call on the CPU needs 128 KB of stack.
 *  - fork waits while another thread opens a session. A child (of fork, not of _Fork or clone) may close
 *    what it has from its parent, exit, use models and images, and open sessions of its own. To run a
 *    session of its parent's is EFFNET_E_USAGE. A child of a process that uses a GPU here gets none.
 *  - Tensors are NHWC, C fastest, without padding between rows.
 *  - The library prints nothing.
 *
 * What a later libeffnet.so of the same soname may change, so that programs keep working without a new build:
 *  - A struct of options begins from effnet_..._defaults(). Its tail is reserved, and not a size that the
 *    caller fills in, so that it never changes its size: it may be copied, returned and be part of another.
 *    A new option takes a reserved place, where zero means the default. A library that does not know the
 *    place refuses what is not zero, EFFNET_E_USAGE, rather than leave the option out.
 *  - A struct that the library hands out by a const pointer (effnet_session_info, ...) may grow at its end.
 *    Read its members; do not copy it as a whole.
 *  - Enumerations may grow at their ends. All other structs stay as they are. */
#ifndef EFFNET_H
#define EFFNET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__ /* what these headers declare is exported, and nothing else */
#pragma GCC visibility push(default)
#endif

#define EFFNET_VERSION "0.1.0"

/* EFFNET_VERSION of the library that runs, which may be newer than this header. */
const char *effnet_version(void);

/* ---------------------------------------------------------------- status and errors */

enum effnet_status {
    EFFNET_OK = 0,
    EFFNET_E_USAGE = -1,       /* an argument is wrong */
    EFFNET_E_DATA = -2,        /* an image or a weights file is broken or not supported */
    EFFNET_E_NOINPUT = -3,     /* a file does not exist or cannot be read */
    EFFNET_E_UNAVAILABLE = -4, /* no such device, or the library or precision is missing here */
    EFFNET_E_INTERNAL = -5,    /* a library call failed, or a check of our own */
    EFFNET_E_NOMEM = -6,       /* host or device memory is exhausted */
    EFFNET_E_OUTPUT = -7,      /* results cannot be written */
};

struct effnet_error {
    int status; /* enum effnet_status */
    char message[512];
};

/* A word or two for a status ("bad data"); never NULL. */
const char *effnet_status_text(int status);

/* ---------------------------------------------------------------- images */

/* Eight bits a channel, [height][width][3], rows from the top. Owned by whoever asked for it; release
 * with effnet_image_free. */
struct effnet_image {
    int width, height;
    uint8_t *rgb;
    /* All pixels have one colour, but the file's alpha, which was dropped, is not the same everywhere: what
     * the image shows is in its alpha alone, and wants a background. */
    bool blank_without_alpha;
};

struct effnet_image_options {
    int64_t
        max_pixels;   /* width * height allowed, 1 or more, checked first; bytes are limited in proportion */
    bool ignore_exif; /* ignore the orientation in EXIF and XMP data */
    bool has_background;   /* lay transparent pixels over `background`; else alpha is dropped */
    uint8_t background[3]; /* red, green, blue */
    uint64_t reserved[4];  /* 0 */
};

#define EFFNET_MAX_PIXELS_DEFAULT 178956970 /* Pillow's decompression-bomb limit, 1 GiB / 4 / 1.5 */

/* EFFNET_MAX_PIXELS_DEFAULT; EXIF is heeded; no background. */
struct effnet_image_options effnet_image_defaults(void);

/* Decodes PNG, JPEG, BMP, GIF, TGA or PNM, recognised by content (docs/images.md says what of each). Reads no
 * more of the file than its header admits. `path` "-" is standard input. `options` NULL means the defaults.
 * On success the caller owns *out. EFFNET_E_DATA: broken, of another format, or too large. EFFNET_E_NOINPUT:
 * it cannot be read. */
int effnet_image_read(const char *path, const struct effnet_image_options *options, struct effnet_image *out,
                      struct effnet_error *error);
/* The same from memory; `name` is used in messages only. */
int effnet_image_decode(const void *data, size_t size_bytes, const char *name,
                        const struct effnet_image_options *options, struct effnet_image *out,
                        struct effnet_error *error);
/* Frees the pixels and zeroes the struct; takes NULL and zeroed structs. */
void effnet_image_free(struct effnet_image *image);

enum effnet_interpolation { EFFNET_BICUBIC, EFFNET_BILINEAR };

enum effnet_resize {
    EFFNET_RESIZE_SHORT_SIDE, /* the shorter side becomes short_side, the other in proportion */
    EFFNET_RESIZE_SQUASH,     /* both sides become crop, whatever that does to the proportions */
};

/* How an image becomes the network's input. mean and std are in units of 0..255:
 * tensor = (pixel - mean[c]) / std[c]. */
struct effnet_preprocess {
    int short_side; /* the image is resized so that its shorter side has this many pixels; squashed: crop */
    int crop;       /* then the central crop x crop square is taken; squashed, that is all of it */
    enum effnet_interpolation interpolation;
    float mean[3], std[3];
    enum effnet_resize resize;
    uint32_t reserved[6]; /* 0; there are no defaults but a model's */
};

/* Resizes as Pillow does, byte for byte, and takes the central crop. `crop` receives
 * [p->crop][p->crop][3] bytes. Only what the crop needs is computed or allocated. */
int effnet_image_fit(const struct effnet_image *image, const struct effnet_preprocess *p, uint8_t *crop,
                     struct effnet_error *error);

/* ---------------------------------------------------------------- model */

struct effnet_label {
    const char *id;   /* WordNet id, or "" */
    const char *name; /* never NULL */
};

struct effnet_model_info {
    const char *path, *network; /* file it came from; "lite1" */
    const char *source_file, *source_sha256;
    int layer_count;
    int channels, height, width; /* of the image tensor */
    int classes;
    int64_t parameters, multiply_adds;
    struct effnet_preprocess preprocess;
    bool multi_label; /* the classes do not exclude one another: effnet_top_k_multi_label */
    /* Of the map that the last pooling averages; the linear layers at the end read its feature_channels
     * means.
     */
    int feature_channels, feature_height, feature_width;
    bool integer; /* of 8-bit weights and activations, as effnet quantize makes them: sessions are int8 */
};

typedef struct effnet_model effnet_model;

/* Maps a weights file (docs/weights-format.md) and checks all of it. The model owns every pointer that
 * the functions below return; they live until effnet_model_close. The file must not shrink before that:
 * reading past its new end would be a fault. */
int effnet_model_open(const char *path, effnet_model **out, struct effnet_error *error);
void effnet_model_close(effnet_model *model);
const struct effnet_model_info *effnet_model_get_info(const effnet_model *model);
/* class_index in [0, classes) */
struct effnet_label effnet_model_label(const effnet_model *model, int class_index);

/* ---------------------------------------------------------------- sessions */

/* What a session hands out beside the logits. For a map, a GPU may run other kernels, whose logits differ by
 * rounding. */
enum effnet_features {
    EFFNET_FEATURES_NONE,
    EFFNET_FEATURES_POOLED, /* [feature_channels]: an embedding of the image */
    EFFNET_FEATURES_MAP, /* [feature_height][feature_width][feature_channels]: for effnet_class_activation */
};

struct effnet_session_options {
    const char *device;    /* "auto", "cpu", "reference", "cuda", "cuda:N"; NULL is auto. One device: with
                              several, a session each, and effnet_pipeline_start_sessions */
    const char *precision; /* "fp32", "bf16", "fp16", "int8"; NULL is the device's own: fp32 on the CPU, fp16
                              on a GPU; of an integer network int8 */
    const char *plan;      /* GPU: "auto" or "cudnn"; NULL is auto */
    int max_batch;         /* images a pass at most; 0 is 1 */
    int threads;           /* CPU; 0 is as many as the process may use: affinity, quotas of control groups */
    enum effnet_features features;
    uint64_t reserved[7]; /* 0 */
};

/* Device "auto", its own precision, plan "auto", one image a pass, all threads, no features: zeros. */
struct effnet_session_options effnet_session_defaults(void);

struct effnet_session_info {
    const char *backend;   /* "reference", "onednn", "int8", "cuda" */
    const char *device;    /* processor's name */
    const char *precision; /* "fp32" ... "int8" */
    const char *notice; /* one line, or "": why "auto" did not take the GPU, and which options of a GPU alone
                           went unused */
    int max_batch, threads;
    int64_t memory_bytes; /* activations, weights and workspaces that the session holds */
    int feature_count;    /* numbers an image of the features that it hands out; 0: it hands out none */
};

typedef struct effnet_session effnet_session;

/* The session keeps a pointer to the model, which must outlive it. */
int effnet_session_open(const effnet_model *model, const struct effnet_session_options *options,
                        effnet_session **out, struct effnet_error *error);
void effnet_session_close(effnet_session *session);
const struct effnet_session_info *effnet_session_get_info(const effnet_session *session);

/* pixels [n][crop][crop][3] -> logits [n][classes]. Any n >= 1: more than max_batch images go in several
 * passes. Image i's logits do not depend on the other images, bit for bit. */
int effnet_session_run(effnet_session *session, const uint8_t *pixels, int n, float *logits,
                       struct effnet_error *error);

/* The same, and features [n][info->feature_count], as the device computed them, widened to float. They are as
 * independent of the other images. EFFNET_E_USAGE where the session hands out none. */
int effnet_session_run_features(effnet_session *session, const uint8_t *pixels, int n, float *logits,
                                float *features, struct effnet_error *error);

/* A stream of batches, with several under way at once. A session has a few *stages*: memory for a batch's
 * pixels, [max_batch][crop][crop][3], from which its device reads.
 *
 *   effnet_session_stage -> write crops into it, from any thread -> effnet_session_submit
 *   -> effnet_session_collect, oldest first
 *
 * One thread may call stage and submit while another one calls collect. A GPU computes a batch while the next
 * one's pixels travel; the CPU computes in collect. While a stage is handed out or submitted,
 * effnet_session_run and the calls of effnet_lab.h are EFFNET_E_USAGE. */

/* *pixels becomes a stage that is free, the caller's until it is submitted or given back; NULL where none is.
 * EFFNET_E_NOMEM. */
int effnet_session_stage(effnet_session *session, uint8_t **pixels, struct effnet_error *error);
/* Starts a pass over the first n images of a stage, 1 to max_batch, and does not wait for it. n = 0 gives the
 * stage back unused. */
int effnet_session_submit(effnet_session *session, uint8_t *pixels, int n, struct effnet_error *error);
/* Waits for the oldest pass, writes its logits [*n][classes], and its stage is free again. *n = 0: no pass is
 * under way. A pass that fails is over, too. */
int effnet_session_collect(effnet_session *session, float *logits, int *n, struct effnet_error *error);
/* The same, and features [*n][info->feature_count], as effnet_session_run_features. */
int effnet_session_collect_features(effnet_session *session, float *logits, float *features, int *n,
                                    struct effnet_error *error);

/* Lists the devices of this machine, one call each: name as `--device` takes it, what it is, and the
 * backend and precisions that would run; available false comes with the reason in `detail`. */
struct effnet_device {
    const char *name, *description, *backend, *precisions, *detail;
    bool available;
};
void effnet_devices(void (*visit)(const struct effnet_device *, void *), void *context);

/* ---------------------------------------------------------------- results */

struct effnet_class {
    int index;
    float logit, probability; /* in [0, 1], worked out in double */
};

/* The k most probable classes, best first, ties by lower index; top[k]. k is clipped to classes; returns
 * how many were written. Probabilities are the softmax over all classes: they add up to 1. */
int effnet_top_k(const float *logits, int classes, int k, struct effnet_class *top);
/* The same for a network with info->multi_label, whose images show any number of classes: each probability is
 * the sigmoid of the class's own logit. */
int effnet_top_k_multi_label(const float *logits, int classes, int k, struct effnet_class *top);

/* How much each place of an image speaks for a class, its class activation map (Zhou and others, 2016): from
 * the map [feature_height][feature_width][feature_channels] that a session hands out,
 * activation[feature_height][feature_width]. Its mean, plus the class's bias, is the logit.
 * EFFNET_E_UNAVAILABLE where the network's head is not one linear layer behind the pooling. With map and
 * activation NULL, that is all that is checked. */
int effnet_class_activation(const effnet_model *model, int class_index, const float *map, float *activation,
                            struct effnet_error *error);

/* ---------------------------------------------------------------- from files to logits */

/* What is to be classified. */
struct effnet_item {
    const char *name; /* a path, or "-" for standard input; with data, for messages only. It is copied */
    const void *data; /* the encoded image, alive until its result is taken; NULL: the file `name` is read */
    size_t size_bytes;
    void *tag; /* the caller's own, comes back with the result */
};

/* Gives the next item: 1. 0: there are no more. A negative status, with *error set: it cannot go on. Called
 * by one thread of the pipeline at a time, not always the same one; it may wait. */
typedef int effnet_source(void *context, struct effnet_item *item, struct effnet_error *error);

struct effnet_pipeline_options {
    struct effnet_image_options image;
    int threads;          /* that decode; 0 is as many as the process may use */
    bool unordered;       /* results as they come; else in the order of the items */
    bool decode_gpu;      /* the session's GPU decodes plain JPEGs, beside the threads */
    bool crops;           /* results have their crops; not with decode_gpu, whose crops stay on the GPU */
    int64_t early_bytes;  /* memory for crops that are made before start; each is copied once more then */
    uint64_t reserved[7]; /* 0 */
};

/* effnet_image_defaults, all threads, in order, no early crops. */
struct effnet_pipeline_options effnet_pipeline_defaults(void);

struct effnet_result {
    int64_t index;    /* of the item, from 0, as the source gave them */
    const char *name; /* the item's */
    void *tag;
    int status;                        /* EFFNET_OK, or why the item has no logits: */
    const struct effnet_error *error;  /* set where status is not EFFNET_OK */
    const float *logits;               /* [classes]; NULL where status is not EFFNET_OK */
    bool blank_without_alpha;          /* as in struct effnet_image */
    uint8_t first_pixel[3];            /* of the crop: the colour of all of it then; else it may be 0 */
    double read_us, decode_us, fit_us; /* the last two 0 where the GPU did it */
    const float *features; /* [feature_count] of the session; NULL where that is 0, or logits are NULL */
    const uint8_t *crop;   /* [crop][crop][3]; NULL where options.crops is false, or logits are NULL */
};

/* What was done so far. Times are summed over the threads, in microseconds. */
struct effnet_pipeline_stats {
    int64_t items, failed, passes;
    double read_us, decode_us, fit_us;
    double seat_wait_us;  /* decoded images waited for a place in a batch: the device binds */
    double device_us;     /* with a pass under way; not summed */
    int64_t decoded_gpu;  /* items; */
    double decode_gpu_us; /* the GPU's decoder at work for them; not summed */
    int threads;
};

/* decode_gpu needs a session on a GPU with JPEG engines (A100, A30, H100, H200, newer) and NVIDIA's nvJPEG,
 * and is EFFNET_E_UNAVAILABLE without: from effnet_pipeline_start, and from effnet_pipeline_next where the
 * engines are missing, which is found out late. Until the decoder is open, some tenths of a second after the
 * session, and for all that it does not take, the threads decode. Its crops differ by rounding here and
 * there, so that an image's logits differ a little with who decoded it, which is not the same from run to
 * run; and damage within a JPEG's codes, which the threads would refuse, it does not see. */
typedef struct effnet_pipeline effnet_pipeline;

/* Threads read, decode and fit items straight into a session's stages, passes run as these are filled, and
 * results are handed out. Memory does not grow with the number of items; an item that takes long to read, or
 * to decode, does not hold up the others until some hundreds of them wait for it to be handed out in order.
 *
 * open starts on the first items at once, while the session may still be opened: with early_bytes on as many
 * as their crops fit into, else on one for each thread. Images and files of some 100 MB wait for start: they
 * could take the memory that the session needs. start gives the session to the pipeline, which alone uses it
 * until the pipeline is closed. The model is the session's. `context` is the source's. */
int effnet_pipeline_open(const effnet_model *model, const struct effnet_pipeline_options *options,
                         effnet_source *source, void *context, effnet_pipeline **out,
                         struct effnet_error *error);
int effnet_pipeline_start(effnet_pipeline *pipeline, effnet_session *session, struct effnet_error *error);
/* The same with up to 64 sessions, one for each GPU say, of one model, batch and kind of features: each batch
 * goes to the one that has the least to do. A session that fails is left out, and its images go to the
 * others; the failure of the last one is the pipeline's. The array is the caller's again afterwards. */
int effnet_pipeline_start_sessions(effnet_pipeline *pipeline, effnet_session *const *sessions, int count,
                                   struct effnet_error *error);
/* EFFNET_OK while session `index` of those works, else how it has failed. */
int effnet_pipeline_session_status(effnet_pipeline *pipeline, int index, struct effnet_error *error);
/* Waits for the next result, which is valid until the next call; *result NULL: that was all. An item that
 * fails is a result, and no failure here; a source that fails or a device is, after the results before it
 * where there is an order. */
int effnet_pipeline_next(effnet_pipeline *pipeline, const struct effnet_result **result,
                         struct effnet_error *error);
/* From any thread: no further item is begun, and next says that that was all. */
void effnet_pipeline_cancel(effnet_pipeline *pipeline);
void effnet_pipeline_get_stats(effnet_pipeline *pipeline, struct effnet_pipeline_stats *stats);
/* Cancels and waits for the threads, each until the file that it reads or the source gives it up. Takes
 * NULL. */
void effnet_pipeline_close(effnet_pipeline *pipeline);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
