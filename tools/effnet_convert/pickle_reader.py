"""Reads the pickles in PyTorch files without running them.

A pickle is a program for a small stack machine. Python's own machine imports whatever the program names
and calls it; this one knows a fixed list of names (ordered dictionaries, tensors, storages), each a data
constructor written here. Every other name, and whatever the program makes of it, becomes an Inert: a
note of what was named, which nobody calls. Nothing is imported."""

import io
import pickletools
from dataclasses import dataclass, field

from .errors import ConvertError
from .tensors import SourceTensor

# A whole module with its optimiser takes a few hundred kilobytes; what is long is text or arrays in it.
MAX_PICKLE_BYTES = 64 << 20
MAX_STEPS = 4_000_000  # instructions, and elements that they copy: keeps a hostile file's cost to seconds
MAX_OBJECTS = 1_000_000
MAX_SIZE_BITS = 128  # of a tensor's sizes: more than any that is right, and few enough to print
MAX_KEY_CHARACTERS = 4096  # of a dictionary's key; longer ones are not looked up by anybody
MAX_NAME_CHARACTERS = 200  # that are kept of each part of a name

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

    kind: str  # "dict", "set" (read as a list), "tensor", "parameter", "typed_tensor" or "storage"
    element_type: str = ""


KNOWN_NAMES = {
    ("collections", "OrderedDict"): Name("dict"),
    ("builtins", "set"): Name("set"),
    ("__builtin__", "set"): Name("set"),
    ("torch._utils", "_rebuild_tensor"): Name("tensor"),
    ("torch._utils", "_rebuild_tensor_v2"): Name("tensor"),
    ("torch._utils", "_rebuild_parameter"): Name("parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"): Name("parameter"),
    ("torch._tensor", "_rebuild_from_type_v2"): Name("typed_tensor"),
    **{
        (module, storage): Name("storage", element_type)
        for module in STORAGE_MODULES
        for storage, element_type in STORAGE_TYPES.items()
    },
}

# What protocols 0 and 1 call to make an object: the class is its first argument.
OBJECT_MAKERS = {"copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__"}


class Inert:
    """What a pickle says of a name that is not on the list, or of an object made from one."""

    __slots__ = ("name", "arguments", "attributes", "items", "used")

    def __init__(self, name, arguments=()):
        self.name = name  # module.name, also of the class or function that an object comes from
        self.arguments = arguments  # what that would be called with
        self.attributes = None  # an object's, by their names, where it has any
        self.items = None  # of an object that is a dictionary, too
        self.used = False  # an object was made of the name, or the object was read


@dataclass(frozen=True)
class Storage:
    """What a persistent id says of a storage; its bytes lie elsewhere in the file."""

    element_type: str
    size: int  # elements
    read: object  # () -> buffer


@dataclass(frozen=True)
class Pickle:
    """What a pickle holds."""

    value: object
    end: int  # where it ends in the data
    inert: list = field(default_factory=list)  # every Inert in it


class _Mark:
    pass


class _Bounded:
    """A stream that ends where a pickle has had its bytes, for instructions that say themselves how much they read."""

    def __init__(self, stream):
        self._stream = stream
        self._end = stream.tell() + MAX_PICKLE_BYTES

    def left(self):
        return max(self._end - self._stream.tell(), 0)

    def read(self, size):
        return self._stream.read(min(size, self.left()))

    def readline(self):
        return self._stream.readline(self.left())


