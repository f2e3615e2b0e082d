"""One Krylov run for all that is asked of a symmetric operator: eigenvalues, trace, Frobenius norm, density.

The Krylov space of the eigenvalues serves three more times. Its projected matrix holds the trace and the Frobenius norm
of the operator on that space exactly, so that random probes need only see the rest (Hutch++; Meyer et al. 2021). Its
converged Ritz values enter the density as lines, and the others are a quadrature of the rest. And every probe is at
once a sample of the trace, the start of another quadrature, and a witness: a Ritz value off the lines and beyond a wanted
eigenvalue proves that one was missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.numerics.lanczos import Eigenpairs, Krylov, MatVec, eigenpairs, krylov_space, random_vector
from ssa_analysis.numerics.resampling import Interval, mean_interval

MatMat = Callable[[Tensor], Tensor]
MIN_TRACE_PROBES = 4  # a standard error from fewer says little
LINE_TOLERANCE = 0.02  # residual, relative to the value, up to which a Ritz value is a line of the density


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


@dataclass(frozen=True)
class Quadrature:
    """A law on the line that stands for the eigenvalues of an operator."""

    nodes: np.ndarray  # (k,)
    weights: np.ndarray  # (k,) summing to one
    products: int


def _row_by_row(matvec: MatVec) -> MatMat:
    return lambda vectors: torch.stack([matvec(v) for v in vectors])


class _Rest:
    """The operator on what orthonormal rows V ``(k, n)`` do not span: ``P H P`` with ``P = I - V^T V``."""

    def __init__(self, matmat: MatMat, rows: Tensor, scale: float, seed: int) -> None:
        self.matmat, self.rows, self.scale = matmat, rows, scale
        self.generator = torch.Generator().manual_seed(seed)

    def project(self, vectors: Tensor) -> Tensor:
        """``P v`` of the rows ``(b, n)``, twice for the last digits."""
        for _ in range(2):
            vectors = vectors - (vectors @ self.rows.T) @ self.rows
        return vectors

    def probe(self, count: int, steps: int) -> tuple[list[Quadrature], Tensor, Tensor]:
        """``count`` Rademacher probes r side by side, ``steps`` Lanczos steps from each ``P r``.

        Without reorthogonalisation, which the quadrature does not need (Knizhnerman 1996; Chen et al. 2021), so that
        only two vectors a probe are held.

        Returns:
            The quadratures; ``P r`` and ``H P r``, both ``(count, n)``.
        """
        size = self.rows.shape[1]
        signs = torch.randint(0, 2, (count, size), generator=self.generator, dtype=torch.int8) * 2 - 1
        starts = self.project(signs.to(self.rows))
        lengths = starts.double().norm(dim=1)[:, None].to(starts)
        vectors, previous = starts / lengths, torch.zeros_like(starts)
        off = torch.zeros(count, 1, dtype=torch.float64, device=starts.device)
        diagonals: list[list[float]] = [[] for _ in range(count)]
        offs: list[list[float]] = [[] for _ in range(count)]
        active = list(range(count))
        first = starts
        for step in range(min(steps, size - len(self.rows))):
            images = self.matmat(vectors)
            if step == 0:
                first = images * lengths
            images = self.project(images)
            diagonal = (images.double() * vectors.double()).sum(1, keepdim=True)
            images = images - diagonal.to(images) * vectors - off.to(images) * previous
            off = images.double().norm(dim=1, keepdim=True)
            for i, a, b in zip(active, diagonal[:, 0].tolist(), off[:, 0].tolist(), strict=True):
                diagonals[i].append(a)
                offs[i].append(b)
            # a probe whose Krylov space is exhausted has nothing but rounding left
            going = (off > 10 * torch.finfo(images.dtype).eps * max(self.scale, float(off.max())))[:, 0]
            if not going.any():
                break
            active = [i for i, goes in zip(active, going.tolist(), strict=True) if goes]
            previous, vectors, off = vectors[going], (images / off.to(images))[going], off[going]
        return [averaged_gauss(a, b) for a, b in zip(diagonals, offs, strict=True)], starts, first


def averaged_gauss(diagonal: Sequence[float], off: Sequence[float]) -> Quadrature:
    """The generalised averaged Gauss rule (Spalevic 2007) of ``s`` Lanczos steps: ``2 s - 1`` nodes for the same products.

    The Jacobi matrix is followed by its own mirror image; its nodes include the Gauss nodes of one step less. Nodes that
    this throws out of the Ritz values' range are put at its ends, so that a semi-definite operator gets none on the
    wrong side of zero.

    Args:
        diagonal, off: ``(s,)`` Lanczos coefficients, ``off`` with the norm that the next vector would have.
    """
    s = len(diagonal)
    ritz = np.linalg.eigvalsh(_jacobi(diagonal, off[: s - 1]))
    nodes, coordinates = np.linalg.eigh(_jacobi([*diagonal, *diagonal[-2::-1]], [*off[: 2 * s - 2], *off[: s - 2][::-1]]))
    return Quadrature(nodes.clip(ritz[0], ritz[-1]), coordinates[0] ** 2, s)


def _jacobi(diagonal: Sequence[float], off: Sequence[float]) -> np.ndarray:
    return np.asarray(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))


def _split(krylov: Krylov) -> tuple[np.ndarray, Tensor, list[Quadrature]]:
    """What a Krylov space says of the density.

    Returns:
        Converged Ritz values away from zero, their vectors ``(k, n)``, and the run's own quadrature of the rest: its
        start vector without the converged ones is a probe as well. (After a restart it is not known any more.)
    """
    values, coordinates, residuals = krylov.ritz()
    settled = (residuals <= LINE_TOLERANCE * np.abs(values)) & (np.abs(values) > LINE_TOLERANCE * np.abs(values).max())
    own = []
    weights = coordinates[0, ~settled] ** 2
    if not krylov.restarted and weights.sum() > 0:
        own.append(Quadrature(values[~settled], weights / weights.sum(), 0))
    return values[settled], krylov.vectors(coordinates[:, settled]), own


def _shifted(interval: Interval, by: float) -> Interval:
    return Interval(interval.value + by, interval.stderr, interval.low + by, interval.high + by)


def _exactly(value: float) -> Interval:
    return Interval(value, 0.0, value, value)


class _Moments:
    """Trace and squared Frobenius norm: exact on the Krylov space Q, from probes on the rest, with ``P = I - Q Q^T``.

    ``tr H = tr T + E (P r)^T H (P r)`` and ``|H|_F^2 = |T|_F^2 + next_norm^2 + E |H P r|^2`` with Rademacher r.
    """

    def __init__(self, krylov: Krylov, tolerance: float) -> None:
        self.krylov, self.tolerance = krylov, tolerance
        self.known = float(np.trace(krylov.projected))
        self.known_square = float(np.square(krylov.projected).sum() + krylov.next_norm**2)
        self.traces: list[float] = []
        self.squares: list[float] = []

    def add(self, starts: Tensor, images: Tensor) -> None:
        """Probes ``x (b, n)`` with ``H x``; what they have inside the Krylov space is taken out by ``H Q = Q T + ...``."""
        q = self.krylov.basis
        inside = starts @ q.T
        mapped = inside.double().cpu().numpy() @ self.krylov.projected
        outside = starts - inside @ q
        rest = images - torch.as_tensor(mapped).to(images) @ q
        rest = rest - (self.krylov.next_norm * inside[:, -1:]) * self.krylov.next_vector
        self.traces += (outside.double() * rest.double()).sum(1).tolist()
        self.squares += rest.double().square().sum(1).tolist()

    @property
    def trace(self) -> Interval:
        return _shifted(mean_interval(np.array(self.traces)), self.known)

    @property
    def square(self) -> Interval:
        return _shifted(mean_interval(np.array(self.squares)), self.known_square)

    @property
    def converged(self) -> bool:
        return self.trace.stderr <= self.tolerance * abs(self.trace.value)

    def fill(self, rest: _Rest, min_probes: int, max_probes: int, together: int = 1) -> int:
        """Probe until the trace is within its tolerance; returns the products spent."""
        before = len(self.traces)
        while len(self.traces) < max(2, min_probes) or (len(self.traces) < max_probes and not self.converged):
            self.add(*rest.probe(max(1, min(together, max_probes - len(self.traces))), 1)[1:])
        return len(self.traces) - before


def trace_and_frobenius(
    matvec: MatVec, krylov: Krylov, *, tolerance: float, min_probes: int = MIN_TRACE_PROBES, max_probes: int = 64, seed: int = 0
) -> tuple[Interval, Interval, bool, int]:
    """Trace and squared Frobenius norm with standard errors, and whether the trace's is within ``tolerance`` of it.

    What the basis spans is exact, the probes see the rest. A basis that spans everything leaves no error.
    """
    moments = _Moments(krylov, tolerance)
    if len(krylov.basis) == krylov.basis.shape[1]:
        return _exactly(moments.known), _exactly(moments.known_square), True, 0
    rest = _Rest(_row_by_row(matvec), krylov.basis, float(np.abs(krylov.projected).max()), seed)
    products = moments.fill(rest, min_probes, max_probes)
    return moments.trace, moments.square, moments.converged, products


def _density(
    lines: np.ndarray, probes: list[Quadrature], size: int, grid_points: int, relative_width: float
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
    found: list[Quadrature] = []
    if len(lines) < size:
        vectors = known.vectors[torch.from_numpy(known.converged)].to(device=device, dtype=dtype)
        rest = _Rest(_row_by_row(matvec), vectors, float(np.abs(known.values).max(initial=0.0)), seed)
        found, _, _ = rest.probe(probes, steps)
    density, negative = _density(lines, found, size, grid_points, relative_width)
    return density, negative, sum(p.products for p in found)


def _witnessed(pairs: Eigenpairs, lines: np.ndarray, found: Sequence[float], sign: float) -> Eigenpairs:
    """Take ``converged`` back from every eigenvalue that something orthogonal to the lines surpasses.

    What was ``found`` are Rayleigh quotients of vectors orthogonal to the vectors of all ``lines``, so that by
    interlacing an eigenvalue beyond those below it was missed: one that the start vector hardly saw, or a second copy of
    a multiple one. It says nothing of pairs that are not among the lines. ``sign`` is -1 for the smallest.
    """
    highest = max(sign * value for value in found)
    slack = pairs.residuals + LINE_TOLERANCE * np.abs(pairs.values)
    beaten = np.isin(pairs.values, lines) & (sign * pairs.values + slack < highest)
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
    moments = _Moments(krylov, trace_tolerance)
    counts = {"eigenvalues": krylov.products, "trace": 0, "density": 0}
    if len(krylov.basis) == size:
        trace, square, trace_converged = _exactly(moments.known), _exactly(moments.known_square), True
        density, negative = _density(krylov.ritz()[0], [], size, 400, 0.01)
    else:
        on_stage("density")
        lines, vectors, quadratures = _split(krylov)
        rest = _Rest(matmat or _row_by_row(matvec), vectors, float(np.abs(krylov.projected).max()), seed + 1)
        probed, starts, images = rest.probe(max(1, density_probes), max(1, density_steps))
        moments.add(starts, images)
        counts["density"] = sum(p.products for p in probed)
        density, negative = _density(lines, quadratures + probed, size, 400, 0.01)
        largest = _witnessed(largest, lines, [p.nodes.max() for p in probed], 1.0)
        smallest = _witnessed(smallest, lines, [p.nodes.min() for p in probed], -1.0)
        on_stage("trace")
        counts["trace"] = moments.fill(rest, min(MIN_TRACE_PROBES, trace_probes), trace_probes, together=2)
        trace, square, trace_converged = moments.trace, moments.square, moments.converged
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
