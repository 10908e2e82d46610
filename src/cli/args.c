#include "cli/args.h"

#include "cli/cli.h"
#include "cli/text.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    OPTIONS_MAX = 48,
    LONG_ONLY = 256,  /* values of getopt_long for options without a letter start here */
    HELP_COLUMN = 29, /* where the descriptions begin */
};

static const struct option_spec help_option = {
    .letter = 'h', .name = "help", .help = "print this and exit", .kind = OPTION_FLAG};

/* All options of a command in one row, in the order of getopt_long's table. */
struct flat_table {
    const struct option_spec *specs[OPTIONS_MAX];
    struct option longs[OPTIONS_MAX + 1];
    char shorts[3 * OPTIONS_MAX + 2];
    int count;
};

static void flat_add(struct flat_table *flat, const struct option_spec *spec)
{
    int argument = spec->kind == OPTION_FLAG              ? no_argument
                   : spec->kind == OPTION_CHOICE_OPTIONAL ? optional_argument
                                                          : required_argument;
    flat->specs[flat->count] = spec;
    flat->longs[flat->count] = (struct option){spec->name, argument, NULL,
                                               spec->letter ? spec->letter : LONG_ONLY + flat->count};
    flat->count++;
    if (spec->letter) {
        size_t end = strlen(flat->shorts);
        flat->shorts[end] = spec->letter;
        strcpy(flat->shorts + end + 1, argument == required_argument   ? ":"
                                       : argument == optional_argument ? "::"
                                                                       : "");
    }
}

static void flat_fill(struct flat_table *flat, const struct option_group *groups, int group_count)
{
    *flat = (struct flat_table){.shorts = ":"}; /* a missing argument is told from an unknown option */
    for (int g = 0; g < group_count; g++)
        for (int i = 0; i < groups[g].count; i++) flat_add(flat, &groups[g].options[i]);
    flat_add(flat, &help_option);
}

static const struct option_spec *flat_find(const struct flat_table *flat, int value)
{
    for (int i = 0; i < flat->count; i++)
        if (flat->longs[i].val == value) return flat->specs[i];
    return NULL;
}

/* ---------------------------------------------------------------- help */

void args_print_indented(FILE *out, const char *text, int indent)
{
    for (const char *end; (end = strchr(text, '\n')); text = end + 1)
        fprintf(out, "%.*s\n%*s", (int)(end - text), text, indent, "");
    fprintf(out, "%s\n", text);
}

static void print_option(FILE *out, const struct option_spec *spec)
{
    int column = spec->letter ? fprintf(out, "  -%c, --%s", spec->letter, spec->name)
                              : fprintf(out, "      --%s", spec->name);
    if (spec->argument)
        column += fprintf(out, spec->kind == OPTION_CHOICE_OPTIONAL ? "[=%s]" : " %s", spec->argument);
    if (column > HELP_COLUMN - 2)
        fprintf(out, "\n%*s", HELP_COLUMN, "");
    else
        fprintf(out, "%*s", HELP_COLUMN - column, "");
    args_print_indented(out, spec->help, HELP_COLUMN);
}

