"""One Krylov run for all that is asked of a symmetric operator: eigenvalues, trace, Frobenius norm, density.

The Krylov space of the eigenvalues serves three more times. Its projected matrix holds the trace and the Frobenius norm
of the operator on that space exactly, so that random probes need only see the rest (Hutch++; Meyer et al. 2021). The
converged eigenvectors are taken out of the probes of the density and put back as lines. And every probe of the rest is
both a sample of the trace and the start of a Lanczos quadrature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.numerics.lanczos import Eigenpairs, Krylov, MatVec, eigenpairs, krylov_space, random_vector
from ssa_analysis.numerics.resampling import Interval, mean_interval


@dataclass(frozen=True)
class Density:
    """Eigenvalue density on a grid, integrating to one, with the spread over its probes."""

    grid: np.ndarray  # (g,)
    density: np.ndarray  # (g,)
    stderr: np.ndarray  # (g,)


@dataclass(frozen=True)
class Spectrum:
    """What one run found; every number with its error. n is the size of the operator."""

    largest: Eigenpairs
    smallest: Eigenpairs
    trace: Interval
    squared_frobenius: Interval
    negative_mass: Interval  # sum of |lambda| below zero over the sum of |lambda|
    density: Density
    trace_converged: bool
    products: dict[str, int]  # of the eigenvalues, the trace, the density

    @property
    def effective_rank(self) -> float:
        """Participation ratio ``(tr H)^2 / |H|_F^2``."""
        return self.trace.value**2 / max(self.squared_frobenius.value, 1e-300)


class _Rest:
    """Probes of what the Krylov basis does not span: ``P r`` and ``P H P r`` with ``P = I - Q Q^T``."""

    def __init__(self, matvec: MatVec, basis: Tensor, seed: int) -> None:
        self.matvec, self.basis = matvec, basis
        self.generator = torch.Generator().manual_seed(seed)

    def project(self, vector: Tensor) -> Tensor:
        """``P v``, twice for the last digits."""
        for _ in range(2):
            vector = vector - self.basis.T @ (self.basis @ vector)
        return vector

    def sample(self) -> tuple[float, float]:
        """Unbiased samples of ``tr(P H P)`` and ``tr(P H H P)``."""
        signs = torch.randint(0, 2, (self.basis.shape[1],), generator=self.generator) * 2 - 1
        probe = self.project(signs.to(self.basis))
        image = self.matvec(probe)
        return float(torch.dot(probe.double(), image.double())), float(image.double().square().sum())


def trace_and_frobenius(
    matvec: MatVec, krylov: Krylov, *, tolerance: float, min_probes: int = 4, max_probes: int = 64, seed: int = 0
) -> tuple[Interval, Interval, bool, int]:
    """Trace and squared Frobenius norm with standard errors, and whether the trace's is within ``tolerance`` of it.

    ``tr H = tr T + E (P r)^T H (P r)`` and ``|H|_F^2 = |T|_F^2 + next_norm^2 + E |H P r|^2`` with Rademacher r: what
    the basis spans is exact, the probes see the rest. A basis that spans everything leaves no error.
    """
    known, known_square = float(np.trace(krylov.projected)), float(np.square(krylov.projected).sum() + krylov.next_norm**2)
    if len(krylov.basis) == krylov.basis.shape[1]:
        return Interval(known, 0.0, known, known), Interval(known_square, 0.0, known_square, known_square), True, 0
    rest = _Rest(matvec, krylov.basis, seed)
    samples: list[tuple[float, float]] = []
    while True:
        samples.append(rest.sample())
        if len(samples) < min_probes:
            continue
        trace, square = (mean_interval(np.array(column)) for column in zip(*samples, strict=True))
        converged = trace.stderr <= tolerance * abs(known + trace.value)
        if converged or len(samples) >= max_probes:
            return _shifted(trace, known), _shifted(square, known_square), converged, len(samples)


def _shifted(interval: Interval, by: float) -> Interval:
    return Interval(interval.value + by, interval.stderr, interval.low + by, interval.high + by)


def deflated_density(
    matvec: MatVec,
    size: int,
    known: Eigenpairs,
    *,
    probes: int = 3,
    steps: int = 12,
    grid_points: int = 400,
    relative_width: float = 0.01,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Density, Interval, int]:
    """Density by stochastic Lanczos quadrature (Ghorbani et al. 2019) off the converged pairs of ``known``.

    Each node is widened to a Gaussian of ``relative_width`` of the range. The converged eigenvalues are lines of mass
    1/n each, at their place, without error.

    Returns:
        The density; the negative mass, ``sum |lambda| over lambda < 0`` divided by ``sum |lambda|``; the products
        spent. The mass weighs by size because the *number* of negative eigenvalues cannot be known: a network's
        Hessian has a vast near-null space, whose signs are rounding.
    """
    lines = known.values[known.converged]
    vectors = known.vectors[torch.from_numpy(known.converged)]
    share = 1 - len(lines) / size
    runs: list[tuple[np.ndarray, np.ndarray]] = []
    products = 0
    if share > 0:
        rest = _Rest(matvec, vectors, seed)
        for probe in range(probes):
            start = rest.project(random_vector(size, seed + 1 + probe, device, dtype))
            krylov = krylov_space(lambda v: rest.project(matvec(v)), start, max_products=min(steps, size - len(lines)))
            values, coordinates, _ = krylov.ritz()
            runs.append((values, coordinates[0] ** 2))
            products += krylov.products
    nodes = [*(v for v, _ in runs), lines]
    low, high = min(v.min() for v in nodes if len(v)), max(v.max() for v in nodes if len(v))
    width = relative_width * max(high - low, 1e-12)
    grid = np.linspace(low - 5 * width, high + 5 * width, grid_points)

    def curve(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        bumps = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2) / (width * np.sqrt(2 * np.pi))
        return np.asarray((weights * bumps).sum(1))

    fixed = curve(lines, np.full(len(lines), 1 / size))
    negative_lines, all_lines = float(-lines[lines < 0].sum()) / size, float(np.abs(lines).sum()) / size
    if not runs:
        mass = negative_lines / max(all_lines, 1e-300)
        return Density(grid, fixed, np.zeros_like(fixed)), Interval(mass, 0.0, mass, mass), 0
    curves = np.stack([fixed + share * curve(v, w) for v, w in runs])
    negative = np.array(
        [
            (negative_lines - share * (w * v)[v < 0].sum()) / max(all_lines + share * (w * np.abs(v)).sum(), 1e-300)
            for v, w in runs
        ]
    )
    root = np.sqrt(len(runs))
    spread = curves.std(0, ddof=1) / root if len(runs) > 1 else np.full(grid_points, np.nan)
    return Density(grid, curves.mean(0), spread), mean_interval(negative), products


def analyse_spectrum(
    matvec: MatVec,
    size: int,
    *,
    top: int = 5,
    bottom: int = 0,
    tolerance: float = 1e-3,
    max_products: int = 100,
    max_vectors: int = 60,
    trace_tolerance: float = 0.02,
    trace_probes: int = 64,
    density_probes: int = 3,
    density_steps: int = 12,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Spectrum:
    """Everything from one Krylov run and a few probes.

    Args:
        matvec: product with an ``(n,)`` vector. size: n.
        top, bottom: how many of the largest and of the smallest (most negative) eigenvalues must converge. The
            smallest one found is reported in any case, with what is known of its error.
        tolerance: of each eigenvalue's error estimate, relative to the value.
        trace_tolerance: relative standard error of the trace at which its probes stop.
        on_stage: is told which part begins.
    """
    top, bottom = min(top, size), min(bottom, size)
    on_stage("eigenvalues")
    start = random_vector(size, seed, device, dtype)
    krylov = krylov_space(
        matvec, start, top=top, bottom=bottom, tolerance=tolerance, max_products=max_products, max_vectors=max_vectors
    )
    largest, smallest = (eigenpairs(krylov, which, k, tolerance) for which, k in (("largest", top), ("smallest", max(1, bottom))))
    on_stage("trace")
    trace, square, converged, trace_products = trace_and_frobenius(
        matvec, krylov, tolerance=trace_tolerance, max_probes=trace_probes, seed=seed + 1
    )
    on_stage("density")
    density, negative, density_products = deflated_density(
        matvec, size, largest, probes=density_probes, steps=density_steps, seed=seed + 2, device=device, dtype=dtype
    )
    return Spectrum(
        largest=largest,
        smallest=smallest,
        trace=trace,
        squared_frobenius=square,
        negative_mass=negative,
        density=density,
        trace_converged=converged,
        products={"eigenvalues": krylov.products, "trace": trace_products, "density": density_products},
    )
