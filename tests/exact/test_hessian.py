"""Hessian operator, eigenvalues, trace and density against dense float64 Hessians of the contrastive loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn.functional import normalize

from ssa_analysis.errors import MeasureError
from ssa_analysis.numerics.contrastive import nt_xent
from ssa_analysis.numerics.density import spectral_density
from ssa_analysis.numerics.hessian import HessianOperator, flatten, perturbed
from ssa_analysis.numerics.lanczos import top_eigenpairs
from ssa_analysis.numerics.trace import hutchinson_trace

BATCHES, PAIRS = 2, 6


class Problem:
    """A small BatchNorm net in evaluation mode, two fixed batches, and the dense Hessian of their mean NT-Xent."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 4)
            ).double()
            self.net[1].running_mean.copy_(torch.tensor([0.3, -0.2]))
            self.net[1].running_var.copy_(torch.tensor([0.7, 1.4]))
            self.views = [torch.randn(2 * PAIRS, 1, 5, 5, dtype=torch.float64) for _ in range(BATCHES)]
        self.net.eval()
        self.names = [n for n, _ in self.net.named_parameters()]
        self.parameters = list(self.net.parameters())

    def loss(self, views: Tensor, parameters: tuple[Tensor, ...] | None = None) -> Tensor:
        if parameters is None:
            z = self.net(views)
        else:
            z = functional_call(self.net, dict(zip(self.names, parameters, strict=True)), (views,))
        z = normalize(z, dim=1)
        return nt_xent(z[:PAIRS], z[PAIRS:], 0.5).mean()

    def batch_losses(self) -> list[Callable[[], Tensor]]:
        return [lambda v=v: self.loss(v) for v in self.views]

    def dense(self) -> Tensor:
        start = flatten([p.detach() for p in self.parameters])
        shapes = [p.shape for p in self.parameters]

        def flat_loss(vector: Tensor) -> Tensor:
            pieces = vector.split([s.numel() for s in shapes])
            parameters = tuple(piece.view(s) for piece, s in zip(pieces, shapes, strict=True))
            return sum(self.loss(v, parameters) for v in self.views) / len(self.views)

        return hessian(flat_loss)(start)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


@pytest.fixture(scope="module")
def dense(problem: Problem) -> Tensor:
    return problem.dense()


@pytest.fixture
def operator(problem: Problem) -> HessianOperator:
    return HessianOperator(problem.batch_losses(), problem.parameters)


def test_products_equal_the_dense_hessian(operator: HessianOperator, dense: Tensor) -> None:
    columns = torch.stack([operator.matvec(row) for row in torch.eye(operator.size, dtype=torch.float64)])
    torch.testing.assert_close(columns, dense, rtol=1e-9, atol=1e-10)


def test_gradient_is_that_of_the_mean_loss(operator: HessianOperator, problem: Problem) -> None:
    loss = sum(batch() for batch in problem.batch_losses()) / BATCHES
    expected = flatten(torch.autograd.grad(loss, problem.parameters))
    torch.testing.assert_close(operator.gradient(), expected)
    assert operator.loss() == pytest.approx(float(loss.detach()), rel=1e-12)


def test_top_eigenvalues_lie_within_their_residual_bounds(operator: HessianOperator, dense: Tensor) -> None:
    true, vectors = np.linalg.eigh(dense.numpy())
    found = top_eigenpairs(operator.matvec, operator.size, 4, tolerance=1e-4, seed=3, dtype=torch.float64)
    assert found.converged.all()
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert np.abs(true - value).min() <= residual + 1e-9
    np.testing.assert_allclose(found.values, true[::-1][:4], rtol=1e-5)
    # the residual that is reported is the residual that is there
    actual = torch.stack([operator.matvec(v) - float(e) * v for v, e in zip(found.vectors, found.values, strict=True)])
    np.testing.assert_allclose(actual.norm(dim=1).numpy(), found.residuals, atol=1e-9)
    assert abs(float(found.vectors[0] @ torch.from_numpy(vectors[:, -1].copy()))) == pytest.approx(1, abs=1e-6)


def test_trace_lies_within_its_error(operator: HessianOperator, dense: Tensor) -> None:
    pairs = top_eigenpairs(operator.matvec, operator.size, 4, tolerance=1e-6, dtype=torch.float64)
    covered = 0
    for seed in range(40):
        estimate = hutchinson_trace(
            operator.matvec, operator.size, known_vectors=pairs.vectors, known_values=pairs.values,
            tolerance=0.0, max_probes=12, seed=seed, dtype=torch.float64,
        )  # fmt: skip
        covered += abs(estimate.value - float(dense.trace())) <= 1.96 * estimate.stderr
    # 12 probes: the interval has the coverage of a t with 11 degrees of freedom, about 92 %; 40 draws
    assert covered >= 32


def test_density_has_the_moments_of_the_spectrum(operator: HessianOperator, dense: Tensor) -> None:
    """As many steps as dimensions: with fewer, eigenvalues close to zero share a node and its sign."""
    true = np.linalg.eigvalsh(dense.numpy())
    found = spectral_density(operator.matvec, operator.size, probes=24, steps=98, grid_points=4000, dtype=torch.float64)
    step = found.grid[1] - found.grid[0]
    assert found.density.sum() * step == pytest.approx(1, abs=1e-3)
    mean = (found.grid * found.density).sum() * step
    spread = np.sqrt(np.square(true).mean() * 2 / (operator.size * 24))
    assert mean == pytest.approx(true.mean(), abs=4 * spread)
    negative = (true < -1e-6 * np.abs(true).max()).mean()
    assert found.negative_mass == pytest.approx(negative, abs=4 * found.negative_mass_stderr)


def test_perturbed_restores_the_same_bits_even_after_an_error(operator: HessianOperator) -> None:
    before = flatten([p.detach().clone() for p in operator.parameters])
    seen = []

    def fail_inside() -> None:
        with perturbed(operator.parameters, torch.full_like(before, 0.1)):
            seen.append(flatten([p.detach().clone() for p in operator.parameters]))
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    torch.testing.assert_close(seen[0], before + 0.1)
    assert torch.equal(flatten([p.detach() for p in operator.parameters]), before)


def test_a_random_layer_is_refused(problem: Problem) -> None:
    dropout = nn.Dropout(0.5).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        losses = [lambda: dropout(problem.parameters[0]).square().sum()]
        with pytest.raises(MeasureError, match="two passes"):
            HessianOperator(losses, problem.parameters).check_determinism()


def test_a_loss_that_is_not_finite_is_refused(problem: Problem) -> None:
    with pytest.raises(MeasureError, match="not finite"):
        HessianOperator([lambda: problem.parameters[0].sum() * torch.inf], problem.parameters).check_determinism()


def test_unused_parameters_and_linear_losses_have_zero_curvature() -> None:
    used, unused = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    linear = HessianOperator([lambda: used.sum()], [used, unused])
    assert torch.equal(linear.matvec(torch.ones(5)), torch.zeros(5))
    square = HessianOperator([lambda: used.square().sum()], [used, unused])
    assert torch.equal(square.matvec(torch.ones(5)), torch.tensor([2.0, 2, 2, 0, 0]))
