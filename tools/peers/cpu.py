"""effnet against onnxruntime and OpenVINO on the CPU, in floats and in 8-bit integers."""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from . import common, integers

ONE_IMAGE = "samples/analog_clock.png"
INT8_ALLOWANCE = 1  # of logits' relative L2, to tell a network from noise: what integers lose has a table of its own


def processor():
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown processor"


def has_bf16():
    with open("/proc/cpuinfo") as file:
        return any(flag in line for line in file for flag in (" avx512_bf16", " amx_bf16"))


def onnxruntime_peer(onnx, threads, precision="fp32"):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
    return f"onnxruntime {onnxruntime.__version__} {precision}", lambda x: session.run(None, {"input": x})[0]


def openvino_peer(path, threads, precision, shape):
    """precision: "f32", "bf16", or "int8" of a network that NNCF made, whose other layers are then of f32."""
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape(list(shape))
    compiled = core.compile_model(model, "CPU", {
        "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32" if precision == "int8" else precision,
    })
    request = compiled.create_infer_request()

    def run(x):
        request.infer({0: x}, share_inputs=True)
        return request.get_output_tensor(0).data

    name = {"f32": "fp32"}.get(precision, precision)
    return f"OpenVINO {openvino.__version__.split('-')[0]} {name}", run


def integer_peers(files, threads, shape):
    """{contender: run}"""
    peers = {"onnxruntime": lambda path: onnxruntime_peer(path, threads, "int8"),
             "OpenVINO": lambda path: openvino_peer(path, threads, "int8", shape)}
    return dict(peer(files[name]) for name, peer in peers.items() if name in files)


def compare_integers(options, report, network, images, folder):
    """Makes the networks of integers, {contender: file}, and tells how often their answers are those of fp32."""
    calibration, test = images
    weights = Path("weights") / f"{network}.safetensors"
    files = integers.quantize_all(options, report, network, calibration, folder)
    if not files:
        return files
    preprocess = common.pillow_preprocess.read_preprocess(weights)
    pixels = integers.read_pixels(test, preprocess)

    def effnet_logits(path):
        session = common.Effnet(options.build, path, "cpu", "-", options.threads)
        try:
            return np.concatenate([session.pixels_to_logits(crop[None]) for crop in pixels])
        finally:
            session.close()

    def peer_logits(run):
        return np.concatenate([np.array(run(common.pillow_preprocess.normalise(crop[None], preprocess)))
                               for crop in pixels])

    logits = {"effnet int8": effnet_logits(files["effnet"])}
    for name, run in integer_peers(files, options.threads, (1, 3, preprocess["crop"], preprocess["crop"])).items():
        logits[name] = peer_logits(run)
    integers.report_agreement(report, f"{network}, int8, calibrated with {len(calibration)} images", logits,
                              effnet_logits(weights))
    return files


def compare_network(options, report, network, batch, int8_files):
    weights, onnx = Path("weights") / f"{network}.safetensors", Path("weights") / f"{network}.onnx"
    pixels, preprocess = common.sample_pixels(weights, batch)
    x = common.pillow_preprocess.normalise(pixels, preprocess)

    ours = {}
    for precision in ["fp32", "bf16"] if has_bf16() else ["fp32"]:
        session = common.Effnet(options.build, weights, "cpu", precision, options.threads, batch)
        session.pixels(pixels)
        ours[f"effnet {session.backend} {precision}"] = session
    if not has_bf16():
        report.skip("bf16", "this processor has no such instructions")
    if int8_files:
        session = common.Effnet(options.build, int8_files["effnet"], "cpu", "int8", options.threads, batch)
        session.pixels(pixels)
        ours["effnet int8"] = session
    fp32 = next(iter(ours))
    truth = ours[fp32].logits()
    contenders = {name: session.run for name, session in ours.items()}
    for name, session in ours.items():
        allowance = {fp32: 0, "effnet int8": INT8_ALLOWANCE}.get(name, 0.05)
        common.check(name, session.logits(), truth, allowance)

    def enter(name, run, allowance):
        common.check(name, run(x), truth, allowance)
        contenders[name] = common.timed(lambda: run(x))

    enter(*onnxruntime_peer(onnx, options.threads), 1e-4)
    try:
        enter(*openvino_peer(onnx, options.threads, "f32", x.shape), 1e-4)
        if has_bf16():
            enter(*openvino_peer(onnx, options.threads, "bf16", x.shape), 0.1)
    except ImportError:
        report.skip("OpenVINO", "not installed")
    for name, run in integer_peers(int8_files, options.threads, x.shape).items():
        enter(name, run, INT8_ALLOWANCE)

    try:
        results = common.take_turns(contenders, options.rounds)
    finally:
        for session in ours.values():
            session.close()
    report.table(f"{network}, batch {batch}, {options.threads} threads, pixels to logits", results, list(ours))


