"""Read a pickle without importing or calling anything that it names.

The machine is Python's own unpickler in its Python form, with every opcode replaced that looks a name up, calls it, or changes
something it has made. A name stays a name. What a checkpoint needs (tensors, arrays, plain containers) is built by the functions
of one table, :mod:`~ssa_analysis.checkpoints.making`; an object of some other class becomes a :class:`Foreign`, which holds what
the pickle says of it and does nothing; a function that the pickle wants called is refused by name.

What a pickle may cost is bounded: a :class:`Budget` for the bytes of what is built, a number of steps, and keys of dictionaries
and sets that are no deeper and no larger than keys are.
"""

from __future__ import annotations

import pickle
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ClassVar, Protocol

import numpy as np

# of the standard library, whose other names do things: plain data, by full name or as all classes of a module
_STANDARD = {
    "argparse.Namespace", "types.SimpleNamespace", "functools.partial", "decimal.Decimal", "fractions.Fraction", "uuid.UUID",
    "_codecs.encode", "copyreg._reconstructor", "re._compile", "abc.ABCMeta", "collections.defaultdict", "collections.deque",
    "itertools.count",
}  # fmt: skip
_STANDARD_MODULES = ("collections", "pathlib", "datetime", "typing", "enum", "logging", "random")
_BUILTINS = {
    "object", "set", "frozenset", "list", "tuple", "dict", "int", "float", "bool", "str", "bytes", "bytearray", "complex",
    "slice", "range", "type", "getattr", "Ellipsis", "NotImplemented", "NoneType",
}  # fmt: skip
# lower-case names of classes and of functions that only put an object together
_CLASSES = {
    "functools.partial", "datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta", "datetime.timezone",
    "re._compile", "builtins.slice", "builtins.range", "builtins.object", "builtins.int", "builtins.float", "builtins.bool",
    "builtins.str", "itertools.count", "numpy.random._pickle.__randomstate_ctor", "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__bit_generator_ctor",
}  # fmt: skip
MOST_STEPS = 3_000_000  # opcodes of a pickle
MOST_ARGUMENTS = 32  # of a call that builds something
KEY_PARTS, KEY_DEPTH = 1000, 20
EACH = 64  # bytes that an object costs at least


_Machine: Any = pickle._Unpickler


class Refused(Exception):
    """The pickle asks for something that is no data; the argument is its name."""


class TooMuch(Exception):
    """What the pickle describes is far larger than the file."""


class Budget:
    """Bytes that may be built from a file, on top of what it holds itself; shared by the pickles within pickles."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, size: int) -> None:
        """Take ``size`` bytes off; TooMuch where there are none left."""
        self.left -= max(0, size)
        if self.left < 0:
            raise TooMuch


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


@dataclass(eq=False)
class NumberType:
    """numpy's type of an array's numbers; a pickle says the byte order only after it has named the type."""

    dtype: np.dtype


class Tensors(Protocol):
    """Builds tensors of the container that a pickle lies in; each method is what torch's function of that name does."""

    def storage(self, identity: Any) -> Any:
        """What a persistent id stands for."""
        ...

    def tensor(
        self,
        storage: Any,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        dtype: Name | None = None,
        bits: Any = None,
    ) -> Any:
        """A view of a storage, of the storage's own type or the one named; ``bits``: whether it is conjugate or negative."""
        ...

    def nested(self, content: bytes) -> Any:
        """The storage in a torch file within the pickle."""
        ...


