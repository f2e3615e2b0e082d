"""Trace, norm and density from one run, on operators whose spectrum is known (coverage: test_spectrum_coverage.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ssa_analysis.numerics.lanczos import krylov_space, random_vector
from ssa_analysis.numerics.quadrature import Quadrature, Rule, averaged_gauss, negative_mass, spectral_density
from ssa_analysis.numerics.spectrum import Spectrum, _Lines, _merged, _Moments, analyse_spectrum
from ssa_analysis.numerics.transport import wasserstein_1d

BULK = np.concatenate([[100, 50, 20, 10, 5], np.linspace(-0.5, 1, 295)])


def dense_with(spectrum: np.ndarray) -> torch.Tensor:
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((len(spectrum),) * 2))
    return torch.from_numpy(q * spectrum @ q.T)


@pytest.fixture(scope="module")
def matrix() -> torch.Tensor:
    return dense_with(BULK)


def run(matrix: torch.Tensor, **options: Any) -> Spectrum:
    return analyse_spectrum(lambda v: matrix @ v, len(matrix), dtype=matrix.dtype, matmat=lambda rows: rows @ matrix, **options)


def test_the_krylov_basis_takes_most_of_the_noise_out(matrix: torch.Tensor) -> None:
    errors = {
        products: run(matrix, tolerance=0.0, max_products=products, trace_tolerance=0.0, trace_probes=20).trace.stderr
        for products in (1, 15)
    }
    assert errors[15] < 0.2 * errors[1]


def test_a_complete_basis_leaves_no_error() -> None:
    found = run(torch.diag(torch.tensor([2.0, -1.0, 4.0], dtype=torch.float64)), tolerance=0.0)
    assert found.trace.value == pytest.approx(5)
    assert found.squared_frobenius.value == pytest.approx(21)
    assert found.effective_rank.value == pytest.approx(25 / 21)
    assert found.negative_mass.value == pytest.approx(1 / 7)
    assert found.trace.stderr == found.squared_frobenius.stderr == found.effective_rank.stderr == 0
    assert found.products == {"eigenvalues": 3, "trace": 0, "density": 0}
    assert found.trace_converged
    np.testing.assert_array_equal(found.density.low, found.density.high)


def test_the_trace_stops_at_its_tolerance_or_says_that_it_did_not(matrix: torch.Tensor) -> None:
    found = run(matrix, max_products=10, trace_tolerance=0.02)
    assert found.trace_converged
    assert found.trace.stderr <= 0.02 * abs(found.trace.value)
    assert found.products["trace"] + 4 < 64
    short = run(matrix, max_products=10, trace_tolerance=1e-9, trace_probes=5)
    assert not short.trace_converged
    assert short.products["trace"] == 1


def test_the_density_integrates_to_one_and_has_the_spectrums_mean(matrix: torch.Tensor) -> None:
    found = run(matrix, tolerance=1e-6, density_probes=10, density_steps=15, seed=1)
    density, mass = found.density, found.negative_mass
    steps = np.gradient(density.grid)
    assert found.products["density"] == 150
    assert (density.density * steps).sum() == pytest.approx(1, abs=1e-3)
    mean = (density.grid * density.density * steps).sum()
    assert mean == pytest.approx(BULK.mean(), abs=0.03)
    assert mass.value == pytest.approx(-BULK[BULK < 0].sum() / np.abs(BULK).sum(), abs=4 * mass.stderr)
    # a converged eigenvalue is a line of mass 1/n at its place, however far out, and as narrow as the bulk allows
    near = np.abs(density.grid - 100) < 5
    assert (density.density * steps)[near].sum() == pytest.approx(1 / 300, rel=1e-3)
    assert density.width < 0.1


def test_the_negative_mass_of_a_semi_definite_operator_is_zero_up_to_rounding() -> None:
    spectrum = np.concatenate([np.zeros(200), np.linspace(0, 5, 50)])
    matrix = dense_with(spectrum).float()
    found = analyse_spectrum(lambda v: matrix @ v, 250, top=2)
    assert 0 <= found.negative_mass.value < 1e-5


def test_effective_rank_of_a_projection_is_its_rank() -> None:
    """One eigenvalue seven times over: the Krylov space sees it once, the probes must find the rest."""
    matrix = dense_with(np.concatenate([np.ones(7), np.zeros(93)]))
    found = analyse_spectrum(lambda v: matrix @ v, 100, top=1, trace_tolerance=0.01, trace_probes=2000, dtype=torch.float64)
    assert found.trace.low <= 7 <= found.trace.high
    assert found.effective_rank.value == pytest.approx(7, rel=0.05)


def test_operators_smaller_than_what_is_asked() -> None:
    found = analyse_spectrum(lambda v: 2 * v, 1, top=5, bottom=3, dtype=torch.float64)
    assert found.largest.values.tolist() == [2]
    assert found.trace.value == 2
    assert found.negative_mass.value == 0


def test_probes_side_by_side_are_the_probes_one_by_one(matrix: torch.Tensor) -> None:
    runs = [
        analyse_spectrum(lambda v: matrix @ v, 300, seed=3, dtype=torch.float64, matmat=matmat)
        for matmat in (None, lambda rows: rows @ matrix)
    ]
    assert runs[0].products == runs[1].products
    assert runs[0].trace.value == pytest.approx(runs[1].trace.value, rel=1e-10)
    np.testing.assert_allclose(runs[0].density.density, runs[1].density.density, atol=1e-8)


def test_the_density_is_closer_to_the_spectrum_than_plain_quadrature_with_three_times_the_products(matrix: torch.Tensor) -> None:
    ours, plain = [], []
    for seed in range(10):
        found = analyse_spectrum(
            lambda v: matrix @ v, 300, tolerance=0.0, max_products=12, density_probes=1, density_steps=8, trace_probes=1,
            seed=seed, dtype=torch.float64,
        )  # fmt: skip
        assert found.density.weights.sum() == pytest.approx(1)
        ours.append(wasserstein_1d(found.density.nodes, BULK, found.density.weights))
        krylov = krylov_space(lambda v: matrix @ v, random_vector(300, seed, "cpu", torch.float64), max_products=60)
        values, coordinates, _ = krylov.ritz()
        plain.append(wasserstein_1d(values, BULK, coordinates[0] ** 2))
    assert np.median(ours) < np.median(plain)


def test_the_averaged_rule_is_nearer_to_the_uniform_law_than_the_gauss_rule() -> None:
    """Lanczos coefficients of the uniform law on [-1, 1]: Legendre's recurrence."""
    steps = 5
    found = averaged_gauss([0.0] * steps, [k / np.sqrt(4 * k**2 - 1) for k in range(1, steps + 1)])
    rule = found.rule
    assert len(rule.nodes) == 2 * steps - 1
    assert found.products == steps
    np.testing.assert_allclose(rule.nodes, -rule.nodes[::-1], atol=1e-12)
    shorter = np.polynomial.legendre.leggauss(steps - 1)[0]
    assert np.abs(rule.nodes[:, None] - shorter).min(0).max() < 1e-12  # the Gauss nodes of one step less are among them
    gauss, weights = np.polynomial.legendre.leggauss(steps)
    np.testing.assert_allclose(found.coarser.nodes, gauss, atol=1e-12)
    np.testing.assert_allclose(found.coarser.weights, weights / 2, atol=1e-12)
    uniform = np.linspace(-1, 1, 2001)
    assert wasserstein_1d(rule.nodes, uniform, rule.weights) < 0.7 * wasserstein_1d(gauss, uniform, weights)


