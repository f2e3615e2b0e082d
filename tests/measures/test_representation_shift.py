"""Representation, shift and robustness on representations whose values are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ssa_analysis.data.datasets import Data
from ssa_analysis.measures.downstream import DownstreamSettings, downstream
from ssa_analysis.measures.representation import effective_rank, uniformity
from ssa_analysis.measures.robustness import RobustnessSettings, robustness
from ssa_analysis.measures.shift import ShiftSettings, pair_samples, shift
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.score import find_score


def unit(n: int, d: int, seed: int) -> Tensor:
    return normalize(torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_effective_rank_of_known_matrices() -> None:
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.outer(torch.arange(1.0, 6), torch.ones(3))) == pytest.approx(1, abs=1e-5)
    singular = np.array([3.0, 1.0])
    share = singular / singular.sum()
    assert effective_rank(torch.diag(torch.tensor(singular))) == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    tall = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    assert effective_rank(tall) == pytest.approx(effective_rank(tall.T), rel=1e-6)


def test_uniformity_is_the_mean_over_distinct_pairs_and_its_error_covers() -> None:
    z = unit(12, 3, 0)
    pairs = [(-2 * (z[i] - z[j]).square().sum()).exp() for i in range(12) for j in range(12) if i != j]
    assert uniformity(z)[0] == pytest.approx(float(torch.stack(pairs).mean().log()))
    values = np.array([uniformity(unit(80, 3, seed)) for seed in range(100)])
    truth = uniformity(unit(3000, 3, 999))[0]
    assert (np.abs(values[:, 0] - truth) <= 1.96 * values[:, 1]).mean() >= 0.85


class Oracle(nn.Module):
    """Features that are a one-hot code of the class, read off a pixel that the data carry; a perfect extractor."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        label = (x[:, 0, 0, 0] * 255).round().long().clamp(0, self.classes - 1)
        return torch.nn.functional.one_hot(label, self.classes).float()


@pytest.fixture
def coded(digits: Data) -> Data:
    images = digits.images.clone()
    images[:, :, 0, 0] = digits.labels[:, None].to(torch.uint8)
    return dataclasses.replace(digits, images=images, recipe="none", mean=(0.0,) * 3, std=(1.0,) * 3, fingerprint="coded")


@pytest.fixture
def oracle() -> Encoder:
    return Encoder(Oracle(10), nn.Identity(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).eval()


def test_a_perfect_extractor_is_perfect_downstream(oracle: Encoder, coded: Data) -> None:
    scores = downstream(oracle, coded, DownstreamSettings(neighbours=20))
    for name in ("probe_accuracy", "knn_accuracy", "knn10_accuracy"):
        score = find_score(scores, name)
        assert score.value == 1
        assert score.high == 1
        assert score.low is not None
        assert 0.97 < score.low < 1


def test_a_random_label_gives_chance(oracle: Encoder, coded: Data) -> None:
    rng = torch.Generator().manual_seed(0)
    shuffled = dataclasses.replace(
        coded, labels=coded.labels[torch.randperm(len(coded.labels), generator=rng)], fingerprint="shuffled"
    )
    score = find_score(downstream(oracle, shuffled, DownstreamSettings()), "probe_accuracy")
    assert score.value == pytest.approx(0.1, abs=0.09)


def test_a_perfect_extractor_with_identical_views_has_no_alignment_gap(oracle: Encoder, coded: Data) -> None:
    scores = shift(oracle, coded, ShiftSettings(permutations=50, bootstrap=5))
    assert find_score(scores, "alignment_gap").value == pytest.approx(0, abs=1e-6)
    # both laws are the same law on classes: z = z+ = one-hot, so the differences coincide at zero
    for name in ("marginal", "joint"):
        assert find_score(scores, f"mmd2_{name}").settings["p_value"] > 0.01
    assert find_score(scores, "mmd2_difference").value == 0
    assert find_score(scores, "mmd2_difference").settings["p_value"] == 1


def test_ideal_and_practical_samples_share_no_image(encoder: Encoder, digits: Data) -> None:
    """Recover the images behind each sample by their embeddings: views are clean with the recipe 'none'."""
    samples = pair_samples(encoder, digits, ShiftSettings(views="none"))
    with torch.no_grad():
        z = encoder.embed(digits.images_of("held-out"))

    def images_of(rows: Tensor) -> list[int]:
        return torch.cdist(rows, z).argmin(1).tolist()

    first, second = (images_of(part) for part in samples.ideal)
    labels = digits.labels_of("held-out")
    assert (labels[first] == labels[second]).all()
    practical = images_of(samples.practical[0])
    assert practical == images_of(samples.practical[1])
    used = [*first, *second, *practical]
    assert len(used) == len(set(used))


def test_views_of_one_image_are_closer_than_images_of_a_class(encoder: Encoder, digits: Data) -> None:
    gap = find_score(shift(encoder, digits, ShiftSettings(views="none", permutations=99, bootstrap=5)), "alignment_gap")
    assert gap.low is not None
    assert gap.low > 0


def test_errors_of_the_robustness_table_are_those_of_its_scores(encoder: Encoder, digits: Data) -> None:
    scores = robustness(encoder, digits, RobustnessSettings(images=60))
    table = find_score(scores, "mean_error").arrays
    errors = np.array(table["error"])
    assert errors.shape == (11, 5)
    assert find_score(scores, "mean_error").value == pytest.approx(errors.mean())
    for row, name in zip(errors, table["corruption"], strict=True):
        assert find_score(scores, f"error_{name}").value == pytest.approx(row.mean())
    clean = find_score(scores, "clean_error").value
    assert find_score(scores, "error_increase").value == pytest.approx(errors.mean() - clean)
    # the strongest loss of contrast hurts more than the weakest
    contrast = errors[table["corruption"].index("contrast")]
    assert contrast[4] > contrast[0]


def test_batches_do_not_change_the_corruptions(encoder: Encoder, digits: Data) -> None:
    one, two = (robustness(encoder, digits, RobustnessSettings(images=50, batch=b)) for b in (7, 50))
    assert [s.value for s in one] == [s.value for s in two]
