"""The flatness measures where the answer is known: quadratics, dense Hessians, and small nets searched hard."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ssa_analysis.measures.flatness import FlatnessSettings
from ssa_analysis.numerics.contrastive import nt_xent_from_similarities
from ssa_analysis.numerics.flatness import (
    fisher_rao,
    group_rises,
    noise_rises,
    noise_scale,
    relative_flatness_probes,
    worst_case_rise,
)
from ssa_analysis.numerics.hessian import Batch, CurvatureOperator, Loss, flatten, perturbed
from ssa_analysis.numerics.lanczos import random_vector
from ssa_analysis.numerics.seeding import derive_seed

DIAGONAL = torch.tensor([10.0, 3.0, 1.0, 0.5], dtype=torch.float64)
ONES = torch.ones(4, dtype=torch.float64)


def quadratic(hessians: list[Tensor], linear: list[Tensor], weights: Tensor | None = None) -> CurvatureOperator:
    """Batches of loss ``u H u / 2 + g u`` with ``u`` the offset from the weights."""
    size = len(hessians[0])
    start = torch.zeros(size, dtype=torch.float64) if weights is None else weights
    w = start.clone().requires_grad_()

    def loss(h: Tensor, g: Tensor) -> Loss:
        return Loss(lambda z: z - start, lambda s: (0.5 * s @ h @ s.T + s @ g).sum())

    one = torch.ones(1, size, dtype=torch.float64)
    return CurvatureOperator(lambda x: x * w, [Batch(one, loss(h, g)) for h, g in zip(hessians, linear, strict=True)], [w])


def diagonal(linear: float = 0.0) -> CurvatureOperator:
    return quadratic([torch.diag(DIAGONAL)], [linear * ONES])


def sphere_maximum(h: np.ndarray, g: np.ndarray, radius: float) -> float:
    """Maximum of ``u h u / 2 + g u`` over ``|u| = radius``, from the secular equation (More and Sorensen 1983)."""
    values, vectors = np.linalg.eigh(h)
    c = vectors.T @ g
    mu = brentq(lambda mu: np.linalg.norm(c / (mu - values)) - radius, values[-1] + 1e-9, values[-1] + 1e6)
    u = c / (mu - values)
    return float(0.5 * (values * u * u).sum() + c @ u)


def test_worst_case_on_a_quadratic_is_half_rho_squared_times_the_largest_eigenvalue() -> None:
    found = worst_case_rise(diagonal(), ONES, 0.3, steps=30, restarts=3, seed=0)
    assert found.rise == pytest.approx(0.5 * 0.3**2 * 10, rel=1e-3)
    assert found.rise <= 0.5 * 0.3**2 * 10 * (1 + 1e-12)  # a lower bound of the maximum
    assert found.settled
    assert found.starts[0] == 0.0  # the gradient is zero at the weights: only the other starts get away
    assert found.rise == max(found.starts)


def test_the_adaptive_worst_case_is_that_of_the_rescaled_hessian() -> None:
    scale = torch.tensor([0.1, 2.0, 1.0, 0.0], dtype=torch.float64)
    found = worst_case_rise(diagonal(), scale, 0.3, steps=30, restarts=3, seed=0)
    assert found.rise == pytest.approx(0.5 * 0.3**2 * float((DIAGONAL * scale**2).max()), rel=1e-3)


@pytest.mark.parametrize("top", [1.0, 0.3])
@pytest.mark.parametrize(("force", "share"), [(0.01, 0.75), (1.0, 0.98), (100.0, 0.999)])
def test_worst_case_of_indefinite_quadratics_with_a_gradient(top: float, force: float, share: float) -> None:
    """Eigenvalues from -1 to ``top``: with ``top = 0.3`` the plain fixed point runs away from the maximum.

    Where there is almost no gradient, a start can stay at a saddle of the sphere (the second eigenvector).
    """
    for seed in range(10):
        rng = np.random.default_rng(seed)
        q = np.linalg.qr(rng.normal(size=(12, 12)))[0]
        h, g = q @ np.diag([*np.linspace(-1, top / 2, 11), top]) @ q.T, force * rng.normal(size=12)
        operator, ones = quadratic([torch.tensor(h)], [torch.tensor(g)]), torch.ones(12, dtype=torch.float64)
        found = worst_case_rise(operator, ones, 1.0, steps=60, restarts=3, seed=seed)
        truth = sphere_maximum(h, g, 1.0)
        assert share * truth <= found.rise <= truth * (1 + 1e-9)


def test_few_steps_say_that_they_did_not_settle() -> None:
    assert not worst_case_rise(diagonal(), ONES, 0.3, steps=2, restarts=2, seed=1).settled


def test_nothing_moves_without_scale_or_gradient() -> None:
    flat = worst_case_rise(diagonal(linear=1.0), 0 * ONES, 0.3, steps=3, restarts=2, seed=0)
    assert (flat.rise, flat.settled) == (0.0, True)
    top = worst_case_rise(quadratic([-torch.diag(DIAGONAL)], [0 * ONES]), ONES, 0.3, steps=9, restarts=3, seed=0)
    assert top.rise == 0.0  # the weights sit on a maximum: nothing in the ball is higher than its centre
    beside = worst_case_rise(one_weight(lambda x: 0.01 * x - x * x), ONES[:1], 1.0, steps=1, restarts=2, seed=0)
    assert max(beside.starts) < 0
    assert beside.rise == 0.0


def small_net(seed: int) -> CurvatureOperator:
    """Contrastive loss of a two-layer ReLU net, trained for a while."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(12, 6, generator=rng, dtype=torch.float64)
    inputs = torch.cat([images, images + 0.3 * torch.randn(12, 6, generator=rng, dtype=torch.float64)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)).double()
    loss = Loss(lambda z: z @ z.T / 0.5, lambda s: nt_xent_from_similarities(s).mean())
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        loss(normalize(net(inputs), dim=1)).backward()
        optimizer.step()
    names, weights = zip(*net.named_parameters(), strict=True)
    return CurvatureOperator(lambda x: normalize(net(x), dim=1), [Batch(inputs, loss)], weights, names=names)


