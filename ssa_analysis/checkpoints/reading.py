"""Read a checkpoint file without ever running what is in it."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssa_analysis.errors import CheckpointError

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".th", ".tar", ".bin", ".pkl", ".t7")


def file_hash(path: Path) -> str:
    """SHA-256 of the file, as hex; CheckpointError if it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(stream)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def _digest(stream: Any) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def read_file(path: Path) -> Any:
    """The content of a ``.safetensors`` file or a torch file: tensors and plain values, on the CPU.

    Torch files are read with ``weights_only``: a pickle that asks for anything but tensors and plain containers is
    refused by the name of what it asks for, and nothing of it is executed.

    Raises:
        CheckpointError: missing, truncated, refused, or not a checkpoint.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {_explain_refusal(str(error))}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError,
            zipfile.BadZipFile, UnicodeDecodeError, OverflowError, MemoryError, AssertionError) as error:  # fmt: skip
        raise CheckpointError(f"{path}: truncated or not a torch checkpoint ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]


def _explain_refusal(message: str) -> str:
    found = re.search(r"(?:GLOBAL|global|class)\s+`?([A-Za-z_][\w]*(?:\.[\w]+)+)`?", message)
    if found:
        return f"refused: the file asks to load {found.group(1)!r}, which is not a tensor; nothing was executed"
    return "truncated, or a pickle of something other than tensors; nothing was executed"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(str(path)))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: truncated or not a safetensors file ({_first_line(error)})") from error


def find_checkpoints(patterns: list[str]) -> list[Path]:
    """Files behind paths, globs and folders, in order and once each.

    A folder stands for ``last.pt`` in it, else for every checkpoint file directly in it, else for ``*/last.pt``.

    Raises:
        CheckpointError: a pattern that leads to nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            own = [path / "last.pt"] if (path / "last.pt").is_file() else []
            files = own or sorted(p for p in path.iterdir() if p.is_file() and p.suffix in SUFFIXES)
            files = files or sorted(path.glob("*/last.pt"))
            if not files:
                raise CheckpointError(f"{path}: the folder holds no checkpoint ({', '.join(SUFFIXES)})")
        elif path.is_file():
            files = [path]
        else:
            files = (
                sorted(p for p in Path(path.anchor or ".").glob(str(path.relative_to(path.anchor)))) if _is_glob(pattern) else []
            )
            if not files:
                raise CheckpointError(f"{pattern}: no such file, folder or match")
            files = [f for f in files if f.is_file()]
        found += [f for f in files if f not in found]
    return found


def _is_glob(pattern: str) -> bool:
    return any(c in pattern for c in "*?[")
