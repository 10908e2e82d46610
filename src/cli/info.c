/* effnet info: the network, its layers, the devices, and what a session would run. */
#include "cli/cli.h"
#include "cli/report.h"
#include "cli/units.h"

#include <inttypes.h>
#include <string.h>

enum { BATCH_MAX = 65536 };

struct info_options {
    struct setup setup;
    int64_t batch;
    const char *format;
    bool plan, devices;
};

/* ---------------------------------------------------------------- network */

static void report_network(struct report *report, const effnet_model *model)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    const struct effnet_preprocess *p = &info->preprocess;
    report_model_facts(report, model);
    report_fact(report, VALUE_TEXT, "source_file", "source", "%s", info->source_file);
    report_fact(report, VALUE_TEXT, "source_sha256", "source SHA-256", "%s", info->source_sha256);
    report_fact(report, VALUE_NUMBERS, "input", "input (HxWxC)", "%dx%dx%d", info->height, info->width,
                info->channels);
    report_fact(report, VALUE_TEXT, "resize", "resize", "%s",
                p->resize == EFFNET_RESIZE_SQUASH ? "squash" : "short-side");
    report_fact(report, VALUE_NUMBER, "short_side", "short side", "%d", p->short_side);
    report_fact(report, VALUE_NUMBER, "crop", "crop", "%d", p->crop);
    report_fact(report, VALUE_TEXT, "interpolation", "interpolation", "%s",
                p->interpolation == EFFNET_BICUBIC ? "bicubic" : "bilinear");
    report_fact(report, VALUE_NUMBERS, "mean", "mean (of 255)", "%.9g %.9g %.9g", (double)p->mean[0],
                (double)p->mean[1], (double)p->mean[2]);
    report_fact(report, VALUE_NUMBERS, "std", "std (of 255)", "%.9g %.9g %.9g", (double)p->std[0],
                (double)p->std[1], (double)p->std[2]);
    report_fact(report, VALUE_NUMBER, "classes", "classes", "%d", info->classes);
    report_fact(report, VALUE_BOOL, "multi_label", "multi-label", "%s", report_bool(info->multi_label));
    report_fact(report, VALUE_NUMBER, "layer_count", "layers", "%d", info->layer_count);
    report_fact(report, VALUE_NUMBER, "parameters", "parameters", "%" PRId64, info->parameters);
    report_fact(report, VALUE_NUMBER, "multiply_adds", "multiply-adds", "%" PRId64, info->multiply_adds);
}

enum { INPUTS_TEXT_SIZE = 2 * sizeof(((struct effnet_layer *)0)->name) + 8 };

/* The names of what a layer takes, where that is not the layer before. Returns text. */
static const char *inputs_text(const effnet_model *model, int index, char text[INPUTS_TEXT_SIZE])
{
    const struct effnet_layer *layer = effnet_model_layer(model, index);
    const int count = layer->input_count - (layer->residual >= 0);
    text[0] = '\0';
    for (int i = 0; i < count && (count > 1 || layer->inputs[0] != index - 1); i++) {
        const size_t length = strlen(text);
        snprintf(text + length, INPUTS_TEXT_SIZE - length, "%s%s", i ? ", " : "",
                 effnet_input_name(model, layer->inputs[i]));
    }
    return text;
}

static void report_layers(struct report *report, const effnet_model *model)
{
    static const struct column columns[] = {
        {"index", "#", VALUE_NUMBER},
        {"name", "layer", VALUE_TEXT},
        {"op", "op", VALUE_TEXT},
        {"kernel", "k", VALUE_NUMBER},
        {"stride", "s", VALUE_NUMBER},
        {"pad", "pad tlbr", VALUE_NUMBERS},
        {"input", "input", VALUE_NUMBERS},
        {"output", "output", VALUE_NUMBERS},
        {"activation", "act", VALUE_TEXT},
        {"parameters", "parameters", VALUE_NUMBER},
        {"multiply_adds", "multiply-adds", VALUE_NUMBER},
        {"residual", "+ residual", VALUE_TEXT},
        {"inputs", "inputs", VALUE_NAMES},
    };
    report_table(report, "layers", "Layers", columns, sizeof columns / sizeof columns[0]);
    int count = effnet_model_get_info(model)->layer_count;
    for (int i = 0; i < count; i++) {
        const struct effnet_layer *l = effnet_model_layer(model, i);
        char inputs[INPUTS_TEXT_SIZE];
        report_row(report,
                   "%d\t%s\t%s\t%d\t%d\t%d %d %d %d\t%dx%dx%d\t%dx%dx%d\t%s\t%" PRId64 "\t%" PRId64
                   "\t%s\t%s",
                   i, l->name, effnet_op_name(l->op), l->kernel, l->stride, l->pad_top, l->pad_left,
                   l->pad_bottom, l->pad_right, l->in_height, l->in_width, l->in_channels, l->out_height,
                   l->out_width, l->out_channels, effnet_activation_name(l->activation), l->parameters,
                   l->multiply_adds, l->residual < 0 ? "" : effnet_model_layer(model, l->residual)->name,
                   inputs_text(model, i, inputs));
    }
}