class InertUnpickler(_Machine):  # type: ignore[misc]
    """Reads one pickle from ``stream``.

    Args:
        make: the table of what may be built: full name -> function of this machine and the arguments.
        tensors: builds them; None where the pickle must hold none.
        budget: of what may be built.

    Raises (by ``load``):
        Refused: it names or calls what is no data. TooMuch: it describes more than ``budget``, or takes too many steps. Whatever
        damaged bytes make Python's unpickler raise.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {}  # filled below

    def __init__(
        self, stream: Any, make: Mapping[str, Callable[..., Any]], tensors: Tensors | None = None, budget: Budget | None = None
    ) -> None:
        super().__init__(stream, encoding="latin1")  # Python 2 wrote names and arrays as bytes
        self.make, self.tensors, self.budget, self.steps = make, tensors, budget or Budget(1 << 28), 0

    def spend(self, size: int) -> None:
        """Take ``size`` bytes off the budget."""
        self.budget.spend(size)

    def find_class(self, module: str, name: str) -> Any:
        """A name stays a name; refused where it is one of the standard library's that does things."""
        if self.proto < 3:  # of Python 2
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        return self.named(f"{module}.{name}")

    def named(self, path: str) -> Name:
        """The name of a full path; Refused as of :meth:`find_class`."""
        root, _, rest = path.partition(".")
        if root == "builtins":
            if rest not in _BUILTINS:
                raise Refused(rest)
        elif root in sys.stdlib_module_names and not _is_plain(path, root):
            raise Refused(path)
        self.spend(EACH + len(path))
        return Name(path)

    def persistent_load(self, pid: Any) -> Any:
        """A storage of the container."""
        if self.tensors is None:
            raise Refused("persistent id")
        return self.tensors.storage(pid)

    def call(self, function: Any, arguments: Any, keywords: Mapping[str, Any] | None = None) -> Any:
        """What a call in the pickle gives here: data from the table, an inert object, or a refusal."""
        if not isinstance(function, Name) or type(arguments) is not tuple:
            raise Refused(f"a call of a {type(function).__name__}")
        self.spend(EACH + 8 * len(arguments))
        maker = self.make.get(function.path)
        if maker is not None and not keywords:
            if len(arguments) > MOST_ARGUMENTS:
                raise Refused(f"{function.path} of {len(arguments)} arguments")
            return maker(self, *arguments)
        if not is_class(function.path):
            raise Refused(function.path)
        self.spend(4 * EACH)
        return Foreign(function.path, (*arguments, keywords) if keywords else arguments)

    def key(self, key: Any) -> Any:
        """A key of a dictionary or an element of a set: hashing it must not take long, nor deep recursion."""
        if type(key) is str:
            return key
        parts, left = [(key, 0)], KEY_PARTS
        while parts:
            part, depth = parts.pop()
            left -= 1
            if left < 0 or depth > KEY_DEPTH:
                raise Refused("a key of many parts")
            if isinstance(part, tuple | frozenset):
                parts += [(inner, depth + 1) for inner in part] if len(part) <= left else [(None, KEY_DEPTH + 1)]
            elif not isinstance(part, str | int | float | complex | bytes | Name | Foreign | type(None)):
                raise Refused(f"a key that is a {type(part).__name__}")
        return key

    def fill(self, target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Set keys of a dictionary or of an inert object."""
        target = target.pairs if isinstance(target, Foreign) else target
        if type(target) not in (dict, OrderedDict):
            raise Refused(f"the items of a {type(target).__name__}")
        for key, value in pairs:
            self.spend(EACH)
            target[self.key(key)] = value

    def collected(self, items: Iterable[Any]) -> set[Any]:
        """A set."""
        found = set()
        for item in items:
            self.spend(EACH)
            found.add(self.key(item))
        return found

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        self.append(self.call(self.stack.pop(), arguments))

    def load_newobj_ex(self) -> None:
        keywords, arguments = self.stack.pop(), self.stack.pop()
        if type(keywords) is not dict:
            raise Refused(f"keywords in a {type(keywords).__name__}")
        self.append(self.call(self.stack.pop(), arguments, keywords))

    def _instantiate(self, klass: Any, arguments: Any) -> None:  # opcodes INST and OBJ
        self.append(self.call(klass, tuple(arguments)))

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        finish = self.make.get(f"the state of a {type(made).__name__}")
        if isinstance(made, Foreign):
            made.state = state
        elif finish is not None:
            finish(self, made, state)
        elif not isinstance(made, OrderedDict):  # which torch gives attributes that nobody needs
            raise Refused(f"the state of a {type(made).__name__}")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.fill(self.stack[-1], [(key, value)])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self.fill(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    def load_dict(self) -> None:
        items: list[Any] = self.pop_mark()
        made: dict[Any, Any] = {}
        self.fill(made, zip(items[::2], items[1::2], strict=True))
        self.append(made)

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        target = target.items if isinstance(target, Foreign) else target
        if type(target) is not list:
            raise Refused(f"appending to a {type(target).__name__}")
        self.spend(8 * len(items))
        target.extend(items)

    def load_additems(self) -> None:
        items, target = self.pop_mark(), self.stack[-1]
        if type(target) is not set:
            raise Refused(f"the elements of a {type(target).__name__}")
        target |= self.collected(items)

    def load_frozenset(self) -> None:
        items = self.pop_mark()  # which also sets what ``append`` appends to
        self.append(frozenset(self.collected(items)))

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        self.spend(size)
        self.append(bytearray(self.read(size)))

    def get_extension(self, code: int) -> None:
        """Codes of copyreg's registry, which stand for names."""
        raise Refused(f"extension code {code}")


def _costing(size: int, function: Callable[[Any], None]) -> Callable[[Any], None]:
    """An opcode that makes an object of about this size, and counts as a step."""

    @wraps(function)
    def step(machine: Any) -> None:
        machine.steps += 1
        if machine.steps > MOST_STEPS:
            raise TooMuch
        machine.budget.spend(size)
        function(machine)

    return step


_REPLACED = {
    "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "SETITEM", "SETITEMS", "DICT", "APPEND", "APPENDS", "ADDITEMS", "FROZENSET",
    "BYTEARRAY8",
}  # fmt: skip
_SIZES = {
    "EMPTY_DICT": 64, "EMPTY_LIST": 56, "EMPTY_SET": 216, "LIST": 56, "MEMOIZE": 80, "PUT": 80, "BINPUT": 80, "LONG_BINPUT": 80,
}  # fmt: skip
_BYTES = {name: getattr(pickle, name) for name in pickle.__all__ if name.isupper()}
_OPCODES = {code[0]: name for name, code in _BYTES.items() if isinstance(code, bytes) and len(code) == 1}
for _opcode, _usual in _Machine.dispatch.items():
    _name = _OPCODES[_opcode]
    _function = getattr(InertUnpickler, f"load_{_name.lower()}") if _name in _REPLACED else _usual
    InertUnpickler.dispatch[_opcode] = _costing(_SIZES.get(_name, 0), _function)


def _is_plain(path: str, root: str) -> bool:
    """Whether a name of the standard library is one of plain data."""
    return path in _STANDARD or (root in _STANDARD_MODULES and is_class(path))


def is_class(path: str) -> bool:
    """Whether a name is one of a class, as names are written: calling it puts an object together."""
    last = path.rpartition(".")[2].lstrip("_")
    return last[:1].isupper() or path in _CLASSES or last.startswith("pyx_unpickle_")
