"""tools/convert.py: where in a checkpoint the network is found, and files that are none."""

import argparse
import collections
import datetime
import enum
import functools
import gzip
import io
import lzma
import pathlib
import pickle
import struct
import tarfile
import time
import zipfile

import numpy as np
import pytest
from convert_formats import (
    NONE,
    Tensor,
    dict_of,
    integer,
    list_of,
    module_of,
    name,
    object_of,
    ordered_dict_of,
    pickled,
    program,
    text,
    tuple_of,
    write_old,
    write_safetensors,
    write_zip,
)
from convert_networks import assert_one_line_error, run_convert, state_dict
from effnet_convert import modules
from effnet_convert import variants
from effnet_convert.errors import ConvertError
from effnet_convert.naming import Found
from effnet_convert.prefixes import separate
from effnet_convert.sources import open_source
from effnet_convert.state_dict import as_recorded
from safetensors.numpy import load_file

# A network in small: a convolution, a batch norm and a classifier.
SHAPES = {
    "conv.weight": (2, 3, 1, 1),
    "bn.weight": (2,),
    "bn.bias": (2,),
    "bn.running_mean": (2,),
    "bn.running_var": (2,),
    "bn.num_batches_tracked": (),
    "fc.weight": (4, 2),
    "fc.bias": (4,),
}
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def network(seed=1, prefix="", parameters_alone=False):
    random = np.random.default_rng(seed)
    return {
        prefix + key: np.asarray(random.standard_normal(shape), np.float32)
        for key, shape in SHAPES.items()
        if not parameters_alone or not key.endswith(BUFFERS)
    }


class Checkpoint:
    """Collects tensors while a checkpoint's pickle is put together."""

    def __init__(self):
        self.tensors = {}

    def tensor(self, array, **more):
        key = str(len(self.tensors))
        tensor = self.tensors[key] = Tensor(array, key=key, **more)
        return tensor.pickled(False)

    def state(self, arrays):
        return ordered_dict_of({name: self.tensor(array) for name, array in arrays.items()})

    def write(self, path, value):
        return write_zip(path, self.tensors, make_object=lambda tensors, old: program(value))


@pytest.fixture
def checkpoint():
    return Checkpoint()


@pytest.fixture
def opened(tmp_path, checkpoint):
    """opened(pickled value, **options of open_source) -> Source"""

    def open_it(value, **options):
        return open_source(str(checkpoint.write(tmp_path / "file.pth", value)), **options)

    return open_it


def refused(opened, value, *words, **options):
    with pytest.raises(ConvertError) as caught:
        opened(value, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def assert_same(source, expected):
    assert list(source.tensors) == list(expected)
    for key, array in expected.items():
        assert np.array_equal(source.tensors[key].array(key), array), key


def said(source):
    return " | ".join(source.notices)


# ---------------------------------------------------------------- what else trainers keep


class Colour(enum.Enum):
    RED = 1


class Callback:
    def __init__(self):
        self.best, self.path = 0.5, pathlib.Path("/a/b")


def trainers_things(checkpoint):
    """{name: pickled value} of what checkpoints hold beside the network."""
    values = {
        "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("x")),
        "when": datetime.datetime(2020, 1, 2),
        "colour": Colour.RED,
        "best": np.float64(0.5),
        "history": np.arange(5),
        "seen": {1, 2},
        "frozen": frozenset((1, 2)),
        "counts": collections.Counter("aab"),
        "by_name": collections.defaultdict(list, {"a": [1]}),
        "milestones": collections.deque([1, 2]),
        "function": pathlib.Path.exists,
        "partial": functools.partial(int, base=2),
        "callbacks": {"EarlyStopping": Callback()},
        "complex": 1j,
        "range": range(4),
        "bytes": b"abc",
        "keys": {None: 1, 0.5: 2, (1, 2): 3, b"x": 4},
    }
    things = {key: pickled(value) for key, value in values.items()}
    state = b"}(" + integer(0) + dict_of({"step": integer(3), "exp_avg": checkpoint.tensor(np.ones((2, 3, 1, 1)))}) + b"u"
    things["optimizer"] = dict_of({"state": state, "param_groups": list_of(dict_of({"params": list_of(integer(0))}))})
    things["size"] = name("torch", "Size") + tuple_of(tuple_of(integer(1), integer(2))) + b"R"
    things["cfg"] = object_of("omegaconf.dictconfig", "DictConfig", {"_content": dict_of({"a": integer(1)})})
    things["itself"] = b"]q\xc8h\xc8a"
    return things


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "module", "params", "ema", "state_dict_ema"])
def test_checkpoints_of_trainers(checkpoint, opened, key):
    things = trainers_things(checkpoint)
    arrays = network()
    source = opened(dict_of({**things, key: checkpoint.state(arrays), "epoch": integer(7)}))
    assert_same(source, arrays)
    assert "objects of other kinds (" in said(source) and "were not looked at" in said(source)
    assert ("its only weights are EMA ones" in said(source)) == ("ema" in key)
    assert source.weights == ("EMA" if "ema" in key else "")


