"""Streams: order, failures, bounded memory, and every way in which one can end."""

import gc
import itertools
import os
import signal
import threading
import time

import effnet
import numpy as np
import pytest

LIMIT = 2000  # more than a stream may be ahead of its results: records of the library, and its feed's


def endless(photos, counter=None):
    for i in itertools.count():
        if counter is not None:
            counter.append(i)
        yield photos[i % len(photos)]


def expected_logits(session, photos):
    return np.array([answer.logits for answer in session.classify(photos)])


# ---------------------------------------------------------------- results


def test_order_and_failures(session, photos, tmp_path):
    expected = expected_logits(session, photos)
    images = [photos[0], "/nowhere.png", photos[1], b"no image", photos[2], str(tmp_path)]
    answers = list(session.classify_iter(images, 2))
    assert [a.index for a in answers] == list(range(6)) and [a.image for a in answers] == images
    assert [type(a.error) for a in answers[1::2]] == [effnet.InputError, effnet.DataError, effnet.InputError]
    assert "/nowhere.png" in str(answers[1].error) and "image 3" in str(answers[3].error)
    for answer, logits in zip(answers[::2], expected, strict=False):
        assert np.array_equal(answer.logits, logits) and len(answer.classes) == 2 and answer.error is None
    for read in ("classes", "logits"):
        with pytest.raises(effnet.InputError, match="nowhere"):
            getattr(answers[1], read)
    assert "InputError: /nowhere.png" in repr(answers[1]) and "%" in repr(answers[0])
    with pytest.raises(effnet.InputError, match="nowhere"):
        session.classify(images)


def test_unordered(session, photos):
    expected = expected_logits(session, photos)
    answers = list(session.classify_iter(photos * 50, ordered=False))
    assert sorted(a.index for a in answers) == list(range(600))
    assert all(np.array_equal(a.logits, expected[a.index % 12]) for a in answers)


def test_blank_without_its_alpha(session, tmp_path):
    from PIL import Image

    alpha = np.zeros((20, 20, 4), np.uint8)
    alpha[5:10, 5:10, 3] = 255
    Image.fromarray(alpha).save(tmp_path / "blank.png")
    Image.fromarray(alpha[..., :3]).save(tmp_path / "black.png")
    files = [tmp_path / "blank.png", tmp_path / "black.png"]
    assert [a.blank_without_alpha for a in session.classify(files)] == [True, False]
    assert [session.classify(f)[0].blank_without_alpha for f in files] == [True, False]


def test_one_image_is_a_short_stream(session, photos):
    """And a path is not its letters."""
    assert [a.image for a in session.classify_iter(photos[0])] == photos[:1]


def test_nothing_at_all(session):
    assert list(session.classify_iter([])) == [] and session.classify([]) == []
    with pytest.raises(TypeError):
        session.classify_iter(7)
    with pytest.raises(effnet.UsageError):
        session.classify_iter([], k=0)
    assert session.classify([]) == []  # it is not in use


def test_no_decoding_on_a_gpu_without_one(session, photos):
    with pytest.raises(effnet.UnavailableError, match="decoding on a GPU"):
        session.classify_iter(photos, decode_gpu=True)
    assert len(session.classify(photos)) == 12


def test_answers_come_while_the_iterable_waits(session, photos):
    """One that asks for the next image only when it has seen the answer to the last."""
    seen = threading.Semaphore(0)

    def one_by_one():
        for photo in photos:
            yield photo
            assert seen.acquire(timeout=30)

    indices = []
    for answer in session.classify_iter(one_by_one()):
        indices.append(answer.index)
        seen.release()
    assert indices == list(range(12))


