"""Which files paths, globs and folders stand for."""

from __future__ import annotations

from pathlib import Path

from ssa_analysis.checkpoints.folders import content_hash, weights_in
from ssa_analysis.checkpoints.reading import SUFFIXES
from ssa_analysis.errors import CheckpointError, SettingsError
from ssa_analysis.paths import expanded, resolved


def find_checkpoints(patterns: list[str]) -> list[Path]:
    """Files behind paths, globs and folders, in order and once each.

    A folder stands for ``last.pt`` in it, or for the weights of a Hugging Face model (``config.json`` lies beside them), else
    for every checkpoint file directly in it, else for ``*/last.pt``.

    Raises:
        CheckpointError: a pattern that leads to nothing.
    """
    found: dict[Path, Path] = {}  # by resolved path: one file named in two ways is one checkpoint
    for pattern in patterns:
        path = expanded(pattern)
        try:
            there = path.exists()
        except (OSError, ValueError) as error:  # a name too long, a folder above that may not be entered
            raise CheckpointError(f"{pattern}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
        if there:
            files = _checkpoints_at(path)
            if not files:
                raise CheckpointError(f"{path}: the folder holds no checkpoint ({', '.join(SUFFIXES)})")
        else:
            files = [file for match in _matches(path) for file in _checkpoints_at(match)]
            if not files:
                raise CheckpointError(f"{pattern}: no such file, folder or match")
        for file in files:
            found.setdefault(resolved(file), file)
    return list(found.values())


def one_checkpoint(setting: str, name: str) -> Path:
    """The one file behind the value of a setting; SettingsError if there are several."""
    found = find_checkpoints([name])
    if len(found) > 1:
        raise SettingsError(f"{setting}={name} stands for {len(found)} checkpoints; name one file")
    return found[0]


def pinned_hash(setting: str, name: str, known: str) -> str:
    """SHA-256 of that file; SettingsError if ``known`` is another one. What a file holds decides the numbers, so its hash
    is a setting, too."""
    sha256 = content_hash(one_checkpoint(setting, name))
    if known not in ("", sha256):
        raise SettingsError(f"{name} changed since this was planned (its hash is not {known[:12]}...)")
    return sha256


def _checkpoints_at(path: Path) -> list[Path]:
    """What one existing file or folder stands for."""
    if not path.is_dir():
        return [path]
    weights = weights_in(path)
    own = [path / "last.pt"] if (path / "last.pt").is_file() else [weights] if weights is not None else []
    files = own or sorted(p for p in path.iterdir() if p.is_file() and p.suffix in SUFFIXES)
    return files or sorted(path.glob("*/last.pt"))


def _matches(path: Path) -> list[Path]:
    """The files and folders that a glob matches, in order; none for a path without wildcards."""
    if not any(c in str(path) for c in "*?["):
        return []
    try:
        return sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
    except (ValueError, NotImplementedError, RecursionError) as error:  # Python below 3.13 refuses "**x"
        raise CheckpointError(f"{path}: not a pattern ({error})") from error