def test_objects_are_counted_and_named(checkpoint, opened):
    arrays = network()
    things = {"args": pickled(argparse.Namespace(path=pathlib.PurePosixPath("x")))}
    source = opened(dict_of({**things, "state_dict": checkpoint.state(arrays)}))
    assert source.notices == (
        f"2 objects of other kinds (argparse.Namespace, {pathlib.PurePosixPath.__module__}.PurePosixPath) in it were not "
        "looked at",
    )


@pytest.mark.parametrize("protocol", range(6))
def test_protocols(tmp_path, protocol):
    """Whatever Python's pickler writes in any protocol is read, and says nothing to anybody."""
    things = {"args": argparse.Namespace(a=1), "enum": Colour.RED, "set": {1}, "numpy": np.arange(3), "bytes": bytearray(b"x")}
    with zipfile.ZipFile(tmp_path / "file.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(things, protocol))
    with pytest.raises(ConvertError, match="holds no tensors, only args, enum, set and 2 more; it names"):
        open_source(str(tmp_path / "file.pth"))


def test_old_format_of_protocol_1(tmp_path):
    """Its magic number is written in digits."""
    arrays = network()
    data = write_old(tmp_path / "file.pth", arrays).read_bytes()
    first = program(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19")
    assert data.startswith(first)
    (tmp_path / "file.pth").write_bytes(b"L119547037146038801333356L\n." + data[len(first) :])
    assert_same(open_source(str(tmp_path / "file.pth")), arrays)


@pytest.mark.parametrize(
    "things, names",
    [
        ({"arch": "tf_efficientnet_lite1"}, ("tf_efficientnet_lite1",)),
        ({"args": argparse.Namespace(model="hf_hub:timm/tf_efficientnet_b1.ns_jft_in1k")}, ("tf_efficientnet_b1.ns_jft_in1k",)),
        ({"hyper_parameters": {"backbone": "efficientnet_b0", "arch": 3}}, ("efficientnet_b0",)),
        ({"args": [1], "epoch": "arch"}, ()),
    ],
)
def test_names_that_a_trainer_notes(checkpoint, opened, things, names):
    value = dict_of({**{key: pickled(thing) for key, thing in things.items()}, "state_dict": checkpoint.state(network())})
    assert opened(value).names == names


def test_the_name_chooses_between_variants(tmp_path, checkpoint):
    """timm's efficientnet_lite1 and tf_efficientnet_lite1 have the same tensors."""
    said = {}
    for arch in ("efficientnet_lite1", "tf_efficientnet_lite1", "resnet50"):
        value = dict_of({"arch": pickled(arch), "state_dict": checkpoint.state(state_dict("timm"))})
        result = run_convert(checkpoint.write(tmp_path / "file.pth", value), tmp_path / "out")
        assert result.returncode == 0, result.stderr
        said[arch] = result
    assert "padding symmetric, epsilon 1e-05" in said["efficientnet_lite1"].stdout
    assert "padding same, epsilon 0.001" in said["tf_efficientnet_lite1"].stdout
    assert ["--arch" in result.stderr for result in said.values()] == [False, False, True]


# ---------------------------------------------------------------- prefixes


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "net.", "_orig_mod.", "backbone.", "module._orig_mod.model.", "_orig_mod.module.encoder.net."]
)
def test_common_prefixes(tmp_path, prefix):
    source = open_source(str(write_safetensors(tmp_path / "file", network(prefix=prefix))))
    assert_same(source, network())
    assert source.notices == ()


