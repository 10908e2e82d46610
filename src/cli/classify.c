/* effnet classify: its options. */
#include "cli/classify.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define SHARD_WORD "{shard}"

enum { OUTPUTS = 2 + ARRAYS };

static const char *const output_options[OUTPUTS] = {"--output", "--cam", [2 + ARRAY_LOGITS] = "--logits",
                                                    [2 + ARRAY_EMBEDDINGS] = "--embeddings"};

/* The name of output `i`, or NULL: the results, what --cam draws, the arrays. */
static const char **output_at(struct classify_options *o, int i)
{
    return i == 0 ? &o->output : i == 1 ? &o->cam : &o->arrays[i - 2];
}

/* The name with "2-of-4", in five digits each so that they sort, in place of {shard}. The caller frees it. */
static char *name_with_shard(const char *name, const struct shard *shard)
{
    const char *word = strstr(name, SHARD_WORD);
    char *text;
    if (!word) return strdup(name);
    if (asprintf(&text, "%.*s%05lld-of-%05lld%s", (int)(word - name), name, (long long)shard->number,
                 (long long)shard->count, word + strlen(SHARD_WORD)) < 0)
        return NULL;
    return text;
}

/* Results below a folder that several processes go through are among its files, or not, by chance: then the
 * processes do not agree about who takes what. Drawings would even be taken for images. */
static int check_outside(const struct classify_options *o, const char *option, const char *output)
{
    char *place = output_place(output);
    int status = EFFNET_OK;
    for (int i = 0; place && !status && i < o->inputs.count; i++) {
        char *operand = realpath(o->inputs.operands[i], NULL);
        size_t length = operand && strcmp(operand, "/") != 0 ? strlen(operand) : 0;
        if (operand && !strncmp(place, operand, length) && (!place[length] || place[length] == '/'))
            status = cli_fail(EFFNET_E_USAGE, "classify: with %s, %s may not lie in the folder %s", option,
                              output, o->inputs.operands[i]);
        free(operand);
    }
    free(place);
    return status;
}

static int find_shard(struct classify_options *o)
{
    struct effnet_error error;
    const char *origin = NULL;
    char message[128];
    o->inputs.shard = (struct shard){1, 1};
    if (!o->shard) return EFFNET_OK;
    if (strcmp(o->shard, "auto") != 0)
        return shard_parse(o->shard, &o->inputs.shard, &error) ? cli_fail_library(&error) : EFFNET_OK;
    if (shard_from_environment(&o->inputs.shard, &origin, &error)) return cli_fail_library(&error);
    const struct shard *shard = &o->inputs.shard;
    if (origin)
        snprintf(message, sizeof message, "shard %lld/%lld, by %s's environment", (long long)shard->number,
                 (long long)shard->count, origin);
    else
        strcpy(message, "--shard auto: the environment has neither Slurm's nor MPI's tasks: all files");
    if (!o->setup.quiet) cli_notice(message);
    for (int i = 0; shard->count > 1 && i < OUTPUTS; i++) {
        const char *name = *output_at(o, i);
        if (name && !strstr(name, SHARD_WORD))
            return cli_fail(EFFNET_E_USAGE,
                            "classify: %s: all %lld processes would write it; " SHARD_WORD
                            " in the name stands for the shard",
                            name, (long long)shard->count);
    }
    return EFFNET_OK;
}

static int check_cam(struct classify_options *o)
{
    const struct walk_options *inputs = &o->inputs;
    if (o->arrays[ARRAY_EMBEDDINGS])
        return cli_fail(EFFNET_E_USAGE, "classify: --cam or --embeddings, not both");
    if (!strcmp(o->decode, "gpu"))
        return cli_fail(EFFNET_E_USAGE,
                        "classify: --cam draws over crops, which --decode gpu leaves on the GPU");
    if (!cam_is_folder(o->cam) && (inputs->count != 1 || inputs->recursive))
        return cli_fail(EFFNET_E_USAGE,
                        "classify: --cam %s: one file is for one image; for several, name a folder", o->cam);
    if (inputs->shard.count > 1 && !strstr(o->cam, SHARD_WORD))
        return cli_fail(EFFNET_E_USAGE,
                        "classify: --cam %s: other shards may draw there at the same time; " SHARD_WORD
                        " in the name stands for the shard",
                        o->cam);
    return inputs->recursive ? check_outside(o, "--cam", o->cam) : EFFNET_OK;
}

static int check_options(struct classify_options *o)
{
    const struct walk_options *inputs = &o->inputs;
    int standard_inputs = 0;
    for (int i = 0; i < inputs->count; i++) standard_inputs += !strcmp(inputs->operands[i], "-");
    if (!inputs->count && !inputs->list)
        return cli_fail(EFFNET_E_USAGE, "classify: name an image file (see 'effnet classify --help')");
    if (inputs->count && inputs->list)
        return cli_fail(EFFNET_E_USAGE, "classify: name files or --files-from, not both");
    if (inputs->null && !inputs->list)
        return cli_fail(EFFNET_E_USAGE, "classify: -0/--null is for --files-from");
    if (standard_inputs > 1) return cli_fail(EFFNET_E_USAGE, "classify: - can be named only once");
    if (o->resume && !o->output)
        return cli_fail(EFFNET_E_USAGE, "classify: --resume needs --output, whose results it goes on with");
    for (int i = 0; inputs->recursive && inputs->shard.count > 1 && i < OUTPUTS; i++)
        if (*output_at(o, i)) EFFNET_TRY(check_outside(o, "--shard", *output_at(o, i)));
    return o->cam ? check_cam(o) : EFFNET_OK;
}

