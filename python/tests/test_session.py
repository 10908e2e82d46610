"""Sessions: the same bits as the command line, from threads, after their end, in children of fork."""

import csv
import gc
import io
import os
import threading
import time

import effnet
import numpy as np
import pytest
from PIL import Image


def csv_rows(done):
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


def as_row(name, answer):
    """As the command line prints it."""
    row = {"filename": str(name)}
    for i, found in enumerate(answer.classes):
        row |= {f"index_{i}": str(found.index), f"label_{i}": found.name, f"prob_{i}": f"{found.probability:.9g}"}
    return row


def in_threads(count, work):
    failures = []

    def guarded(i):
        try:
            work(i)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def in_child(work):
    """What `work` returns or raises, as text, in a child of fork, which then ends as Python does."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        said = file.read().decode()
    for _ in range(600):
        if os.waitpid(child, os.WNOHANG)[0]:
            return said
        time.sleep(0.05)
    os.kill(child, 9)
    pytest.fail(f"the child hangs after {said!r}")


# ---------------------------------------------------------------- equal bits


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_logits_are_the_command_lines(program, tiny, model, photos, tmp_path, device):
    done = program("classify", "-m", tiny, "--device", device, "-b", 4, "--logits", tmp_path / "logits.npy", *photos)
    assert done.returncode == 0, done.stderr
    expected = np.load(tmp_path / "logits.npy")
    with model.session(device, batch=4) as session:
        logits = session.logits(model.preprocess(photos))
        assert logits.dtype == np.float32 and logits.shape == (12, 6)
        assert np.array_equal(logits, expected)
        assert np.array_equal([a.logits for a in session.classify(photos)], expected)
        assert np.array_equal([session.classify(photo)[0].logits for photo in photos], expected)
        assert np.array_equal([a.logits for a in session.classify_iter(photos)], expected)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_embeddings_are_the_command_lines(program, tiny, model, photos, tmp_path, device):
    done = program("classify", "-m", tiny, "--device", device, "-b", 4, "--embeddings", tmp_path / "to.npy", *photos)
    assert done.returncode == 0, done.stderr
    expected = np.load(tmp_path / "to.npy")
    with model.session(device, batch=4, embeddings=True) as session:
        pixels = model.preprocess(photos)
        embeddings = session.embeddings(pixels)
        assert embeddings.dtype == np.float32 and embeddings.shape == (12, session.embedding_size)
        assert np.array_equal(embeddings, expected)
        assert session.embeddings(pixels[:0]).shape == (0, session.embedding_size)
        assert np.array_equal([session.classify(photo)[0].embedding for photo in photos], expected)
        for answers in (session.classify(photos), session.classify_iter(photos)):
            assert np.array_equal([a.embedding for a in answers], expected)
        with pytest.raises(effnet.UsageError, match="embeddings of an array of type float32"):
            session.embeddings(pixels.astype(np.float32))
        with model.session(device, batch=4) as plain:
            assert np.array_equal(session.logits(pixels), plain.logits(pixels))
            assert plain.embedding_size == 0 and plain.classify(photos[0])[0].embedding is None
            with pytest.raises(effnet.UsageError, match="made without them"):
                plain.embeddings(pixels)


def test_classes_are_the_command_lines(program, tiny, session, photos):
    rows = csv_rows(program("classify", "-m", tiny, "--device", "cpu", "-b", 4, "-k", 3, "--format", "csv", *photos))
    assert [as_row(name, a) for name, a in zip(photos, session.classify(photos, 3), strict=True)] == rows


def test_lite1_is_the_command_lines(program, root):
    """A published network, JPEG and PNG, in batches; where its weights are."""
    if not (root / "weights/lite1.safetensors").exists():
        pytest.skip("no weights of lite1 (make weights)")
    samples = sorted((root / "samples").glob("*.png")) + sorted((root / "samples").glob("*.jpg"))
    rows = csv_rows(program("classify", "-m", "lite1", "--device", "cpu", "--format", "csv", "-b", 8, *samples))
    with effnet.Model("lite1").session("cpu", batch=8) as session:
        assert [as_row(n, a) for n, a in zip(samples, session.classify_iter(samples), strict=True)] == rows


def test_every_kind_of_image_gives_the_same_logits(session, photos):
    path = photos[3]
    image = Image.open(path)
    kinds = [path, open(path, "rb").read(), np.asarray(image), image]
    alone = [session.classify(kind)[0].logits for kind in kinds]
    together = [answer.logits for answer in session.classify(kinds)]
    assert np.array_equal(alone, together) and (np.array(alone) == alone[0]).all()


def test_one_logit_row_an_image_whatever_the_batch(session, model, photos):
    pixels = model.preprocess(photos)
    whole = session.logits(pixels)
    assert np.array_equal(np.concatenate([session.logits(pixels[i:i + 1]) for i in range(12)]), whole)
    assert session.logits(pixels[:0]).shape == (0, 6)


# ---------------------------------------------------------------- memory


def test_contiguous_pixels_are_not_copied(session, monkeypatch):
    """The library is given the array's own address."""
    from effnet import _session
    from effnet._library import ffi

    addresses = []

    def look(function, *arguments):
        addresses.append(int(ffi.cast("uintptr_t", arguments[1])))

    monkeypatch.setattr(_session, "call", look)
    pixels = np.zeros((3, 16, 16, 3), np.uint8)
    read_only = pixels[1:]
    read_only.flags.writeable = False
    for array in (pixels, read_only, pixels[:, ::-1]):
        session.logits(array)
    assert addresses[:2] == [pixels.ctypes.data, read_only.ctypes.data]
    assert addresses[2] != pixels[:, ::-1].ctypes.data


