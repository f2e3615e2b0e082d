"""Largest eigenvalues of a symmetric operator, each with a residual that bounds its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

MatVec = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues in descending order.

    ``residuals[i] = |H v_i - values[i] v_i|``: some true eigenvalue lies within it of ``values[i]``.
    """

    values: np.ndarray  # (k,) float64
    vectors: Tensor  # (k, n) unit rows
    residuals: np.ndarray  # (k,)
    converged: np.ndarray  # (k,) bool
    products: int


@dataclass(frozen=True)
class Tridiagonal:
    """The Krylov relation ``H Q = Q T + residual_norm * q_next e_m^T``."""

    diagonal: np.ndarray  # (m,)
    off_diagonal: np.ndarray  # (m - 1,)
    residual_norm: float
    basis: Tensor  # (m, n) orthonormal rows


def _grow(
    matvec: MatVec, start: Tensor, steps: int, stop: Callable[[np.ndarray, np.ndarray, float], bool] | None = None
) -> Tridiagonal:
    """Lanczos with full reorthogonalisation (twice is enough; Giraud et al. 2005) and float64 coefficients."""
    basis = torch.zeros(steps, start.numel(), dtype=start.dtype, device=start.device)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    vector = start / start.norm()
    scale = 0.0
    for step in range(steps):
        basis[step] = vector
        product = matvec(vector)
        diagonal.append(float(torch.dot(product.double(), vector.double())))
        for _ in range(2):
            product = product - basis[: step + 1].T @ (basis[: step + 1] @ product)
        residual = float(product.double().norm())
        scale = max(scale, abs(diagonal[-1]), residual)
        # an invariant subspace is found when the next direction is rounding noise
        exhausted = residual <= 10 * torch.finfo(start.dtype).eps * scale
        if exhausted or step == steps - 1 or (stop and stop(np.array(diagonal), np.array(off_diagonal), residual)):
            break
        off_diagonal.append(residual)
        vector = product / residual
    return Tridiagonal(np.array(diagonal), np.array(off_diagonal), residual, basis[: len(diagonal)])


def random_vector(size: int, seed: int, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """``(n,)`` standard normal vector; drawn on the CPU so that every device gets the same one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)


def lanczos_tridiagonal(matvec: MatVec, start: Tensor, steps: int) -> Tridiagonal:
    """At most ``steps`` Lanczos steps from ``start``; fewer when the Krylov space is exhausted."""
    return _grow(matvec, start, min(steps, start.numel()))


def top_eigenpairs(
    matvec: MatVec,
    size: int,
    k: int,
    *,
    tolerance: float = 1e-3,
    max_products: int = 100,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Eigenpairs:
    """The ``k`` algebraically largest eigenvalues of a symmetric operator.

    Stops when the residual of each of the k pairs is at most ``tolerance`` times the largest magnitude seen, and
    stayed so for one more step, or after ``max_products`` products; ``converged`` says which pairs made it.

    Args:
        matvec: product with an ``(n,)`` vector.
        size: n.
        tolerance: relative residual.
    """
    k = min(k, size)
    stable = 0

    def done(diagonal: np.ndarray, off_diagonal: np.ndarray, residual: float) -> bool:
        nonlocal stable
        if len(diagonal) < k:
            return False
        values, vectors = eigh_tridiagonal(diagonal, off_diagonal)
        errors = residual * np.abs(vectors[-1, -k:])
        stable = stable + 1 if np.all(errors <= tolerance * np.abs(values).max()) else 0
        return stable >= 2

    krylov = _grow(matvec, random_vector(size, seed, device, dtype), min(max_products, size), done)
    values, vectors = eigh_tridiagonal(krylov.diagonal, krylov.off_diagonal)
    order = np.argsort(values)[::-1][:k]
    residuals = krylov.residual_norm * np.abs(vectors[-1, order])
    ritz = torch.as_tensor(vectors[:, order].T.copy(), dtype=dtype, device=device) @ krylov.basis
    return Eigenpairs(
        values=values[order],
        vectors=ritz,
        residuals=residuals,
        converged=residuals <= tolerance * max(np.abs(values).max(), 1e-30),
        products=len(krylov.diagonal),
    )
