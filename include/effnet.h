/* effnet: EfficientNet-B1-class image classifiers, from C.
 *
 *   file -> effnet_image_read -> effnet_image_fit -> effnet_session_run -> effnet_top_k
 *
 * Conventions, valid for every function below:
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
 *  - The library prints nothing. */
#ifndef EFFNET_H
#define EFFNET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EFFNET_VERSION "0.1.0"

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
};

#define EFFNET_MAX_PIXELS_DEFAULT 178956970 /* Pillow's decompression-bomb limit, 1 GiB / 4 / 1.5 */

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

/* How an image becomes the network's input. mean and std are in units of 0..255:
 * tensor = (pixel - mean[c]) / std[c]. */
struct effnet_preprocess {
    int short_side; /* the image is resized so that its shorter side has this many pixels */
    int crop;       /* then the central crop x crop square is taken */
    enum effnet_interpolation interpolation;
    float mean[3], std[3];
};

/* Resizes as Pillow does, byte for byte, and takes the central crop. `crop` receives
 * [p->crop][p->crop][3] bytes. Only what the crop needs is computed or allocated. */
int effnet_image_fit(const struct effnet_image *image, const struct effnet_preprocess *p, uint8_t *crop,
                     struct effnet_error *error);

/* ---------------------------------------------------------------- model */

enum effnet_op {
    EFFNET_OP_CONV,      /* dense k x k convolution */
    EFFNET_OP_DEPTHWISE, /* k x k, one filter a channel */
    EFFNET_OP_POINTWISE, /* 1 x 1 convolution, stride 1 */
    EFFNET_OP_POOL,      /* global average: H x W x C -> 1 x 1 x C */
    EFFNET_OP_LINEAR,    /* fully connected, on 1 x 1 x C */
};

enum effnet_activation {
    EFFNET_ACT_NONE,
    EFFNET_ACT_RELU,
    EFFNET_ACT_RELU6,
    EFFNET_ACT_SILU,
    EFFNET_ACT_GELU,      /* x * Phi(x), by erf */
    EFFNET_ACT_GELU_RELU, /* max(GELU(x), 0) */
};

/* One row of the layer table: y = act(op(x) + bias [+ output of layer `residual`]). The input of layer
 * i is the output of layer i-1 (of layer 0: the image tensor). Batch norm is folded into weight and bias.
 * Weights, float32 in the order of the framework: conv [out][in][kh][kw], depthwise [c][1][kh][kw],
 * pointwise [out][in][1][1], linear [out][in]; bias [out]. */
struct effnet_layer {
    char name[64]; /* as in the weights file: tensors `name`.weight and `name`.bias */
    enum effnet_op op;
    enum effnet_activation activation;
    int in_height, in_width, in_channels;
    int out_height, out_width, out_channels;
    int kernel, stride;                           /* 1 and 1 where they do not apply */
    int pad_top, pad_left, pad_bottom, pad_right; /* zeros around the input */
    int residual;                                 /* index of an earlier layer, or -1 */
    int block;                                    /* MBConv block it belongs to, or -1 */
    const float *weight, *bias;                   /* in the mapped file; NULL for pool */
    int64_t parameters, multiply_adds;            /* multiply_adds for one image */
};

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
};

typedef struct effnet_model effnet_model;

/* Maps a weights file (docs/weights-format.md) and checks all of it. The model owns every pointer that
 * the functions below return; they live until effnet_model_close. The file must not shrink before that:
 * reading past its new end would be a fault. */
int effnet_model_open(const char *path, effnet_model **out, struct effnet_error *error);
void effnet_model_close(effnet_model *model);
const struct effnet_model_info *effnet_model_get_info(const effnet_model *model);
/* index in [0, layer_count) */
const struct effnet_layer *effnet_model_layer(const effnet_model *model, int index);
/* class_index in [0, classes) */
struct effnet_label effnet_model_label(const effnet_model *model, int class_index);

/* Op, activation and interpolation names as in the weights file ("pointwise", "relu6", "bicubic"). */
const char *effnet_op_name(enum effnet_op op);
const char *effnet_activation_name(enum effnet_activation activation);

/* ---------------------------------------------------------------- sessions */

