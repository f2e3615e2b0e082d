"""Maximum mean discrepancy between two samples, with a permutation test and a jackknife error.

Gretton et al. 2012. The squared MMD is the unbiased U-statistic, which can be negative under the null. Rows that are
not independent of each other (several pairs of one image) form a *block*: entries of the kernel inside a block are left
out of the sums, a permutation exchanges whole blocks, and the jackknife leaves out whole blocks.

All permutations are one product: with labels ``w = +-1`` of the rows, ``w'Kw`` and ``w'K1`` give the sums of K within
each sample and between them. It runs over the upper triangle in blocks of rows, so that memory is the labels,
``(N, B + 1)``, and not the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.errors import MeasureError
from ssa_analysis.numerics.kernels import BlockKernel
from ssa_analysis.numerics.resampling import jackknife_stderr

TILE = 2048  # rows of a block of the kernel
STRIP = 256  # rows of it that are multiplied with the labels at once: their product stays in a cache
LEAST_BLOCKS = 3  # on each side


@dataclass(frozen=True)
class MMDResult:
    """Squared MMD (unbiased), its jackknife standard error, and the permutation p-value ``(1 + #) / (1 + B)``."""

    value: float
    stderr: float
    p_value: float
    null: np.ndarray  # (B,) squared MMD under permutation

    @property
    def z(self) -> float:
        """The value in standard deviations of its null, from the null's mean; NaN with fewer than two permutations."""
        if len(self.null) < 2 or self.null.std() == 0:
            return float("nan")
        return float((self.value - self.null.mean()) / self.null.std(ddof=1))


@dataclass(frozen=True)
class _Sums:
    """Sums over the kernel without entries inside a block: for each column of labels, and for each row."""

    quadratic: np.ndarray  # (1 + B,) w'Kw
    linear: np.ndarray  # (1 + B,) w'K1
    total: float
    rows: np.ndarray  # (N,) K1
    signed: np.ndarray  # (N,) Kw for the observed labels


def _block_ids(rows: int, blocks: Tensor | None, device: torch.device) -> Tensor:
    """``(N,)`` block numbers 0, 1, .. ; every row its own block by default."""
    if blocks is None:
        return torch.arange(rows, device=device)
    if blocks.shape != (rows,):
        raise MeasureError(f"blocks must be ({rows},), one for each row of the pooled sample, got {tuple(blocks.shape)}")
    numbers: Tensor = torch.unique(blocks, return_inverse=True)[1]
    return numbers.to(device)


def _labels(of_block: Tensor, ids: Tensor, permutations: int, seed: int, dtype: torch.dtype) -> Tensor:
    """``(N, 1 + B)`` of +-1: the observed labels, then those of shuffled blocks."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.empty(len(ids), 1 + permutations, dtype=dtype, device=ids.device)
    labels[:, 0] = of_block[ids]
    for column in range(1, 1 + permutations):
        shuffled = of_block[torch.randperm(len(of_block), generator=rng).to(ids.device)]
        labels[:, column] = shuffled[ids]
    return labels


def _sums(kernel: BlockKernel, labels: Tensor, ids: Tensor, plain: bool) -> _Sums:
    count = kernel.rows
    quadratic = torch.zeros(labels.shape[1], dtype=torch.float64, device=labels.device)
    rows = torch.zeros(count, dtype=torch.float64, device=labels.device)
    signed = torch.zeros_like(rows)
    parts = [slice(a, min(a + TILE, count)) for a in range(0, count, TILE)]
    ends = [(int(ids[p].min()), int(ids[p].max())) for p in parts]
    for one, i in enumerate(parts):
        for other, j in enumerate(parts[one:], one):
            values = kernel.block(i, j)
            if one == other:
                values.fill_diagonal_(0)
            if not plain and ends[one][0] <= ends[other][1] and ends[other][0] <= ends[one][1]:
                values.masked_fill_(ids[i][:, None] == ids[j][None, :], 0)
            rows[i] += values.sum(1)
            if one != other:
                signed[j] += labels[i, 0] @ values
                rows[j] += values.sum(0)
            for strip, own, its in zip(values.split(STRIP), labels[i].split(STRIP), signed[i].split(STRIP), strict=True):
                product = strip @ labels[j]
                its += product[:, 0]
                quadratic += product.mul_(own).sum(0).double() * (1 if one == other else 2)
    linear = labels.T @ rows.to(labels.dtype) if labels.dtype == torch.float64 else _linear(labels, rows)
    return _Sums(quadratic.cpu().numpy(), linear.cpu().numpy(), float(rows.sum()), rows.cpu().numpy(), signed.cpu().numpy())


def _linear(labels: Tensor, rows: Tensor) -> Tensor:
    """``w'K1`` of single-precision labels in float64, a range of rows at a time."""
    parts = zip(labels.split(TILE), rows.split(TILE), strict=True)
    return sum((w.double().T @ r for w, r in parts), torch.zeros(labels.shape[1], dtype=torch.float64, device=rows.device))


def _combine(quadratic: np.ndarray, linear: np.ndarray, total: float, n: np.ndarray, same: np.ndarray, all_same: float,
             count: int) -> np.ndarray:  # fmt: skip
    """Unbiased squared MMD: ``n (1 + B,)`` rows in x, ``same`` ordered pairs of x inside a block, the row itself included."""
    within_x, within_y = (total + quadratic + 2 * linear) / 4, (total + quadratic - 2 * linear) / 4
    between = (total - quadratic) / 4
    m = count - n
    return np.asarray(within_x / (n**2 - same) + within_y / (m**2 - (all_same - same)) - 2 * between / (n * m))


def _leave_one_out(sums: _Sums, in_x: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared MMD without one block, for every block of x and of y."""
    to_x, to_y = (sums.rows + sums.signed) / 2, (sums.rows - sums.signed) / 2
    sizes = np.bincount(ids).astype(float)
    block_x, block_y = np.bincount(ids, to_x), np.bincount(ids, to_y)
    side = np.zeros(len(sizes), bool)
    side[ids] = in_x
    x, y = np.flatnonzero(side), np.flatnonzero(~side)
    n, m, same_x, same_y = sizes[x].sum(), sizes[y].sum(), np.square(sizes[x]).sum(), np.square(sizes[y]).sum()
    within_x, within_y, between = block_x[x].sum(), block_y[y].sum(), block_y[x].sum()
    rest_y, rest_x = within_y / (m**2 - same_y), within_x / (n**2 - same_x)
    s = sizes[x]
    without_x = (
        (within_x - 2 * block_x[x]) / ((n - s) ** 2 - (same_x - s**2)) + rest_y - 2 * (between - block_y[x]) / ((n - s) * m)
    )
    s = sizes[y]
    without_y = (
        rest_x + (within_y - 2 * block_y[y]) / ((m - s) ** 2 - (same_y - s**2)) - 2 * (between - block_x[y]) / (n * (m - s))
    )
    return without_x, without_y


def mmd_test(kernel: BlockKernel, n: int, *, permutations: int = 1000, seed: int = 0, blocks: Tensor | None = None) -> MMDResult:
    """Squared MMD between the first ``n`` and the other rows of a pooled sample.

    Example:
        >>> from ssa_analysis.numerics.kernels import GaussianKernel
        >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> mmd_test(GaussianKernel(torch.cat([x, x + 1]), [1.0]), 200).p_value < 0.01
        True

    Args:
        kernel: over the N pooled rows. Sums are accumulated in float64 over products in the kernel's precision.
        permutations: B of the permutation test.
        blocks: ``(N,)`` integers; rows with equal ones are not independent. None: all rows are. A permutation
            exchanges blocks, so the blocks must be alike in both samples under the null hypothesis.

    Raises:
        MeasureError: fewer than 3 blocks on a side, or a block with rows on both sides.
    """
    count = kernel.rows
    ids = _block_ids(count, blocks, kernel.device)
    in_x = torch.zeros(count, dtype=torch.bool, device=kernel.device)
    in_x[:n] = True
    of_block = torch.full((int(ids.max()) + 1,), -1.0, dtype=kernel.dtype, device=kernel.device)
    of_block[ids[:n]] = 1.0
    sides = int((of_block > 0).sum()), int((of_block < 0).sum())
    if min(sides) < LEAST_BLOCKS:
        least = f"the MMD needs at least {LEAST_BLOCKS} independent samples on each side"
        raise MeasureError(f"{least}, got {sides[0]} and {sides[1]}")
    if bool((of_block[ids[n:]] > 0).any()):
        raise MeasureError("a block has rows in both samples; what is compared must come from different images")
    labels = _labels(of_block, ids, permutations, seed, kernel.dtype)
    sums = _sums(kernel, labels, ids, blocks is None)
    sizes = torch.bincount(ids).to(kernel.dtype)
    positive = ((labels.sum(0) + count) / 2).double().cpu().numpy().round()
    if blocks is None:
        same, all_same = positive, float(count)
    else:
        per_row = sizes[ids]
        same = np.rint(((labels.T @ per_row).double().cpu().numpy() + float(per_row.sum())) / 2)
        all_same = float(per_row.sum())
    statistics = _combine(sums.quadratic, sums.linear, sums.total, positive, same, all_same, count)
    value, null = float(statistics[0]), statistics[1:]
    p_value = (1 + int((null >= value).sum())) / (1 + permutations)
    without_x, without_y = _leave_one_out(sums, in_x.cpu().numpy(), ids.cpu().numpy())
    # two independent samples: the jackknife variances of the sides add up
    stderr = float(np.hypot(jackknife_stderr(without_x), jackknife_stderr(without_y)))
    return MMDResult(value, stderr, p_value, null)


def stratified_mmd(parts: list[MMDResult], weights: np.ndarray) -> MMDResult:
    """Weighted mean of squared MMDs of independent strata (classes): permutations were inside each of them."""
    value = float(sum(w * p.value for w, p in zip(weights, parts, strict=True)))
    null = np.sum([w * p.null for w, p in zip(weights, parts, strict=True)], axis=0)
    stderr = float(np.sqrt(sum((w * p.stderr) ** 2 for w, p in zip(weights, parts, strict=True))))
    return MMDResult(value, stderr, (1 + int((null >= value).sum())) / (1 + len(null)), null)
