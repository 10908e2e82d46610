/* Enums from the weights file's words; -1 where there is no such word. */
#ifndef EFFNET_MODEL_NAMES_H
#define EFFNET_MODEL_NAMES_H

#include "effnet_lab.h"

int effnet_op_from_name(const char *name);            /* enum effnet_op */
int effnet_activation_from_name(const char *name);    /* enum effnet_activation */
int effnet_interpolation_from_name(const char *name); /* enum effnet_interpolation */

#endif
