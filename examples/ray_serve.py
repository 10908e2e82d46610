"""A service by Ray Serve: an image in the body of a POST, JSON out.

    ray_serve.py --port 8000
    curl --data-binary @photo.jpg localhost:8000

Images that come at about the same time go through the network together. What is no image gets 400, one that is too
large 413, another method 405, each with one line of text; the others do not wait for it. Wants effnet and ray[serve].
"""

import argparse
import asyncio
import time

import ray
from ray import serve
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

import effnet

BATCH = 32


def refuse(status: int, words: str) -> Response:
    return PlainTextResponse(" ".join(words.split()) + "\n", status)


@serve.deployment(max_ongoing_requests=4 * BATCH)
class Classifier:
    def __init__(self, model: str, device: str, threads: int, k: int, max_bytes: int, max_pixels: int):
        self.session = effnet.Model(model).session(device, batch=BATCH, threads=threads)
        self.k, self.max_bytes, self.max_pixels = k, max_bytes, max_pixels

    def _classify(self, images: list[bytes]) -> list[effnet.Prediction]:
        with self.session.classify_iter(images, self.k, max_pixels=self.max_pixels) as predictions:
            return list(predictions)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.005)
    async def classify(self, images: list[bytes]) -> list[effnet.Prediction]:
        """In a thread, so that uploads go on meanwhile."""
        return await asyncio.to_thread(self._classify, images)

    async def _read(self, request: Request) -> bytes | None:
        """None: it is too large, which is known before all of it is in memory."""
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self.max_bytes:
                return None
            parts.append(part)
        return b"".join(parts)

    async def __call__(self, request: Request) -> Response:
        if request.method != "POST":
            return refuse(405, "POST an image")
        try:
            image = await self._read(request)
        except ClientDisconnect:
            return refuse(400, "the upload broke off")
        if image is None:
            return refuse(413, f"more than {self.max_bytes} bytes")
        prediction = await self.classify(image)
        if prediction.error is not None:
            return refuse(400, str(prediction.error).removeprefix(f"image {prediction.index}: "))
        return JSONResponse([
            {"index": c.index, "id": c.id, "label": c.name, "probability": c.probability} for c in prediction.classes
        ])


def run(*, model="lite1", k=5, host="127.0.0.1", port=8000, replicas=1, cpus=1.0, gpus=0.0, max_bytes=32 << 20,
        max_pixels=50_000_000):
    """Starts the service in the Ray cluster, and returns once it answers."""
    serve.start(http_options={"host": host, "port": port})
    options = {"num_cpus": cpus} | ({"num_gpus": gpus} if gpus else {})
    service = Classifier.options(num_replicas=replicas, ray_actor_options=options)
    serve.run(service.bind(model, "cuda" if gpus else "cpu", max(1, int(cpus)), k, max_bytes, max_pixels))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", default="lite1", help="weights file, or a network's name")
    parser.add_argument("-k", "--topk", type=int, default=5, dest="k")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--cpus", type=float, default=1, help="cores a replica")
    parser.add_argument("--gpus", type=float, default=0, help="1: a replica's session is on a GPU")
    parser.add_argument("--max-bytes", type=int, default=32 << 20, help="of an upload")
    parser.add_argument("--max-pixels", type=int, default=50_000_000, help="of an image")
    options = vars(parser.parse_args())
    ray.init(log_to_driver=False)
    run(**options)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
