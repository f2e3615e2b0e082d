"""Spectral density by stochastic Lanczos quadrature (Ghorbani et al. 2019; Ubaru et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal

from ssa_analysis.numerics.lanczos import MatVec, lanczos_tridiagonal, random_vector


@dataclass(frozen=True)
class SpectralDensity:
    """A density that integrates to one over the eigenvalue axis, with the spread over its probes.

    ``negative_mass`` is the fraction of eigenvalues below zero, as the quadrature sees it.
    """

    grid: np.ndarray  # (g,) eigenvalue axis
    density: np.ndarray  # (g,) mean over probes
    stderr: np.ndarray  # (g,)
    negative_mass: float
    negative_mass_stderr: float
    products: int


def spectral_density(
    matvec: MatVec,
    size: int,
    *,
    probes: int = 4,
    steps: int = 24,
    grid_points: int = 400,
    relative_width: float = 0.01,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> SpectralDensity:
    """Density of the eigenvalues, each quadrature node widened to a Gaussian of ``relative_width`` of the range.

    Args:
        matvec: product with an ``(n,)`` vector. size: n.
        probes: independent start vectors. steps: Lanczos steps each.

    Notes:
        The standard error is over probes only. Eigenvalues closer to zero than the nodes are to each other share a
        node and its sign, which biases ``negative_mass`` where the spectrum is dense there; more steps resolve it.
        Nodes within ``1e-6`` of the largest magnitude count as zero for ``negative_mass``: the huge null space
        of a network's Hessian would otherwise be split at random by rounding.
    """
    nodes: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    products = 0
    for probe in range(probes):
        krylov = lanczos_tridiagonal(matvec, random_vector(size, seed + probe, device, dtype), steps)
        values, vectors = eigh_tridiagonal(krylov.diagonal, krylov.off_diagonal)
        nodes.append(values)
        weights.append(vectors[0] ** 2)
        products += len(values)
    low, high = min(v.min() for v in nodes), max(v.max() for v in nodes)
    span = max(high - low, 1e-12)
    width = relative_width * span
    grid = np.linspace(low - 5 * width, high + 5 * width, grid_points)
    curves = np.stack(
        [
            (w * np.exp(-0.5 * ((grid[:, None] - v) / width) ** 2)).sum(1) / (width * np.sqrt(2 * np.pi))
            for v, w in zip(nodes, weights, strict=True)
        ]
    )
    edge = -1e-6 * max(abs(low), abs(high))
    negative = np.array([w[v < edge].sum() for v, w in zip(nodes, weights, strict=True)])
    root = np.sqrt(max(probes, 1))
    spread = curves.std(0, ddof=1) / root if probes > 1 else np.full(grid_points, np.nan)
    return SpectralDensity(
        grid=grid,
        density=curves.mean(0),
        stderr=spread,
        negative_mass=float(negative.mean()),
        negative_mass_stderr=float(negative.std(ddof=1) / root) if probes > 1 else float("nan"),
        products=products,
    )