# A process's peak memory counts that of the process it was spawned from, so a small one does the spawning.
SPAWN = """
import os, sys, time
start = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, usage = os.wait4(child, 0)
print((time.perf_counter() - start) * 1e6, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status))
"""


def spawn(command):
    """Runs a command to its end: wall time in microseconds, and peak resident bytes."""
    helper = [sys.executable, "-I", "-S", "-c", SPAWN, *command]
    done = subprocess.run(helper, stdout=subprocess.PIPE, text=True, check=True)
    elapsed_us, peak_bytes, status = done.stdout.split()
    if status != "0":
        raise common.CannotCompare(f"{' '.join(command)}: exit status {status}")
    return float(elapsed_us), int(peak_bytes)


def compare_processes(options, report):
    """One PNG from the command line, files warm; then peak memory, also of a batch of 32."""
    effnet = [str(Path(options.build) / "effnet"), "classify", "--device", "cpu", "--threads", str(options.threads),
              "--model", "weights/lite1.safetensors"]
    python = [sys.executable, "tools/classify_onnxruntime.py", "--threads", str(options.threads)]
    peaks = {"effnet classify": [], "Python, onnxruntime": []}

    def contender(name, command):
        def run(count):
            measured = [spawn(command) for _ in range(count)]
            peaks[name].append(max(peak for _, peak in measured))
            return [elapsed for elapsed, _ in measured]

        return run

    results = common.take_turns({
        "effnet classify": contender("effnet classify", [*effnet, ONE_IMAGE]),
        "Python, onnxruntime": contender("Python, onnxruntime", [*python, ONE_IMAGE]),
    }, options.rounds, turn_s=0)
    report.table("whole process, one PNG, lite1", results, ["effnet classify"])

    files = [str(p) for p in sorted(Path("samples").iterdir())]
    thirty_two = [files[i % len(files)] for i in range(32)]
    _, ours = spawn([*effnet, "--batch-size", "32", *thirty_two])
    _, theirs = spawn([*python, *thirty_two])
    print("\npeak memory, MB (10⁶ bytes)\n\n| contender | batch 1 | batch 32 |\n|---|--:|--:|")
    for (name, one), many in zip(peaks.items(), (ours, theirs)):
        print(f"| {name} | {statistics.median(one) / 1e6:.0f} | {many / 1e6:.0f} |")
        report.measured.append({"title": "peak memory", "contender": name, "unit": "bytes",
                                "batch 1": statistics.median(one), "batch 32": many})


def find_images(options, report, folder):
    try:
        return None if options.skip_int8 else integers.images_of(options, folder)
    except integers.photographs.PhotographsMissing as error:
        report.skip("int8", error)
        return None


def compare(options, report):
    print(f"{processor()}, {len(os.sched_getaffinity(0))} processors, {options.threads} threads each; NumPy "
          f"{np.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        images = find_images(options, report, Path(folder))
        for network in options.networks.split(","):
            int8_files = compare_integers(options, report, network, images, Path(folder)) if images else {}
            for batch in options.batch:
                compare_network(options, report, network, batch, int8_files)
    if not options.skip_processes:
        compare_processes(options, report)
