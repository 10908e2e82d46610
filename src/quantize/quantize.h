/* Post-training quantisation: from a network of floats to one of integers (docs/weights-format.md), by what
 * its activations are on a few images. docs/quantize.md has the method. */
#ifndef EFFNET_QUANTIZE_QUANTIZE_H
#define EFFNET_QUANTIZE_QUANTIZE_H

#include "effnet_lab.h"

struct quantizer;

enum quantize_range { QUANTIZE_MIN_MAX, QUANTIZE_PERCENTILE, QUANTIZE_LEAST_SQUARES };

/* What became of one layer's output. */
struct quantize_output {
    float scale;
    int zero;
    int bits;                  /* 8, or 15 of a wide output */
    enum quantize_range range; /* how the range was found: whichever loses least */
    double clipped_percent;    /* of the values on the calibration images */
    float most_grown;          /* the largest factor that a channel was grown by for a neighbour to shrink */
};

/* How far the integer network is off, on some images. */
struct quantize_loss {
    double *layer_db; /* [layer_count]: of each layer's output, signal to noise, with what came before it */
    int same;         /* images whose most probable class stayed */
};

/* Opens the network's own session, on the CPU, of so many threads (0: as many as the process may use), as
 * quantizer_compare does the other's. The model must outlive the quantizer. EFFNET_E_UNAVAILABLE for
 * networks with what integers are not defined for, named. */
int quantizer_open(const effnet_model *model, int threads, struct quantizer **out,
                   struct effnet_error *error);
/* Takes NULL. */
void quantizer_close(struct quantizer *q);

/* Runs the network twice over n images [n][crop][crop][3], and finds all scales. progress, which may be NULL,
 * is told after each image how many of 2 n are done. */
int quantizer_calibrate(struct quantizer *q, const uint8_t *pixels, int n,
                        void (*progress)(void *context, int done, int total), void *context,
                        struct effnet_error *error);
struct quantize_output quantizer_output(const struct quantizer *q, int layer);

/* After calibrate: the integer network's weights file, which the caller frees. The same model and images give
 * the same bytes on the same kind of processor. */
int quantizer_write(const struct quantizer *q, void **bytes, size_t *size_bytes, struct effnet_error *error);

/* Runs both networks over n images. loss->layer_db[layer_count] is the caller's. `integer`: of what
 * quantizer_write gave. */
int quantizer_compare(struct quantizer *q, const effnet_model *integer, const uint8_t *pixels, int n,
                      struct quantize_loss *loss, struct effnet_error *error);

#endif
