/* Any words as arguments, for a table with an option of each kind: values within what the table allows, or a
 * refusal. Words end in NUL. */
#include "cli/cli.h"
#include "cli/text.h"
#include "fuzz.h"
#include "pipeline/shard.h"

#include <string.h>

enum { MOST_WORDS = 64 };

static struct {
    const char *text, *choice, *optional;
    int64_t integer;
    double real;
    struct integer_list list;
    uint8_t colour[3];
    bool flag, list_given, optional_given;
} o;

static bool is_one_of(const char *word, const char *a, const char *b, const char *c)
{
    return !word || !strcmp(word, a) || !strcmp(word, b) || !strcmp(word, c);
}

static void check_values(int first, int argc, char **argv)
{
    CHECK(first >= 1 && first <= argc);
    for (int i = first; i < argc; i++) CHECK(*argv[i]);
    CHECK(!o.text || *o.text);
    CHECK(is_one_of(o.choice, "text", "json", "csv") && is_one_of(o.optional, "auto", "cudnn", "cudnn"));
    CHECK(o.optional_given || !o.optional);
    CHECK(o.integer >= -3 && o.integer <= 4096 && o.real >= 0 && o.real <= 1);
    CHECK(o.list_given == (o.list.count > 0) && o.list.count <= INTEGER_LIST_MAX);
    for (int i = 0; i < o.list.count; i++) CHECK(o.list.values[i] >= 1 && o.list.values[i] <= 4096);
}

static int parse(int argc, char **argv)
{
    static const struct command_help help = {"fuzz", "[options] FILE...", "Details."};
    const struct option_spec options[] = {
        FLAG('f', "flag", "help", &o.flag),
        TEXT('t', "text", "FILE", "help", &o.text),
        CHOICE('c', "choice", "text|json|csv", "help", &o.choice),
        OPTION_SPEC(0, "plan", "auto|cudnn", "help", OPTION_CHOICE_OPTIONAL, const char *, &o.optional, 0, 0,
                    &o.optional_given),
        INTEGER('n', "number", "N", "help", &o.integer, -3, 4096),
        REAL(0, "real", "P", "help", &o.real, 0, 1),
        OPTION_SPEC('b', "batches", "N,...", "help", OPTION_INTEGER_LIST, struct integer_list, &o.list, 1,
                    4096, &o.list_given),
        OPTION_SPEC(0, "background", "COLOUR", "help", OPTION_COLOUR, uint8_t, o.colour, 0, 0, NULL),
    };
    const struct option_group group = {"Options", options, sizeof options / sizeof options[0]};
    return args_parse(&help, &group, 1, argc, argv);
}

static void check_shard(const char *word)
{
    struct shard shard;
    struct effnet_error error = {0};
    if (shard_parse(word, &shard, &error)) {
        CHECK(error.status == EFFNET_E_USAGE && !strchr(error.message, '\n'));
        return;
    }
    int64_t first, end;
    CHECK(shard.number >= 1 && shard.number <= shard.count);
    shard_range(&shard, 1000, &first, &end);
    CHECK(0 <= first && first <= end && end <= 1000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *words = malloc(size + 1), *argv[MOST_WORDS + 2] = {(char[]){"fuzz"}};
    int argc = 1;
    CHECK(words);
    if (size) memcpy(words, data, size);
    words[size] = '\0';
    for (size_t at = 0; at < size && argc <= MOST_WORDS; at += strlen(words + at) + 1)
        argv[argc++] = words + at;
    memset(&o, 0, sizeof o);
    for (int i = 1; i < argc; i++) {
        check_shard(argv[i]);
        CHECK(text_is_slip(argv[i], argv[argc - 1]) == text_is_slip(argv[argc - 1], argv[i]));
    }
    const int first = parse(argc, argv);
    CHECK(first >= 0 || first == EFFNET_E_USAGE);
    if (first > 0) check_values(first, argc, argv);
    free(words);
    return 0;
}
