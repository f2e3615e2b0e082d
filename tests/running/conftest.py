"""Cells and results without any model behind them, and a way to lose root's powers for a moment."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssa_analysis.running.plan import Cell, CellResult
from ssa_analysis.scores import Score


def make_cell(path: str = "runs/a/last.pt", sha256: str = "aa" * 32, measure: str = "toy", **changes: Any) -> Cell:
    """A cell; ``settings`` and the other fields may be changed by name."""
    rest = {
        "settings": {"seed": 3, "tau": None, "radius": 0.1},
        "data_name": "digits",
        "data_fingerprint": "0123456789abcdef",
        "code_version": "0.1.0/1",
    }
    return Cell(path, sha256, measure, **{**rest, **changes})


def make_result(cell: Cell, *values: float, **rest: Any) -> CellResult:
    """A good result with one score a value, called ``s0``, ``s1``, ..."""
    scores = [Score(cell.measure, f"s{i}", value, checkpoint=cell.path) for i, value in enumerate(values)]
    return CellResult(cell, scores, **{"seconds": 1.5, **rest})


@pytest.fixture(name="cell")
def _cell() -> Callable[..., Cell]:
    return make_cell


@pytest.fixture(name="result")
def _result() -> Callable[..., CellResult]:
    return make_result


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that other users may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
