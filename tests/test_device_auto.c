/* --device auto: the GPU, or the CPU with one line that says why, whatever it was; and what tells that a
 * machine has NVIDIA's hardware. The GPU's backend is one that fails as told. */
#include "backend/backend.h"
#include "common/error.h"
#include "common/nvidia.h"
#include "fake_root.h"
#include "weights_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* ---------------------------------------------------------------- a GPU that opens, or fails */

struct backend_state {
    int unused;
};

static struct backend_state fake_state;
static int fake_status, fake_opened, fake_closed;
static const char *fake_message;

static int fake_open(const effnet_model *model, const struct backend_options *options,
                     struct backend_state **out, struct effnet_error *error)
{
    (void)model;
    fake_opened++;
    *out = NULL;
    if (fake_status) return effnet_fail(error, fake_status, "%s", fake_message);
    if (options->precision && strcmp(options->precision, "fp16") != 0)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "precision %s is not supported on a GPU",
                           options->precision);
    *out = &fake_state;
    return EFFNET_OK;
}

static void fake_close(struct backend_state *state)
{
    assert_ptr_equal(state, &fake_state);
    fake_closed++;
}

static void fake_describe(const struct backend_state *state, struct effnet_session_info *info)
{
    (void)state;
    info->device = "a GPU";
    info->precision = "fp16";
}

static const struct backend fake_gpu = {
    .name = "fake", .open = fake_open, .close = fake_close, .describe = fake_describe};

struct result {
    int status;
    char backend[32], notice[600], message[600];
};

static bool some_hardware(const char *root)
{
    (void)root;
    return true;
}

static bool no_hardware(const char *root)
{
    (void)root;
    return false;
}

/* Opens a session on such a machine, takes down what it says, closes it. */
static struct result open_on(bool hardware, const struct backend *cuda, struct effnet_session_options options)
{
    const struct backend_choice choice = {&backend_reference, cuda, hardware ? some_hardware : no_hardware,
                                          false};
    struct result result = {0};
    struct effnet_error error = {0};
    effnet_session *session;
    effnet_model *model = weights_open(weights_tiny(1));
    result.status = effnet_session_open_from(&choice, model, &options, &session, &error);
    if (!result.status) {
        const struct effnet_session_info *info = effnet_session_get_info(session);
        snprintf(result.backend, sizeof result.backend, "%s", info->backend);
        snprintf(result.notice, sizeof result.notice, "%s", info->notice);
        effnet_session_close(session);
    } else {
        assert_null(session);
        assert_int_equal(error.status, result.status);
        snprintf(result.message, sizeof result.message, "%s", error.message);
    }
    effnet_model_close(model);
    return result;
}

#define OPTIONS(...) ((struct effnet_session_options){__VA_ARGS__})

static void gpu_fails(int status, const char *message)
{
    fake_status = status;
    fake_message = message;
}

static void test_gpu_taken(void **state)
{
    (void)state;
    gpu_fails(EFFNET_OK, NULL);
    fake_closed = 0;
    static const char *const devices[] = {NULL, "auto", "cuda", "cuda:1"};
    for (int i = 0; i < 4; i++) {
        struct result r = open_on(true, &fake_gpu, OPTIONS(.device = devices[i], .plan = "cudnn"));
        assert_int_equal(r.status, EFFNET_OK);
        assert_string_equal(r.backend, "fake");
        assert_string_equal(r.notice, "");
    }
    assert_int_equal(fake_closed, 4);
}

/* Whatever keeps the GPU from opening, the CPU runs, and one line has the reason. */
static void test_fallback(void **state)
{
    (void)state;
    static const int statuses[] = {EFFNET_E_UNAVAILABLE, EFFNET_E_NOMEM, EFFNET_E_INTERNAL,
                                   EFFNET_E_DATA,        EFFNET_E_USAGE, EFFNET_E_NOINPUT};
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        gpu_fails(statuses[i], "the device is in exclusive mode");
        struct result r = open_on(true, &fake_gpu, OPTIONS(.device = "auto"));
        assert_int_equal(r.status, EFFNET_OK);
        assert_string_equal(r.backend, "reference");
        assert_string_equal(r.notice, "using the CPU: the device is in exclusive mode");
        r = open_on(true, &fake_gpu, OPTIONS(.device = "cuda")); /* who asks for it is told */
        assert_int_equal(r.status, statuses[i]);
        assert_string_equal(r.message, "the device is in exclusive mode");
    }
    gpu_fails(EFFNET_OK, NULL); /* the precision is none of the GPU's */
    struct result r = open_on(true, &fake_gpu, OPTIONS(.precision = "fp32"));
    assert_string_equal(r.backend, "reference");
    assert_non_null(strstr(r.notice, "precision fp32 is not supported on a GPU"));
    r = open_on(true, NULL, OPTIONS(.device = NULL)); /* a GPU, but a build without CUDA */
    assert_string_equal(r.backend, "reference");
    assert_non_null(strstr(r.notice, "this build has no CUDA"));
}

