"""One Krylov run for all that is asked of a symmetric operator: eigenvalues, trace, Frobenius norm, density.

The Krylov space of the eigenvalues serves three more times. Its projected matrix holds the trace and the Frobenius norm
of the operator on that space exactly, so that random probes need only see the rest (Hutch++; Meyer et al. 2021). Its
converged Ritz values enter the density as lines, and the others are a quadrature of the rest. And every probe is at
once a sample of the trace, the start of another quadrature, and a witness: a Ritz value off the lines and beyond a wanted
eigenvalue proves that one was missed, which a second run, off the lines, then looks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.numerics.lanczos import Eigenpairs, Krylov, MatVec, eigenpairs, error_estimates, krylov_space, random_vector
from ssa_analysis.numerics.laws import student_quantile
from ssa_analysis.numerics.quadrature import Density, Quadrature, Rule, averaged_gauss, negative_mass, spectral_density
from ssa_analysis.numerics.resampling import Interval, exactly, mean_interval

MatMat = Callable[[Tensor], Tensor]
MIN_TRACE_PROBES = 4  # a standard error from fewer says little
LEAST_AGAIN = 5  # products beyond the number of wanted pairs, below which a second search is not begun
LINE_TOLERANCE = 0.02  # residual, relative to the value, up to which a Ritz value is a line of the density


@dataclass(frozen=True)
class Spectrum:
    """What one run found; every number with its error. n is the size of the operator."""

    largest: Eigenpairs
    smallest: Eigenpairs
    trace: Interval
    squared_frobenius: Interval
    effective_rank: Interval  # participation ratio (tr H)^2 / |H|_F^2
    negative_mass: Interval  # sum of |lambda| below zero over the sum of |lambda|
    density: Density
    trace_converged: bool
    products: dict[str, int]  # of the eigenvalues, the trace, the density


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

    def product(self, vector: Tensor) -> Tensor:
        """``P H P v`` of a vector ``(n,)``."""
        return self.project(self.matmat(self.project(vector[None])))[0]

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


@dataclass(frozen=True)
class _Lines:
    """Converged Ritz pairs away from zero, which the density shows one by one and which are deflated from the rest."""

    values: np.ndarray  # (k,)
    residuals: np.ndarray  # (k,)
    errors: np.ndarray  # (k,)
    vectors: Tensor  # (k, n)


def _split(krylov: Krylov) -> tuple[_Lines, list[Quadrature]]:
    """What a Krylov space says of the density.

    Returns:
        The lines, and the run's own quadrature of the rest: its start vector without the lines is a probe as well. (After
        a restart it is not known any more.)
    """
    values, coordinates, residuals = krylov.ritz()
    settled = (residuals <= LINE_TOLERANCE * np.abs(values)) & (np.abs(values) > LINE_TOLERANCE * np.abs(values).max())
    own = []
    weights = coordinates[0, ~settled] ** 2
    if not krylov.restarted and weights.sum() > 0:
        rule = Rule(values[~settled], weights / weights.sum())
        own.append(Quadrature(rule, rule, 0))
    rounding = krylov.rounding(values, coordinates)
    errors, residuals = error_estimates(values, residuals) + rounding, np.hypot(residuals, rounding)
    return _Lines(values[settled], residuals[settled], errors[settled], krylov.vectors(coordinates[:, settled])), own


class _Moments:
    """Trace and squared Frobenius norm: exact on the Krylov space Q, from probes on the rest, with ``P = I - Q Q^T``.

    ``tr H = tr T + E (P r)^T H (P r)`` and ``|H|_F^2 = |T|_F^2 + next_norm^2 + E |H P r|^2`` with Rademacher r.
    """

    def __init__(self, krylov: Krylov, tolerance: float) -> None:
        self.krylov, self.tolerance = krylov, tolerance
        self.known = float(np.trace(krylov.projected))
        self.known_square = float(np.square(krylov.projected).sum() + krylov.next_norm**2)
        self.complete = len(krylov.basis) == krylov.basis.shape[1]
        self.traces: list[float] = []
        self.squares: list[float] = []  # |H P r|^2
        self.inner_squares: list[float] = []  # |P H P r|^2

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
        inner = rest - (rest @ q.T) @ q
        self.inner_squares += inner.double().square().sum(1).tolist()

    def _trace_spread(self) -> tuple[float, float]:
        """Standard error of the trace, and the degrees of freedom of what it is made from.

        A Rademacher sample has the variance ``2 |P H P|_F^2``, less twice the squared diagonal, and ``|P H P r|^2`` is an
        unbiased sample of that norm whose own spread is far less than that of the samples' variance. With the
        samples' variance, four probes that happen to agree would end the run: intervals of 95 % then held the
        trace in as little as 70 % of the runs.
        """
        count, squares = len(self.inner_squares), np.array(self.inner_squares)
        mean = float(squares.mean())
        share = squares.std(ddof=1) / max(mean, 1e-300) / np.sqrt(count)
        return float(np.sqrt(2 * mean / count)), max(count - 1, 2 / max(float(share) ** 2, 1e-12))

    @property
    def trace(self) -> Interval:
        """The trace; the error from the norm of the rest (see :meth:`_trace_spread`)."""
        if self.complete:
            return exactly(self.known)
        value = self.known + float(np.mean(self.traces))
        stderr, freedom = self._trace_spread()
        reach = student_quantile(0.975, freedom) * stderr
        return Interval(value, stderr, value - reach, value + reach)

    @property
    def square(self) -> Interval:
        """The squared Frobenius norm; Student's interval of the rest's part on its logarithm, for the samples are skewed."""
        if self.complete:
            return exactly(self.known_square)
        rest = mean_interval(np.array(self.squares))
        factor = float(np.exp(min(50.0, (rest.high - rest.value) / max(rest.value, 1e-300))))
        value = self.known_square + rest.value
        rounding = float(2 * np.sqrt(self.known_square) * self.krylov.noise.max())
        low, high = (self.known_square + part for part in (rest.value / factor - rounding, rest.value * factor + rounding))
        return Interval(value, float(np.hypot(rest.stderr, rounding)), low, high)

    @property
    def effective_rank(self) -> Interval:
        """``(tr H)^2 / |H|_F^2``, both from the same probes; the error to first order, with their covariance."""
        trace, square = self.trace.value, max(self.square.value, 1e-300)
        value = trace**2 / square
        if self.complete:
            return exactly(value)
        influence = 2 * trace / square * np.array(self.traces) - value / square * np.array(self.squares)
        spread = mean_interval(influence)
        reach = spread.high - spread.value
        return Interval(value, spread.stderr, max(0.0, value - reach), value + reach)

    @property
    def converged(self) -> bool:
        return self.trace.stderr <= self.tolerance * abs(self.trace.value)

    def fill(self, rest: _Rest, min_probes: int, max_probes: int, together: int = 1) -> int:
        """Probe until the trace is within its tolerance; returns the products spent."""
        before = len(self.traces)
        while len(self.traces) < max(2, min_probes) or (len(self.traces) < max_probes and not self.converged):
            self.add(*rest.probe(max(1, min(together, max_probes - len(self.traces))), 1)[1:])
        return len(self.traces) - before


def _missed(pairs: Eigenpairs, lines: np.ndarray, seen: float, sign: float) -> np.ndarray:
    """Which of the pairs are lines that something orthogonal to all lines surpasses: ``(k,)`` bool.

    What was ``seen`` is the Rayleigh quotient of a vector orthogonal to the vectors of all ``lines``, so that by
    interlacing an eigenvalue beyond those below it was missed: one that the start vector hardly saw, or a second copy of
    a multiple one. It says nothing of pairs that are not among the lines. ``sign`` is -1 for the smallest.
    """
    slack = pairs.residuals + LINE_TOLERANCE * np.abs(pairs.values)
    return np.asarray(np.isin(pairs.values, lines) & (sign * pairs.values + slack < sign * seen))


def _merged(lines: _Lines, again: Krylov, which: str, count: int, tolerance: float, seen: float) -> Eigenpairs:
    """The ``count`` most extreme of the lines and of what a run off the lines found.

    Its residuals miss what the operator leads back into the lines, at most the lines' own residuals, and its values shift
    by at most ``min(r, r^2 / gap)`` for each line. Nothing below ``seen``, which is there off the lines, has converged.
    """
    off, sign = eigenpairs(again, which, count, tolerance), -1.0 if which == "smallest" else 1.0
    gaps = np.abs(off.values[:, None] - lines.values)
    shifts = np.minimum(lines.residuals, lines.residuals**2 / np.maximum(gaps, 1e-300)).sum(1)
    values = np.concatenate([lines.values, off.values])
    residuals = np.concatenate([lines.residuals, np.hypot(off.residuals, np.linalg.norm(lines.residuals))])
    errors = np.concatenate([lines.errors, off.errors + shifts])
    order = np.argsort(-sign * values)[:count]
    converged = errors <= tolerance * np.maximum(np.abs(values), 1e-3 * np.abs(values).max())
    if sign * seen > sign * off.values[0] + LINE_TOLERANCE * abs(off.values[0]):
        converged &= sign * values > sign * seen
    vectors = torch.cat([lines.vectors, off.vectors])[torch.from_numpy(order)]
    return Eigenpairs(values[order], vectors, residuals[order], errors[order], converged[order])


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
    lines, errors = krylov.ritz()[0], None
    quadratures: list[Quadrature] = []
    if not moments.complete:
        on_stage("density")
        known, quadratures = _split(krylov)
        lines, errors = known.values, known.errors
        rest = _Rest(matmat or _row_by_row(matvec), known.vectors, float(np.abs(krylov.projected).max()), seed + 1)
        probed, starts, images = rest.probe(max(1, density_probes), max(1, density_steps))
        moments.add(starts, images)
        counts["density"] = sum(p.products for p in probed)
        quadratures += probed
        seen = max(p.rule.nodes.max() for p in probed), min(p.rule.nodes.min() for p in probed)
        missed = [_missed(p, lines, v, sign) for p, v, sign in zip((largest, smallest), seen, (1.0, -1.0), strict=True)]
        if any(which.any() for which in missed):
            largest, smallest = (replace(p, converged=p.converged & ~m) for p, m in zip((largest, smallest), missed, strict=True))
            left = max_products - krylov.products
            if left >= top + bottom + LEAST_AGAIN:
                on_stage("eigenvalues")
                again = krylov_space(
                    rest.product, rest.project(random_vector(size, seed + 2, device, dtype)[None])[0], top=top, bottom=bottom,
                    tolerance=tolerance, max_products=left, max_vectors=max_vectors - len(krylov.basis),
                )  # fmt: skip
                counts["eigenvalues"] += again.products
                if missed[0].any():
                    largest = _merged(known, again, "largest", top, tolerance, seen[0])
                if missed[1].any():
                    smallest = _merged(known, again, "smallest", max(1, bottom), tolerance, seen[1])
        on_stage("trace")
        counts["trace"] = moments.fill(rest, min(MIN_TRACE_PROBES, trace_probes), trace_probes, together=2)
    return Spectrum(
        largest=largest,
        smallest=smallest,
        trace=moments.trace,
        squared_frobenius=moments.square,
        effective_rank=moments.effective_rank,
        negative_mass=negative_mass(lines, quadratures, size),
        density=spectral_density(lines, quadratures, size, errors),
        trace_converged=moments.complete or moments.converged,
        products=counts,
    )
