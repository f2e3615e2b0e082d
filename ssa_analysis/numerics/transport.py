"""Wasserstein distances on the line, by assignment, and by linear programming, and what sampling alone adds to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import coo_matrix
from torch import Tensor

from ssa_analysis.errors import MeasureError
from ssa_analysis.numerics.resampling import Interval, mean_interval

Distance = Callable[[Tensor, Tensor], float]
MASS_SCALE = 1e3  # of the linear program
START_ROWS = 64  # below, an assignment takes no time
START_EPS = 1 / 100  # of the entropic start, in units of the mean reduced cost
START_ITERATIONS = 20
LEAST_GROUPS = 4  # independent estimates behind an interval; fewer say little of their spread
LEAST_ROWS = 4 * LEAST_GROUPS  # each takes two batches of at least two rows


def wasserstein_1d(
    x: np.ndarray, y: np.ndarray, x_weights: np.ndarray | None = None, y_weights: np.ndarray | None = None
) -> float:
    """``W_1`` between two samples on the line, exactly (area between the distribution functions).

    What ``scipy.stats.wasserstein_distance`` gives, without the second that scipy.stats takes to import and its checks of
    every call.

    Raises:
        ValueError: a sample without values, or without weight.
    """
    places = np.sort(np.concatenate([x, y]).astype(np.float64))
    shares = _distribution(x, x_weights, places[:-1]) - _distribution(y, y_weights, places[:-1])
    return float(np.abs(shares) @ np.diff(places))


def _distribution(values: np.ndarray, weights: np.ndarray | None, places: np.ndarray) -> np.ndarray:
    """The distribution function of a weighted sample at places ``(n,)``."""
    if len(values) == 0:
        raise ValueError("a distribution needs at least one value")
    if weights is None:
        return np.asarray(np.sort(values).searchsorted(places, "right") / len(values))
    order = np.argsort(values)
    mass = np.concatenate([[0.0], np.cumsum(weights[order])])
    if not (0 < mass[-1] < np.inf and weights.min() >= 0):
        raise ValueError("the weights of a distribution must not be negative, and their sum positive and finite")
    return np.asarray(mass[values[order].searchsorted(places, "right")] / mass[-1])


def _reduced(cost: np.ndarray) -> np.ndarray:
    """The cost less potentials of rows and columns: the same assignment is optimal, and most of it is plain to see.

    Subtracting a number from a row or a column changes all assignments alike. The potentials are those of a few entropic
    iterations in single precision, whatever they are worth: augmenting paths get short where they are good.
    """
    if len(cost) < START_ROWS:
        return cost
    base = cost.astype(np.float32)
    rows = base.min(axis=1)
    base -= rows[:, None]
    columns = base.min(axis=0)
    base -= columns
    eps = float(base.mean()) * START_EPS
    if not eps > 0:
        return cost
    kernel = np.exp(np.divide(base, -eps, out=base), out=base)
    u: np.ndarray = np.ones(len(cost), np.float32)
    v: np.ndarray = u
    for _ in range(START_ITERATIONS):
        v = 1 / np.maximum(kernel.T @ u, 1e-30)
        u = 1 / np.maximum(kernel @ v, 1e-30)
    reduced = cost - (rows + eps * np.log(u))[:, None].astype(float)
    reduced -= (columns + eps * np.log(v)).astype(float)
    reduced -= reduced.min(axis=1, keepdims=True)
    reduced -= reduced.min(axis=0)
    return np.asarray(reduced)


def exact_wasserstein(cost: np.ndarray) -> float:
    """Optimal assignment cost between two uniform samples of equal size, from the ``(n, n)`` cost matrix.

    Shortest augmenting paths (scipy; Crouse 2016), started from the potentials of entropic transport. Memory is twice
    the matrix in float64 and once in float32.

    Raises:
        MeasureError: the samples differ in size, or a cost is not finite.
    """
    if cost.shape[0] != cost.shape[1]:
        raise MeasureError(f"the assignment needs samples of equal size, got {cost.shape[0]} and {cost.shape[1]}")
    if not np.isfinite(cost).all():
        raise MeasureError("a transport cost is not finite")
    rows, columns = linear_sum_assignment(_reduced(cost))
    return float(cost[rows, columns].mean())


def exact_distance(x: Tensor, y: Tensor, power: int = 1) -> float:
    """``W_1``, or ``W_2^2`` with ``power=2``, between the empirical laws of ``x (n, d)`` and ``y (n, d)``, Euclidean cost.

    A plug-in: between samples of one law in many dimensions it is far from zero. See :func:`floored_distance`.
    """
    cost = torch.cdist(x.double(), y.double())
    return exact_wasserstein((cost if power == 1 else cost.square_()).cpu().numpy())


DIRECTED, SYMMETRIC = (2.0, 1.0), (1.5, 1.5)  # weights of |z - w| and |z+ - w+| in the ground costs of rung R5


def pair_transport(x: Tensor, y: Tensor, costs: Sequence[tuple[float, float]] = (DIRECTED, SYMMETRIC)) -> float:
    """``W_c`` between two samples of pairs ``(n, 2d)`` with the ground costs of rung R5; the smallest of those given.

    ``c = 2|z - w| + |z+ - w+|``, or ``1.5|z - w| + 1.5|z+ - w+|`` for losses averaged over both directions. Where both laws
    are symmetric in z and z+ either will do; for the empirical laws of two samples only the one that fits the loss.
    """
    d = x.shape[1] // 2
    first, second = (torch.cdist(x[:, s].double(), y[:, s].double()).cpu().numpy() for s in (slice(0, d), slice(d, None)))
    return min(exact_wasserstein(a * first + b * second) for a, b in costs)


@dataclass(frozen=True)
class FlooredDistance:
    """A plug-in distance between batches of two samples, less that between batches of one sample."""

    difference: Interval
    plug_in: float
    floor: float
    batch: int


def floored_distance(x: Tensor, y: Tensor, distance: Distance, batch: int) -> FlooredDistance:
    """Mean plug-in distance between disjoint batches, less the mean of both samples' own split floors.

    Batches 2j and 2j + 1 give one independent estimate: the distances of x's batches to y's, less those of x's batches to
    each other and of y's. Their spread is the error. In many dimensions the distances of small batches are mostly
    floor, whatever the law; what is left over depends on the size of the batch and is comparable at equal size only.

    Args:
        batch: rows of a batch; fewer where the samples would give less than four estimates.

    Raises:
        MeasureError: fewer than 16 rows in a sample.
    """
    rows = min(len(x), len(y))
    batch = min(batch, rows // (2 * LEAST_GROUPS))
    if batch < 2:
        raise MeasureError(f"a distance with its sampling floor needs at least {LEAST_ROWS} samples of each law, got {rows}")
    parts_x, parts_y = x[: rows // batch * batch].split(batch), y[: rows // batch * batch].split(batch)
    plug_in, floor = [], []
    for j in range(0, len(parts_x) // 2 * 2, 2):
        plug_in.append((distance(parts_x[j], parts_y[j]) + distance(parts_x[j + 1], parts_y[j + 1])) / 2)
        floor.append((distance(parts_x[j], parts_x[j + 1]) + distance(parts_y[j], parts_y[j + 1])) / 2)
    differences = mean_interval(np.subtract(plug_in, floor))
    return FlooredDistance(differences, float(np.mean(plug_in)), float(np.mean(floor)), batch)


def transport_lp(p: np.ndarray, q: np.ndarray, cost: np.ndarray) -> float:
    """Optimal transport cost between two finite laws ``p (n,)`` and ``q (m,)`` by linear programming.

    To about 1e-12 of the largest cost: the solver's tolerance is absolute, so masses are scaled up. Points of a mass that
    rounding could have made are left out.

    Raises:
        MeasureError: a negative mass, or a program that was not solved.
    """
    if min(p.min(), q.min()) < 0:
        raise MeasureError("a law has a point of negative mass")
    rows, columns = p > 1e-15 * p.sum(), q > 1e-15 * q.sum()
    p, q, cost = p[rows] / p[rows].sum(), q[columns] / q[columns].sum(), cost[np.ix_(rows, columns)]
    n, m = cost.shape
    if min(n, m) == 1:  # there is but one plan
        return float(p @ cost @ q)
    column = np.arange(n * m)
    row = np.concatenate([column // m, n + column % m])
    constraints = coo_matrix((np.ones(2 * n * m), (row, np.tile(column, 2))), shape=(n + m, n * m)).tocsr()
    # the last constraint follows from the others, and would only be in the way of rounding
    program = {"A_eq": constraints[:-1], "b_eq": MASS_SCALE * np.concatenate([p, q])[:-1]}
    finest = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    solution = linprog(cost.ravel(), **program, method="highs", options=finest)
    if not solution.success:  # presolving takes tiny masses for a contradiction at times
        solution = linprog(cost.ravel(), **program, method="highs-ds", options={**finest, "presolve": False})
    if not solution.success:
        raise MeasureError(f"the transport program was not solved: {solution.message}")
    return float(solution.fun) / MASS_SCALE


def split_floor(values: np.ndarray, seed: int = 0) -> float:
    """``W_1`` between two random halves of one sample: the size that pure sampling noise reaches."""
    order = np.random.default_rng(seed).permutation(len(values))
    half = len(values) // 2
    return wasserstein_1d(values[order[:half]], values[order[half : 2 * half]])
