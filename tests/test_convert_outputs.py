"""tools/convert.py: what it writes over, and what a conversion that fails or is interrupted leaves."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from convert_formats import write_old, write_safetensors, write_zip
from convert_networks import CONVERT, assert_one_line_error, run_convert, spawn_convert, state_dict

USAGE, DATA, OUTPUT = 64, 65, 74
PRECIOUS = b"three years of work\n"


@pytest.fixture
def tmp_path():
    """Removed at once: these tests write gigabytes in all."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(source, weights file, ONNX file) of one network: what convert.py reads and what it made."""
    folder = tmp_path_factory.mktemp("made")
    source = write_safetensors(folder / "source.safetensors", state_dict("sequential"))
    assert run_convert(source, folder / "w.safetensors", "--onnx", folder / "w.onnx").returncode == 0
    return source, folder / "w.safetensors", folder / "w.onnx"


def contents(folder):
    """Everything in a folder: what each name is, and its bytes."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[path] = os.readlink(path)
        elif path.is_file():
            found[path] = path.read_bytes()
        else:
            found[path] = stat.S_IFMT(path.stat().st_mode)
    return found


def assert_refused(folder, *arguments, status=USAGE, words=()):
    """The conversion fails with one line and changes nothing in the folder."""
    before = contents(folder)
    assert_one_line_error(run_convert(*arguments), status, *words)
    assert contents(folder) == before


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize("write", [write_zip, write_old, write_safetensors])
@pytest.mark.parametrize("options", [(), ("--force",)])
def test_a_second_checkpoint_is_not_written_over(tmp_path, write, options):
    first = write(tmp_path / "epoch1.pth", state_dict("sequential", seed=1))
    second = write(tmp_path / "epoch2.pth", state_dict("sequential", seed=2))
    if options:
        assert run_convert(first, second, *options).returncode == 0
        assert second.read_bytes()[8:].startswith(b'{"__metadata__":{"format":"effnet"')
    else:
        assert_refused(tmp_path, first, second, words=["epoch2.pth", "OUT.safetensors", "--force"])


@pytest.mark.parametrize("option", ["OUT", "--onnx"])
@pytest.mark.parametrize("name", ["source", "./sub/../source", "link", "link to link", "hard link"])
@pytest.mark.parametrize("options", [(), ("--force",)])
def test_the_source_is_never_written_over(tmp_path, made, option, name, options):
    source = tmp_path / "source"
    source.write_bytes(made[1].read_bytes())  # its kind would be replaced, were it not the source
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("source")
    (tmp_path / "link to link").symlink_to(tmp_path / "link")
    (tmp_path / "hard link").hardlink_to(source)
    taken = f"{tmp_path}/{name}"
    outputs = (taken,) if option == "OUT" else (tmp_path / "out", "--onnx", taken)
    assert_refused(tmp_path, source, *outputs, *options, words=[taken, "source", "is read"])


@pytest.mark.parametrize("link", [False, True])
def test_the_labels_are_never_written_over(tmp_path, made, link):
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"class {i}\n" for i in range(1000)))
    (tmp_path / "link").symlink_to(labels)
    taken = tmp_path / "link" if link else labels
    for outputs in ((taken,), (tmp_path / "out", "--onnx", taken)):
        assert_refused(tmp_path, made[0], *outputs, "--labels", labels, "--force", words=["labels.txt", "is read"])
        random = ("--arch", "b1-plain", "--random", "1", *outputs, "--labels", labels, "--force")
        assert_refused(tmp_path, *random, words=["labels.txt", "is read"])


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("name", ["out", "./sub/../out", "link"])
def test_two_outputs_in_one_file(tmp_path, made, exists, name):
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("out")
    if exists:
        (tmp_path / "out").write_bytes(made[1].read_bytes())
    arguments = (made[0], tmp_path / "out", "--onnx", f"{tmp_path}/{name}", "--force")
    assert_refused(tmp_path, *arguments, words=["--onnx", "same file"])


# ---------------------------------------------------------------- files that are there already


def foreign_files(made):
    """Files that convert.py did not make; some look much like it."""
    weights, onnx = made[1].read_bytes(), made[2].read_bytes()
    return {
        "text": PRECIOUS,
        "empty": b"",
        "another's metadata": weights.replace(b'"format":"effnet"', b'"format":"effnot"', 1),
        "a header alone": weights[:8],
        "another's model": onnx.replace(b"\x12\x06effnet", b"\x12\x06effnot", 1),
        "the name at another place": b"\x08\x08\x1a\x06effnet" + onnx,
        "JSON": b'{"__metadata__": {"format": "effnet"}}',
        "a header that is a list": (8).to_bytes(8, "little") + b"[      ]" + PRECIOUS,
        "a huge header": b"\xff" * 8 + b"{" + PRECIOUS,
    }


@pytest.mark.parametrize("option", ["OUT", "--onnx"])
def test_foreign_files_are_not_written_over(tmp_path, made, option):
    source, weights, onnx = made
    files = foreign_files(made) | {"of the other kind": (onnx if option == "OUT" else weights).read_bytes()}
    for name, data in files.items():
        taken = tmp_path / f"{name}.safetensors"
        taken.write_bytes(data)
        outputs = (taken,) if option == "OUT" else (tmp_path / "out", "--onnx", taken)
        assert_refused(tmp_path, source, *outputs, words=[taken, "exists", "--force"])
        taken.unlink()


@pytest.mark.parametrize("options", [(), ("--force",)])
def test_force_and_own_outputs(tmp_path, made, options):
    """Own outputs are replaced, whatever their names are; others with --force."""
    out, onnx = tmp_path / "a.bin", tmp_path / "b.bin"
    out.write_bytes(PRECIOUS if options else made[1].read_bytes() + b"of another day")
    onnx.write_bytes(PRECIOUS if options else made[2].read_bytes() + b"of another day")
    assert run_convert(made[0], out, "--onnx", onnx, *options).returncode == 0
    assert out.read_bytes() == made[1].read_bytes() and onnx.read_bytes() == made[2].read_bytes()
    assert set(tmp_path.iterdir()) == {out, onnx}


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "socket"])
@pytest.mark.parametrize("options", [(), ("--force",)])
def test_what_is_no_file_stays(tmp_path, made, kind, options):
    taken = tmp_path / "taken"
    if kind == "folder":
        taken.mkdir()
    elif kind == "fifo":
        os.mkfifo(taken)
    elif kind == "device":
        taken.symlink_to("/dev/null")
    else:
        os.mknod(taken, stat.S_IFSOCK | 0o600)
    for outputs in ((taken,), (tmp_path / "out", "--onnx", taken)):
        words = [taken, "cannot be written", "not a regular file"]
        assert_refused(tmp_path, made[0], *outputs, *options, status=OUTPUT, words=words)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("end", ["/", "//", "/.", "/new/..", "/new/"])
@pytest.mark.parametrize("options", [(), ("--force",)])
def test_the_name_of_a_folder_makes_no_file(tmp_path, made, end, options):
    for outputs in ((f"{tmp_path}/new{end}",), (tmp_path / "out", "--onnx", f"{tmp_path}/new{end}")):
        assert_refused(tmp_path, made[0], *outputs, *options, words=[f"new{end}: the name of a folder"])


def test_standard_output_is_no_place(tmp_path, made):
    result = spawn_convert(made[0], "/dev/stdout", cwd=tmp_path)  # a pipe here
    assert_one_line_error(result, OUTPUT, "/dev/stdout", "not a regular file")


def test_a_read_only_output_stays(tmp_path, made):
    out = tmp_path / "out"
    out.write_bytes(made[1].read_bytes())
    out.chmod(0o444)
    assert_refused(tmp_path, made[0], out, words=[out, "read-only", "--force"])
    assert run_convert(made[0], out, "--force").returncode == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o444


def test_rights(tmp_path, made):
    """A new file has those that the umask leaves, a replaced one keeps its own."""
    out = tmp_path / "out"
    result = spawn_convert(made[0], out, umask=0o027)
    assert result.returncode == 0
    assert result.stdout.startswith(f"{out}: b1-plain, 24 layers, 2653144 parameters, 1000 classes\n")
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    out.chmod(0o604)
    assert spawn_convert(made[0], out, umask=0o077).returncode == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o604


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owner(tmp_path, made):
    out = tmp_path / "out"
    out.write_bytes(made[1].read_bytes())
    os.chown(out, 12345, 23456)
    assert run_convert(made[0], out).returncode == 0
    assert (out.stat().st_uid, out.stat().st_gid) == (12345, 23456)


@pytest.mark.parametrize("exists", [False, True])
def test_a_link_is_followed(tmp_path, made, exists):
    (tmp_path / "sub").mkdir()
    target = tmp_path / "sub" / "target"
    (tmp_path / "link").symlink_to("sub/target")
    if exists:
        target.write_bytes(made[1].read_bytes()[:-4])
    assert run_convert(made[0], tmp_path / "link").returncode == 0
    assert os.readlink(tmp_path / "link") == "sub/target" and target.read_bytes() == made[1].read_bytes()
    target.write_bytes(PRECIOUS)
    assert_refused(tmp_path, made[0], tmp_path / "link", words=["link", "exists"])


def test_a_link_to_itself(tmp_path, made):
    (tmp_path / "loop").symlink_to("loop")
    words = ["loop", "cannot be written", "symbolic links"]
    assert_refused(tmp_path, made[0], tmp_path / "loop", status=OUTPUT, words=words)


def test_another_name_of_an_output_keeps_what_it_was(tmp_path, made):
    old = made[1].read_bytes()[:-4]
    (tmp_path / "out").write_bytes(old)
    (tmp_path / "backup").hardlink_to(tmp_path / "out")
    assert run_convert(made[0], tmp_path / "out").returncode == 0
    assert (tmp_path / "backup").read_bytes() == old and (tmp_path / "out").read_bytes() == made[1].read_bytes()


# ---------------------------------------------------------------- failures


def old_pair(folder, made):
    """Two outputs that are there already, and the arguments that would replace them."""
    (folder / "out").write_bytes(made[1].read_bytes()[:-4])
    (folder / "onnx").write_bytes(made[2].read_bytes()[:-4])
    return made[0], folder / "out", "--onnx", folder / "onnx"


@pytest.mark.parametrize("out", ["missing/out.safetensors", "file/out.safetensors", "x" * 256])
@pytest.mark.parametrize("option", ["OUT", "--onnx"])
def test_places_that_take_no_file(tmp_path, made, out, option):
    (tmp_path / "file").write_bytes(PRECIOUS)
    if option == "OUT":
        arguments = (made[0], tmp_path / out)
    else:
        arguments = (*old_pair(tmp_path, made)[:3], tmp_path / out)
    assert_refused(tmp_path, *arguments, status=OUTPUT, words=[out, "cannot be written"])


def test_an_empty_name(tmp_path, made):
    for arguments in ((made[0], ""), (made[0], tmp_path / "out", "--onnx", "")):
        assert_refused(tmp_path, *arguments, words=["empty"])


def run_with(setup, *arguments):
    """Runs the converter after some Python that changes the process."""
    code = f"import sys; sys.path.insert(0, {str(CONVERT.parent)!r}); {setup}; " + (
        "from effnet_convert.command_line import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("room", [0, 1 << 20, 10_690_000])
def test_full_disk(tmp_path, made, room):
    """A limit on the size of files stands for a disk without room; the last one is enough for OUT, not for
    OUT.onnx. Both stay as they were."""
    arguments = old_pair(tmp_path, made)
    assert made[1].stat().st_size < 10_690_000 < made[2].stat().st_size
    before = contents(tmp_path)
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))"
    result = run_with(limit, *arguments)
    assert_one_line_error(result, OUTPUT, "onnx" if room > 1 << 20 else "out", "cannot be written", "large")
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path, made):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o555)
    assert_refused(tmp_path, made[0], folder / "out", status=OUTPUT, words=["folder/out", "Permission denied"])


@pytest.mark.parametrize("exist", [False, True])
@pytest.mark.parametrize("links", [True, False])
def test_the_second_of_two_renames_fails(tmp_path, made, exist, links):
    """As it does over a mount point. The first is taken back; on a file system without hard links only where
    there was nothing."""
    arguments = old_pair(tmp_path, made)
    if not exist:
        (tmp_path / "out").unlink()
    before = contents(tmp_path)
    setup = (
        "import os; real, names = os.replace, []\n"
        "def replace(old, new):\n"
        "    names.append(new)\n"
        "    if len(names) == 2: raise OSError(16, 'Device or resource busy')\n"
        "    real(old, new)\n"
        "os.replace = replace\n"
    )
    if not links:
        setup += "def link(*_): raise OSError(1, 'Operation not permitted')\nos.link = link\n"
    result = run_with(f"exec({setup!r})", *arguments)
    assert_one_line_error(result, OUTPUT, "onnx", "busy")
    after = contents(tmp_path)
    if links:
        assert after == before
    else:
        assert after.pop(tmp_path / "out") == made[1].read_bytes()
        before.pop(tmp_path / "out", None)
        assert after == before


def test_a_source_that_fails(tmp_path, made):
    arguments = old_pair(tmp_path, made)[1:]
    broken = tmp_path / "broken"
    broken.write_bytes(made[0].read_bytes()[:-1])
    assert_refused(tmp_path, broken, *arguments, status=DATA, words=["broken"])


def test_what_comes_between_is_not_written_over(tmp_path, made):
    """A file that appears after the first look is found by the second, right before the renames."""
    setup = (
        "import os; from effnet_convert import command_line; fold = command_line.fold\n"
        f"def slow(*arguments):\n    open({str(tmp_path / 'out')!r}, 'xb').write({PRECIOUS!r})\n"
        "    return fold(*arguments)\n"
        "command_line.fold = slow\n"
    )
    result = run_with(f"exec({setup!r})", made[0], tmp_path / "out")
    assert_one_line_error(result, USAGE, "out", "exists")
    assert contents(tmp_path) == {tmp_path / "out": PRECIOUS}


# ---------------------------------------------------------------- signals


def wait_for(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["writing", "between the renames"])
def test_interrupted(tmp_path, made, number, moment):
    """While it writes: everything is as before. Between the renames: the second one follows."""
    arguments = old_pair(tmp_path, made)
    before = contents(tmp_path)
    function, when = ("fsync", 2) if moment == "writing" else ("replace", 2)
    setup = (
        "import os, time; real, calls = os.{0}, []\n"
        "def slow(*arguments):\n"
        "    calls.append(0)\n"
        "    if len(calls) == {1}:\n"
        "        open({2!r}, 'x').close()\n"
        "        until = time.monotonic() + 1\n"
        "        while time.monotonic() < until: time.sleep(0.01)\n"
        "    return real(*arguments)\n"
        "os.{0} = slow\n"
    ).format(function, when, str(tmp_path / "now"))
    code = f"import sys; sys.path.insert(0, {str(CONVERT.parent)!r})\n{setup}" + (
        "from effnet_convert.command_line import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    # SIGHUP and SIGINT may be ignored here, where somebody has started the tests in the background.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    wait_for((tmp_path / "now").exists)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (128 + number, "", "")
    (tmp_path / "now").unlink()
    if moment == "writing":
        assert contents(tmp_path) == before
    else:
        assert contents(tmp_path) == {
            tmp_path / "out": made[1].read_bytes(),
            tmp_path / "onnx": made[2].read_bytes(),
        }


def test_a_signal_that_is_ignored_stays_so(tmp_path, made):
    """nohup."""
    result = run_with(
        "import signal, os, threading; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGHUP)).start()",
        made[0],
        tmp_path / "out",
    )
    assert result.returncode == 0 and (tmp_path / "out").read_bytes() == made[1].read_bytes()


# ---------------------------------------------------------------- standard output, long names


@pytest.mark.parametrize("stdout", ["full", "closed pipe"])
@pytest.mark.parametrize("help", [False, True])
def test_standard_output_that_fails(tmp_path, made, stdout, help):
    if stdout == "full":
        write = os.open("/dev/full", os.O_WRONLY)
    else:
        read, write = os.pipe()
        os.close(read)
    arguments = ["--help"] if help else [made[0], tmp_path / "out"]
    result = subprocess.run(
        [sys.executable, CONVERT, *arguments], stdout=write, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    os.close(write)
    assert result.returncode == OUTPUT and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("convert.py: standard output: "), result.stderr
    assert help or (tmp_path / "out").read_bytes() == made[1].read_bytes()


def test_a_long_path_leaves_room_for_the_reason(tmp_path):
    path = tmp_path / "/".join(["x" * 200] * 8) / "missing.pth"
    assert_one_line_error(run_convert(path, tmp_path / "out"), 66, "x/missing.pth: No such file")