def test_a_sequential_is_no_wrapper(tmp_path):
    """Of a head alone the name stays, for what is said of it."""
    for arrays in ({"fc.0.weight": np.ones(2), "fc.3.weight": np.ones(2)}, {"fc.1.weight": np.ones(2), "fc.1.bias": np.ones(2)}):
        assert_same(open_source(str(write_safetensors(tmp_path / "file", arrays))), arrays)
    assert_same(open_source(str(write_safetensors(tmp_path / "file", network(prefix="module.0.")))), network())


def test_wrapping_in_the_middle_of_a_name(tmp_path):
    arrays = network()
    wrapped = {key.replace("fc.", "fc._orig_mod."): array for key, array in arrays.items()}
    assert_same(open_source(str(write_safetensors(tmp_path / "file", wrapped))), arrays)
    with pytest.raises(ConvertError, match="there is a fc.bias too"):
        open_source(str(write_safetensors(tmp_path / "file", {**wrapped, "fc.bias": arrays["fc.bias"]})))


def test_what_does_not_share_the_prefix(tmp_path):
    """A head of one's own beside a wrapped backbone is part of the network, and nobody may drop it."""
    arrays = {**network(prefix="backbone."), "head.weight": np.ones((5, 4), np.float32)}
    assert_same(open_source(str(write_safetensors(tmp_path / "file", arrays))), arrays)


@pytest.mark.parametrize(
    "others, words",
    [
        (["head.weight"], "the network's names begin with net. and 1 others do not (head.weight)"),
        (["head.weight"], "take it alone with --key state_dict.net;"),
        (["other.conv_stem.weight"], "several networks, say which with --key: state_dict.net, state_dict.other"),
    ],
)
def test_a_part_that_is_a_network(checkpoint, opened, others, words):
    """Known by the names that a library gives."""
    arrays = {key: np.ones(1, np.float32) for key in ("net.conv_stem.weight", "net.bn1.weight", *others)}
    value = dict_of({"state_dict": checkpoint.state(arrays)})
    refused(opened, value, words)
    assert list(opened(value, key="state_dict.net").tensors) == ["conv_stem.weight", "bn1.weight"]


def test_losses_and_counters_beside_the_network(tmp_path):
    arrays = {
        "n_averaged": np.array(3, np.float32),
        **network(prefix="module.model."),
        "module.criterion.weight": np.ones(4, np.float32),
        "module.val_acc.total": np.ones((), np.float32),
    }
    source = open_source(str(write_safetensors(tmp_path / "file", arrays)))
    assert_same(source, network())
    assert said(source) == "module.criterion.weight, module.val_acc.total: left out, as a loss's or a metric's"


# ---------------------------------------------------------------- EMA


def test_raw_and_averaged_weights(checkpoint, opened):
    value = dict_of({"state_dict": checkpoint.state(network(1)), "state_dict_ema": checkpoint.state(network(2))})
    raw, averaged = opened(value), opened(value, ema=True)
    assert_same(raw, network(1))
    assert raw.weights == "raw"
    assert said(raw) == "the raw weights were taken (state_dict): --ema takes the EMA ones (state_dict_ema)"
    assert_same(averaged, network(2))
    assert (averaged.weights, averaged.notices) == ("EMA", ())
    assert_same(opened(value, key="state_dict_ema"), network(2))
    refused(opened, dict_of({"model": checkpoint.state(network())}), "--ema: there are no EMA weights in it", ema=True)


def test_averaged_weights_in_the_same_state_dict(checkpoint, opened):
    both = {**network(1, "model."), **network(2, "model_ema.module."), "model_ema.decay": np.ones((), np.float32)}
    value = dict_of({"state_dict": checkpoint.state(both)})
    assert_same(opened(value), network(1))
    assert_same(opened(value, ema=True), network(2))
    assert_same(opened(value, key="state_dict.model_ema"), network(2))


