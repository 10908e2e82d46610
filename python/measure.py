#!/usr/bin/env python3
"""What the Python package costs beside the C library and the program, in one run: docs/python.md has the figures.

    make wheel program weights
    .venv-python/bin/python python/measure.py [ROUNDS]

Contenders take turns, and a ratio is taken within a round. Prints medians and, in brackets, the least and the most."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, PROGRAM = ROOT / "build/python/package", ROOT / "build/effnet"
sys.path.insert(0, str(PACKAGE))
import effnet
from effnet._library import ffi, lib

FILES, BATCH = 1000, 32

START = """
import time, numpy
since = time.perf_counter()
import effnet
effnet.Model("lite1").session("cpu").classify("samples/maze.png")
print(time.perf_counter() - since)
"""
STREAM = """
import sys, effnet
session = effnet.Model("lite1").session("cpu", batch=%d)
for answer in session.classify_iter(sys.stdin.read().splitlines(), 1):
    print(answer.image, answer.classes[0].index)
""" % BATCH


def seconds(work):
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


def shown(values):
    return f"{statistics.median(values):.4g} [{min(values):.4g} to {max(values):.4g}]"


def compare(what, ours, theirs, rounds, warm=0):
    """ours and theirs: functions that return seconds. Who begins changes from round to round."""
    times = {ours: [], theirs: []}
    for i in range(warm + rounds):
        for work in (ours, theirs) if i % 2 else (theirs, ours):
            took = work()
            if i >= warm:
                times[work].append(took)
    ratios = [a / b for a, b in zip(times[ours], times[theirs], strict=True)]
    medians = statistics.median(times[ours]) / statistics.median(times[theirs])
    minima = min(times[ours]) / min(times[theirs])
    ms = [shown([1e3 * t for t in times[work]]) for work in (ours, theirs)]
    print(f"{what}: {ms[0]} against {ms[1]} ms, ratio {shown(ratios)}, of medians {medians:.4g}, of minima {minima:.4g}",
          flush=True)


def measure_logits(batch, rounds):
    """Against the same session's effnet_session_run with nothing left to prepare."""
    model = effnet.Model("lite1")
    with model.session("cpu", batch=batch) as session:
        crop = model.preprocessing.crop
        pixels = np.random.default_rng(1).integers(0, 256, (batch, crop, crop, 3), np.uint8)
        logits = np.empty((batch, model.classes), np.float32)
        arguments = (session._state.pointer, ffi.from_buffer("uint8_t[]", pixels), batch,
                     ffi.from_buffer("float[]", logits), ffi.NULL)
        run = lib.effnet_session_run
        if not np.array_equal(session.logits(pixels), (run(*arguments), logits)[1]):
            sys.exit("other logits")
        compare(f"session.logits, batch {batch}, against the C call", lambda: seconds(lambda: session.logits(pixels)),
                lambda: seconds(lambda: run(*arguments)), rounds, warm=3)


def start():
    return float(subprocess.run([sys.executable, "-c", START], check=True, capture_output=True, text=True).stdout)


def process(command, files):
    names = "".join(f"{file}\n" for file in files)
    return subprocess.run(command, input=names, check=True, capture_output=True, text=True).stdout


def measure_files(folder, rounds):
    samples = [Image.open(path).convert("RGB").resize((500, 375)) for path in sorted((ROOT / "samples").glob("*.*"))]
    files = [str(folder / f"{i}.jpg") for i in range(FILES)]
    for i, file in enumerate(files):
        samples[i % len(samples)].rotate(i).save(file, quality=90)
    python = [sys.executable, "-c", STREAM]
    program = [PROGRAM, "classify", "-m", "lite1", "--device", "cpu", "-b", str(BATCH), "-k", "1", "--format", "csv", "-q",
               "--files-from", "-"]
    answers = [line.split()[1] for line in process(python, files).splitlines()]
    if answers != [line.split(",")[1] for line in process(program, files).splitlines()[1:]]:
        sys.exit("other answers")
    what = f"{FILES} files by classify_iter, the whole process, against effnet classify"
    processor = {python[0]: [], program[0]: []}  # seconds of all threads: other load hardly shows in them

    def run(command):
        before = os.times()
        took = seconds(lambda: process(command, files))
        after = os.times()
        spent = after.children_user - before.children_user + after.children_system - before.children_system
        processor[command[0]].append(spent)
        return took

    compare(what, lambda: run(python), lambda: run(program), rounds)
    print(f"  processor time: {shown(processor[python[0]])} against {shown(processor[program[0]])} s")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    os.environ["PYTHONPATH"] = str(PACKAGE)
    os.chdir(ROOT)
    measure_logits(1, 60 * rounds)
    measure_logits(32, 6 * rounds)
    starts = [1e3 * start() for _ in range(4 * rounds)]
    print(f"import and first answer, beyond numpy's import: {shown(starts)} ms")
    with tempfile.TemporaryDirectory() as folder:
        measure_files(Path(folder), rounds)


if __name__ == "__main__":
    main()
