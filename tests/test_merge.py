"""effnet merge: the parts that shards have written become what one run would have, or the reason is named."""

import os

import pytest
from cli_model import DATA, NO_INPUT, OUTPUT, USAGE, assert_one_line, run_with_stdout, write_image, write_tiny_model

ARRAYS = {"--logits": "logits.npy", "--embeddings": "embeddings.npy"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(11):
        write_image(folder / f"{i:02}.png", i)
    (folder / "03.gif").write_bytes(b"GIF89a broken")
    (folder / "05.txt").write_text("no image")
    return folder


@pytest.fixture
def shards(classify, photos, tmp_path):
    """shards(count, options...) runs all of them into parts, and returns the parts' names."""
    def run(count, *options, name="part-{shard}", folder=photos):
        for i in range(1, count + 1):
            done = classify("-q", "-r", folder, *options, "--shard", f"{i}/{count}", "-o", tmp_path / name)
            assert done.returncode in (0, DATA), done.stderr
        return [tmp_path / name.replace("{shard}", f"{i:05}-of-{count:05}") for i in range(1, count + 1)]
    return run


@pytest.mark.parametrize("form", ["csv", "json", "text"])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_merged_shards_are_one_run(effnet, classify, shards, photos, tmp_path, form, count):
    assert classify("-r", photos, "--format", form, "-b", 8, "-o", tmp_path / "whole").returncode == DATA
    parts = shards(count, "--format", form, "-b", 8)
    done = effnet("merge", "-o", tmp_path / "merged", *reversed(parts))
    assert done.returncode == 0 and not done.stderr
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()
    done = effnet("merge", *sorted(tmp_path.glob("part-*")), text=False)
    assert done.stdout == (tmp_path / "whole").read_bytes(), "also where their .shard files are named"


@pytest.mark.parametrize("count", [1, 3, 7, 40])
def test_merged_arrays_are_one_runs(effnet, classify, photos, tmp_path, count):
    def outputs(name):
        return [word for option, file in ARRAYS.items() for word in (option, tmp_path / f"{name}{file}")]

    classify("-q", "-r", photos, "-b", 8, *outputs("whole-"))
    for i in range(1, count + 1):
        classify("-q", "-r", photos, "-b", 8, "--shard", f"{i}/{count}", *outputs("{shard}-"))
    for file in ARRAYS.values():
        done = effnet("merge", "-o", tmp_path / file, *tmp_path.glob(f"0*-{file}"))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / file).read_bytes() == (tmp_path / f"whole-{file}").read_bytes()


def test_a_list_and_a_resumed_shard(effnet, classify, photos, tmp_path):
    listed = "".join(f"{photos}/{i % 11:02}.png\n" for i in range(50))
    whole = classify("-q", "--files-from", "-", input=listed)
    for i in (1, 2):
        done = classify("-q", "--files-from", "-", "--shard", f"{i}/2", "-o", tmp_path / "part-{shard}", "--resume",
                        input=listed)
        assert done.returncode == 0
    assert effnet("merge", *tmp_path.glob("part-*")).stdout == whole.stdout


# ---------------------------------------------------------------- what is not merged