def test_the_ascent_against_a_long_search() -> None:
    """Nets near a minimum have several maxima on the sphere: few starts find 0.9 of the best on average, more find more."""
    settings = FlatnessSettings()
    shares: dict[int, list[float]] = {settings.restarts: [], 12: []}
    for seed in range(3):
        operator = small_net(seed)
        weights = flatten([p.detach() for p in operator.parameters])
        for scale, radius in ((torch.ones_like(weights), 0.1), (torch.ones_like(weights), 1.0), (weights.abs(), 0.5)):
            long = worst_case_rise(operator, scale, radius, steps=30, restarts=20, seed=100 + seed).rise
            for restarts, share in shares.items():
                found = worst_case_rise(operator, scale, radius, steps=settings.steps, restarts=restarts, seed=0)
                assert found.gradients <= restarts * settings.steps
                assert 0.5 * long < found.rise
                share.append(found.rise / long)
    assert np.mean(shares[settings.restarts]) > 0.9
    assert np.mean(shares[12]) > 0.95


def test_the_weights_come_back_to_the_bit() -> None:
    operator = small_net(0)
    before = [p.detach().clone() for p in operator.parameters]
    worst_case_rise(operator, torch.ones(operator.size).double(), 1.0, steps=4, restarts=2, seed=0)
    group_rises(operator, [(torch.ones(operator.size).double(), 0.1)])
    relative_flatness_probes(operator, 0, 3, 0)
    assert all(torch.equal(p, old) for p, old in zip(operator.parameters, before, strict=True))
    assert all(p.requires_grad for p in operator.parameters)


