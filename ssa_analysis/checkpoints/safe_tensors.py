"""safetensors files: a header in JSON, then the numbers, one tensor after the other without gaps.

Read here and not by the library, which maps the file (one that somebody cuts short would end the process) and takes headers of
100 MB. The rules are the library's: every byte of the numbers belongs to one tensor.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssa_analysis.checkpoints.containers import MOST_TENSORS, Damaged, content_of
from ssa_analysis.checkpoints.pickles import TooMuch

LARGEST_HEADER = 1 << 25  # bytes
MOST_DIMENSIONS = 64

_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors by name, on the CPU.

    Raises:
        TooMuch: a header of more than ``LARGEST_HEADER`` bytes or ``MOST_TENSORS`` tensors. Damaged: whatever else is wrong.
    """
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > path.stat().st_size - 8:
            raise Damaged(f"its header should have {length:,} bytes, which is more than the file has")
        if length > LARGEST_HEADER:
            raise TooMuch
        header = stream.read(length)
    described = _described(header)
    content = content_of(path)
    start, end = 8 + length, 8 + length
    found = {}
    for name, (dtype, shape, begin, stop) in sorted(described.items(), key=lambda item: item[1][2:]):
        if start + begin != end or stop < begin or math.prod(shape) * dtype.itemsize != stop - begin:
            raise Damaged(f"the tensor {name!r:.60} is not where or as large as the header says")
        end = start + stop
        if end > len(content):
            raise Damaged(f"the tensor {name!r:.60} reaches beyond the file")
        found[name] = _tensor(memoryview(content)[start + begin : end], dtype, shape)
    if end != len(content):
        raise Damaged(f"{len(content) - end:,} bytes at its end belong to no tensor")
    return {name: found[name] for name in described}


def _described(header: bytes) -> dict[str, tuple[torch.dtype, tuple[int, ...], int, int]]:
    """Name -> type, shape and place of each tensor."""
    if not header.startswith(b"{"):
        raise Damaged("no header")
    if header.count(b"{") > MOST_TENSORS + 2 or header.count(b"[") > 2 * MOST_TENSORS:  # before room is made for any of them
        raise TooMuch
    try:
        content = json.loads(header.decode("utf-8"), object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"its header is no JSON ({type(error).__name__})") from error
    content.pop("__metadata__", None)
    return {name: _description(name, about) for name, about in content.items()}


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name twice")
    return made


def _description(name: str, about: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    if not isinstance(about, dict) or not set(about) >= {"dtype", "shape", "data_offsets"}:
        raise Damaged(f"the tensor {name!r:.60} is not described")
    dtype = _DTYPES.get(about["dtype"]) if isinstance(about["dtype"], str) else None
    if dtype is None:
        raise Damaged(f"the tensor {name!r:.60} has numbers of unknown type {about['dtype']!r:.20}")
    shape, places = about["shape"], about["data_offsets"]
    if not _whole(shape) or not _whole(places) or len(places) != 2 or len(shape) > MOST_DIMENSIONS:
        raise Damaged(f"the tensor {name!r:.60} has an impossible shape or place")
    return dtype, tuple(shape), places[0], places[1]


def _whole(numbers: Any) -> bool:
    """Whether it is a list of whole numbers, none of them negative."""
    return isinstance(numbers, list) and all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)


def _tensor(part: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not len(part):
        return torch.empty(shape, dtype=dtype)
    numbers = torch.frombuffer(part, dtype=torch.uint8)
    if dtype is torch.bool:
        return (numbers != 0).view(shape)
    numbers = numbers if numbers.data_ptr() % dtype.itemsize == 0 else numbers.clone()
    return numbers.view(dtype).view(shape)
