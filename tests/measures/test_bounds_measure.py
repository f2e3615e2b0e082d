"""The bounds on a checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import DataError, MeasureError, SettingsError
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.scores import find_score
from ssa_analysis.theory.bounds import BoundsSettings, automatic_block, bounds
from ssa_analysis.theory.estimates import draw_positives
from ssa_analysis.theory.evidence import Evidence, Ideal, gather
from ssa_analysis.theory.rungs import class_weights, empirical_population
from ssa_analysis.theory.transport_check import check_transport

QUICK = {"bootstrap": 20, "scales": 0}


def evidence_of(encoder: Encoder, digits: Data) -> tuple[Evidence, Ideal]:
    evidence = gather(encoder, digits, BoundsSettings(), 30)
    assert evidence.ideal is not None
    return evidence, evidence.ideal


def test_rungs_hold_on_a_trained_encoder(encoder: Encoder, digits: Data) -> None:
    scores = bounds(encoder, digits, BoundsSettings(bootstrap=50, scales=0))
    for rung in ("R1", "R2", "R3", "R4", "R5", "R6", "R7", "R9"):
        score = find_score(scores, rung)
        assert score.settings["verdict"] == "holds"
        assert score.value == pytest.approx(score.settings["right"] - score.settings["left"])
        assert score.value >= 0
    assert find_score(scores, "R8").settings["verdict"] == "holds within error"
    assert find_score(scores, "R1").settings["chance"] == pytest.approx(math.log(10), abs=0.01)


def test_every_route_bounds_the_loss_of_the_mean_classifier(encoder: Encoder, digits: Data) -> None:
    scores = bounds(encoder, digits, BoundsSettings(**QUICK))
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
    evidence, ideal = evidence_of(encoder, digits)
    found = check_transport(evidence, ideal, batch=40, seed=0)
    assert found.check.slack > 0
    # one point a class, which is also its every view: both laws are that of the same points, up to their order
    centre = ideal.law.z[:1]
    one = dataclasses.replace(
        ideal, law=dataclasses.replace(ideal.law, z=centre.expand_as(ideal.law.z)),
        population=dataclasses.replace(ideal.population, z=centre.expand_as(ideal.population.z)),
    )  # fmt: skip
    same = dataclasses.replace(evidence, first=one.law.z, second=one.law.z, bank=one.population.z, ideal=one)
    equal = check_transport(same, one, batch=40, seed=0)
    assert equal.negatives == pytest.approx(0, abs=1e-6)
    assert equal.pairs == pytest.approx(0, abs=1e-6)
    assert equal.check.left == pytest.approx(0, abs=1e-6)
    assert found.floor > 0.1


def test_the_certificate_lies_above_the_held_out_loss_and_below_its_worst(encoder: Encoder, digits: Data) -> None:
    found = find_score(bounds(encoder, digits, BoundsSettings(**QUICK, block=8)), "certificate")
    about = found.settings
    assert about["n"] == len(digits.splits["held-out"]) // 8
    assert about["mean"] < found.value < about["b"]
    stricter = find_score(bounds(encoder, digits, BoundsSettings(**QUICK, block=8, delta=1e-6)), "certificate")
    assert stricter.value > found.value
    none = bounds(encoder, digits, BoundsSettings(**QUICK, block=10_000))
    assert "certificate" not in {s.name for s in none}


@pytest.mark.parametrize("settings", [{"block": 1}, {"delta": 0.0}])
def test_a_wrong_certificate_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"bounds\.block and noise_block must be at least 2"):
        BoundsSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"transport": 1}, {"bootstrap": 0}, {"negatives": -1}])
def test_wrong_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="must be at least 2"):
        BoundsSettings(**settings)


def test_the_waterfall_adds_up(encoder: Encoder, digits: Data) -> None:
    scores = bounds(encoder, digits, BoundsSettings(**QUICK))
    bound = find_score(scores, "ideal_bound")
    steps = dict(zip(bound.arrays["step"], bound.arrays["value"], strict=True))
    total = np.cumsum(list(steps.values()))
    assert total[2] == pytest.approx(bound.value)
    # at its end stands H(pi) + L_dec(practical); R8 closes the gap up to its own sampling error
    r8 = find_score(scores, "R8")
    slack = abs(r8.high - r8.low)  # type: ignore[operator]
    assert total[-1] == pytest.approx(find_score(scores, "practical_loss").value, abs=slack)


def test_sides_are_evaluated_on_disjoint_splits(encoder: Encoder, digits: Data) -> None:
    evidence, ideal = evidence_of(encoder, digits)
    assert len(ideal.law.z) == len(evidence.first) == len(digits.splits["held-out"])
    assert len(ideal.population.z) == len(evidence.bank) == len(digits.splits["probe"])
    probe_labels = digits.labels_of("probe")
    rng = torch.Generator().manual_seed(0)
    positives = draw_positives(ideal.law.y, ideal.population, rng)
    # each drawn positive is a probe image of the anchor's class
    index = torch.cdist(positives, ideal.population.z).argmin(1)
    assert (probe_labels[index] == ideal.law.y).all()
    means = torch.stack([ideal.population.z[probe_labels == c].mean(0) for c in range(10)])
    torch.testing.assert_close(ideal.population.means, means)


def test_the_chain_adds_up_and_its_shares_to_one(encoder: Encoder, digits: Data) -> None:
    scores = bounds(encoder, digits, BoundsSettings(**QUICK))
    chain = find_score(scores, "chain")
    assert sum(chain.arrays["value"]) == pytest.approx(chain.value)
    assert chain.arrays["value"][0] == pytest.approx(find_score(scores, "probe_loss").value)
    shares = [s for s in scores if s.name.startswith("share_")]
    assert sum(s.value for s in shares) == pytest.approx(1)
    assert {s.settings["route"] for s in shares} == {chain.settings["route"]}
    total = chain.value - find_score(scores, "probe_loss").value
    for score in shares:
        assert score.settings["slack"] == pytest.approx(score.value * total)
    assert chain.settings["confidence"] == 0.95


def test_plain_nt_xent_is_that_of_a_block(encoder: Encoder, digits: Data) -> None:
    """beta and K of a checkpoint trained on all negatives are those of the certificate's blocks."""
    block = automatic_block(len(digits.splits["held-out"]))
    assert block == 8  # the largest power of two up to the root of 180
    found = find_score(bounds(encoder, digits, BoundsSettings(**QUICK)), "certificate").settings
    assert (found["m"], found["negatives"], found["beta"]) == (8, 14, 14.0)
    assert found["constant"] == pytest.approx(math.log(15))
    assert [automatic_block(n) for n in (1, 15, 16, 540, 10_000)] == [2, 2, 4, 16, 64]


