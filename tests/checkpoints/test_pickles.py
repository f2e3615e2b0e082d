"""Pickles are read without looking up or calling what they name: what comes out, and what is refused."""

from __future__ import annotations

import argparse
import collections
import copyreg
import datetime
import decimal
import functools
import io
import operator
import pathlib
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssa_analysis.checkpoints import containers
from ssa_analysis.checkpoints.making import MAKERS
from ssa_analysis.checkpoints.pickles import Foreign, InertUnpickler, Name, Refused
from ssa_analysis.checkpoints.reading import read_file
from ssa_analysis.errors import CheckpointError

WAYS = ("zip", "legacy", *(f"pickle-{n}" for n in range(6)))


class Settings(dict):  # type: ignore[type-arg]
    """Stands for the dictionaries with attributes that configuration libraries write."""


class Log(list):  # type: ignore[type-arg]
    """A list of another project."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.functional.relu


def save(content: Any, path: Path, way: str) -> Path:
    if way.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(way[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "zip")
    return path


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, Tensor):
        return isinstance(ours, Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(theirs, np.ndarray):
        # numpy itself reads arrays into the machine's own byte order
        types = [array.dtype.newbyteorder("=") for array in (ours, theirs)]
        return isinstance(ours, np.ndarray) and types[0] == types[1] and np.array_equal(ours, theirs)
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


BASE = torch.arange(24, dtype=torch.float32)
DATA = {
    "floats": torch.randn(3, 4, dtype=torch.float64), "halves": torch.ones(2, dtype=torch.bfloat16),
    "whole": torch.arange(5), "flags": torch.tensor([True, False]), "none": torch.empty(0, 3), "number": torch.tensor(2.5),
    "view": BASE[3:9].view(2, 3).T, "all": BASE, "parameter": nn.Parameter(torch.zeros(2)),
    "ordered": collections.OrderedDict(a=1, b=[2, (3, None)]), "set": {1, 2}, "frozen": frozenset("ab"), "complex": 1 + 2j,
    "bytes": b"\x00\xff", "array": bytearray(b"abc"), "long": 1 << 200, "text": "d\u00e9j\u00e0 \U0001f600",
    "size": torch.Size([2, 3]), "default": collections.defaultdict(list, x=[1]), "deque": collections.deque([1, 2]),
    "counter": collections.Counter("aab"), "float": 1e-300,
    "numpy": np.arange(6, dtype=">i2").reshape(2, 3), "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "names": np.array(["cat", None], dtype=object), "days": np.array(["2020-01-02"], "M8[D]"),
    "conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj(), "negative": torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
    "ellipsis": ..., "nothing's type": type(None),
    "scalar": np.float32(1.5), "text array": np.array(["ab", "c"]), "boolean": np.bool_(True),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_data_comes_out_as_it_went_in(tmp_path: Path, way: str) -> None:
    found = read_file(save(DATA, tmp_path / "data.pt", way))
    assert list(found) == list(DATA)
    others = ("default", "deque", "counter", "ellipsis", "nothing's type")
    assert [key for key in DATA if key not in others and not same(found[key], DATA[key])] == []
    assert (found["ellipsis"], found["nothing's type"]) == (Name("builtins.Ellipsis"), Name("builtins.NoneType"))
    assert (found["default"], found["deque"], found["counter"]) == ({"x": [1]}, [1, 2], {"a": 2, "b": 1})


def test_tensors_of_one_storage_still_share_it(tmp_path: Path) -> None:
    for way in ("zip", "legacy"):
        found = read_file(save({"a": BASE, "b": BASE[2:]}, tmp_path / "shared.pt", way))
        found["a"][2] = -1.0
        assert found["b"][0] == -1.0


def test_new_types_of_numbers(tmp_path: Path) -> None:
    content = {"a": torch.arange(3).to(torch.uint16), "b": torch.ones(2).to(torch.float8_e4m3fn)}
    try:
        path = save(content, tmp_path / "new.pt", "zip")
    except KeyError:
        pytest.skip("this torch writes no uint16")  # 2.4
    found = read_file(path)
    assert [(t.dtype, t.float().tolist()) for t in found.values()] == [(t.dtype, t.float().tolist()) for t in content.values()]


@pytest.mark.parametrize("way", WAYS)
def test_objects_of_other_projects_become_inert_and_the_tensors_still_load(tmp_path: Path, way: str) -> None:
    settings, log = Settings(lr=0.1), Log([1, 2])
    settings.path = log.name = "x"  # type: ignore[attr-defined]
    content = {
        "args": argparse.Namespace(lr=0.1, arch="resnet18"), "path": pathlib.PurePosixPath("a/b"),
        "when": datetime.datetime(2020, 1, 2), "price": decimal.Decimal("0.1"), "settings": settings, "log": log,
        "make": functools.partial(nn.LayerNorm, eps=1e-6), "act": nn.functional.relu, "kind": nn.Linear,
        "optimizer": torch.optim.lr_scheduler.ConstantLR.__new__(torch.optim.lr_scheduler.ConstantLR),
        "weight": torch.ones(2),
    }  # fmt: skip
    found = read_file(save(content, tmp_path / "foreign.pt", way))
    assert torch.equal(found["weight"], torch.ones(2))
    assert found["args"].name == "argparse.Namespace"
    if way not in ("pickle-0", "pickle-1"):  # these write the attributes as a state of another form
        assert found["args"].attributes == {"lr": 0.1, "arch": "resnet18"}
    assert (found["act"], found["kind"]) == (Name("torch.nn.functional.relu"), Name("torch.nn.modules.linear.Linear"))
    assert (found["log"].items, found["settings"].pairs) in (([1, 2], {"lr": 0.1}), ([], {}))
    assert {key for key, value in found.items() if isinstance(value, Foreign)} == {
        "args", "path", "when", "price", "settings", "log", "make", "optimizer",
    }  # fmt: skip


def test_a_pickled_module_is_inert_and_holds_its_tensors(tmp_path: Path) -> None:
    net = Net()
    for way in ("zip", "legacy", "pickle-4"):
        found = read_file(save(net, tmp_path / "net.pt", way))
        assert found.name.endswith("test_pickles.Net")
        inner = found.attributes["_modules"]["norm"].attributes
        assert torch.equal(inner["_buffers"]["running_var"], net.norm.running_var)
        assert torch.equal(found.attributes["_modules"]["conv"].attributes["_parameters"]["weight"], net.conv.weight)


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, Any]:
        return self.call


class Build:
    """Sets the state of a thing that is not the file's own."""

    def __init__(self, thing: Any, state: Any) -> None:
        self.call = (thing, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return collections.OrderedDict, (), None, None, iter([(1, self.call[0])])


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (Call(eval, "1"), "eval"),
        (Call(getattr, pathlib.Path, "touch"), "pathlib.Path.touch"),
        (Call(operator.methodcaller("x")), "operator.methodcaller"),
        (Call(torch.load, "x"), "torch.serialization.load"),
        (Call(torch.hub.load, "x", "y"), "torch.hub.load"),
        (Call(np.load, "x"), "numpy.load"),
        (Call(bytes, 1 << 40), "bytes of a number"),
        (Call(bytearray, 1 << 40), "bytes of a number"),
        (Call(np.dtype, "V8"), "numpy.dtype"),
        (Call(type, 1), "type"),
        (Call(subprocess.Popen, "id"), "subprocess.Popen"),
        (np.zeros(2, "f4,f4"), "numpy.dtype"),
        (Call(list, "ab"), "list of a str"),
        (sys, "importlib.import_module"),
        (io.BytesIO(b"x"), "_io.BytesIO"),
    ],
)
def test_what_does_something_is_refused_by_name(tmp_path: Path, content: Any, named: str) -> None:
    if content is sys:
        import importlib

        content = Call(importlib.import_module, "os")
    for way in ("pickle-2", "pickle-5"):
        path = save([torch.zeros(1), content], tmp_path / "evil.pt", way)
        with pytest.raises(CheckpointError, match=rf"refused: the file asks to load .{named}.*nothing was executed"):
            read_file(path)


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