def test_lightning_moves_the_raw_weights(checkpoint, opened):
    value = dict_of(
        {"state_dict": checkpoint.state(network(2, "model.")), "current_model_state": checkpoint.state(network(1, "model."))}
    )
    assert_same(opened(value), network(1))
    assert_same(opened(value, ema=True), network(2))


@pytest.mark.parametrize("first", ["a%d_loss", "ema%d"])
def test_many_groups_take_linear_time(first):
    """Beside the network, each under a first part of its own. In quadratic time it would be half a minute."""
    tensors = {**dict.fromkeys([first % i + ".x" for i in range(20_000)]), "a.b": None, "c": None}
    start = time.process_time()
    found = separate(tensors, "file")
    assert time.process_time() - start < 5
    assert list(found[0].tensors) == ["a.b", "c"]
    assert len(found) + len(found[0].left_out) == 20_001


def test_shadow_list(checkpoint, opened):
    """torch_ema: the parameters in order, without names; the batch norms' statistics are the model's."""
    raw, averaged = network(1), network(2, parameters_alone=True)

    def value(arrays):
        shadow = list_of(*(checkpoint.tensor(array) for array in arrays.values()))
        return dict_of({"model": checkpoint.state(raw), "ema": dict_of({"decay": integer(1), "shadow_params": shadow})})

    whole = value(averaged)
    assert_same(opened(whole), raw)
    assert_same(opened(whole, ema=True), {**raw, **averaged})
    assert_same(opened(whole, key="ema"), {**raw, **averaged})
    del averaged["fc.bias"]
    refused(opened, value(averaged), "ema.shadow_params: 4 EMA tensors", "do not fit", ema=True)
    alone = dict_of({"shadow_params": list_of(checkpoint.tensor(np.ones(3)))})
    refused(opened, alone, "holds no tensors with names, only the list shadow_params")


@pytest.mark.parametrize("wrapped", [False, True])
def test_shadow_dictionary(checkpoint, opened, wrapped):
    """The parameters alone, in a dictionary or as an attribute of an object."""
    raw, averaged = network(1), network(2, parameters_alone=True)
    shadow = dict_of({key: checkpoint.tensor(array) for key, array in averaged.items()})
    ema = object_of("__main__", "EMA", {"shadow": shadow, "decay": integer(1)}) if wrapped else shadow
    value = dict_of({"model": checkpoint.state(raw), "ema": ema})
    assert_same(opened(value), raw)
    source = opened(value, ema=True)
    assert_same(source, {**raw, **averaged})
    assert "no batch norm statistics of their own" in said(source)


# ---------------------------------------------------------------- several, and --key


def test_several_sets_of_tensors(checkpoint, opened):
    value = dict_of({"generator": checkpoint.state(network(1)), "discriminator": checkpoint.state(network(2))})
    refused(opened, value, "several sets of tensors, say which with --key: generator, discriminator")
    assert_same(opened(value, key="discriminator"), network(2))
    refused(opened, value, "--key third: nothing is there; there are: generator, discriminator", key="third")
    # one of them is plainly the network
    source = opened(dict_of({"model": checkpoint.state(network(1)), "discriminator": checkpoint.state(network(2))}))
    assert_same(source, network(1))
    assert said(source) == "model was taken, not discriminator: --key says which"
    value = dict_of({"model": checkpoint.state(network(1)), "net": checkpoint.state(network(2))})
    refused(opened, value, "--key: model, net")


def test_key_into_names(checkpoint, opened):
    both = {**network(1, "student."), **network(2, "teacher.")}
    value = dict_of({"run": dict_of({"state_dict": checkpoint.state(both)})})
    assert_same(opened(value, key="run.state_dict.teacher"), network(2))


def test_the_same_tensors_twice(checkpoint, opened):
    state = checkpoint.state(network())
    value = dict_of({"model": state + b"q\x64", "best": b"h\x64", "net": state})
    assert_same(opened(value), network())


