/* One of several processes that share out the inputs: each takes a block of them, so that their outputs one
 * after the other are those of one process. */
#ifndef EFFNET_PIPELINE_SHARD_H
#define EFFNET_PIPELINE_SHARD_H

#include "effnet.h"

struct shard {
    int64_t number, count; /* number from 1 to count; {1, 1}: all inputs */
};

/* "2/4": the second of four. EFFNET_E_USAGE. */
int shard_parse(const char *text, struct shard *shard, struct effnet_error *error);

/* What Open MPI, MVAPICH2, MPICH and Intel MPI, and Slurm say of this process in its environment. *origin:
 * who says so, NULL where nobody does, and then the shard is {1, 1}. The tasks of a Slurm array and those of
 * each of its jobs count together. EFFNET_E_USAGE: what they say makes no sense; this is not one of the
 * tasks but the script that starts them, which would leave most of the inputs out; or it is one of GNU
 * parallel's jobs, which are not told how many they are. */
int shard_from_environment(struct shard *shard, const char **origin, struct effnet_error *error);

/* Which of `total` inputs are the shard's: from *first, before *end. The sizes differ by one at most. */
void shard_range(const struct shard *shard, int64_t total, int64_t *first, int64_t *end);

#endif
