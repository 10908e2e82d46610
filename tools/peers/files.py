"""effnet against Python programs, from files to classes: whole folders of JPEGs.

A peer's time begins when it has opened its network, compiled it and started its processes. effnet's is that of the
whole process, from its start to its end.
"""

import csv
import io
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from . import common

NETWORK = "lite1"
TURN_LIMIT_S = 600


def find_files(operands):
    """The JPEGs of folders and names, in order."""
    files = []
    for operand in map(Path, operands):
        files += sorted(p for p in operand.iterdir() if p.suffix in (".jpg", ".jpeg")) if operand.is_dir() else [operand]
    if not files:
        raise common.CannotCompare("no files: name JPEGs, or folders that hold some")
    return [str(file) for file in files]


def effnet_peer(options, build, files, *arguments):
    """(seconds, classes) of one process."""
    command = [str(Path(build) / "effnet"), "classify", "-m", f"weights/{NETWORK}.safetensors", "--device",
               options.device, "-k", "1", "--format", "csv", "-q", "-b", str(options.batch[0])]
    if options.threads:
        command += ["--threads", str(options.threads)]

    def run():
        start = time.perf_counter()
        done = subprocess.run([*command, *arguments, *files], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env=common.environment(build), check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise common.CannotCompare(f"{build}/effnet: {done.stderr.strip()[:300]}")
        return seconds, [int(row["index_0"]) for row in csv.DictReader(io.StringIO(done.stdout, newline=""))]

    return run


def error_of(text):
    """What a process complains of: the module that it lacks, else its last line."""
    lines = [line for line in text.strip().splitlines() if line] or ["it says nothing"]
    return next((line for line in lines if line.startswith("ModuleNotFoundError")), lines[-1])[:300]


def python_peer(options, files, kind, workers, threads):
    names = "".join(file + "\0" for file in files).encode()

    def run():
        go, started = os.pipe()
        os.dup2(go, 3) if go != 3 else None
        command = [sys.executable, "tools/peers/classify_files.py", kind, f"weights/{NETWORK}.safetensors",
                   f"weights/{NETWORK}.onnx", str(workers), str(threads), str(options.peer_batch)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   pass_fds=[3], env={**os.environ, "PYTHONPATH": "tools"})
        process.stdin.write(names)
        process.stdin.close()
        ready = process.stdout.readline()
        if ready:
            time.sleep(common.SETTLE_S)
            os.write(started, b"g")
        text = process.stdout.read().decode()
        os.close(started)
        if process.wait(TURN_LIMIT_S) or not ready:
            raise common.CannotCompare(error_of(process.stderr.read().decode()))
        seconds, classes = text.split("\n")[:2]
        return float(seconds), [int(c) for c in classes.split()]

    return run


def contenders(options, files):
    found = {"effnet": effnet_peer(options, options.build, files)}
    if options.device == "cpu":
        cores = options.threads or len(os.sched_getaffinity(0))
        for kind in "onnxruntime", "openvino":
            found[f"Pillow + {kind}, 1 process of {cores} threads"] = python_peer(options, files, kind, 1, cores)
            found[f"Pillow + {kind}, {cores} processes of 1 thread"] = python_peer(options, files, kind, cores, 1)
    else:
        workers = len(os.sched_getaffinity(0))
        if options.decode_gpu:
            found["effnet, --decode gpu"] = effnet_peer(options, options.build, files, "--decode", "gpu")
        found["Pillow + DataLoader + torch.compile"] = python_peer(options, files, "dataloader", workers, 1)
        found["torchvision nvJPEG + torch.compile"] = python_peer(options, files, "nvjpeg", workers, 1)
    if options.base:
        found["effnet, base"] = effnet_peer(options, options.base, files)
    return found


def compare(options, report):
    files = find_files(options.files)
    found = contenders(options, files)
    truth, times = None, {name: [] for name in found}
    for turn in range(options.rounds + 1):  # the first start of each is not counted: caches, kernels that are loaded
        for name in list(found) if turn % 2 == 0 else reversed(list(found)):
            try:
                seconds, classes = found[name]()
            except common.CannotCompare as error:
                if name == "effnet":
                    raise
                report.skip(name, str(error))
                del found[name], times[name]
                continue
            truth = truth or classes
            agree = sum(a == b for a, b in zip(classes, truth))
            if len(classes) != len(files) or agree < 0.95 * len(files):
                raise common.CannotCompare(f"{name}: {agree} of {len(files)} classes as effnet's")
            if turn:
                times[name].append([seconds * 1e6])
    report.table(f"{NETWORK}, {len(files)} files on {options.device}", times, [n for n in times if n.startswith("effnet")])
    print()
    for name, turns in times.items():
        print(f"{name}: {len(files) / statistics.median(t[0] for t in turns) * 1e6:.0f} files/s")