def test_without_labels_the_rungs_that_need_none_are_left(encoder: Encoder, digits: Data) -> None:
    bare = dataclasses.replace(digits, class_names=(), labels=torch.zeros_like(digits.labels), fingerprint="bare")
    scores = bounds(encoder, bare, BoundsSettings(bootstrap=20, scales=2, draws=4))
    assert [s.name for s in scores if "verdict" in s.settings] == ["R3", "R4", "R9", "R9_pac_bayes"]
    assert all(s.settings["skipped"] == ["R1, R2, R5, R6, R7, R8: the images have no labels"] for s in scores)
    assert {"certificate", "pac_bayes", "practical_infonce", "practical_decoupled"} <= {s.name for s in scores}
    with_labels = bounds(encoder, digits, BoundsSettings(**QUICK))
    assert find_score(with_labels, "certificate").value == pytest.approx(find_score(scores, "certificate").value)


def test_one_image_of_a_class_is_one_line(encoder: Encoder, digits: Data) -> None:
    labels = digits.labels.clone()
    index = digits.splits["probe"]
    threes = index[labels[index] == 3]
    labels[threes[1:]] = 4
    scarce = dataclasses.replace(digits, labels=labels, fingerprint="scarce")
    with pytest.raises(DataError, match="class '3' has fewer than 2 images in the probe split"):
        bounds(encoder, scarce, BoundsSettings(**QUICK))


def test_class_weights_give_each_class_its_prior() -> None:
    y = torch.tensor([0, 0, 0, 1, 2, 2])
    prior = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    weights = class_weights(y, prior)
    for c in range(3):
        assert float(weights[y == c].sum()) == pytest.approx(float(prior[c]))


def test_entropy_of_the_prior_is_the_chance_level() -> None:
    population = empirical_population(torch.eye(4), torch.tensor([0, 0, 0, 1]), 3)
    assert population.entropy == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        (lambda z: 2 * z, r"does not have unit norm on \d+ of \d+ held-out views \(norms"),
        (lambda z: z * torch.nan, r"of \d+ of \d+ held-out views hold NaN or infinity"),
    ],
)
def test_an_embedding_off_the_sphere_is_refused(
    encoder: Encoder, digits: Data, monkeypatch: pytest.MonkeyPatch, spoilt: Callable[[Tensor], Tensor], says: str
) -> None:
    embed = Encoder.embed_features
    monkeypatch.setattr(Encoder, "embed_features", lambda self, h: spoilt(embed(self, h)))
    with pytest.raises(MeasureError, match=says):
        bounds(encoder, digits, BoundsSettings(**QUICK))
