"""Our own checkpoint format, written so that a crash leaves either the old file or the new one, whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ssa_analysis.errors import OutputError

FORMAT = "ssa-analyze"
FORMAT_VERSION = 1


def make_folder(path: Path) -> Path:
    """Create a folder for output; OutputError in one line where that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(f"{path}: cannot write there ({error.strerror or error}); choose another folder") from error
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Write, fsync, rename, fsync the folder; OutputError if the disk is full or read-only."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
            temporary = stream.name
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise OutputError(f"{path}: could not be written ({error.strerror or error})") from error
    finally:  # an interrupt, too, must leave no temporary file
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def save_checkpoint(path: Path, payload: Mapping[str, Any]) -> None:
    """Write a payload of tensors and plain values; it can be read back with ``weights_only``."""
    import io

    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": FORMAT_VERSION, **payload}, buffer)
    write_atomically(path, buffer.getvalue())
