"""One Krylov run for all that is asked of a symmetric operator: eigenvalues, trace, Frobenius norm, density.

The Krylov space of the eigenvalues serves three more times. Its projected matrix holds the trace and the Frobenius norm
of the operator on that space exactly, so that random probes need only see the rest (Hutch++; Meyer et al. 2021). Its
Ritz values enter the density as lines. And every probe of the rest is at once a sample of the trace, the start of a
Lanczos quadrature, and a witness: a Ritz value of the rest above a wanted eigenvalue proves that one was missed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.numerics.lanczos import Eigenpairs, Krylov, MatVec, eigenpairs, krylov_space, random_vector
from ssa_analysis.numerics.resampling import Interval, mean_interval

MatMat = Callable[[Tensor], Tensor]
MIN_TRACE_PROBES = 4  # a standard error from fewer says little


@dataclass(frozen=True)
class Density:
    """Eigenvalue density on a grid, integrating to one, with the spread over its probes.

    ``nodes`` and ``weights`` are the same density before it is widened: a law on the line, of total mass one.
    """

    grid: np.ndarray  # (g,)
    density: np.ndarray  # (g,)
    stderr: np.ndarray  # (g,)
    nodes: np.ndarray  # (k,)
    weights: np.ndarray  # (k,)


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


def _row_by_row(matvec: MatVec) -> MatMat:
    return lambda vectors: torch.stack([matvec(v) for v in vectors])


@dataclass(frozen=True)
class _Probe:
    """What one probe r of the rest gave, with ``P = I - Q Q^T``: unbiased samples, and a quadrature of the rest."""

    trace: float  # (P r)^T H (P r)
    square: float  # |H P r|^2
    nodes: np.ndarray  # (s,)
    weights: np.ndarray  # (s,) summing to one


class _Rest:
    """The operator on what an orthonormal basis ``(m, n)`` does not span: ``P H P``."""

    def __init__(self, matmat: MatMat, basis: Tensor, scale: float, seed: int) -> None:
        self.matmat, self.basis, self.scale = matmat, basis, scale
        self.generator = torch.Generator().manual_seed(seed)

    def project(self, vectors: Tensor) -> Tensor:
        """``P v`` of the rows ``(b, n)``, twice for the last digits."""
        for _ in range(2):
            vectors = vectors - (vectors @ self.basis.T) @ self.basis
        return vectors

    def probe(self, count: int, steps: int = 1) -> list[_Probe]:
        """``count`` Rademacher probes side by side, each ``steps`` Lanczos steps long.

        Without reorthogonalisation, which the quadrature does not need (Knizhnerman 1996; Chen et al. 2021): only two
        vectors a probe are held.
        """
        size = self.basis.shape[1]
        steps = min(steps, size - len(self.basis))
        signs = torch.randint(0, 2, (count, size), generator=self.generator, dtype=torch.int8) * 2 - 1
        raw = self.project(signs.to(self.basis))
        lengths = raw.double().norm(dim=1)
        vectors = raw / lengths[:, None].to(raw)
        previous, coupling = torch.zeros_like(vectors), np.zeros(count)
        diagonal, off = [[] for _ in range(count)], [[] for _ in range(count)]  # type: list[list[float]], list[list[float]]
        squares = np.zeros(count)
        active = np.arange(count)
        for step in range(steps):
            images = self.matmat(vectors)
            if step == 0:
                squares = (images.double().square().sum(1) * lengths**2).cpu().numpy()
            images = self.project(images)
            alpha = (images.double() * vectors.double()).sum(1)
            images = images - alpha[:, None].to(images) * vectors
            images = images - torch.as_tensor(coupling, dtype=images.dtype, device=images.device)[:, None] * previous
            beta = images.double().norm(dim=1).cpu().numpy()
            for i, a, b in zip(active, alpha.tolist(), beta, strict=True):
                diagonal[i].append(a)
                off[i].append(float(b))
            going = beta > 10 * torch.finfo(images.dtype).eps * max(self.scale, float(np.abs(beta).max()))
            if not going.any():
                break
            keep = torch.from_numpy(going).to(images.device)
            previous, vectors = vectors[keep], (images / torch.as_tensor(beta, device=images.device)[:, None].to(images))[keep]
            coupling, active = beta[going], active[going]
        probes = []
        for a, b, square, length in zip(diagonal, off, squares, lengths.tolist(), strict=True):
            nodes, coordinates = np.linalg.eigh(np.diag(a) + np.diag(b[: len(a) - 1], 1) + np.diag(b[: len(a) - 1], -1))
            probes.append(_Probe(a[0] * length**2, float(square), nodes, coordinates[0] ** 2))
        return probes


def _shifted(interval: Interval, by: float) -> Interval:
    return Interval(interval.value + by, interval.stderr, interval.low + by, interval.high + by)


def _exactly(value: float) -> Interval:
    return Interval(value, 0.0, value, value)


class _Samples:
    """Trace and squared Frobenius norm: exact on the Krylov space, from probes on the rest.

    ``tr H = tr T + E (P r)^T H (P r)`` and ``|H|_F^2 = |T|_F^2 + next_norm^2 + E |H P r|^2`` with Rademacher r.
    """

    def __init__(self, krylov: Krylov, tolerance: float) -> None:
        self.known = float(np.trace(krylov.projected))
        self.known_square = float(np.square(krylov.projected).sum() + krylov.next_norm**2)
        self.tolerance = tolerance
        self.probes: list[_Probe] = []

    @property
    def trace(self) -> Interval:
        return _shifted(mean_interval(np.array([p.trace for p in self.probes])), self.known)

    @property
    def square(self) -> Interval:
        return _shifted(mean_interval(np.array([p.square for p in self.probes])), self.known_square)

    @property
    def converged(self) -> bool:
        return self.trace.stderr <= self.tolerance * abs(self.trace.value)

    def fill(self, rest: _Rest, min_probes: int, max_probes: int, together: int = 1) -> int:
        """Probe until the trace is within its tolerance; returns the products spent."""
        before = len(self.probes)
        while len(self.probes) < max(2, min_probes) or (len(self.probes) < max_probes and not self.converged):
            self.probes += rest.probe(max(1, min(together, max_probes - len(self.probes))))
        return len(self.probes) - before


def trace_and_frobenius(
    matvec: MatVec, krylov: Krylov, *, tolerance: float, min_probes: int = MIN_TRACE_PROBES, max_probes: int = 64, seed: int = 0
) -> tuple[Interval, Interval, bool, int]:
    """Trace and squared Frobenius norm with standard errors, and whether the trace's is within ``tolerance`` of it.

    What the basis spans is exact, the probes see the rest. A basis that spans everything leaves no error.
    """
    samples = _Samples(krylov, tolerance)
    if len(krylov.basis) == krylov.basis.shape[1]:
        return _exactly(samples.known), _exactly(samples.known_square), True, 0
    rest = _Rest(_row_by_row(matvec), krylov.basis, float(np.abs(krylov.projected).max()), seed)
    products = samples.fill(rest, min_probes, max_probes)
    return samples.trace, samples.square, samples.converged, products


def _density(
    lines: np.ndarray, probes: list[_Probe], size: int, grid_points: int, relative_width: float
) -> tuple[Density, Interval]:
    """Density and negative mass of lines of mass 1/n each, and of the probes' quadratures for what is left."""
    share = 1 - len(lines) / size
    nodes = np.concatenate([lines, *(p.nodes for p in probes)])
    low, high = nodes.min(), nodes.max()
    width = relative_width * max(high - low, 1e-12)
    grid = np.linspace(low - 5 * width, high + 5 * width, grid_points)

    def curve(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        bumps = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2) / (width * np.sqrt(2 * np.pi))
        return np.asarray((weights * bumps).sum(1))

    fixed = curve(lines, np.full(len(lines), 1 / size))
    negative_lines, all_lines = float(-lines[lines < 0].sum()) / size, float(np.abs(lines).sum()) / size
    if not probes:
        mass = negative_lines / max(all_lines, 1e-300)
        flat = np.full(len(lines), 1 / size)
        return Density(grid, fixed, np.zeros_like(fixed), lines, flat), _exactly(mass)
    curves = np.stack([fixed + share * curve(p.nodes, p.weights) for p in probes])
    below = np.array([share * -(p.weights * p.nodes)[p.nodes < 0].sum() for p in probes])
    total = np.array([share * (p.weights * np.abs(p.nodes)).sum() for p in probes])
    root = np.sqrt(len(probes))
    spread = curves.std(0, ddof=1) / root if len(probes) > 1 else np.full(grid_points, np.nan)
    weights = np.concatenate([np.full(len(lines), 1 / size), *(share / len(probes) * p.weights for p in probes)])
    negative = mean_interval((negative_lines + below) / np.maximum(all_lines + total, 1e-300))
    return Density(grid, curves.mean(0), spread, nodes, weights), negative


