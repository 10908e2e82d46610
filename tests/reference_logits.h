/* What the reference's layers give for a whole network, one after the other. */
#ifndef EFFNET_TESTS_REFERENCE_LOGITS_H
#define EFFNET_TESTS_REFERENCE_LOGITS_H

#include "effnet_lab.h"

/* [n][classes] for pixels [n][crop][crop][3]; freed by the caller. Every layer's output is kept to the end.
 * Ends the program on a failure. */
float *reference_logits(const effnet_model *model, const uint8_t *pixels, int n);
/* The same of layer `kept`: [n] of its output. */
float *reference_layer_output(const effnet_model *model, const uint8_t *pixels, int n, int kept);

#endif