def test_the_same_tensors_twice_in_the_old_format(tmp_path):
    def make_object(tensors, old):
        state = ordered_dict_of({key: tensor.pickled(old) for key, tensor in tensors.items()})
        return program(dict_of({"model": state, "state_dict": state}))

    assert_same(open_source(str(write_old(tmp_path / "file.pth", network(), make_object=make_object))), network())


def test_shared_dictionaries_are_walked_once(checkpoint, opened):
    """Each holds the one before it 20 times: 20^11 paths down to the network."""
    tower = checkpoint.state(network())
    for _ in range(11):
        tower += b"q\x01" + b"0" + dict_of({f"k{i}": b"h\x01" for i in range(20)})
    assert_same(opened(tower), network())


def test_nothing_is_looked_for_under_long_keys(checkpoint, opened):
    """Searching one that 100,000 dictionaries share would take half a minute."""
    assert_same(opened(dict_of({"o" * 200: checkpoint.state(network())})), network())
    refused(opened, dict_of({"o" * 201: checkpoint.state(network())}), "holds no tensors")


def test_statistics_are_no_network(checkpoint, opened):
    things = {"loss": checkpoint.tensor(np.ones(())), "statistics": checkpoint.state({"m.weight": np.ones(2)})}
    assert opened(dict_of({**things, "x": dict_of({"y": checkpoint.state(network())})})).notices == ()


def test_numbers_among_the_tensors(checkpoint, opened):
    entries = {key: checkpoint.tensor(array) for key, array in network().items()}
    source = opened(dict_of({**entries, "epoch": integer(3)}))
    assert_same(source, network())
    assert said(source) == "epoch: left out, being no tensor"


def test_tensors_of_other_kinds_are_named(checkpoint, opened):
    quantised = name("torch._utils", "_rebuild_qtensor") + tuple_of(integer(1)) + b"R"
    entries = {key: checkpoint.tensor(array) for key, array in network().items()}
    words = "fc.weight: a tensor of a kind that is not read (torch._utils._rebuild_qtensor)"
    refused(opened, dict_of({"state_dict": dict_of({**entries, "fc.weight": quantised})}), words)
    assert_same(opened(dict_of({"model": dict_of(entries), "gauge": quantised})), network())


# ---------------------------------------------------------------- whole modules


def whole(checkpoint, arrays):
    """The small network as torch.save(model) writes it; its classifier is a Sequential."""

    def of(kind, prefix, parameters, buffers=(), **more):
        def part(names):
            return {key: checkpoint.tensor(arrays[f"{prefix}.{key}"]) for key in names}

        return module_of(kind, part(parameters), part(buffers), **more)

    norm = of("torch.nn.modules.batchnorm.BatchNorm2d", "bn", ("weight", "bias"), BUFFERS, eps=b"G" + struct.pack(">d", 1e-4))
    passing = module_of("a.Passing", buffers={"anchor": checkpoint.tensor(np.ones(3))}, _non_persistent_buffers_set=pickled({"anchor"}))
    head = {
        "0": of("torch.nn.modules.linear.Linear", "fc", ("weight", "bias")),
        "1": module_of("torch.nn.modules.activation.ReLU6"),
    }
    modules = {
        "conv": module_of("torch.nn.Conv2d", {"weight": checkpoint.tensor(arrays["conv.weight"]), "bias": NONE}),
        "bn": norm,
        "none": NONE,
        "passing": passing,
        "fc": module_of("torch.nn.modules.container.Sequential", modules=head),
    }
    return module_of("__main__.Net", modules=modules)


WHOLE = {key.replace("fc.", "fc.0."): array for key, array in network().items()}


@pytest.mark.parametrize("wrapper", ["", "torch.nn.parallel.data_parallel.DataParallel", "key"])
def test_whole_modules(checkpoint, opened, wrapper):
    value = whole(checkpoint, network())
    if wrapper == "key":
        value = dict_of({"epoch": integer(1), "model": value})
    elif wrapper:
        value = module_of(wrapper, modules={"module": value})
    source = opened(value)
    assert_same(source, WHOLE)
    assert source.notices == ()
    assert source.modules["fc.1"] == "torch.nn.modules.activation.ReLU6"
    assert source.modules["bn"] == "torch.nn.modules.batchnorm.BatchNorm2d"
    assert source.settings["bn"] == {"training": False, "eps": 1e-4}


