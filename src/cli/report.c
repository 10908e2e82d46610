#include "cli/report.h"

#include "cli/cli.h"
#include "cli/text.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct cell {
    char *text;
    enum value_kind kind;
};

struct fact {
    const char *key, *heading;
    struct cell value;
};

struct table {
    const char *key, *title;
    const struct column *columns;
    int column_count;
    struct cell *cells; /* row by row */
    size_t count, capacity;
};

/* A format is told of facts and whole tables, in order; NULL: that is not for it. */
struct report_format {
    const char *name;
    void (*fact)(struct report *, const struct fact *);
    void (*table)(struct report *, const struct table *);
    void (*note)(struct report *, const char *);
    void (*end)(struct report *);
};

enum { FACTS_MAX = 48 };

struct report {
    const struct report_format *format;
    FILE *out;
    struct style style;
    struct fact facts[FACTS_MAX];
    int fact_count;
    struct table table; /* the one being filled; none while columns is NULL */
    bool sections;      /* something was printed already: a blank line comes next */
    bool no_memory;
    cJSON *root; /* JSON's; where memory is short it is NULL, and whatever is added fails */
};

static size_t row_count(const struct table *table)
{
    return table->count / (size_t)table->column_count;
}

static const struct cell *cell_at(const struct table *table, size_t row, int column)
{
    return &table->cells[row * (size_t)table->column_count + (size_t)column];
}

/* What people read for a cell. */
static const char *cell_words(const struct cell *cell)
{
    if (cell->kind != VALUE_BOOL) return cell->text;
    return strcmp(cell->text, "true") ? "no" : "yes";
}

static void begin_section(struct report *report)
{
    if (report->sections) fputc('\n', report->out);
    report->sections = true;
}

/* ---------------------------------------------------------------- text */

static void text_fact(struct report *report, const struct fact *fact)
{
    report->sections = true;
    fprintf(report->out, "%-16s  ", fact->heading);
    text_write_printable(report->out, cell_words(&fact->value));
    fputc('\n', report->out);
}

/* Writes text in `width` columns, or as many as it takes. */
static void write_padded(FILE *out, const char *text, int width, bool right, bool last)
{
    int padding = width - text_write_printable(NULL, text);
    if (right && padding > 0) fprintf(out, "%*s", padding, "");
    text_write_printable(out, text);
    if (!right && !last && padding > 0) fprintf(out, "%*s", padding, "");
    fputs(last ? "\n" : "  ", out);
}

static void text_table(struct report *report, const struct table *table)
{
    size_t rows = row_count(table);
    int *widths = calloc((size_t)table->column_count, sizeof *widths);
    if (!widths) {
        report->no_memory = true;
        return;
    }
    for (int c = 0; c < table->column_count; c++) {
        widths[c] = text_write_printable(NULL, table->columns[c].heading);
        for (size_t r = 0; r < rows; r++) {
            int width = text_write_printable(NULL, cell_words(cell_at(table, r, c)));
            if (width > widths[c]) widths[c] = width;
        }
    }
    begin_section(report);
    fprintf(report->out, "%s%s%s\n", report->style.bold, table->title, report->style.reset);
    for (int c = 0; c < table->column_count; c++)
        write_padded(report->out, table->columns[c].heading, widths[c],
                     table->columns[c].kind == VALUE_NUMBER, c + 1 == table->column_count);
    for (size_t r = 0; r < rows; r++) {
        int last = table->column_count - 1; /* empty cells at the end need no padding before them */
        while (last > 0 && !*cell_words(cell_at(table, r, last))) last--;
        for (int c = 0; c <= last; c++) {
            const struct cell *cell = cell_at(table, r, c);
            write_padded(report->out, cell_words(cell), widths[c], cell->kind == VALUE_NUMBER, c == last);
        }
    }
    free(widths);
}

static void text_note(struct report *report, const char *note)
{
    text_write_printable(report->out, note);
    fputc('\n', report->out);
}

/* ---------------------------------------------------------------- markdown */

