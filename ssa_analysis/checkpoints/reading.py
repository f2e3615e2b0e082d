"""Read a checkpoint file without ever running what is in it."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import Any

from ssa_analysis.checkpoints.containers import read_torch
from ssa_analysis.checkpoints.pickles import Refused, TooMuch
from ssa_analysis.checkpoints.safe_tensors import read_safetensors
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
    """The content of a ``.safetensors`` file, a torch file or a pickle: tensors and plain values, on the CPU.

    Stricter than torch's ``weights_only``: no name in a pickle is looked up at all. Objects of other classes become inert
    (:class:`~ssa_analysis.checkpoints.pickles.Foreign`); a file that wants a function called is refused by its name.

    Raises:
        CheckpointError: missing, truncated, refused, far larger inside than outside, or not a checkpoint.
    """
    try:
        kind = path.stat()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(kind.st_mode):
        raise CheckpointError(f"{path}: {'a folder; name a file in it' if stat.S_ISDIR(kind.st_mode) else 'no ordinary file'}")
    if kind.st_size == 0:
        raise CheckpointError(f"{path}: the file is empty")
    tensors_only = path.suffix == ".safetensors"
    try:
        return read_safetensors(path) if tensors_only else read_torch(path)
    except Refused as error:
        what = f"the file asks to load {str(error)!r:.120}, which is not a tensor; nothing was executed"
        raise CheckpointError(f"{path}: refused: {what}") from error
    except TooMuch as error:
        raise CheckpointError(f"{path}: refused: it describes far more than it holds, or more than can be read") from error
    except Exception as error:  # damaged bytes raise anything: struct.error, KeyError, RuntimeError, UnicodeDecodeError ...
        raise CheckpointError(
            f"{path}: truncated or not a {'safetensors file' if tensors_only else 'torch checkpoint'} ({first_line(error)})"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened: libraries write paragraphs, ours are one line."""
    lines = str(error).strip().splitlines()
    if not lines or len(lines[0]) < 8:  # "101", say, explains nothing
        return f"{type(error).__name__} {lines[0] if lines else ''}".strip()
    return lines[0][:160]
