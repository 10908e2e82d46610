"""effnet bench linear: what it prints and refuses, and that it notices wrong results. Small shapes, on the CPU."""

import csv
import io
import json
import os
import re
import subprocess
import time

import pytest
from test_cli import help_options, man_options, man_sections, plain
from test_cli_measure import BREAKER

MISS, USAGE, UNAVAILABLE, NOMEM = 1, 64, 69, 71
PEAK = ["--peak-compute", "1000"]  # where measuring it is not what is tested
QUICK = ["bench", "linear", "--device", "cpu", "--n", "40", "--k", "48", "--warmup", "1", "--repetitions", "5"]
EPILOGUES = ["none", "bias", "relu", "relu6", "silu", "gelu", "bn-gelu-relu"]


def run_json(effnet, *arguments, **options):
    done = effnet(*arguments, "--format", "json", **options)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def assert_sane(row, x_bytes=4, y_bytes=4):
    m, n, k, median = row["m"], row["n"], row["k"], row["median_us"]
    assert 0 < row["min_us"] <= median <= row["p90_us"] <= row["p99_us"]
    assert row["tflop_per_s"] == pytest.approx(2 * m * n * k / median / 1e6, rel=0.01)
    w_bytes = x_bytes  # on the CPU
    if median > 5:
        traffic = m * k * x_bytes + n * k * w_bytes + m * n * y_bytes
        assert row["gb_per_s"] == pytest.approx(traffic / median / 1e3, rel=0.02, abs=0.06)
    assert row["calls"] >= 1 and row["kernel"]


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_verified_and_timed(effnet, epilogue):
    report = run_json(effnet, *QUICK, *PEAK, "--m", "33", "--epilogue", epilogue)
    assert (report["epilogue"], report["verified"], report["seed"]) == (epilogue, True, 1)
    assert (report["x_type"], report["w_type"], report["y_type"]) == ("fp32", "fp32", "fp32")
    assert (report["peak_tflop_per_s"], report["peak_of"]) == (1.0, "as given")
    (row,) = report["results"]
    assert (row["m"], row["n"], row["k"], row["cache"], row["repetitions"]) == (33, 40, 48, "warm", 5)
    assert 0 < row["relative_l2"] < 1e-6
    assert row["peak_percent"] == pytest.approx(100 * row["tflop_per_s"], abs=0.06)
    assert_sane(row)


def test_pause(effnet):
    """Each pass rests first, the warm-up's too; the rest is not part of its time."""
    start = time.monotonic()
    report = run_json(effnet, *QUICK, *PEAK, "--m", "33", "--pause", "50")
    assert time.monotonic() - start >= 6 * 0.05
    assert report["pause_ms"] == 50
    (row,) = report["results"]
    assert row["calls"] == 1 and row["min_us"] < 50000
    assert run_json(effnet, *QUICK, *PEAK, "--m", "33")["pause_ms"] == 0


@pytest.mark.parametrize("x_type, y_type", [("fp16", "fp32"), ("fp32", "fp16"), ("fp16", "fp16")])
def test_types(effnet, x_type, y_type):
    """A result in fp16 shows its rounding, of 2^-12 at most, and no more."""
    report = run_json(effnet, *QUICK, *PEAK, "--m", "20", "--x-type", x_type, "--y-type", y_type)
    assert (report["x_type"], report["w_type"], report["y_type"]) == (x_type, x_type, y_type)
    (row,) = report["results"]
    assert 5e-5 < row["relative_l2"] < 4e-4 if y_type == "fp16" else 0 < row["relative_l2"] < 1e-6
    assert_sane(row, 2 if x_type == "fp16" else 4, 2 if y_type == "fp16" else 4)


def test_measured_peak(effnet):
    report = run_json(effnet, *QUICK, "--m", "5")
    assert report["peak_tflop_per_s"] > 1e-3 and "1024 x 1024 x 1024" in report["peak_of"]
    (row,) = report["results"]
    assert row["peak_percent"] == pytest.approx(100 * row["tflop_per_s"] / report["peak_tflop_per_s"], rel=0.02, abs=0.06)