@pytest.fixture
def refused(effnet, tmp_path):
    """Merging is refused in one line, and leaves the output as it was."""
    def check(parts, status, *words, output="merged"):
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        assert_one_line(effnet("merge", "-o", tmp_path / output, *parts), status, *words)
        assert before == {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    return check


def test_missing_and_doubled(refused, shards, tmp_path):
    (tmp_path / "merged").write_text("from before")
    parts = shards(4)
    refused(parts[:2] + parts[3:], NO_INPUT, "shard 3/4 is missing")
    refused(parts[1:2], NO_INPUT, "3 of 4 shards are missing, the first is 1/4")
    refused([*parts, parts[1]], DATA, parts[1], "shard 2/4, and so is")
    refused([*parts[:3], tmp_path / "nothing"], NO_INPUT, tmp_path / "nothing")
    refused([], USAGE, "name the parts")
    refused(tmp_path.glob("part-*.shard"), USAGE, "name the parts")
    refused([*parts[:3], tmp_path], DATA, "no regular file")
    refused(parts, USAGE, parts[2], "cannot be the output", output=parts[2].name)
    (tmp_path / "link").symlink_to(parts[2])
    refused(parts, USAGE, parts[2], "cannot be the output", output="link")


def test_of_another_run(refused, shards, classify, photos, tmp_path):
    parts = shards(2)
    refused([parts[0], shards(3, name="three-{shard}")[1]], DATA, "one of 3 shards", "one of 2")
    for options, words in [
        (["--format", "csv"], ["format=csv", "format=text"]),
        (["-k", "2"], ["topk=2", "topk=5"]),
        (["-b", "3"], ["batch-size=3"]),
        (["-m", write_tiny_model(tmp_path / "other.safetensors", seed=2)], ["weights="]),
    ]:
        refused([parts[0], shards(2, *options, name="other-{shard}")[1]], DATA, *words)
    note = parts[1].with_name(parts[1].name + ".shard")
    whole = note.read_text()
    before, plan = whole.split("plan=")
    for text in before, before + "\nplan=" + plan:  # another version's, or damaged
        note.write_text(text)
        refused(parts, DATA, f"{parts[1]}: is of a run with other options, and {parts[0]} of one with plan=")
        refused(parts[::-1], DATA, f"{parts[0]}: is of a run with plan=default, and {parts[1]} of one with other options")
    note.write_text(whole)
    (tmp_path / "more").mkdir()
    for path in photos.iterdir():
        (tmp_path / "more" / path.name).symlink_to(path)
    refused([parts[0], shards(2, name="other-{shard}", folder=tmp_path / "more")[1]], DATA, "names=13 ")
    array = tmp_path / "array.npy"
    classify("-q", "-r", photos, "--shard", "2/2", "--logits", array)
    refused([parts[0], array], DATA, "output=logits", "output=results")


def test_changed_since(refused, shards):
    parts = shards(2)
    data = parts[1].read_bytes()
    parts[1].write_bytes(data[:-1])
    refused(parts, DATA, parts[1], f"{len(data) - 1} bytes", f"had {len(data)}")
    parts[1].write_bytes(data[:-3] + b"?" + data[-2:])
    refused(parts, DATA, parts[1], "has changed since")
    parts[1].write_bytes(data)
    note = parts[0].with_name(parts[0].name + ".shard")
    text = note.read_bytes()
    for wrong in [b"", b"effnet shard 1\n", text[:60], text + b"\0", text + b"x" * 5000, text.replace(b"=1/2", b"=0/2"),
                  text.replace(b"=1/2", b"=3/2"), text.replace(b"=1/2", b"=1/99999999"), text.replace(b"bytes=", b"bytes=-"),
                  text.replace(b"bytes=", b"bytes=99999999999999999999"), text.replace(b"columns=", b"columns= ")]:
        assert wrong != text
        note.write_bytes(wrong)
        refused(parts, DATA, note, "not what classify --shard has written")
    note.write_bytes(text.replace(b"columns=0", b"columns=6"))
    refused(parts, DATA, parts[0], "are no array of 6 columns")
    refused(parts[1:] + parts[:1], DATA, parts[0], "has 6 columns, and", "0")
    note.unlink()
    refused(parts, NO_INPUT, note, "classify --shard writes it")


def test_outputs_that_cannot_be_written(effnet, shards, build, tmp_path):
    parts = shards(2)
    assert_one_line(effnet("merge", "-o", tmp_path / "no/folder", *parts), OUTPUT, "no/folder")
    with open("/dev/full", "w") as full:
        done = run_with_stdout(build, ["merge", *parts], full)
    assert done.returncode == OUTPUT and done.stderr.count("\n") == 1
    assert_one_line(effnet("merge", "-o", "/dev/full", *parts), OUTPUT, "/dev/full")


def test_outputs_that_would_cost_another_file(refused, shards, tmp_path):
    parts = shards(2)
    for name in (parts[0].name + ".shard", "new.partial", "new.resume"):
        refused(parts, USAGE, f"{name}: no output may end in", output=name)
    write_image(tmp_path / "image.png", 5)
    refused(parts, OUTPUT, "image.png: is an image, which is not overwritten", output="image.png")


# ---------------------------------------------------------------- what shards write for it


def test_files_of_shards(classify, shards, photos, tmp_path):
    shards(1)
    assert sorted(os.listdir(tmp_path)) == ["part-00001-of-00001", "part-00001-of-00001.shard"]
    assert "\nshard=1/1\n" in (tmp_path / "part-00001-of-00001.shard").read_text()
    assert "\nnames=13 " in (tmp_path / "part-00001-of-00001.shard").read_text()
    classify("-q", "-r", photos, "-o", tmp_path / "alone")
    assert not (tmp_path / "alone.shard").exists()
    mine = tmp_path / "mine.shard"
    mine.write_text("a shard of mine")
    done = classify("-q", "-r", photos, "--shard", "1/2", "-o", tmp_path / "mine")
    assert_one_line(done, OUTPUT, mine, "in the way")
    assert mine.read_text() == "a shard of mine" and not (tmp_path / "mine").exists()


def test_what_is_left_of_a_killed_shard_is_replaced(classify, photos, tmp_path):
    """By how it begins; what is not effnet's is refused, before any work."""
    partial, shard = tmp_path / "a.shard.partial", tmp_path / "a.shard"
    for text in ["notes of mine", "effnet shard 2\n", "e!"]:
        partial.write_text(text)
        done = classify("-q", "-r", photos, "--shard", "1/2", "-o", tmp_path / "a")
        assert_one_line(done, OUTPUT, f"{partial}: is in the way, and no file of effnet's")
        assert partial.read_text() == text and os.listdir(tmp_path) == [partial.name]
    for text in ["", "effnet sh", "effnet shard 1\nshard=1/2\n"]:
        partial.write_text(text)
        assert classify("-q", "-r", photos, "--shard", "1/2", "-o", tmp_path / "a").returncode in (0, DATA)
        assert shard.read_text().startswith("effnet shard 1\n") and sorted(os.listdir(tmp_path)) == ["a", "a.shard"]


@pytest.mark.parametrize("name", ["a.shard", "a.shard.partial"])
def test_a_pipe_in_place_of_a_parts_file(classify, photos, tmp_path, name):
    os.mkfifo(tmp_path / name)
    done = classify("-q", "-r", photos, "--shard", "1/2", "-o", tmp_path / "a", timeout=60)
    assert_one_line(done, OUTPUT, f"{tmp_path / name}: is in the way, and no file of effnet's")


def test_a_pipe_in_place_of_what_is_merged(effnet, shards):
    part, = shards(1)
    for pipe in part.with_name(part.name + ".shard"), part:
        pipe.unlink()
        os.mkfifo(pipe)
        assert_one_line(effnet("merge", part, timeout=60), DATA, f"{pipe}: is no regular file")
