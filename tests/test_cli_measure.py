"""effnet info, verify and bench: what they print, and that verify and bench notice wrong results."""

import csv
import io
import json
import math
import os
import re
import subprocess

import pytest
from cli_model import CROP, write_image

MISS, USAGE, DATA, NO_INPUT, UNAVAILABLE = 1, 64, 65, 66, 69


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [write_image(folder / f"{i}.png", i) for i in range(5)]


def run_json(effnet, *arguments, status=0, **options):
    done = effnet(*arguments, "--format", "json", **options)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


# ---------------------------------------------------------------- info


@pytest.mark.parametrize("network, parameters, multiply_adds, layers", [
    ("lite1", 5.4e6, 600e6, 66),
    ("b1-plain", 2.7e6, 220e6, 24),
])
def test_info(effnet, lite1, b1_plain, network, parameters, multiply_adds, layers):
    """Shapes and counts, each worked out again from the table."""
    info = run_json(effnet, "info", "-m", lite1 if network == "lite1" else b1_plain)
    assert (info["network"], info["input"], info["classes"]) == (network, [240, 240, 3], 1000)
    assert info["parameters"] == pytest.approx(parameters, rel=0.1)
    assert info["multiply_adds"] == pytest.approx(multiply_adds, rel=0.1)
    assert len(info["layers"]) == info["layer_count"] == layers
    before = info["input"]
    for i, layer in enumerate(info["layers"]):
        assert layer["index"] == i and layer["input"] == before
        before = layer["output"]
        height, width, channels = layer["output"]
        inputs = layer["input"][2]
        assert len(layer["pad"]) == 4
        taps = {"conv": inputs, "depthwise": 1, "pointwise": inputs, "linear": inputs, "pool": 0}[layer["op"]]
        weights = taps * layer["kernel"] ** 2 * channels
        assert layer["parameters"] == weights + (channels if weights else 0)
        if layer["op"] != "pool":
            assert layer["multiply_adds"] == weights * height * width
    assert sum(layer["parameters"] for layer in info["layers"]) == info["parameters"]
    assert sum(layer["multiply_adds"] for layer in info["layers"]) == info["multiply_adds"]
    residuals = {layer["name"]: layer["residual"] for layer in info["layers"] if layer["residual"]}
    assert (residuals.get("blocks.2.project") == "blocks.1.project") == (network == "lite1")
    assert not any(layer["inputs"] for layer in info["layers"])


def test_info_b1(effnet, b1):
    """A layer says what it takes where that is not the layer before."""
    info = run_json(effnet, "info", "-m", b1)
    assert (info["network"], info["layer_count"]) == ("b1", 163)
    assert info["parameters"] == pytest.approx(7.76e6, rel=0.01) and info["multiply_adds"] == pytest.approx(687e6, rel=0.01)
    layers = {layer["name"]: layer for layer in info["layers"]}
    assert layers["blocks.2.se.scale"]["inputs"] == ["blocks.2.depthwise", "blocks.2.se.expand"]
    assert layers["blocks.2.se.scale"]["op"] == "scale" and layers["blocks.2.se.expand"]["activation"] == "sigmoid"
    assert [layers[f"blocks.2.se.{part}"]["output"] for part in ("pool", "reduce", "expand", "scale")] == [
        [1, 1, 96], [1, 1, 4], [1, 1, 96], [60, 60, 96]]
    assert sum(bool(layer["inputs"]) for layer in info["layers"]) == 23


def test_info_text(effnet, tiny):
    done = effnet("info", "-m", tiny)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^ *0  stem +conv +3  2  0 0 1 1 +16x16x3 +8x8x8 +relu6 +224 +13824$", done.stdout, re.M)
    assert re.search(r"^reference +yes ", done.stdout, re.M) and "\x1b" not in done.stdout


def test_devices(effnet):
    """Without a model; every device can be asked for by its name."""
    environment = os.environ | {"EFFNET_MODEL": "/nonexistent"}
    devices = run_json(effnet, "info", "--devices", env=environment)["devices"]
    names = [d["name"] for d in devices]
    assert {"cpu", "reference"} <= set(names) and len(names) == len(set(names))
    for device in devices:
        assert isinstance(device["available"], bool) and device["backend"]
        assert device["precisions"] and set(device["precisions"]) <= {"fp32", "bf16", "fp16", "int8"}
        assert device["available"] or device["detail"]


