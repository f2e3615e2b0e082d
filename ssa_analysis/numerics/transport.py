"""Wasserstein distances: one-dimensional, sliced, Gaussian (Bures) and exact."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import coo_matrix
from scipy.stats import wasserstein_distance
from torch import Tensor

from ssa_analysis.errors import MeasureError


def wasserstein_1d(
    x: np.ndarray, y: np.ndarray, x_weights: np.ndarray | None = None, y_weights: np.ndarray | None = None
) -> float:
    """``W_1`` between two samples on the line, exactly (area between the distribution functions)."""
    return float(wasserstein_distance(x, y, x_weights, y_weights))


def _quantiles(sorted_columns: Tensor, points: Tensor) -> Tensor:
    """Step quantile function of each sorted column ``(n, p)`` at ``points (q,)`` in (0, 1)."""
    n = sorted_columns.shape[0]
    return sorted_columns[(points * n).ceil().long().clamp(1, n) - 1]


def sliced_wasserstein2(x: Tensor, y: Tensor, *, projections: int = 200, seed: int = 0) -> tuple[float, float]:
    """Squared sliced 2-Wasserstein distance (Bonneel et al. 2015) between ``x (n, d)`` and ``y (m, d)``.

    Returns:
        The mean over random directions, and its Monte-Carlo standard error over the directions alone.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(x.shape[1], projections, generator=generator).to(x)
    directions = directions / directions.norm(dim=0)
    a, b = (x @ directions).sort(dim=0).values, (y @ directions).sort(dim=0).values
    if len(a) == len(b):
        per_direction = (a - b).square().mean(0)
    else:
        # both quantile functions are constant between the merged steps i/n and j/m
        steps = torch.cat(
            [torch.arange(1, len(a) + 1, device=x.device) / len(a), torch.arange(1, len(b) + 1, device=x.device) / len(b)]
        )
        steps = steps.double().sort().values
        edges = torch.cat([steps.new_zeros(1), steps])
        width, middle = edges.diff(), (edges[1:] + edges[:-1]) / 2
        gap = (_quantiles(a, middle) - _quantiles(b, middle)).square()
        per_direction = (gap * width[:, None].to(gap)).sum(0)
    return float(per_direction.mean()), float(per_direction.std() / projections**0.5)


def gaussian_w2(x: Tensor, y: Tensor) -> float:
    """Squared 2-Wasserstein distance between the Gaussians with the samples' moments (Bures; the FID's formula).

    ``|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x^1/2 C_y C_x^1/2)^1/2)``, in float64.
    """
    x, y = x.double(), y.double()
    cx, cy = torch.atleast_2d(torch.cov(x.T)), torch.atleast_2d(torch.cov(y.T))
    values, vectors = torch.linalg.eigh(cx)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cy @ root).clamp_min(0).sqrt().sum()
    mean = (x.mean(0) - y.mean(0)).square().sum()
    return float((mean + cx.trace() + cy.trace() - 2 * cross).clamp_min(0))


def exact_wasserstein(cost: np.ndarray) -> float:
    """Optimal assignment cost between two uniform samples of equal size, from the ``(n, n)`` cost matrix."""
    if cost.shape[0] != cost.shape[1]:
        raise MeasureError(f"the assignment needs samples of equal size, got {cost.shape[0]} and {cost.shape[1]}")
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def transport_lp(p: np.ndarray, q: np.ndarray, cost: np.ndarray) -> float:
    """Optimal transport cost between two finite laws ``p (n,)`` and ``q (m,)`` by linear programming."""
    n, m = cost.shape
    column = np.arange(n * m)
    rows = np.concatenate([column // m, n + column % m])
    constraints = coo_matrix((np.ones(2 * n * m), (rows, np.tile(column, 2))), shape=(n + m, n * m)).tocsr()
    # the last constraint follows from the others, and would only be in the way of rounding
    solution = linprog(cost.ravel(), A_eq=constraints[:-1], b_eq=np.concatenate([p, q])[:-1], method="highs")
    if not solution.success:
        raise MeasureError(f"the transport program was not solved: {solution.message}")
    return float(solution.fun)


def split_floor(values: np.ndarray, seed: int = 0) -> float:
    """``W_1`` between two random halves of one sample: the size that pure sampling noise reaches."""
    order = np.random.default_rng(seed).permutation(len(values))
    half = len(values) // 2
    return wasserstein_1d(values[order[:half]], values[order[half : 2 * half]])
