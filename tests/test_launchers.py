"""Shards that real launchers start, and merged: Slurm's arrays and steps, Open MPI, GNU parallel."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest
from cli_model import assert_one_line, write_image

CONFIGURATION = """
ClusterName=effnet
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def wait_for(what, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if what():
            return True
        time.sleep(0.1)
    return False


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"no {program}")


def call(*arguments, **options):
    return subprocess.run([*map(str, arguments)], capture_output=True, text=True, timeout=300, check=False,
                          stdin=subprocess.DEVNULL, **options)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A cluster of this machine alone. slurm(command...) runs one of Slurm's commands there and returns what it prints."""
    need("slurmctld", "slurmd", "sbatch")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(CONFIGURATION.format(
        host=socket.gethostname().split(".")[0], ports=free_ports(2), user=getpass.getuser(), folder=folder))
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    daemons = []
    for daemon in (["slurmctld", "-D", "-i"], ["slurmd", "-D"]):
        with open(folder / f"{daemon[0]}.out", "w") as out:
            daemons.append(subprocess.Popen(daemon, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out))
    try:
        if not wait_for(lambda: call("sinfo", "-h", "-o", "%T", env=environment).stdout.strip() == "idle"):
            ends = [(path.read_text().strip().splitlines() or [""])[-1] for path in folder.glob("*.out")]
            pytest.skip(f"Slurm does not start here: {' '.join(ends)}")

        def run(*arguments):
            done = call(*arguments, env=environment)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()
        yield run
        run("scancel", f"--user={getpass.getuser()}")  # what a failed test has left
        assert wait_for(lambda: not run("squeue", "-h"))
    finally:
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(30)


@pytest.fixture
def command(build, tiny, tmp_path):
    """Classifies 69 images: in seven shards, each has a broken one."""
    images = []
    for i in range(69):
        path = tmp_path / f"{i:02}.png"
        if i % 10 == 4:
            path.write_bytes(b"GIF89a broken")
        else:
            write_image(path, i)
        images.append(path)
    (tmp_path / "list").write_text("".join(f"{path}\n" for path in images))
    return [build / "effnet", "classify", "-m", tiny, "--device", "cpu", "-b", "4", "--threads", "1", "--format", "csv",
            "--files-from", tmp_path / "list"]


@pytest.fixture
def assert_merged(effnet, command, tmp_path):
    """The parts are those of `count` shards, and put together what one run gives."""
    def check(count):
        parts = [path for path in tmp_path.glob("part-*") if path.suffix != ".shard"]
        assert len(parts) == count
        done = effnet("merge", "-o", tmp_path / "merged", *parts)
        assert done.returncode == 0, done.stderr
        call(*command, "-o", tmp_path / "whole")
        assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()
    return check


def output(folder):
    return ["--shard", "auto", "-o", folder / "part-{shard}", "--resume"]


def write_script(folder, words):
    (folder / "job").write_text("#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in words) + "\n")
    return folder / "job"


def test_slurm_array_with_two_tasks_killed(slurm, command, assert_merged, tmp_path):
    """One is requeued as it runs; another dies of kill -9 first. Both had noted results by then."""
    for i in (19, 59):  # the last images of the second and of the sixth block are in pipes that nobody writes to
        (tmp_path / f"{i}.png").rename(tmp_path / f"{i}.kept")
        os.mkfifo(tmp_path / f"{i}.png")
    job = slurm("sbatch", "--parsable", "--array=1-7", "--requeue", "-o", tmp_path / "task-%a.log",
                write_script(tmp_path, [*command, *output(tmp_path)]))

    def tasks(state):
        return slurm("squeue", "-h", "-j", job, "-t", state, "-o", "%K").split()

    def noted(shard):
        path = tmp_path / f"part-0000{shard}-of-00007.resume"
        return path.exists() and path.stat().st_size > 2048

    assert wait_for(lambda: sorted(tasks("pending,running,completing")) == ["2", "6"] and noted(2) and noted(6)), slurm("squeue")
    found = call("pgrep", "-f", f"{tmp_path}/job|-o {tmp_path}/part").stdout.split()
    killed = [pid for pid in found if b"SLURM_ARRAY_TASK_ID=6\0" in open(f"/proc/{pid}/environ", "rb").read()]
    for pid in killed:
        os.kill(int(pid), signal.SIGKILL)
    assert killed and wait_for(lambda: tasks("running") == ["2"])
    for i in (19, 59):
        (tmp_path / f"{i}.kept").rename(tmp_path / f"{i}.png")
    for task in (2, 6):
        slurm("scontrol", "requeue", f"{job}_{task}")
        assert wait_for(lambda task=task: str(task) in tasks("pending"))
        slurm("scontrol", "update", f"JobId={job}_{task}", "StartTime=now")
    assert wait_for(lambda: not tasks("pending,running,completing")), slurm("squeue")
    for task, broken in ((1, 1), (2, 0), (6, 0)):  # a log begins anew with its task
        log = (tmp_path / f"task-{task}.log").read_text()
        assert log.count(f"shard {task}/7, by Slurm's environment") == 1
        assert log.count("truncated") == broken, "what is done is not done again"
    assert_merged(7)


def test_slurm_steps(slurm, command, assert_merged, tmp_path):
    slurm("salloc", "-n", "3", "srun", "sh", "-c", '"$@" || test $? = 65', "sh", *command, *output(tmp_path))
    assert_merged(3)


def test_slurm_batch_script_itself_is_refused(slurm, command, tmp_path):
    job = write_script(tmp_path, [*command, *output(tmp_path)])
    log = tmp_path / "log"
    slurm("sbatch", "-n", "3", "-o", log, job)
    assert wait_for(lambda: log.exists() and "\n" in log.read_text())
    assert "this is its batch script" in log.read_text()


def test_open_mpi(command, assert_merged, tmp_path):
    need("mpirun")
    done = call("mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "3", "sh", "-c", '"$@" || test $? = 65', "sh",
                *command, *output(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "shard 3/3, by Open MPI's environment" in done.stderr
    assert_merged(3)


def test_gnu_parallel(command, assert_merged, tmp_path):
    need("parallel")
    call("parallel", "--will-cite", "-j", "3", *command, "--shard", "{}/7", "-o", tmp_path / "part-{shard}", ":::",
         *range(1, 8))
    assert_merged(7)
    done = call("parallel", "--will-cite", "-n0", *command, "--shard", "auto", ":::", "1")
    assert_one_line(done, 1, "GNU parallel does not tell its jobs")  # the status is how many jobs failed
