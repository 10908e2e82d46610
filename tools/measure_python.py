#!/usr/bin/env python3
"""What the Python package costs beside the C library and the program, in one run: docs/python.md has the figures.

    make wheel program weights
    .venv-python/bin/python tools/measure_python.py [ROUNDS]

Contenders take turns, and a ratio is taken within a round. Prints medians and, in brackets, the least and the most; "of
all" is the ratio of the sums."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import PROGRAM, ROOT, shown, write_photos

PACKAGE = ROOT / "build/python/package"
sys.path.insert(0, str(PACKAGE))
import effnet
from effnet._library import ffi, lib

FILES, BATCH = 1000, 32

START = """
import time, numpy
since, spent = time.perf_counter(), time.process_time()
import effnet
effnet.Model("lite1").session("cpu").classify("samples/maze.png")
print(time.perf_counter() - since, time.process_time() - spent)
"""
STREAM = """
import sys, effnet
session = effnet.Model("lite1").session("cpu", batch=%d)
for answer in session.classify_iter(sys.stdin.read().splitlines(), 1):
    print(answer.image, answer.classes[0].index)
""" % BATCH


def processor_seconds():
    """Of all threads, and of children that have ended: other load hardly shows in them."""
    of = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in of)


def timed(work):
    """(seconds, seconds of processors)"""
    since, spent = time.perf_counter(), processor_seconds()
    work()
    return time.perf_counter() - since, processor_seconds() - spent


def compare(what, ours, theirs, rounds, warm=0):
    """Two functions, which take turns. Who begins changes from round to round."""
    times = {ours: [], theirs: []}
    for i in range(warm + rounds):
        for work in (ours, theirs) if i % 2 else (theirs, ours):
            took = timed(work)
            if i >= warm:
                times[work].append(took)
    print(f"{what}, {rounds} rounds")
    for i, kind in enumerate(("time", "processor time")):
        mine, others = ([took[i] for took in times[work]] for work in (ours, theirs))
        ratios = shown([a / b for a, b in zip(mine, others, strict=True)])
        print(f"  {kind}: {shown(mine, 1e3)} against {shown(others, 1e3)} ms, ratio {ratios}, "
              f"of all {sum(mine) / sum(others):.4g}", flush=True)


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
        compare(f"session.logits, batch {batch}, against the C call", lambda: session.logits(pixels),
                lambda: run(*arguments), rounds, warm=3)


def process(command, files):
    names = "".join(f"{file}\n" for file in files)
    return subprocess.run(command, input=names, check=True, capture_output=True, text=True).stdout


def measure_start(rounds):
    starts = [[float(word) for word in process([sys.executable, "-c", START], []).split()] for _ in range(rounds)]
    times, spent = zip(*starts, strict=True)
    print(f"import and first answer, beyond numpy's import, {rounds} starts")
    print(f"  time: {shown(times, 1e3)} ms\n  processor time: {shown(spent, 1e3)} ms", flush=True)


def measure_files(folder, rounds):
    files = [str(path) for path in write_photos(folder, FILES)]
    python = [sys.executable, "-c", STREAM]
    program = [PROGRAM, "classify", "-m", "lite1", "--device", "cpu", "-b", str(BATCH), "-k", "1", "--format", "csv", "-q",
               "--files-from", "-"]
    answers = [line.split()[1] for line in process(python, files).splitlines()]
    if answers != [line.split(",")[1] for line in process(program, files).splitlines()[1:]]:
        sys.exit("other answers")
    compare(f"{FILES} files by classify_iter, the whole process, against effnet classify", lambda: process(python, files),
            lambda: process(program, files), rounds)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    os.environ["PYTHONPATH"] = str(PACKAGE)
    os.chdir(ROOT)
    measure_logits(1, 60 * rounds)
    measure_logits(32, 10 * rounds)
    measure_start(8 * rounds)
    with tempfile.TemporaryDirectory() as folder:
        measure_files(Path(folder), rounds)


if __name__ == "__main__":
    main()