def test_other_orders_of_memory(session, model, photos):
    pixels = model.preprocess(photos)
    expected = session.logits(pixels)
    turned = np.asfortranarray(pixels)
    assert np.array_equal(session.logits(turned), expected)
    assert np.array_equal(session.logits(pixels[::-1])[::-1], expected)


@pytest.mark.parametrize("pixels, said", [
    (np.zeros((1, 16, 16, 3), np.float32), "float32"),
    (np.zeros((1, 16, 16, 3), np.int8), "int8"),
    (np.zeros((16, 16, 3), np.uint8), r"\(16, 16, 3\)"),
    (np.zeros((1, 3, 16, 16), np.uint8), r"\(1, 3, 16, 16\)"),
    (np.zeros((1, 16, 17, 3), np.uint8), r"\(1, 16, 17, 3\)"),
    ([[1]], "a list"),
    (None, "a NoneType"),
])
def test_refused_pixels(session, pixels, said):
    with pytest.raises(effnet.UsageError, match=said):
        session.logits(pixels)


# ---------------------------------------------------------------- threads


def test_one_session_in_many_threads(session, model, photos):
    pixels = model.preprocess(photos)
    expected = session.logits(pixels)

    def work(i):
        for _ in range(20):
            if i % 2:
                assert np.array_equal(session.logits(pixels), expected)
            else:
                assert np.array_equal([a.logits for a in session.classify(photos[i:i + 2])], expected[i:i + 2])

    in_threads(8, work)


def test_the_interpreter_is_free_meanwhile(root, model):
    """While the plain loops of the reference compute, another thread counts."""
    counted = 0
    done = threading.Event()
    with model.session("reference") as session:
        pixels = np.zeros((4000, 16, 16, 3), np.uint8)
        thread = threading.Thread(target=lambda: (session.logits(pixels), done.set()))
        thread.start()
        while not done.is_set():
            counted += 1
        thread.join()
    assert counted > 1000


def test_closing_waits_for_a_call(model):
    for _ in range(20):
        session = model.session("reference")
        pixels = np.zeros((300, 16, 16, 3), np.uint8)
        errors = []

        def work():
            try:
                while True:
                    session.logits(pixels)
            except effnet.UsageError as error:
                errors.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        session.close()
        thread.join(60)
        assert errors == ["the session is closed"]


# ---------------------------------------------------------------- ends


def test_use_after_close(model, photos):
    session = model.session("cpu")
    session.close()
    session.close()
    assert repr(session).endswith(", closed>")
    for use in (lambda: session.logits(np.zeros((1, 16, 16, 3), np.uint8)), lambda: session.classify(photos[0]),
                lambda: session.classify(photos), lambda: session.classify_iter(photos)):
        with pytest.raises(effnet.UsageError, match="the session is closed"):
            use()
    with model.session("cpu") as session:
        pass
    with pytest.raises(effnet.UsageError):
        session.logits(np.zeros((1, 16, 16, 3), np.uint8))


def test_garbage_is_closed_in_any_order(tiny, photos):
    def threads():
        return threading.active_count(), len(os.listdir("/proc/self/task"))

    before = threads()
    for _ in range(10):
        model = effnet.Model(tiny)
        session = model.session("cpu", threads=2)
        stream = session.classify_iter(photos)
        next(stream)
        model.cycle = [session, stream, model]
        del model, session, stream
    gc.collect()
    for _ in range(100):
        if all(now <= then for now, then in zip(threads(), before)):
            return
        time.sleep(0.05)
    pytest.fail("threads are left")


def test_python_ends_with_everything_open(python, tiny, photos):
    source = """
import sys, threading, effnet
model = effnet.Model(sys.argv[1])
sessions = [model.session("cpu"), model.session("reference")]
def forever():
    yield from sys.argv[2:]
    threading.Event().wait()
stream = sessions[0].classify_iter(forever())
print(next(stream).index)
"""
    done = python(source, tiny, *photos)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


# ---------------------------------------------------------------- fork


def test_a_child_of_fork(model, session, photos):
    expected = session.classify(photos[0])[0].classes
    pixels = model.preprocess(photos)
    belongs = "UsageError: run: the session belongs to the process that this one was forked from: open another"
    assert in_child(lambda: session.logits(pixels)) == belongs
    assert in_child(session.close) == "None"

    def own():
        with model.session("cpu", batch=4, threads=2) as another:
            return another.classify(photos[0])[0].classes == expected

    assert in_child(own) == "True"
    assert session.classify(photos[0])[0].classes == expected


def test_a_child_of_fork_while_others_compute(model, session):
    """Whatever locks are held, the child waits for none."""
    pixels = np.zeros((64, 16, 16, 3), np.uint8)
    stop = threading.Event()

    def work():
        while not stop.is_set():
            session.logits(pixels)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert "belongs to the process" in in_child(lambda: session.logits(pixels))
            assert in_child(session.close) == "None"
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_child_that_ends_as_python_does(python, tiny, photos):
    source = """
import os, sys, effnet
session = effnet.Model(sys.argv[1]).session("cpu", threads=2)
stream = session.classify_iter(sys.argv[2:])
next(stream)
child = os.fork()
if not child:
    try:
        next(stream)
    except effnet.UsageError as error:
        print(error, flush=True)
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), sum(1 for _ in stream))
"""
    done = python(source, tiny, *photos)
    said = "pipeline: it belongs to the process that this one was forked from"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{said}\n7 11\n", "")