/* A long reason leaves one line, whole options included. */
static void test_long_reason(void **state)
{
    (void)state;
    char reason[511];
    memset(reason, 'x', sizeof reason - 1);
    reason[sizeof reason - 1] = '\0';
    gpu_fails(EFFNET_E_INTERNAL, reason);
    struct result r = open_on(true, &fake_gpu, OPTIONS(.plan = "cudnn"));
    assert_non_null(strstr(r.notice, "plan cudnn is for a GPU alone and not used here"));
    r = open_on(true, &fake_gpu, OPTIONS(.precision = "bf16"));
    assert_int_equal(r.status, EFFNET_E_UNAVAILABLE);
    assert_non_null(strstr(r.message, "; nor on a GPU: xxx"));
}

/* Without the hardware the GPU is neither tried nor spoken of, unless the options ask for one. */
static void test_no_hardware(void **state)
{
    (void)state;
    gpu_fails(EFFNET_E_INTERNAL, "CUDA: unknown error");
    fake_opened = 0;
    struct result r = open_on(false, &fake_gpu, OPTIONS(.device = "auto"));
    assert_int_equal(r.status, EFFNET_OK);
    assert_string_equal(r.notice, "");
    r = open_on(false, &fake_gpu, OPTIONS(.plan = "auto", .precision = "fp32"));
    assert_string_equal(r.notice, "");
    r = open_on(false, &fake_gpu, OPTIONS(.precision = "bf16"));
    assert_int_equal(r.status, EFFNET_E_UNAVAILABLE);
    assert_null(strstr(r.message, "GPU"));
    assert_int_equal(fake_opened, 0);

    r = open_on(false, &fake_gpu, OPTIONS(.precision = "fp16"));
    assert_int_equal(r.status, EFFNET_E_UNAVAILABLE);
    assert_non_null(strstr(r.message, "no NVIDIA GPU in this machine"));
    r = open_on(false, &fake_gpu, OPTIONS(.plan = "cudnn"));
    assert_string_equal(r.notice, "plan cudnn is for a GPU alone and not used here");
    r = open_on(false, &fake_gpu, OPTIONS(.device = "cpu"));
    assert_string_equal(r.notice, "");
    r = open_on(false, &fake_gpu, OPTIONS(.device = "reference", .plan = "cudnn"));
    assert_string_equal(r.notice, "plan cudnn is for a GPU alone and not used here");
    assert_int_equal(open_on(false, &fake_gpu, OPTIONS(.device = "cuda")).status, EFFNET_E_INTERNAL);
}

/* ---------------------------------------------------------------- the hardware */

#define PCI "/sys/bus/pci/devices/0000:0"

static void test_hardware(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        bool found;
        const char *files[8], *texts[8];
    } machines[] = {
        {"nothing", false, {"/proc/cpuinfo"}, {""}},
        {"a GPU on PCI, no driver", true, {PCI "1/vendor", PCI "1/class"}, {"0x10de\n", "0x030200\n"}},
        {"as VGA, after others",
         true,
         {PCI "0/vendor", PCI "0/class", PCI "1/vendor", PCI "1/class", PCI "2/vendor", PCI "2/class"},
         {"0x8086", "0x060000", "0x8086", "0x030000", "0x10de", "0x030000"}},
        {"NVIDIA's network card, and another maker's GPU",
         false,
         {PCI "1/vendor", PCI "1/class", PCI "2/vendor", PCI "2/class"},
         {"0x10de", "0x020000", "0x1002", "0x030000"}},
        {"unreadable devices", false, {PCI "1/vendor", PCI "1/class", PCI "2/class"}, {"", "x", "0x030000"}},
        {"a container: the driver's devices", true, {"/dev/nvidiactl", "/dev/null"}, {"", ""}},
        {"the driver", true, {"/proc/driver/nvidia/version"}, {"NVRM"}},
        {"WSL with NVIDIA's driver", true, {"/dev/dxg", "/usr/lib/wsl/lib/libcuda.so.1"}, {"", ""}},
        {"WSL with another's", false, {"/dev/dxg", "/usr/lib/wsl/lib/libd3d12.so"}, {"", ""}},
        {"a Jetson", true, {"/dev/nvhost-gpu"}, {""}},
    };
    for (size_t i = 0; i < sizeof machines / sizeof machines[0]; i++) {
        fake_root_new();
        for (int f = 0; f < 8 && machines[i].files[f]; f++)
            fake_root_put(machines[i].files[f], machines[i].texts[f]);
        bool found = effnet_nvidia_hardware(fake_root);
        fake_root_remove();
        if (found != machines[i].found) fail_msg("%s: %d", machines[i].what, found);
    }
    effnet_nvidia_hardware(""); /* this machine, whatever it has */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpu_taken),   cmocka_unit_test(test_fallback),
        cmocka_unit_test(test_long_reason), cmocka_unit_test(test_no_hardware),
        cmocka_unit_test(test_hardware),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
