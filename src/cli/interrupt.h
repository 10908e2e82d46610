/* SIGINT and SIGTERM: what is done is to be written before the process ends. */
#ifndef EFFNET_CLI_INTERRUPT_H
#define EFFNET_CLI_INTERRUPT_H

#include <stdbool.h>

/* From now on the first of the two signals calls stop(context), from a thread of its own. Who called this has
 * three seconds then to reach interrupt_end; after that, or at a second signal, the process ends as without
 * this. Signals that the process ignores stay ignored. Call before other threads are started. False: there is
 * no such thread, and signals end the process at once. */
bool interrupt_begin(void (*stop)(void *context), void *context);
/* Whether a signal came. */
bool interrupt_came(void);
/* Signals are as they were before; one that came ends the process now. */
void interrupt_end(void);

#endif
