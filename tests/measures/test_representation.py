"""Representation and downstream accuracy on representations whose values are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssa_analysis.data.datasets import Data
from ssa_analysis.measures.downstream import DownstreamSettings, downstream
from ssa_analysis.measures.representation import effective_rank, uniformity
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.scores import find_score


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
