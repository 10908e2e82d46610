/* JPEGs from memory to crops on the device, which never come back to the host: nvJPEG decodes them by the
 * GPU's JPEG engines, and kernels/resize makes the crops.
 *
 * Pixels are libjpeg's but for rounding here and there (docs/decoding_gpu.md has figures), the resize is
 * exact. What nvJPEG does not say is that a JPEG's codes are damaged or end early: it draws something. */
#ifndef EFFNET_BACKEND_CUDA_DECODE_H
#define EFFNET_BACKEND_CUDA_DECODE_H

#include "backend/backend.h"
#include "backend/cuda/device.h"

struct cuda_decoder;

/* For up to max_batch images at a time, on the current device; takes 0.3 to 0.7 s. EFFNET_E_UNAVAILABLE
 * without nvJPEG, or where the GPU has no JPEG engines. On failure *out is NULL. */
int cuda_decoder_open(int max_batch, const struct effnet_preprocess *preprocess, struct cuda_decoder **out,
                      struct effnet_error *error);
/* Waits for what is under way. Takes NULL. `abandoned`: CUDA must not be called any more. */
void cuda_decoder_close(struct cuda_decoder *decoder, bool abandoned);

/* Whether it can decode these bytes: fills *jpeg, which refers to them. From any thread, on the device; takes
 * a few microseconds. What it does not accept is for the CPU, which says what is wrong with it if anything
 * is. */
bool cuda_decoder_accepts(struct cuda_decoder *decoder, const void *data, size_t size_bytes,
                          struct backend_jpeg *jpeg);

/* Decodes n <= max_batch accepted JPEGs and puts onto `stream` what writes their crops,
 * crops[n][crop][crop][3] on the device. Waits for the decoding, not for `stream`; the bytes live until it
 * has come so far. Like anything else on `stream`, the crops are written after what was there before. One
 * call at a time. After a failure no crop counts, and each JPEG is for the CPU: EFFNET_E_NOMEM, or what
 * nvJPEG says. */
int cuda_decoder_run(struct cuda_decoder *decoder, const struct backend_jpeg *jpegs, int n, uint8_t *crops,
                     cudaStream_t stream, struct effnet_error *error);

#endif
