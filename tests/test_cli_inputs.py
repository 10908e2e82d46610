"""effnet classify: folders, lists of names, shards."""

import json
import os
import subprocess

import pytest
from cli_model import DATA, NO_INPUT, USAGE, assert_one_line, write_image
from PIL import Image

# Launchers' variables, which the machine that runs the tests may have.
LAUNCHERS = ("SLURM_", "OMPI_", "MV2_", "PMI_", "PARALLEL_")


@pytest.fixture(scope="module")
def classify(effnet, tiny):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}

    def run(*arguments, variables=(), **options):
        return effnet("classify", "-m", tiny, "--device", "cpu", *arguments, env=environment | dict(variables),
                      **options)
    return run


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with what folders of photographs have in them."""
    folder = tmp_path_factory.mktemp("photos")
    for i, name in enumerate(["b.png", "B.png", "a", "sub/x.png", "sub/deep/y.txt", "sub.png", ".hidden.png", "z/1"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, i)
    (folder / "notes.txt").write_text("no image\n")
    (folder / "sub/list.json").write_text("{}")
    os.symlink("sub", folder / "to_sub")
    os.symlink("..", folder / "sub/up")
    os.mkfifo(folder / "fifo")
    return folder


FOUND = ["B.png", "a", "b.png", "sub/deep/y.txt", "sub/x.png", "sub.png", "to_sub/deep/y.txt", "to_sub/x.png", "z/1"]


def names(done):
    return [json.loads(line)["filename"] for line in done.stdout.splitlines()]


def test_folder(classify, photos):
    done = classify("-r", "--format", "json", photos)
    assert done.returncode == 0, done.stderr
    assert names(done) == [f"{photos}/{name}" for name in FOUND]
    assert done.stderr == "effnet: skipped 3 files of folders: no images\n"
    assert classify("-r", "-q", photos).stderr == ""
    again = classify("--format", "json", *names(done))
    assert again.stdout == done.stdout, "as if the files were named"
    inside = classify("-r", "--format", "json", ".", cwd=photos)
    assert names(inside) == [f"./{name}" for name in FOUND]


def test_folder_needs_the_option(classify, photos):
    done = classify(photos)
    assert_one_line(done, NO_INPUT, f"{photos}: a folder; -r")
    done = classify(photos / "a", photos, photos / "b.png", "--format", "json")
    assert done.returncode == NO_INPUT and names(done) == [f"{photos}/a", f"{photos}/b.png"]


def test_what_is_an_image_in_a_folder(classify, tmp_path):
    """Broken images, those of formats that are not read, and empty files are errors; a named file always is."""
    whole = write_image(tmp_path / "whole.png", 1).read_bytes()
    (tmp_path / "broken.txt").write_bytes(whole[:60])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "no image.jpg").write_bytes(b"<html>not found</html>")
    Image.new("RGB", (8, 8)).save(tmp_path / "other.jp2")
    os.symlink("nowhere", tmp_path / "void.png")
    done = classify("-r", "--format", "json", tmp_path)
    assert done.returncode == DATA and names(done) == [f"{tmp_path}/whole.png"]
    lines = done.stderr.splitlines()
    starts = [f"effnet: {tmp_path}/{name}: " for name in ("broken.txt", "empty.jpg", "other.jp2", "void.png")]
    assert len(lines) == 5 and all(line.startswith(start) for line, start in zip(lines, starts))
    assert lines[4] == "effnet: skipped 1 file of folders: no image"
    assert classify("-r", tmp_path / "no image.jpg").returncode == DATA


def test_empty_folder(classify, tmp_path):
    done = classify("-r", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "effnet: there is no file to classify\n")


def test_list(classify, photos, tmp_path):
    listed = ["sub/x.png", "missing", "a", "b.png"]
    expected = classify("--format", "json", *listed, cwd=photos)
    for text in ("\n".join(listed), "\r\n\r\n".join(listed) + "\r\n", "\n\n" + "\n".join(listed) + "\n"):
        (tmp_path / "list").write_text(text)
        done = classify("--format", "json", "--files-from", tmp_path / "list", cwd=photos)
        assert (done.returncode, done.stdout, done.stderr) == (NO_INPUT, expected.stdout, expected.stderr)
        done = classify("--format", "json", "--files-from", "-", cwd=photos, input=text)
        assert (done.returncode, done.stdout, done.stderr) == (NO_INPUT, expected.stdout, expected.stderr)
    done = classify("--format", "json", "-0", "--files-from", "-", cwd=photos, input="\0".join(listed))
    assert done.stdout == expected.stdout
    done = classify("--format", "json", "-r", "--files-from", "-", cwd=photos, input="sub/deep\nz\n./a\n")
    assert names(done) == ["sub/deep/y.txt", "z/1", "./a"]
    assert classify("--files-from", "-", input="").returncode == 0


def test_names_of_any_bytes(classify, tmp_path):
    odd = [b"new\nline", b"carriage\r", b"\xff\xfe", b"-", b" ", b"-r", b"quote\"", b"\xc3\xbc"]
    for i, name in enumerate(odd):
        write_image(os.path.join(os.fsencode(tmp_path), name), i)
    done = classify("-0", "--files-from", "-", "--format", "json", cwd=tmp_path, text=False, input=b"\0".join(odd))
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    found = [bytes.fromhex(r["filename_hex"]) if "filename_hex" in r else r["filename"].encode() for r in results]
    assert found == [b"./-" if name == b"-" else name for name in odd]
    walked = classify("-r", ".", "--format", "json", cwd=tmp_path, text=False)
    results = [json.loads(line) for line in walked.stdout.splitlines()]
    found = [bytes.fromhex(r["filename_hex"]) if "filename_hex" in r else r["filename"].encode() for r in results]
    assert found == [b"./" + name for name in sorted(odd)]


@pytest.mark.parametrize("arguments, text, status, words", [
    (["--files-from", "missing"], None, NO_INPUT, "missing: No such file"),
    (["--files-from", "."], None, NO_INPUT, ".: Is a directory"),
    (["--files-from", "-"], "a\0b", DATA, "standard input: no list of names: a NUL byte"),
    (["--files-from", "-"], "x" * 70000, DATA, "65536 bytes"),
    (["--files-from", "-", "a"], "", USAGE, "not both"),
    (["-0", "a"], None, USAGE, "--files-from"),
    (["--shard", "0/2", "a"], None, USAGE, "from 1/N to N/N"),
    (["--shard", "half", "a"], None, USAGE, "from 1/N to N/N"),
])
def test_wrong_inputs(classify, tmp_path, arguments, text, status, words):
    more = {} if text is None else {"input": text}
    assert_one_line(classify(*arguments, cwd=tmp_path, **more), status, words)


def test_a_long_list_is_answered_as_it_comes(build, tiny, photos):
    """One name at a time through a pipe that stays open: each gets its answer before the next is written."""
    process = subprocess.Popen([build / "effnet", "classify", "-m", tiny, "--device", "cpu", "--format", "json",
                                "--files-from", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for name in ("a", "b.png", "z/1"):
        process.stdin.write(os.fsencode(photos / name) + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["filename"] == str(photos / name)
    process.stdin.close()
    assert process.wait(60) == 0


# ---------------------------------------------------------------- shards


@pytest.mark.parametrize("form", ["json", "csv", "text"])
def test_shards_put_together_are_one_run(classify, photos, tmp_path, form):
    (photos / "sub/deep/bad").write_bytes(b"GIF89a")
    listed = "\n".join(["a", "missing", "b.png"] * 9)
    (tmp_path / "list").write_text(listed)
    for inputs in (["-r", "."], ["--files-from", tmp_path / "list"], ["a", "b.png", "z/1"]):
        whole = classify("--format", form, *inputs, cwd=photos)
        assert whole.stdout
        for count in (1, 2, 3, 7, 40) if form == "json" else (1, 3, 7):
            parts = [classify("-q", "--format", form, *inputs, "--shard", f"{i}/{count}", cwd=photos)
                     for i in range(1, count + 1)]
            assert "".join(part.stdout for part in parts) == whole.stdout
    parts = [classify("-q", "--format", form, "--files-from", "-", "--shard", f"{i}/3", cwd=photos, input=listed)
             for i in (1, 2, 3)]
    whole = classify("--format", form, "--files-from", "-", cwd=photos, input=listed)
    assert "".join(part.stdout for part in parts) == whole.stdout


def test_shard_auto(classify, photos, tmp_path):
    names_of_all = [photos / name for name in ("a", "b.png", "z/1")]
    done = classify("--shard", "auto", "--format", "json", *names_of_all)
    assert len(names(done)) == 3 and "all files" in done.stderr
    for variables, part, origin in [
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3"}, 1, "Slurm"),
        ({"SLURM_ARRAY_TASK_ID": "30", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_MAX": "30",
          "SLURM_ARRAY_TASK_COUNT": "3"}, 2, "Slurm"),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"}, 0, "Open MPI"),
        ({"PMI_RANK": "2", "PMI_SIZE": "3"}, 2, "MPI"),
    ]:
        done = classify("--shard", "auto", "--format", "json", *names_of_all, variables=variables)
        assert names(done) == [str(names_of_all[part])]
        assert done.stderr == f"effnet: shard {part + 1}/3, by {origin}'s environment\n"
        assert len(names(classify("--format", "json", *names_of_all, variables=variables))) == 3, "never by itself"
        done = classify("-q", "--shard", "auto", "-o", tmp_path / "out", *names_of_all, variables=variables)
        assert_one_line(done, USAGE, "all 3 processes would write it", "{shard}")
        done = classify("-q", "--shard", "auto", "-o", tmp_path / "out-{shard}", *names_of_all, variables=variables)
        assert done.returncode == 0 and (tmp_path / f"out-0000{part + 1}-of-00003").exists()
    for variables, part, count in [
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MIN": "0",
          "SLURM_ARRAY_TASK_MAX": "2", "SLURM_ARRAY_TASK_COUNT": "3"}, 6, 6),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5",
          "SLURM_ARRAY_TASK_MAX": "7", "SLURM_ARRAY_TASK_COUNT": "3"}, 3, 3),
        ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "4"}, 2, 4),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "PMI_RANK": "1", "PMI_SIZE": "2"}, 2, 2),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "PARALLEL_SEQ": "9"}, 2, 2),
    ]:
        done = classify("--shard", "auto", *names_of_all, variables=variables)
        assert done.stderr.startswith(f"effnet: shard {part}/{count}, by "), done.stderr
    for variables, words in [
        ({"PMI_RANK": "2", "PMI_SIZE": "2"}, "task 3 of 2"),
        ({"PMI_RANK": "x", "PMI_SIZE": "2"}, "PMI_RANK is x, but must be a number"),
        ({"OMPI_COMM_WORLD_RANK": "1"}, "OMPI_COMM_WORLD_SIZE is not set"),
        ({"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "9",
          "SLURM_ARRAY_TASK_COUNT": "3"}, "not evenly spaced"),
        ({"PARALLEL_SEQ": "1"}, "GNU parallel does not tell"),
        ({"PARALLEL_SEQ": "1", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, "GNU parallel does not tell"),
    ]:
        assert_one_line(classify("--shard", "auto", *names_of_all, variables=variables), USAGE, words)
    script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "3"}
    assert_one_line(classify("--shard", "auto", "a", variables=script), USAGE, "batch script", "srun")


def test_results_may_not_be_among_the_inputs_of_shards(classify, photos):
    for output in ("out.csv", photos / "sub/out.csv"):
        done = classify("-r", ".", "--shard", "1/2", "-o", output, cwd=photos)
        assert_one_line(done, USAGE, "may not lie in the folder")
