"""Lanczos for symmetric operators: extreme eigenpairs with error bounds, in one Krylov space that other estimates reuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MatVec = Callable[[Tensor], Tensor]
# steps on end that must meet the tolerance: an eigenvector that the start vector hardly contains shows late, and with
# two steps up to 3 % of the runs on spectra of near pairs ended before it did, with three 0.5 %
STABLE_STEPS = 3
DOT_BLOCK = 2**16  # entries whose float64 copies stay in a cache
NEGLIGIBLE = 1e-150  # an operator of less is zero: squares of its products underflow in float64
NOISE_FACTOR = 3.0  # the basis sees only a part of a product's rounding


@dataclass(frozen=True)
class Krylov:
    """An orthonormal basis Q and the projected operator: ``H Q = Q T + next_norm * q_next e_m^T``.

    Coefficients are float64 whatever the precision of the products. After a thick restart T is no longer
    tridiagonal; the relation stays.
    """

    basis: Tensor  # (m, n) orthonormal rows
    projected: np.ndarray  # (m, m) symmetric, float64
    next_norm: float
    next_vector: Tensor  # (n,) of length one, orthogonal to the basis; zero where next_norm is
    products: int
    restarted: bool
    noise: np.ndarray  # (m,) norm of the rounding in the product of each basis vector

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz values in ascending order, their coordinates ``(m, m)`` in columns, and their residual norms ``(m,)``.

        The residuals are those of exact arithmetic; see :meth:`rounding` for what comes on top.
        """
        return _rayleigh_ritz(self.projected, self.next_norm)

    def rounding(self, values: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
        """What rounding may add to the residuals of Ritz pairs: ``values (k,)``, ``coordinates (m, k)``; ``(k,)``."""
        of_vectors = torch.finfo(self.basis.dtype).eps * np.abs(values)
        return np.asarray(np.sqrt(np.square(coordinates).T @ np.square(self.noise)) + of_vectors)

    def vectors(self, coordinates: np.ndarray) -> Tensor:
        """``(k, n)`` vectors of the coordinates ``(m, k)``."""
        return _combined(coordinates, self.basis)


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues with what bounds their error.

    ``residuals[i] = |H v_i - values[i] v_i|``: some true eigenvalue lies within it of ``values[i]``. ``errors[i]`` is
    the sharper estimate ``min(residual, residual^2 / gap)``, with the gap to the nearest other Ritz value. Both contain
    the rounding of the products, which is measured as they are made: exact arithmetic would leave no trace of a
    product along basis vectors other than the last two.
    """

    values: np.ndarray  # (k,) float64
    vectors: Tensor  # (k, n) unit rows
    residuals: np.ndarray  # (k,)
    errors: np.ndarray  # (k,)
    converged: np.ndarray  # (k,) bool


def random_vector(size: int, seed: int, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """``(n,)`` standard normal vector; drawn on the CPU so that every device gets the same one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)


def exact_dot(first: Tensor, second: Tensor) -> float:
    """Dot product of two vectors ``(n,)``, summed in float64.

    On CPUs block by block: two float64 copies of millions of weights cost more than all the rest.
    """
    if first.device.type != "cpu" or len(first) <= DOT_BLOCK:
        return float(torch.dot(first.double(), second.double()))
    blocks = zip(first.split(DOT_BLOCK), second.split(DOT_BLOCK), strict=True)
    return sum(float(torch.dot(a.double(), b.double())) for a, b in blocks)


def _length(vector: Tensor) -> float:
    """Norm of a vector ``(n,)``, also where its squares leave the precision."""
    length = float(vector.norm())
    return length if 0 < length < float("inf") else exact_dot(vector, vector) ** 0.5


