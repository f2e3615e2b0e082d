"""Finished points of a grid, kept in a text file so that a killed run can go on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch
from torch import Tensor

from ssa_analysis.progress import LOGGER

Point = tuple[tuple[str, float], ...]


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bits."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class PartialPoints:
    """Loss by point; what is added goes to a file at once, one line a point.

    The file's first line says what the points belong to. A file that belongs to something else is begun anew; a last
    line that was cut off by a kill is dropped. Where the file cannot be written, the work goes on without it.

    Args:
        path: of the file; its folder is made. None keeps nothing.
        belongs_to: plain values that decide the losses.
    """

    def __init__(self, path: Path | None, belongs_to: Mapping[str, Any]) -> None:
        self.known: dict[Point, float] = {}
        self._header = json.dumps(dict(belongs_to), sort_keys=True)
        self._path = path
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> PartialPoints:
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self._open(self._path)
            except OSError as error:
                self._give_up(error)
        return self

    def _open(self, path: Path) -> IO[bytes]:
        content = path.read_bytes() if path.is_file() else b""
        good = self._take_up(content)
        if good == 0:
            fresh = path.with_name(f"{path.name}.{os.getpid()}")
            fresh.write_bytes(self._header.encode() + b"\n")
            os.replace(fresh, path)
        elif good < len(content):
            os.truncate(path, good)
        return open(path, "ab", buffering=0)  # every line reaches the system before the next point begins

    def _take_up(self, content: bytes) -> int:
        """Read the points of a file; returns the length of its readable part, 0 if it belongs to something else."""
        good = 0
        for number, line in enumerate(content.splitlines(keepends=True)):
            if not line.endswith(b"\n"):
                break
            try:
                if number == 0:
                    if line.decode() != self._header + "\n":
                        return 0
                else:
                    coordinates, loss = json.loads(line)
                    self.known[tuple((str(name), float(value)) for name, value in coordinates)] = float(loss)
            except ValueError:  # also UnicodeDecodeError: the end of a damaged file
                break
            good += len(line)
        return good

    def add(self, point: Point, loss: float) -> None:
        """Remember a point."""
        self.known[point] = loss
        if self._stream is None:
            return
        try:
            self._stream.write(json.dumps([point, loss]).encode() + b"\n")
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        LOGGER.warning("%s: cannot be written (%s); if this run is killed, it starts anew", self._path, error.strerror or error)
        self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._close()