def test_the_errors_of_density_and_negative_mass_contain_the_distance_between_the_rules() -> None:
    """Probes that agree, but whose two rules do not: by a shift that leaves the ends in place."""
    ends, half = np.array([-1.0, 2.0]), np.full(2, 0.5)
    apart = Quadrature(Rule(ends, half), Rule(ends, np.array([0.8, 0.2])), 2)
    together = Quadrature(Rule(ends, half), Rule(ends, half), 2)
    lines = np.zeros(0)
    assert negative_mass(lines, [together] * 3, 100).stderr == 0
    found = negative_mass(lines, [apart] * 3, 100)
    assert found.value == pytest.approx(1 / 3)
    assert found.high == pytest.approx(0.8 / 1.2)
    assert found.low == pytest.approx(0)
    density = spectral_density(lines, [apart] * 3, 100)
    at = np.argmax(density.density)
    assert density.high[at] == pytest.approx(1.6 * density.density[at], rel=1e-3)
    exact = spectral_density(lines, [together] * 3, 100)
    np.testing.assert_allclose(exact.high, exact.low, rtol=1e-9)
    assert exact.width == pytest.approx(0.03)
    # a line whose place is not certain: what it would be elsewhere is in the band
    moved = spectral_density(np.array([1.0]), [together] * 3, 100, errors=np.array([0.05]))
    for place in (0.95, 1.05):
        elsewhere = spectral_density(np.array([place]), [together] * 3, 100)
        inside = (moved.low <= elsewhere.density + 1e-9) & (elsewhere.density <= moved.high + 1e-9)
        assert inside.all()
        assert not (np.abs(elsewhere.density - moved.density) < 1e-3).all()


def test_the_averaged_rule_stays_within_the_ritz_values() -> None:
    values = np.array([0.0, 0.0, 1.0, 5.0, 5.5])
    krylov = krylov_space(lambda v: torch.from_numpy(values) * v, random_vector(5, 1, "cpu", torch.float64), max_products=2)
    rule = averaged_gauss(np.diag(krylov.projected).tolist(), [krylov.projected[0, 1], krylov.next_norm]).rule
    assert rule.nodes.min() >= np.linalg.eigvalsh(krylov.projected)[0] >= 0
    assert rule.weights.sum() == pytest.approx(1)