def test_devices_run(effnet, tiny, images):
    for device in run_json(effnet, "info", "--devices")["devices"]:
        done = effnet("classify", "-m", tiny, "--device", device["name"], images[0])
        assert (done.returncode == 0) == device["available"], (device, done.stderr)


def test_one_name_for_the_batch_size(effnet, tiny, images):
    """The same option on every command; its beginning, which some had as its whole name before 0.2.0, will do."""
    for command in (["classify", images[0]], ["info", "--plan"], ["verify"], ["bench", *QUICK]):
        for option in ("-b", "--batch", "--batch-size"):
            assert effnet(*command, "-m", tiny, option, "3").returncode == 0, (command, option)


@pytest.mark.parametrize("plan", [["--plan"], ["--plan=auto"], ["--plan", "cudnn"]])
def test_plan(effnet, tiny, plan):
    info = run_json(effnet, "info", "-m", tiny, "--device", "cpu", "-b", "3", *plan)
    assert info["max_batch"] == 3 and info["memory_bytes"] > 0 and info["threads"] >= 1
    assert info["units"][0]["layers"].startswith("stem")
    assert info["units"][-1]["layers"].endswith("classifier")
    for unit in info["units"]:
        assert unit["kernel"] and unit["workspace_bytes"] >= 0 and unit["bytes_per_image"] > 0
    assert sum(u["flops_per_image"] for u in info["units"]) == 2 * run_json(effnet, "info", "-m", tiny)["multiply_adds"]


# ---------------------------------------------------------------- verify


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_verify(effnet, b1_plain, device):
    report = run_json(effnet, "verify", "-m", b1_plain, "--device", device, "--batch-size", "2", "--seed", "5")
    assert report["ok"] is True and (report["misses"], report["images"], report["seed"]) == (0, 2, 5)
    assert len(report["units"]) > 1
    for row in report["units"] + report["logits"]:
        assert row["verdict"] == "ok" and row["nonfinite"] == 0
        assert 0 <= row["relative_l2_error"] <= row["allowance"] == 1e-5
        assert 0 <= row["share_percent"] <= 100
        n, h, w, c = row["worst"]
        assert n in (0, 1) and min(h, w, c) >= 0
        if device == "reference":
            assert row["absolute_error"] == row["relative_l2_error"] == row["share_percent"] == 0
    assert report["logits"][0]["same_top_1"] == 2


def test_verify_lite1(effnet, lite1):
    report = run_json(effnet, "verify", "-m", lite1, "--batch-size", "1")
    assert report["ok"] is True and report["logits"][0]["same_top_1"] == 1


def test_verify_b1(effnet, b1):
    """Squeeze-and-excite: units with two inputs, in every precision that there is."""
    cpu, = (device for device in run_json(effnet, "info", "--devices")["devices"] if device["name"] == "cpu")
    for precision in set(cpu["precisions"]) - {"fp32", "int8"}:
        units = run_json(effnet, "verify", "-m", b1, "--device", "cpu", "--precision", precision, "--only", "*")["units"]
        assert len(units) == 163
    report = run_json(effnet, "verify", "-m", b1, "--batch-size", "2", "--device", "cpu")
    assert report["ok"] is True and report["logits"][0]["same_top_1"] == 2
    layers = [unit["layers"] for unit in report["units"]]
    alone = [name for name in layers if name.endswith(".se.scale")]
    within = [name for name in layers if re.fullmatch(r"(blocks\.\d+)\.depthwise\.\.\1\.project", name)]
    assert len(alone) + len(within) == 23
    assert report["logits"][0]["relative_l2_error"] <= report["logits"][0]["allowance"] == 1e-5


def test_verify_text(effnet, tiny):
    done = effnet("verify", "-m", tiny, "--device", "cpu")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^seed +1$", done.stdout, re.M)
    assert re.search(r"^ *0  stem.* ok$", done.stdout, re.M)
    assert re.search(r"^ +2 +2 .* ok$", done.stdout, re.M), "the logits of two images"


def test_verify_files(effnet, tiny, images):
    report = run_json(effnet, "verify", "-m", tiny, "-b", "2", *images)
    assert (report["images"], report["batch"], report["logits"][0]["images"]) == (5, 2, 5)
    assert report["ok"] and "seed" not in report
    assert effnet("verify", "-m", tiny, images[0], "missing.png").returncode == NO_INPUT


def test_verify_only(effnet, b1_plain):
    report = run_json(effnet, "verify", "-m", b1_plain, "--batch-size", "1", "--only", "blocks.1.*")
    assert "logits" not in report and report["units"]
    assert all("blocks.1." in unit["layers"] for unit in report["units"])
    done = effnet("verify", "-m", b1_plain, "--only", "nothing*")
    assert done.returncode == USAGE and "nothing*" in done.stderr


