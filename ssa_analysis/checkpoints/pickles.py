"""Read a pickle without importing or calling anything that it names.

The machine is Python's own unpickler in its Python form, with every opcode replaced that looks a name up, calls it or
sets the state of what it gave. A name stays a name. What a checkpoint needs (tensors, arrays, plain containers) is built
by the functions of one table here; an object of some other class becomes a :class:`Foreign`, which holds what the pickle
says of it and does nothing; a function that the pickle wants called is refused by name.
"""

from __future__ import annotations

import pickle
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

# of the standard library, whose other names do things: plain data, by full name or as all classes of a module
_STANDARD = {
    "collections.OrderedDict", "collections.defaultdict", "collections.deque", "collections.Counter", "argparse.Namespace",
    "types.SimpleNamespace", "functools.partial", "decimal.Decimal", "fractions.Fraction", "uuid.UUID", "_codecs.encode",
    "copyreg._reconstructor", "re._compile", "abc.ABCMeta",
}  # fmt: skip
_STANDARD_MODULES = ("pathlib", "datetime", "typing", "enum", "logging", "random")
_BUILTINS = {
    "object", "set", "frozenset", "list", "tuple", "dict", "int", "float", "bool", "str", "bytes", "bytearray", "complex",
    "slice", "range", "type",
}  # fmt: skip
# lower-case names of classes and of functions that only put an object together
_CLASSES = {
    "functools.partial", "datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta", "datetime.timezone",
    "re._compile", "builtins.slice", "builtins.range", "builtins.object", "builtins.int", "builtins.float", "builtins.bool",
    "builtins.str", "numpy.random._pickle.__randomstate_ctor", "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__bit_generator_ctor",
}  # fmt: skip
NUMBERS = "biufc"  # kinds of numpy data that are numbers
TEXTS = "SU"


_Machine: Any = pickle._Unpickler


class Refused(Exception):
    """The pickle asks for something that is no data; the argument is its name."""


class TooMuch(Exception):
    """What the pickle describes is far larger than the file."""


@dataclass(frozen=True)
class Name:
    """Something that a pickle names, by its full name; never looked up."""

    path: str

    def __reduce__(self) -> Any:
        return Name, (self.path,)


@dataclass(eq=False, repr=False)
class Foreign:
    """What a pickle says of an object of another project: the name of its class, and what it was made of.

    Attributes:
        name: full name of the class, such as ``argparse.Namespace``. arguments: of its construction.
        state: usually the dictionary of its attributes. items, pairs: where it is a list or a dictionary as well.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: dict[Any, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Its state where that is a dictionary, else nothing."""
        return self.state if isinstance(self.state, dict) else {}

    def append(self, item: Any) -> None:
        """As pickle fills an object that is a list."""
        self.items.append(item)

    def extend(self, items: list[Any]) -> None:
        """As pickle fills an object that is a list."""
        self.items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs[key] = value


class Tensors(Protocol):
    """Builds tensors of the container that a pickle lies in; each method is what torch's function of that name does."""

    def storage(self, identity: Any) -> Any:
        """What a persistent id stands for."""
        ...

    def tensor(self, storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], dtype: Name | None = None) -> Any:
        """A view of a storage, of the storage's own type or the one named."""
        ...

    def nested(self, content: bytes) -> Any:
        """The storage in a torch file within the pickle."""
        ...