struct effnet_session_options {
    const char *device; /* "auto", "cpu", "reference", "cuda", "cuda:N"; NULL is auto */
    const char
        *precision;   /* "fp32", "bf16", "fp16"; NULL is the device's own: fp32 on the CPU, fp16 on a GPU */
    const char *plan; /* GPU: "auto" or "cudnn"; NULL is auto */
    int max_batch;    /* images a pass at most; 0 is 1 */
    int threads;      /* CPU; 0 is as many as the process may use: affinity, quotas of control groups */
    bool tune;        /* GPU: try every engine, also those that take long to build */
};

struct effnet_session_info {
    const char *backend;   /* "reference", "onednn", "cuda" */
    const char *device;    /* processor's name */
    const char *precision; /* "fp32" ... */
    const char *notice; /* one line, or "": why "auto" did not take the GPU, and which options of a GPU alone
                           went unused */
    int max_batch, threads;
    int64_t memory_bytes; /* activations, weights and workspaces that the session holds */
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

/* What runs as one step: the layers first..last of the table. A unit may leave the bias and activation
 * of its last layer to the next unit, which then applies them to its input as it is loaded. */
struct effnet_unit {
    int first, last;
    bool raw_input;     /* takes layer first-1 without bias and activation, and applies them */
    bool raw_output;    /* leaves the last layer's bias and activation out */
    const char *kernel; /* what runs, in words: "jit_1x1:avx2", "pointwise 64x64x32" */
    int64_t workspace_bytes;
    int64_t bytes_per_image; /* activations read and written through memory */
    int64_t weight_bytes;
};

int effnet_session_unit_count(const effnet_session *session);
const struct effnet_unit *effnet_session_unit(const effnet_session *session, int index);

/* Runs one unit alone, for verification. input [n][in_height][in_width][in_channels] of its first layer
 * (for layer 0 the normalised image tensor, which a unit that starts from pixels rounds back to 8 bits);
 * residual: the tensor that the residual of one of its layers names when that lies before the unit, else
 * NULL; output as of its last layer. n <= max_batch. */
int effnet_session_run_unit(effnet_session *session, int index, int n, const float *input,
                            const float *residual, float *output, struct effnet_error *error);

/* One timed pass over n <= max_batch images that are in place already: the compute alone, on the device's
 * own clock. (A pass on a GPU computes max_batch images, or that halved and halved again, rounded up, as long
 * as n fit.) cold: evict the last-level cache first. */
int effnet_session_time(effnet_session *session, int n, bool cold, double *elapsed_us,
                        struct effnet_error *error);
/* The same, unit by unit: unit_us[unit_count]. */
int effnet_session_profile(effnet_session *session, int n, bool cold, double *unit_us,
                           struct effnet_error *error);

/* The truth: one layer by plain loops with double accumulation, on any machine. input, residual and
 * output as in effnet_session_run_unit; raw leaves bias and activation out. */
int effnet_reference_layer(const effnet_model *model, int index, int n, const float *input,
                           const float *residual, bool raw, float *output, struct effnet_error *error);
/* pixels [n][crop][crop][3] -> the normalised tensor [n][crop][crop][3] */
void effnet_reference_normalise(const struct effnet_preprocess *p, int n, const uint8_t *pixels,
                                float *tensor);

/* Lists the devices of this machine, one call each: name as `--device` takes it, what it is, and the
 * backend and precisions that would run; available false comes with the reason in `detail`. */
struct effnet_device {
    const char *name, *description, *backend, *precisions, *detail;
    bool available;
};
void effnet_devices(void (*visit)(const struct effnet_device *, void *), void *context);

/* ---------------------------------------------------------------- one linear layer */

enum effnet_type { EFFNET_FP16, EFFNET_FP32 }; /* IEEE 754 binary16 and binary32 */

/* y[i][j] = act(scale[j] * sum_l x[i][l] * w[j][l] + shift[j]),  i < m, j < n, l < k
 *
 * A bias is shift with scale NULL. Batch norm after it folds into both: effnet_fold_batch_norm. Rows lie
 * ldx, ldw and ldy elements apart; columns at or past n of a row of y are left alone. The arrays belong to
 * the caller; y overlaps no other. Products and sums are at least fp32; erf is the exact one. A NaN or an
 * infinity in a row of x changes nothing in other rows; w, scale and shift are finite. */
struct effnet_linear_args {
    int64_t m, n, k;                         /* 1 .. 2^30 */
    const void *x;                           /* [m][k]; a fp32 x is rounded to fp16 on the GPU */
    const void *w;                           /* [n][k], as PyTorch's Linear.weight */
    const float *scale, *shift;              /* [n]; NULL: ones, zeros */
    void *y;                                 /* [m][n] */
    int64_t ldx, ldw, ldy;                   /* at least k, k, n, and below 2^32 */
    enum effnet_type x_type, w_type, y_type; /* w is fp16 on the GPU */
    enum effnet_activation activation;
};

enum effnet_memory { EFFNET_MEMORY_HOST, EFFNET_MEMORY_CUDA };

/* Computes it where the arrays are. Host: on the CPU, through oneDNN where the build has it, else by the
 * reference; done on return, on as many threads as the process may use; `stream` is NULL; may allocate fp32
 * copies of what is fp16. CUDA: every pointer
 * is memory of the current device; enqueued on `stream` (a cudaStream_t; NULL is the default stream) and not
 * waited for, so a fault shows in a later call; allocates nothing and may be captured into a graph. Fastest
 * where k, ldx and ldw are multiples of 8, n is of 4, ldy of 16 bytes, and the arrays are 16-byte aligned.
 * EFFNET_E_USAGE: a size or leading dimension out of range, a NULL, a pointer that is no multiple of its
 * element's size, fp32 w on the GPU. EFFNET_E_UNAVAILABLE: a build without CUDA, no GPU, or a
 * process forked from one that uses it. EFFNET_E_NOMEM, EFFNET_E_INTERNAL: as they say. */
int effnet_linear(const struct effnet_linear_args *args, enum effnet_memory memory, void *stream,
                  struct effnet_error *error);

/* Row `row` of y in double precision, before any rounding to y's type: y[n]. Host memory, plain loops. */
void effnet_linear_reference(const struct effnet_linear_args *args, int64_t row, double *y);

/* Batch norm (running mean and variance, gamma, beta, epsilon) after a linear layer with `bias` (NULL: none),
 * as the scale[n] and shift[n] of effnet_linear_args, worked out in double:
 * scale = gamma / sqrt(variance + epsilon), shift = beta + (bias - mean) * scale. */
void effnet_fold_batch_norm(int64_t n, const float *bias, const float *gamma, const float *beta,
                            const float *mean, const float *variance, double epsilon, float *scale,
                            float *shift);

/* One linear layer where it runs, with its own copies of the arrays, to be verified and timed. */
typedef struct effnet_linear_bench effnet_linear_bench;

struct effnet_linear_bench_info {
    const char *backend; /* "onednn", "reference", "cuda" */
    const char *device;  /* processor's name */
    const char *kernel;  /* what effnet_linear runs there for these arguments */
    int calls;           /* that one timing is the mean of */
};

/* args: x, w, scale and shift in host memory, which must stay until the bench is closed; y and ldy are not
 * used. device: "cpu", "cuda" or "cuda:N"; the calling thread's current device stays. cold: every call finds
 * its inputs outside the caches, else in them as far as they fit. calls: that one timing is to be the mean
 * of, or 0 for as many as fill about 10 ms, 200 at most; the CPU makes one. Fails as effnet_linear does, and
 * with EFFNET_E_UNAVAILABLE where there is no such device. */
int effnet_linear_bench_open(const struct effnet_linear_args *args, const char *device, bool cold, int calls,
                             effnet_linear_bench **out, struct effnet_error *error);
void effnet_linear_bench_close(effnet_linear_bench *bench);
const struct effnet_linear_bench_info *effnet_linear_bench_get_info(const effnet_linear_bench *bench);

/* Computes the layer once, over NaNs, and gives the rows rows[count] of y as floats: y[count][n]. */
int effnet_linear_bench_rows(effnet_linear_bench *bench, const int64_t *rows, int count, float *y,
                             struct effnet_error *error);
/* Microseconds of one call of effnet_linear: the mean of info->calls one after the other, on a GPU by its own
 * clock and without the host's part (a CUDA graph, right after the same one or, cold, after one that empties
 * the caches), on the CPU by the wall clock. */
int effnet_linear_bench_time(effnet_linear_bench *bench, double *elapsed_us, struct effnet_error *error);

/* ---------------------------------------------------------------- results */

struct effnet_class {
    int index;
    float logit, probability; /* softmax over all classes, in double */
};

/* The k most probable classes, best first, ties by lower index; top[k]. k is clipped to classes; returns
 * how many were written. */
int effnet_top_k(const float *logits, int classes, int k, struct effnet_class *top);

#ifdef __cplusplus
}
#endif
#endif