class Machine:
    """One pickle's stack, memo and answers. storage_of(Machine, Name, arguments) answers persistent ids."""

    def __init__(self, label, storage_of):
        self.inert = []
        self._label = label
        self._storage_of = storage_of
        self._stack = []
        self._memo = {}
        self._copied = 0

    def fail(self, reason):
        return ConvertError(f"{self._label}: {reason}")

    def run(self, stream):
        """Takes the pickle that begins where the stream stands, and leaves the stream behind its end."""
        read, bounded = stream.read, _Bounded(stream)
        try:
            for _ in range(MAX_STEPS):
                operation = _OPERATIONS.get(read(1))
                if operation is None:
                    raise ValueError("an unknown instruction, or no end")
                step, read_argument = operation
                step(self, read_argument(bounded) if read_argument else None)
                if step is Machine._op_stop:
                    return self._pop()
        except (ValueError, IndexError, OverflowError, UnicodeError) as error:
            if bounded.left() == 0:
                raise self.fail(f"a pickle longer than {MAX_PICKLE_BYTES} bytes") from None
            raise self.fail(f"broken or cut-off pickle ({error})") from None
        raise self.fail(f"a pickle of more than {MAX_STEPS} instructions")

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

    def _pop_arguments(self):
        arguments = self._pop()
        if type(arguments) is not tuple:
            raise self.fail("broken pickle (a call without arguments)")
        return arguments

    def _copy(self, count):
        """Counts what an instruction copies out of the memo: a short program could ask for it for ever."""
        self._copied += count
        if self._copied > MAX_STEPS:
            raise self.fail(f"a pickle that copies more than {MAX_STEPS} elements")

    # ------------------------------------------------------------ values

    def _op_push(self, argument):
        self._stack.append(argument)

    def _op_none(self, _):
        self._stack.append(None)

    def _op_newtrue(self, _):
        self._stack.append(True)

    def _op_newfalse(self, _):
        self._stack.append(False)

    def _op_empty_tuple(self, _):
        self._stack.append(())

    def _op_empty_list(self, _):
        self._stack.append([])

    def _op_empty_dict(self, _):
        self._stack.append({})

    def _op_tuple1(self, _):
        self._stack.append((self._pop(),))

    def _op_tuple2(self, _):
        last = self._pop()
        self._stack.append((self._pop(), last))

    def _op_tuple3(self, _):
        last, middle = self._pop(), self._pop()
        self._stack.append((self._pop(), middle, last))

    def _op_put(self, argument):
        self._memo[argument] = self._top()

    def _op_memoize(self, _):
        self._memo[len(self._memo)] = self._top()

    def _op_get(self, argument):
        if argument not in self._memo:
            raise self.fail("broken pickle (it refers to a value that it never stored)")
        self._stack.append(self._memo[argument])

    def _op_ignore(self, _):
        pass

    def _op_stop(self, _):
        pass

    def _op_mark(self, _):
        self._stack.append(_Mark)

    def _op_pop(self, _):
        self._stack.pop()

    def _op_pop_mark(self, _):
        self._pop_to_mark()

    def _op_dup(self, _):
        self._stack.append(self._top())

    # ------------------------------------------------------------ containers

    def _op_tuple(self, _):
        self._stack.append(tuple(self._pop_to_mark()))

    def _op_list(self, _):
        """A set, too: nobody asks what is in one, and its elements need not be hashed."""
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
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Inert:
            raise self.fail("broken pickle (it appends to something else than a list)")

    def _op_setitem(self, _):
        value = self._pop()
        key = self._pop()
        self._set_items([key], [value])

    def _op_setitems(self, _):
        items = self._pop_to_mark()
        self._set_items(items[::2], items[1::2])

    def _set_items(self, keys, values):
        target = self._top()
        if type(target) is Inert:
            if target.items is None:
                target.items = {}
            target = target.items
        self._update(target, keys, values)

    def _update(self, target, keys, values):
        if type(target) is not dict:
            raise self.fail("broken pickle (it sets an item of something else than a dictionary)")
        if len(keys) != len(values):
            raise self.fail("broken pickle (a dictionary key without a value)")
        for key, value in zip(keys, values):
            # Nobody looks for other keys, and hashing a nested tuple takes time exponential in its length.
            if (type(key) is str and len(key) <= MAX_KEY_CHARACTERS) or (
                type(key) is int and key.bit_length() < 64
            ):
                target[key] = value

    # ------------------------------------------------------------ names and objects

    def _op_global(self, argument):
        module, _, name = argument.partition(" ")
        self._stack.append(self._name(module, name))

    def _op_stack_global(self, _):
        name = self._pop()
        module = self._pop()
        if type(module) is not str or type(name) is not str:
            raise self.fail("broken pickle (a name that is not text)")
        self._stack.append(self._name(module, name))

    def _op_ext(self, code):
        self._stack.append(self._new_inert(f"extension {code}"))

    def _name(self, module, name):
        known = KNOWN_NAMES.get((module, name))
        return known or self._new_inert(f"{module[:MAX_NAME_CHARACTERS]}.{name[:MAX_NAME_CHARACTERS]}")

    def _new_inert(self, name, arguments=()):
        if len(self.inert) == MAX_OBJECTS:
            raise self.fail(f"a pickle of more than {MAX_OBJECTS} objects")
        self.inert.append(Inert(name, arguments))
        return self.inert[-1]

    def _op_persid(self, _):
        self._stack.append(self._new_inert("persistent id"))

    def _op_binpersid(self, _):
        identity = self._pop()
        is_tuple = type(identity) is tuple and identity
        if is_tuple and identity[0] == "storage" and len(identity) >= 5:
            kind = identity[1]
            if type(kind) is Name and kind.kind == "storage":
                self._stack.append(self._storage_of(self, kind, identity[2:]))
            elif type(kind) is Inert:  # of complex or quantised numbers, say
                kind.used = True
                self._stack.append(self._new_inert(kind.name))
            else:
                raise self.fail("broken pickle (a storage without a type)")
        elif is_tuple and identity[0] == "module" and len(identity) >= 2:
            self._stack.append(identity[1])  # a class, followed by its source, in the old format
        else:
            self._stack.append(self._new_inert("persistent id"))

    def _op_reduce(self, _):
        arguments = self._pop_arguments()
        self._stack.append(self._call(self._pop(), arguments))

    def _op_newobj_ex(self, _):
        self._pop()
        self._op_reduce(None)

    def _op_inst(self, argument):
        arguments = tuple(self._pop_to_mark())
        module, _, name = argument.partition(" ")
        self._stack.append(self._call(self._name(module, name), arguments))

    def _op_obj(self, _):
        items = self._pop_to_mark()
        if not items:
            raise self.fail("broken pickle (an object without a class)")
        self._stack.append(self._call(items[0], tuple(items[1:])))

    def _call(self, function, arguments):
        if type(function) is Inert:
            if function.name in OBJECT_MAKERS and arguments and type(arguments[0]) is Inert:
                function.used = True
                function = arguments[0]
            function.used = True
            self._copy(len(arguments))
            return self._new_inert(function.name, arguments)
        if type(function) is not Name:
            raise self.fail("broken pickle (a call of something that has no name)")
        if function.kind == "typed_tensor":  # (function, class, its arguments, attributes)
            if len(arguments) < 3 or type(arguments[2]) is not tuple:
                raise self.fail("broken pickle (a tensor built from something else)")
            function, arguments = arguments[0], arguments[2]
            if type(function) is not Name or function.kind not in ("tensor", "parameter"):
                return self._new_inert("torch._tensor._rebuild_from_type_v2")
        if function.kind == "dict":
            return self._dict(arguments)
        if function.kind == "set":
            return arguments[0] if arguments and type(arguments[0]) is list else []
        if function.kind == "tensor":
            return self._tensor(arguments)
        if function.kind == "parameter" and arguments and type(arguments[0]) in (SourceTensor, Inert):
            return arguments[0]
        raise self.fail("broken pickle (a tensor or storage built from something else)")

    def _dict(self, arguments):
        pairs = arguments[0] if arguments else []
        result = {}
        if len(arguments) == 1 and type(pairs) is dict:
            self._copy(len(pairs))
            result.update(pairs)
            return result
        if len(arguments) > 1 or type(pairs) is not list:
            raise self.fail("broken pickle (a dictionary made from something else than pairs)")
        self._copy(len(pairs))
        if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
            raise self.fail("broken pickle (a dictionary made from something else than pairs)")
        self._update(result, [key for key, _ in pairs], [value for _, value in pairs])
        return result

    def _tensor(self, arguments):
        if len(arguments) >= 4 and type(arguments[0]) is Inert:
            arguments[0].used = True
            return self._new_inert(f"tensor of {arguments[0].name}")
        if len(arguments) < 4 or type(arguments[0]) is not Storage:
            raise self.fail("broken pickle (a tensor without a storage)")
        storage, offset, shape, strides = arguments[:4]
        if type(shape) is Inert or type(strides) is Inert:  # torch.Size
            return self._new_inert("tensor of unknown shape")
        if type(shape) is not tuple or type(strides) is not tuple:
            raise self.fail("broken pickle (a tensor without a shape)")
        self._copy(len(shape) + len(strides))
        if not all(type(n) is int and n.bit_length() <= MAX_SIZE_BITS for n in (*shape, *strides, offset)):
            raise self.fail("broken pickle (a tensor whose sizes are no whole numbers)")
        return SourceTensor(storage.element_type, shape, strides, offset, storage.size, storage.read)

    def _op_build(self, _):
        """An object's attributes. Those of dictionaries and tensors do not matter: PyTorch keeps the
        versions of modules in a state dict's."""
        state = self._pop()
        target = self._top()
        if type(target) is Inert:
            # An object with __slots__ has two dictionaries, either may be None.
            for part in state if type(state) is tuple and len(state) == 2 else (state,):
                if type(part) is dict:
                    self._copy(len(part))
                    self._copy(len(target.attributes or ()))
                    target.attributes = {**(target.attributes or {}), **part}
        elif type(target) not in (dict, SourceTensor):
            raise self.fail("broken pickle (attributes of something that has none)")