static int check_names(struct classify_options *o)
{
    for (int i = 0; i < OUTPUTS; i++) {
        if (*output_at(o, i)) EFFNET_TRY(output_check_ending(*output_at(o, i)));
        for (int k = 0; k < i; k++)
            if (*output_at(o, i) && *output_at(o, k) && output_same_place(*output_at(o, i), *output_at(o, k)))
                return cli_fail(EFFNET_E_USAGE, "classify: %s and %s name the same file", output_options[k],
                                output_options[i]);
    }
    return EFFNET_OK;
}

static int classify(struct classify_options *o)
{
    EFFNET_TRY(find_shard(o));
    EFFNET_TRY(check_options(o));
    if (o->arrays[ARRAY_EMBEDDINGS]) o->setup.features = EFFNET_FEATURES_POOLED;
    if (o->cam) o->setup.features = EFFNET_FEATURES_MAP;
    char *names[OUTPUTS] = {NULL};
    int status = EFFNET_OK;
    for (int i = 0; i < OUTPUTS && !status; i++) {
        const char **name = output_at(o, i);
        if (!*name) continue;
        *name = names[i] = name_with_shard(*name, &o->inputs.shard);
        if (!names[i]) status = cli_fail_nomem("the outputs' names");
    }
    if (!status) status = check_names(o);
    if (!status) status = classify_run(o);
    for (int i = 0; i < OUTPUTS; i++) free(names[i]);
    return status;
}

int cmd_classify(int argc, char **argv)
{
    static const struct command_help help = {
        "classify",
        "[options] FILE...\n       effnet classify [options] -r FOLDER...\n"
        "       effnet classify [options] --files-from FILE",
        "Prints the most probable classes of each image, in the order of the files, with\n"
        "label, WordNet id and probability. Reads PNG, JPEG, BMP, GIF, TGA, PNM, WebP,\n"
        "TIFF and AVIF; - is standard input. A bad file gets a line on standard error, the\n"
        "others their answers, and the exit status is that of the first bad one. Of a\n"
        "multi-label network, where each class has a probability of its own: every class at\n"
        "or above --threshold, or with -k the N most probable, with both the N at most above\n"
        "it.",
    };
    struct classify_options o = {.top_k = 5,
                                 .threshold = 0.5,
                                 .format = "text",
                                 .scores = "probabilities",
                                 .decode = "cpu",
                                 .image = effnet_image_defaults()};
    const struct option_spec options[] = {
        FLAG('r', "recursive",
             "of a folder, all files below it, sorted by name; what is no image there\n"
             "is skipped and counted, names that begin with a dot are left out",
             &o.inputs.recursive),
        TEXT(0, "files-from", "FILE", "take names from FILE, one a line; - is standard input",
             &o.inputs.list),
        FLAG('0', "null", "the names in FILE end in NUL, as find -print0 writes them", &o.inputs.null),
        TEXT(0, "shard", "I/N",
             "take the I-th of N blocks of the files, from 1/N to N/N; auto: by the\n"
             "environment of Slurm and MPI. effnet merge puts the outputs together",
             &o.shard),
        OPTION_SPEC('k', "topk", "N", "classes an image; more than there are means all (default 5)",
                    OPTION_INTEGER, int64_t, &o.top_k, 1, INT_MAX, &o.top_k_given),
        OPTION_SPEC(0, "threshold", "P",
                    "multi-label networks: the least probability, from 0 to 1, of a class that\n"
                    "is printed (default 0.5)",
                    OPTION_REAL, double, &o.threshold, 0, 1, &o.threshold_given),
        CHOICE(0, "format", "text|json|csv",
               "text for people; json, one object a line; csv, with the columns\n"
               "filename,index_0,label_0,prob_0,... (default text)",
               &o.format),
        FLAG(0, "no-header", "csv without the line that names the columns", &o.no_header),
        CHOICE(0, "scores", "probabilities|logits", "which numbers are printed (default probabilities)",
               &o.scores),
        TEXT('o', "output", "FILE",
             "write results to FILE, which appears when it is whole; {shard} in its name\n"
             "stands for the shard",
             &o.output),
        TEXT(0, "logits", "FILE",
             "also write all logits, as a NumPy array (.npy) [files][classes]; a row of\n"
             "NaN for a file that fails",
             &o.arrays[ARRAY_LOGITS]),
        TEXT(0, "embeddings", "FILE",
             "also write the features behind the last pooling, which the classifier\n"
             "reads, the same way: [files][channels]",
             &o.arrays[ARRAY_EMBEDDINGS]),
        TEXT(0, "cam", "OUT",
             "draw where the image shows its first class, over the crop that the\n"
             "network takes (class activation map): one image to OUT.png, any number\n"
             "into the folder OUT",
             &o.cam),
        FLAG(0, "resume", "go on with the --output of a run that broke off", &o.resume),
        IMAGE_OPTIONS(&o.batch_size, &o.image),
        DECODE_OPTION(&o.decode),
        FLAG(0, "stats", "say on standard error where the time went, and which files were slowest", &o.stats),
    };
    int first = setup_parse(&help, options, sizeof options / sizeof options[0], &o.setup, NULL, argc, argv);
    if (first <= 0) return first;
    o.inputs.operands = argv + first;
    o.inputs.count = argc - first;
    return classify(&o);
}
