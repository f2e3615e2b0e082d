"""Spectral density and negative mass from quadratures: laws of few nodes that stand for the eigenvalues of an operator.

Two things stand between such a law and the truth: the random start vector it comes from, and its few nodes. The first
shows in the spread over several probes; the second in how far two rules for the same products lie apart, of which the
better one is used. Both enter the errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssa_analysis.numerics.resampling import Interval, exactly, student_reach

NARROWEST, WIDEST = 0.01, 0.32  # standard deviation of a widened node, relative to the range of what is not a line
NARROWEST_OF_ALL = 1e-4  # the same, relative to the range of everything
WIDTH_STEP = 2**0.5
RULES_APART = 0.1  # L1 distance between the densities of the two rules up to which a width will do
GRID_POINTS = 400


@dataclass(frozen=True)
class Rule:
    """Nodes and weights that sum to one."""

    nodes: np.ndarray  # (k,)
    weights: np.ndarray  # (k,)


@dataclass(frozen=True)
class Quadrature:
    """What one probe found: a rule, and a coarser one for the same products, whose distance from it says how far to trust it."""

    rule: Rule
    coarser: Rule
    products: int


@dataclass(frozen=True)
class Density:
    """Eigenvalue density on a grid, integrating to one, with its pointwise 95 % band.

    It is the density of the eigenvalues *convolved with a Gaussian* of standard deviation ``width``, which is the
    narrowest that the quadratures resolve. ``nodes`` and ``weights`` are the same law before it is widened.
    """

    grid: np.ndarray  # (g,) ascending; finer near lines far out
    density: np.ndarray  # (g,)
    low: np.ndarray  # (g,)
    high: np.ndarray  # (g,)
    width: float
    nodes: np.ndarray  # (k,)
    weights: np.ndarray  # (k,)


def jacobi_matrix(diagonal: Sequence[float], off: Sequence[float]) -> np.ndarray:
    """The symmetric tridiagonal matrix ``(s, s)`` of s and s - 1 coefficients."""
    return np.asarray(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))


def _gauss(matrix: np.ndarray) -> Rule:
    nodes, coordinates = np.linalg.eigh(matrix)
    return Rule(nodes, coordinates[0] ** 2)


def averaged_gauss(diagonal: Sequence[float], off: Sequence[float]) -> Quadrature:
    """The generalised averaged Gauss rule (Spalevic 2007) of ``s`` Lanczos steps: ``2 s - 1`` nodes for the same products.

    The Jacobi matrix is followed by its own mirror image; its nodes include the Gauss nodes of one step less. Nodes that
    this throws out of the Ritz values' range are put at its ends, so that a semi-definite operator gets none on the
    wrong side of zero. The coarser rule is that of Gauss.

    Args:
        diagonal, off: ``(s,)`` Lanczos coefficients, ``off`` with the norm that the next vector would have.
    """
    s = len(diagonal)
    gauss = _gauss(jacobi_matrix(diagonal, off[: s - 1]))
    rule = _gauss(jacobi_matrix([*diagonal, *diagonal[-2::-1]], [*off[: 2 * s - 2], *off[: s - 2][::-1]]))
    return Quadrature(Rule(rule.nodes.clip(gauss.nodes[0], gauss.nodes[-1]), rule.weights), gauss, s)


def negative_mass(lines: np.ndarray, probes: Sequence[Quadrature], size: int) -> Interval:
    """``sum |lambda| over lambda < 0`` divided by ``sum |lambda|``, with the error from probes and nodes.

    The mass weighs by size because the *number* of negative eigenvalues cannot be known: a network's Hessian has a vast
    near-null space, whose signs are rounding.

    Args:
        lines: eigenvalues known one by one. probes: quadratures of the others. size: number of all.
    """
    share = (1 - len(lines) / size) if probes else 0.0

    def of(rules: Sequence[Rule]) -> tuple[float, float]:
        """A ratio of means, and the standard deviation of its linearisation over the probes."""
        below = share * np.array([-(r.weights * r.nodes)[r.nodes < 0].sum() for r in rules]) - lines[lines < 0].sum() / size
        total = share * np.array([(r.weights * np.abs(r.nodes)).sum() for r in rules]) + np.abs(lines).sum() / size
        ratio = float(below.mean() / max(total.mean(), 1e-300))
        spread = (below - ratio * total) / max(total.mean(), 1e-300)
        return ratio, float(spread.std(ddof=1)) if len(rules) > 1 else float("nan")

    if not probes:
        return exactly(of([Rule(np.zeros(1), np.ones(1))])[0])
    value, spread = of([p.rule for p in probes])
    apart = abs(value - of([p.coarser for p in probes])[0])
    reach = student_reach(len(probes)) * spread + apart
    stderr = float(np.hypot(spread / np.sqrt(len(probes)), apart))
    return Interval(value, stderr, float(max(0.0, value - reach)), float(min(1.0, value + reach)))


def spectral_density(
    lines: np.ndarray,
    probes: Sequence[Quadrature],
    size: int,
    errors: np.ndarray | None = None,
    grid_points: int = GRID_POINTS,
) -> Density:
    """Stochastic Lanczos quadrature (Ghorbani et al. 2019) beside eigenvalues that are known, with a 95 % band.

    Each of the ``lines`` has mass ``1 / size``, at its place. Nodes are widened to Gaussians no wider than it takes for
    both rules of the probes to give the same density but for a tenth of the mass: narrower ones would show the nodes, not
    the spectrum. The band is Student's interval over the probes, on the logarithm because their densities are
    skewed, plus the distance between the two rules and what the lines may be off their place.

    Args:
        lines, probes, size: as in :func:`negative_mass`. errors: of the lines, of the same shape; None where exact.
    """
    share = 1 - len(lines) / size
    nodes = np.concatenate([lines, *(p.rule.nodes for p in probes)])
    weights = [np.full(len(lines), 1 / size), *(share / len(probes) * p.rule.weights for p in probes)]
    bulk = np.concatenate([p.rule.nodes for p in probes]) if probes else lines
    span = max(np.ptp(bulk), NARROWEST_OF_ALL / NARROWEST * np.ptp(nodes), 1e-12)
    relative = NARROWEST
    while True:
        width = relative * span
        grid = _grid(bulk, lines, width, grid_points)
        if not probes:
            rest = apart = spread = np.zeros(len(grid))
            break
        curves = share * np.stack([_widened(p.rule, grid, width) for p in probes])
        rest = curves.mean(0)
        spread = curves.std(0, ddof=1) if len(probes) > 1 else np.full(len(grid), np.nan)
        apart = np.abs(rest - share * np.mean([_widened(p.coarser, grid, width) for p in probes], axis=0))
        if _integral(grid, apart) <= RULES_APART or relative * WIDTH_STEP > WIDEST:
            break
        relative *= WIDTH_STEP
    in_place = _bumps(grid, lines, width)
    known, slack = in_place.sum(1) / size, apart
    if errors is not None:
        off = np.maximum(*(np.abs(_bumps(grid, lines + side * errors, width) - in_place) for side in (1, -1)))
        slack = apart + off.sum(1) / size
    reach = student_reach(len(probes)) * spread / np.maximum(rest, 1e-300) if probes else spread
    factor = np.exp(np.minimum(reach, 50.0))
    low, high = np.maximum(known + rest / factor - slack, 0), known + rest * factor + slack
    return Density(grid, known + rest, low, high, width, nodes, np.concatenate(weights))


def _grid(bulk: np.ndarray, lines: np.ndarray, width: float, points: int) -> np.ndarray:
    """Even over the bulk and some widths beyond, and around each line outside of that."""
    even = np.linspace(bulk.min() - 5 * width, bulk.max() + 5 * width, points)
    outside = lines[(lines < even[0]) | (lines > even[-1])]
    around = (outside[:, None] + width * np.linspace(-5, 5, 41)).ravel()
    return np.unique(np.concatenate([even, around]))


def _integral(grid: np.ndarray, values: np.ndarray) -> float:
    """By the trapezoidal rule."""
    return float((np.diff(grid) * (values[1:] + values[:-1]) / 2).sum())


def _bumps(grid: np.ndarray, centres: np.ndarray, width: float) -> np.ndarray:
    """Normal densities ``(g, k)`` of standard deviation ``width`` around ``centres (k,)`` on ``grid (g,)``."""
    return np.asarray(np.exp(-0.5 * ((grid[:, None] - centres) / width) ** 2) / (width * np.sqrt(2 * np.pi)))


def _widened(rule: Rule, grid: np.ndarray, width: float) -> np.ndarray:
    return np.asarray(_bumps(grid, rule.nodes, width) @ rule.weights)