static int print_help(const struct command_help *help, const struct option_group *groups, int group_count)
{
    printf("Usage: effnet %s %s\n\n%s\n", help->name, help->usage, help->details);
    for (int g = 0; g < group_count; g++) {
        printf("\n%s:\n", groups[g].title);
        for (int i = 0; i < groups[g].count; i++) print_option(stdout, &groups[g].options[i]);
        if (g == 0) print_option(stdout, &help_option);
    }
    printf("\nExit status:\n");
    cli_print_exit_statuses(stdout);
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- values */

/* What the option is called in messages. */
static const char *option_label(const struct option_spec *spec, char label[64])
{
    if (spec->letter)
        snprintf(label, 64, "-%c/--%s", spec->letter, spec->name);
    else
        snprintf(label, 64, "--%s", spec->name);
    return label;
}

/* What follows reads a value into its target; where it fails the command ends, and the target does not
 * matter. */

/* A decimal integer of digits alone, with at most a sign before them. *end is where it stops. */
static bool read_integer(const char *text, const struct option_spec *spec, int64_t *value, const char **end)
{
    if (!isdigit((unsigned char)text[*text == '-'])) return false;
    errno = 0;
    *value = strtoll(text, (char **)end, 10);
    return errno == 0 && (double)*value >= spec->minimum && (double)*value <= spec->maximum;
}

static bool read_integer_list(const char *text, const struct option_spec *spec, struct integer_list *list)
{
    for (list->count = 0; list->count < INTEGER_LIST_MAX; text++) {
        if (!read_integer(text, spec, &list->values[list->count++], &text)) return false;
        if (*text != ',') return *text == '\0';
    }
    return false;
}

static bool read_real(const char *text, const struct option_spec *spec, double *value)
{
    /* strtod also takes blanks, hexadecimal, "inf" and "nan": none of them belongs here */
    if (text[strspn(text, "0123456789.eE+-")] != '\0' || !(isdigit((unsigned char)text[0]) || text[0] == '.'))
        return false;
    char *stop;
    errno = 0;
    *value = strtod(text, &stop);
    return stop != text && !*stop && !errno && *value >= spec->minimum && *value <= spec->maximum;
}

/* CSS's sixteen basic names, and "grey". */
static const struct {
    const char *name;
    uint32_t rgb;
} colours[] = {
    {"black", 0x000000},   {"silver", 0xc0c0c0}, {"gray", 0x808080}, {"grey", 0x808080},
    {"white", 0xffffff},   {"maroon", 0x800000}, {"red", 0xff0000},  {"purple", 0x800080},
    {"fuchsia", 0xff00ff}, {"green", 0x008000},  {"lime", 0x00ff00}, {"olive", 0x808000},
    {"yellow", 0xffff00},  {"navy", 0x000080},   {"blue", 0x0000ff}, {"teal", 0x008080},
    {"aqua", 0x00ffff},
};

static bool read_hex(const char *digits, uint32_t *rgb)
{
    size_t length = strlen(digits);
    if ((length != 3 && length != 6) || digits[strspn(digits, "0123456789abcdefABCDEF")]) return false;
    *rgb = (uint32_t)strtoul(digits, NULL, 16);
    /* of three digits each counts twice */
    if (length == 3) *rgb = ((*rgb & 0xf00) << 8 | (*rgb & 0xf0) << 4 | (*rgb & 0xf)) * 0x11;
    return true;
}

static bool read_colour(const char *text, uint8_t colour[3])
{
    uint32_t rgb = 0;
    bool known = text[0] == '#' && read_hex(text + 1, &rgb);
    for (size_t i = 0; !known && i < sizeof colours / sizeof colours[0]; i++) {
        known = strcasecmp(text, colours[i].name) == 0;
        rgb = colours[i].rgb;
    }
    if (!known) return false;
    for (int i = 0; i < 3; i++) colour[i] = (uint8_t)(rgb >> (16 - 8 * i));
    return true;
}

/* Whether `word` is one of "a|b|c". */
static bool is_choice(const char *choices, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = choices; length; at++) {
        size_t size = strcspn(at, "|");
        if (size == length && !memcmp(at, word, length)) return true;
        at += size;
        if (!*at) break;
    }
    return false;
}

/* Puts the value where it belongs; false where the option takes none such. */
static bool store(const struct option_spec *spec, const char *text)
{
    const char *end = "";
    if (spec->given) *spec->given = true;
    switch (spec->kind) {
    case OPTION_FLAG: *(bool *)spec->target = true; return true;
    case OPTION_INTEGER: return read_integer(text, spec, spec->target, &end) && !*end;
    case OPTION_INTEGER_LIST: return read_integer_list(text, spec, spec->target);
    case OPTION_REAL: return read_real(text, spec, spec->target);
    case OPTION_COLOUR: return read_colour(text, spec->target);
    case OPTION_CHOICE_OPTIONAL:
        if (!text) return true;
        /* fall through */
    case OPTION_CHOICE:
    case OPTION_TEXT:
        if (spec->kind == OPTION_TEXT ? !*text : !is_choice(spec->argument, text)) return false;
        *(const char **)spec->target = text;
        return true;
    }
    return false;
}

