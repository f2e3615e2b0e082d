"""Lanczos on operators whose spectrum is known."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ssa_analysis.numerics.lanczos import eigenpairs, exact_dot, krylov_space, random_vector

SPECTRA = {
    "gapped": np.concatenate([[100, 50, 20, 10, 5], np.linspace(-0.1, 1, 195)]),
    "clustered": np.concatenate([[10.0, 9.999, 9.998, 9.0], np.linspace(0, 1, 96)]),
    "degenerate": np.concatenate([[5.0, 5.0, 3.0], np.linspace(0, 1, 100)]),
    "plus and minus": np.concatenate([[7.0, -7.0, 5.0, -5.0], np.linspace(-0.5, 0.5, 60)]),
    "no gap": np.linspace(-1, 1, 150),
    "all negative": -np.geomspace(1e-1, 10, 80),
    "one giant": np.concatenate([[1e5, 20, 10, 5], np.linspace(-0.1, 1, 196)]),
    "tiny": 1e-8 * np.concatenate([[5, 3, 2], np.linspace(0, 1, 50)]),
}


def dense_with(spectrum: np.ndarray, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(spectrum),) * 2))
    return torch.from_numpy(q * spectrum @ q.T).to(dtype)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("max_vectors", [200, 16])
def test_top_eigenvalues_of_known_spectra_with_and_without_restart(name: str, seed: int, max_vectors: int) -> None:
    if (name, max_vectors) == ("all negative", 16):
        pytest.skip("the top of this spectrum is its dense end, which 16 vectors resolve in thousands of products")
    spectrum = SPECTRA[name]
    matrix = dense_with(spectrum)
    start = random_vector(len(spectrum), seed, "cpu", torch.float64)
    krylov = krylov_space(lambda v: matrix @ v, start, top=3, tolerance=1e-6, max_products=600, max_vectors=max_vectors)
    found = eigenpairs(krylov, "largest", 3, 1e-6)
    expected = np.sort(spectrum)[::-1][:3]
    assert found.converged.all()
    np.testing.assert_allclose(found.values, expected, atol=2e-6 * np.abs(spectrum).max())
    assert len(krylov.basis) <= max_vectors
    assert krylov.restarted == (krylov.products > max_vectors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_and_magnitude_from_one_space(dtype: torch.dtype) -> None:
    spectrum = SPECTRA["plus and minus"]
    matrix = dense_with(spectrum, dtype=dtype)
    krylov = krylov_space(lambda v: matrix @ v, random_vector(64, 0, "cpu", dtype), top=2, bottom=2, tolerance=1e-4)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-6
    np.testing.assert_allclose(eigenpairs(krylov, "largest", 2, 1e-3).values, [7, 5], rtol=tolerance)
    np.testing.assert_allclose(eigenpairs(krylov, "smallest", 2, 1e-3).values, [-7, -5], rtol=tolerance)
    np.testing.assert_allclose(np.abs(eigenpairs(krylov, "magnitude", 4, 1e-3).values), [7, 7, 5, 5], rtol=tolerance)


def test_a_full_krylov_space_is_exact_and_knows_it() -> None:
    matrix = torch.diag(torch.tensor([3.0, 1.0, -2.0], dtype=torch.float64))
    krylov = krylov_space(lambda v: matrix @ v, random_vector(3, 0, "cpu", torch.float64), top=3, tolerance=1e-3)
    found = eigenpairs(krylov, "largest", 5, 1e-3)
    np.testing.assert_allclose(found.values, [3, 1, -2], atol=1e-12)
    assert krylov.products == 3
    assert found.converged.all()


def test_running_out_of_products_is_said() -> None:
    matrix = dense_with(SPECTRA["no gap"])
    start = random_vector(150, 0, "cpu", torch.float64)
    found = eigenpairs(krylov_space(lambda v: matrix @ v, start, top=3, tolerance=1e-8, max_products=8), "largest", 3, 1e-8)
    assert not found.converged.all()
    # the residual still bounds the distance to some true eigenvalue
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert np.abs(SPECTRA["no gap"] - value).min() <= residual + 1e-12


def test_a_zero_operator_is_all_zero() -> None:
    krylov = krylov_space(torch.zeros_like, random_vector(10, 0, "cpu", torch.float32), top=2, tolerance=1e-3)
    np.testing.assert_array_equal(eigenpairs(krylov, "largest", 2, 1e-3).values, [0])
    assert krylov.products == 1


@settings(max_examples=100, deadline=None)
@example(spectrum=[0.0, 1.47e-159], products=2, capacity=4, seed=0)
@given(
    spectrum=st.lists(st.floats(-100, 100), min_size=2, max_size=25),
    products=st.integers(1, 40),
    capacity=st.integers(4, 25),
    seed=st.integers(0, 1000),
)
def test_krylov_relation_and_residual_bound_hold_for_any_spectrum(
    spectrum: list[float], products: int, capacity: int, seed: int
) -> None:
    values = np.array(spectrum)
    matrix = dense_with(values, seed)
    start = random_vector(len(values), seed, "cpu", torch.float64)
    krylov = krylov_space(lambda v: matrix @ v, start, top=1, max_products=products, max_vectors=capacity)
    basis, m = krylov.basis, len(krylov.basis)
    scale = max(1.0, np.abs(values).max())
    torch.testing.assert_close(basis @ basis.T, torch.eye(m, dtype=torch.float64), atol=1e-8, rtol=0)
    np.testing.assert_allclose((basis @ matrix @ basis.T).numpy(), krylov.projected, atol=1e-7 * scale)
    rest = matrix @ basis.T - basis.T @ torch.from_numpy(krylov.projected)
    assert abs(float(rest[:, -1].norm()) - krylov.next_norm) <= 1e-7 * scale
    assert float(rest[:, :-1].norm()) <= 1e-7 * scale
    ritz, _, bounds = krylov.ritz()
    for value, bound in zip(ritz, bounds, strict=True):
        assert np.abs(values - value).min() <= bound + 1e-7 * scale


@pytest.mark.parametrize("name", ["gapped", "clustered", "plus and minus", "one giant"])
@pytest.mark.parametrize("max_vectors", [200, 16])
def test_in_single_precision_the_residuals_bound_those_that_a_product_shows(name: str, max_vectors: int) -> None:
    """Far beyond its tolerance the recurrence claims residuals that float32 products cannot have."""
    slack = []
    for seed in range(20):
        matrix = dense_with(SPECTRA[name], seed, dtype=torch.float32)
        krylov = krylov_space(
            partial(torch.mv, matrix),
            random_vector(len(matrix), seed, "cpu", torch.float32),
            top=3,
            max_products=60,
            max_vectors=max_vectors,
        )
        found = eigenpairs(krylov, "largest", 3, 1e-3)
        vectors, exact = found.vectors.double(), torch.from_numpy(found.values)
        shown = (vectors @ matrix.double() - exact[:, None] * vectors).norm(dim=1).numpy()
        assert (shown <= found.residuals).all()
        slack.append(found.residuals / shown)
        truth = np.sort(np.linalg.eigvalsh(matrix.double().numpy()))[::-1][:3]
        assert (np.abs(found.values - truth) <= found.errors).all()
        assert not eigenpairs(krylov, "largest", 3, 1e-9).converged.any()
    assert (np.median(slack, axis=0) <= 50).all()  # the rounding of a float32 product, not a multiple of the spectrum


def test_the_dot_product_of_single_precision_vectors_is_summed_in_double() -> None:
    rng = np.random.default_rng(0)
    first, second = (torch.from_numpy(rng.standard_normal(3 * 2**16 + 5).astype(np.float32)) for _ in range(2))
    truth = float(torch.dot(first.double(), second.double()))
    size = float(torch.dot(first.double().abs(), second.double().abs()))
    assert abs(exact_dot(first, second) - truth) < 1e-14 * size
    assert abs(float(torch.dot(first, second)) - truth) > 1e-12 * size
