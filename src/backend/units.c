/* What a unit reads, from the layers that it covers. */
#include "backend/backend.h"

#include <assert.h>

int effnet_unit_input(const struct effnet_unit *unit, int index)
{
    for (int i = 0; i < unit->input_count; i++)
        if (unit->inputs[i] == index) return i;
    return -1;
}

struct effnet_unit effnet_unit_of(const effnet_model *model, int first, int last)
{
    struct effnet_unit unit = {.first = first, .last = last};
    for (int l = first; l <= last; l++) {
        const struct effnet_layer *layer = effnet_model_layer(model, l);
        for (int i = 0; i < layer->input_count; i++) {
            if (layer->inputs[i] >= first || effnet_unit_input(&unit, layer->inputs[i]) >= 0) continue;
            assert(unit.input_count < EFFNET_UNIT_INPUTS);
            unit.inputs[unit.input_count++] = layer->inputs[i];
        }
    }
    return unit;
}
