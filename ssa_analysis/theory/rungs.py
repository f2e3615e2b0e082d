"""What a checked inequality looks like, and the laws that both checkpoints and finite worlds are described by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.numerics.contrastive import log_mean_exp_similarity

HOLDS, WITHIN_ERROR, VIOLATED = "holds", "holds within error", "violated"
# a theorem is called violated only this many standard errors out: with 95 % intervals one check in twenty would be
ALARM = 4.0


@dataclass(frozen=True)
class Population:
    """The law of positives and negatives: M class conditionals over the same n points.

    For a checkpoint these are the images of the probe split; for a finite world, all its points.
    """

    z: Tensor  # (n, d) unit rows, float64
    conditionals: Tensor  # (M, n), rows sum to one
    prior: Tensor  # (M,)

    @cached_property
    def marginal(self) -> Tensor:
        """``(n,)`` p_data."""
        return self.prior @ self.conditionals

    @cached_property
    def means(self) -> Tensor:
        """``(M, d)`` class means mu_c, not renormalised."""
        return self.conditionals @ self.z

    @cached_property
    def entropy(self) -> float:
        """``H(pi)`` in nats: the chance level."""
        positive = self.prior[self.prior > 0]
        return float(-(positive * positive.log()).sum())

    def uniformity(self, z: Tensor, tau: float) -> Tensor:
        """``log E_{z-} exp(z.z-/tau)`` for each row of ``z (k, d)``."""
        used = self.marginal > 0
        return log_mean_exp_similarity(z, self.z[used], tau, self.marginal[used])


@dataclass(frozen=True)
class LabelledLaw:
    """The law of (image, class) that losses are averaged over: k points with labels and weights that sum to one."""

    z: Tensor  # (k, d) unit rows, float64
    y: Tensor  # (k,)
    weights: Tensor  # (k,)


def empirical_population(z: Tensor, y: Tensor, classes: int) -> Population:
    """Uniform conditionals on a sample; the prior is the sample's class frequencies."""
    one_hot = torch.nn.functional.one_hot(y, classes).double().T
    counts = one_hot.sum(1)
    return Population(z.double(), one_hot / counts.clamp_min(1)[:, None], counts / counts.sum())


def class_weights(y: Tensor, prior: Tensor) -> Tensor:
    """``(k,)`` weights that give class c the mass ``prior[c]``, equal within a class, sum one over the classes present."""
    counts = torch.bincount(y, minlength=len(prior)).double()
    weights = (prior / counts.clamp_min(1))[y]
    return weights / weights.sum()


@dataclass(frozen=True)
class RungCheck:
    """Both sides of an inequality ``left <= right`` (or of an equality) and what to make of them.

    ``slack = right - left`` with its standard error and 95 % interval; a finite world has no error.
    """

    rung: str
    statement: str
    left: float
    right: float
    stderr: float
    low: float
    high: float
    equality: bool = False

    @property
    def slack(self) -> float:
        """``right - left``; negative means that the inequality fails on the numbers."""
        return self.right - self.left

    @property
    def verdict(self) -> str:
        """``holds``, ``holds within error``, or ``violated`` where the miss exceeds ``ALARM`` standard errors.

        An equality that is estimated from a sample can at best hold within error.
        """
        miss = abs(self.slack) if self.equality else max(0.0, -self.slack)
        if miss <= 1e-9 * max(1.0, abs(self.left), abs(self.right)):
            return HOLDS
        return WITHIN_ERROR if miss <= ALARM * self.stderr else VIOLATED


def weighted_mean(values: Tensor, weights: Tensor) -> float:
    """``sum(weights * values) / sum(weights)``."""
    return float((values * weights).sum() / weights.sum())


def as_numpy(tensor: Tensor) -> np.ndarray:
    """Float64 array of a tensor."""
    return tensor.detach().double().cpu().numpy()