def test_groups_take_the_step_of_sam_each_on_its_own_loss() -> None:
    rng = np.random.default_rng(0)
    hessians = [np.diag(rng.normal(size=4)) for _ in range(3)]
    linear = [rng.normal(size=4) for _ in range(3)]
    weights = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    operator = quadratic([torch.tensor(h) for h in hessians], [torch.tensor(g) for g in linear], weights)
    plain, adaptive = group_rises(operator, [(ONES, 0.3), (weights.abs(), 0.4)])
    for number, (h, g) in enumerate(zip(hessians, linear, strict=True)):
        step = 0.3 * g / np.linalg.norm(g)
        assert plain[number] == pytest.approx(0.5 * step @ h @ step + g @ step)
        t = weights.abs().numpy()
        step = 0.4 * t**2 * g / np.linalg.norm(t * g)
        assert step[3] == 0  # a weight at zero stays
        assert adaptive[number] == pytest.approx(0.5 * step @ h @ step + g @ step)


def test_average_case_on_a_quadratic_is_half_sigma_squared_times_the_trace_whatever_the_gradient() -> None:
    rises = noise_rises(diagonal(linear=50.0), ONES, 0.1, draws=4000, seed=0)
    stderr = rises.std() / np.sqrt(len(rises))
    assert rises.mean() == pytest.approx(0.5 * 0.1**2 * float(DIAGONAL.sum()), abs=4 * stderr)
    assert stderr < 0.003


def test_the_draws_are_the_same_at_every_sigma() -> None:
    operator = diagonal()
    first, second = (noise_rises(operator, ONES, sigma, 5, seed=2) for sigma in (0.1, 0.2))
    np.testing.assert_allclose(4 * first, second)  # a quadratic's rises grow with the square
    assert not np.allclose(first, noise_rises(operator, ONES, 0.1, 5, seed=3))
    np.testing.assert_array_equal(first[:2], noise_rises(operator, ONES, 0.1, 2, seed=2))


def test_the_noise_scale_of_a_quadratic() -> None:
    operator = diagonal(linear=5.0)
    truth = math.sqrt(2 * 0.1 / float(DIAGONAL.sum()))
    for start in (1e-4, truth, 3.0):
        found = noise_scale(lambda sigma, k: noise_rises(operator, ONES, sigma, k, seed=0), 2000, 0.1, start, 10.0)
        assert found.converged
        assert found.sigma.value == pytest.approx(truth, abs=4 * found.sigma.stderr)
        assert found.sigma.stderr < 0.02 * truth
        assert found.sigma.low < found.sigma.value < found.sigma.high


def curve(function: object) -> object:
    """A rise without any spread over draws."""
    return lambda sigma, draws: np.full(draws, function(sigma))  # type: ignore[operator]


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("start", [1e-3, 0.7, 50.0])
def test_the_crossing_of_any_power_is_exact(power: float, start: float) -> None:
    found = noise_scale(curve(lambda s: 0.4 * s**power), 4, 0.1, start, 100.0)  # type: ignore[arg-type]
    assert found.converged
    assert found.sigma.value == pytest.approx(0.25 ** (1 / power), rel=1e-6)
    assert found.sigma.stderr == pytest.approx(0.0, abs=1e-12)


def test_the_crossing_of_a_rise_that_starts_below_zero_or_ends_in_infinity() -> None:
    found = noise_scale(curve(lambda s: s**4 - s**2), 4, 0.1, 0.01, 100.0)  # type: ignore[arg-type]
    assert found.converged
    assert found.sigma.value == pytest.approx(math.sqrt(0.5 + math.sqrt(0.35)), rel=1e-2)
    found = noise_scale(curve(lambda s: s * s if s < 1 else math.nan), 4, 0.1, 30.0, 100.0)  # type: ignore[arg-type]
    assert found.sigma.value == pytest.approx(math.sqrt(0.1), rel=1e-2)


