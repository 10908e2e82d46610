"""The command line as such: help, usage, exit statuses, where the model is found, output that fails."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cli_model import (
    DATA,
    NO_INPUT,
    OUTPUT,
    UNAVAILABLE,
    USAGE,
    assert_one_line,
    run_with_stdout,
    write_image,
)

COMMANDS = ["classify", "info", "verify", "bench", "tune", "quantize"]


def no_model_environment(tmp_path):
    return {k: v for k, v in os.environ.items() if k != "EFFNET_MODEL"} | {"HOME": str(tmp_path)}


# ---------------------------------------------------------------- help and version


@pytest.mark.parametrize("command", COMMANDS)
def test_command_help_needs_no_model(effnet, command):
    environment = os.environ | {"EFFNET_MODEL": "/nonexistent"}
    done = effnet(command, "--help", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: effnet {command} ")
    assert ("  -m, --model FILE" in done.stdout) == (command != "quantize")  # which names its model
    assert "  64  wrong usage" in done.stdout
    for same in (["help", command], [command, "-h"], [command, "-q", "--help", "--bogus"]):
        assert effnet(*same, env=environment).stdout == done.stdout


def test_help(effnet):
    done = effnet("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", done.stdout, re.M)
    assert effnet("help").stdout == effnet("-h").stdout == done.stdout


def test_version(effnet, root):
    version = re.search(r'define EFFNET_VERSION "(.*)"', (root / "include/effnet.h").read_text()).group(1)
    done = effnet("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"effnet {version}\n", "")


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize("arguments, word", [
    ([], "command is missing"),
    (["frobnicate"], "unknown command 'frobnicate'"),
    (["--frobnicate"], "unknown option '--frobnicate'"),
    (["help", "frobnicate"], "unknown command 'frobnicate'"),
    (["clasify", "x"], "unknown command 'clasify': did you mean classify?"),
    (["ifno"], "did you mean info?"),
    (["infoab"], "unknown command 'infoab'"),
    (["help", "bemch"], "did you mean bench?"),
    (["classify", "--treads=3", "x"], "unknown option '--treads=3': did you mean --threads?"),
    (["classify", "--topkk", "3", "x"], "did you mean --topk?"),
    (["help", "info", "bench"], "one command"),
    (["classify"], "image file"),
    (["classify", "--frobnicate", "x"], "unknown option '--frobnicate'"),
    (["classify", "-Z", "x"], "unknown option '-Z'"),
    (["classify", "--t", "x"], "ambiguous option '--t'"),
    (["classify", "x", "-k"], "-k/--topk needs an argument"),
    (["classify", "--stats=yes", "x"], "--stats takes no argument"),
    (["classify", "--format", "xml", "x"], "text|json|csv"),
    (["classify", "--format", "", "x"], "text|json|csv"),
    (["classify", "--precision", "fp8", "x"], "fp32|bf16|fp16"),
    (["classify", "--decode", "fast", "x"], "cpu|gpu"),
    (["classify", "--plan", "fast", "x"], "auto|cudnn"),
    (["classify", "-m", "", "x"], "empty"),
    (["classify", "-", "-"], "only once"),
    (["info", "image.png"], "unexpected 'image.png'"),
    (["info", "--plan=fast"], "auto|cudnn"),
    (["info", "--plan", "--devices"], "together"),
    (["tune", "image.png"], "unexpected 'image.png'"),
    (["bench", "image.png"], "--end-to-end"),
    (["bench", "--end-to-end"], "image files"),
    (["bench", "--end-to-end", "-"], "standard input"),
    (["bench", "--decode", "gpu"], "--end-to-end"),
    (["bench", "--end-to-end", "--layers", "x.png"], "together"),
    (["bench", "--peak-bandwidth", "100"], "--layers"),
])
def test_usage(effnet, arguments, word):
    assert_one_line(effnet(*arguments), USAGE, word)


@pytest.mark.parametrize("option, values", [
    ("classify -k", ["0", "-1", "+3", " 3", "3 ", "3x", "0x3", "1e3", "", "2147483648", "9" * 40]),
    ("classify --batch-size", ["0", "4097", "1.5"]),
    ("classify --max-pixels", ["0", "-5", "2147483648"]),
    ("classify --threads", ["-1", "4097", "two"]),
    ("bench --batch-size", ["0", "1,", ",1", "1,,2", "1;2", "65537", "1, 2", ",".join(["1"] * 65)]),
    ("bench --duration", ["-1", "nan", "inf", "0x1", "1e9", " 1", "1s", "."]),
    ("verify --allowance", ["0", "-1e-3", "nan", "1e", "e-3"]),
    ("verify --seed", ["-1", "1.0", "9007199254740992", "9007199254740993"]),
])
def test_numbers(effnet, option, values):
    command, name = option.split()
    for value in values:
        done = effnet(command, f"{name}={value}" if name.startswith("--") else f"{name}{value}", "x")
        if value == "" and name == "-k":
            assert_one_line(done, USAGE, "'x' is not")  # the next word is its argument
        else:
            assert_one_line(done, USAGE, f"'{value}' is not", "number")


def test_device_names(effnet, tiny, image):
    assert_one_line(effnet("classify", "-m", tiny, "--device", "toaster", image), USAGE, "toaster")
    assert_one_line(effnet("classify", "-m", tiny, "--device", "cuda:x", image), USAGE, "cuda:x")
    done = effnet("classify", "-m", tiny, "--device", "reference", "--precision", "bf16", image)
    assert_one_line(done, UNAVAILABLE, "bf16")
    done = effnet("classify", "-m", tiny, "--device", "cuda:999", image)  # on any machine
    assert_one_line(done, UNAVAILABLE)


# ---------------------------------------------------------------- the model


def test_model_from_option_and_environment(effnet, tiny, tmp_path):
    environment = no_model_environment(tmp_path)
    assert "network           tiny\n" in effnet("info", "-m", tiny, env=environment).stdout
    done = effnet("info", env=environment | {"EFFNET_MODEL": str(tiny)})
    assert "network           tiny\n" in done.stdout
    other = tmp_path / "nothing.safetensors"
    done = effnet("info", "-m", tiny, env=environment | {"EFFNET_MODEL": str(other)})
    assert done.returncode == 0, "-m comes first"
    done = effnet("info", env=environment | {"EFFNET_MODEL": str(other)})
    assert_one_line(done, NO_INPUT, "EFFNET_MODEL", other, "make weights")


def test_missing_model(effnet, tmp_path):
    assert_one_line(effnet("info", "-m", tmp_path / "nothing.safetensors"), NO_INPUT, "nothing.safetensors",
                    "make weights")
    assert_one_line(effnet("info", "-m", "no-such-network"), NO_INPUT, "no-such-network", "make weights NETWORKS=",
                    "lite2", "NAME-int8", "tools/convert.py")
    assert_one_line(effnet("info", "-m", "x" * 5000), NO_INPUT, "too long")


def test_network_by_name(effnet, build, lite1, b1_plain, tmp_path):
    """A name is looked for in the build's place; a file of that name in the way wins."""
    if lite1.parent not in (build.parent / "weights", build.parent.parent / "weights"):
        pytest.skip("built outside of the source")
    environment = no_model_environment(tmp_path)
    assert "network           b1-plain\n" in effnet("info", "-m", "b1-plain", env=environment).stdout
    assert "network           lite1\n" in effnet("info", env=environment).stdout
    assert "network           lite1\n" in effnet("info", env=environment | {"EFFNET_MODEL": ""}).stdout
    (tmp_path / "b1-plain").write_bytes(b"junk")
    assert effnet("info", "-m", "b1-plain", env=environment, cwd=tmp_path).returncode == DATA


