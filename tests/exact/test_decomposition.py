"""The parts of rung R8: brute force, influence values, and the coverage of the errors that follow from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssa_analysis.errors import MeasureError
from ssa_analysis.numerics import decomposition
from ssa_analysis.numerics.decomposition import Influenced, ideal_alignment, mean_of, uniformity

DRAWS = 200
# of 200 intervals at 95 %; fewer have a chance of 1e-4 at 93 %
ENOUGH = 174


def sphere(n: int, d: int, seed: int) -> Tensor:
    return normalize(torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=1)


LABELS = torch.tensor([0, 0, 0, 2, 2, 5, 7, 7, 7, 7, 7, 9, 2])


def test_ideal_pairs_are_an_image_and_another_of_its_class() -> None:
    """The class by its share among usable images, then two different images of it."""
    z = sphere(13, 4, 0)
    usable = [int(c) for c, count in enumerate(torch.bincount(LABELS)) if count >= 2]
    total = sum(int((c == LABELS).sum()) for c in usable)
    expected = 0.0
    for c in usable:
        members = z[c == LABELS]
        dots = [float(a @ b) for i, a in enumerate(members) for j, b in enumerate(members) if i != j]
        expected += len(members) / total * sum(dots) / len(dots)
    found = ideal_alignment(z, LABELS)
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert found.influence[[5, 11]].tolist() == [0, 0]


def test_images_alone_in_their_class_change_nothing() -> None:
    z = sphere(13, 4, 0)
    usable = (LABELS != 5) & (LABELS != 9)
    one, other = ideal_alignment(z, LABELS), ideal_alignment(z[usable], LABELS[usable])
    assert one.value == pytest.approx(other.value, rel=1e-12)
    assert one.stderr == pytest.approx(other.stderr, rel=0.1)


def test_ideal_pairs_need_two_images_of_a_class() -> None:
    with pytest.raises(MeasureError, match="at least two images"):
        ideal_alignment(sphere(4, 3, 0), torch.arange(4))


def brute_uniformity(z: Tensor, tau: float) -> float:
    logs = []
    for i, anchor in enumerate(z.tolist()):
        others = [
            math.exp(math.fsum(a * b for a, b in zip(anchor, w, strict=True)) / tau) for j, w in enumerate(z.tolist()) if j != i
        ]
        logs.append(math.log(math.fsum(others) / len(others)))
    return math.fsum(logs) / len(logs)


@pytest.mark.parametrize("tau", [0.05, 0.5])
@pytest.mark.parametrize("rows", [1024, 7])
def test_uniformity_is_the_double_sum(tau: float, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decomposition, "ROWS", rows)
    z = sphere(30, 4, 0)
    assert uniformity(z, tau).value == pytest.approx(brute_uniformity(z, tau), rel=1e-12)


def test_uniformity_of_a_point_is_the_similarity_over_tau() -> None:
    found = uniformity(torch.tensor([[1.0, 0.0]]).repeat(5, 1), 0.02)
    assert found.value == pytest.approx(50, rel=1e-12)
    assert found.stderr == pytest.approx(0, abs=1e-9)


def test_uniformity_needs_three_images() -> None:
    with pytest.raises(MeasureError, match="at least 3 images, got 2"):
        uniformity(sphere(2, 3, 0), 0.5)


def statistic(name: str, z: Tensor, labels: Tensor) -> Influenced:
    return ideal_alignment(z, labels) if name == "alignment" else uniformity(z, 0.3)


@pytest.mark.parametrize("rows", [1024, 7])
@pytest.mark.parametrize("name", ["alignment", "uniformity"])
def test_influence_is_what_leaving_an_image_out_changes(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To first order: ``(n - 1) (T - T_without)``."""
    monkeypatch.setattr(decomposition, "ROWS", rows)
    n = 400
    labels = torch.arange(n) % 4
    z = normalize(sphere(n, 3, 0) + sphere(4, 3, 1)[labels], dim=1)
    found = statistic(name, z, labels)
    every = torch.arange(n)
    out = np.array([found.value - statistic(name, z[every != i], labels[every != i]).value for i in range(0, n, 10)])
    np.testing.assert_allclose(found.influence[::10], (n - 1) * out, atol=0.03 * found.influence.std())


