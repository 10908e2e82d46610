/* A session that stays open, for scripts that compare it with other runtimes (tools/compare_peers.py).
 *
 *   run_session MODEL DEVICE PRECISION THREADS MAX_BATCH PLAN   PRECISION "-" is the device's own
 *
 * First writes a line "backend device precision crop classes memory_bytes", separated by tabs, then obeys
 * lines on standard input:
 *
 *   pixels N       N crops [crop][crop][3] follow as raw bytes; answers "ok\n"
 *   logits         answers [N][classes] raw float32
 *   run COUNT      runs COUNT times, pixels in, logits out; answers a line of wall times in microseconds
 *   time COUNT     the same for the compute alone, on the device's own clock
 *
 * Ends with its input. The exit status is 0, or minus the effnet_status, with the message on standard
 * error. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "effnet_lab.h"

struct runner {
    const struct effnet_model_info *model;
    effnet_session *session;
    int max_batch, batch;
    uint8_t *pixels;
    float *logits;
};

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int usage(const char *what, struct effnet_error *error)
{
    snprintf(error->message, sizeof error->message, "run_session: %s", what);
    return EFFNET_E_USAGE;
}

static int set_pixels(struct runner *r, int batch, struct effnet_error *error)
{
    size_t crop_bytes = 3 * (size_t)r->model->preprocess.crop * (size_t)r->model->preprocess.crop;
    if (batch < 1 || batch > r->max_batch) return usage("pixels: wrong batch", error);
    if (fread(r->pixels, crop_bytes, (size_t)batch, stdin) != (size_t)batch)
        return usage("pixels: too few bytes", error);
    r->batch = batch;
    puts("ok");
    return EFFNET_OK;
}

static int write_logits(struct runner *r, struct effnet_error *error)
{
    size_t count = (size_t)r->batch * (size_t)r->model->classes;
    int status = effnet_session_run(r->session, r->pixels, r->batch, r->logits, error);
    if (!status) fwrite(r->logits, sizeof *r->logits, count, stdout);
    return status;
}

static int write_times(struct runner *r, int count, bool compute_alone, struct effnet_error *error)
{
    int status = EFFNET_OK;
    for (int i = 0; !status && i < count; i++) {
        double elapsed_us, start_us = now_us();
        if (compute_alone) {
            status = effnet_session_time(r->session, r->batch, false, &elapsed_us, error);
        } else {
            status = effnet_session_run(r->session, r->pixels, r->batch, r->logits, error);
            elapsed_us = now_us() - start_us;
        }
        if (!status) printf("%.3f%c", elapsed_us, i + 1 < count ? ' ' : '\n');
    }
    return status;
}

static int obey(struct runner *r, struct effnet_error *error)
{
    char line[64];
    int status = EFFNET_OK, number;
    while (!status && fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "pixels %d", &number) == 1)
            status = set_pixels(r, number, error);
        else if (r->batch == 0)
            status = usage("no pixels yet", error);
        else if (!strcmp(line, "logits\n"))
            status = write_logits(r, error);
        else if (sscanf(line, "run %d", &number) == 1)
            status = write_times(r, number, false, error);
        else if (sscanf(line, "time %d", &number) == 1)
            status = write_times(r, number, true, error);
        else
            status = usage("no such command", error);
        if (!status && fflush(stdout)) status = EFFNET_E_OUTPUT;
    }
    return status;
}

int main(int argc, char **argv)
{
    struct effnet_error error = {0};
    effnet_model *model = NULL;
    struct runner r = {0};
    int status = argc == 7 ? EFFNET_OK : usage("MODEL DEVICE PRECISION THREADS MAX_BATCH PLAN", &error);
    if (!status) status = effnet_model_open(argv[1], &model, &error);
    if (!status) {
        const struct effnet_session_options options = {.device = argv[2],
                                                       .precision = strcmp(argv[3], "-") ? argv[3] : NULL,
                                                       .threads = atoi(argv[4]),
                                                       .max_batch = atoi(argv[5]),
                                                       .plan = argv[6]};
        r.max_batch = options.max_batch;
        r.model = effnet_model_get_info(model);
        status = effnet_session_open(model, &options, &r.session, &error);
    }
    if (!status) {
        size_t crop = (size_t)r.model->preprocess.crop, batch = (size_t)r.max_batch;
        const struct effnet_session_info *info = effnet_session_get_info(r.session);
        r.pixels = malloc(batch * crop * crop * 3);
        r.logits = malloc(batch * (size_t)r.model->classes * sizeof *r.logits);
        if (!r.pixels || !r.logits) status = EFFNET_E_NOMEM;
        printf("%s\t%s\t%s\t%d\t%d\t%lld\n", info->backend, info->device, info->precision,
               r.model->preprocess.crop, r.model->classes, (long long)info->memory_bytes);
        fflush(stdout);
    }
    if (!status) status = obey(&r, &error);
    if (status) fprintf(stderr, "%s\n", *error.message ? error.message : effnet_status_text(status));
    effnet_session_close(r.session);
    effnet_model_close(model);
    free(r.pixels);
    free(r.logits);
    return -status;
}
