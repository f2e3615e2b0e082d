"""Lanczos on operators whose spectrum is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssa_analysis.numerics.density import spectral_density
from ssa_analysis.numerics.lanczos import lanczos_tridiagonal, random_vector, top_eigenpairs
from ssa_analysis.numerics.trace import hutchinson_trace

SPECTRA = {
    "gapped": np.concatenate([[100, 50, 20, 10, 5], np.linspace(-0.1, 1, 195)]),
    "clustered": np.concatenate([[10.0, 9.999, 9.998, 9.0], np.linspace(0, 1, 96)]),
    "plus and minus": np.concatenate([[7.0, -7.0, 5.0, -5.0], np.zeros(60)]),
    "no gap": np.linspace(-1, 1, 150),
    "all negative": -np.geomspace(1e-3, 10, 80),
    "tiny": 1e-8 * np.concatenate([[5, 3, 2], np.linspace(0, 1, 50)]),
}


def dense_with(spectrum: np.ndarray, seed: int = 0) -> torch.Tensor:
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(spectrum),) * 2))
    return torch.from_numpy(q * spectrum @ q.T)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_top_eigenvalues_of_known_spectra(name: str, seed: int) -> None:
    spectrum = SPECTRA[name]
    matrix = dense_with(spectrum)
    found = top_eigenpairs(
        lambda v: matrix @ v, len(spectrum), 3, tolerance=1e-6, max_products=150, seed=seed, dtype=torch.float64
    )
    expected = np.sort(spectrum)[::-1][:3]
    assert found.converged.all()
    np.testing.assert_allclose(found.values, expected, atol=2e-6 * np.abs(spectrum).max())


def test_a_full_krylov_space_is_exact_and_knows_it() -> None:
    matrix = torch.diag(torch.tensor([3.0, 1.0, -2.0], dtype=torch.float64))
    found = top_eigenpairs(lambda v: matrix @ v, 3, 5, dtype=torch.float64)
    np.testing.assert_allclose(found.values, [3, 1, -2], atol=1e-12)
    assert found.products == 3
    assert found.converged.all()


def test_running_out_of_products_is_said() -> None:
    matrix = dense_with(SPECTRA["no gap"])
    found = top_eigenpairs(lambda v: matrix @ v, 150, 3, tolerance=1e-8, max_products=8, dtype=torch.float64)
    assert not found.converged.all()
    # the residual still bounds the distance to some true eigenvalue
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert np.abs(SPECTRA["no gap"] - value).min() <= residual + 1e-12


def test_a_zero_operator_is_all_zero() -> None:
    found = top_eigenpairs(lambda v: torch.zeros_like(v), 10, 2)
    np.testing.assert_array_equal(found.values, np.zeros(len(found.values)))


@settings(max_examples=60, deadline=None)
@given(
    spectrum=st.lists(st.floats(-100, 100), min_size=2, max_size=25),
    steps=st.integers(1, 25),
    seed=st.integers(0, 1000),
)
def test_krylov_relation_and_residual_bound_hold_for_any_spectrum(spectrum: list[float], steps: int, seed: int) -> None:
    values = np.array(spectrum)
    matrix = dense_with(values, seed)
    krylov = lanczos_tridiagonal(lambda v: matrix @ v, random_vector(len(values), seed, "cpu", torch.float64), steps)
    basis, m = krylov.basis, len(krylov.diagonal)
    scale = max(1.0, np.abs(values).max())
    torch.testing.assert_close(basis @ basis.T, torch.eye(m, dtype=torch.float64), atol=1e-8, rtol=0)
    t = np.diag(krylov.diagonal) + np.diag(krylov.off_diagonal, 1) + np.diag(krylov.off_diagonal, -1)
    np.testing.assert_allclose((basis @ matrix @ basis.T).numpy(), t, atol=1e-7 * scale)
    ritz, vectors = np.linalg.eigh(t)
    for value, bound in zip(ritz, krylov.residual_norm * np.abs(vectors[-1]), strict=True):
        assert np.abs(values - value).min() <= bound + 1e-7 * scale


def test_the_trace_of_a_diagonal_matrix_is_exact_with_rademacher_probes() -> None:
    diagonal = torch.linspace(-1, 5, 40)
    estimate = hutchinson_trace(lambda v: diagonal * v, 40)
    assert estimate.value == pytest.approx(float(diagonal.sum()), rel=1e-6)
    assert estimate.converged


def test_plain_hutchinson_covers_the_trace() -> None:
    matrix = dense_with(SPECTRA["no gap"] + 1)
    covered = 0
    for seed in range(100):
        e = hutchinson_trace(lambda v: matrix @ v, 150, tolerance=0.0, max_probes=20, seed=seed, dtype=torch.float64)
        covered += abs(e.value - 150) <= 1.96 * e.stderr
    assert 86 <= covered <= 100


def test_negative_mass_of_a_known_spectrum() -> None:
    spectrum = np.concatenate([np.linspace(1, 2, 150), np.linspace(-2, -1, 50)])
    matrix = dense_with(spectrum)
    found = spectral_density(lambda v: matrix @ v, 200, probes=20, steps=20, dtype=torch.float64)
    assert found.negative_mass == pytest.approx(0.25, abs=4 * found.negative_mass_stderr)
    assert found.negative_mass_stderr < 0.02
