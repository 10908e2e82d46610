#include "cli/units.h"

#include <string.h>

const char *unit_label(const effnet_model *model, const struct effnet_unit *unit, char label[UNIT_LABEL_SIZE])
{
    const char *first = effnet_model_layer(model, unit->first)->name;
    if (unit->first == unit->last)
        snprintf(label, UNIT_LABEL_SIZE, "%s", first);
    else
        snprintf(label, UNIT_LABEL_SIZE, "%s..%s", first, effnet_model_layer(model, unit->last)->name);
    return label;
}

int64_t unit_flops(const effnet_model *model, const struct effnet_unit *unit)
{
    int64_t multiply_adds = 0;
    for (int i = unit->first; i <= unit->last; i++)
        multiply_adds += effnet_model_layer(model, i)->multiply_adds;
    return 2 * multiply_adds;
}

void report_model_facts(struct report *report, const effnet_model *model)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    report_text(report, "network", "network", info->network);
    report_text(report, "model", "model", info->path);
}

void report_session_facts(struct report *report, const struct setup *setup, const effnet_session *session)
{
    const struct effnet_session_info *info = effnet_session_get_info(session);
    report_text(report, "backend", "backend", info->backend);
    report_text(report, "device", "device", info->device);
    report_text(report, "precision", "precision", info->precision);
    report_number(report, "threads", "threads", "%d", info->threads);
    if (!strcmp(info->backend, "cuda"))
        report_text(report, "plan", "plan", setup->plan ? setup->plan : "auto");
}
