"""What scoring will take, and what is given up to keep to a budget."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.data.datasets import Data
from ssa_analysis.measures import MEASURES
from ssa_analysis.running.plan import Cell, make_cells, measure_settings
from ssa_analysis.running.score_estimate import KNOBS, SECOND, Costs, estimate_scoring, measured_costs, within_budget

COSTS = Costs(forward=1e-4, gradient=1e-3, saved=1000, weights=10_000, path="x.pt")


def cells(paths: list[Path], data: Data, measures: list[str], overrides: dict[str, dict[str, Any]] | None = None) -> list[Cell]:
    return make_cells(paths, data, measures, 0, {}, overrides or {})


def test_it_is_in_proportion_to_what_is_asked(tiny_checkpoint: Path, digits: Data) -> None:
    one = estimate_scoring(cells([tiny_checkpoint], digits, ["curvature", "downstream"]), digits, COSTS)
    two = estimate_scoring(cells([tiny_checkpoint] * 2, digits, ["curvature", "downstream"]), digits, COSTS)
    assert [(name, count) for name, count, _ in two.by_measure] == [("curvature", 2), ("downstream", 2)]
    assert two.seconds == pytest.approx(2 * one.seconds)
    more = {"curvature": {"pairs": 1024, "batch": 512}}
    large = estimate_scoring(cells([tiny_checkpoint], digits, ["curvature"], more), digits, COSTS)
    assert large.seconds == pytest.approx(4 * one.by_measure[0][2])
    assert large.memory - one.memory == SECOND * 2 * 1000 * (512 - 256)
    tight = {"curvature": {"pairs": 1024, "batch": 512, "memory": 1000 / 2**30}}
    assert one.memory - estimate_scoring(cells([tiny_checkpoint], digits, ["curvature"], tight), digits, COSTS).memory == (
        SECOND * 2 * 1000 * 256 - 1000
    ), "a measure keeps to its memory"
    fewer = {"curvature": {"trace_probes": 8}}
    assert estimate_scoring(cells([tiny_checkpoint], digits, ["curvature"], fewer), digits, COSTS).seconds < one.by_measure[0][2]
    assert estimate_scoring([], digits, COSTS).seconds == 0


def test_costs_are_measured_and_nothing_is_changed(tiny_checkpoint: Path, digits: Data) -> None:
    found = measured_costs(tiny_checkpoint, LoadOptions(), digits, "cpu")
    assert 0 < found.forward < found.gradient < 1
    assert found.saved > digits.image_size**2 * 3 * 4 / 2
    assert (found.weights > 1000, found.path) == (True, str(tiny_checkpoint))


def test_every_knob_is_a_setting_with_room_above_its_floor() -> None:
    for measure, knobs in KNOBS.items():
        known = {f.name: f.default for f in dataclasses.fields(MEASURES.get(measure).settings)}
        assert all(isinstance(known[knob.setting], int) and known[knob.setting] > knob.floor for knob in knobs), measure


def test_a_budget_that_is_enough_changes_nothing_and_a_small_one_gives_up_in_order(digits: Data) -> None:
    chosen = measure_settings(["curvature", "downstream"], 0, {}, {})
    changed, seconds = within_budget(chosen, 1, 1e6, {}, digits, COSTS)
    assert (changed, seconds > 10) == ({}, True)
    changed, less = within_budget(chosen, 1, 0.95 * seconds, {}, digits, COSTS)
    assert changed == {"curvature": {"trace_probes": 16}}
    assert less <= 0.95 * seconds
    changed, least = within_budget(chosen, 1, 0.0, {}, digits, COSTS)
    assert changed == {"curvature": {"trace_probes": 8, "density_probes": 1, "pairs": 64}}
    assert 0 < least < less
    changed, _ = within_budget(chosen, 1, 0.0, {"curvature": {"pairs": 256}}, digits, COSTS)
    assert changed == {"curvature": {"trace_probes": 8, "density_probes": 1}}, "what the user said stays"
    assert within_budget(chosen, 10, 1e6, {}, digits, COSTS)[1] == pytest.approx(10 * seconds)


def test_the_measure_that_takes_longest_gives_up_first(digits: Data) -> None:
    chosen = measure_settings(["curvature", "robustness"], 0, {}, {})
    slow_forward = dataclasses.replace(COSTS, forward=1.0)
    total = within_budget(chosen, 1, 1e9, {}, digits, slow_forward)[1]
    assert list(within_budget(chosen, 1, 0.9 * total, {}, digits, slow_forward)[0]) == ["robustness"]
