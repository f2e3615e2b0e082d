"""What a pickle may build: tensors, arrays, plain containers; by the full names that pickles give.

Every function takes the machine and the arguments of the call in the pickle, which are whatever a hostile file put there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from ssa_analysis.checkpoints.pickles import EACH, Foreign, InertUnpickler, Name, NumberType, Refused

NUMBERS = "biufc"  # kinds of numpy data that are numbers
TEXTS = "SU"
TIMES = "mM"
UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")
MOST_DIMENSIONS = 64
LARGEST_NUMBER = 1 << 63


def _numbers(what: str, value: Any) -> tuple[int, ...]:
    """Sizes, strides or a shape: few whole numbers that are not negative, before anything is computed with them."""
    if type(value) not in (tuple, list) or len(value) > MOST_DIMENSIONS:
        raise Refused(f"{what} in a {type(value).__name__}")
    if not all(type(number) is int and 0 <= number < LARGEST_NUMBER for number in value):
        raise ValueError(f"{what} of impossible numbers")
    return tuple(value)


def _content(value: Any) -> bytes:
    """Raw bytes, which Python 2 wrote as text."""
    value = value.encode("latin1") if type(value) is str else value
    if type(value) not in (bytes, bytearray):
        raise Refused("an array of objects")
    return bytes(value)


def _items_of(kind: str, arguments: tuple[Any, ...]) -> Any:
    if not arguments:
        return ()
    (items,) = arguments
    if type(items) not in (list, tuple, set, frozenset, dict, OrderedDict):
        raise Refused(f"{kind} of a {type(items).__name__}")
    return items


def _sequence(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    def make(machine: InertUnpickler, *arguments: Any) -> Any:
        items = _items_of(kind.__name__, arguments)
        machine.spend(8 * len(items))
        return kind(items)

    return make


def _collection(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda machine, *arguments: kind(machine.collected(_items_of(kind.__name__, arguments)))


def _mapping(kind: Callable[[], Any]) -> Callable[..., Any]:
    def make(machine: InertUnpickler, *arguments: Any) -> Any:
        items, made = _items_of(kind.__name__, arguments), kind()
        pairs = items.items() if isinstance(items, dict) else items
        if not all(type(pair) in (tuple, list) and len(pair) == 2 for pair in pairs):
            raise Refused(f"{kind.__name__} of something else than pairs")
        machine.fill(made, ((key, value) for key, value in pairs))
        return made

    return make


def _defaultdict(machine: InertUnpickler, *arguments: Any) -> Any:
    return {}


def _deque(machine: InertUnpickler, *arguments: Any) -> Any:
    return _sequence(list)(machine, *arguments[:1])


def _encode(machine: InertUnpickler, text: str, encoding: str = "latin1") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1", "utf-8"):
        raise Refused("_codecs.encode")
    machine.spend(len(text))
    return text.encode(encoding)


def _bytes(machine: InertUnpickler, *arguments: Any) -> bytes:
    if not arguments:
        return b""
    if type(arguments[0]) is str and len(arguments) == 2:
        return _encode(machine, *arguments)
    if type(arguments[0]) not in (bytes, bytearray):  # a number would ask for that many zeros
        raise Refused("bytes of a number")
    machine.spend(len(arguments[0]))
    return bytes(arguments[0])


def _complex(machine: InertUnpickler, real: float, imaginary: float = 0.0) -> complex:
    return complex(float(real), float(imaginary))


def _reconstructor(machine: InertUnpickler, kind: Any, base: Any, state: Any = None) -> Foreign:
    if not isinstance(kind, Name):
        raise Refused("copyreg._reconstructor")
    machine.spend(4 * EACH)
    return Foreign(kind.path, () if state is None else (state,))


def _getattr(machine: InertUnpickler, owner: Any, name: Any) -> Any:
    """A class within a class, a member of an enumeration, a method of an object: their names."""
    if type(name) is not str or not isinstance(owner, Name | Foreign):
        raise Refused("getattr")
    return machine.named(f"{owner.path if isinstance(owner, Name) else owner.name}.{name}")


def _type(machine: InertUnpickler, *arguments: Any) -> Name:
    if arguments != (None,):
        raise Refused("type")
    return Name("builtins.NoneType")


def _dtype(machine: InertUnpickler, code: Any, *_: Any) -> NumberType:
    code = code.decode("ascii") if type(code) is bytes else code
    if type(code) is not str or len(code) > 40 or code.lstrip("<>=|")[:1] not in [*NUMBERS, *TEXTS, *TIMES, "O"]:
        raise Refused(f"numpy.dtype({code if type(code) is str else type(code).__name__:.40})")
    return NumberType(np.dtype(code))


def _finish_dtype(machine: InertUnpickler, made: NumberType, state: Any) -> None:
    """The byte order, and the unit of times, which is all the state that such types have."""
    if type(state) is not tuple or len(state) < 7 or state[1] not in ("<", ">", "|", "=") or state[2:5] != (None, None, None):
        raise Refused("a structured array")
    if made.dtype.kind in TIMES:
        unit = state[8][1][0] if len(state) > 8 else "ns"
        unit = unit.decode("ascii") if type(unit) is bytes else unit
        if unit not in UNITS:
            raise Refused("an array of times of an unknown unit")
        made.dtype = np.dtype(f"{made.dtype.kind}8[{unit}]")
    made.dtype = made.dtype.newbyteorder(state[1])


def _plain(kind: Any) -> Any:
    """numpy's type of data without objects."""
    if not isinstance(kind, NumberType) or kind.dtype.kind not in NUMBERS + TEXTS + TIMES:
        raise Refused("an array of objects")
    return kind.dtype


