#include "pipeline/shard.h"

#include "common/error.h"
#include "common/utf8.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

enum { SHARDS_MAX = 1000000 };

/* Digits up to `end`, as a number. */
static bool read_number(const char *text, char end, int64_t *number, const char **after)
{
    char *stop;
    if (!isdigit((unsigned char)*text)) return false;
    errno = 0;
    *number = strtoll(text, &stop, 10);
    *after = stop + 1;
    return !errno && *stop == end;
}

int shard_parse(const char *text, struct shard *shard, struct effnet_error *error)
{
    const char *rest;
    if (read_number(text, '/', &shard->number, &rest) && read_number(rest, '\0', &shard->count, &rest) &&
        shard->number >= 1 && shard->number <= shard->count && shard->count <= SHARDS_MAX)
        return EFFNET_OK;
    return effnet_fail(error, EFFNET_E_USAGE,
                       "shard '%s': which of how many, from 1/N to N/N, N at most %d; or auto",
                       effnet_word(text).text, SHARDS_MAX);
}

/* A variable that holds a number. */
static int read_variable(const char *name, int64_t *value, struct effnet_error *error)
{
    const char *text = getenv(name), *rest;
    if (text && read_number(text, '\0', value, &rest) && *value <= SHARDS_MAX) return EFFNET_OK;
    return effnet_fail(error, EFFNET_E_USAGE, "%s is %s%s, but must be a number", name, text ? "" : "not set",
                       text ? effnet_word(text).text : "");
}

static bool is_set(const char *name)
{
    const char *text = getenv(name);
    return text && *text;
}

/* Of a task that srun has started. SLURM_PROCID and SLURM_NTASKS are set in a batch script, too. */
static int slurm_task(struct shard *shard, struct effnet_error *error)
{
    *shard = (struct shard){1, 1};
    if (!is_set("SLURM_PROCID")) return EFFNET_OK;
    const bool step = is_set("SLURM_STEP_NUM_TASKS");
    if (!step && !is_set("SLURM_NTASKS")) return EFFNET_OK;
    int64_t rank, count;
    EFFNET_TRY(read_variable("SLURM_PROCID", &rank, error));
    EFFNET_TRY(read_variable(step ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS", &count, error));
    if (!step && rank == 0 && count > 1)
        return effnet_fail(error, EFFNET_E_USAGE,
                           "Slurm speaks of %lld tasks, but this is its batch script and none of them "
                           "(SLURM_STEP_NUM_TASKS is not set): start them by srun, or name the shard",
                           (long long)count);
    *shard = (struct shard){rank + 1, count};
    return EFFNET_OK;
}

/* Of a job of an array, which may start several tasks. */
static int slurm_array(struct shard *shard, struct effnet_error *error)
{
    int64_t id, least, most, count, step = 1;
    EFFNET_TRY(read_variable("SLURM_ARRAY_TASK_ID", &id, error));
    EFFNET_TRY(read_variable("SLURM_ARRAY_TASK_MIN", &least, error));
    EFFNET_TRY(read_variable("SLURM_ARRAY_TASK_MAX", &most, error));
    EFFNET_TRY(read_variable("SLURM_ARRAY_TASK_COUNT", &count, error));
    if (count > 1 && most > least && (most - least) % (count - 1) == 0) step = (most - least) / (count - 1);
    if (most - least != step * (count - 1) || (id - least) % step || id < least || id > most)
        return effnet_fail(error, EFFNET_E_USAGE,
                           "the numbers of Slurm's array are not evenly spaced: name the shard");
    shard->number += (id - least) / step * shard->count;
    shard->count *= count;
    return EFFNET_OK;
}

int shard_from_environment(struct shard *shard, const char **origin, struct effnet_error *error)
{
    static const struct {
        const char *rank, *size, *name;
    } launchers[] = {
        {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "Open MPI"},
        {"MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MVAPICH2"},
        {"PMI_RANK", "PMI_SIZE", "MPI"},
    };
    *origin = NULL;
    *shard = (struct shard){1, 1};
    for (size_t i = 0; !*origin && i < sizeof launchers / sizeof launchers[0]; i++) {
        if (!is_set(launchers[i].rank)) continue;
        *origin = launchers[i].name;
        EFFNET_TRY(read_variable(launchers[i].rank, &shard->number, error));
        EFFNET_TRY(read_variable(launchers[i].size, &shard->count, error));
        shard->number++;
    }
    if (!*origin && is_set("SLURM_PROCID")) {
        EFFNET_TRY(slurm_task(shard, error));
        *origin = "Slurm";
    }
    if (is_set("SLURM_ARRAY_TASK_ID")) {
        EFFNET_TRY(slurm_array(shard, error));
        if (!*origin) *origin = "Slurm";
    }
    /* It numbers its jobs, but does not tell them how many there are: each would take all files. */
    if (shard->count == 1 && is_set("PARALLEL_SEQ"))
        return effnet_fail(error, EFFNET_E_USAGE,
                           "GNU parallel does not tell its jobs how many they are: name the shard, as in "
                           "'parallel effnet classify --shard {}/7 ... ::: {1..7}'");
    if (shard->number >= 1 && shard->number <= shard->count) return EFFNET_OK;
    return effnet_fail(error, EFFNET_E_USAGE, "%s says that this is task %lld of %lld, counted from 1",
                       *origin, (long long)shard->number, (long long)shard->count);
}

void shard_range(const struct shard *shard, int64_t total, int64_t *first, int64_t *end)
{
    int64_t each = total / shard->count, more = total % shard->count, before = shard->number - 1;
    *first = before * each + (before < more ? before : more);
    *end = *first + each + (before < more);
}