def _combined(coordinates: np.ndarray, basis: Tensor) -> Tensor:
    """Linear combinations of the rows of a basis ``(m, n)``: coordinates ``(m, k)``, result ``(k, n)``.

    Summed in float64, block by block, and rounded once: a vector's rounding, times the largest eigenvalue, is part of
    its residual.
    """
    weights = torch.as_tensor(coordinates.T.copy(), dtype=torch.float64, device=basis.device)
    result = torch.empty(len(weights), basis.shape[1], dtype=basis.dtype, device=basis.device)
    for part, block in zip(result.split(DOT_BLOCK, dim=1), basis.split(DOT_BLOCK, dim=1), strict=True):
        part.copy_(weights @ block.double())
    return result


def error_estimates(values: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """``min(r, r^2 / gap)`` for ascending Ritz values; the gap is to the nearest other one, less that one's residual."""
    if len(values) < 2:
        return residuals.copy()
    gaps = np.full(len(values), np.inf)
    gaps[1:] = np.minimum(gaps[1:], values[1:] - values[:-1] - residuals[:-1])
    gaps[:-1] = np.minimum(gaps[:-1], values[1:] - values[:-1] - residuals[1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        sharp = np.where(gaps > residuals, residuals**2 / gaps, residuals)
    return np.asarray(np.minimum(residuals, sharp))


def _rayleigh_ritz(projected: np.ndarray, next_norm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, coordinates = np.linalg.eigh(projected)
    return values, coordinates, next_norm * np.abs(coordinates[-1])


def _magnitude(values: np.ndarray) -> np.ndarray:
    """What a relative tolerance refers to: the value itself, but never less than a thousandth of the largest."""
    return np.asarray(np.maximum(np.abs(values), 1e-3 * np.abs(values).max()))


def _wanted(values: np.ndarray, top: int, bottom: int) -> np.ndarray:
    """Indices, into ascending values, of the ``bottom`` smallest and ``top`` largest."""
    m = len(values)
    return np.array(sorted({*range(min(bottom, m)), *range(max(0, m - top), m)}), dtype=int)


def krylov_space(
    matvec: MatVec,
    start: Tensor,
    *,
    top: int = 0,
    bottom: int = 0,
    tolerance: float = 0.0,
    max_products: int = 100,
    max_vectors: int = 100,
) -> Krylov:
    """Lanczos with full reorthogonalisation (twice is enough; Giraud et al. 2005) and thick restart (Wu and Simon 2000).

    Stops once the error estimate of each of the ``top`` largest and ``bottom`` smallest Ritz values is at most
    ``tolerance`` times its magnitude (or a thousandth of the largest one, if that is more) and stayed so for two more
    steps, when the space is exhausted, or after ``max_products``. With ``tolerance=0`` it runs to ``max_products``.

    Args:
        start: ``(n,)``; its direction is the first basis vector.
        max_vectors: basis vectors held in memory; beyond it the wanted half of the Ritz vectors is kept.
    """
    size = start.numel()
    capacity = max(min(max_vectors, size), top + bottom + 3)
    basis = torch.zeros(min(capacity, max_products, size), size, dtype=start.dtype, device=start.device)
    projected = np.zeros((len(basis), len(basis)))
    vector = start / start.norm()
    scale, stable, products, m, restarted = 0.0, 0, 0, 0, False
    # what a product has along basis vectors where exact arithmetic would leave nothing; NaN where there are none such
    noise = np.full(len(basis), np.nan)
    coupled = False  # the next product meets all basis vectors, for the first time after a restart
    while True:
        basis[m] = vector
        product = matvec(vector)
        products += 1
        rows = basis[: m + 1]
        floor = torch.finfo(start.dtype).eps * _length(product)
        coefficients = torch.mv(rows, product)
        # the column of T in float64: float32 sums over millions of weights would cost it its last digits
        column = np.array([exact_dot(row, product) for row in rows[-2:]])
        product = product - rows.T @ coefficients
        correction = torch.mv(rows, product)
        product = product - rows.T @ correction
        full = (coefficients + correction).double().cpu().numpy()
        full[-len(column) :] = column
        noise[m] = np.nan if coupled or m < 2 else floor + float(np.linalg.norm(full[:-2]))
        coupled = False
        projected[m, : m + 1] = projected[: m + 1, m] = full
        m += 1
        norm = exact_dot(product, product) ** 0.5
        scale = max(scale, norm, float(np.abs(full).max()))
        exhausted = norm <= max(10 * torch.finfo(start.dtype).eps * scale, NEGLIGIBLE)
        if exhausted or products >= max_products or m == size:
            break
        if tolerance > 0 and m >= top + bottom:
            values, _, residuals = _rayleigh_ritz(projected[:m, :m], norm)
            index = _wanted(values, top, bottom)
            errors = error_estimates(values, residuals)[index]
            stable = stable + 1 if np.all(errors <= tolerance * _magnitude(values)[index]) else 0
            if stable >= STABLE_STEPS:
                break
        vector = product / norm
        if m == len(basis):
            m = _restart(basis, projected, noise, norm, top, bottom)
            restarted = coupled = True
    noise = NOISE_FACTOR * _known(noise[:m], torch.finfo(start.dtype).eps * scale)[0]
    vector = product / norm if norm > 0 else torch.zeros_like(product)
    return Krylov(basis[:m], projected[:m, :m].copy(), norm, vector, products, restarted, noise)


def _known(noise: np.ndarray, floor: float) -> tuple[np.ndarray, float]:
    """The noise of each product ``(m,)``, and what is typical of a product.

    Where it could not be measured, the largest or ``floor``, and never less than what is typical: rounding is as large as
    the largest eigenvalue makes it, whatever the direction, and a few basis vectors see a small part of it by chance.
    """
    typical = float(np.sqrt(np.nanmean(np.square(noise)))) if np.isfinite(noise).any() else 0.0
    filled = np.nan_to_num(noise, nan=max(floor, float(np.nanmax(noise, initial=floor))))
    return np.maximum(filled, typical), typical


def _restart(basis: Tensor, projected: np.ndarray, noise: np.ndarray, norm: float, top: int, bottom: int) -> int:
    """Keep the wanted Ritz vectors and some neighbours in the first rows; returns how many."""
    m = len(basis)
    values, coordinates, _ = _rayleigh_ritz(projected, norm)
    extra = (m - top - bottom) // 3
    keep = _wanted(values, top + (extra if top else 0), bottom + (extra if bottom else 0))
    keep = keep if len(keep) else np.arange(m - max(1, m // 2), m)
    basis[: len(keep)] = _combined(coordinates[:, keep], basis)
    known, typical = _known(noise, 0.0)
    noise[: len(keep)] = np.sqrt(np.square(coordinates[:, keep]).T @ np.square(known) + typical**2)  # rounded once more
    projected[:] = 0
    projected[np.arange(len(keep)), np.arange(len(keep))] = values[keep]
    # the couplings to the next vector come back as the next column, from its product with H
    return len(keep)


def eigenpairs(krylov: Krylov, which: str, k: int, tolerance: float) -> Eigenpairs:
    """Ritz pairs of a Krylov space.

    Args:
        which: ``largest`` or ``smallest`` (algebraically), or ``magnitude``. k: how many, the most extreme first.
        tolerance: of ``converged``, on the error estimate relative to the value's magnitude.
    """
    values, coordinates, residuals = krylov.ritz()
    rounding = krylov.rounding(values, coordinates)
    errors = error_estimates(values, residuals) + rounding
    residuals = np.hypot(residuals, rounding)
    order = {"largest": np.argsort(-values), "smallest": np.argsort(values), "magnitude": np.argsort(-np.abs(values))}[which][:k]
    chosen = values[order]
    return Eigenpairs(
        values=chosen,
        vectors=krylov.vectors(coordinates[:, order]),
        residuals=residuals[order],
        errors=errors[order],
        converged=errors[order] <= tolerance * np.maximum(_magnitude(values)[order], 1e-30),
    )