static void markdown_fact(struct report *report, const struct fact *fact)
{
    report->sections = true;
    fprintf(report->out, "- %s: ", fact->heading);
    text_write_markdown(report->out, cell_words(&fact->value));
    fputc('\n', report->out);
}

static void markdown_table(struct report *report, const struct table *table)
{
    begin_section(report);
    fprintf(report->out, "**%s**\n\n", table->title);
    for (int c = 0; c < table->column_count; c++) fprintf(report->out, "| %s ", table->columns[c].heading);
    fputs("|\n", report->out);
    for (int c = 0; c < table->column_count; c++)
        fputs(table->columns[c].kind == VALUE_NUMBER ? "|---:" : "|---", report->out);
    fputs("|\n", report->out);
    for (size_t r = 0; r < row_count(table); r++) {
        for (int c = 0; c < table->column_count; c++) {
            fputs("| ", report->out);
            text_write_markdown(report->out, cell_words(cell_at(table, r, c)));
            fputc(' ', report->out);
        }
        fputs("|\n", report->out);
    }
}

static void markdown_note(struct report *report, const char *note)
{
    fputc('\n', report->out);
    text_write_markdown(report->out, note);
    fputc('\n', report->out);
}

/* ---------------------------------------------------------------- json */

static void json_cell(struct report *report, cJSON *object, const char *key, const struct cell *cell)
{
    bool ok = true;
    switch (cell->kind) {
    case VALUE_TEXT: ok = json_add_text(object, key, cell->text, NULL); break;
    case VALUE_NUMBER: ok = json_add_number(object, key, cell->text); break;
    case VALUE_BOOL: ok = cJSON_AddBoolToObject(object, key, !strcmp(cell->text, "true")); break;
    case VALUE_NUMBERS: ok = json_add_list(object, key, cell->text, NULL); break;
    case VALUE_WORDS: ok = json_add_list(object, key, cell->text, " "); break;
    case VALUE_NAMES: ok = json_add_list(object, key, cell->text, ", "); break;
    }
    if (!ok) report->no_memory = true;
}

static void json_fact(struct report *report, const struct fact *fact)
{
    json_cell(report, report->root, fact->key, &fact->value);
}

static void json_table(struct report *report, const struct table *table)
{
    cJSON *rows = cJSON_AddArrayToObject(report->root, table->key);
    for (size_t r = 0; rows && r < row_count(table); r++) {
        cJSON *object = cJSON_CreateObject();
        if (!object || !cJSON_AddItemToArray(rows, object)) {
            cJSON_Delete(object);
            rows = NULL;
            break;
        }
        for (int c = 0; c < table->column_count; c++)
            json_cell(report, object, table->columns[c].key, cell_at(table, r, c));
    }
    if (!rows) report->no_memory = true;
}

static void json_end(struct report *report)
{
    char *text = report->no_memory ? NULL : cJSON_Print(report->root);
    if (text)
        fprintf(report->out, "%s\n", text);
    else
        report->no_memory = true;
    cJSON_free(text);
}

/* ---------------------------------------------------------------- csv: facts lead every record */

/* The facts' keys or values, as the beginning of a record that goes on or as all of it. */
static void csv_facts(struct report *report, bool keys, bool goes_on)
{
    for (int f = 0; f < report->fact_count; f++) {
        const struct fact *fact = &report->facts[f];
        text_write_csv(report->out, keys ? fact->key : fact->value.text);
        if (goes_on || f + 1 < report->fact_count) fputc(',', report->out);
    }
}

static void csv_table(struct report *report, const struct table *table)
{
    report->sections = true;
    csv_facts(report, true, true);
    for (int c = 0; c < table->column_count; c++)
        fprintf(report->out, "%s%s", c ? "," : "", table->columns[c].key);
    fputs("\r\n", report->out);
    for (size_t r = 0; r < row_count(table); r++) {
        csv_facts(report, false, true);
        for (int c = 0; c < table->column_count; c++) {
            if (c) fputc(',', report->out);
            text_write_csv(report->out, cell_at(table, r, c)->text);
        }
        fputs("\r\n", report->out);
    }
}

