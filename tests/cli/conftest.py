"""The command line in this process: what it prints, how it ends, and a few tiny checkpoints to run it on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ssa_analysis.reports.html  # noqa: F401 (matplotlib looks for its folders now, not while a test plays another user)
import torch
from command_line import METHODS, Ended, run_cli

from ssa_analysis.checkpoints.writing import save_checkpoint

DATA = ("--data", "digits", "--subset", "300")


@pytest.fixture(scope="session", name="cli")
def _cli() -> Callable[..., Ended]:
    return run_cli


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in a folder of its own, so that default names lead nowhere else."""
    monkeypatch.chdir(tmp_path)


@dataclass(frozen=True)
class Trained:
    """Four tiny runs and how their training ended."""

    folder: Path
    ended: dict[str, Ended]

    @property
    def paths(self) -> list[Path]:
        return [self.folder / method / "last.pt" for method in METHODS]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One run of each method, trained by the command line."""
    folder = tmp_path_factory.mktemp("trained")
    tiny = ("--arch", "convnet", "--width", 4, "--projector", "16,8", "--epochs", 2, "--batch", 64, "--warmup", 0)
    ended = {m: run_cli("train", "--method", m, *DATA, *tiny, "--lr", 0.1, "--out", folder / m) for m in METHODS}
    return Trained(folder, ended)


@dataclass(frozen=True)
class Scored:
    store: Path
    ended: Ended


@pytest.fixture(scope="session")
def scored(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """The four runs, scored by two cheap measures; do not write into this store, see ``store``."""
    path = tmp_path_factory.mktemp("scored") / "scores.db"
    ended = run_cli("score", *trained.paths, *DATA, "--measures", "downstream,representation", "--store", path, "--json")
    return Scored(path, ended)


@pytest.fixture
def store(scored: Scored, tmp_path: Path) -> Path:
    """A copy of the scored store, free to be written."""
    return Path(shutil.copy(scored.store, tmp_path / "copied.db"))


@pytest.fixture
def good(trained: Trained) -> Path:
    """A checkpoint with nothing wrong."""
    return trained.paths[0]


@pytest.fixture
def payload(good: Path) -> dict[str, Any]:
    """What a good checkpoint holds; tests damage it and save it again."""
    content: dict[str, Any] = torch.load(good, weights_only=True)
    return content


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, content: dict[str, Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, content)
        return path

    return write


@pytest.fixture
def open_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder that other users may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with monkeypatch.context() as patched:
            patched.chdir(folder)
            yield folder
        folder.chmod(0o755)