def test_a_crossing_that_is_not_there_is_said() -> None:
    never = noise_scale(curve(lambda s: 0.05 * s / (1 + s)), 4, 0.1, 0.01, 100.0)  # type: ignore[arg-type]
    assert (never.crossing, never.converged, never.sigma.low, never.sigma.high) == ("not reached", False, 100.0, math.inf)
    always = noise_scale(curve(lambda s: 1.0), 4, 0.1, 0.01, 100.0)  # type: ignore[arg-type]
    assert (always.crossing, always.converged, always.sigma.low) == ("always exceeded", False, 0.0)
    assert always.sigma.high == always.sigma.value < 0.01
    jump = noise_scale(curve(lambda s: 1.0 if s > 0.3 else 0.0), 4, 0.1, 0.01, 100.0)  # type: ignore[arg-type]
    assert (jump.crossing, jump.converged) == ("not resolved", False)
    assert jump.sigma.low <= 0.3 <= jump.sigma.high
    hump = noise_scale(curve(lambda s: s * s if s < 0.5 else 0.01), 4, 0.1, 0.01, 100.0)  # type: ignore[arg-type]
    assert hump.crossing == "found"
    assert not hump.converged  # at twice the crossing the rise is under the target again


def relative_flatness_by_definition(operator: CurvatureOperator, number: int) -> float:
    """``sum_st <w_s, w_t> tr H_st`` with a dense Hessian from autograd, block by block."""
    weight = operator.parameters[number]
    rows = weight.detach().reshape(len(weight), -1)
    d = rows.shape[1]

    def loss(flat: Tensor) -> Tensor:
        offset = torch.zeros(operator.size, dtype=flat.dtype)
        before = sum(p.numel() for p in operator.parameters[:number])
        offset[before : before + weight.numel()] = flat - rows.reshape(-1)
        with perturbed(operator.parameters, offset):
            return operator.sibling(parameters=[weight]).gradient()

    size, step = rows.numel(), 1e-5
    dense = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        e = torch.zeros(size, dtype=torch.float64)
        e[i] = step
        dense[:, i] = (loss(rows.reshape(-1) + e) - loss(rows.reshape(-1) - e)) / (2 * step)
    total = 0.0
    for s in range(len(rows)):
        for t in range(len(rows)):
            block = dense[s * d : (s + 1) * d, t * d : (t + 1) * d]
            total += float(rows[s] @ rows[t]) * float(block.trace())
    return total


@pytest.mark.parametrize("number", [0, 2])
def test_relative_flatness_is_its_definition_with_a_dense_hessian(number: int) -> None:
    operator = small_net(1)
    truth = relative_flatness_by_definition(operator, number)
    samples = relative_flatness_probes(operator, number, 1000, seed=0)
    stderr = samples.std(ddof=1) / math.sqrt(len(samples))
    assert stderr < 0.02 * truth
    assert samples.mean() == pytest.approx(truth, abs=4 * stderr)


def test_relative_flatness_in_chunks_is_the_same() -> None:
    operator = small_net(1)
    whole = relative_flatness_probes(operator, 0, 10, seed=0)
    small = operator.sibling(memory=operator.bytes_per_input * 5)
    assert small.plan == "chunked"
    np.testing.assert_allclose(relative_flatness_probes(small, 0, 10, seed=0), whole, rtol=1e-9)