TWINS = np.concatenate([[50, 50, 20, 10], np.linspace(0, 1, 150)])


@pytest.mark.parametrize("sign", [1, -1])
def test_an_eigenvalue_that_the_start_vector_does_not_contain_is_found_off_the_others(sign: int) -> None:
    """Two copies of 50: a Krylov space holds one, and takes 20 for the second largest."""
    matrix = sign * dense_with(TWINS)
    ends = {"top": 3} if sign > 0 else {"top": 0, "bottom": 3}
    found = run(matrix, **ends)
    pairs = found.largest if sign > 0 else found.smallest
    np.testing.assert_allclose(pairs.values, sign * TWINS[:3], rtol=1e-3)
    assert pairs.converged.all()
    images = (pairs.vectors @ matrix - torch.from_numpy(pairs.values)[:, None] * pairs.vectors).norm(dim=1).numpy()
    assert (images <= pairs.residuals * (1 + 1e-6)).all()
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(3), atol=1e-9)
    first = krylov_space(lambda v: matrix @ v, random_vector(154, 0, "cpu", torch.float64), tolerance=1e-3, **ends)
    assert found.products["eigenvalues"] > first.products


@pytest.mark.parametrize("sign", [1, -1])
def test_what_was_missed_takes_converged_back_where_no_products_are_left(sign: int) -> None:
    matrix, ends = sign * dense_with(TWINS), {"top": 2} if sign > 0 else {"top": 0, "bottom": 2}
    first = krylov_space(lambda v: matrix @ v, random_vector(154, 0, "cpu", torch.float64), tolerance=1e-3, **ends)
    found = run(matrix, max_products=first.products + 3, **ends)
    pairs = found.largest if sign > 0 else found.smallest
    np.testing.assert_allclose(pairs.values, [sign * 50, sign * 20], rtol=1e-3)
    assert pairs.converged.tolist() == [True, False]
    assert found.products["eigenvalues"] == first.products


def test_five_copies() -> None:
    found = run(dense_with(np.concatenate([[50] * 5, [20, 10], np.linspace(0, 1, 150)])), top=5)
    np.testing.assert_allclose(found.largest.values, 50, rtol=1e-3)


@pytest.mark.parametrize(("seen", "converged"), [(30.0, [True, True, True]), (40.0, [True, False, False])])
def test_a_second_search_that_finds_less_than_the_probes_saw_converges_nothing_below(seen: float, converged: list[bool]) -> None:
    diagonal = torch.tensor([50.0, 20.0, 30.0, 1.0], dtype=torch.float64)
    small = np.full(2, 1e-9)
    lines = _Lines(np.array([50.0, 20.0]), small, small, torch.eye(4, dtype=torch.float64)[:2])
    again = krylov_space(lambda v: diagonal * v, torch.tensor([0.0, 0, 1, 1], dtype=torch.float64))
    for sign, which in ((1, "largest"), (-1, "smallest")):
        turned = replace(again, projected=sign * again.projected)
        known = replace(lines, values=sign * lines.values)
        found = _merged(known, turned, which, 3, 1e-3, sign * seen)
        np.testing.assert_allclose(found.values, [sign * 50, sign * 30, sign * 20])
        assert found.converged.tolist() == converged


def test_honest_runs_keep_converged(matrix: torch.Tensor) -> None:
    for seed in range(20):
        assert analyse_spectrum(lambda v: matrix @ v, 300, top=5, seed=seed, dtype=torch.float64).largest.converged.all()


@pytest.mark.parametrize("max_vectors", [50, 8])
def test_what_a_probe_has_inside_the_krylov_space_is_taken_out_without_a_product(matrix: torch.Tensor, max_vectors: int) -> None:
    start = random_vector(300, 0, "cpu", torch.float64)
    krylov = krylov_space(lambda v: matrix @ v, start, top=2, max_products=15, max_vectors=max_vectors)
    moments = _Moments(krylov, 0.1)
    probes = torch.randn(3, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moments.add(probes, probes @ matrix)
    outside = probes - probes @ krylov.basis.T @ krylov.basis
    np.testing.assert_allclose(moments.traces, ((outside @ matrix) * outside).sum(1), rtol=1e-9)
    np.testing.assert_allclose(moments.squares, (outside @ matrix).square().sum(1), rtol=1e-9)
    within = outside @ matrix @ krylov.basis.T @ krylov.basis
    np.testing.assert_allclose(moments.inner_squares, (outside @ matrix - within).square().sum(1), rtol=1e-9)