def test_sweep(effnet):
    report = run_json(effnet, "bench", "linear", "--device", "cpu", "--n", "8", "--k", "24", "--sweep", "--warmup", "0",
                      "--repetitions", "2", "--epilogue", "relu", *PEAK)
    assert [row["m"] for row in report["results"]] == [2**i for i in range(17)]
    for row in report["results"]:
        assert row["relative_l2"] < 1e-6 and row["repetitions"] == 2
        assert_sane(row)


def test_seed_cold_and_unverified(effnet):
    def error(*options):
        return run_json(effnet, *QUICK, *PEAK, "--m", "9", *options)["results"][0]["relative_l2"]

    assert error("--seed", "5") == error("--seed", "5") != error("--seed", "6")
    report = run_json(effnet, *QUICK, *PEAK, "--m", "9", "--cold", "--no-verify")
    (row,) = report["results"]
    assert (report["verified"], row["cache"], row["relative_l2"]) == (False, "cold", None)


def test_formats_agree(effnet):
    command = [*QUICK, *PEAK, "--m", "3"]
    report = run_json(effnet, *command)
    table = effnet(*command, "--format", "csv", text=False).stdout.decode()
    (row,) = csv.DictReader(io.StringIO(table, newline=""), strict=True)
    assert set(report["results"][0]) <= set(row) and (row["m"], row["epilogue"]) == ("3", "bn-gelu-relu")
    markdown = effnet(*command, "--format", "markdown").stdout
    assert "- epilogue: bn-gelu-relu\n" in markdown and len(re.findall(r"^\|", markdown, re.M)) == 3
    text = effnet(*command).stdout
    assert re.search(r"^seed +1$", text, re.M) and re.search(r"^3 +40 +48 +warm +\S", text, re.M)


@pytest.mark.parametrize("by", ["0.1", "nan"])
def test_wrong_results_are_noticed(effnet, build, sanitized, tmp_path, by):
    """One element of the first row."""
    if run_json(effnet, *QUICK, *PEAK, "--m", "3")["backend"] != "onednn":
        pytest.skip("this build has no oneDNN to break")
    (tmp_path / "breaker.c").write_text(BREAKER)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", tmp_path / "breaker.so", tmp_path / "breaker.c", "-ldl"],
                   check=True)
    extra = {"LD_PRELOAD": str(tmp_path / "breaker.so"), "EFFNET_BREAK_CHANNELS": "40", "EFFNET_BREAK_BY": by}
    if sanitized:  # the sanitizer's library need not come first
        extra["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
    command = [*QUICK, *PEAK, "--m", "100", "--epilogue", "none"]
    done = effnet(*command, env=os.environ | extra)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (MISS, "", 1)
    assert "wrong" in done.stderr and "m 100" in done.stderr
    assert effnet(*command, "--no-verify", env=os.environ | extra).returncode == 0


@pytest.mark.parametrize("arguments, status, word", [
    (["--m", "0"], USAGE, "--m: '0' is not"),
    (["--n", "1048577"], USAGE, "from 1 to 1048576"),
    (["--k", "1e3"], USAGE, "--k"),
    (["--epilogue", "tanh"], USAGE, "bn-gelu-relu"),
    (["--x-type", "bf16"], USAGE, "fp16|fp32"),
    (["--m", "4", "--sweep"], USAGE, "together"),
    (["--batch", "4"], USAGE, "'--batch'"),
    (["image.png"], USAGE, "unexpected 'image.png'"),
    (["--device", "toaster"], USAGE, "toaster"),
    (["--device", "reference"], USAGE, "cpu, cuda or cuda:N"),
    (["--device", "cuda:999"], UNAVAILABLE, "cuda"),
    (["--device", "cpu", "--m", "1048576", "--n", "1048576", "--k", "1048576"], NOMEM, "GB"),
])
def test_refusals(effnet, arguments, status, word):
    done = effnet("bench", "linear", *PEAK, *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1), done.stderr
    assert done.stderr.startswith("effnet: ") and word in done.stderr


def test_manual_says_what_help_says(effnet, root):
    sections = man_sections(root)
    done = effnet("bench", "linear", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: effnet bench linear [options]\n")
    assert help_options(done.stdout) == man_options(sections["bench linear"])
    assert plain(done.stdout.split("\n\n")[1]) in plain(sections["bench linear"])
    assert "effnet bench linear" in effnet("bench", "--help").stdout
