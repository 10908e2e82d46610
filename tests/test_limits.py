"""What a process may use: processors, threads, address space, stack. The program keeps to it, or says so in a line."""

import contextlib
import json
import os
import resource
import subprocess
import time

import pytest
from cli_model import write_image

NO_MEMORY = 71


def threads(effnet, tiny, *options, environment=None, **how):
    """How many threads a session has."""
    done = effnet("info", "--plan", "-m", tiny, "--device", "cpu", "--format", "json", *options,
                  env={**os.environ, **(environment or {})}, **how)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["threads"]


@pytest.mark.parametrize("variables", [
    {"OMP_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "7"},
    {"OMP_THREAD_LIMIT": "1"},
    {"OMP_PROC_BIND": "true"},
    {"OMP_PROC_BIND": "close", "OMP_PLACES": "threads"},
    {"OMP_PLACES": "cores"},
    {"GOMP_CPU_AFFINITY": "0-4096"},
])
def test_openmp_plays_no_part(effnet, tiny, variables):
    assert threads(effnet, tiny, environment=variables) == threads(effnet, tiny)
    assert threads(effnet, tiny, "--threads", "1", environment=variables) == 1


@contextlib.contextmanager
def waiting(build, tiny, variables):
    """The program in the middle of its work, with a session's threads: its input does not come."""
    command = [build / "effnet", "classify", "-m", tiny, "--device", "cpu", "--threads", "4", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          env={**os.environ, **variables}) as process:
        end = time.monotonic() + 60
        while len(os.listdir(f"/proc/{process.pid}/task")) < 3 and time.monotonic() < end:
            time.sleep(0.02)
        try:
            yield process
        finally:
            process.kill()


def processors_of_threads(process):
    """How many processors each thread may run on. Some end, or have just begun, meanwhile."""
    counts = {}
    for task in map(int, os.listdir(f"/proc/{process.pid}/task")):
        with contextlib.suppress(ProcessLookupError):
            counts[task] = len(os.sched_getaffinity(task))
    return counts


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
@pytest.mark.parametrize("variables", [{}, {"OMP_PROC_BIND": "true"}, {"GOMP_CPU_AFFINITY": "0-4096"}])
def test_openmp_binds_no_thread_of_ours(build, tiny, variables):
    """One thread may be bound: the first, which OpenMP finds before the program runs."""
    with waiting(build, tiny, variables) as process:
        end = time.monotonic() + 60
        while True:  # until it runs, a thread has the affinity of the one that has started it
            counts = processors_of_threads(process)
            bound = {task for task, count in counts.items() if count == 1}
            if bound <= {process.pid} or time.monotonic() > end:
                break
            time.sleep(0.1)
        if len(counts) < 2:
            pytest.skip("a build without threads")
        assert bound <= {process.pid}


def test_affinity(effnet, tiny):
    """A process bound to one processor has one thread."""
    one = min(os.sched_getaffinity(0))
    assert threads(effnet, tiny, preexec_fn=lambda: os.sched_setaffinity(0, {one})) == 1


def limited(what, amount):
    return {"preexec_fn": lambda: resource.setrlimit(what, (amount, amount))}


def test_small_stack(effnet, tiny, tmp_path, sanitized):
    """`ulimit -s` is also the size that threads have unless they are given another."""
    if sanitized:
        pytest.skip("sanitizers take more stack")
    image = write_image(tmp_path / "image.png", 1)
    done = effnet("classify", "-m", tiny, "--device", "cpu", "--threads", "4", image,
                  **limited(resource.RLIMIT_STACK, 64 << 10))
    assert done.returncode == 0, done.stderr


def test_address_space(effnet, tiny, tmp_path, sanitized):
    """Too little of it is an error in one line, wherever it runs out; the loader has an exit status of its own."""
    if sanitized:
        pytest.skip("sanitizers take address space without end")
    image = write_image(tmp_path / "image.png", 1)
    statuses = set()
    for megabytes in range(40, 420, 20):
        done = effnet("classify", "-q", "-m", tiny, "--device", "cpu", "--threads", "4", image, image,
                      **limited(resource.RLIMIT_AS, megabytes << 20))
        assert done.returncode in (0, NO_MEMORY, 127), (megabytes, done.returncode, done.stderr)
        assert done.returncode == 0 or done.stderr.count("\n") == 1, (megabytes, done.stderr)
        statuses.add(done.returncode)
    assert 0 in statuses and len(statuses) > 1


def test_no_more_threads(effnet, tiny, tmp_path):
    """Where the system refuses threads there are fewer, down to none but the first."""
    if os.getuid() == 0:
        pytest.skip("root has as many as it likes")
    image = write_image(tmp_path / "image.png", 1)
    wanted = effnet("classify", "-m", tiny, "--device", "cpu", image, image).stdout
    done = effnet("classify", "-m", tiny, "--device", "cpu", "--threads", "8", image, image,
                  **limited(resource.RLIMIT_NPROC, 1))
    assert (done.returncode, done.stdout) == (0, wanted), done.stderr