/* ---------------------------------------------------------------- devices and units */

static void report_device(const struct effnet_device *device, void *context)
{
    report_row(context, "%s\t%s\t%s\t%s\t%s\t%s", device->name, report_bool(device->available),
               device->backend ? device->backend : "", device->precisions ? device->precisions : "",
               device->description ? device->description : "", device->detail ? device->detail : "");
}

static void report_devices(struct report *report)
{
    static const struct column columns[] = {
        {"name", "--device", VALUE_TEXT},           {"available", "available", VALUE_BOOL},
        {"backend", "backend", VALUE_TEXT},         {"precisions", "precisions", VALUE_WORDS},
        {"description", "description", VALUE_TEXT}, {"detail", "detail", VALUE_TEXT},
    };
    report_table(report, "devices", "Devices", columns, sizeof columns / sizeof columns[0]);
    effnet_devices(report_device, report);
}

static void report_plan(struct report *report, const struct setup *setup, const effnet_model *model,
                        const effnet_session *session)
{
    static const struct column columns[] = {
        {"unit", "#", VALUE_NUMBER},
        {"layers", "layers", VALUE_TEXT},
        {"raw_input", "raw in", VALUE_BOOL},
        {"raw_output", "raw out", VALUE_BOOL},
        {"flops_per_image", "FLOP/image", VALUE_NUMBER},
        {"bytes_per_image", "bytes/image", VALUE_NUMBER},
        {"weight_bytes", "weight bytes", VALUE_NUMBER},
        {"workspace_bytes", "workspace", VALUE_NUMBER},
        {"kernel", "kernel", VALUE_TEXT},
    };
    const struct effnet_session_info *info = effnet_session_get_info(session);
    report_model_facts(report, model);
    report_session_facts(report, setup, session);
    report_fact(report, VALUE_NUMBER, "max_batch", "max batch", "%d", info->max_batch);
    report_fact(report, VALUE_NUMBER, "memory_bytes", "memory, bytes", "%" PRId64, info->memory_bytes);
    report_table(report, "units", "Units", columns, sizeof columns / sizeof columns[0]);
    int count = effnet_session_unit_count(session);
    for (int i = 0; i < count; i++) {
        const struct effnet_unit *unit = effnet_session_unit(session, i);
        char label[UNIT_LABEL_SIZE];
        report_row(report, "%d\t%s\t%s\t%s\t%" PRId64 "\t%" PRId64 "\t%" PRId64 "\t%" PRId64 "\t%s", i,
                   unit_label(model, unit, label), report_bool(unit->raw_input),
                   report_bool(unit->raw_output), unit_flops(model, unit), unit->bytes_per_image,
                   unit->weight_bytes, unit->workspace_bytes, unit->kernel);
    }
    report_note(report, "raw out: the last layer's bias and activation are left to the next unit (raw in).");
}

static int info(const struct info_options *options)
{
    effnet_model *model = NULL;
    effnet_session *session = NULL;
    struct report *report = NULL;
    int status = options->devices ? EFFNET_OK : setup_open_model(&options->setup, &model);
    if (!status && options->plan)
        status = setup_open_session(&options->setup, model, (int)options->batch, &session);
    if (!status) status = report_open(options->format, stdout, &report);
    if (!status) {
        if (session) {
            report_plan(report, &options->setup, model, session);
        } else {
            if (model) report_network(report, model);
            if (model) report_layers(report, model);
            report_devices(report);
        }
        status = report_close(report);
    }
    effnet_session_close(session);
    effnet_model_close(model);
    return status;
}

int cmd_info(int argc, char **argv)
{
    static const struct command_help help = {
        "info",
        "[options]",
        "Prints the network's layers with their shapes, parameters and multiply-adds, how images\n"
        "are prepared for it, whether it is multi-label, and the devices of this machine with\n"
        "what each would run. With --plan: which kernel or engine runs for which layers, with\n"
        "its workspace and bytes, at --batch-size images.",
    };
    struct info_options o = {.batch = 1, .format = "text"};
    const struct option_spec options[] = {
        FLAG(0, "devices", "the devices alone; needs no weights", &o.devices),
        INTEGER('b', "batch-size", "N", "images a pass that --plan is for (default 1)", &o.batch, 1,
                BATCH_MAX),
        CHOICE(0, "format", "text|json", "how to print (default text)", &o.format),
    };
    int first = setup_parse(&help, options, sizeof options / sizeof options[0], &o.setup, &o.plan, argc,
                            argv);
    if (first <= 0) return first;
    if (first < argc)
        return cli_fail(EFFNET_E_USAGE, "info: unexpected '%s' (see 'effnet info --help')", argv[first]);
    if (o.plan && o.devices) return cli_fail(EFFNET_E_USAGE, "info: --plan and --devices do not go together");
    return info(&o);
}
