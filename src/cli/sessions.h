/* The sessions that --device names: one, or with cuda:all and cuda:0,2 one for each GPU. */
#ifndef EFFNET_CLI_SESSIONS_H
#define EFFNET_CLI_SESSIONS_H

#include "cli/cli.h"

enum { SESSIONS_MAX = 64, DEVICE_NAME_SIZE = 96 };

struct sessions {
    int count;
    effnet_session *session[SESSIONS_MAX];
    char devices[SESSIONS_MAX][DEVICE_NAME_SIZE]; /* "cuda:2", as setup->device would have it */
    bool lost[SESSIONS_MAX];                      /* sessions_tell_lost has told */
};

/* Which devices --device means, count and devices of *sessions. Reports: EFFNET_E_USAGE. */
int sessions_find(const char *device, struct sessions *sessions);
/* The same, and opens a session on each, all at once. Reports the failure of one, and opens none then. */
int sessions_open(const struct setup *setup, const effnet_model *model, int max_batch,
                  struct sessions *sessions);
/* Has a line on standard error for each session of the pipeline that has failed since the last call, while
 * others go on. */
void sessions_tell_lost(struct sessions *sessions, effnet_pipeline *pipeline);
/* Takes a zeroed struct. */
void sessions_close(struct sessions *sessions);

#endif