def _scalar(machine: InertUnpickler, kind: Any, content: Any = b"") -> Any:
    content, dtype = _content(content), _plain(kind)
    if len(content) != dtype.itemsize or not content:
        raise ValueError("a scalar of the wrong size")
    machine.spend(len(content))
    return np.frombuffer(content, dtype)[0].item()


def _empty_array(machine: InertUnpickler, *_: Any) -> np.ndarray:
    machine.spend(EACH)
    return np.empty((0,), "b")


def _fill_array(machine: InertUnpickler, array: np.ndarray, state: Any) -> None:
    if type(state) is not tuple or len(state) != 5:
        raise Refused("the state of an array")
    _, shape, kind, fortran, content = state
    shape = _numbers("the shape of an array", shape)
    if isinstance(kind, NumberType) and kind.dtype.kind == "O":  # of objects that are inert, every one of them
        if type(content) is not list or prod(shape) != len(content):
            raise ValueError("an array of the wrong size")
        machine.spend(8 * len(content))
        state = (1, shape, np.dtype("O"), bool(fortran), list(content))
        array.__setstate__(state)
        return
    content, dtype = _content(content), _plain(kind)
    if prod(shape) * dtype.itemsize != len(content):
        raise ValueError("an array of the wrong size")
    machine.spend(len(content))
    state = (1, shape, dtype, bool(fortran), content)
    array.__setstate__(state)


def _frombuffer(machine: InertUnpickler, content: Any, kind: Any, shape: Any, order: Any = "C") -> np.ndarray:
    content = _content(content)
    machine.spend(len(content))
    array = np.frombuffer(content, _plain(kind))
    return array.reshape(_numbers("the shape of an array", shape), order="F" if order == "F" else "C")


def _view(machine: InertUnpickler, storage: Any, offset: Any, size: Any, stride: Any, dtype: Name | None, bits: Any) -> Any:
    if machine.tensors is None:
        raise Refused("torch._utils._rebuild_tensor_v2")
    (offset,), size, stride = _numbers("an offset", [offset]), _numbers("a size", size), _numbers("a stride", stride)
    return machine.tensors.tensor(storage, offset, size, stride, dtype, bits)


def _tensor(
    machine: InertUnpickler,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    grad: Any = None,
    hooks: Any = None,
    bits: Any = None,
) -> Any:
    if isinstance(storage, Foreign):
        return Foreign("quantised tensor", (storage,))
    return _view(machine, storage, offset, size, stride, None, bits)


def _tensor_of_type(
    machine: InertUnpickler,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    bits: Any = None,
) -> Any:
    if not isinstance(dtype, Name):
        raise Refused("torch._utils._rebuild_tensor_v3")
    return _view(machine, storage, offset, size, stride, dtype, bits)


def _parameter(machine: InertUnpickler, data: Any = None, *_: Any) -> Any:
    return data


def _from_type(machine: InertUnpickler, function: Any, kind: Any, arguments: Any, state: Any = None) -> Any:
    return machine.call(function, arguments)


def _from_bytes(machine: InertUnpickler, content: Any) -> Any:
    if machine.tensors is None or type(content) is not bytes:
        raise Refused("torch.storage._load_from_bytes")
    machine.spend(len(content))
    return machine.tensors.nested(content)


def _first(machine: InertUnpickler, value: Any = None, *_: Any) -> Any:
    return value


def _other_tensor(what: str) -> Callable[..., Foreign]:
    return lambda machine, *arguments: Foreign(what, arguments)


MAKERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping(OrderedDict),
    "collections.Counter": _mapping(dict),
    "collections.defaultdict": _defaultdict,
    "collections.deque": _deque,
    "builtins.set": _collection(set),
    "builtins.frozenset": _collection(frozenset),
    "builtins.list": _sequence(list),
    "builtins.tuple": _sequence(tuple),
    "builtins.dict": _mapping(dict),
    "builtins.complex": _complex,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.getattr": _getattr,
    "builtins.type": _type,
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _reconstructor,
    "torch.Size": _sequence(tuple),
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
    # what a pickle says of these after it has made them
    "the state of a ndarray": _fill_array,
    "the state of a NumberType": _finish_dtype,
}
