"""The error bars of the flatness measures, over many seeds, against the truth on nets small enough to know it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scale import often
from scipy.stats import binom
from torch import Tensor, nn
from torch.nn.functional import normalize

from ssa_analysis.numerics.contrastive import nt_xent_from_similarities
from ssa_analysis.numerics.flatness import group_rises, noise_rises, noise_scale, relative_flatness_probes
from ssa_analysis.numerics.hessian import Batch, CurvatureOperator, Loss, flatten
from ssa_analysis.numerics.resampling import Interval, mean_interval

SEEDS = often(100, 200)
PAIRS, POOL, INPUT, HIDDEN, OUT = 8, 600, 6, 8, 4
FEW, MANY = binom.interval(0.998, SEEDS, 0.95)  # what 95 % coverage would show
SIGMA, TARGET = 0.1, 0.1


def assert_covers(interval: Callable[[int], Interval], truth: float) -> None:
    hits = sum(i.low <= truth <= i.high for i in map(interval, range(SEEDS)))
    assert FEW <= hits <= MANY, f"{hits} of {SEEDS} intervals hold the truth"


def views(images: Tensor, rng: torch.Generator) -> Tensor:
    return torch.cat([images + 0.3 * torch.randn(images.shape, generator=rng, dtype=images.dtype) for _ in range(2)])


class World:
    """A two-layer ReLU net after some steps of contrastive training on a pool of Gaussian images."""

    def __init__(self) -> None:
        self.rng = torch.Generator().manual_seed(0)
        self.pool = torch.randn(POOL, INPUT, generator=self.rng, dtype=torch.float64)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.net = nn.Sequential(nn.Linear(INPUT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT)).double()
        self.weights = list(self.net.parameters())
        optimizer = torch.optim.Adam(self.weights, lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            batch = self.batches(1, 32, self.rng)[0]
            batch.loss(self.network(batch.inputs)).backward()
            optimizer.step()
        self.fixed = self.batches(1, 2 * PAIRS, self.rng)
        self.operator = CurvatureOperator(self.network, self.fixed, self.weights)

    def network(self, inputs: Tensor) -> Tensor:
        return normalize(self.net(inputs), dim=1)

    def batches(self, count: int, pairs: int, rng: torch.Generator) -> list[Batch]:
        loss = Loss(lambda z: z @ z.T / 0.5, lambda s: nt_xent_from_similarities(s).mean())
        drawn = [self.pool[torch.randperm(POOL, generator=rng)[:pairs]] for _ in range(count)]
        return [Batch(views(images, rng), loss) for images in drawn]

    def losses(self, noise: Tensor) -> Tensor:
        """``(k,)`` losses of the fixed batch at ``w + noise[i]``, all at once: what an operator gives one by one."""
        w1, b1, w2, b2 = (
            w + part.view(-1, *w.shape)
            for w, part in zip([w.detach() for w in self.weights], noise.split([w.numel() for w in self.weights], 1), strict=True)
        )
        hidden = torch.relu(torch.einsum("ni,khi->knh", self.fixed[0].inputs, w1) + b1[:, None])
        z = normalize(torch.einsum("knh,koh->kno", hidden, w2) + b2[:, None], dim=2)
        logits = z @ z.transpose(1, 2) / 0.5
        n = logits.shape[1]
        index = torch.arange(n)
        partner = (index + n // 2) % n
        logits[:, index, index] = -torch.inf
        return (torch.logsumexp(logits, 2) - logits[:, index, partner]).mean(1)

    def rises(self, sigma: float, noise: Tensor) -> Tensor:
        """``(k,)`` rises under ``sigma * noise`` and its mirror image."""
        base = self.losses(torch.zeros_like(noise[:1]))
        return (self.losses(sigma * noise) + self.losses(-sigma * noise)) / 2 - base


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def normal(world: World, draws: int, seed: int) -> Tensor:
    return torch.randn(draws, world.operator.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_losses_of_many_draws_at_once_are_those_of_the_operator(world: World) -> None:
    assert float(world.losses(torch.zeros(1, world.operator.size, dtype=torch.float64))) == pytest.approx(world.operator.loss())
    ones = torch.ones(world.operator.size, dtype=torch.float64)
    one_by_one = noise_rises(world.operator, ones, SIGMA, 200, seed=3)
    together = world.rises(SIGMA, normal(world, 4000, 5))
    assert one_by_one.mean() == pytest.approx(float(together.mean()), abs=4 * one_by_one.std() / np.sqrt(200))


@pytest.mark.parametrize("adaptive", [False, True])
def test_average_case(world: World, adaptive: bool) -> None:
    weights = flatten([w.detach() for w in world.weights])
    scale = weights.abs() if adaptive else torch.ones_like(weights)
    truth = float(world.rises(SIGMA, scale * normal(world, 40_000, 7)).mean())
    assert_covers(lambda seed: mean_interval(noise_rises(world.operator, scale, SIGMA, 12, seed)), truth)


@pytest.mark.parametrize("adaptive", [False, True])
def test_m_sharpness(world: World, adaptive: bool) -> None:
    weights = flatten([w.detach() for w in world.weights])
    ball = (weights.abs() if adaptive else torch.ones_like(weights), 0.2)

    def values(groups: int, seed: int) -> np.ndarray:
        batches = world.batches(groups, PAIRS, torch.Generator().manual_seed(seed))
        return group_rises(world.operator.sibling(batches=batches), [ball])[0]

    truth = float(values(800, 10_000).mean())
    assert_covers(lambda seed: mean_interval(values(8, seed)), truth)


@pytest.mark.parametrize("adaptive", [False, True])
def test_pac_bayes_scale(world: World, adaptive: bool) -> None:
    weights = flatten([w.detach() for w in world.weights])
    scale = weights.abs() if adaptive else torch.ones_like(weights)

    def solve(draws: int, seed: int) -> Interval:
        noise = scale * normal(world, draws, seed)
        found = noise_scale(lambda sigma, k: world.rises(sigma, noise[:k]).numpy(), draws, TARGET, SIGMA, 10.0)
        assert found.converged
        return found.sigma

    truth = solve(8_000, 10_000)
    assert truth.stderr < 0.01 * truth.value
    assert_covers(lambda seed: solve(16, seed), truth.value)


@pytest.mark.parametrize("number", [0, 2])
def test_relative_flatness(world: World, number: int) -> None:
    weight = world.weights[number]
    layer = world.operator.sibling(parameters=[weight])
    hessian = layer.matmat(torch.eye(layer.size, dtype=torch.float64)).view(*weight.shape, *weight.shape)
    layer.release()
    truth = float(torch.einsum("sj,tj,sktk->", weight.detach(), weight.detach(), hessian))
    assert_covers(lambda seed: mean_interval(relative_flatness_probes(world.operator, number, 16, seed)), truth)
