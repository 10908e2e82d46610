/* A session's JPEG decoder. It writes crops into memory of its own, on a stream of its own, so that decoding
 * and the session's passes do not wait for one another; from there they are copied into a slot, which takes a
 * hundredth of the time that a pass does. */
#include "backend/cuda/cuda_internal.h"
#include "backend/cuda/decode.h"

static int most_images(const struct backend_state *state)
{
    const int batch = state->network.max_batch;
    return batch < BACKEND_DECODE_BATCH ? batch : BACKEND_DECODE_BATCH;
}

static size_t crop_bytes(const struct backend_state *state)
{
    return cuda_pixel_bytes(&state->network) / (size_t)state->network.max_batch;
}

/* Decoding comes before the network where both want the device: without it there is nothing to compute. */
static int open_parts(struct backend_state *state, struct effnet_error *error)
{
    struct cuda_jpegs *jpegs = &state->jpegs;
    const size_t bytes = (size_t)most_images(state) * crop_bytes(state);
    int lowest, highest;
    CUDA_TRY(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "stream");
    CUDA_TRY(cudaStreamCreateWithPriority(&jpegs->stream, cudaStreamNonBlocking, highest), "stream");
    for (int i = 0; i < 2; i++) {
        struct cuda_crops *crops = &jpegs->crops[i];
        CUDA_TRY(cudaEventCreateWithFlags(&crops->made, cudaEventDisableTiming), "event");
        CUDA_TRY(cudaEventCreateWithFlags(&crops->taken, cudaEventDisableTiming), "event");
        CUDA_TRY(cudaMalloc((void **)&crops->crops, bytes), "crops");
    }
    return cuda_decoder_open(most_images(state), &state->network.info->preprocess, &jpegs->decoder, error);
}

int cuda_open_decoder(struct backend_state *state, struct effnet_error *error)
{
    if (state->jpegs.decoder) return EFFNET_OK;
    const int status = open_parts(state, error);
    if (status) cuda_jpegs_close(&state->jpegs, false);
    return status;
}

void cuda_jpegs_close(struct cuda_jpegs *jpegs, bool abandoned)
{
    cuda_decoder_close(jpegs->decoder, abandoned);
    if (!abandoned) {
        if (jpegs->stream) cuda_forget_error(cudaStreamSynchronize(jpegs->stream));
        for (int i = 0; i < 2; i++) {
            if (jpegs->crops[i].made) cudaEventDestroy(jpegs->crops[i].made);
            if (jpegs->crops[i].taken) cudaEventDestroy(jpegs->crops[i].taken);
            cudaFree(jpegs->crops[i].crops);
        }
        if (jpegs->stream) cudaStreamDestroy(jpegs->stream);
    }
    *jpegs = (struct cuda_jpegs){0};
}

bool cuda_accepts(struct backend_state *state, const void *data, size_t size_bytes, struct backend_jpeg *jpeg)
{
    return cuda_decoder_accepts(state->jpegs.decoder, data, size_bytes, jpeg);
}

/* What these crops' memory held before is in its slot by the time that they are written. */
int cuda_decode(struct backend_state *state, const struct backend_jpeg *jpegs, int n,
                struct effnet_error *error)
{
    struct cuda_jpegs *own = &state->jpegs;
    struct cuda_crops *crops = &own->crops[own->last ^ 1];
    CUDA_TRY(cudaStreamWaitEvent(own->stream, crops->taken, 0), "decoding");
    EFFNET_TRY(cuda_decoder_run(own->decoder, jpegs, n, crops->crops, own->stream, error));
    CUDA_TRY(cudaEventRecord(crops->made, own->stream), "decoding");
    own->last ^= 1;
    return EFFNET_OK;
}

int cuda_take_crops(struct backend_state *state, struct cuda_slot *slot, int n, struct effnet_error *error)
{
    struct cuda_crops *crops = &state->jpegs.crops[state->jpegs.last];
    CUDA_TRY(cudaStreamWaitEvent(state->copy_stream, crops->made, 0), "pixels");
    CUDA_TRY(cudaMemcpyAsync(slot->pixels, crops->crops, (size_t)n * crop_bytes(state),
                             cudaMemcpyDeviceToDevice, state->copy_stream),
             "pixels");
    CUDA_TRY(cudaEventRecord(crops->taken, state->copy_stream), "pixels");
    return EFFNET_OK;
}
