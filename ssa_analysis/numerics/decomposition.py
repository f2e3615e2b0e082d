"""The parts of rung R8 as statistics with influence values, so that errors of sums and differences follow.

An influence value of an image is what it adds to the statistic, times n, to first order; the standard error of a
statistic is the standard deviation of the values over sqrt(n). For statistics of the same images, values add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.errors import MeasureError

ROWS = 1024  # rows of a block of similarities


@dataclass(frozen=True)
class Influenced:
    """A value and its influence values ``(n,)`` with mean zero."""

    value: float
    influence: np.ndarray

    @property
    def stderr(self) -> float:
        """Standard error over images."""
        return float(self.influence.std(ddof=1) / np.sqrt(len(self.influence)))

    def __sub__(self, other: Influenced) -> Influenced:
        """Difference of two statistics of the same images."""
        return Influenced(self.value - other.value, self.influence - other.influence)

    def __add__(self, other: Influenced) -> Influenced:
        """Sum of two statistics of the same images."""
        return Influenced(self.value + other.value, self.influence + other.influence)

    def __truediv__(self, number: float) -> Influenced:
        return Influenced(self.value / number, self.influence / number)


def mean_of(values: Tensor) -> Influenced:
    """The mean of ``(n,)`` values."""
    array = values.double().cpu().numpy()
    return Influenced(float(array.mean()), array - array.mean())


def ideal_alignment(z: Tensor, labels: Tensor) -> Influenced:
    """``E[z.z+]`` over ideal pairs, without bias: the mean over images of the similarity to the *other* images of the class.

    With class frequencies as prior this is ``sum_c pi_c |mu_c|^2`` less what an image has with itself.

    Args:
        z: ``(n, d)``. labels: ``(n,)``; images whose class has no second one are left out.

    Raises:
        MeasureError: no class has two images.
    """
    z = z.double()
    sizes = torch.bincount(labels)
    usable = sizes[labels] >= 2
    if not bool(usable.any()):
        raise MeasureError("ideal pairs need a class with at least two images")
    sums = torch.zeros(len(sizes), z.shape[1], dtype=z.dtype, device=z.device).index_add_(0, labels, z)
    others = ((z * sums[labels]).sum(1) - z.square().sum(1)) / (sizes[labels] - 1).clamp_min(1)
    others = torch.where(usable, others, torch.zeros_like(others))
    count = int(usable.sum())
    value = float(others.sum() / count)
    of_class = torch.zeros(len(sizes), dtype=z.dtype, device=z.device).index_add_(0, labels, others) / sizes.clamp_min(1)
    # an image counts twice in its class, as anchor and as positive, and once in the class's share
    influence = 2 * (others - of_class[labels]) + of_class[labels] - value
    influence = torch.where(usable, influence * (len(z) / count), torch.zeros_like(influence))
    return Influenced(value, influence.cpu().numpy())


def uniformity(z: Tensor, tau: float) -> Influenced:
    """``E log E exp(z.z-/tau)`` with every image as anchor and all others as negatives.

    The logarithm of a mean over n - 1 negatives lies below that of the expectation by about its relative variance over
    2 (n - 1); in differences between laws of about the same spread, that cancels.

    Args:
        z: ``(n, d)``, one row an image.
    """
    n = len(z)
    if n < 3:
        raise MeasureError(f"the uniformity needs at least 3 images, got {n}")
    logs = torch.empty(n, dtype=torch.float64, device=z.device)
    for i in torch.arange(n, device=z.device).split(ROWS):
        logits = (z[i] @ z.T).double() / tau
        logits[torch.arange(len(i), device=z.device), i] = -torch.inf
        logs[i] = torch.logsumexp(logits, dim=1) - np.log(n - 1)
    as_negative = torch.zeros(n, dtype=torch.float64, device=z.device)
    for i in torch.arange(n, device=z.device).split(ROWS):
        weight = ((z[i] @ z.T).double() / tau - logs[i][:, None]).exp_()
        weight[torch.arange(len(i), device=z.device), i] = 0
        as_negative += weight.sum(0) / (n - 1)
    value = float(logs.mean())
    influence = (logs - value) + (as_negative - as_negative.mean())
    return Influenced(value, influence.cpu().numpy())