class InertUnpickler(_Machine):  # type: ignore[misc]
    """Reads one pickle from ``stream``.

    Args:
        tensors: builds them; None where the pickle must hold none.
        budget: bytes that may be copied to build containers and arrays, on top of what the pickle itself holds.

    Raises (by ``load``):
        Refused: it names or calls what is no data. TooMuch: it describes more than ``budget``. Whatever damaged bytes
        make Python's unpickler raise.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_Machine.dispatch)

    def __init__(self, stream: Any, tensors: Tensors | None = None, budget: int = 1 << 28) -> None:
        super().__init__(stream, encoding="latin1")  # Python 2 wrote names and arrays as bytes
        self.tensors, self.budget = tensors, budget

    def spend(self, size: int) -> None:
        """Take ``size`` bytes off the budget."""
        self.budget -= max(0, size)
        if self.budget < 0:
            raise TooMuch

    def find_class(self, module: str, name: str) -> Any:
        """A name stays a name; refused where it is one of the standard library's that does things."""
        if self.proto < 3:  # of Python 2
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        path, root = f"{module}.{name}", module.split(".")[0]
        if root == "builtins":
            if name not in _BUILTINS:
                raise Refused(name)
        elif root in sys.stdlib_module_names and not _is_plain(path, root):
            raise Refused(path)
        return Name(path)

    def persistent_load(self, pid: Any) -> Any:
        """A storage of the container."""
        if self.tensors is None:
            raise Refused("persistent id")
        return self.tensors.storage(pid)

    def call(self, function: Any, arguments: Any, keywords: Mapping[str, Any] | None = None) -> Any:
        """What a call in the pickle gives here: data from the table, an inert object, or a refusal."""
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise Refused(f"a call of a {type(function).__name__}")
        maker = MAKERS.get(function.path)
        if maker is not None and not keywords:
            return maker(self, *arguments)
        if not _is_class(function.path):
            raise Refused(function.path)
        return Foreign(function.path, (*arguments, keywords) if keywords else arguments)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        self.append(self.call(self.stack.pop(), arguments))

    def load_newobj_ex(self) -> None:
        keywords, arguments = self.stack.pop(), self.stack.pop()
        if not isinstance(keywords, dict):
            raise Refused(f"keywords in a {type(keywords).__name__}")
        self.append(self.call(self.stack.pop(), arguments, keywords))

    def _instantiate(self, klass: Any, arguments: Any) -> None:  # opcodes INST and OBJ
        self.append(self.call(klass, tuple(arguments)))

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, Foreign):
            made.state = state
        elif isinstance(made, np.ndarray):
            _fill_array(self, made, state)
        elif isinstance(made, np.dtype):
            _finish_dtype(made, state)
        elif not isinstance(made, OrderedDict):  # which torch gives attributes that nobody needs
            raise Refused(f"the state of a {type(made).__name__}")

    def get_extension(self, code: int) -> None:
        """Codes of copyreg's registry, which stand for names."""
        raise Refused(f"extension code {code}")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build


def _is_plain(path: str, root: str) -> bool:
    """Whether a name of the standard library is one of plain data."""
    return path in _STANDARD or (root in _STANDARD_MODULES and _is_class(path))


def _is_class(path: str) -> bool:
    """Whether a name is one of a class, as names are written: calling it puts an object together."""
    last = path.rpartition(".")[2].lstrip("_")
    return last[:1].isupper() or path in _CLASSES


# --- what is built -----------------------------------------------------------------------------------------------------------