def test_relative_flatness_holds_no_more_inputs_at_once_than_the_operator() -> None:
    operator, sizes = small_net(1), []
    network = operator.network

    def watched(inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        return network(inputs)

    small = CurvatureOperator(watched, operator.batches, operator.parameters, memory=operator.bytes_per_input * 10)
    assert (small.plan, small.chunk) == ("chunked", 10)
    relative_flatness_probes(small, 2, 3, seed=0)  # of whose graph autograd saves much less
    assert max(sizes) <= 10 < len(operator.batches[0].inputs)


def test_relative_flatness_of_a_convolution_counts_it_as_the_matrix_of_its_patches() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(2, 3, 2, bias=False).double(), torch.randn(5, 2, 4, 4).double()
    labels = torch.tensor([0, 1, 2, 0, 1])
    loss = Loss(lambda z: z, lambda s: cross_entropy(s, labels))
    as_conv = CurvatureOperator(lambda v: conv(v).mean((2, 3)), [Batch(x, loss)], [conv.weight])
    matrix = conv.weight.detach().reshape(3, -1).clone().requires_grad_()
    patches = nn.functional.unfold(x, 2)  # (5, 8, 9)
    as_matrix = CurvatureOperator(lambda v: (matrix @ v).mean(2), [Batch(patches, loss)], [matrix])
    np.testing.assert_allclose(relative_flatness_probes(as_conv, 0, 5, 0), relative_flatness_probes(as_matrix, 0, 5, 0))


def test_fisher_rao_of_a_softmax_classifier_is_the_model_fisher() -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(9, 4).double(), torch.randint(0, 3, (9,))
    w = torch.randn(3, 4).double().requires_grad_()
    loss = Loss(lambda z: z, lambda s: cross_entropy(s, labels))
    operator = CurvatureOperator(lambda v: v @ w.T, [Batch(x, loss)], [w])
    truth = 0.0
    for row in x @ w.detach().T:  # the scores s = w x are linear in w, so that <w, F w> = mean var_p(s)
        p = row.softmax(0)
        truth += float((p * row**2).sum() - (p * row).sum() ** 2) / len(x)
    assert fisher_rao(operator) == pytest.approx(truth)


def test_fisher_rao_of_a_contrastive_loss_is_split_at_the_similarities() -> None:
    """``d^2/dt^2 L(s + t J w)`` at t = 0, with ``J w`` the derivative of the similarities along the weights."""
    operator = small_net(0)
    batch = operator.batches[0]
    weights = flatten([p.detach() for p in operator.parameters])

    def similarities(stretch: float) -> Tensor:
        with torch.no_grad(), perturbed(operator.parameters, stretch * weights):
            return batch.loss.logits(operator.network(batch.inputs))

    along = (similarities(1e-5) - similarities(-1e-5)) / 2e-5
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(batch.loss.scalar(similarities(0) + t * along), t, create_graph=True)[0]
    truth = float(torch.autograd.grad(first, t)[0])
    hessian = float(weights @ operator.matvec(weights))
    operator.release()
    assert abs(hessian - truth) > 0.05 * truth  # the Hessian would be another number
    assert fisher_rao(operator) == pytest.approx(truth, rel=1e-6)


def test_fisher_rao_says_nothing_of_a_homogeneous_net_with_unit_outputs() -> None:
    operator = small_net(0)
    assert fisher_rao(operator) > 1e-3
    for name, p in zip(operator.names, operator.parameters, strict=True):
        if name.endswith("bias"):
            p.detach().zero_()
    assert fisher_rao(operator) == pytest.approx(0.0, abs=1e-12)


def one_weight(function: Callable[[Tensor], Tensor], size: int = 1) -> CurvatureOperator:
    """A loss of the first of ``size`` weights alone, all at zero."""
    w = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    loss = Loss(lambda z: z, lambda s: function(s[0, 0]))
    return CurvatureOperator(lambda x: x * w, [Batch(torch.ones(1, size, dtype=torch.float64), loss)], [w])


def test_the_second_start_is_opposite_to_the_end_of_the_first() -> None:
    """The gradient points to the lower of the two maxima, and each of them is stable."""
    operator = one_weight(lambda x: x**2 / 2 + 0.01 * x - 0.1 * x**3)
    found = worst_case_rise(operator, torch.ones(1, dtype=torch.float64), 1.0, steps=5, restarts=2, seed=0)
    assert found.starts == pytest.approx([0.41, 0.59])
    assert found.rise == pytest.approx(0.59)


def test_random_starts_do_not_spend_their_radius_on_weights_that_cannot_move() -> None:
    """Starts near the centre would fall back over it; those on the sphere of what can move stay on their side."""
    operator = one_weight(lambda x: x**4 - 0.1 * x**2 + 0.01 * x**3, size=1000)
    scale = torch.tensor([1.0] + [0.0] * 999, dtype=torch.float64)
    sides = set()
    for seed in range(6):
        side = math.copysign(0.5, float(random_vector(1000, derive_seed(seed, "restart", 1), "cpu", torch.float64)[0]))
        found = worst_case_rise(operator, scale, 0.5, steps=1, restarts=2, seed=seed)
        assert found.starts[1] == pytest.approx(side**4 - 0.1 * side**2 + 0.01 * side**3)
        sides.add(side)
    assert len(sides) == 2
