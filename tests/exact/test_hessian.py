"""Hessian operator, eigenvalues, trace and density against dense float64 Hessians of the contrastive loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn.functional import normalize

from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.measures.fixed_loss import contrastive_loss
from ssa_analysis.numerics.contrastive import nt_xent, nt_xent_from_similarities
from ssa_analysis.numerics.hessian import Batch, CurvatureOperator, Loss, flatten, perturbed
from ssa_analysis.numerics.spectrum import analyse_spectrum

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

    def network(self, x: Tensor) -> Tensor:
        return normalize(self.net(x), dim=1)

    def operator(self, **options: Any) -> CurvatureOperator:
        batches = [Batch(v, contrastive_loss(0.5, None)) for v in self.views]
        return CurvatureOperator(self.network, batches, self.parameters, **options)

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
def operator(problem: Problem) -> CurvatureOperator:
    return problem.operator()


# bytes for graphs: all of them, one batch, seven inputs, less than one input
PLANS = {"kept": 1e9, "rebuilt": 1.5, "chunked": 7 / 12, "one by one": 1e-9}


def with_plan(problem: Problem, plan: str, **options: Any) -> CurvatureOperator:
    memory = PLANS[plan]
    if memory < 100:  # in units of one batch's graph
        memory *= problem.operator().bytes_per_input * 2 * PAIRS
    return problem.operator(memory=memory, **options)


@pytest.mark.parametrize("plan", PLANS)
def test_products_equal_the_dense_hessian_whatever_the_memory(problem: Problem, dense: Tensor, plan: str) -> None:
    operator = with_plan(problem, plan)
    assert operator.plan == ("chunked" if plan == "one by one" else plan)
    if operator.plan == "chunked":
        assert operator.chunk == (1 if plan == "one by one" else 7)
    identity = torch.eye(operator.size, dtype=torch.float64)
    columns = torch.stack([operator.matvec(row) for row in identity])
    torch.testing.assert_close(columns, dense, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(operator.matmat(identity), columns, rtol=1e-10, atol=1e-12)
    assert operator.products == 2 * operator.size


@pytest.mark.parametrize("plan", PLANS)
def test_gauss_newton_equals_the_dense_one(problem: Problem, plan: str) -> None:
    """J_s' (d2L/ds2) J_s with s the similarities, from a dense Jacobian; it is positive semi-definite."""
    shapes = [p.shape for p in problem.parameters]

    def similarities(vector: Tensor, views: Tensor) -> Tensor:
        pieces = vector.split([s.numel() for s in shapes])
        named = {n: piece.view(s) for n, piece, s in zip(problem.names, pieces, shapes, strict=True)}
        z = normalize(functional_call(problem.net, named, (views,)), dim=1)
        return (z @ z.T / 0.5).reshape(-1)

    start = flatten([p.detach() for p in problem.parameters])
    expected = torch.zeros(len(start), len(start), dtype=torch.float64)
    for views in problem.views:
        jacobian = torch.func.jacrev(similarities)(start, views)
        s = similarities(start, views)
        curved = hessian(lambda s: nt_xent_from_similarities(s.view(2 * PAIRS, 2 * PAIRS)).mean())(s)
        expected += jacobian.T @ curved @ jacobian / BATCHES
    operator = with_plan(problem, plan, kind="gauss-newton")
    operator.matvec(torch.ones(operator.size, dtype=torch.float64))  # a second product must not suffer from the first
    found = operator.matmat(torch.eye(operator.size, dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    assert np.linalg.eigvalsh(found.numpy()).min() > -1e-10


@pytest.mark.parametrize("plan", PLANS)
def test_gradient_and_loss_do_not_depend_on_the_memory(problem: Problem, plan: str) -> None:
    operator = with_plan(problem, plan)
    loss = sum(problem.loss(v) for v in problem.views) / BATCHES
    expected = flatten(torch.autograd.grad(loss, problem.parameters))
    torch.testing.assert_close(operator.gradient(), expected)
    assert operator.loss() == pytest.approx(float(loss.detach()), rel=1e-12)


def test_kept_graphs_are_released_and_built_again_after_the_weights_changed(problem: Problem) -> None:
    operator = problem.operator()
    vector = torch.ones(operator.size, dtype=torch.float64)
    first = operator.matvec(vector)
    with perturbed(operator.parameters, 0.05 * vector):
        operator.release()
        moved = operator.matvec(vector)
        operator.release()
    torch.testing.assert_close(operator.matvec(vector), first)
    assert (moved - first).norm() > 1e-3 * first.norm()


def test_one_run_gives_the_dense_answers_within_their_errors(operator: CurvatureOperator, dense: Tensor) -> None:
    true, vectors = np.linalg.eigh(dense.numpy())
    found = analyse_spectrum(operator.matvec, operator.size, top=4, bottom=2, tolerance=1e-5, seed=3, dtype=torch.float64)
    for pairs, expected in ((found.largest, true[::-1]), (found.smallest, true)):
        assert pairs.converged.all()
        np.testing.assert_allclose(pairs.values, expected[: len(pairs.values)], rtol=1e-5)
        for value, residual in zip(pairs.values, pairs.residuals, strict=True):
            assert np.abs(true - value).min() <= residual + 1e-9
        # the residual that is reported is the residual that is there
        actual = torch.stack([operator.matvec(v) - float(e) * v for v, e in zip(pairs.vectors, pairs.values, strict=True)])
        np.testing.assert_allclose(actual.norm(dim=1).numpy(), pairs.residuals, atol=1e-9)
    assert abs(float(found.largest.vectors[0] @ torch.from_numpy(vectors[:, -1].copy()))) == pytest.approx(1, abs=1e-5)


def test_perturbed_restores_the_same_bits_even_after_an_error(operator: CurvatureOperator) -> None:
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
        batch = Batch(problem.views[0], contrastive_loss(0.5, None))
        with pytest.raises(MeasureError, match="two passes"):
            CurvatureOperator(lambda x: dropout(problem.network(x)), [batch], problem.parameters).check_determinism()


def test_a_loss_that_is_not_finite_is_refused(problem: Problem) -> None:
    batch = Batch(problem.views[0], Loss(lambda z: z, lambda s: s.sum() * torch.inf))
    with pytest.raises(MeasureError, match="not finite"):
        CurvatureOperator(problem.network, [batch], problem.parameters).check_determinism()


@pytest.mark.parametrize("memory", [1e9, 1e-9])
def test_unused_parameters_and_linear_losses_have_zero_curvature(memory: float) -> None:
    used, unused = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    inputs = torch.ones(1, 3)
    linear = Batch(inputs, Loss(lambda z: z, lambda s: s.sum()))
    square = Batch(inputs, Loss(lambda z: z, lambda s: s.square().sum()))

    def product(batch: Batch) -> list[float]:
        return CurvatureOperator(lambda x: x * used, [batch], [used, unused], memory=memory).matvec(torch.ones(5)).tolist()

    assert product(linear) == [0] * 5
    assert product(square) == [2, 2, 2, 0, 0]


def test_settings_that_make_no_operator_are_refused(problem: Problem) -> None:
    with pytest.raises(SettingsError, match="did you mean hessian"):
        problem.operator(kind="hesian")
    with pytest.raises(SettingsError, match="memory"):
        problem.operator(memory=0.0)
    with pytest.raises(MeasureError, match="at least one batch"):
        CurvatureOperator(problem.network, [], problem.parameters)


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("plan", PLANS)
def test_slices_that_keep_a_cpu_s_caches_warm_change_nothing(
    problem: Problem, plan: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def watched(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return problem.network(x)

    whole = with_plan(problem, plan, kind=kind)
    identity = torch.eye(whole.size, dtype=torch.float64)[:7]
    expected = whole.matmat(identity), whole.gradient(), whole.loss()
    monkeypatch.setattr("ssa_analysis.numerics.hessian.SLICE_BYTES", 0)
    monkeypatch.setattr("ssa_analysis.numerics.hessian.SLICE_WEIGHTS", 0)
    sliced = CurvatureOperator(watched, whole.batches, whole.parameters, kind=kind, memory=whole.memory)
    assert sliced.plan == whole.plan
    sizes.clear()
    found = sliced.matmat(identity), sliced.gradient(), sliced.loss()
    assert max(sizes) == min(4, sliced.chunk)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_slices_are_not_small_beside_the_weights(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = problem.operator()
    weights = operator.size * operator.parameters[0].element_size()
    monkeypatch.setattr("ssa_analysis.numerics.hessian.SLICE_BYTES", 10 * operator.bytes_per_input)
    monkeypatch.setattr("ssa_analysis.numerics.hessian.SLICE_WEIGHTS", 20.5 * operator.bytes_per_input / weights)
    assert operator.slice_length == 20  # what the weights ask for, where it is more than what fits the caches
    monkeypatch.setattr("ssa_analysis.numerics.hessian.SLICE_WEIGHTS", 0)
    assert problem.operator().slice_length == 10
