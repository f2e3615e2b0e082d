"""Arrays from a user's ``.npz`` and ``.npy`` files: plain numbers, and no more memory than their file can stand for.

What an array's header says is checked before room is made for it: an array takes at most ``RATIO`` times the bytes of its file
and ``SLACK`` bytes beyond, and never more than ``MEMORY_LIMIT``. Pickled arrays are never loaded.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from ssa_analysis.errors import DataError
from ssa_analysis.paths import ordinary

MEMORY_LIMIT = 6 * 2**30  # bytes of decoded images; beyond it a subset must be asked for
RATIO = 200  # bytes of an array by bytes of its file; dSprites has 113, images of one colour have up to 1,000
LARGEST = 1 << 38  # bytes of a file of which only parts are read
SLACK = 1 << 26  # bytes that a small file may unpack to beyond that
MOST_MEMBERS = 10_000  # of an archive
KINDS = "biufcSU"  # numbers and texts; dates and structures are in no data set that is read here


class _Refused(Exception):
    """Why an array is not read; the argument says it."""


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the arrays ``names`` that an ``.npz`` archive holds.

    Raises:
        DataError: no such file, damaged, far larger inside than outside, or an array of objects; one line.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, of old and strange headers
        try:
            return _read_arrays(path, names)
        except _Refused as error:
            raise DataError(f"{path}: {error}") from error
        except Exception as error:  # damaged bytes raise anything
            raise DataError(f"{path}: not a readable .npz file of plain arrays ({_said(error)})") from error


def read_array(path: Path) -> np.ndarray:
    """The array of an ``.npy`` file; DataError as of :func:`read_arrays`."""
    return np.array(mapped_array(path, MEMORY_LIMIT))


def mapped_array(path: Path, most: int = LARGEST) -> np.ndarray:
    """The array of an ``.npy`` file, mapped; DataError as of :func:`read_arrays`, and for one of more than ``most`` bytes."""
    if not ordinary(path):
        raise DataError(f"{path}: not a readable .npy file of a plain array (no such file)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open(path, "rb") as stream:
                if stream.read(4) == b"PK\x03\x04":
                    raise ValueError("an archive, not a single array")
                stream.seek(0)
                shape, fortran, dtype = _header(stream)
                start = stream.tell()
            length = _size(shape, dtype)
            if length > most:
                raise _Refused(f"its {length:,} bytes are more than can be read")
            if start + length > path.stat().st_size:
                raise ValueError(f"{start + length:,} bytes are needed for an array of {_shape(shape)} {dtype}")
            if not length:
                return np.empty(shape, dtype)
            return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
        except _Refused as error:
            raise DataError(f"{path}: {error}") from error
        except Exception as error:  # damaged bytes raise anything
            raise DataError(f"{path}: not a readable .npy file of a plain array ({_said(error)})") from error


def _read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    if not ordinary(path):
        raise _Refused("no such file")
    found: dict[str, np.ndarray] = {}
    with open(path, "rb") as stream:
        alone = stream.read(6) == npy.MAGIC_PREFIX
        stream.seek(0)
        if alone:
            _header(stream)
            raise _Refused("a single array (.npy); it needs an .npz with x (n, h, w, c) uint8 and y (n,)")
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS:
                raise _Refused(f"an archive of {len(members):,} members is no data set")
            known = {member.filename.removesuffix(".npy"): member for member in members}
            budget = min(MEMORY_LIMIT, RATIO * path.stat().st_size + SLACK)
            for name in names:
                if name in known:
                    found[name] = _member(archive, known[name], budget)
                    budget -= found[name].nbytes
    return found


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: int) -> np.ndarray:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _Refused(f"{member.filename:.80} is compressed in a way that numpy never uses")
    with archive.open(member) as stream:
        shape, fortran, dtype = _header(stream)
        length = _size(shape, dtype)
        if length > budget:
            raise _Refused(
                f"{member.filename:.80} would unpack to {length:,} bytes, more than its file can stand for or memory hold"
            )
        content = bytearray(length)
        place, view = 0, memoryview(content)
        while place < length and (part := stream.read(min(1 << 22, length - place))):
            view[place : place + len(part)] = part
            place += len(part)
        if place < length or stream.read(1):  # reading to the end checks the checksum
            raise ValueError(f"{member.filename:.80} has another length than its header says")
    flat: np.ndarray = np.frombuffer(content, dtype) if length else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _header(stream: BinaryIO | Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version[0]}.{version[1]}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which only a pickle could restore")
    if (
        dtype.kind not in KINDS
        or dtype.subdtype is not None
        or dtype.itemsize == 0
        or len(shape) > 32
        or min(shape, default=0) < 0
    ):
        raise ValueError(f"an array of {_shape(shape)} {dtype!s:.60}")
    return shape, fortran, dtype


def _size(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _shape(shape: tuple[int, ...]) -> str:
    return f"{shape}" if len(str(shape)) < 100 else f"{len(shape)} dimensions"


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
