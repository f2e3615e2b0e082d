"""Distances and kernels against POT, geomloss and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ssa_analysis.numerics.bures import bures, gaussian_w2
from ssa_analysis.numerics.kernels import GaussianKernel
from ssa_analysis.numerics.sinkhorn import entropic_transport, sinkhorn_divergence, squared_costs
from ssa_analysis.numerics.sliced import find_direction, random_directions, sliced_wasserstein2
from ssa_analysis.numerics.transport import exact_distance, pair_transport, transport_lp, wasserstein_1d


@pytest.fixture(scope="module")
def ot():  # type: ignore[no-untyped-def]
    return pytest.importorskip("ot", reason="POT is not installed")


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uniform(n: int) -> np.ndarray:
    return np.full(n, 1 / n)


@pytest.mark.parametrize("power", [1, 2])
def test_the_exact_distance_equals_pot(ot, power: int) -> None:  # type: ignore[no-untyped-def]
    x, y = normal(120, 6, 0), 1.5 * normal(120, 6, 1) + 0.3
    cost = ot.dist(x.numpy(), y.numpy(), metric="euclidean") ** power
    assert exact_distance(x, y, power) == pytest.approx(ot.emd2(uniform(120), uniform(120), cost), rel=1e-8)


def test_pair_transport_equals_pot(ot) -> None:  # type: ignore[no-untyped-def]
    x, y = normal(60, 8, 0), normal(60, 8, 1) + 0.4
    first, second = (ot.dist(x[:, s].numpy(), y[:, s].numpy(), metric="euclidean") for s in (slice(0, 4), slice(4, 8)))
    expected = [ot.emd2(uniform(60), uniform(60), np.ascontiguousarray(c)) for c in (2 * first + second, 1.5 * (first + second))]
    assert pair_transport(x, y) == pytest.approx(min(expected), rel=1e-8)


def test_the_linear_program_equals_pot_for_any_weights(ot) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    p, q, cost = rng.dirichlet(np.ones(15)), rng.dirichlet(np.ones(22)), rng.random((15, 22))
    assert transport_lp(p, q, cost) == pytest.approx(ot.emd2(p, q, cost), rel=1e-8)


def test_the_line_equals_pot(ot) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)
    x, y, p, q = rng.normal(size=20), rng.normal(size=33), rng.dirichlet(np.ones(20)), rng.dirichlet(np.ones(33))
    assert wasserstein_1d(x, y, p, q) == pytest.approx(float(ot.wasserstein_1d(x, y, p, q, p=1)), rel=1e-8)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (40, 70)])
def test_the_sliced_distance_equals_pot(ot, n: int, m: int) -> None:  # type: ignore[no-untyped-def]
    x, y = normal(n, 6, 0), 1.5 * normal(m, 6, 1) + 0.3
    directions = random_directions(6, 80, 3)
    peer = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=directions.T.numpy(), p=2)
    assert sliced_wasserstein2(x, y, projections=80, seed=3)[0] == pytest.approx(float(peer) ** 2, rel=1e-8)


def test_the_largest_slice_is_no_smaller_than_that_of_pot(ot) -> None:  # type: ignore[no-untyped-def]
    """POT takes the best of its random directions; ours climbs."""
    x, y = normal(80, 6, 0), normal(80, 6, 1) + torch.tensor([0.8, 0, 0, 0, 0, 0])
    value, direction = find_direction(x, y)
    peers = float(ot.max_sliced_wasserstein_distance(x.numpy(), y.numpy(), n_projections=500, p=2, seed=0))
    at = float(ot.max_sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=direction[:, None].numpy(), p=2))
    assert value == pytest.approx(at**2, rel=1e-8)
    assert value >= peers**2


def test_the_gaussian_distance_equals_pot(ot) -> None:  # type: ignore[no-untyped-def]
    x, y = normal(200, 5, 0) @ normal(5, 5, 1), normal(150, 5, 2) @ normal(5, 5, 3) + 0.5
    moments = [x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T)]
    mean_x, cov_x, mean_y, cov_y = (part.numpy() for part in moments)
    peer = float(ot.gaussian.bures_wasserstein_distance(mean_x, mean_y, cov_x, cov_y)) ** 2
    assert bures(*moments) == pytest.approx(peer, rel=1e-8)
    assert gaussian_w2(x, y) == pytest.approx(peer, rel=1e-8)


@pytest.mark.parametrize("share", [0.05, 0.2, 2.0])
@pytest.mark.parametrize(("n", "m"), [(40, 40), (30, 50)])
def test_entropic_transport_equals_pot(ot, n: int, m: int, share: float) -> None:  # type: ignore[no-untyped-def]
    """POT's plan, and from it ``<P, C> + eps KL(P | a b^T)``."""
    cost = squared_costs(normal(n, 4, 0), normal(m, 4, 1) + 0.5)
    eps = share * float(cost.median())
    plan = ot.bregman.sinkhorn(uniform(n), uniform(m), cost.numpy(), eps, method="sinkhorn_log", numItermax=5000, stopThr=1e-6)
    value = float((plan * cost.numpy()).sum() + eps * (plan * np.log(plan * n * m)).sum())
    found = entropic_transport(cost, eps, tolerance=1e-6, max_iterations=5000)
    assert found.converged
    assert found.value == pytest.approx(value, rel=1e-5)


def test_the_divergence_equals_pot(ot) -> None:  # type: ignore[no-untyped-def]
    """POT's divergence leaves the entropy out of its three terms' values; here they are put together from its plans."""
    x, y = normal(40, 4, 0), 1.3 * normal(40, 4, 1) + 0.5
    eps = 0.3 * float(squared_costs(x, y).median())

    def value(a: Tensor, b: Tensor) -> float:
        cost = ot.dist(a.numpy(), b.numpy())
        plan = ot.bregman.sinkhorn(uniform(40), uniform(40), cost, eps, method="sinkhorn_log", numItermax=5000, stopThr=1e-7)
        return float((plan * cost).sum() + eps * (plan * np.log(plan * 1600)).sum())

    expected = value(x, y) - (value(x, x) + value(y, y)) / 2
    assert sinkhorn_divergence(x, y, eps, tolerance=1e-6, max_iterations=5000)[0] == pytest.approx(expected, rel=1e-4)


def test_the_divergence_equals_geomloss() -> None:
    """Its cost is half the squared distance, and its blur the root of eps."""
    geomloss = pytest.importorskip("geomloss", reason="geomloss is not installed")
    x, y = normal(60, 3, 0), 1.3 * normal(60, 3, 1) + 0.5
    eps = 0.2 * float(squared_costs(x, y).median())
    loss = geomloss.SamplesLoss("sinkhorn", p=2, blur=(eps / 2) ** 0.5, scaling=0.99, debias=True, backend="tensorized")
    assert sinkhorn_divergence(x, y, eps)[0] == pytest.approx(2 * float(loss(x, y)), rel=1e-3)


@pytest.mark.parametrize("width", [0.3, 1.0, 20.0])
def test_the_gaussian_kernel_equals_scikit_learn(width: float) -> None:
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    x = normal(40, 5, 0) + 2
    ours = GaussianKernel(x, [width], centred=False).block(slice(0, 15), slice(10, 40))
    np.testing.assert_allclose(ours.numpy(), pairwise.rbf_kernel(x[:15], x[10:], gamma=1 / (2 * width**2)), atol=1e-12)
