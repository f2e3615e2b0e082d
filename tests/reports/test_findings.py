"""The sentences of the findings, on tables whose answer is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from ssa_analysis.reports.findings import findings, method_means, method_table

Table = Callable[..., pd.DataFrame]
ACCURACY = "downstream__probe_accuracy"


def test_nothing_to_say_of_nothing(empty: pd.DataFrame) -> None:
    assert findings(empty) == []


def test_nine_sentences_at_most(frame: pd.DataFrame) -> None:
    said = findings(frame)
    assert [sentence.split(":")[0].split("?")[0] for sentence in said] == [
        "Best downstream",
        "Flattest",
        "Least shifted",
        "Most robust",
        "Does the Fourier augmentation relieve the shift",
        "Lower sharpness goes with higher downstream accuracy at equal training loss",
        "A smaller ideal-practical shift goes with higher downstream accuracy",
        "What the methods do",
        "Bounds on 8 checkpoints",
    ]
    assert said[2].startswith("Least shifted: ssa-clr-s1")


def test_a_clear_winner(make_table: Table) -> None:
    table = make_table(**{ACCURACY: {"a": (0.7, 0.69, 0.71), "b": (0.9, 0.89, 0.91)}})
    assert findings(table)[0] == "Best downstream: b (probe accuracy 0.9 [0.89, 0.91])."


def test_a_tie_is_named(make_table: Table) -> None:
    table = make_table(**{ACCURACY: {"a": (0.89, 0.86, 0.92), "b": (0.9, 0.87, 0.93), "c": (0.5, 0.4, 0.6)}})
    assert findings(table)[0] == "Best downstream: b (probe accuracy 0.9 [0.87, 0.93]); not separable from a (0.89)."


def test_low_is_good_for_sharpness(make_table: Table) -> None:
    table = make_table(curvature__lambda_max={"a": (3.0, 2.9, 3.1), "b": (2.0, 1.9, 2.1), "c": (2.15, 2.05, 2.25)})
    assert findings(table) == [
        "Flattest: b (largest eigenvalue (nats) 2 [1.9, 2.1]); not separable from c (2.15).",
        "Do the scores predict accuracy? Not decided: downstream accuracy was not measured.",
    ]


def test_a_wide_interval_behind_the_runner_up_is_not_overlooked(make_table: Table) -> None:
    table = make_table(
        curvature__lambda_max={"a": (1.0, 0.9, 1.1), "b": (2.0, 1.9, 2.1), "c": (3.0, 0.5, 5.5), "d": (4.0, 1.0, 7.0)}
    )
    assert findings(table)[0].endswith("; not separable from c (3) and 1 more.")


def test_without_intervals_nothing_is_said_of_ties(make_table: Table) -> None:
    assert findings(make_table(**{ACCURACY: {"a": 0.7, "b": 0.7001}}))[0] == "Best downstream: b (probe accuracy 0.7)."


def test_scores_that_are_not_finite_do_not_win(make_table: Table) -> None:
    table = make_table(curvature__lambda_max={"a": np.nan, "b": 2.0, "c": -np.inf})
    assert findings(table)[0].startswith("Flattest: b ")


def test_fewer_than_four_checkpoints_are_too_few_to_correlate(make_table: Table) -> None:
    table = make_table(**{ACCURACY: {"a": 0.7, "b": 0.8, "c": 0.9}, "curvature__lambda_max": {"a": 3.0, "b": 2.0, "c": 1.0}})
    (sentence,) = [s for s in findings(table) if s.startswith("Do the scores predict")]
    assert "Not decided: 3 checkpoints have downstream.probe_accuracy; correlations need at least 4" in sentence


ACCURACIES = {name: 0.5 + 0.03 * i for i, name in enumerate("abcdefghij")}


def claim(table: pd.DataFrame, opening: str) -> str:
    (sentence,) = [s for s in findings(table) if s.startswith(opening)]
    return sentence


SHARPNESS = "Lower sharpness goes with higher downstream accuracy at equal training loss"
SHIFT = "A smaller ideal-practical shift goes with higher downstream accuracy"


def test_falling_sharpness_supports_the_theory(make_table: Table) -> None:
    table = make_table(**{ACCURACY: ACCURACIES, "curvature__lambda_max": {k: 10 - i for i, k in enumerate(ACCURACIES)}})
    assert claim(table, SHARPNESS) == (
        f"{SHARPNESS}: SUPPORTED. Spearman correlation, over 10 configurations: largest eigenvalue (nats) -1 [-1, -1] "
        "(least p after Holm's correction 0.0002)."
    )


def test_rising_sharpness_contradicts_the_theory(make_table: Table) -> None:
    table = make_table(**{ACCURACY: ACCURACIES, "curvature__lambda_max": {k: 1 + i for i, k in enumerate(ACCURACIES)}})
    assert claim(table, SHARPNESS).startswith(f"{SHARPNESS}: CONTRADICTED. ")
    assert "largest eigenvalue (nats) +1 [+1, +1]" in claim(table, SHARPNESS)


def test_values_without_order_decide_nothing(make_table: Table) -> None:
    values = dict(zip(ACCURACIES, [3.0, 9.0, 1.0, 7.0, 2.0, 8.0, 4.0, 10.0, 5.0, 6.0], strict=True))
    assert claim(make_table(**{ACCURACY: ACCURACIES, "shift__gaussian_w2": values}), SHIFT).startswith(f"{SHIFT}: UNDECIDED. ")


def test_the_claims_on_methods_are_judged(frame: pd.DataFrame) -> None:
    """The fixture's methods are ordered: each better, flatter and less shifted than the one before, alike at both rates."""
    said = claim(frame, "What the methods do: The Fourier augmentation reduces the shift")
    assert said.count("SUPPORTED") + said.count("UNDECIDED") + said.count("CONTRADICTED") == 4
    assert said.endswith(".")
    assert "SSA-CLR has the best downstream accuracy: SUPPORTED" in said


