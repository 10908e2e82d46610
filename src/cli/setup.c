#include "cli/cli.h"
#include "common/cpu.h"
#include "effnet_lab.h"

#include <limits.h>
#include <string.h>
#include <unistd.h>

int setup_parse(const struct command_help *help, const struct option_spec *options, int count,
                struct setup *setup, bool *plan_given, int argc, char **argv)
{
    const struct option_spec common[] = {
        TEXT('m', "model", "FILE",
             "weights file, or the name of a network that make weights made\n(default: "
             "$EFFNET_MODEL, else " EFFNET_DEFAULT_NETWORK ")",
             &setup->model),
        TEXT(0, "device", "NAME",
             "auto, cpu, reference, cuda or cuda:N (default auto: the GPU where\n"
             "there is one, else the CPU); classify and bench: also cuda:all, cuda:0,2",
             &setup->device),
        CHOICE(0, "precision", "fp32|bf16|fp16|int8",
               "type that the network computes in\n(default: fp32 on the CPU, fp16 on a GPU; int8 where "
               "effnet quantize\nmade the weights)",
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

/* The folder of this program, or NULL where the system does not say. */
static const char *own_folder(char folder[PATH_MAX])
{
    const ssize_t length = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    if (length <= 0) return NULL;
    folder[length] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash) *slash = '\0';
    return slash ? folder : NULL;
}

int setup_open_model(const struct setup *setup, effnet_model **out)
{
    char folder[PATH_MAX], path[PATH_MAX];
    const char *own = own_folder(folder);
    struct effnet_error error;
    *out = NULL;
    if (effnet_model_find(setup->model, &own, own ? 1 : 0, path, &error) ||
        effnet_model_open(path, out, &error))
        return cli_fail_library(&error);
    return EFFNET_OK;
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

struct effnet_pipeline_options setup_pipeline_options(const struct setup *setup, const char *decode)
{
    struct effnet_pipeline_options options = effnet_pipeline_defaults();
    options.threads = setup_threads(setup);
    options.decode_gpu = !strcmp(decode, "gpu");
    return options;
}

int setup_threads(const struct setup *setup)
{
    return setup->threads ? (int)setup->threads : effnet_cpu_threads();
}
