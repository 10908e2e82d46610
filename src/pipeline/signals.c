/* What the parts of a pipeline tell one another. */
#include "pipeline/pipeline.h"

void effnet_pipeline_wake_all(struct effnet_pipeline *p)
{
    pthread_cond_broadcast(&p->work_there);
    pthread_cond_broadcast(&p->large_done);
    pthread_cond_broadcast(&p->processor_free);
    pthread_cond_broadcast(&p->seat_free);
    pthread_cond_broadcast(&p->submitter_wanted);
    pthread_cond_broadcast(&p->pass_submitted);
    pthread_cond_broadcast(&p->result_ready);
    for (int i = 0; i < MOST_LANES; i++) pthread_cond_broadcast(&p->lanes[i].encoded.changed);
}

void effnet_pipeline_fail(struct effnet_pipeline *p, const struct effnet_error *failure)
{
    if (!p->failure.status) p->failure = *failure;
    p->stop = true;
    effnet_pipeline_wake_all(p);
}

void effnet_pipeline_finish(struct effnet_pipeline *p, struct record *record)
{
    record->result.status = record->error.status;
    record->state = RECORD_READY;
    p->stats.items++;
    p->stats.failed += record->result.status != EFFNET_OK;
    if (p->options.unordered) {
        record->next = NULL;
        *p->last_ready = record;
        p->last_ready = &record->next;
    }
    pthread_cond_signal(&p->result_ready);
}