@pytest.mark.parametrize(
    "content",
    [
        opcodes(b"cnumpy\nndarray\n", b"}", b"b"),  # BUILD on a name
        opcodes(b"ctorch._utils\n_rebuild_tensor_v2\n", b"}U\x0c__defaults__Nsb"),
        opcodes(b"]", b"}", b"b"),  # BUILD on a list
        opcodes(b"cos\nsystem\n", b"U\x02id", b"\x85", b"R"),
        opcodes(b"(", b"cos\nsystem\n", b"U\x02id", b"o"),  # OBJ
        b"(S'id'\nios\nsystem\n.",  # INST
        opcodes(b"cos\nsystem\n", b"U\x02id", b"\x85", b"\x81"),  # NEWOBJ
        opcodes(b"cargparse\nNamespace\n", b")", b"R", b")", b"R"),  # a call of an object
        opcodes(b"]", b")", b"R"),
        opcodes(b"U\x06system", b")", b"\x81"),
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",  # STACK_GLOBAL
        opcodes(b"\x82\x01"),  # EXT1
        opcodes(b"U\x01xQ"),  # a persistent id where there is no container
    ],
)
def test_no_opcode_gets_at_anything(content: bytes) -> None:
    with pytest.raises(Refused):
        InertUnpickler(io.BytesIO(content), MAKERS).load()


