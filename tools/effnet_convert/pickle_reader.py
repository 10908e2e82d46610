"""Reads the pickles in PyTorch files without running them.

A pickle is a program for a small stack machine. Python's own machine imports whatever the program names
and calls it; this one knows the instructions that PyTorch's files are made of and a fixed list of names
(ordered dictionaries, tensors, storages), each a data constructor written here. Every other name or
instruction is refused by name. Nothing is imported or called."""

import pickletools
from dataclasses import dataclass

from .errors import ConvertError
from .tensors import SourceTensor

# A state dict with its optimiser takes a few hundred kilobytes; 4 MiB keep a hostile file's cost to seconds.
MAX_PICKLE_BYTES = 4 << 20

STORAGE_TYPES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
STORAGE_MODULES = ("torch", "torch.cuda")


@dataclass(frozen=True)
class Name:
    """A name of the list above, as data."""

    kind: str  # "dict", "tensor", "tensor_v2", "parameter" or "storage"
    element_type: str = ""


KNOWN_NAMES = {
    ("collections", "OrderedDict"): Name("dict"),
    ("torch._utils", "_rebuild_tensor"): Name("tensor"),
    ("torch._utils", "_rebuild_tensor_v2"): Name("tensor_v2"),
    ("torch._utils", "_rebuild_parameter"): Name("parameter"),
    **{
        (module, storage): Name("storage", element_type)
        for module in STORAGE_MODULES
        for storage, element_type in STORAGE_TYPES.items()
    },
}


@dataclass(frozen=True)
class Storage:
    """What a persistent id says of a storage; its bytes lie elsewhere in the file."""

    element_type: str
    size: int  # elements
    read: object  # () -> buffer


class _Mark:
    pass


class _Limited:
    """Keeps a pickle inside its allowance, whatever lengths it claims."""

    def __init__(self, stream):
        self._stream = stream
        self.left = MAX_PICKLE_BYTES

    def _count(self, data):
        self.left -= len(data)
        return data

    def read(self, size):
        return self._count(self._stream.read(min(size, self.left)))

    def readline(self):
        return self._count(self._stream.readline(self.left))


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE".split()
)
_BYTE_STRINGS = frozenset(("STRING", "BINSTRING", "SHORT_BINSTRING"))
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_IGNORED = frozenset(("PROTO", "FRAME"))


