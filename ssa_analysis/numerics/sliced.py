"""Sliced and max-sliced Wasserstein distances (Bonneel et al. 2015; Deshpande et al. 2019), squared, of order two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TOGETHER = 2**22  # projected values that are sorted at a time


def random_directions(d: int, count: int, seed: int) -> Tensor:
    """``(count, d)`` unit rows, uniform on the sphere, float64 on the CPU."""
    directions = torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    unit: Tensor = directions / directions.norm(dim=1, keepdim=True)
    return unit


def _steps(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where both step quantile functions are constant: index into n, index into m, width; exact integers inside."""
    edges = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    starts = np.concatenate([[0], edges[:-1]])
    return starts // m, starts // n, np.diff(edges, prepend=0) / (n * m)


def _sorted_projections(x: Tensor, directions: Tensor) -> np.ndarray:
    """``(p, n)`` ascending; sorted where they lie, on CPUs by numpy, which is faster at it than torch."""
    values = directions @ x.T
    if values.is_cuda:
        return np.asarray(values.sort(dim=1).values.cpu().numpy())
    projected: np.ndarray = values.numpy()
    projected.sort(axis=1)
    return projected


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``W_2^2`` for each row of sorted ``a (p, n)`` and ``b (p, m)``."""
    if a.shape[1] == b.shape[1]:
        gap = np.subtract(a, b, out=a)
        return np.asarray(np.square(gap, out=gap).mean(axis=1), dtype=np.float64)
    in_a, in_b, width = _steps(a.shape[1], b.shape[1])
    return np.asarray(np.square(a[:, in_a] - b[:, in_b]) @ width)


def slice_distances(x: Tensor, y: Tensor, directions: Tensor) -> np.ndarray:
    """``W_2^2`` between ``x (n, d)`` and ``y (m, d)`` along each of the ``directions (p, d)``, exactly; ``(p,)``."""
    together = max(1, TOGETHER // max(len(x), len(y)))
    parts = [_squared(_sorted_projections(x, part), _sorted_projections(y, part)) for part in directions.split(together)]
    return np.concatenate(parts)


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean over directions and its standard error, NaN for a single one."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def sliced_wasserstein2(x: Tensor, y: Tensor, *, projections: int = 200, seed: int = 0) -> tuple[float, float]:
    """Squared sliced 2-Wasserstein distance between ``x (n, d)`` and ``y (m, d)``, exactly on every slice.

    Args:
        seed: of the directions alone.

    Returns:
        The mean over random directions, and its Monte-Carlo standard error over the directions alone.
    """
    return _mean(slice_distances(x, y, random_directions(x.shape[1], projections, seed).to(x)))


def _halves(x: Tensor, half: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rows in one half and those in the other: ``half (n,)`` bool, by default every second row."""
    chosen = torch.arange(len(x), device=x.device) % 2 == 0 if half is None else half
    return x[chosen], x[~chosen]


def slice_floors(x: Tensor, directions: Tensor, half: Tensor | None = None) -> np.ndarray:
    """Squared distance between the halves of a sample along each direction, brought to its whole size.

    As if sampling noise fell like 1/n, which it does for laws with a bounded density on an interval. For normal ones the
    logarithm of n enters, and the floor comes out some percent too low; for laws with gaps it falls more slowly, and the
    floor is lower still.
    """
    one, other = _halves(x, half)
    # noise is as the harmonic mean of the sizes; two samples of size n have n of it
    return slice_distances(one, other, directions) * (2 * len(one) * len(other) / len(x)) / len(x)


@dataclass(frozen=True)
class FlooredSliced:
    """Squared distance less its floor: about what two samples of one law of these sizes would show."""

    value: float
    floor: float
    stderr: float  # of the value, over the directions alone; NaN for a single one


def floored_sliced(
    x: Tensor, y: Tensor, halves: tuple[Tensor | None, Tensor | None] = (None, None), *, projections: int = 200, seed: int = 0
) -> FlooredSliced:
    """Squared sliced distance less its floor.

    Args:
        halves: bool masks ``(n,)`` and ``(m,)`` of the halves that the floor is measured between.
    """
    directions = random_directions(x.shape[1], projections, seed).to(x)
    plug_in = slice_distances(x, y, directions)
    # each sample adds half of what two of its size would differ by
    floor = sum(slice_floors(side, directions, half) for side, half in zip((x, y), halves, strict=True)) / 2
    value, stderr = _mean(plug_in - floor)
    return FlooredSliced(value, float(np.mean(floor)), stderr)


