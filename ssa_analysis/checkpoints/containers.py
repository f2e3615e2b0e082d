"""The files that torch writes: a zip archive, or (before 1.6) pickles and raw bytes one after the other.

Only the frame is read here; what the pickles inside mean is decided in :mod:`ssa_analysis.checkpoints.pickles`. Tensors are
views of the file's bytes, which are read once (mapped, a file that somebody cuts short would end the process).
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssa_analysis.checkpoints.making import MAKERS
from ssa_analysis.checkpoints.pickles import Budget, Foreign, InertUnpickler, Name, TooMuch

MAGIC = 0x1950A86A20F9469CFC6C  # of the older format
PROTOCOL = 1001
LARGEST = 1 << 36  # bytes of a file
MOST_TENSORS = 200_000
SLACK = 1 << 26  # bytes that a small file may describe beyond its own size
TENSOR = 400  # bytes of a tensor without its numbers
NESTING = 3  # torch files within the pickle of a torch file

_STORAGES: dict[str, torch.dtype] = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8, "TypedStorage": torch.float32,
}  # fmt: skip
_DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


class Damaged(Exception):
    """The frame of the file does not hold together; the argument says where."""


@dataclass(frozen=True)
class Storage:
    """The numbers behind some tensors: ``dtype`` and where their bytes are, ``data`` as uint8; None if not known yet."""

    dtype: torch.dtype
    data: Tensor | None


def read_torch(path: Path) -> Any:
    """The content of a torch file or of a plain pickle: tensors, plain containers, and inert objects.

    Raises:
        Refused, TooMuch, Damaged, and whatever damaged bytes raise in Python's unpickler.
    """
    content = content_of(path)
    return _read(content, _Limits(len(content)), 0)


def content_of(path: Path) -> bytearray:
    """The bytes of a file, once; TooMuch for one of more than ``LARGEST`` bytes, or than this machine has memory."""
    size = path.stat().st_size
    if size > min(LARGEST, _memory()):
        raise TooMuch
    content = bytearray(size)
    with open(path, "rb") as stream:
        read = stream.readinto(content)
    return content if read == size else content[:read]


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not a system that says
        return LARGEST


class _Limits:
    """What may be built of a file and of the files within it, all together.

    Attributes:
        objects: bytes of containers and arrays. tensors: bytes that all tensors describe; views of one storage may be as many
            as one likes. count: of tensors.
    """

    def __init__(self, size: int) -> None:
        self.objects, self.tensors, self.count = Budget(size + SLACK), Budget(4 * size + SLACK), Budget(MOST_TENSORS)


def _read(content: Any, limits: _Limits, depth: int) -> Any:
    if depth > NESTING:
        raise TooMuch
    if bytes(content[:4]) == b"PK\x03\x04":
        return _read_zip(content, limits, depth)
    return _read_sequence(content, limits, depth)


def _unpickled(stream: Any, tensors: _Tensors | None, limits: _Limits) -> Any:
    return InertUnpickler(stream, MAKERS, tensors, limits.objects).load()


class _Tensors:
    """Builds tensors from storages by their keys."""

    def __init__(self, limits: _Limits, depth: int) -> None:
        self.limits, self.depth = limits, depth

    def find(self, key: str, dtype: torch.dtype, numel: int) -> Tensor | None:
        raise NotImplementedError

    def storage(self, identity: Any) -> Any:
        """``("storage", type, key, location, number of elements)``, with a sixth in the older format, which also has
        ``("module", class, ...)`` for the class of a pickled module."""
        if isinstance(identity, tuple) and len(identity) > 1 and identity[0] in ("module", b"module"):
            return identity[1]
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] not in ("storage", b"storage"):
            raise Damaged("a storage without its description")
        _, kind, key, _, numel = identity[:5]
        if len(identity) > 5 and identity[5] is not None:
            raise Damaged("a view of a storage, which torch stopped to write in 2017")
        name = kind.path.rpartition(".")[2] if isinstance(kind, Name) else ""
        if type(key) not in (str, int) or type(numel) is not int:
            raise Damaged("a storage without a proper key and length")
        if name not in _STORAGES:
            if name.startswith("Q") and name.endswith("Storage"):  # of quantised numbers, which no encoder here has
                self.find(str(key), torch.uint8, 0)
                return Foreign(f"torch.{name}")
            raise Damaged(f"a storage of unknown type {name!r:.40}")
        dtype = _STORAGES[name]
        return Storage(dtype, self.find(str(key), dtype, numel))

    def tensor(
        self,
        storage: Any,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        dtype: Name | None = None,
        bits: Any = None,
    ) -> Tensor | None:
        """A view; Damaged where it leaves its storage."""
        if not isinstance(storage, Storage):
            raise Damaged("a tensor without a storage")
        if dtype is not None:
            storage = Storage(_dtype_of(dtype), storage.data)
        self.limits.count.spend(1)
        self.limits.objects.spend(TENSOR)
        if storage.data is None:
            return None
        if len(size) != len(stride):
            raise Damaged("a tensor of impossible shape")
        count, width = math.prod(size), storage.dtype.itemsize
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset - 1
        if (last + 1) * width > len(storage.data):
            raise Damaged("a tensor reaches beyond its storage")
        self.limits.tensors.spend(count * width)
        whole = len(storage.data) // width
        typed = storage.data[: whole * width].view(storage.dtype) if whole else torch.empty(0, dtype=storage.dtype)
        found = typed.as_strided(size, stride, offset)
        if isinstance(bits, dict) and (bits.get("conj") or bits.get("neg")):  # kept beside the numbers, see torch.conj
            self.limits.tensors.spend(2 * count * width)
            found = found.conj() if bits.get("conj") else found
            found = (-found if bits.get("neg") else found).resolve_conj()
        return found

    def nested(self, content: bytes) -> Any:
        """A storage that was pickled as a torch file of its own."""
        found = _read(bytearray(content), self.limits, self.depth + 1)
        if not isinstance(found, Storage):
            raise Damaged("a torch file within the file that is no storage")
        return found


class _ZipTensors(_Tensors):
    def __init__(self, archive: _Archive, limits: _Limits, depth: int) -> None:
        super().__init__(limits, depth)
        self.archive = archive
        self.known: dict[str, Tensor] = {}

    def find(self, key: str, dtype: torch.dtype, numel: int) -> Tensor:
        if key not in self.known:
            self.known[key] = _bytes_of(self.archive.record(f"data/{key}"))
        if numel * dtype.itemsize > len(self.known[key]) or numel < 0:
            raise Damaged(f"storage {key:.40} is shorter than it says")
        return self.known[key]


class _Archive:
    """The records of a zip archive that torch wrote: stored as they are, each with a checksum, under one folder."""

    def __init__(self, content: Any) -> None:
        self.content, size = content, len(content)
        if content.count(b"PK\x01\x02") > 2 * MOST_TENSORS:  # entries of its directory, before that is read
            raise TooMuch
        try:
            with zipfile.ZipFile(_Stream(content)) as archive:
                records = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error, OverflowError, ValueError) as error:
            raise Damaged(str(error) or "no zip archive") from error
        if len(records) > MOST_TENSORS or sum(record.file_size for record in records) > size:
            raise TooMuch
        self.records = {record.filename: record for record in records}
        if len(self.records) != len(records):
            raise Damaged("two records of one name in the archive")
        pickles = [name for name in self.records if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Damaged("no single data.pkl in the archive")
        self.folder = pickles[0].removesuffix("data.pkl")

    def has(self, name: str) -> bool:
        return self.folder + name in self.records

    def record(self, name: str) -> Any:
        """The bytes of a record, a view of the file; Damaged unless they have their checksum."""
        info = self.records.get(self.folder + name)
        if info is None:
            raise Damaged(f"no record {name:.60}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise Damaged(f"record {name:.60} is compressed, which torch never does")
        head = bytes(self.content[info.header_offset : info.header_offset + 30])
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise Damaged(f"no record {name:.60} where the archive says")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:30]))
        part = memoryview(self.content)[start : start + info.file_size]
        if len(part) != info.file_size or zlib.crc32(part) != info.CRC:
            raise Damaged(f"the checksum of record {name:.60} is wrong (or it was saved without checksums)")
        return part


class _Stream(io.RawIOBase):
    """A mapped file as a seekable stream, which ``zipfile`` wants."""

    def __init__(self, content: Any) -> None:
        self._content, self._at = content, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._at, len(self._content))[whence]
        if base + offset < 0:
            raise ValueError("negative seek position")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int | None = -1) -> bytes:
        end = len(self._content) if count is None or count < 0 else min(len(self._content), self._at + count)
        part = bytes(self._content[self._at : end])
        self._at += len(part)
        return part

    def readline(self, count: int | None = -1) -> bytes:
        end = self._content.find(b"\n", self._at)
        return self.read((end + 1 if end >= 0 else len(self._content)) - self._at)


def _bytes_of(part: Any) -> Tensor:
    if not len(part):
        return torch.empty(0, dtype=torch.uint8)
    found = torch.frombuffer(part, dtype=torch.uint8)
    return found if found.data_ptr() % 16 == 0 else found.clone()  # numbers must lie at multiples of their size


def _dtype_of(name: Name) -> torch.dtype:
    found = _DTYPES.get(name.path)
    if found is None:
        raise Damaged(f"numbers of unknown type {name.path!r:.40}")
    return found


def _read_zip(content: Any, limits: _Limits, depth: int) -> Any:
    archive = _Archive(content)
    if archive.has("constants.pkl") or archive.has("code/"):
        raise Damaged("a TorchScript archive, which holds a program; save the state_dict() of its module")
    if archive.has("byteorder") and bytes(archive.record("byteorder")) != b"little":
        raise Damaged("saved on a big-endian machine")
    return _unpickled(io.BytesIO(archive.record("data.pkl")), _ZipTensors(archive, limits, depth), limits)


class _LaterTensors(_Tensors):
    """First pass over the older format: which storages there are; the second one has their bytes."""

    def __init__(self, limits: _Limits, depth: int, found: dict[str, Tensor] | None = None) -> None:
        super().__init__(limits, depth)
        self.found = found
        self.wanted: dict[str, tuple[torch.dtype, int]] = {}

    def find(self, key: str, dtype: torch.dtype, numel: int) -> Tensor | None:
        self.wanted[key] = dtype, numel
        if self.found is None:
            return None
        if key not in self.found:
            raise Damaged(f"no storage {key:.40}")
        return self.found[key]


def _read_sequence(content: Any, limits: _Limits, depth: int) -> Any:
    """The older format, or a plain pickle."""
    stream, size = _Stream(content), len(content)
    first = _unpickled(stream, _LaterTensors(limits, depth, {}), limits)
    if type(first) is not int or first != MAGIC:
        return first
    if _unpickled(stream, None, limits) != PROTOCOL:
        raise Damaged("a protocol that torch never wrote")
    system = _unpickled(stream, None, limits)
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise Damaged("saved on a big-endian machine")
    begin = stream.tell()
    scan = _LaterTensors(limits, depth)
    _unpickled(stream, scan, _Limits(size))
    keys = _unpickled(stream, None, limits)
    if not isinstance(keys, list) or len(keys) > MOST_TENSORS:
        raise Damaged("no list of storages")
    found: dict[str, Tensor] = {}
    for key in keys:
        if type(key) is not str or key not in scan.wanted:
            raise Damaged("a storage that belongs to no tensor")
        dtype, numel = scan.wanted[key]
        head = stream.read(8)
        if len(head) < 8 or struct.unpack("<q", head)[0] != numel or numel < 0:
            raise Damaged(f"storage {key:.40} has another length than its tensors say")
        start, length = stream.tell(), numel * dtype.itemsize
        if start + length > size:
            raise Damaged(f"storage {key:.40} is cut off")
        found[key] = _bytes_of(memoryview(content)[start : start + length])
        stream.seek(start + length)
    stream.seek(begin)
    return _unpickled(stream, _LaterTensors(limits, depth, found), limits)


def describe(value: Any) -> str:
    """What a value of a file is, for messages."""
    return value.name if isinstance(value, Foreign) else type(value).__name__
