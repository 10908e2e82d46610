#include "cli/cli.h"
#include "common/cpu.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_NETWORK "lite1"
#define WEIGHTS_SUFFIX  ".safetensors"

/* Where `make weights` puts networks and `make install` copies them, from the folder of the executable:
 * build/effnet, build/san/effnet, PREFIX/bin/effnet. */
static const char *const weight_folders[] = {"../weights", "../../weights", "../share/effnet"};
enum { WEIGHT_FOLDERS = sizeof weight_folders / sizeof weight_folders[0] };

int setup_parse(const struct command_help *help, const struct option_spec *options, int count,
                struct setup *setup, bool *plan_given, int argc, char **argv)
{
    const struct option_spec common[] = {
        TEXT('m', "model", "FILE",
             "weights file, or the name of a network that make weights made\n(default: "
             "$EFFNET_MODEL, else " DEFAULT_NETWORK ")",
             &setup->model),
        TEXT(0, "device", "NAME",
             "auto, cpu, reference, cuda or cuda:N (default auto: the GPU where\n"
             "there is one, else the CPU)",
             &setup->device),
        CHOICE(0, "precision", "fp32|bf16|fp16",
               "type that the network computes in\n(default: fp32 on the CPU, fp16 on a GPU)",
               &setup->precision),
        INTEGER(0, "threads", "N", "threads on the CPU; 0 is as many as the process may use\n(default 0)",
                &setup->threads, 0, 4096),
        OPTION_SPEC(0, "plan", "auto|cudnn",
                    plan_given ? "print what runs for which layers; on a GPU, by this plan\n(default auto)"
                               : "GPU: which kernels; cudnn keeps the convolutions to cuDNN\n(default auto)",
                    plan_given ? OPTION_CHOICE_OPTIONAL : OPTION_CHOICE, const char *, &setup->plan, 0, 0,
                    plan_given),
        FLAG('q', "quiet", "no notices and no progress on standard error; errors stay", &setup->quiet),
    };
    const struct option_group groups[] = {{"Options", options, count},
                                          {"Model and device", common, sizeof common / sizeof common[0]}};
    return args_parse(help, groups, 2, argc, argv);
}

static bool find_network(const char *name, char path[PATH_MAX])
{
    char executable[PATH_MAX] = "", real[PATH_MAX];
    if (readlink("/proc/self/exe", executable, sizeof executable - 1) <= 0) return false;
    const char *slash = strrchr(executable, '/');
    for (int i = 0; slash && i < WEIGHT_FOLDERS; i++) {
        int length = snprintf(path, PATH_MAX, "%.*s/%s/%s" WEIGHTS_SUFFIX, (int)(slash - executable),
                              executable, weight_folders[i], name);
        if (length < 0 || length >= PATH_MAX || !realpath(path, real)) continue;
        strcpy(path, real);
        return true;
    }
    return false;
}

/* A word that could be a network's name: no folder, no suffix. */
static bool is_network_name(const char *word)
{
    size_t length = strlen(word), suffix = strlen(WEIGHTS_SUFFIX);
    return !strchr(word, '/') && !(length >= suffix && !strcmp(word + length - suffix, WEIGHTS_SUFFIX));
}

static int find_model(const struct setup *setup, char path[PATH_MAX])
{
    const char *environment = getenv("EFFNET_MODEL");
    const char *asked = setup->model ? setup->model : environment && *environment ? environment : NULL;
    if (!asked) {
        if (find_network(DEFAULT_NETWORK, path)) return EFFNET_OK;
        return cli_fail(
            EFFNET_E_NOINPUT,
            "no weights: there is no " DEFAULT_NETWORK WEIGHTS_SUFFIX
            " in weights or share/effnet beside the program's folder; run 'make weights', or name "
            "a file with -m or EFFNET_MODEL");
    }
    const char *origin = setup->model ? "" : "EFFNET_MODEL: ";
    if (strlen(asked) >= PATH_MAX)
        return cli_fail(EFFNET_E_NOINPUT, "%s%s: %s", origin, asked, strerror(ENAMETOOLONG));
    if (access(asked, F_OK) == 0 || !is_network_name(asked)) {
        strcpy(path, asked);
        if (access(asked, F_OK) == 0) return EFFNET_OK;
        return cli_fail(EFFNET_E_NOINPUT, "%s%s: %s; 'make weights' makes those of the known networks",
                        origin, asked, strerror(errno));
    }
    if (find_network(asked, path)) return EFFNET_OK;
    return cli_fail(EFFNET_E_NOINPUT,
                    "%s%s: no such file, and no network of that name in ../weights or ../share/effnet beside "
                    "the program; 'make weights NETWORKS=...' makes lite0, lite1, lite2 and b1-plain, "
                    "tools/convert.py others from a checkpoint",
                    origin, asked);
}

int setup_open_model(const struct setup *setup, effnet_model **out)
{
    char path[PATH_MAX];
    struct effnet_error error;
    *out = NULL;
    EFFNET_TRY(find_model(setup, path));
    return effnet_model_open(path, out, &error) ? cli_fail_library(&error) : EFFNET_OK;
}

struct effnet_session_options setup_session_options(const struct setup *setup, int max_batch)
{
    struct effnet_session_options options = effnet_session_defaults();
    options.device = setup->device;
    options.precision = setup->precision;
    options.plan = setup->plan;
    options.max_batch = max_batch;
    options.threads = (int)setup->threads;
    options.features = setup->features;
    return options;
}

int setup_open_session(const struct setup *setup, const effnet_model *model, int max_batch,
                       effnet_session **out)
{
    const struct effnet_session_options options = setup_session_options(setup, max_batch);
    struct effnet_error error;
    if (effnet_session_open(model, &options, out, &error)) return cli_fail_library(&error);
    const char *notice = effnet_session_get_info(*out)->notice;
    if (notice && *notice && !setup->quiet) cli_notice(notice);
    return EFFNET_OK;
}

int setup_threads(const struct setup *setup)
{
    return setup->threads ? (int)setup->threads : effnet_cpu_threads();
}
