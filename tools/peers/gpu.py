"""effnet against PyTorch on an NVIDIA GPU: the same weights, fp16, channels-last."""

from pathlib import Path

from . import common


CHUNK = 64  # runs queued at a time
HOLD_CYCLES = 40_000_000  # 20 ms at 2 GHz: longer than the host needs to queue a chunk


def event_timer(torch, run):
    """A contender that times each run by CUDA events. The GPU is held back until a chunk of runs is queued, so
    that what the host takes to launch them is not counted: it is the device's time alone, as effnet's is."""

    def contender(count):
        pairs = []
        while len(pairs) < count:
            torch.cuda._sleep(HOLD_CYCLES)
            for _ in range(min(CHUNK, count - len(pairs))):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                run()
                end.record()
                pairs.append((start, end))
            torch.cuda.synchronize()
        return [start.elapsed_time(end) * 1e3 for start, end in pairs]

    return contender


def capture(torch, run):
    """Records run() as a CUDA graph; returns (replay, the output it writes to)."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()
    return graph.replay, output


def compare_network(options, report, torch, network, batch):
    from .torch_network import Network

    weights = Path("weights") / f"{network}.safetensors"
    pixels, preprocess = common.sample_pixels(weights, batch)
    x = torch.from_numpy(common.pillow_preprocess.normalise(pixels, preprocess)).cuda()
    fp32 = Network(weights).cuda()
    with torch.inference_mode():
        truth = fp32(x[: min(batch, 16)]).cpu().numpy()
    allowance = 1e-2  # of fp16 through dozens of layers

    def half(**variant):
        return Network(weights, **variant).cuda().half().to(memory_format=torch.channels_last)

    folded, published = half(), half(batch_norm=True)
    x = x.half().contiguous(memory_format=torch.channels_last)

    sessions, contenders = {}, {}
    for plan in options.plan or ["auto"]:
        session = common.Effnet(options.build, weights, "cuda", "fp16", 0, batch, plan)
        session.pixels(pixels)
        name = "effnet" if plan == "auto" else f"effnet, plan {plan}"
        common.check(name, session.logits()[: len(truth)], truth, allowance)
        sessions[name] = session
        contenders[name] = session.time

    def graph(model):
        replay, output = capture(torch, lambda: model(x))
        replay()
        return replay, output

    def compiled(model):
        torch._dynamo.reset()
        function = torch.compile(model, mode="reduce-overhead")
        for _ in range(3):
            output = function(x)
        return lambda: function(x), output

    # The published networks keep batch norm as layers; folding it first is what a careful user would do.
    peers = {"Torch graph": lambda: graph(published), "Torch graph, folded": lambda: graph(folded)}
    if not options.no_compile:
        peers |= {"torch.compile": lambda: compiled(published), "torch.compile, folded": lambda: compiled(folded)}
    with torch.inference_mode():
        for name, prepare in peers.items():
            try:
                run, output = prepare()
            except Exception as error:  # whatever a compiler may raise; the others still have their turn
                report.skip(f"{name}, {network}, batch {batch}", repr(error)[:300])
                continue
            common.check(name, output.float().cpu().numpy()[: len(truth)], truth, allowance)
            contenders[name] = event_timer(torch, run)
        results = common.take_turns(contenders, options.rounds, turn_s=0.25)
    for session in sessions.values():
        session.close()
    report.table(f"{network}, batch {batch}, fp16, compute alone, warm", results, list(sessions))


def import_torch(report):
    """PyTorch with a GPU, or None."""
    try:
        import torch
    except ImportError:
        report.skip("PyTorch", "not installed")
        return None
    if not torch.cuda.is_available():
        report.skip("PyTorch", "it sees no CUDA device")
        return None
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    return torch


def compare(options, report):
    torch = import_torch(report)
    if torch is None:
        raise common.CannotCompare("nothing to compare with")
    for network in options.networks.split(","):
        for batch in options.batch:
            compare_network(options, report, torch, network, batch)
