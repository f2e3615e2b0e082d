"""LARS against its formula, groups, and the schedule."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from ssa_analysis.errors import SettingsError
from ssa_analysis.training.optimizers import LARS, build_optimizer, learning_rate


def test_lars_is_the_formula_with_momentum() -> None:
    w = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    p = nn.Parameter(w.clone())
    optimizer = LARS([p], lr=0.5, momentum=0.9, weight_decay=0.1, trust=0.02)
    velocity = torch.zeros_like(w)
    for gradient in (torch.tensor([[1.0, 2.0]]), torch.tensor([[-1.0, 0.5]])):
        p.grad = gradient.double()
        update = gradient.double() + 0.1 * w
        velocity = 0.9 * velocity + 0.02 * w.norm() / update.norm() * update
        w = w - 0.5 * velocity
        optimizer.step()
        torch.testing.assert_close(p.detach(), w)


def test_lars_leaves_zero_weights_and_zero_gradients_finite() -> None:
    p = nn.Parameter(torch.zeros(2, 2))
    p.grad = torch.ones(2, 2)
    LARS([p], lr=0.1).step()
    assert torch.equal(p.detach(), torch.full((2, 2), -0.1))


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_biases_and_normalisation_are_not_decayed(name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    optimizer = build_optimizer(name, model, lr=0.1, weight_decay=0.5)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    after = dict(model.named_parameters())
    assert after["0.weight"].norm() < before["0.weight"].norm()
    for key in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(after[key], before[key]), key


def test_unknown_optimizers_are_refused() -> None:
    with pytest.raises(SettingsError, match="sgd, lars, adamw"):
        build_optimizer("adam", nn.Linear(1, 1), 0.1, 0.0)


def test_the_schedule_warms_up_linearly_and_falls_as_a_cosine() -> None:
    rates = [learning_rate(step, 100, 10, 0.6) for step in range(100)]
    assert rates[:10] == pytest.approx([0.06 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.6)
    assert rates[55] == pytest.approx(0.3 * (1 + math.cos(math.pi * 0.5)))
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.001
    assert learning_rate(0, 10, 0, 0.6) == pytest.approx(0.6)
