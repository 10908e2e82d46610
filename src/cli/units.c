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
    report_fact(report, VALUE_TEXT, "network", "network", "%s", info->network);
    report_fact(report, VALUE_TEXT, "model", "model", "%s", info->path);
}

void report_session_facts(struct report *report, const struct setup *setup, const effnet_session *session)
{
    const struct effnet_session_info *info = effnet_session_get_info(session);
    report_fact(report, VALUE_TEXT, "backend", "backend", "%s", info->backend);
    report_fact(report, VALUE_TEXT, "device", "device", "%s", info->device);
    report_fact(report, VALUE_TEXT, "precision", "precision", "%s", info->precision);
    report_fact(report, VALUE_NUMBER, "threads", "threads", "%d", info->threads);
    if (!strcmp(info->backend, "cuda"))
        report_fact(report, VALUE_TEXT, "plan", "plan", "%s", setup->plan ? setup->plan : "auto");
}
