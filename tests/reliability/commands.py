"""What the trials run again and again, and how they look at what it leaves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from forked import content_of, difference, run

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.running.store import Store
from ssa_analysis.training.logs import whole_rows

TRAIN = ["train", "--data", "digits", "--subset", "600", "--arch", "convnet", "--width", "4", "--projector", "16,8", "--batch",
         "64", "--lr", "0.1", "--warmup", "0", "--knn-every", "0"]  # fmt: skip
SCORE = ["score", "a", "b", "--data", "digits", "--subset", "300", "--measures", "representation,downstream,flatness,shift"]


def two_checkpoints(folder: Path) -> None:
    """``a`` and ``b``, trained."""
    for name, seed in (("a", "0"), ("b", "1")):
        ended = run([*TRAIN, "--epochs", "1", "--seed", seed, "--out", name], folder)
        assert ended.code == 0, ended.said


def scored_whole(folder: Path) -> float:
    """Two checkpoints, and ``whole.db``, the store of an unbroken run; the seconds that it took."""
    two_checkpoints(folder)
    ended = run([*SCORE, "--store", "whole.db"], folder)
    assert ended.code == 0, ended.said
    return ended.seconds


def unlike_whole(store: Path) -> str:
    """How a store differs from the unbroken run's beside it; empty where they are equal to the bit."""
    return difference(content_of(store), content_of(store.with_name("whole.db")))


def computed(said: str) -> int:
    """How many cells a command says that it has computed."""
    return int(match[1]) if (match := re.search(r"(\d+) cells computed", said)) else 0


def opens(store: Path) -> str:
    """What is wrong with a store that may not be there yet."""
    if not store.exists():
        return ""
    try:
        Store(store).close()
        content = content_of(store)
    except Exception as error:
        return f"the store does not open: {error}"
    cells = [repr(row[1:7]) for row in content["cells"]]  # checkpoint, measure, settings, data, whatever their keys are
    return "a cell is there twice" if len(set(cells)) < len(cells) else ""


def loads(path: Path) -> str:
    """What is wrong with a checkpoint that may not be there yet."""
    if not path.exists():
        return ""
    try:
        load_checkpoint(path)
    except Exception as error:
        return f"{path.name} does not load: {error}"
    return ""


def same_file(found: Path, wanted: Path) -> str:
    """Whether two checkpoints are the same bytes, or at least where they differ."""
    if not found.is_file():
        return f"{found.name} is missing"
    if found.read_bytes() == wanted.read_bytes():
        return ""
    ours, theirs = (torch.load(path, weights_only=True) for path in (found, wanted))
    return (
        f"{found.name} differs: {', '.join(key for key in theirs if repr(ours.get(key)) != repr(theirs[key])) or 'in its bytes'}"
    )


def same_rows(found: Path, wanted: Path, columns: tuple[str, ...]) -> str:
    """Whether two logs have the same rows but for the time that they took."""

    def rows(path: Path) -> list[Any]:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in whole_rows(path, columns)]

    return "" if rows(found) == rows(wanted) and rows(found) else f"{found.name} has other rows"
