"""Who is computing which cell of a store: locks that the system drops when a process ends, however it ends."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # a system without POSIX locks: every run computes what it finds missing
    fcntl = None  # type: ignore[assignment]


class Claims:
    """The cells that this process computes, which other runs on the same store leave to it.

    One byte of the file is locked for each cell. Where the file system has no locks everything can be taken: a cell is then
    computed twice at worst, and stored once.

    Args:
        path: of the file, which is there while somebody uses it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        if fcntl is not None:
            with suppress(OSError):
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def take(self, key: str) -> bool:
        """Claim a cell by its key, a hash in hex; False where another process has it."""
        if self._file is None:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(key[:15], 16))
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            return True
        return True

    def release(self, key: str) -> None:
        """Give a cell back."""
        if self._file is not None:
            with suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, int(key[:15], 16))

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is None:
            return
        with suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the whole file: nobody else has any of it
            self.path.unlink()
        os.close(self._file)
