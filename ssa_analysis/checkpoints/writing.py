"""Our own checkpoint format, written so that a crash leaves either the old file or the new one, whole."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # a system without POSIX locks
    fcntl = None  # type: ignore[assignment]

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


def remove_leftovers(path: Path, *endings: str) -> None:
    """Remove what killed processes have left of files with these endings; only where nobody else writes (``locked_folder``)."""
    for ending in endings:
        for leftover in path.glob(f".*{ending}.????????"):  # the names of write_atomically
            with suppress(OSError):
                leftover.unlink()


@contextmanager
def locked_folder(path: Path, patience: float = 10.0) -> Iterator[None]:
    """Keep a folder to this process; the system gives it back when the process ends, however it ends.

    Args:
        patience: seconds to wait for another process, which may just be ending.

    Raises:
        OutputError: another process keeps it. Where the file system has no locks everybody gets it.
    """
    if fcntl is None:
        yield
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise OutputError(
                        f"{path}: another process is at work in this folder; wait for it or name another"
                    ) from error
                time.sleep(0.1)
                continue
            except OSError:
                pass
            break
        yield
    finally:
        os.close(folder)


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
    """Write a payload of tensors and plain values; it can be read back with ``weights_only``. Equal payloads give equal bytes."""
    import io

    buffer = io.BytesIO()
    torch.save(_same_objects({"format": FORMAT, "version": FORMAT_VERSION, **payload}), buffer)
    write_atomically(path, buffer.getvalue())


def _same_objects(value: Any) -> Any:
    """Containers made anew and one object for equal strings: a pickle tells whether two are the same object, which depends on
    where they came from."""
    if isinstance(value, Mapping):
        return {_same_objects(key): _same_objects(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_same_objects, value))
    return sys.intern(value) if type(value) is str else value
