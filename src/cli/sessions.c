#include "cli/sessions.h"

#include "common/thread.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- which devices */

static void add_gpu(const struct effnet_device *device, void *context)
{
    struct sessions *sessions = context;
    if (!device->available || strncmp(device->name, "cuda:", 5) != 0 || sessions->count == SESSIONS_MAX)
        return;
    snprintf(sessions->devices[sessions->count++], DEVICE_NAME_SIZE, "%s", device->name);
}

/* "cuda:00" is "cuda:0". */
static bool same_device(const char *a, const char *b)
{
    a += strlen("cuda:");
    b += strlen("cuda:");
    while (a[0] == '0' && a[1]) a++;
    while (b[0] == '0' && b[1]) b++;
    return !strcmp(a, b);
}

/* "0,2": each but the first stands behind a comma. What is no number fails as a device's name. */
static int add_numbers(const char *device, const char *numbers, struct sessions *sessions)
{
    for (const char *at = numbers; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        if (sessions->count == SESSIONS_MAX)
            return cli_fail(EFFNET_E_USAGE, "device \"%s\": more than %d GPUs", device, SESSIONS_MAX);
        char *name = sessions->devices[sessions->count++];
        snprintf(name, DEVICE_NAME_SIZE, "cuda:%.*s", (int)strcspn(at, ","), at);
        for (int i = 0; i < sessions->count - 1; i++)
            if (same_device(sessions->devices[i], name))
                return cli_fail(EFFNET_E_USAGE, "device \"%s\": %s is there twice", device, name);
    }
    return EFFNET_OK;
}

int sessions_find(const char *device, struct sessions *sessions)
{
    *sessions = (struct sessions){0};
    if (device && !strcmp(device, "cuda:all")) effnet_devices(add_gpu, sessions);
    if (sessions->count) return EFFNET_OK;
    if (device && !strncmp(device, "cuda:", 5) && strchr(device, ','))
        return add_numbers(device, device + strlen("cuda:"), sessions);
    sessions->count = 1;
    /* without a GPU cuda:all fails as cuda does, which says why there is none */
    if (device && !strcmp(device, "cuda:all")) device = "cuda";
    if (device && strlen(device) >= DEVICE_NAME_SIZE)
        return cli_fail(EFFNET_E_USAGE, "unknown device \"%s\": auto, cpu, reference, cuda or cuda:N",
                        device);
    strcpy(sessions->devices[0], device ? device : "auto");
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- opening */

struct opening {
    const effnet_model *model;
    struct effnet_session_options options;
    effnet_session **out;
    struct effnet_error error;
    pthread_t thread;
    bool threaded;
};

static void *open_one(void *argument)
{
    struct opening *opening = argument;
    opening->error.status = EFFNET_OK;
    effnet_session_open(opening->model, &opening->options, opening->out, &opening->error);
    return NULL;
}

int sessions_open(const struct setup *setup, const effnet_model *model, int max_batch,
                  struct sessions *sessions)
{
    EFFNET_TRY(sessions_find(setup->device, sessions));
    struct opening *opening = calloc((size_t)sessions->count, sizeof *opening);
    if (!opening) return cli_fail_nomem("sessions");
    for (int i = sessions->count - 1; i >= 0; i--) { /* the first on this thread */
        opening[i] = (struct opening){.model = model, .out = &sessions->session[i]};
        opening[i].options = setup_session_options(setup, max_batch);
        opening[i].options.device = sessions->devices[i];
        opening[i].threaded = i > 0 && !effnet_thread_start(&opening[i].thread, open_one, &opening[i]);
        if (!opening[i].threaded) open_one(&opening[i]);
    }
    int status = EFFNET_OK;
    for (int i = 0; i < sessions->count; i++) {
        if (opening[i].threaded) pthread_join(opening[i].thread, NULL);
        if (!status && opening[i].error.status) status = cli_fail_library(&opening[i].error);
    }
    free(opening);
    if (status) {
        sessions_close(sessions);
        return status;
    }
    const char *notice = effnet_session_get_info(sessions->session[0])->notice;
    if (notice && *notice && !setup->quiet) cli_notice(notice);
    return EFFNET_OK;
}

void sessions_tell_lost(struct sessions *sessions, effnet_pipeline *pipeline)
{
    if (sessions->count == 1) return; /* its failure is the pipeline's */
    for (int i = 0; i < sessions->count; i++) {
        struct effnet_error error;
        if (sessions->lost[i] || !effnet_pipeline_session_status(pipeline, i, &error)) continue;
        sessions->lost[i] = true;
        cli_fail(error.status, "%s has failed, and the other GPUs do its images: %s", sessions->devices[i],
                 error.message);
    }
}

void sessions_close(struct sessions *sessions)
{
    for (int i = 0; i < sessions->count; i++) effnet_session_close(sessions->session[i]);
    *sessions = (struct sessions){0};
}
