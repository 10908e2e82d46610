/* effnet: the command line. Finds the subcommand; each has a file of its own in cli/. */
#include "cli/cli.h"
#include "cli/text.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"classify", "name what images show: the most probable classes", cmd_classify},
    {"merge", "put together what the shards of classify have written", cmd_merge},
    {"evaluate", "say how often answers about labelled images are right", cmd_evaluate},
    {"info", "describe the network, its layers, and the devices", cmd_info},
    {"verify", "hold a device's results against the plain reference", cmd_verify},
    {"bench", "measure speed, after verifying", cmd_bench},
    {"tune", "measure how a GPU runs a network best, and keep it", cmd_tune},
    {"quantize", "make weights of 8-bit integers for the CPU", cmd_quantize},
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static const struct command *find_command(const char *name)
{
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (!strcmp(commands[i].name, name)) return &commands[i];
    return NULL;
}

static int print_help(void)
{
    printf("Usage: effnet COMMAND [options] ...\n"
           "       effnet help [COMMAND]\n"
           "       effnet --version\n\n"
           "Classifies images with EfficientNet-B1-class networks, on an NVIDIA GPU or on the CPU.\n\n"
           "Commands:\n");
    for (int i = 0; i < COMMAND_COUNT; i++) printf("  %-9s  %s\n", commands[i].name, commands[i].summary);
    printf("\nOptions:\n"
           "  -h, --help     print this and exit\n"
           "      --version  print the version and exit\n\n"
           "'effnet COMMAND --help' lists a command's options.\n\n"
           "Environment:\n"
           "  EFFNET_MODEL   weights file, or name of a network, where -m does not say it\n"
           "  EFFNET_CACHE   folder for what was measured on a GPU (default: ~/.cache/effnet)\n"
           "  EFFNET_CUDNN   cuDNN's library or its folder, where the loader does not find it\n"
           "  EFFNET_NVJPEG  nvJPEG's library, where the loader does not find it\n"
           "  NO_COLOR       if set and not empty: no colour\n\n"
           "Exit status:\n");
    cli_print_exit_statuses(stdout);
    return EFFNET_OK;
}

static int fail_command(const char *name)
{
    if (access(name, F_OK) == 0)
        return cli_fail(EFFNET_E_USAGE,
                        "%s is no command: 'effnet classify' takes images (see 'effnet --help')", name);
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (text_is_slip(name, commands[i].name))
            return cli_fail(EFFNET_E_USAGE, "unknown command '%s': did you mean %s?", name, commands[i].name);
    return cli_fail(EFFNET_E_USAGE, "unknown %s '%s' (see 'effnet --help')",
                    *name == '-' ? "option" : "command", name);
}

static int help(int argc, char **argv)
{
    if (argc < 2) return print_help();
    const struct command *command = find_command(argv[1]);
    if (!command) return fail_command(argv[1]);
    const bool linear = argc == 3 && strcmp(argv[1], "bench") == 0 && strcmp(argv[2], "linear") == 0;
    if (argc > 2 && !linear) return cli_fail(EFFNET_E_USAGE, "help takes one command (see 'effnet --help')");
    char *arguments[] = {argv[1], linear ? argv[2] : "--help", "--help", NULL};
    return command->run(linear ? 3 : 2, arguments);
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) return cli_fail(EFFNET_E_USAGE, "a command is missing (see 'effnet --help')");
    const char *name = argv[1];
    if (!strcmp(name, "--help") || !strcmp(name, "-h")) return print_help();
    if (!strcmp(name, "--version")) {
        printf("effnet %s\n", effnet_version());
        return EFFNET_OK;
    }
    if (!strcmp(name, "help")) return help(argc - 1, argv + 1);
    const struct command *command = find_command(name);
    return command ? command->run(argc - 1, argv + 1) : fail_command(name);
}

/* A standard stream that came in closed would be the number of the next file opened: an image or the
 * weights. It is taken by /dev/null, opened so that using the stream still fails. */
static void occupy_standard_streams(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) == -1) (void)open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
}

/* glibc gives threads heaps of their own, each of 64 MB of address space: too much where that is limited. */
static void share_heap(void)
{
#ifdef __GLIBC__
    struct rlimit limit;
    if (!getrlimit(RLIMIT_AS, &limit) && limit.rlim_cur != RLIM_INFINITY) mallopt(M_ARENA_MAX, 1);
#endif
}

int main(int argc, char **argv)
{
    occupy_standard_streams();
    share_heap();
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an output error like any other, */
    signal(SIGXFSZ, SIG_IGN); /* and so is a file that may not grow */
    int status = dispatch(argc, argv);
    if (status != EFFNET_E_OUTPUT) { /* reported already */
        int written = cli_flush_output();
        if (status == EFFNET_OK) status = written;
    }
    return cli_exit_status(status);
}