def test_installed_place(build, tiny, tmp_path):
    """PREFIX/bin/effnet finds PREFIX/share/effnet/NAME.safetensors, from any folder."""
    (tmp_path / "bin").mkdir()
    program = shutil.copy(build / "effnet", tmp_path / "bin" / "effnet")

    def run(*arguments):
        return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False,
                              env=no_model_environment(tmp_path), cwd="/", stdin=subprocess.DEVNULL)

    assert_one_line(run("info"), NO_INPUT, "make weights", "-m", "EFFNET_MODEL")
    (tmp_path / "share/effnet").mkdir(parents=True)
    shutil.copy(tiny, tmp_path / "share/effnet/lite1.safetensors")
    shutil.copy(tiny, tmp_path / "share/effnet/mine.safetensors")
    assert "share/effnet/lite1.safetensors\n" in run("info").stdout
    assert "share/effnet/mine.safetensors\n" in run("info", "-m", "mine").stdout


def test_bad_model(effnet, tiny, tmp_path, image):
    content = tiny.read_bytes()
    broken = tmp_path / "broken.safetensors"
    for data in (b"", b"junk", content[:-1], content[: len(content) // 2], b"\xff" * 100):
        broken.write_bytes(data)
        for command in (["info"], ["classify", image], ["verify"], ["bench"]):
            assert_one_line(effnet(*command, "-m", broken), DATA, "broken.safetensors")


# ---------------------------------------------------------------- output that fails


def output_commands(tiny, image):
    return [["--help"], ["--version"], ["bench", "--help"], ["info", "-m", tiny], ["info", "-m", tiny, "--format=json"],
            ["classify", "-m", tiny, "--device=cpu", image],
            ["classify", "-m", tiny, "--device=cpu", "--format", "csv", image],
            ["verify", "-m", tiny, "--device=cpu"], ["bench", "-m", tiny, "--device=cpu", "--duration", "0"]]


def assert_output_error(done, *words):
    assert done.returncode == OUTPUT, done.stderr
    assert done.stderr.count("\n") == 1 and "standard output" in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr


def test_full_disk(build, tiny, image):
    for arguments in output_commands(tiny, image):
        with open("/dev/full", "w") as full:
            assert_output_error(run_with_stdout(build, arguments, full), "No space left")


def test_closed_pipe(build, tiny, image):
    for arguments in output_commands(tiny, image):
        read, write = os.pipe()
        os.close(read)
        try:
            assert_output_error(run_with_stdout(build, arguments, write), "Broken pipe")
        finally:
            os.close(write)


def test_closed_standard_streams(build, tiny, image):
    """Closed descriptors are not taken by the files that the program opens."""
    for arguments in output_commands(tiny, image):
        assert_output_error(run_with_stdout(build, arguments, None, preexec_fn=lambda: os.close(1)))
    done = subprocess.run([build / "effnet", "classify", "-m", tiny, "--device=cpu", image, "-"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=120, check=False,
                          preexec_fn=lambda: os.close(0))
    assert done.returncode == NO_INPUT and done.stdout.startswith(str(image))


def test_closed_pipe_stops_early(build, tiny, tmp_path):
    """`effnet classify ... | head` ends although standard input never does."""
    images = [write_image(tmp_path / f"{i}.png", i) for i in range(4)]
    read, write = os.pipe()
    os.close(read)
    endless, keep_open = os.pipe()
    arguments = ["classify", "-m", tiny, "--device=cpu", "-b", "1", *images, "-"]
    done = subprocess.run([build / "effnet", *arguments], stdin=endless, stdout=write, stderr=subprocess.PIPE,
                          text=True, timeout=60, check=False)
    for descriptor in (write, endless, keep_open):
        os.close(descriptor)
    assert_output_error(done, "Broken pipe")


# ---------------------------------------------------------------- the manual page


def plain(text):
    """Words without markup, quotes and line breaks."""
    return " ".join(re.sub(r"[\\*`']", "", text).split())


def help_options(text):
    """{'--topk': ('-k, --topk N', 'description')} of a --help text."""
    options = {}
    for line in text.split("\nOptions:\n")[1].split("\nExit status:\n")[0].splitlines():
        match = re.match(r"  (?:(-\w), |    )(--[\w-]+)(\[=\S+| \S+)?(?:  +(.*))?$", line)
        if match:
            letter, name, argument, description = match.groups()
            last = name
            head = (f"{letter}, " if letter else "") + name + (argument or "")
            options[name] = [head, description or ""]
        elif line.startswith(" " * 20):
            options[last][1] += " " + line.strip()
    return {name: (plain(head), plain(description)) for name, (head, description) in options.items()}


def man_sections(root):
    """{'classify': text} by the headings of docs/effnet.1.md."""
    parts = re.split(r"^#+ (.*)$", (root / "docs/effnet.1.md").read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def man_options(section):
    found = {}
    for head, description in re.findall(r"^(\*\*\\?-.*)\n:   ((?:.+\n)+)", section, flags=re.M):
        found[re.search(r"--[\w-]+", plain(head)).group()] = (plain(head), plain(description))
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_manual_says_what_help_says(effnet, root, command):
    sections = man_sections(root)
    text = effnet(command, "--help").stdout
    common = {} if command == "quantize" else man_options(sections["MODEL AND DEVICE"])
    assert help_options(text) == common | man_options(sections[command])
    assert len(help_options(text)) >= 8
    usage, details = text.split("\n\n")[:2]
    assert plain(details) in plain(sections[command])
    assert plain(usage.removeprefix("Usage: ")) in plain(sections[command])


def test_manual_statuses_environment_version(effnet, root):
    sections = man_sections(root)
    text = effnet("--help").stdout
    for title, heading in (("Exit status", "EXIT STATUS"), ("Environment", "ENVIRONMENT")):
        entries = re.findall(r"^ +(\S+)  +(.*)$", re.split(rf"^{title}:\n", text, flags=re.M)[1].split("\n\n")[0],
                             flags=re.M)
        man = re.findall(r"^\*\*(\S+)\*\*\n:   (.*)$", sections[heading], flags=re.M)
        assert entries == man and len(man) >= 2
    version = effnet("--version").stdout.strip()
    assert f"footer: {version}\n" in (root / "docs/effnet.1.md").read_text()


@pytest.mark.skipif(not shutil.which("pandoc"), reason="pandoc makes the manual page")
def test_manual_page(root, tmp_path):
    page = tmp_path / "effnet.1"
    subprocess.run(["pandoc", "--standalone", "--from", "markdown", "--to", "man", "-o", page,
                    Path(root, "docs/effnet.1.md")], check=True)
    text = page.read_text()
    assert text.count(".SH") >= 8 and "--topk" in text.replace("\\-", "-")


@pytest.mark.parametrize("command, device, status, words", [
    ("classify", "cuda:0,0", USAGE, "cuda:0 is there twice"),
    ("classify", "cuda:0,1,0", USAGE, "cuda:0 is there twice"),
    ("classify", "cuda:00,0", USAGE, "cuda:0 is there twice"),
    ("classify", "cuda:1,10,0,01", USAGE, "cuda:01 is there twice"),
    ("classify", "cuda:" + ",".join(map(str, range(65))), USAGE, "more than 64 GPUs"),
    ("classify", "cuda:x,1", USAGE, "N in cuda:N is a number"),
    ("classify", "cuda:,1", USAGE, "N in cuda:N is a number"),
    ("classify", "x" * 200, USAGE, "unknown device"),
    ("verify", "cuda:0,1", USAGE, "a session is on one GPU"),
    ("info", "cuda:all", USAGE, "a session is on one GPU"),
    ("tune", "cuda:all", USAGE, "a session is on one GPU"),
])
def test_several_gpus_that_are_refused(effnet, tiny, image, command, device, status, words):
    operands = {"classify": [image], "info": ["--plan"]}.get(command, [])
    assert_one_line(effnet(command, "-m", tiny, "--device", device, *operands), status, words)