def _operations():
    """{byte: (method of Machine, function that reads the argument or None)}"""
    shared = {
        Machine._op_push: "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE BINUNICODE "
        "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 "
        "STRING BINSTRING SHORT_BINSTRING",  # the last three are text of Python 2
        Machine._op_put: "PUT BINPUT LONG_BINPUT",
        Machine._op_get: "GET BINGET LONG_BINGET",
        Machine._op_ignore: "PROTO FRAME",
        Machine._op_empty_list: "EMPTY_SET",
        Machine._op_list: "FROZENSET",
        Machine._op_appends: "ADDITEMS",
        Machine._op_ext: "EXT1 EXT2 EXT4",
        Machine._op_reduce: "NEWOBJ",
    }
    methods = {name: method for method, names in shared.items() for name in names.split()}
    result = {}
    for opcode in pickletools.opcodes:
        method = methods.get(opcode.name) or getattr(Machine, "_op_" + opcode.name.lower(), None)
        if method:  # not NEXT_BUFFER and READONLY_BUFFER, whose data no file holds
            result[opcode.code.encode("latin-1")] = (method, opcode.arg and opcode.arg.reader)
    return result


_OPERATIONS = _operations()


def read_pickle(data, start, label, storage_of=None):
    """Reads the pickle that begins there in `bytes`. Returns a Pickle.

    storage_of(machine, Name, (key, location, size, ...)) -> Storage; without it storages are refused."""

    def no_storage(machine, *_):
        raise machine.fail("broken pickle (a storage where there is none)")

    machine = Machine(label, storage_of or no_storage)
    stream = io.BytesIO(data)  # which does not copy them
    stream.seek(start)
    value = machine.run(stream)
    return Pickle(value, stream.tell(), machine.inert)