def test_several_threads_take_from_one(session, photos):
    stream = session.classify_iter(photos * 100)
    found = [[] for _ in range(4)]

    def work(i):
        for answer in stream:
            found[i].append(answer.index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(itertools.chain(*found)) == list(range(1200))


# ---------------------------------------------------------------- memory


def test_an_endless_iterable_is_read_a_bounded_way_ahead(session, photos):
    counter = []
    with session.classify_iter(endless(photos, counter)) as stream:
        next(stream)
        before = 0
        while len(counter) > before:  # until it rests
            before = len(counter)
            time.sleep(0.2)
        assert len(counter) < LIMIT
        for _ in range(100):
            next(stream)
        assert len(counter) < LIMIT + 100
    time.sleep(0.1)
    ended = len(counter)
    time.sleep(0.2)
    assert len(counter) == ended


def test_memory_does_not_grow(python, tiny, photos):
    """With the number of images, nor beyond 256 MB with their size, however slowly the answers are taken."""
    source = """
import itertools, os, resource, sys, time
import effnet

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

session = effnet.Model(sys.argv[1]).session("cpu", batch=4, threads=2)
data = open(sys.argv[2], "rb").read()
with session.classify_iter(itertools.repeat(data, 15_000)) as stream:
    sum(1 for _ in itertools.islice(stream, 5_000))
    early = resident()
    assert sum(1 for _ in stream) == 10_000
print(resident() - early)
with session.classify_iter(data + bytes(4 << 20) for _ in range(300)) as stream:
    for answer in stream:
        if answer.index % 100 == 50:
            time.sleep(0.5)
assert answer.index == 299 and answer.error is None
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10) - early)
"""
    done = python(source, tiny, photos[0])
    assert done.returncode == 0, done.stderr
    many, large = map(int, done.stdout.split())
    assert many < 16 and large < 256 + 64, done.stdout


# ---------------------------------------------------------------- failures of the iterable


class Mine(Exception):
    pass


@pytest.mark.parametrize("error", [Mine("mine"), KeyboardInterrupt(), SystemExit(3), StopAsyncIteration()])
def test_what_the_iterable_raises_is_raised_after_the_results(session, photos, error):
    def failing():
        yield from photos
        raise error

    stream = session.classify_iter(failing())
    assert [next(stream).index for _ in range(12)] == list(range(12))
    with pytest.raises(type(error)) as raised:
        next(stream)
    assert raised.value is error
    assert list(stream) == [] and len(session.classify(photos)) == 12


def test_what_is_no_image(session, photos):
    stream = session.classify_iter([photos[0], 7, photos[1]])
    assert next(stream).index == 0
    with pytest.raises(effnet.UsageError, match="int is no image"):
        next(stream)


# ---------------------------------------------------------------- ends


def test_the_session_is_the_streams(session, model, photos):
    pixels = model.preprocess(photos)
    stream = session.classify_iter(photos)
    for use in (lambda: session.logits(pixels), lambda: session.classify(photos[0]), lambda: session.classify(photos),
                lambda: session.classify_iter(photos)):
        with pytest.raises(effnet.UsageError, match="in use by a stream"):
            use()
    assert len(list(stream)) == 12
    assert len(session.logits(pixels)) == 12 and list(stream) == []


@pytest.mark.parametrize("end", ["close", "with", "break", "session"])
def test_ends(session, photos, end):
    for _ in range(5):
        stream = session.classify_iter(endless(photos))
        if end == "close":
            next(stream)
            stream.close()
        elif end == "with":
            with stream:
                next(stream)
        elif end == "break":
            for _ in stream:
                break
            del stream
        else:
            session.close()
            assert list(stream) == []
            return
        if end != "break":
            assert list(stream) == []
        assert len(session.classify(photos)) == 12


def test_closing_does_not_wait_for_the_iterable(session, photos):
    released = threading.Event()

    def stuck():
        yield photos[0]
        released.wait(60)

    start = time.monotonic()
    with session.classify_iter(stuck()) as stream:
        assert next(stream).index == 0
    assert time.monotonic() - start < 30 and len(session.classify(photos)) == 12
    released.set()


def test_closed_by_another_thread(session, photos):
    """Also while one waits for a result."""
    for take in (0, 1, 5):
        released = threading.Event()

        def some():
            yield from photos[:take]  # noqa: B023
            released.wait(60)  # noqa: B023

        stream = session.classify_iter(some())
        closer = threading.Timer(0.1, stream.close)
        closer.start()
        assert len(list(stream)) == take
        closer.join()
        released.set()
        assert len(session.classify(photos)) == 12


def test_garbage_found_in_a_thread_of_the_stream(session, photos):
    """The thread that collects it is one that closing it waits for."""
    def collecting():
        for i in itertools.count():
            if i > 50:
                gc.collect()
            yield photos[i % 12]

    gc.disable()
    try:
        stream = session.classify_iter(collecting())
        next(stream)
        cycle = [stream]
        cycle.append(cycle)
        del stream, cycle
        for _ in range(300):
            time.sleep(0.02)
            try:
                assert len(session.classify(photos)) == 12
                return
            except effnet.UsageError:
                pass
    finally:
        gc.enable()
    pytest.fail("the stream was never closed")


def test_an_interrupt_reaches_who_waits_for_a_slow_iterable(session, photos):
    waiting, released = threading.Event(), threading.Event()

    def slow():
        yield photos[0]
        waiting.wait(60)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
        released.wait(60)

    start = time.monotonic()
    stream = session.classify_iter(slow())
    assert next(stream).index == 0
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
    with pytest.raises(KeyboardInterrupt):
        waiting.set()
        next(stream)
    signal.signal(signal.SIGINT, before)
    stream.close()
    released.set()
    assert time.monotonic() - start < 30 and len(session.classify(photos)) == 12


def test_a_fork_within(session, photos):
    from test_session import in_child

    stream = session.classify_iter(endless(photos))
    next(stream)
    for _ in range(5):
        assert "belongs to the process" in in_child(lambda: next(stream))
        assert in_child(stream.close) == "None" and in_child(session.close) == "None"
        assert next(stream).error is None
    stream.close()
