"""Conditions of --fail-if: what they say, and of which scores they hold."""

from __future__ import annotations

import math

import pytest

from ssa_analysis.errors import SettingsError
from ssa_analysis.running.conditions import parse_condition, that_hold
from ssa_analysis.scores import Score


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("lambda_max > 50", 50.0, False), ("lambda_max > 50", 50.1, True), ("lambda_max>=50", 50.0, True),
        ("lambda_max < -1e-3", 0.0, False), (" lambda_max<1e3 ", 0.0, True), ("curvature.lambda_max <= 2", 2.0, True),
        ("lambda_max < 1", math.nan, True), ("lambda_max > 1", -math.inf, True),
    ],
)  # fmt: skip
def test_a_condition_holds(text: str, value: float, holds: bool) -> None:
    score = Score("curvature", "lambda_max", value)
    assert bool(that_hold([parse_condition(text)], [score, Score("shift", "mmd2", 0.0)])) == holds


@pytest.mark.parametrize("text", ["lambda_max", "lambda_max = 3", "lambda_max > x", "lambda_max > nan", "> 3", "a.b.c > 3", ""])
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(SettingsError, match="write it as NAME > NUMBER"):
        parse_condition(text)


def test_a_condition_about_no_score_would_never_fail_and_is_an_error() -> None:
    scores = [Score("curvature", "lambda_max", 1.0)]
    with pytest.raises(SettingsError, match=r"'lamda_max'; did you mean lambda_max"):
        that_hold([parse_condition("lamda_max > 3")], scores)
    with pytest.raises(SettingsError, match=r"did you mean curvature\.lambda_max"):
        that_hold([parse_condition("flatness.lambda_max > 3")], scores)
    assert that_hold([parse_condition("lambda_max > 3")], []) == []
    assert that_hold([parse_condition("lamda_max > 3")], scores, complete=False) == []
