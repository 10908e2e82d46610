"""The examples for Ray, on a cluster of three nodes on this machine: `make check-scale`."""

import concurrent.futures
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = (ROOT / os.environ.get("EFFNET_BUILD", "build")).resolve()
FOLDERS = [str(BUILD / "python" / "package"), str(ROOT / "examples"), str(ROOT / "tests")]
sys.path[:0] = FOLDERS
os.environ["PYTHONPATH"] = ":".join(FOLDERS)  # for Ray's processes
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray_classify
import ray_serve
from cli_model import write_image, write_tiny_model
from ray.cluster_utils import Cluster

CORES = 2  # of a node, as Ray is told
NODES = 3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Every tenth is broken."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(300):
        if i % 10 == 7:
            (folder / f"{i:03}.png").write_bytes(b"GIF89a broken")
        else:
            write_image(folder / f"{i:03}.png", i)
    return folder


@pytest.fixture(scope="module")
def expected(tiny, photos):
    """The command line's answers, by name: [(index, label, probability as float32)]; of a broken one None."""
    done = subprocess.run([BUILD / "effnet", "classify", "-m", tiny, "--device", "cpu", "-b", "32", "--format", "json",
                           "-r", photos], capture_output=True, text=True, timeout=300, check=False)
    answers = {str(path): None for path in photos.iterdir()}
    for line in done.stdout.splitlines():
        answer = json.loads(line)
        answers[answer["filename"]] = [(c["index"], c["label"], np.float32(c["probability"])) for c in answer["classes"]]
    assert sum(answer is None for answer in answers.values()) == 30
    return answers


@pytest.fixture(scope="module")
def cluster():
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": CORES, "object_store_memory": 200 << 20})
    for _ in range(NODES - 1):
        started.add_node(num_cpus=CORES, object_store_memory=100 << 20)
    ray.init(address=started.address, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = 120
    started.wait_for_nodes()
    yield started
    ray.shutdown()
    started.shutdown()


def read(folder):
    return pa.concat_tables([pq.read_table(path) for path in sorted(Path(folder).rglob("*.parquet"))]).to_pylist()


def check(rows, expected):
    """Each image once, and as the command line says."""
    assert sorted(row["filename"] for row in rows) == sorted(expected)
    for row in rows:
        answer = expected[row["filename"]]
        if answer is None:
            assert row["index"] is None and row["error"].startswith("truncated")
        else:
            assert row["error"] is None
            assert list(zip(row["index"], row["label"], map(np.float32, row["probability"]), strict=True)) == answer


def test_files(cluster, tiny, photos, expected, tmp_path):
    ray_classify.classify(str(photos), str(tmp_path), model=tiny, actors=2)
    check(read(tmp_path), expected)


def test_parquet(cluster, tiny, photos, expected, tmp_path):
    """Also that actors may hold all cores."""
    names = sorted(map(str, photos.iterdir()))
    pq.write_table(pa.table({"key": names, "jpeg": [Path(name).read_bytes() for name in names]}), tmp_path / "in.parquet")
    ray_classify.classify(str(tmp_path / "in.parquet"), str(tmp_path / "out"), model=tiny, actors=NODES * CORES,
                          column="jpeg", name_column="key", rows=50)
    check(read(tmp_path / "out"), expected)


def test_a_node_is_killed(cluster, tiny, photos, expected, tmp_path, monkeypatch):
    seen = tmp_path / "seen"
    seen.mkdir()

    class Watched(ray_classify.Classifier):
        """So that the end of a node falls between its batches. Leaves a file where it has begun one."""

        def __call__(self, rows):
            (seen / ray.get_runtime_context().get_node_id()).touch()
            time.sleep(0.3)
            return super().__call__(rows)

    monkeypatch.setattr(ray_classify, "Classifier", Watched)
    killed = []

    def kill():
        workers = {node.node_id: node for node in cluster.worker_nodes}
        for _ in range(600):
            found = [workers[path.name] for path in seen.iterdir() if path.name in workers]
            if found:
                cluster.remove_node(found[0], allow_graceful=False)
                killed.append(found[0])
                return
            time.sleep(0.1)

    thread = threading.Thread(target=kill)
    thread.start()
    actors = (NODES - 1) * CORES  # they then hold all cores that are left
    ray_classify.classify(str(photos), str(tmp_path / "out"), model=tiny, actors=actors, rows=16)
    thread.join()
    assert killed, "no actor was on a node that could be killed"
    check(read(tmp_path / "out"), expected)
    cluster.add_node(num_cpus=CORES, object_store_memory=100 << 20)


# ---------------------------------------------------------------- the service


MAX_BYTES = 200_000


@pytest.fixture(scope="module")
def port(cluster, tiny):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    ray_serve.run(model=tiny, port=number, max_bytes=MAX_BYTES, max_pixels=10_000)
    yield number
    ray_serve.serve.shutdown()


def ask(port, body, method="POST"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, "/", body=body)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def break_off(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")


def test_service(port, photos, expected, tmp_path):
    """32 clients, with bad uploads among theirs: everybody gets what is due."""
    large = tmp_path / "large.png"
    write_image(large, 1, (200, 200))
    bad = [(b"no image", 400, "not a PNG"), (b"", 400, ""), (large.read_bytes(), 400, "pixels"),
           (bytes(MAX_BYTES + 1), 413, f"more than {MAX_BYTES} bytes")]
    names = sorted(expected)

    def client(number):
        for i in range(number, len(names) + number, 8):
            name = names[i % len(names)]
            status, text = ask(port, Path(name).read_bytes())
            if expected[name] is None:
                assert status == 400 and text.count("\n") == 1, text
                continue
            assert status == 200, text
            answers = [(c["index"], c["label"], np.float32(c["probability"])) for c in json.loads(text)]
            assert answers == expected[name]
            if i % 5 == 0:
                body, status, words = bad[i // 5 % len(bad)]
                answered = ask(port, body)
                assert answered[0] == status and words in answered[1] and answered[1].count("\n") == 1, answered
            if i % 50 == 0:
                break_off(port)
        return True

    with concurrent.futures.ThreadPoolExecutor(32) as clients:
        assert all(clients.map(client, range(32)))
    status, text = ask(port, None, "GET")
    assert status == 405 and text == "POST an image\n"
