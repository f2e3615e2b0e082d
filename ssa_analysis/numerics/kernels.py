"""Kernels over a pooled sample, evaluated block by block: the n x n matrix never exists.

A kernel gives ``block(i, j)``, its values between two ranges of rows. A constant may be left out of all values: the
unbiased squared MMD does not change when a constant is added to the kernel, and sums in single precision lose less
when the values are centred.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ssa_analysis.errors import MeasureError

# bandwidths of the ladder, in units of the median distance
LADDER = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
SAMPLE = 1000  # rows from which a bandwidth, a weight or a centre is estimated


class BlockKernel(Protocol):
    """Symmetric kernel over N pooled rows, up to a constant."""

    rows: int
    dtype: torch.dtype
    device: torch.device

    def block(self, i: slice, j: slice) -> Tensor:
        """``(len(i), len(j))`` values, in memory of its own."""
        ...


def spread_rows(x: Tensor, count: int = SAMPLE) -> Tensor:
    """At most ``count`` rows of ``x (n, d)`` at even distances, so that all parts of a pooled sample are there."""
    if len(x) <= count:
        return x
    return x[torch.linspace(0, len(x) - 1, count, dtype=torch.float64).round().long()]


def median_bandwidth(x: Tensor) -> float:
    """Median distance between distinct rows of ``x (n, d)`` (of at most a thousand); the usual heuristic.

    Falls back on the mean distance where more than half of the pairs coincide; MeasureError if all do.
    """
    distances = torch.nn.functional.pdist(spread_rows(x).double())
    for candidate in (distances.median(), distances.mean()):
        if candidate > 0:
            return float(candidate)
    raise MeasureError("all samples coincide (collapsed embedding): no kernel bandwidth can be chosen")


class GaussianKernel:
    """``sum_b w_b exp(-|x - y|^2 / (2 s_b^2))`` over the rows of ``pooled (N, d)``.

    Example:
        >>> kernel = GaussianKernel(torch.eye(3, dtype=torch.float64), [1.0], centred=False)
        >>> kernel.block(slice(0, 1), slice(0, 2))
        tensor([[1.0000, 0.3679]], dtype=torch.float64)
    """

    def __init__(
        self, pooled: Tensor, bandwidths: Sequence[float], weights: Sequence[float] | None = None, *, centred: bool = True
    ) -> None:
        self.rows, self.dtype, self.device = len(pooled), pooled.dtype, pooled.device
        self.bandwidths = tuple(float(b) for b in bandwidths)
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(self.bandwidths)
        self._x = pooled - pooled.mean(0)  # distances lose less in the product
        self._norms = self._x.square().sum(1)
        # exp(..) - 1 keeps its digits where a wide kernel is all but constant
        self._offset = 0.0 if centred else sum(self.weights)
        if centred:
            sample = spread_rows(torch.arange(self.rows, device=self.device), 256)
            self._offset = -float(self._values(self._distances(sample, sample)).mean())

    def _distances(self, i: slice | Tensor, j: slice | Tensor) -> Tensor:
        squared = torch.addmm(self._norms[j], self._x[i], self._x[j].T, alpha=-2)
        return squared.add_(self._norms[i][:, None]).clamp_min_(0)

    def _values(self, squared: Tensor) -> Tensor:
        total: Tensor | None = None
        for number, (width, weight) in enumerate(zip(self.bandwidths, self.weights, strict=True)):
            scale = -1 / (2 * width**2)
            part = squared.mul_(scale) if number == len(self.bandwidths) - 1 else squared * scale
            part.expm1_().mul_(weight)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def block(self, i: slice, j: slice) -> Tensor:
        """Values between two ranges of rows, less a constant."""
        return self._values(self._distances(i, j)).add_(self._offset)


class PairKernel:
    """Bilinear kernel on pairs, ``(z.w)(z+.w+)``: its MMD is the Frobenius distance of ``E[z z+^T]`` (rung R7)."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self.rows, self.dtype, self.device = len(first), first.dtype, first.device
        self._first, self._second = first, second

    def block(self, i: slice, j: slice) -> Tensor:
        """Values between two ranges of pairs."""
        return (self._first[i] @ self._first[j].T).mul_(self._second[i] @ self._second[j].T)


class MatrixKernel:
    """A kernel matrix ``(N, N)`` that is there already."""

    def __init__(self, matrix: Tensor) -> None:
        self.rows, self.dtype, self.device = len(matrix), matrix.dtype, matrix.device
        self._matrix = matrix

    def block(self, i: slice, j: slice) -> Tensor:
        """A copy of a part of the matrix."""
        return self._matrix[i, j].clone()


def centred_norm(kernel: Tensor) -> float:
    """Hilbert-Schmidt norm of the centred kernel, ``sqrt(E[k~(x, x')^2])`` over distinct rows, from its matrix ``(n, n)``.

    The standard deviation of the squared MMD between samples of n and m of one law is ``sqrt(2) (1/n + 1/m)`` times it.
    """
    n = len(kernel)
    off = kernel.double().clone().fill_diagonal_(0)
    rows = off.sum(1) / (n - 2)  # U-centring: what is left has mean zero in every row, the diagonal left out
    total = off.sum() / ((n - 1) * (n - 2))
    centred = (off - rows[:, None] - rows[None, :] + total).fill_diagonal_(0)
    return float((centred.square().sum() / (n * (n - 3))).clamp_min(0).sqrt())


def ladder_kernel(pooled: Tensor, median: float) -> GaussianKernel:
    """All bandwidths of the ladder in one kernel, each divided by its centred norm.

    No bandwidth is chosen, so that nothing has to be corrected for; and none drowns the others, because each has the
    same spread under the null hypothesis. Its squared MMD is the mean over the ladder of ``MMD^2 / |k~|``, a number
    without unit.

    Args:
        pooled: ``(N, d)`` both samples. median: the bandwidth that the ladder is built around.

    Raises:
        MeasureError: fewer than 4 rows.
    """
    if len(pooled) < 4:
        raise MeasureError(f"the ladder of bandwidths needs at least 4 rows, got {len(pooled)}")
    sample = spread_rows(pooled).double()
    every = slice(0, len(sample))
    widths, weights = [], []
    for factor in LADDER:
        norm = centred_norm(GaussianKernel(sample, [factor * median]).block(every, every))
        if norm > 1e-12:  # a kernel that is constant on the sample has no say
            widths.append(factor * median)
            weights.append(1 / norm)
    if not widths:
        raise MeasureError("every kernel of the ladder is constant on the sample: no test can be made of it")
    return GaussianKernel(pooled, widths, [w / len(widths) for w in weights])
