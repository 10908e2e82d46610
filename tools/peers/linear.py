"""effnet's linear kernel against cuBLAS and PyTorch on an NVIDIA GPU."""

import json
import math
import subprocess
import time
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
# second, and it recovers while our process makes its data.
WARMUP_S = 0.5
# Large products are timed a second time after so long a rest that the limit of power does not count.
PAUSE_S = 0.05
PAUSED_CALLS = 7
LARGE_FLOPS = 1e11


class EffnetBench:
    """`effnet bench linear`, a process for each turn, the first of them verified."""

    def __init__(self, options, m, n, k, epilogue, output):
        self.command = [str(Path(options.build) / "effnet"), "bench", "linear", "--m", str(m), "--n", str(n),
                        "--k", str(k), "--epilogue", epilogue, "--y-type", output, "--device", "cuda",
                        "--format", "json", "--peak-compute", "1e6"]
        self.environment = common.environment(options.build)
        self.idle_s = 0.0  # of the GPU in a turn, while the process starts and makes its data
        first = self.row("--repetitions", "3")
        self.pass_s = 2 * first["median_us"] * first["calls"] / 1e6  # what goes before the timed calls is as long
        self.command.append("--no-verify")

    def row(self, *arguments):
        done = subprocess.run([*self.command, *arguments], capture_output=True, text=True, env=self.environment,
                              check=False)
        if done.returncode != 0:
            raise common.CannotCompare(f"{' '.join(self.command)}: {done.stderr.strip()}")
        (row,) = json.loads(done.stdout)["results"]
        return row

    def turn(self, _count):
        """A contender whose only time is the median of a turn."""
        start = time.monotonic()
        row = self.row("--warmup", str(math.ceil(WARMUP_S / self.pass_s)), "--duration", str(TURN_S))
        self.idle_s = max(0.0, time.monotonic() - start - WARMUP_S - TURN_S)
        return [row["median_us"]] * 2  # take_turns drops the first

    def paused_turn(self, count):
        row = self.row("--warmup", "1", "--repetitions", str(count), "--pause", str(1e3 * PAUSE_S))
        return [row["median_us"]] * 2


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


def paused_timer(torch, run):
    """A contender that rests before each run, and lets one that is not timed go ahead, as effnet's bench does: the host
    queues the other meanwhile."""

    def contender(count):
        times = []
        for _ in range(count):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            time.sleep(PAUSE_S)
            run()
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) * 1e3)
        return times

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
    flops = 2.0 * m * n * k
    generator = torch.Generator("cuda").manual_seed(1)
    x = torch.randn(m, k, device="cuda", generator=generator).half()
    weight = (torch.randn(n, k, device="cuda", generator=generator) / math.sqrt(k)).half()
    run, truth = program(torch, weight, epilogue, output)
    # A graph of several calls, so that its launch does not count; each call finds its inputs in the cache.
    inner = max(1, min(50, round(2e10 / flops)))
    effnet = EffnetBench(options, m, n, k, epilogue, output)
    contenders = {"effnet": effnet.turn}
    paused = {"effnet": effnet.paused_turn}

    def add(name, function):
        """Lets it take part; returns its result."""

        def many():
            for _ in range(inner):
                result = function(x)
            return result

        replay, result = capture(torch, many)
        time_many = back_to_back_timer(torch, replay)

        def turn(count):
            time.sleep(effnet.idle_s)  # as effnet's: a chip that comes straight from work is hotter, and slower
            typical_us = max(time_many(2)[1], 1)
            warmup = round(1e6 * WARMUP_S / typical_us)
            return [t / inner for t in time_many(warmup + count)[warmup:]]

        replay()
        contenders[name] = turn
        paused[name] = paused_timer(torch, replay)
        return result

    with torch.inference_mode():
        add("cuBLAS, the product alone, fp16 out", lambda v: torch.mm(v, weight.t()))
        if output == "fp32":
            add("cuBLAS, the product alone, fp32 out", lambda v: torch.mm(v, weight.t(), out_dtype=torch.float32))
        rows = slice(0, min(m, 256))
        expected = truth(x[rows]).cpu().numpy()
        programs = {"Torch graph": run}
        if not options.no_compile:
            torch._dynamo.reset()
            programs["torch.compile"] = torch.compile(run)
        for name, function in programs.items():
            try:
                result = add(name, function)
            except Exception as error:  # whatever a compiler may raise; the others still have their turn
                report.skip(f"{name}, {shape}", repr(error)[:300])
                continue
            common.check(name, result[rows].double().cpu().numpy(), expected, 5e-3)
        title = f"M {m}, N {n}, K {k}, {epilogue}, {output} out, microseconds"
        results = common.take_turns(contenders, options.rounds, turn_s=TURN_S)
        tabulate(report, title, results, flops)
        if flops >= LARGE_FLOPS:
            results = common.take_turns(paused, options.rounds, turn_s=0, least=PAUSED_CALLS)
            tabulate(report, f"{title}, after {1e3 * PAUSE_S:.0f} ms of rest", results, flops)


def tabulate(report, title, results, flops):
    report.table(title, results, ["effnet"], "us")
    for row in report.measured[-len(results):]:
        row["tflop_per_s"] = flops / row["median"] / 1e6
        print(f"  {row['contender']}: {row['tflop_per_s']:.1f} TFLOP/s")


def compare(options, report):
    torch = import_torch(report)
    if torch is None:
        raise common.CannotCompare("nothing to compare with")
    for shape in options.shape or SHAPES:
        compare_shape(options, report, torch, shape)