/* Without a table, the facts are one. */
static void csv_end(struct report *report)
{
    if (report->sections || report->no_memory) return;
    csv_facts(report, true, false);
    fputs("\r\n", report->out);
    csv_facts(report, false, false);
    fputs("\r\n", report->out);
}

int report_open(const char *format, FILE *out, struct report **report)
{
    static const struct report_format formats[] = {
        {"text", text_fact, text_table, text_note, NULL},
        {"markdown", markdown_fact, markdown_table, markdown_note, NULL},
        {"json", json_fact, json_table, NULL, json_end},
        {"csv", NULL, csv_table, NULL, csv_end},
    };
    *report = calloc(1, sizeof **report);
    if (!*report) return cli_fail_nomem("the output");
    (*report)->out = out;
    (*report)->style = style_for(out);
    (*report)->root = cJSON_CreateObject();
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (!strcmp(formats[i].name, format)) (*report)->format = &formats[i];
    return EFFNET_OK;
}

static char *print_text(const char *format, va_list arguments)
{
    char *text;
    return vasprintf(&text, format, arguments) < 0 ? NULL : text;
}

static void end_table(struct report *report)
{
    struct table *table = &report->table;
    if (table->columns && !report->no_memory) {
        report->format->table(report, table);
        cli_check_output();
    }
    for (size_t i = 0; i < table->count; i++) free(table->cells[i].text);
    free(table->cells);
    memset(table, 0, sizeof *table);
}

void report_fact(struct report *report, enum value_kind kind, const char *key, const char *heading,
                 const char *format, ...)
{
    assert(report->fact_count < FACTS_MAX);
    va_list arguments;
    va_start(arguments, format);
    char *text = print_text(format, arguments);
    va_end(arguments);
    if (!text) {
        report->no_memory = true;
        return;
    }
    struct fact *fact = &report->facts[report->fact_count++];
    *fact = (struct fact){key, heading, {text, kind}};
    if (report->format->fact) report->format->fact(report, fact);
}

const char *report_bool(bool value)
{
    return value ? "true" : "false";
}

void report_table(struct report *report, const char *key, const char *title, const struct column *columns,
                  int column_count)
{
    end_table(report);
    report->table = (struct table){
        .key = key, .title = title, .columns = columns, .column_count = column_count};
}

/* Takes text, which may be NULL for want of memory. */
static void add_cell(struct report *report, char *text)
{
    struct table *table = &report->table;
    if (text && table->count == table->capacity) {
        size_t capacity = table->capacity ? 2 * table->capacity : 256;
        struct cell *cells = realloc(table->cells, capacity * sizeof *cells);
        if (cells) {
            table->cells = cells;
            table->capacity = capacity;
        }
    }
    if (!text || table->count == table->capacity) {
        report->no_memory = true;
        free(text);
        return;
    }
    enum value_kind kind = table->columns[table->count % (size_t)table->column_count].kind;
    table->cells[table->count++] = (struct cell){text, kind};
}

void report_row(struct report *report, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text = print_text(format, arguments), *rest = text;
    va_end(arguments);
    for (int c = 0; c < report->table.column_count; c++) {
        const char *cell = strsep(&rest, "\t");
        assert(cell || !text);
        add_cell(report, cell ? strdup(cell) : NULL);
    }
    free(text);
}

void report_note(struct report *report, const char *text)
{
    end_table(report);
    if (report->format->note) report->format->note(report, text);
}

int report_close(struct report *report)
{
    if (!report) return EFFNET_OK;
    end_table(report);
    if (report->format->end) report->format->end(report);
    int status = cli_flush_output();
    if (!status && report->no_memory) status = cli_fail_nomem("the output");
    for (int i = 0; i < report->fact_count; i++) free(report->facts[i].value.text);
    cJSON_Delete(report->root);
    free(report);
    return status;
}
