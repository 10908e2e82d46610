/* The command line: each subcommand declares its options in tables, from which both the parser and --help
 * work. Parsing is getopt_long's. */
#ifndef EFFNET_CLI_ARGS_H
#define EFFNET_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum option_kind {
    OPTION_FLAG,            /* bool *: true when given */
    OPTION_TEXT,            /* const char **: as given, not empty */
    OPTION_CHOICE,          /* const char **: one of the words in `argument`, "text|json|csv" */
    OPTION_CHOICE_OPTIONAL, /* the same; the argument may be missing. `given` tells that it was used */
    OPTION_INTEGER,         /* int64_t *: in [minimum, maximum] */
    OPTION_REAL,            /* double *: in [minimum, maximum] */
    OPTION_INTEGER_LIST,    /* struct integer_list *: 1,8,32; each in [minimum, maximum] */
    OPTION_COLOUR,          /* uint8_t (*)[3], red, green, blue: #rgb, #rrggbb or one of CSS's basic names */
};

enum { INTEGER_LIST_MAX = 64 };
struct integer_list {
    int count;
    int64_t values[INTEGER_LIST_MAX];
};

struct option_spec {
    char letter;          /* 0: none */
    const char *name;     /* the long option's, without dashes */
    const char *argument; /* its name in --help, or the choices; NULL for a flag */
    const char *help;     /* lines separated by \n */
    enum option_kind kind;
    void *target; /* keeps its value, the default, where the option is not given */
    double minimum, maximum;
    bool *given; /* may be NULL */
};

/* An option of each kind. `type` is what target points to. */
#define OPTION_SPEC(letter, name, argument, help, kind, type, target, minimum, maximum, given)               \
    ((struct option_spec){letter, name, argument, help, kind, (type *){target}, minimum, maximum, given})
#define FLAG(letter, name, help, target)                                                                     \
    OPTION_SPEC(letter, name, NULL, help, OPTION_FLAG, bool, target, 0, 0, NULL)
#define TEXT(letter, name, argument, help, target)                                                           \
    OPTION_SPEC(letter, name, argument, help, OPTION_TEXT, const char *, target, 0, 0, NULL)
#define CHOICE(letter, name, words, help, target)                                                            \
    OPTION_SPEC(letter, name, words, help, OPTION_CHOICE, const char *, target, 0, 0, NULL)
#define INTEGER(letter, name, argument, help, target, minimum, maximum)                                      \
    OPTION_SPEC(letter, name, argument, help, OPTION_INTEGER, int64_t, target, minimum, maximum, NULL)
#define REAL(letter, name, argument, help, target, minimum, maximum)                                         \
    OPTION_SPEC(letter, name, argument, help, OPTION_REAL, double, target, minimum, maximum, NULL)

struct option_group {
    const char *title;
    const struct option_spec *options;
    int count;
};

struct command_help {
    const char *name;
    const char *usage;   /* what follows the name: "[options] FILE..." */
    const char *details; /* paragraphs before the options */
};

/* Parses argv[1..]. Returns where the operands begin, argv[first..argc) with first > 0; EFFNET_OK when --help
 * was asked for and printed, or EFFNET_E_USAGE, reported. Strings stay argv's. */
int args_parse(const struct command_help *help, const struct option_group *groups, int group_count, int argc,
               char **argv);

/* Prints `text` with `indent` spaces before each line but the first. */
void args_print_indented(FILE *out, const char *text, int indent);

#endif
