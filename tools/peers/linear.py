"""effnet's linear kernel against cuBLAS and PyTorch on an NVIDIA GPU."""

import json
import math
import os
import subprocess
from pathlib import Path

from . import common
from .gpu import capture, import_torch

SHAPES = [
    "16384,4096,4096,bn-gelu-relu,fp32",
    "16384,4096,4096,bn-gelu-relu,fp16",
    "1,1000,1280,bias,fp16",
    "10,1000,1280,bias,fp16",
    "256,1000,1280,bias,fp16",
]
EPSILON = 1e-5
TURN_S = 0.3
# Before a turn is timed, everybody loads the chip for so long: a large product clocks it down within a tenth of a
# second, and it recovers while our process makes its data. Passes of ours last about a millisecond.
WARMUP_S = 0.3


def effnet_bench(options, m, n, k, epilogue, output):
    """A contender: one `effnet bench linear`, the first of them verified, whose median is the turn's only time."""
    command = [str(Path(options.build) / "effnet"), "bench", "linear", "--m", str(m), "--n", str(n), "--k", str(k),
               "--epilogue", epilogue, "--y-type", output, "--device", "cuda", "--format", "json",
               "--warmup", str(round(1000 * WARMUP_S)), "--duration", str(TURN_S), "--peak-compute", "1e6"]
    environment = dict(os.environ)
    carried = Path(options.build) / "lib"
    if carried.is_dir():
        environment["LD_LIBRARY_PATH"] = f"{carried.resolve()}:{environment.get('LD_LIBRARY_PATH', '')}"

    verified = []

    def contender(_count):
        done = subprocess.run([*command, *verified], capture_output=True, text=True, env=environment, check=False)
        if done.returncode != 0:
            raise common.CannotCompare(f"{' '.join(command)}: {done.stderr.strip()}")
        verified[:] = ["--no-verify"]
        (row,) = json.loads(done.stdout)["results"]
        return [row["median_us"]] * 2  # take_turns drops the first

    return contender


def back_to_back_timer(torch, run):
    """A contender that times runs of 0.2 ms or more, one after the other: the host keeps ahead of those, and the GPU
    has no pause to cool down in."""

    def contender(count):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        events[0].record()
        for event in events[1:]:
            run()
            event.record()
        torch.cuda.synchronize()
        return [before.elapsed_time(after) * 1e3 for before, after in zip(events, events[1:])]

    return contender


def program(torch, weight, epilogue, output):
    """X -> Y as one would write it in PyTorch, with fp32 after the product where the output is fp32."""
    n = weight.shape[0]
    generator = torch.Generator("cuda").manual_seed(2)
    bias, gamma, beta, mean = (torch.randn(n, device="cuda", generator=generator) for _ in range(4))
    variance = torch.rand(n, device="cuda", generator=generator) + 0.5
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[output]
    bias = bias.to(dtype)
    activations = {"relu": torch.relu, "relu6": torch.nn.functional.relu6, "silu": torch.nn.functional.silu,
                   "gelu": torch.nn.functional.gelu}

    def run(x):
        if dtype == torch.float32:
            y = torch.mm(x, weight.t(), out_dtype=torch.float32) + bias
        else:
            y = torch.nn.functional.linear(x, weight, bias)
        for step in epilogue.split("-"):
            if step == "bn":
                y = torch.nn.functional.batch_norm(y, mean, variance, gamma, beta, False, 0.0, EPSILON)
            elif step != "bias":
                y = activations[step](y)
        return y

    def truth(x):
        y = x.double() @ weight.double().t() + bias.double()
        for step in epilogue.split("-"):
            if step == "bn":
                y = (y - mean.double()) / (variance.double() + EPSILON).sqrt() * gamma.double() + beta.double()
            elif step != "bias":
                y = activations[step](y)
        return y

    return run, truth


def compare_shape(options, report, torch, shape):
    m, n, k, epilogue, output = shape.split(",")
    m, n, k = int(m), int(n), int(k)
    generator = torch.Generator("cuda").manual_seed(1)
    x = torch.randn(m, k, device="cuda", generator=generator).half()
    weight = (torch.randn(n, k, device="cuda", generator=generator) / math.sqrt(k)).half()
    run, truth = program(torch, weight, epilogue, output)
    # A graph of several calls, so that its launch does not count; each call finds its inputs in the cache.
    inner = max(1, min(50, round(2e10 / (2.0 * m * n * k))))

    def repeated(function):
        def many():
            for _ in range(inner):
                result = function(x)
            return result

        replay, result = capture(torch, many)
        time_many = back_to_back_timer(torch, replay)

        def turn(count):
            typical_us = max(time_many(2)[1], 1)
            warmup = round(1e6 * WARMUP_S / typical_us)
            return [t / inner for t in time_many(warmup + count)[warmup:]]

        return turn, replay, result

    with torch.inference_mode():
        contenders = {"effnet": effnet_bench(options, m, n, k, epilogue, output)}
        contenders["cuBLAS, the product alone, fp16 out"] = repeated(lambda v: torch.mm(v, weight.t()))[0]
        if output == "fp32":
            contenders["cuBLAS, the product alone, fp32 out"] = repeated(
                lambda v: torch.mm(v, weight.t(), out_dtype=torch.float32))[0]
        rows = slice(0, min(m, 256))
        expected = truth(x[rows]).cpu().numpy()
        programs = {"Torch graph": run}
        if not options.no_compile:
            torch._dynamo.reset()
            programs["torch.compile"] = torch.compile(run)
        for name, function in programs.items():
            try:
                contenders[name], replay, result = repeated(function)
            except Exception as error:  # whatever a compiler may raise; the others still have their turn
                report.skip(f"{name}, {shape}", repr(error)[:300])
                continue
            replay()
            common.check(name, result[rows].double().cpu().numpy(), expected, 5e-3)
        results = common.take_turns(contenders, options.rounds, turn_s=TURN_S)
    report.table(f"M {m}, N {n}, K {k}, {epilogue}, {output} out, microseconds", results, ["effnet"], "us")
    flops = 2.0 * m * n * k
    for row in report.measured[-len(results):]:
        row["tflop_per_s"] = flops / row["median"] / 1e6
        print(f"  {row['contender']}: {row['tflop_per_s']:.1f} TFLOP/s")


def compare(options, report):
    torch = import_torch(report)
    if torch is None:
        raise common.CannotCompare("nothing to compare with")
    for shape in options.shape or SHAPES:
        compare_shape(options, report, torch, shape)
