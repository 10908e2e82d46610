/* CUDA graphs and their device time. */
#include "backend/cuda/cuda_internal.h"

int cuda_capture(cudaStream_t stream, cuda_enqueue *enqueue, void *context, int calls, cudaGraphExec_t *out,
                 struct effnet_error *error)
{
    cudaGraph_t graph = NULL;
    int status = EFFNET_OK;
    *out = NULL;
    CUDA_TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "graph capture");
    for (int i = 0; i < calls && status == EFFNET_OK; i++) status = enqueue(context, i, stream, error);
    const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
    cuda_forget_error(ended); /* a failed call ends the capture, too */
    cudaError_t made = cudaSuccess;
    if (status == EFFNET_OK && ended == cudaSuccess) made = cudaGraphInstantiate(out, graph, 0);
    if (made != cudaSuccess) *out = NULL;
    if (graph) cudaGraphDestroy(graph);
    EFFNET_TRY(status);
    CUDA_TRY(ended, "graph capture");
    CUDA_TRY(made, "graph instantiation");
    return EFFNET_OK;
}

int cuda_timer_open(cudaStream_t stream, const struct cudaDeviceProp *device, struct cuda_timer *timer,
                    struct effnet_error *error)
{
    /* Three times L2's size, so that no replacement policy keeps much. */
    *timer = (struct cuda_timer){.stream = stream, .flush_bytes = 3 * (size_t)device->l2CacheSize};
    CUDA_TRY(cudaEventCreate(&timer->start), "event");
    CUDA_TRY(cudaEventCreate(&timer->stop), "event");
    return EFFNET_OK;
}

void cuda_timer_close(struct cuda_timer *timer)
{
    if (timer->start) cudaEventDestroy(timer->start);
    if (timer->stop) cudaEventDestroy(timer->stop);
    cudaFree(timer->flush);
}

/* Overwrites L2 with other data. */
static int flush_cache(struct cuda_timer *timer, struct effnet_error *error)
{
    if (!timer->flush) CUDA_TRY(cudaMalloc(&timer->flush, timer->flush_bytes), "cache flush");
    CUDA_TRY(cudaMemsetAsync(timer->flush, 0, timer->flush_bytes, timer->stream), "cache flush");
    return EFFNET_OK;
}

int cuda_time_graph(struct cuda_timer *timer, cudaGraphExec_t graph, bool cold, double *elapsed_us,
                    struct effnet_error *error)
{
    float ms = 0;
    /* The flush, or the graph itself, runs ahead of the first event while the host enqueues the rest, so that
     * the host's own time does not lie between the events. */
    if (cold)
        EFFNET_TRY(flush_cache(timer, error));
    else
        CUDA_TRY(cudaGraphLaunch(graph, timer->stream), "timing");
    CUDA_TRY(cudaEventRecord(timer->start, timer->stream), "timing");
    CUDA_TRY(cudaGraphLaunch(graph, timer->stream), "timing");
    CUDA_TRY(cudaEventRecord(timer->stop, timer->stream), "timing");
    CUDA_TRY(cudaEventSynchronize(timer->stop), "timing");
    CUDA_TRY(cudaEventElapsedTime(&ms, timer->start, timer->stop), "timing");
    *elapsed_us = 1e3 * (double)ms;
    return EFFNET_OK;
}
