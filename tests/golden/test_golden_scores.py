"""The golden run is what it was: scores within a share of their stated errors, training within a share of its loss."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from golden import (
    CURVE,
    ERROR_SHARE,
    FOLDER,
    METHODS,
    ROWS,
    SETTINGS,
    differences,
    expected,
    golden_data,
    scores_of,
    train_golden,
)

from ssa_analysis.data.datasets import Data
from ssa_analysis.measures import MEASURES


@pytest.fixture(scope="module")
def golden() -> Data:
    return golden_data()


def test_the_images_are_those_of_the_golden_run(golden: Data) -> None:
    assert golden.fingerprint == expected()["data"]


def test_every_measure_is_in_the_golden_run() -> None:
    ours = {name for name, row in MEASURES if row.function.__module__.startswith("ssa_analysis.")}
    assert {name for name, _ in SETTINGS.values()} == ours


@pytest.mark.parametrize(("method", "row"), ROWS)
def test_scores_are_what_they_were(method: str, row: str, golden: Data) -> None:
    lines = differences(expected()["scores"][method][row], scores_of(method, row, golden))
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize("method", METHODS)
def test_training_goes_as_it_did(method: str, golden: Data, tmp_path: Path) -> None:
    _, losses = train_golden(method, golden, tmp_path / method)
    assert losses == pytest.approx(expected()["training"][method], rel=CURVE)
    assert losses[0] - losses[-1] > 0.05  # or a training that does nothing would pass


def test_a_score_that_moves_by_its_error_is_seen() -> None:
    """Each score of the golden run, one at a time: by one standard error, or half of its interval, or a thousandth."""
    before = {m: s for measures in expected()["scores"].values() for row, found in measures.items() for m, s in found.items()}
    assert len(before) > 100
    for name, score in before.items():
        error = score["stderr"] or 0.0
        if score["stderr"] is None and score["low"] is not None and score["high"] is not None:
            error = (score["high"] - score["low"]) / 2
        moved = copy.deepcopy(before)
        moved[name]["value"] += max(error, 1e-3 * abs(score["value"]), 1e-6)
        assert [line.split(":")[0] for line in differences(before, moved)] == [name]


def test_what_is_gone_new_or_no_longer_converged_is_seen() -> None:
    score = {"value": 1.0, "stderr": 0.1, "low": 0.8, "high": 1.2, "unit": "nats", "converged": True}
    assert not differences({"a": score}, {"a": {**score, "value": 1.0 + 0.99 * ERROR_SHARE * 0.1}})
    assert differences({"a": score}, {"b": score}) == ["a is gone", "b is new"]
    assert differences({"a": score}, {"a": {**score, "converged": False}}) == ["a: converged False, was True"]
    assert differences({"a": score}, {"a": {**score, "unit": "cosine"}}) == ["a: unit 'cosine', was 'nats'"]
    (line,) = differences({"a": score}, {"a": {**score, "stderr": None}})
    assert "inf times" in line


def test_the_checkpoints_are_small() -> None:
    assert sum((FOLDER / f"{method}.pt").stat().st_size for method in METHODS) < 60_000