def deflated_density(
    matvec: MatVec,
    size: int,
    known: Eigenpairs,
    *,
    probes: int = 4,
    steps: int = 8,
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
    found: list[_Probe] = []
    if len(lines) < size:
        vectors = known.vectors[torch.from_numpy(known.converged)].to(device=device, dtype=dtype)
        rest = _Rest(_row_by_row(matvec), vectors, float(np.abs(known.values).max(initial=0.0)), seed)
        found = rest.probe(probes, steps)
    density, negative = _density(lines, found, size, grid_points, relative_width)
    return density, negative, sum(len(p.nodes) for p in found)


def _witnessed(pairs: Eigenpairs, highest: float, sign: float) -> Eigenpairs:
    """Take ``converged`` back from every eigenvalue that something outside the Krylov space surpasses.

    ``highest`` is a Rayleigh quotient of a vector orthogonal to all of them, so that by interlacing an eigenvalue beyond
    those below it was missed: one that the start vector hardly saw, or a second copy of a multiple one. ``sign`` is -1
    for the smallest.
    """
    beaten = sign * pairs.values < sign * highest - pairs.residuals - 1e-6 * np.abs(pairs.values).max(initial=0.0)
    return replace(pairs, converged=pairs.converged & ~beaten)


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
    density_probes: int = 4,
    density_steps: int = 8,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    matmat: MatMat | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Spectrum:
    """Everything from one Krylov run and a few probes.

    The Ritz values enter the density as they are: cutting the operator's coupling between the Krylov space and the rest
    moves its spectrum by at most ``2 next_norm / n`` in W1, far less than the noise of the probes.

    Args:
        matvec: product with an ``(n,)`` vector. size: n.
        top, bottom: how many of the largest and of the smallest (most negative) eigenvalues must converge. The
            smallest one found is reported in any case, with what is known of its error.
        tolerance: of each eigenvalue's error estimate, relative to the value.
        trace_tolerance: relative standard error of the trace at which its probes stop. trace_probes: at most, those
            of the density (which come first) included.
        density_probes, density_steps: of the Lanczos quadrature.
        matmat: products with the rows of ``(b, n)``, where they are cheaper together.
        on_stage: is told which part begins.
    """
    top, bottom = min(top, size), min(bottom, size)
    on_stage("eigenvalues")
    start = random_vector(size, seed, device, dtype)
    krylov = krylov_space(
        matvec, start, top=top, bottom=bottom, tolerance=tolerance, max_products=max_products, max_vectors=max_vectors
    )
    largest, smallest = (eigenpairs(krylov, which, k, tolerance) for which, k in (("largest", top), ("smallest", max(1, bottom))))
    lines = krylov.ritz()[0]
    samples = _Samples(krylov, trace_tolerance)
    counts = {"eigenvalues": krylov.products, "trace": 0, "density": 0}
    if len(lines) == size:
        trace, square, trace_converged = _exactly(samples.known), _exactly(samples.known_square), True
        density, negative = _density(lines, [], size, 400, 0.01)
    else:
        on_stage("density")
        rest = _Rest(matmat or _row_by_row(matvec), krylov.basis, float(np.abs(krylov.projected).max()), seed + 1)
        samples.probes = rest.probe(max(2, density_probes), density_steps)
        counts["density"] = sum(len(p.nodes) for p in samples.probes)
        density, negative = _density(lines, samples.probes, size, 400, 0.01)
        largest = _witnessed(largest, max(p.nodes.max() for p in samples.probes), 1.0)
        smallest = _witnessed(smallest, min(p.nodes.min() for p in samples.probes), -1.0)
        on_stage("trace")
        counts["trace"] = samples.fill(rest, MIN_TRACE_PROBES, trace_probes, together=2)
        trace, square, trace_converged = samples.trace, samples.square, samples.converged
    return Spectrum(
        largest=largest,
        smallest=smallest,
        trace=trace,
        squared_frobenius=square,
        negative_mass=negative,
        density=density,
        trace_converged=trace_converged,
        products=counts,
    )
