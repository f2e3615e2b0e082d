"""Paths as users give them, and the reading of small files that somebody else may have made."""

from __future__ import annotations

import stat
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """With ``~`` for the home; a user whom there is not stays in it, and whoever opens the path says that it leads nowhere."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):
        return Path(path)


def resolved(path: Path) -> Path:
    """Without links; where they lead in a circle, the absolute path."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path.absolute()


def ordinary(path: Path) -> bool:
    """Whether there is a file of bytes: no folder, and no pipe or device, whose reading might not end."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def read_at_most(path: Path, most: int) -> bytes:
    """The content of a file; ValueError where it is longer than ``most`` bytes, OSError where it cannot be read."""
    with open(path, "rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most:,} bytes")
    return content