class Machine:
    """One pickle's stack, memo and answers. storage_of(Name, arguments) answers persistent ids."""

    def __init__(self, label, storage_of):
        self._label = label
        self._storage_of = storage_of
        self._stack = []
        self._memo = {}

    def fail(self, reason):
        return ConvertError(f"{self._label}: {reason}")

    def run(self, stream):
        limited = _Limited(stream)
        try:
            for opcode, argument, _ in pickletools.genops(limited):
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
        except (ValueError, IndexError, OverflowError, UnicodeError) as error:
            if limited.left == 0:
                raise self.fail(f"a pickle longer than {MAX_PICKLE_BYTES} bytes") from None
            raise self.fail(f"broken or cut-off pickle ({error})") from None
        raise self.fail("broken or cut-off pickle (it has no end)")

    def _step(self, name, argument):
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _PUTS:
            self._memo[argument] = self._top()
        elif name in _GETS:
            if argument not in self._memo:
                raise self.fail("broken pickle (it refers to a value that it never stored)")
            self._stack.append(self._memo[argument])
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            items = [self._pop() for _ in range(_TUPLES[name])]
            self._stack.append(tuple(reversed(items)))
        elif name in _BYTE_STRINGS:
            # pickletools gives these as str: text of Python 2 pickles, which is ASCII in state dicts.
            self._stack.append(argument)
        elif name not in _IGNORED:
            handler = getattr(self, "_op_" + name.lower(), None)
            if handler is None:
                raise self.fail(f"refused: pickle instruction {name}; only tensors are read")
            handler(argument)

    # ------------------------------------------------------------ stack

    def _top(self):
        if not self._stack or self._stack[-1] is _Mark:
            raise self.fail("broken pickle (its stack runs empty)")
        return self._stack[-1]

    def _pop(self):
        value = self._top()
        self._stack.pop()
        return value

    def _pop_to_mark(self):
        items = []
        while self._stack:
            value = self._stack.pop()
            if value is _Mark:
                items.reverse()
                return items
            items.append(value)
        raise self.fail("broken pickle (its stack runs empty)")

    def _update(self, target, keys, values):
        if type(target) is not dict:
            raise self.fail("broken pickle (it sets an item of something else than a dictionary)")
        if len(keys) != len(values):
            raise self.fail("broken pickle (a dictionary key without a value)")
        for key, value in zip(keys, values):
            # Only these: hashing a nested tuple can take time exponential in the pickle's length.
            if type(key) not in (str, int):
                raise self.fail("refused: a dictionary key that is neither text nor a whole number")
            target[key] = value

    # ------------------------------------------------------------ instructions

    def _op_mark(self, _):
        self._stack.append(_Mark)

    def _op_pop(self, _):
        self._stack.pop()

    def _op_tuple(self, _):
        self._stack.append(tuple(self._pop_to_mark()))

    def _op_list(self, _):
        self._stack.append(self._pop_to_mark())

    def _op_dict(self, _):
        items = self._pop_to_mark()
        result = {}
        self._update(result, items[::2], items[1::2])
        self._stack.append(result)

    def _op_append(self, _):
        self._extend([self._pop()])

    def _op_appends(self, _):
        self._extend(self._pop_to_mark())

    def _extend(self, items):
        target = self._top()
        if type(target) is not list:
            raise self.fail("broken pickle (it appends to something else than a list)")
        target.extend(items)

    def _op_setitem(self, _):
        value = self._pop()
        key = self._pop()
        self._update(self._top(), [key], [value])

    def _op_setitems(self, _):
        items = self._pop_to_mark()
        self._update(self._top(), items[::2], items[1::2])

    def _op_memoize(self, _):
        self._memo[len(self._memo)] = self._top()

    def _op_global(self, argument):
        module, _, name = argument.partition(" ")
        self._push_name(module, name)

    def _op_stack_global(self, _):
        name = self._pop()
        module = self._pop()
        if type(module) is not str or type(name) is not str:
            raise self.fail("broken pickle (a name that is not text)")
        self._push_name(module, name)

    def _push_name(self, module, name):
        known = KNOWN_NAMES.get((module, name))
        if known is None:
            raise self.fail(
                f"refused: the file names {module}.{name}; only a state dict, of tensors, is read"
            )
        self._stack.append(known)

    def _op_binpersid(self, _):
        identity = self._pop()
        if type(identity) is not tuple or len(identity) < 5 or identity[0] != "storage":
            what = identity[0] if type(identity) is tuple and identity and type(identity[0]) is str else "?"
            raise self.fail(f"refused: a reference to '{what}'; only storages are read")
        kind = identity[1]
        if type(kind) is not Name or kind.kind != "storage":
            raise self.fail("broken pickle (a storage without a type)")
        self._stack.append(self._storage_of(self, kind, identity[2:]))

    def _op_reduce(self, _):
        arguments = self._pop()
        function = self._pop()
        if type(function) is not Name or type(arguments) is not tuple:
            raise self.fail("refused: a call of something that has no name")
        if function.kind == "dict":
            self._stack.append(self._dict(arguments))
        elif function.kind in ("tensor", "tensor_v2"):
            self._stack.append(self._tensor(arguments))
        elif function.kind == "parameter" and arguments and type(arguments[0]) is SourceTensor:
            self._stack.append(arguments[0])
        else:
            raise self.fail("broken pickle (a tensor or storage built from something else)")

    def _dict(self, arguments):
        pairs = arguments[0] if arguments else []
        if (
            len(arguments) > 1
            or type(pairs) is not list
            or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs)
        ):
            raise self.fail("broken pickle (a dictionary made from something else than pairs)")
        result = {}
        self._update(result, [key for key, _ in pairs], [value for _, value in pairs])
        return result

    def _tensor(self, arguments):
        if len(arguments) < 4 or type(arguments[0]) is not Storage:
            raise self.fail("broken pickle (a tensor without a storage)")
        storage, offset, shape, strides = arguments[:4]
        if type(shape) is not tuple or type(strides) is not tuple:
            raise self.fail("broken pickle (a tensor without a shape)")
        return SourceTensor(storage.element_type, shape, strides, offset, storage.size, storage.read)

    def _op_build(self, _):
        # An ordered dictionary's attributes: PyTorch keeps module versions there, which do not matter.
        self._pop()
        if type(self._top()) is not dict:
            raise self.fail("refused: attributes of something else than a dictionary")


def read_pickle(stream, label, storage_of=None):
    """Runs the pickle at the stream's position and leaves the stream behind its end.

    storage_of(machine, Name, (key, location, size, ...)) -> Storage; without it storages are refused."""

    def no_storage(machine, *_):
        raise machine.fail("broken pickle (a storage where there is none)")

    return Machine(label, storage_of or no_storage).run(stream)