def _container(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    def make(machine: InertUnpickler, *arguments: Any) -> Any:
        if not arguments:
            return kind(())
        (items,) = arguments
        if not isinstance(items, list | tuple | set | frozenset | dict | OrderedDict):
            raise Refused(f"{kind.__name__} of a {type(items).__name__}")
        machine.spend(64 * len(items))
        return kind(items)

    return make


def _defaultdict(machine: InertUnpickler, *arguments: Any) -> Any:
    return {}


def _deque(machine: InertUnpickler, *arguments: Any) -> Any:
    return _container(list)(machine, *arguments[:1])


def _encode(machine: InertUnpickler, text: str, encoding: str = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8"):
        raise Refused("_codecs.encode")
    machine.spend(len(text))
    return text.encode(encoding)


def _bytes(machine: InertUnpickler, *arguments: Any) -> bytes:
    if not arguments:
        return b""
    if isinstance(arguments[0], str) and len(arguments) == 2:
        return _encode(machine, *arguments)
    if not isinstance(arguments[0], bytes | bytearray):  # a number would ask for that many zeros
        raise Refused("bytes of a number")
    machine.spend(len(arguments[0]))
    return bytes(arguments[0])


def _complex(machine: InertUnpickler, real: float, imaginary: float = 0.0) -> complex:
    return complex(float(real), float(imaginary))


def _reconstructor(machine: InertUnpickler, kind: Any, base: Any, state: Any = None) -> Foreign:
    if not isinstance(kind, Name):
        raise Refused("copyreg._reconstructor")
    return Foreign(kind.path, () if state is None else (state,))


def _dtype(machine: InertUnpickler, code: Any, *_: Any) -> Any:
    if isinstance(code, bytes):
        code = code.decode("ascii")
    if not isinstance(code, str) or code.lstrip("<>=|")[:1] not in [*NUMBERS, *TEXTS]:
        raise Refused(f"numpy.dtype({code!r:.40})")
    return np.dtype(np.dtype(code), copy=True)


def _finish_dtype(dtype: Any, state: Any) -> None:
    """The byte order, which is all the state that a dtype of numbers has."""
    if not isinstance(state, tuple) or len(state) < 7 or state[1] not in ("<", ">", "|", "=") or state[2:5] != (None, None, None):
        raise Refused("the state of a numpy.dtype")
    dtype.__setstate__((3, state[1], None, None, None, *(int(part) for part in state[5:8])))


def _plain(dtype: Any) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.kind not in NUMBERS + TEXTS:
        raise Refused("an array of objects")
    return dtype


def _scalar(machine: InertUnpickler, dtype: Any, content: Any = b"") -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    if len(content) != _plain(dtype).itemsize:
        raise ValueError("a scalar of the wrong size")
    return np.frombuffer(content, dtype)[0].item()


def _empty_array(machine: InertUnpickler, *_: Any) -> np.ndarray:
    return np.empty((0,), "b")


def _fill_array(machine: InertUnpickler, array: np.ndarray, state: Any) -> None:
    _, shape, dtype, fortran, content = state
    content = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(content, bytes | bytearray):
        raise Refused("an array of objects")
    count = 1
    for length in shape:
        count *= int(length)
    if count * _plain(dtype).itemsize != len(content) or min(shape, default=0) < 0:
        raise ValueError("an array of the wrong size")
    machine.spend(len(content))
    state = (1, tuple(int(n) for n in shape), dtype, bool(fortran), bytes(content))
    array.__setstate__(state)


def _frombuffer(machine: InertUnpickler, content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    machine.spend(len(content))
    array = np.frombuffer(bytes(content), _plain(dtype))
    return array.reshape(tuple(int(n) for n in shape), order="F" if order == "F" else "C")


def _tensor(machine: InertUnpickler, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Any:
    if machine.tensors is None:
        raise Refused("torch._utils._rebuild_tensor_v2")
    return machine.tensors.tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _tensor_of_type(
    machine: InertUnpickler, storage: Any, offset: int, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Any:
    if machine.tensors is None or not isinstance(dtype, Name):
        raise Refused("torch._utils._rebuild_tensor_v3")
    return machine.tensors.tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)), dtype)


def _parameter(machine: InertUnpickler, data: Any = None, *_: Any) -> Any:
    return data


def _from_type(machine: InertUnpickler, function: Any, kind: Any, arguments: Any, state: Any = None) -> Any:
    return machine.call(function, arguments)


def _from_bytes(machine: InertUnpickler, content: bytes) -> Any:
    if machine.tensors is None or not isinstance(content, bytes):
        raise Refused("torch.storage._load_from_bytes")
    machine.spend(len(content))
    return machine.tensors.nested(content)


def _first(machine: InertUnpickler, value: Any = None, *_: Any) -> Any:
    return value


def _other_tensor(what: str) -> Callable[..., Foreign]:
    return lambda machine, *arguments: Foreign(what, arguments)


MAKERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _container(OrderedDict),
    "collections.Counter": _container(dict),
    "collections.defaultdict": _defaultdict,
    "collections.deque": _deque,
    "builtins.set": _container(set),
    "builtins.frozenset": _container(frozenset),
    "builtins.list": _container(list),
    "builtins.tuple": _container(tuple),
    "builtins.dict": _container(dict),
    "builtins.complex": _complex,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _reconstructor,
    "torch.Size": _container(tuple),
    "torch.device": _first,
    "torch.serialization._get_layout": _first,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.storage._load_from_bytes": _from_bytes,
    "torch._utils._rebuild_sparse_tensor": _other_tensor("sparse tensor"),
    "torch._utils._rebuild_qtensor": _other_tensor("quantised tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _other_tensor("meta tensor"),
    "torch._utils._rebuild_nested_tensor": _other_tensor("nested tensor"),
    "torch._utils._rebuild_wrapper_subclass": _other_tensor("tensor subclass"),
    **{
        f"numpy.{core}.{name}": maker
        for core in ("core", "_core")
        for name, maker in (
            ("multiarray._reconstruct", _empty_array),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _frombuffer),
        )
    },
    "numpy.dtype": _dtype,
}