def test_verify_seeds_differ(effnet, b1_plain):
    """The images depend on the seed, and on nothing else."""
    def worst(seed):
        report = run_json(effnet, "verify", "-m", b1_plain, "--batch-size", "1", "--only", "stem", "--seed", seed,
                          "--device", "reference")
        return report["units"][0]["worst_reference"], report

    one, again, other = worst(1), worst(1), worst(2)
    assert one == again and one[1] != other[1]


# A library that comes before oneDNN's and adds $EFFNET_BREAK_BY, which may be nan, to the first element of
# what a step with weights computes, where that has as many channels as $EFFNET_BREAK_CHANNELS says.
BREAKER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <dnnl.h>
#include <stdlib.h>

/* Whether these are floats in so many channels. */
static int is_hit(dnnl_memory_t memory, int channels)
{
#if DNNL_VERSION_MAJOR >= 3
    const_dnnl_memory_desc_t shape;
    int32_t count;
    dnnl_dims_t *dims;
    dnnl_data_type_t type;
    dnnl_memory_get_memory_desc(memory, &shape);
    dnnl_memory_desc_query(shape, dnnl_query_ndims_s32, &count);
    dnnl_memory_desc_query(shape, dnnl_query_dims, &dims);
    dnnl_memory_desc_query(shape, dnnl_query_data_type, &type);
    return count >= 2 && type == dnnl_f32 && (*dims)[1] == channels;
#else
    const dnnl_memory_desc_t *shape;
    dnnl_memory_get_memory_desc(memory, &shape);
    return shape->ndims >= 2 && shape->data_type == dnnl_f32 && shape->dims[1] == channels;
#endif
}