def test_a_module_inside_an_object(checkpoint, opened):
    """torch.compile's module is made by a call with the module."""
    call = name("torch._dynamo.eval_frame", "OptimizedModule") + tuple_of(whole(checkpoint, network()), NONE) + b"R"
    assert_same(opened(call), WHOLE)


@pytest.mark.parametrize("count", [2, 70])
def test_modules_without_end(checkpoint, opened, count):
    """A module that is part of itself, and a tower of them that share all their parts."""
    empty = {part: ordered_dict_of({}) for part in ("_parameters", "_buffers")}
    if count == 2:
        value = object_of("a", "Net", empty) + b"q\x01" + dict_of({"_modules": dict_of({"x": b"h\x01"})}) + b"b"
    else:
        value = module_of("a.Net")
        for _ in range(count):
            value += b"q\x010" + module_of("a.Net", modules={"x": b"h\x01", "y": b"h\x01"})
    refused(opened, list_of() + b"0" + value, "modul")


def test_names_of_modules_have_a_limit(opened):
    """A long key that each of many modules in each other has makes names as long as all together."""
    value = text("k" * 1000) + b"q\x02" + b"0" + module_of("a.Net")
    value += b"".join(b"q\x010" + module_of("a.Net", modules={"x": b"h\x01"}) for _ in range(20))
    refused(opened, value.replace(text("x"), b"h\x02"), "a name of more than 1024 characters")


@pytest.mark.parametrize("limit, words", [("MAX_ENTRIES", "more than 500 parts"), ("MAX_CHARACTERS", "more than 500 characters")])
def test_modules_are_counted_together(checkpoint, opened, monkeypatch, limit, words):
    """What they share is read once for each of them."""
    monkeypatch.setattr(modules, limit, 500)
    shared = dict_of({f"p{i}": NONE for i in range(50)}) + b"q\x010"
    nets = {f"m{i}": object_of("a", "Net", {"_parameters": b"h\x01", "_modules": dict_of({})}) for i in range(12)}
    refused(opened, shared + dict_of(nets), words)
    few = {"net": nets["m0"], "other": module_of("a.Net", {"w": checkpoint.tensor(np.ones(1))})}
    assert list(opened(shared + dict_of(few)).tensors) == ["w"]


# ---------------------------------------------------------------- batch norm, linear, types, speed


def test_norms_and_linear_layers_without_parameters(tmp_path):
    """affine=False and bias=False are what 1 and 0 are."""
    state = state_dict("sequential", classes=3)
    (tmp_path / "labels").write_text("a\nb\nc\n")
    written = []
    for bare in (False, True):
        arrays = dict(state)
        for key in ("bn1.weight", "bn1.bias", "fc.bias"):
            if bare:
                del arrays[key]
            else:
                arrays[key] = np.full_like(arrays[key], float(key == "bn1.weight"))
        source = write_safetensors(tmp_path / "w", arrays)
        result = run_convert(source, tmp_path / "out", "--labels", tmp_path / "labels")
        assert result.returncode == 0, result.stderr
        written.append(load_file(tmp_path / "out"))
    assert all(np.array_equal(written[0][key], array) for key, array in written[1].items())
    del arrays["bn2.weight"]  # alone it is missing
    result = run_convert(write_safetensors(tmp_path / "w", arrays), tmp_path / "out", "--labels", tmp_path / "labels")
    assert_one_line_error(result, 65, "bn2.weight is missing")


def test_types_mixed(tmp_path):
    types = ("float16", "bfloat16", "float64", "float32")
    arrays = {key: Tensor(np.full(shape, 0.5), type=types[i % 4]) for i, (key, shape) in enumerate(SHAPES.items())}
    source = open_source(str(write_zip(tmp_path / "file.pth", arrays)))
    for key, tensor in source.tensors.items():
        assert np.array_equal(tensor.array(key), np.full(SHAPES[key], 0.5)), key


def without_checksums(data):
    """A zip archive whose entries have the checksum 0."""
    data = bytearray(data)
    for signature, offset in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16)):
        at = data.find(signature)
        while at >= 0:
            data[at + offset : at + offset + 4] = bytes(4)
            at = data.find(signature, at + 4)
    return bytes(data)


