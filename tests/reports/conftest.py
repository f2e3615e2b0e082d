"""Tables and stores of scores by hand, as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scores_by_hand import cell_of, fill, names_of, scores_of, table_of, write_report_of_all

from ssa_analysis.running.plan import CellResult
from ssa_analysis.running.store import Store
from ssa_analysis.scores import Score


@pytest.fixture
def frame() -> pd.DataFrame:
    """Eight checkpoints with all scores."""
    return table_of({name: (method, scores_of(i)) for i, (name, method) in enumerate(names_of().items())})


@pytest.fixture
def empty() -> pd.DataFrame:
    """No scores, with the right columns and types."""
    return table_of({"a": ("simclr", [Score("downstream", "probe_accuracy", 0.5)])})[:0]


@pytest.fixture
def make_table() -> Callable[..., pd.DataFrame]:
    """``make_table("measure.name", {checkpoint: value or (value, low, high)})`` for one score, of method ``simclr``."""

    def make(**scores: dict[str, Any]) -> pd.DataFrame:
        checkpoints: dict[str, tuple[str, list[Score]]] = {}
        for key, values in scores.items():
            measure, name = key.split("__")
            for checkpoint, value in values.items():
                numbers = value if isinstance(value, tuple) else (value, None, None)
                score = Score(measure, name, numbers[0], low=numbers[1], high=numbers[2])
                checkpoints.setdefault(checkpoint, ("simclr", []))[1].append(score)
        return table_of(checkpoints)

    return make


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    with Store(tmp_path / "scores.db") as store:
        yield store


@pytest.fixture
def fill_store() -> Callable[..., None]:
    return fill


@pytest.fixture
def fail_store() -> Callable[[Store, str, str, str], None]:
    def fail(store: Store, name: str, measure: str, error: str) -> None:
        store.write(CellResult(cell_of(name, measure), error=error))

    return fail


@pytest.fixture
def scores_for() -> Callable[[int], list[Score]]:
    return scores_of


@pytest.fixture(scope="session")
def report_of_all() -> Callable[[Path], Path]:
    """``report_of_all(folder)``: the page of a store with all scores of eight checkpoints."""
    return write_report_of_all
