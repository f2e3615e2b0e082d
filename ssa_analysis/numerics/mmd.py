"""Maximum mean discrepancy between two samples, with a permutation test and a jackknife error.

Gretton et al. 2012. The squared MMD is the unbiased U-statistic, which can be negative under the null.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.errors import MeasureError
from ssa_analysis.numerics.resampling import jackknife_stderr


@dataclass(frozen=True)
class MMDResult:
    """Squared MMD (unbiased), its jackknife standard error, and the permutation p-value ``(1 + #) / (1 + B)``."""

    value: float
    stderr: float
    p_value: float
    null: np.ndarray  # (B,) squared MMD under permutation


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """``(n, m)`` squared Euclidean distances between rows."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def median_bandwidth(x: Tensor, max_rows: int = 1000) -> float:
    """Median distance between distinct rows (of the first ``max_rows``); the usual heuristic.

    Falls back on the mean distance where more than half of the pairs coincide; MeasureError if all do.
    """
    distances = torch.nn.functional.pdist(x[:max_rows])
    for candidate in (distances.median(), distances.mean()):
        if candidate > 0:
            return float(candidate)
    raise MeasureError("all samples coincide (collapsed embedding): no kernel bandwidth can be chosen")


def rbf_kernel(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    """``(n, m)`` Gaussian kernel ``exp(-|x - y|^2 / (2 bandwidth^2))``."""
    return torch.exp(-squared_distances(x, y) / (2 * bandwidth**2))


def pair_kernel(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
    """Bilinear kernel on pairs, ``(z.w)(z+.w+)``: its MMD is the Frobenius distance of ``E[z z+^T]`` (rung R7)."""
    return (x[0] @ y[0].T) * (x[1] @ y[1].T)


def _statistics(kernel: Tensor, labels: Tensor) -> Tensor:
    """Unbiased squared MMD for each column of +-1 ``labels (N, B)``, from one product with the kernel.

    With ``w`` the labels, ``q = w'Kw`` and ``l = w'K1`` give the three block sums: ``(T + q +- 2l) / 4`` and
    ``(T - q) / 4``, where T is the sum of all entries and the diagonal is left out.
    """
    ones = kernel.sum(1)
    total = ones.sum()
    quadratic = (labels * (kernel @ labels)).sum(0)
    linear = labels.T @ ones
    n = (labels > 0).sum(0).to(kernel.dtype)
    m = labels.shape[0] - n
    within_x = (total + quadratic + 2 * linear) / 4
    within_y = (total + quadratic - 2 * linear) / 4
    between = (total - quadratic) / 4
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m)


def _leave_one_out(kernel: Tensor, n: int) -> np.ndarray:
    """Squared MMD without row i, for every row of both samples. ``kernel`` has a zero diagonal."""
    m = kernel.shape[0] - n
    row_x, row_y = kernel[:, :n].sum(1), kernel[:, n:].sum(1)
    within_x, within_y, between = row_x[:n].sum(), row_y[n:].sum(), row_y[:n].sum()
    without_x = (
        (within_x - 2 * row_x[:n]) / ((n - 1) * (n - 2)) + within_y / (m * (m - 1)) - 2 * (between - row_y[:n]) / ((n - 1) * m)
    )
    without_y = (
        within_x / (n * (n - 1)) + (within_y - 2 * row_y[n:]) / ((m - 1) * (m - 2)) - 2 * (between - row_x[n:]) / (n * (m - 1))
    )
    return np.concatenate([without_x.cpu().numpy(), without_y.cpu().numpy()])


def mmd_test(kernel: Tensor, n: int, *, permutations: int = 200, seed: int = 0) -> MMDResult:
    """Squared MMD between the first ``n`` and the other rows of a pooled kernel matrix.

    Rows must be exchangeable units: one pair per image, and different images in the two samples.

    Args:
        kernel: ``(n + m, n + m)`` symmetric; n and m at least 3.
        permutations: B of the permutation test.

    Raises:
        MeasureError: fewer than 3 rows on a side.
    """
    rows = kernel.shape[0]
    m = rows - n
    if n < 3 or m < 3:
        raise MeasureError(f"the MMD needs at least 3 samples on each side, got {n} and {m}")
    kernel = kernel.double().clone().fill_diagonal_(0.0)
    generator = torch.Generator().manual_seed(seed)
    observed = torch.cat([torch.ones(n), -torch.ones(m)]).to(kernel)
    shuffles = [torch.randperm(rows, generator=generator) for _ in range(permutations)]
    labels = torch.stack([observed, *[observed[order.to(kernel.device)] for order in shuffles]], dim=1)
    statistics = _statistics(kernel, labels).cpu().numpy()
    value, null = float(statistics[0]), statistics[1:]
    p_value = (1 + int((null >= value).sum())) / (1 + permutations)
    loo = _leave_one_out(kernel, n)
    # two independent samples: the jackknife variances of the sides add up
    stderr = float(np.hypot(jackknife_stderr(loo[:n]), jackknife_stderr(loo[n:])))
    return MMDResult(value, stderr, p_value, null)