dnnl_status_t dnnl_primitive_execute(const_dnnl_primitive_t primitive, dnnl_stream_t stream, int count,
                                     const dnnl_exec_arg_t *arguments)
{
    dnnl_status_t (*real)(const_dnnl_primitive_t, dnnl_stream_t, int, const dnnl_exec_arg_t *) =
        (dnnl_status_t(*)(const_dnnl_primitive_t, dnnl_stream_t, int, const dnnl_exec_arg_t *))dlsym(
            RTLD_NEXT, "dnnl_primitive_execute");
    dnnl_status_t status = real(primitive, stream, count, arguments);
    int channels = atoi(getenv("EFFNET_BREAK_CHANNELS"));
    int weighted = 0;
    for (int i = 0; i < count; i++) weighted |= arguments[i].arg == DNNL_ARG_WEIGHTS;
    for (int i = 0; weighted && i < count; i++) {
        void *data;
        if (arguments[i].arg != DNNL_ARG_DST || !is_hit(arguments[i].memory, channels)) continue;
        dnnl_stream_wait(stream);
        dnnl_memory_get_data_handle(arguments[i].memory, &data);
        ((float *)data)[0] += strtof(getenv("EFFNET_BREAK_BY"), NULL);
    }
    return status;
}
"""


@pytest.fixture(scope="module")
def broken(effnet, sanitized, tiny, tmp_path_factory):
    """broken(channels, by): the environment in which oneDNN computes wrongly."""
    if run_json(effnet, "info", "-m", tiny, "--plan", "--device", "cpu")["backend"] != "onednn":
        pytest.skip("this build has no oneDNN to break")
    folder = tmp_path_factory.mktemp("breaker")
    (folder / "breaker.c").write_text(BREAKER)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", folder / "breaker.so", folder / "breaker.c", "-ldl"],
                   check=True)

    def environment(channels, by):
        extra = {"LD_PRELOAD": str(folder / "breaker.so"), "EFFNET_BREAK_CHANNELS": str(channels),
                 "EFFNET_BREAK_BY": str(by)}
        if sanitized:  # the sanitizer's library need not come first
            extra["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        return os.environ | extra

    return environment


@pytest.mark.parametrize("by", [0.05, math.nan, math.inf])
def test_verify_notices_one_wrong_element(effnet, b1_plain, broken, by):
    """One element in each call of the one layer with 320 outputs: it misses, no other layer does."""
    environment = broken(320, by)
    done = effnet("verify", "-m", b1_plain, "--device", "cpu", "--format", "json", env=environment)
    assert done.returncode == MISS and done.stderr.count("\n") == 1 and "outside" in done.stderr
    report = json.loads(done.stdout)
    missed = [unit for unit in report["units"] if unit["verdict"] == "MISS"]
    assert len(missed) == 1 and "blocks.6.project" in missed[0]["layers"]
    assert report["ok"] is False and report["misses"] == 1 + (report["logits"][0]["verdict"] == "MISS")
    assert missed[0]["worst"] in [[n, h, 0, 0] for n in (0, 1) for h in range(8)]
    if math.isfinite(by):
        assert missed[0]["absolute_error"] == pytest.approx(by, rel=1e-3) and missed[0]["nonfinite"] == 0
    else:
        assert missed[0]["nonfinite"] >= 1 and missed[0]["share_percent"] is None
        assert report["logits"][0]["verdict"] == "MISS"


def test_verify_allowances(effnet, b1_plain, broken):
    """Rounding alone misses an allowance that is too small; an allowance that is large forgives."""
    common = ["-m", b1_plain, "--device", "cpu", "--batch-size", "1"]
    report = run_json(effnet, "verify", *common, "--allowance", "1e-12", status=MISS)
    assert report["misses"] > 5 and report["logits"][0]["verdict"] == "ok"
    report = run_json(effnet, "verify", *common, "--logits-allowance", "1e-12", status=MISS)
    assert report["misses"] == 1 and report["logits"][0]["verdict"] == "MISS"
    run_json(effnet, "verify", *common, "--allowance", "1", "--logits-allowance", "1", env=broken(320, 0.01))


def test_bench_notices_wrong_results(effnet, b1_plain, broken):
    common = ["-m", b1_plain, "--device", "cpu", "--repetitions", "1", "--warmup", "0"]
    done = effnet("bench", *common, env=broken(320, 20))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (MISS, "", 1)
    assert "wrong" in done.stderr
    assert effnet("bench", *common, "--no-verify", env=broken(320, 20)).returncode == 0


# ---------------------------------------------------------------- bench

QUICK = ["--device", "cpu", "--warmup", "1", "--repetitions", "7"]


def assert_sane(row):
    assert 0 < row["min_ms"] <= row["median_ms"] <= row["p90_ms"] <= row["p99_ms"]
    assert row["images_per_s"] == pytest.approx(row["images"] / row["median_ms"] * 1e3, rel=0.01, abs=1)
    assert row["memory_bytes"] > 0


def test_bench(effnet, b1_plain):
    report = run_json(effnet, "bench", "-m", b1_plain, *QUICK, "--batch-size", "1,2", "--threads", "1")
    assert (report["network"], report["precision"], report["threads"]) == ("b1-plain", "fp32", 1)
    assert report["backend"] and report["device"] and report["verified"] is True
    rows = report["results"]
    assert [(r["batch"], r["measure"], r["cache"], r["images"], r["repetitions"]) for r in rows] == [
        (1, "compute", "warm", 1, 7), (1, "run", "warm", 1, 7), (2, "compute", "warm", 2, 7), (2, "run", "warm", 2, 7)]
    for row in rows:
        assert_sane(row)


def test_bench_cold_and_unverified(effnet, tiny):
    report = run_json(effnet, "bench", "-m", tiny, *QUICK, "--cold", "--no-verify")
    assert [(r["measure"], r["cache"]) for r in report["results"]] == [("compute", "cold"), ("run", "warm")]
    assert report["verified"] is False


def test_bench_end_to_end(effnet, tiny, images):
    report = run_json(effnet, "bench", "-m", tiny, *QUICK, "-b", "2", "--end-to-end", *images)
    row = report["results"][-1]
    assert (row["measure"], row["images"], row["batch"], row["repetitions"]) == ("end-to-end", 5, 2, 7)
    assert [r["measure"] for r in report["results"]] == ["compute", "run", "read", "decode", "fit", "end-to-end"]
    assert all(r["images"] == 5 and r["median_ms"] > 0 for r in report["results"][2:])
    text = effnet("bench", "-m", tiny, *QUICK, "-b", "1,2", "--end-to-end", *images).stdout
    assert re.findall(r"^Batch (\d), from files: \w+ binds;", text, re.M) == ["1", "2"]
    done = effnet("bench", "-m", tiny, *QUICK, "--end-to-end", images[0], "missing.png")
    assert done.returncode == NO_INPUT and "missing.png" in done.stderr and "compute" in done.stdout


def test_bench_decode(effnet, tiny, images):
    """What a GPU is to decode, a session on the CPU refuses; the measures before stand."""
    command = "bench", "-m", tiny, *QUICK, "--end-to-end", *images
    assert "end-to-end" in effnet(*command, "--decode", "cpu").stdout
    done = effnet(*command, "--decode", "gpu")
    assert (done.returncode, done.stderr.count("\n")) == (UNAVAILABLE, 1)
    assert "decoding on a GPU: the network runs on the CPU" in done.stderr
    assert "compute" in done.stdout and "end-to-end" not in done.stdout


def test_bench_duration(effnet, tiny):
    """As many passes as fit, three at least."""
    least = run_json(effnet, "bench", "-m", tiny, "--device", "cpu", "--duration", "0")["results"]
    assert [r["repetitions"] for r in least] == [3, 3]
    longer = run_json(effnet, "bench", "-m", tiny, "--device", "cpu", "--duration", "0.2")["results"]
    assert all(r["repetitions"] > 3 for r in longer)


def test_bench_formats_agree(effnet, tiny):
    """Each format has the same columns, and CSV's records stand by themselves."""
    command = ["bench", "-m", tiny, *QUICK, "-b", "1,3"]
    report = run_json(effnet, *command)
    table = effnet(*command, "--format", "csv", text=False).stdout.decode()
    rows = list(csv.DictReader(io.StringIO(table, newline=""), strict=True))
    assert table.count("\r\n") == 5 and len(rows) == 4
    assert set(report["results"][0]) <= set(rows[0])
    assert all((r["network"], r["precision"], r["verified"]) == ("tiny", "fp32", "true") for r in rows)
    assert [(int(r["batch"]), r["measure"]) for r in rows] == [(r["batch"], r["measure"]) for r in report["results"]]
    assert all(float(r["median_ms"]) > 0 for r in rows)

    markdown = effnet(*command, "--format", "markdown").stdout.splitlines()
    assert "- network: tiny" in markdown
    lines = [line for line in markdown if line.startswith("|")]
    assert len(lines) == 2 + 4 and len({line.count("|") for line in lines}) == 1
    assert "---:" in lines[1]

    text = effnet(*command).stdout
    assert re.search(r"^precision +fp32$", text, re.M) and re.search(r"^ +3  compute +warm +3 +7 ", text, re.M)