def test_an_accuracy_that_does_not_vary_decides_nothing(make_table: Table) -> None:
    table = make_table(
        **{ACCURACY: dict.fromkeys("abcdef", 0.9), "curvature__lambda_max": {k: float(i) for i, k in enumerate("abcdef")}}
    )
    said = " ".join(findings(table))
    assert "nan" not in said
    assert "theory" not in said


def test_a_violated_rung_is_named(frame: pd.DataFrame) -> None:
    hit = (frame["name"] == "R6") & (frame["checkpoint"] == "ssa-clr-s1")
    frame.loc[hit, "settings"] = [{**s, "verdict": "violated"} for s in frame.loc[hit, "settings"]]
    assert findings(frame)[-1] == (
        "Bounds on 8 checkpoints: 71 holds, 1 violated (R6 on ssa-clr-s1); R2 lies below the chance level on 8 of 8, the "
        "chain to its certificate on 0 of 8."
    )


def test_vacuous_bounds_are_counted(frame: pd.DataFrame) -> None:
    for settings in frame.loc[frame["name"] == "ideal_bound", "settings"].head(3):
        settings["vacuous"] = True
    for settings in frame.loc[frame["name"] == "chain", "settings"].tail(2):
        settings["vacuous"] = False
    one = frame[frame["checkpoint"] == frame["checkpoint"].iloc[0]]
    assert findings(frame)[-1].endswith("R2 lies below the chance level on 5 of 8, the chain to its certificate on 2 of 8.")
    assert findings(one)[-1] == (
        "Bounds on 1 checkpoint: 9 holds; R2 lies below the chance level on 0 of 1, the chain to its certificate on 0 of 1."
    )
    without = frame[frame["name"] != "chain"]
    assert findings(without)[-1].endswith("R2 lies below the chance level on 5 of 8.")


def test_means_of_methods(frame: pd.DataFrame) -> None:
    means = method_means(frame, "downstream.probe_accuracy")
    assert list(means) == ["simclr", "simclr-sam", "simclr-fourier", "ssa-clr"]
    assert means["simclr"] == (pytest.approx((0.70 + 0.78) / 2), 2)
    table = method_table(frame, ("downstream.probe_accuracy", "curvature.lambda_max"))
    assert table.loc["SSA-CLR", "largest eigenvalue (nats)"] == pytest.approx((6.5 + 4.5) / 2)


def test_the_adviser_s_answer_is_told(make_table: Table, frame: pd.DataFrame) -> None:
    (sentence,) = [s for s in findings(frame) if s.startswith("Does the Fourier augmentation")]
    assert sentence.startswith("Does the Fourier augmentation relieve the shift? simclr-s0: yes, it does; ")
    assert sentence.endswith(" and 5 more.")
    assert not [s for s in findings(make_table(**{ACCURACY: {"a": 0.7}})) if "Fourier" in s]