def test_a_zip_archive_without_checksums(tmp_path):
    path = write_zip(tmp_path / "file.pth", network())
    path.write_bytes(without_checksums(path.read_bytes()))
    assert_same(open_source(str(path)), network())


@pytest.mark.parametrize("write", [write_zip, write_old])
def test_views_of_one_storage_take_linear_time(tmp_path, write):
    """300 views of a storage: its checksum is taken once, and nothing is copied but the views."""
    base = np.zeros(4 << 20, np.float32)
    views = {f"{i}.weight": Tensor(base, shape=(10,), offset=i, key="0") for i in range(300)}
    path = write(tmp_path / "file.pth", views)
    source = open_source(str(path))
    start = time.process_time()
    for key, tensor in source.tensors.items():
        tensor.array(key)
    assert time.process_time() - start < 0.5  # 300 checksums of 16 MiB take seconds


# ---------------------------------------------------------------- files that are no sources


def tar_of(member, path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo(member))
    return path.read_bytes()


def zip_of(*members, encrypted=False):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for member in members:
            archive.writestr(member, b"data")
    data = bytearray(stream.getvalue())
    if encrypted:
        data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


FOREIGN = {
    "empty": (b"", "empty: download"),
    "page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
    "xml": (b"<?xml version='1.0'?><net/>", "an XML file"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    "onnx": (b"\x08\x08\x12\x07pytorch", "an ONNX model"),
    "gzip": (gzip.compress(b"x"), "a gzip archive: unpack it first"),
    "xz": (lzma.compress(b"x"), "an xz archive: unpack it first"),
    "tar": (lambda path: tar_of("weights.pth", path), "a tar archive: unpack it first"),
    "torch's tar": (lambda path: tar_of("sys_info", path), "PyTorch's first format"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file, as Keras"),
    "keras 3": (zip_of("config.json", "model.weights.h5"), "a Keras model"),
    "saved model": (b"\x08\x01\x12\x04abcd", "a TensorFlow SavedModel"),
    "checkpoint": (bytes(40) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "part of a TensorFlow checkpoint"),
    "numpy": (b"\x93NUMPY\x01\x00", "a NumPy array"),
    "npz": (zip_of("a.npy", "b.npy"), "an archive of NumPy arrays"),
    "encrypted": (zip_of("archive/data.pkl", encrypted=True), "an encrypted zip archive: unpack it first"),
    "cut zip": (zip_of("archive/data.pkl")[:60], "a zip archive that is cut off: download"),
    "script": (zip_of("archive/data.pkl", "archive/constants.pkl", "archive/code/a.py"), "a TorchScript archive"),
    "export": (zip_of("a/models/model.json"), "torch.export"),
    "index": (b'{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}', "the index of weights in several files"),
    "json": (b'{"architecture": "b0"}', "a JSON file"),
    "text": (b"hello\n", "a text"),
    "zeros": (bytes(100), "zeros"),
    "pickle": (program(dict_of({})), "torch.save did not write"),
    "noise": (b"\xfe\x01\x02" * 20, "neither a PyTorch file nor safetensors"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_files_of_other_kinds_are_named(tmp_path, kind):
    data, words = FOREIGN[kind]
    path = tmp_path / "file.pth"
    path.write_bytes(data(path) if callable(data) else data)
    assert_one_line_error(run_convert(path, tmp_path / "out"), 65, path, words)


def test_names_that_tell(tmp_path):
    path = tmp_path / "model.ckpt.data-00000-of-00001"
    path.write_bytes(b"\x01\xff\x02")
    assert_one_line_error(run_convert(path, tmp_path / "out"), 65, "part of a TensorFlow checkpoint")


@pytest.mark.parametrize(
    "member, words",
    [
        ("saved_model.pb", "a TensorFlow SavedModel"),
        ("model.safetensors", "a folder, not a regular file: name the file of weights in it (model.safetensors)"),
        ("data.pkl", "the folder of an unpacked PyTorch file"),
    ],
)
def test_folders(tmp_path, member, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / member).write_bytes(b"")
    assert_one_line_error(run_convert(tmp_path / "folder", tmp_path / "out"), 66, tmp_path / "folder", words)


# ---------------------------------------------------------------- the command line


def test_options_and_notices(tmp_path, checkpoint):
    raw, averaged = state_dict("sequential"), state_dict("sequential", seed=2)
    value = {"args": pickled(argparse.Namespace(a=1)), "model": checkpoint.state(raw), "ema": checkpoint.state(averaged)}
    path = checkpoint.write(tmp_path / "file.pth", dict_of(value))
    written = {}
    for options in ((), ("--ema",), ("--key", "ema")):
        result = run_convert(path, tmp_path / "out", *options)
        assert result.returncode == 0, result.stderr
        assert "1 object of other kinds (argparse.Namespace) in it was not looked at\n" in result.stderr
        assert all(line.startswith("convert.py: ") for line in result.stderr.splitlines())
        assert ("--ema takes the EMA ones (ema)" in result.stderr) == (options == ())
        assert result.stdout.endswith(f"  weights: {'EMA' if options else 'raw'}\n")
        written[options] = (tmp_path / "out").read_bytes()
    assert written["--ema",] == written["--key", "ema"] != written[()]
    for options in (("--key", "a"), ("--ema",)):
        result = run_convert("--arch", "lite1", "--random", "1", tmp_path / "new", *options)
        assert_one_line_error(result, 64, "--random reads no SOURCE")


# ---------------------------------------------------------------- timm's tags


@pytest.mark.parametrize(
    "name, expected",
    [
        ("efficientnet_b0.ra4_e3600_r224_in1k", (224, 248, 127.5, True)),
        ("timm/efficientnet_b1.ft_in1k", (224, 256, 123.675, True)),
        ("tf_efficientnet_b3.ap_in1k", (300, 331, 127.5, True)),
        ("tf_efficientnet_b3.ns_jft_in1k", (300, 331, 123.675, True)),
        ("efficientnet_b2.mine", (256, 292, 123.675, False)),
    ],
)
def test_tags(name, expected):
    """Figures of timm 1.0.31's pretrained_cfg."""
    (variant,) = variants.named(name)
    assert (variant.size, variant.short_side, variant.mean[0], variant.knows_tag) == expected
    name = name.rpartition("/")[2]
    (plain,) = variants.named("timm/" + name.partition(".")[0])
    assert as_recorded(Found(None, plain), (name,)).variant == variant
    assert ("the tag is not known" in Found(None, variant).notice) != variant.knows_tag


def test_a_tag_in_a_checkpoint(tmp_path, checkpoint):
    value = dict_of({"arch": pickled("tf_efficientnet_lite1.mine"), "state_dict": checkpoint.state(state_dict("timm"))})
    result = run_convert(checkpoint.write(tmp_path / "file.pth", value), tmp_path / "out")
    assert "network: timm/tf_efficientnet_lite1.mine, padding same" in result.stdout
    assert "tf_efficientnet_lite1.mine: the tag is not known" in result.stderr


def test_what_was_not_taken_is_said(tmp_path, checkpoint):
    """A trainer's arguments and a config.json beside; an option in place of an argument is enough."""
    arguments = argparse.Namespace(model="tf_efficientnet_lite1", mean=[0.4, 0.5, 0.6], std=None, img_size=240, crop_pct=0.5)
    value = dict_of({"args": pickled(arguments), "class_to_idx": pickled({"cat": 0}), "state_dict": checkpoint.state(state_dict("timm"))})
    (tmp_path / "config.json").write_text("{}")
    source = checkpoint.write(tmp_path / "file.pth", value)
    said = run_convert(source, tmp_path / "out").stderr
    assert "the checkpoint's arguments say mean 0.4,0.5,0.6, crop_pct 0.5, which was not taken" in said
    assert "class_to_idx in it names the classes, which was not read" in said
    assert "config.json lies beside it and was not read" in said and "not looked at" not in said
    said = run_convert(source, tmp_path / "out", "--mean", "102,127.5,153", "--short-side", 480).stderr
    assert "arguments" not in said
