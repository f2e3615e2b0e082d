"""What scoring will take: in proportion to what is asked, and nothing is changed by asking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssa_analysis.data.datasets import Data
from ssa_analysis.running.plan import Cell, make_cells
from ssa_analysis.running.score_estimate import estimate_scoring


def cells(paths: list[Path], data: Data, measures: list[str], overrides: dict[str, dict[str, Any]] | None = None) -> list[Cell]:
    return make_cells(paths, data, measures, 0, {}, overrides or {})


def test_more_checkpoints_and_more_pairs_take_longer(tiny_checkpoint: Path, digits: Data) -> None:
    one = estimate_scoring(cells([tiny_checkpoint], digits, ["curvature", "downstream"]), digits, "cpu")
    two = estimate_scoring(cells([tiny_checkpoint] * 2, digits, ["curvature", "downstream"]), digits, "cpu")
    more = {"curvature": {"pairs": 4096, "batch": 4096}}
    large = estimate_scoring(cells([tiny_checkpoint], digits, ["curvature"], more), digits, "cpu")
    assert one is not None
    assert two is not None
    assert large is not None
    assert [(name, count) for name, count, _ in two.by_measure] == [("curvature", 2), ("downstream", 2)]
    assert two.seconds > 1.2 * one.seconds
    assert large.seconds > 4 * one.by_measure[0][2]
    assert large.memory > one.memory
    assert one.checkpoint == str(tiny_checkpoint)


def test_nothing_to_do_has_no_estimate(digits: Data) -> None:
    assert estimate_scoring([], digits, "cpu") is None