def test_extension_codes_are_not_looked_up() -> None:
    copyreg.add_extension("os", "system", 213)
    try:
        with pytest.raises(Refused):
            InertUnpickler(io.BytesIO(opcodes(b"\x82\xd5")), MAKERS).load()
    finally:
        copyreg.remove_extension("os", "system", 213)


def bomb_of_copies() -> bytes:
    """A list of ten thousand that is copied ten thousand times."""
    copies = b"cbuiltins\nset\nh\x00\x85R0" * 10_000
    return opcodes(b"](", b"K\x01" * 10_000, b"eq\x00", copies, b"N").replace(b"builtins", b"__builtin__")


def bomb_of_strides(path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(1 << 36)}, path)


def bomb_of_zip(path: Path) -> None:
    torch.save({"w": torch.zeros(10)}, path)
    with zipfile.ZipFile(path) as whole:
        records = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, content in records.items():
            bomb.writestr(name, bytes(1 << 26) if name.endswith("data/0") else content)


def long_storage(path: Path) -> None:
    """The older format, with a storage that says it is enormous."""
    torch.save({"w": torch.zeros(10)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<q", 10) + bytes(40), struct.pack("<q", 1 << 50) + bytes(40)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(bomb_of_copies()), "refused: it describes far more than it holds"),
        (bomb_of_strides, "refused: it describes far more than it holds"),
        (bomb_of_zip, "refused: it describes far more than it holds"),
        (long_storage, "truncated.*has another length"),
    ],
)
def test_bombs_are_refused_in_little_memory(
    tmp_path: Path, make: Callable[[Path], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "SLACK", 1 << 22)
    make(tmp_path / "bomb.pt")
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=message):
            read_file(tmp_path / "bomb.pt")
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


def test_files_and_tensors_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "two.pt", "zip")
    for name, limit in (("LARGEST", 100), ("MOST_TENSORS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(containers, name, limit)
            with pytest.raises(CheckpointError, match="more than can be read"):
                read_file(path)
    assert len(read_file(path)) == 2


def test_a_changed_byte_of_a_zip_archive_is_found(tmp_path: Path) -> None:
    path = save({"w": torch.full((100,), 3.0)}, tmp_path / "w.pt", "zip")
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 3.0) * 50)] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="the checksum of record data/0 is wrong"):
        read_file(path)


def test_a_program_and_a_foreign_byte_order_are_named(tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(CheckpointError, match="a TorchScript archive, which holds a program"):
        read_file(tmp_path / "script.pt")
    torch.save({"w": torch.zeros(10)}, tmp_path / "big.pt")
    with zipfile.ZipFile(tmp_path / "big.pt") as whole:
        records = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(tmp_path / "big.pt", "w") as other:
        for name, content in records.items():
            other.writestr(name, b"big" if name.endswith("byteorder") else content)
    with pytest.raises(CheckpointError, match="saved on a big-endian machine"):
        read_file(tmp_path / "big.pt")