@dataclass(frozen=True)
class MaxSliced:
    """Largest squared distance over directions, found on one half of the samples and measured on the other.

    The direction knows nothing of the half that ``value`` is measured on, and the sampling floor along it is subtracted
    (see :func:`slice_floors` for what that leaves). It is a lower bound of the largest distance, up to its error.
    """

    value: float
    plug_in: float  # on the samples that the direction was found on
    direction: Tensor  # (d,) of the first half


def _matched(x: Tensor, y: Tensor, direction: Tensor) -> tuple[float, Tensor]:
    """``W_2^2`` along a direction, samples of equal size, and its gradient with respect to the direction."""
    a, b = (x @ direction).sort(), (y @ direction).sort()
    gap = a.values - b.values
    return float(gap.square().mean()), 2 * (gap @ (x[a.indices] - y[b.indices])) / len(gap)


def _ascend(x: Tensor, y: Tensor, start: Tensor, steps: int) -> tuple[float, Tensor]:
    """Ascent on the sphere by ``theta <- g / |g|``, mixed with the old direction where that would not rise."""
    direction = start / start.norm()
    value, gradient = _matched(x, y, direction)
    for _ in range(steps):
        if gradient.norm() == 0:
            break
        share, target = 1.0, gradient / gradient.norm()
        while True:
            proposal = (1 - share) * direction + share * target
            proposal = proposal / proposal.norm()
            new, new_gradient = _matched(x, y, proposal)
            if new > value or share < 0.05:
                break
            share /= 2
        if new <= value * (1 + 1e-4):
            break
        direction, value, gradient = proposal, new, new_gradient
    return value, direction


def find_direction(x: Tensor, y: Tensor, *, starts: int = 8, steps: int = 50, seed: int = 0) -> tuple[float, Tensor]:
    """The direction ``(d,)`` of the largest squared distance found, and that distance; samples of equal size.

    Starts: the difference of the means, the ends of the spectrum of the difference of the covariances, and random ones.
    A difference of shape that no moment up to the second shows takes many random starts in many dimensions.
    """
    rows = min(len(x), len(y))
    x, y = x[:rows].double(), y[:rows].double()
    vectors = torch.linalg.eigh(torch.atleast_2d(torch.cov(x.T)) - torch.atleast_2d(torch.cov(y.T))).eigenvectors
    tries = [x.mean(0) - y.mean(0), vectors[:, 0], vectors[:, -1], *random_directions(x.shape[1], starts, seed).to(x)]
    found = [_ascend(x, y, start, steps) for start in tries if float(start.norm()) > 0]
    return max(found, key=lambda pair: pair[0])


def max_sliced_wasserstein2(
    x: Tensor,
    y: Tensor,
    halves: tuple[Tensor | None, Tensor | None] = (None, None),
    *,
    starts: int = 8,
    steps: int = 50,
    seed: int = 0,
) -> MaxSliced:
    """Max-sliced distance by ascent on one half, measured on the other, both ways round and averaged.

    Args:
        x, y: ``(n, d)`` and ``(m, d)`` in random order. halves: bool masks of the halves; by default every second row.
        starts: random ones besides three that the moments suggest.
    """
    parts = [[h.double() for h in _halves(side, half)] for side, half in zip((x, y), halves, strict=True)]
    values, plug_in, directions = [], [], []
    for here, there in ((0, 1), (1, 0)):
        best, direction = find_direction(parts[0][here], parts[1][here], starts=starts, steps=steps, seed=seed)
        lines = [(side[there] @ direction)[:, None] for side in parts]
        values.append(floored_sliced(lines[0], lines[1], projections=1).value)
        plug_in.append(best)
        directions.append(direction)
    return MaxSliced(sum(values) / 2, sum(plug_in) / 2, directions[0])