@pytest.mark.parametrize("name", ["alignment", "uniformity"])
def test_influence_values_sum_to_zero(name: str) -> None:
    z, labels = sphere(100, 3, 0), torch.arange(100) % 7
    labels[0] = 50
    found = statistic(name, z, labels)
    assert len(found.influence) == 100
    assert found.influence.sum() == pytest.approx(0, abs=1e-9)
    assert found.stderr == pytest.approx(found.influence.std(ddof=1) / 10)


def test_a_mean_has_its_standard_error() -> None:
    values = torch.tensor([1.0, 2.0, 4.0])
    found = mean_of(values)
    assert found.value == pytest.approx(7 / 3)
    assert found.stderr == pytest.approx(float(values.std()) / math.sqrt(3))
    assert found.influence.sum() == pytest.approx(0, abs=1e-12)


def test_sums_and_differences_are_those_of_the_same_images() -> None:
    x, y = sphere(50, 2, 0)[:, 0], sphere(50, 2, 1)[:, 0]
    a, b = mean_of(x), mean_of(y)
    for found, direct in ((a + b, mean_of(x + y)), (a - b, mean_of(x - y)), (a / 0.5, mean_of(2 * x))):
        assert found.value == pytest.approx(direct.value, abs=1e-14)
        assert found.stderr == pytest.approx(direct.stderr, rel=1e-12)
    assert (a - a).stderr == 0


class World:
    """Images are one of 30 points in 5 classes, and a view is another point: every expectation is a finite sum."""

    tau = 0.3

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.share = rng.dirichlet(np.full(30, 3.0))
        self.label = torch.arange(30) % 5
        self.points = normalize(sphere(30, 4, 0) + sphere(5, 4, 1)[self.label], dim=1)
        self.viewed = normalize(self.points + 0.4 * sphere(30, 4, 2), dim=1)
        self.also_viewed = normalize(self.points + 0.4 * sphere(30, 4, 3), dim=1)
        p = torch.from_numpy(self.share)
        of_class = [float((p[self.label == c][:, None] * self.points[self.label == c]).sum(0).square().sum()
                          / p[self.label == c].sum()) for c in range(5)]  # fmt: skip
        practical = float(p @ (self.viewed * self.also_viewed).sum(1))
        alignment = practical - sum(of_class)
        clean, views = (float(p @ ((x @ x.T / self.tau).exp() @ p).log()) for x in (self.points, self.viewed))
        self.truth = {
            "ideal": sum(of_class), "uniformity": clean, "alignment gap": alignment, "uniformity gap": clean - views,
            "loss gap": alignment / self.tau + clean - views,
        }  # fmt: skip

    def draw(self, n: int, seed: int) -> dict[str, Influenced]:
        chosen = torch.from_numpy(np.random.default_rng(seed).choice(30, size=n, p=self.share))
        clean, one, other = self.points[chosen], self.viewed[chosen], self.also_viewed[chosen]
        ideal, uniform = ideal_alignment(clean, self.label[chosen]), uniformity(clean, self.tau)
        alignment = mean_of((one * other).sum(1)) - ideal
        gap = uniform - uniformity(one, self.tau)
        return {
            "ideal": ideal, "uniformity": uniform, "alignment gap": alignment, "uniformity gap": gap,
            "loss gap": alignment / self.tau + gap,
        }  # fmt: skip


def test_the_errors_cover_in_a_finite_world() -> None:
    world = World()
    draws = [world.draw(150, seed) for seed in range(DRAWS)]
    inside = {}
    for name, truth in world.truth.items():
        values, errors = (np.array([getattr(d[name], part) for d in draws]) for part in ("value", "stderr"))
        inside[name] = int((np.abs(values - truth) <= 1.96 * errors).sum())
        assert errors.mean() == pytest.approx(values.std(), rel=0.15), name
    assert all(count >= ENOUGH for count in inside.values()), inside


def test_ideal_alignment_has_no_bias_in_small_classes() -> None:
    """About two images a class: with an image's similarity to itself the mean would be far off."""
    z, centres = sphere(20 * DRAWS, 3, 0), sphere(10, 3, 1)
    found = []
    for images in z.split(20):
        labels = torch.arange(10).repeat(2)
        found.append(ideal_alignment(images + centres[labels], labels).value)
    assert np.mean(found) == pytest.approx(1, abs=3.5 * np.std(found) / math.sqrt(DRAWS))
