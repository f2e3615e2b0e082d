"""What is read off sampled curves and surfaces of a loss: rises, ruggedness, negative curvature, barriers.

Losses that are not finite are missing points (NaN): they never enter a sum, and what lacks them says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NOISE = 1e-6  # differences below this share of the loss are rounding of float32 sums, and count as zero


def rise_at(offsets: np.ndarray, losses: np.ndarray, base: float, distance: float) -> float:
    """Mean rise over ``base`` at ``+distance`` and ``-distance``, read off between the two nearest points of a curve.

    Args:
        offsets: ``(p,)`` ascending. losses: ``(p,)``.

    Returns:
        NaN where a needed point is missing.
    """
    total = 0.0
    for at in (-distance, distance):
        right = min(int(np.searchsorted(offsets, at - 1e-9 * distance)), len(offsets) - 1)
        if np.isclose(offsets[right], at, rtol=1e-9, atol=0) or right == 0:
            total += float(losses[right])
            continue
        weight = (at - offsets[right - 1]) / (offsets[right] - offsets[right - 1])
        total += float((1 - weight) * losses[right - 1] + weight * losses[right])
    return total / 2 - base


def ruggedness(losses: np.ndarray) -> float:
    """Share of a curve's variation that goes down while moving away from the curve's lowest point.

    ``sum max(0, -d) / sum |d|`` over the steps d outwards from the minimum. Zero for every quasi-convex (unimodal)
    curve, also one that flattens out far from the minimum, and unchanged where the loss is scaled or shifted.

    Args:
        losses: ``(p,)``; missing points are left out.
    """
    finite = losses[np.isfinite(losses)]
    if len(finite) < 3:
        return float("nan")
    lowest = int(np.argmin(finite))
    steps = np.concatenate([np.diff(finite[lowest:]), np.diff(finite[: lowest + 1][::-1])])
    steps = np.where(np.abs(steps) > NOISE * np.abs(finite).max(), steps, 0.0)
    variation = float(np.abs(steps).sum())
    return float(np.maximum(-steps, 0).sum()) / variation if variation > 0 else 0.0


def _second_difference(values: np.ndarray, offsets: np.ndarray, axis: int) -> np.ndarray:
    """Second derivative at the inner points of one axis, the others whole; the spacing may vary."""
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    left, right = np.diff(offsets)[:-1].reshape(shape), np.diff(offsets)[1:].reshape(shape)
    before, middle, after = (np.take(values, np.arange(i, values.shape[axis] - 2 + i), axis) for i in range(3))
    return np.asarray(2 * ((after - middle) / right - (middle - before) / left) / (left + right))


def plane_curvatures(surface: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues ``(m - 2, n - 2)``, smaller and larger, of the discrete Hessian at the inner points of a surface.

    Args:
        surface: ``(m, n)`` losses, rows along the second axis. first: ``(n,)`` offsets, second: ``(m,)``, in one unit.

    Returns:
        NaN where a point of the 3x3 stencil is missing, zeros where the differences are rounding.
    """
    xx = _second_difference(surface, first, 1)[1:-1]
    yy = _second_difference(surface, second, 0)[:, 1:-1]
    wide, high = first[2:] - first[:-2], second[2:] - second[:-2]
    corners = surface[2:, 2:] - surface[2:, :-2] - surface[:-2, 2:] + surface[:-2, :-2]
    xy = corners / (high[:, None] * wide[None, :])
    middle, reach = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    lower, upper = middle - reach, middle + reach
    lower = np.where(np.isfinite(corners), lower, np.nan)  # a missing corner shows in xy alone
    upper = np.where(np.isfinite(corners), upper, np.nan)
    floor = 4 * NOISE * np.abs(surface[1:-1, 1:-1]) / min(np.diff(first).min(), np.diff(second).min()) ** 2
    lower, upper = (np.where(np.abs(values) <= floor, 0.0, values) for values in (lower, upper))
    return lower, upper


def nonconvexity(surface: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Mean of ``max(0, -lambda_min) / max |lambda|`` over the inner points of a surface.

    The ratio of Li et al. 2018 (section 6), for the Hessian of the plane instead of that of all weights: 0 where the
    surface is convex, 1 where it only bends downwards. See :func:`plane_curvatures` for the arguments.
    """
    lower, upper = plane_curvatures(surface, first, second)
    size = np.maximum(np.abs(lower), np.abs(upper))
    known = np.isfinite(size)
    if not known.any():
        return float("nan")
    ratio = np.maximum(-lower[known], 0) / np.where(size[known] > 0, size[known], 1.0)
    return float(ratio.mean())


@dataclass(frozen=True)
class Barrier:
    """Largest rise of a path over the straight line between the losses at its ends."""

    height: float  # 0 where the path never rises above the line
    at: float  # where, in [0, 1]
    coarse: float  # the height found with every second point


def barrier(offsets: np.ndarray, losses: np.ndarray) -> Barrier:
    """The barrier between the ends of a path (Frankle et al. 2020; Garipov et al. 2018), from its points in [0, 1].

    Args:
        offsets: ``(p,)`` ascending, with 0 and 1 among them. losses: ``(p,)``; missing points are left out.
    """
    inside = (offsets >= 0) & (offsets <= 1)
    t, loss = offsets[inside], losses[inside]
    excess = loss - ((1 - t) * loss[0] + t * loss[-1])
    if not np.isfinite(excess).any():
        return Barrier(float("nan"), float("nan"), float("nan"))
    highest = int(np.nanargmax(excess))
    half = excess[::2]
    return Barrier(float(excess[highest]), float(t[highest]), float(np.nanmax(half)))


def quadratic_reach(offsets: np.ndarray, losses: np.ndarray, base: float, eigenvalue: float, share: float = 0.1) -> float:
    """Largest offset up to which the rise, averaged over both signs, stays within ``share`` of ``eigenvalue t^2 / 2``.

    Args:
        offsets: ``(p,)``, symmetric, ascending. losses: ``(p,)``.

    Returns:
        One of the offsets; 0 where already the nearest point does not.
    """
    middle = len(offsets) // 2
    reach = 0.0
    for right in range(middle + 1, len(offsets)):
        rise = (losses[right] + losses[2 * middle - right]) / 2 - base
        predicted = 0.5 * eigenvalue * offsets[right] ** 2
        if not abs(rise - predicted) <= share * abs(predicted):
            break
        reach = float(offsets[right])
    return reach
