"""The bounds on a checkpoint."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.score import find_score
from ssa_analysis.theory.bounds import BoundsSettings, bounds, check_transport, gather
from ssa_analysis.theory.rungs import class_weights, empirical_population


def test_rungs_hold_on_a_trained_encoder(encoder: Encoder, digits: Data) -> None:
    scores = bounds(encoder, digits, BoundsSettings(bootstrap=50))
    for rung in ("R1", "R2", "R3", "R4", "R5", "R6", "R7"):
        score = find_score(scores, rung)
        assert score.settings["verdict"] == "holds"
        assert score.value == pytest.approx(score.settings["right"] - score.settings["left"])
        assert score.value >= 0
    assert find_score(scores, "R8").settings["verdict"] == "holds within error"
    assert find_score(scores, "R1").settings["chance"] == pytest.approx(math.log(10), abs=0.01)


def test_every_route_bounds_the_loss_of_the_mean_classifier(encoder: Encoder, digits: Data) -> None:
    scores = bounds(encoder, digits, BoundsSettings(bootstrap=20))
    loss = find_score(scores, "mean_classifier_loss").value
    ways = {name: find_score(scores, f"route_{name}").value for name in ("R5", "R6", "R7", "R8")}
    for name in ("R5", "R6", "R7"):
        assert ways[name] >= loss
    assert ways["R8"] == pytest.approx(find_score(scores, "ideal_bound").value, abs=0.1)  # equal up to one drawn positive
    tightest = find_score(scores, "tightest_route")
    assert tightest.settings["route"] == "R6"
    assert tightest.value == min(ways[name] for name in ("R5", "R6", "R7"))
    assert find_score(scores, "route_R5").settings["vacuous"]
    assert find_score(scores, "R5").settings["sampling_floor"] < find_score(scores, "R5").settings["pairs"]


def test_the_transport_rung_is_a_theorem_for_every_batch(encoder: Encoder, digits: Data) -> None:
    """Equal laws, too: there the left side is nearly nothing and the right side is the floor."""
    evidence = gather(encoder, digits, BoundsSettings())
    found = check_transport(evidence, batch=40, seed=0)
    assert found.check.slack > 0
    same = dataclasses.replace(evidence, first=evidence.law.z, second=evidence.positives, view_population=evidence.population)
    equal = check_transport(same, batch=40, seed=0)
    assert equal.negatives == pytest.approx(0, abs=1e-6)
    assert equal.pairs == pytest.approx(0, abs=1e-6)
    assert equal.check.left == pytest.approx(0, abs=1e-6)
    assert equal.floor > 0.1


def test_the_certificate_lies_above_the_held_out_loss_and_below_its_worst(encoder: Encoder, digits: Data) -> None:
    found = find_score(bounds(encoder, digits, BoundsSettings(bootstrap=20, block=8)), "certificate")
    about = found.settings
    assert about["n"] == len(digits.splits["held-out"]) // 8
    assert about["mean"] < found.value < about["b"]
    stricter = find_score(bounds(encoder, digits, BoundsSettings(bootstrap=20, block=8, delta=1e-6)), "certificate")
    assert stricter.value > found.value
    none = bounds(encoder, digits, BoundsSettings(bootstrap=20, block=10_000))
    assert "certificate" not in {s.name for s in none}


@pytest.mark.parametrize("settings", [{"block": 1}, {"delta": 0.0}])
def test_a_wrong_certificate_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"bounds\.block must be at least 2"):
        BoundsSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"transport": 1}, {"bootstrap": 0}, {"negatives": -1}])
def test_wrong_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="must be at least 2"):
        BoundsSettings(**settings)


def test_the_waterfall_adds_up(encoder: Encoder, digits: Data) -> None:
    scores = bounds(encoder, digits, BoundsSettings(bootstrap=20))
    bound = find_score(scores, "ideal_bound")
    steps = dict(zip(bound.arrays["step"], bound.arrays["value"], strict=True))
    total = np.cumsum(list(steps.values()))
    assert total[2] == pytest.approx(bound.value)
    # at its end stands H(pi) + L_dec(practical); R8 closes the gap up to its own sampling error
    r8 = find_score(scores, "R8")
    slack = abs(r8.high - r8.low)  # type: ignore[operator]
    assert total[-1] == pytest.approx(find_score(scores, "practical_loss").value, abs=slack)


def test_sides_are_evaluated_on_disjoint_splits(encoder: Encoder, digits: Data) -> None:
    evidence = gather(encoder, digits, BoundsSettings())
    assert len(evidence.law.z) == len(digits.splits["held-out"])
    assert len(evidence.population.z) == len(digits.splits["probe"])
    probe_labels = digits.labels_of("probe")
    # each drawn positive is a probe image of the anchor's class
    index = torch.cdist(evidence.positives, evidence.population.z).argmin(1)
    assert (probe_labels[index] == evidence.law.y).all()
    means = torch.stack([evidence.population.z[probe_labels == c].mean(0) for c in range(10)])
    torch.testing.assert_close(evidence.population.means, means)


def test_class_weights_give_each_class_its_prior() -> None:
    y = torch.tensor([0, 0, 0, 1, 2, 2])
    prior = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    weights = class_weights(y, prior)
    for c in range(3):
        assert float(weights[y == c].sum()) == pytest.approx(float(prior[c]))


def test_entropy_of_the_prior_is_the_chance_level() -> None:
    population = empirical_population(torch.eye(4), torch.tensor([0, 0, 0, 1]), 3)
    assert population.entropy == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))


def test_an_embedding_off_the_sphere_is_refused(encoder: Encoder, digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "embed_features", lambda self, h: 2 * h)
    with pytest.raises(MeasureError, match="unit vectors"):
        bounds(encoder, digits, BoundsSettings(bootstrap=5))
