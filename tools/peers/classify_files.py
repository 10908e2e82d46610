"""A peer as a process: files in, classes out. Started by files.py.

    python3 tools/peers/classify_files.py KIND WEIGHTS ONNX WORKERS THREADS BATCH < NUL-separated names

KIND: onnxruntime, openvino (Pillow, with WORKERS processes of THREADS threads each), dataloader (Pillow in WORKERS
processes, torch.compile on the GPU), nvjpeg (torchvision decodes and resizes on the GPU). Whoever takes long to start
gets ready first, and says so by a line; the time from a line of standard input on is what counts. Prints the seconds
and then a class a file.
"""

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import pillow_preprocess

_run = None  # in a worker process: pixels -> classes
_preprocess = None


def read(path):
    with Image.open(path) as image:
        return pillow_preprocess.fit(image, _preprocess)


def open_onnxruntime(onnx, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"input": x})[0]


def open_openvino(onnx, threads):
    import openvino

    compiled = openvino.Core().compile_model(openvino.Core().read_model(onnx), "CPU", {
        "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()

    def run(x):
        request.infer({0: x}, share_inputs=True)
        return request.get_output_tensor(0).data

    return run


def start_worker(kind, weights, onnx, threads):
    global _run, _preprocess
    _preprocess = pillow_preprocess.read_preprocess(weights)
    _run = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}[kind](onnx, threads)


def classify(paths):
    pixels = np.stack([read(path) for path in paths])
    return _run(pillow_preprocess.normalise(pixels, _preprocess)).argmax(1).tolist()


def wait_for_start():
    print("ready", flush=True)
    os.read(3, 1)  # files.py holds the other end
    return time.perf_counter()


def on_cpu(kind, weights, onnx, workers, threads, batch, paths):
    batches = [paths[i:i + batch] for i in range(0, len(paths), batch)]
    with ProcessPoolExecutor(workers, initializer=start_worker, initargs=(kind, weights, onnx, threads)) as pool:
        list(pool.map(classify, [paths[:1]] * 4 * workers))  # everybody has opened its session
        start = wait_for_start()
        classes = [c for part in pool.map(classify, batches) for c in part]
        return time.perf_counter() - start, classes


class Files:
    """A torch dataset of crops."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return read(self.paths[index])


def compiled_network(weights, batch):
    import torch

    from peers.torch_network import Network

    torch.backends.cudnn.benchmark = True
    network = Network(weights).cuda().half().to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(_preprocess[k], device="cuda").view(1, 3, 1, 1) for k in ("mean", "std"))
    function = torch.compile(network, mode="reduce-overhead")

    def run(pixels):  # uint8 [n][3][crop][crop] on the GPU; always a whole batch, which is what was compiled
        n = len(pixels)
        if n < batch:
            pixels = torch.cat([pixels, pixels[:1].expand(batch - n, -1, -1, -1)])
        x = ((pixels.float() - mean) / std).half().contiguous(memory_format=torch.channels_last)
        return function(x)[:n].argmax(1)

    crop = _preprocess["crop"]
    with torch.inference_mode():
        for _ in range(3):
            run(torch.zeros(batch, 3, crop, crop, dtype=torch.uint8, device="cuda"))
    torch.cuda.synchronize()
    return torch, run


def by_dataloader(weights, workers, batch, paths):
    torch, run = compiled_network(weights, batch)
    loader = torch.utils.data.DataLoader(Files(paths), batch_size=batch, num_workers=workers, pin_memory=True,
                                         prefetch_factor=2, collate_fn=lambda crops: torch.from_numpy(np.stack(crops)))
    start, classes = wait_for_start(), []
    with torch.inference_mode():
        for pixels in loader:
            classes.append(run(pixels.cuda(non_blocking=True).permute(0, 3, 1, 2)))
        answer = torch.cat(classes).tolist()
    return time.perf_counter() - start, answer


def by_nvjpeg(weights, workers, batch, paths):
    torch, run = compiled_network(weights, batch)
    import torchvision
    from torchvision.transforms import v2

    size, crop = _preprocess["short_side"], _preprocess["crop"]
    mode = {"bicubic": v2.InterpolationMode.BICUBIC, "bilinear": v2.InterpolationMode.BILINEAR}
    fit = v2.Compose([v2.Resize(size, mode[_preprocess["interpolation"]], antialias=True), v2.CenterCrop(crop)])

    def step(part, pool):
        data = list(pool.map(torchvision.io.read_file, part))
        images = torchvision.io.decode_jpeg(data, mode=torchvision.io.ImageReadMode.RGB, device="cuda")
        return run(torch.stack([fit(image) for image in images]))

    from concurrent.futures import ThreadPoolExecutor

    with torch.inference_mode(), ThreadPoolExecutor(workers) as pool:
        step(paths[:batch], pool)
        torch.cuda.synchronize()
        start = wait_for_start()
        classes = [step(paths[i:i + batch], pool) for i in range(0, len(paths), batch)]
        answer = torch.cat(classes).tolist()
    return time.perf_counter() - start, answer


def main():
    global _preprocess
    kind, weights, onnx = sys.argv[1:4]
    workers, threads, batch = map(int, sys.argv[4:])
    paths = sys.stdin.read().split("\0")[:-1]
    _preprocess = pillow_preprocess.read_preprocess(weights)
    if kind == "dataloader":
        seconds, classes = by_dataloader(weights, workers, batch, paths)
    elif kind == "nvjpeg":
        seconds, classes = by_nvjpeg(weights, workers, batch, paths)
    else:
        seconds, classes = on_cpu(kind, weights, onnx, workers, threads, batch, paths)
    print(seconds)
    print(*classes)


if __name__ == "__main__":
    main()