static int fail_value(const struct command_help *help, const struct option_spec *spec, const char *text)
{
    char label[64], wanted[128] = "a name: it is empty";
    const double low = spec->minimum, high = spec->maximum;
    if (spec->kind == OPTION_INTEGER)
        snprintf(wanted, sizeof wanted, "a whole number from %.0f to %.0f", low, high);
    else if (spec->kind == OPTION_INTEGER_LIST)
        snprintf(wanted, sizeof wanted, "a list, with commas, of at most %d whole numbers from %.0f to %.0f",
                 INTEGER_LIST_MAX, low, high);
    else if (spec->kind == OPTION_REAL)
        snprintf(wanted, sizeof wanted, "a number from %g to %g", low, high);
    else if (spec->kind == OPTION_COLOUR)
        snprintf(wanted, sizeof wanted, "a colour: #rgb, #rrggbb, or a name such as white");
    else if (spec->kind != OPTION_TEXT)
        snprintf(wanted, sizeof wanted, "one of %s", spec->argument);
    return cli_fail(EFFNET_E_USAGE, "%s: '%s' is not %s (see 'effnet %s --help')", option_label(spec, label),
                    text, wanted, help->name);
}

/* ---------------------------------------------------------------- parsing */

/* What getopt_long answered with '?' or ':'. optopt is 0 for an unknown long option, the option's own value
 * where its argument is missing or unwanted, and else the unknown letter. */
static int fail_option(const struct command_help *help, const struct flat_table *flat, int answer,
                       const char *word)
{
    char label[64];
    const struct option_spec *spec = optopt ? flat_find(flat, optopt) : NULL;
    if (spec && answer == ':')
        return cli_fail(EFFNET_E_USAGE, "%s needs an argument, %s (see 'effnet %s --help')",
                        option_label(spec, label), spec->argument, help->name);
    if (spec)
        return cli_fail(EFFNET_E_USAGE, "%s takes no argument (see 'effnet %s --help')",
                        option_label(spec, label), help->name);
    if (optopt)
        return cli_fail(EFFNET_E_USAGE, "unknown option '-%c' (see 'effnet %s --help')", optopt, help->name);
    char name[32];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    for (int i = 0; i < flat->count; i++) {
        const char *known = flat->longs[i].name;
        if (!strncmp(known, name, strlen(name)))
            return cli_fail(EFFNET_E_USAGE, "ambiguous option '%s' (see 'effnet %s --help')", word,
                            help->name);
        if (text_is_slip(name, known))
            return cli_fail(EFFNET_E_USAGE, "unknown option '%s': did you mean --%s?", word, known);
    }
    return cli_fail(EFFNET_E_USAGE, "unknown option '%s' (see 'effnet %s --help')", word, help->name);
}

int args_parse(const struct command_help *help, const struct option_group *groups, int group_count, int argc,
               char **argv)
{
    struct flat_table flat;
    flat_fill(&flat, groups, group_count);
    opterr = 0;
    optind = 0; /* glibc: start anew */
    for (int answer; (answer = getopt_long(argc, argv, flat.shorts, flat.longs, NULL)) != -1;) {
        if (answer == '?' || answer == ':') return fail_option(help, &flat, answer, argv[optind - 1]);
        const struct option_spec *spec = flat_find(&flat, answer);
        if (spec == &help_option) return print_help(help, groups, group_count);
        const char *text = optarg;
        /* getopt takes an optional argument only after '='; the next word is meant where it is a choice */
        if (spec->kind == OPTION_CHOICE_OPTIONAL && !text && optind < argc &&
            is_choice(spec->argument, argv[optind]))
            text = argv[optind++];
        if (!store(spec, text)) return fail_value(help, spec, text);
    }
    for (int i = optind; i < argc; i++) /* as of a shell variable that is not set */
        if (!*argv[i])
            return cli_fail(EFFNET_E_USAGE, "%s: the name of a file is empty (see 'effnet %s --help')",
                            help->name, help->name);
    return optind;
}
