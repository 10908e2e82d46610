/* What a unit reads, from the layers that it covers. */
#include "backend/backend.h"

#include <assert.h>

int effnet_unit_input(const struct effnet_unit *unit, int index)
{
    for (int i = 0; i < unit->input_count; i++)
        if (unit->inputs[i] == index) return i;
    return -1;
}

void effnet_unit_find_inputs(const effnet_model *model, struct effnet_unit *unit)
{
    unit->input_count = 0;
    for (int l = unit->first; l <= unit->last; l++) {
        const struct effnet_layer *layer = effnet_model_layer(model, l);
        for (int i = 0; i < layer->input_count; i++) {
            if (layer->inputs[i] >= unit->first || effnet_unit_input(unit, layer->inputs[i]) >= 0) continue;
            assert(unit->input_count < EFFNET_UNIT_INPUTS);
            unit->inputs[unit->input_count++] = layer->inputs[i];
        }
    }
}
