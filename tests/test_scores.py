"""A score carries its error and prints as the documented JSON object."""

from __future__ import annotations

import json
import math

import pytest

from ssa_analysis.scores import JSON_FIELDS, Score, find_score


def test_json_has_the_documented_fields_and_nothing_else() -> None:
    score = Score("shift", "mmd", 0.5, arrays={"grid": [1, 2]}, settings={"seed": 3, "sizes": (1, 2)})
    written = json.loads(json.dumps(score.to_json(), allow_nan=False))
    assert tuple(written) == JSON_FIELDS
    assert written["settings"] == {"seed": 3, "sizes": [1, 2]}
    assert (written["value"], written["stderr"], written["converged"]) == (0.5, None, True)


def test_nan_and_infinity_become_null_wherever_they_stand() -> None:
    score = Score("m", "n", math.nan, low=-math.inf, settings={"a": [math.inf, 1.0], "b": {"c": math.nan}})
    written = json.loads(json.dumps(score.to_json(), allow_nan=False))
    assert written["value"] is None
    assert written["low"] is None
    assert written["settings"] == {"a": [None, 1.0], "b": {"c": None}}


def test_an_estimate_has_the_normal_interval() -> None:
    score = Score.estimate("m", "n", 10.0, 2.0, unit="nats", converged=False)
    assert (score.stderr, score.unit, score.converged) == (2.0, "nats", False)
    assert (score.low, score.high) == pytest.approx((10 - 1.96 * 2, 10 + 1.96 * 2))


def test_context_adds_and_the_score_s_own_settings_win() -> None:
    score = Score("m", "n", 1.0, settings={"k": 5, "own": 1})
    told = score.with_context("a.pt", {"seed": 0, "k": 9}, 2.5)
    assert dict(told.settings) == {"seed": 0, "k": 5, "own": 1}
    assert (told.checkpoint, told.seconds, told.value) == ("a.pt", 2.5, 1.0)
    assert score.checkpoint == ""  # the original is left as it was


def test_find_score_names_what_there_is() -> None:
    scores = [Score("m", "b", 1.0), Score("m", "a", 2.0)]
    assert find_score(scores, "a").value == 2.0
    with pytest.raises(KeyError, match="no score 'c' among a, b"):
        find_score(scores, "c")