def test_bench_layers(effnet, b1_plain):
    report = run_json(effnet, "bench", "-m", b1_plain, *QUICK, "-b", "1,2", "--layers")
    flops = 2 * run_json(effnet, "info", "-m", b1_plain)["multiply_adds"]
    assert "results" not in report
    for batch in (1, 2):
        units = [u for u in report["units"] if u["batch"] == batch]
        assert [u["unit"] for u in units] == list(range(len(units))) and len(units) > 1
        assert sum(u["share_percent"] for u in units) == pytest.approx(100, abs=1)
        assert sum(u["flops"] for u in units) == batch * flops
        assert any(u["median_us"] > 5 for u in units)
        for u in units:
            assert u["repetitions"] == 7 and u["cache"] == "warm" and u["kernel"] and "roofline_percent" not in u
            assert 0 <= u["min_us"] <= u["median_us"] <= u["p90_us"] <= u["p99_us"]
            if u["median_us"] > 5:
                assert u["gb_per_s"] == pytest.approx(u["bytes"] / u["median_us"] / 1e3, rel=0.02, abs=0.06)
                assert u["gflop_per_s"] == pytest.approx(u["flops"] / u["median_us"] / 1e3, rel=0.02, abs=0.06)


def test_bench_roofline(effnet, b1_plain):
    """Percent of roofline is the least time that the peaks allow over the time taken."""
    units = run_json(effnet, "bench", "-m", b1_plain, *QUICK, "--layers", "--peak-bandwidth", "100",
                     "--peak-compute", "2000")["units"]
    assert any(u["median_us"] > 5 for u in units)
    for u in units:
        if u["median_us"] > 5:
            least = max(u["bytes"] / 100e3, u["flops"] / 2000e3)
            assert u["roofline_percent"] == pytest.approx(100 * least / u["median_us"], rel=0.02, abs=0.1)


def test_bench_on_images_of_its_own(effnet, tiny):
    """A batch larger than the number of drawn images."""
    report = run_json(effnet, "bench", "-m", tiny, *QUICK, "-b", "40")
    assert report["results"][0]["images"] == 40 and CROP == 16


def test_bad_image(effnet, tiny, tmp_path):
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"nothing")
    assert effnet("verify", "-m", tiny, junk).returncode == DATA
    assert effnet("bench", "-m", tiny, *QUICK, "--end-to-end", junk).returncode == DATA
