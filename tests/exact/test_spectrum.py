"""Trace, norm and density from one run, on operators whose spectrum is known; coverage of the errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssa_analysis.numerics.lanczos import eigenpairs, krylov_space, random_vector
from ssa_analysis.numerics.spectrum import analyse_spectrum, deflated_density, trace_and_frobenius

BULK = np.concatenate([[100, 50, 20, 10, 5], np.linspace(-0.5, 1, 295)])


def dense_with(spectrum: np.ndarray) -> torch.Tensor:
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((len(spectrum),) * 2))
    return torch.from_numpy(q * spectrum @ q.T)


@pytest.fixture(scope="module")
def matrix() -> torch.Tensor:
    return dense_with(BULK)


def test_trace_and_norm_cover_the_truth(matrix: torch.Tensor) -> None:
    inside = np.zeros(2)
    for seed in range(200):
        krylov = krylov_space(lambda v: matrix @ v, random_vector(300, seed, "cpu", torch.float64), max_products=12)
        trace, square, _, _ = trace_and_frobenius(lambda v: matrix @ v, krylov, tolerance=0.0, max_probes=8, seed=1000 + seed)
        inside += [trace.low <= BULK.sum() <= trace.high, square.low <= np.square(BULK).sum() <= square.high]
    # nominal 95 %: below 178 of 200 has a chance of 1e-3 even at 93 %
    assert (inside >= 178).all(), inside


def test_the_krylov_basis_takes_most_of_the_noise_out(matrix: torch.Tensor) -> None:
    errors = {}
    for products in (1, 15):
        krylov = krylov_space(lambda v: matrix @ v, random_vector(300, 0, "cpu", torch.float64), max_products=products)
        errors[products] = trace_and_frobenius(lambda v: matrix @ v, krylov, tolerance=0.0, max_probes=20)[0].stderr
    assert errors[15] < 0.2 * errors[1]


def test_a_complete_basis_leaves_no_error() -> None:
    small = torch.diag(torch.tensor([2.0, -1.0, 4.0], dtype=torch.float64))
    krylov = krylov_space(lambda v: small @ v, random_vector(3, 0, "cpu", torch.float64))
    trace, square, converged, products = trace_and_frobenius(lambda v: small @ v, krylov, tolerance=0.01)
    assert trace.value == pytest.approx(5)
    assert square.value == pytest.approx(21)
    assert trace.stderr == square.stderr == products == 0
    assert converged


def test_the_trace_stops_at_its_tolerance_or_says_that_it_did_not(matrix: torch.Tensor) -> None:
    krylov = krylov_space(lambda v: matrix @ v, random_vector(300, 0, "cpu", torch.float64), max_products=10)
    trace, _, converged, products = trace_and_frobenius(lambda v: matrix @ v, krylov, tolerance=0.02)
    assert converged
    assert trace.stderr <= 0.02 * abs(trace.value)
    assert products < 64
    assert not trace_and_frobenius(lambda v: matrix @ v, krylov, tolerance=1e-9, max_probes=5)[2]


def test_the_density_integrates_to_one_and_has_the_spectrums_mean(matrix: torch.Tensor) -> None:
    krylov = krylov_space(lambda v: matrix @ v, random_vector(300, 0, "cpu", torch.float64), top=5, tolerance=1e-6)
    known = eigenpairs(krylov, "largest", 5, 1e-4)
    density, mass, products = deflated_density(
        lambda v: matrix @ v, 300, known, probes=10, steps=15, grid_points=6000, seed=1, dtype=torch.float64
    )
    step = density.grid[1] - density.grid[0]
    assert products == 150
    assert density.density.sum() * step == pytest.approx(1, abs=1e-3)
    mean = (density.grid * density.density).sum() * step
    assert mean == pytest.approx(BULK.mean(), abs=0.03)
    assert mass.value == pytest.approx(-BULK[BULK < 0].sum() / np.abs(BULK).sum(), abs=4 * mass.stderr)
    # a converged eigenvalue is a line of mass 1/n at its place
    near = np.abs(density.grid - 100) < 5
    assert density.density[near].sum() * step == pytest.approx(1 / 300, rel=1e-3)


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
    assert found.effective_rank == pytest.approx(7, rel=0.05)


def test_operators_smaller_than_what_is_asked() -> None:
    found = analyse_spectrum(lambda v: 2 * v, 1, top=5, bottom=3, dtype=torch.float64)
    assert found.largest.values.tolist() == [2]
    assert found.trace.value == 2
    assert found.negative_mass.value == 0
