"""Entropic optimal transport and the Sinkhorn divergence (Cuturi 2013; Genevay et al. 2018; Feydy et al. 2019).

Iterations are products with ``exp((f + g - C) / eps)``, where f and g are the potentials known so far (absorbed;
Schmitzer 2019), while eps comes down from the size of the costs. Where such a kernel loses a row to underflow, the
iteration is made in the logarithmic domain instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ssa_analysis.errors import MeasureError

RANGE = 1e30  # of the scalings, beyond which they are absorbed into the potentials
START = 16.0  # the first eps is the largest cost over it
STAGE = 2.0  # by which eps comes down
STAGE_ITERATIONS = 5
CHECK_EVERY = 5


@dataclass(frozen=True)
class Transport:
    """Value of the dual of entropic transport, and how far the plan's marginals are from the samples' weights."""

    value: float
    marginal_error: float  # l1
    iterations: int
    converged: bool


class _Sinkhorn:
    """Potentials f, g at one eps; plan ``exp((f + g - C) / eps) / (n m)``."""

    def __init__(self, cost: Tensor, symmetric: bool) -> None:
        self.cost, self.symmetric = cost, symmetric
        self.f, self.g = cost.new_zeros(cost.shape[0]), cost.new_zeros(cost.shape[1])
        self.iterations = 0

    def _kernel(self, eps: float) -> Tensor:
        return (self.cost * (-1 / eps)).add_(self.f[:, None] / eps).add_(self.g[None, :] / eps).exp_()

    def _absorb(self, u: Tensor, v: Tensor, eps: float) -> None:
        self.f, self.g = self.f + eps * u.log(), self.g + eps * v.log()

    def _in_logarithms(self, eps: float) -> None:
        """One iteration that cannot leave the range of float64."""
        n, m = self.cost.shape
        f = -eps * (torch.logsumexp((self.g[None, :] - self.cost) / eps, dim=1) - math.log(m))
        if self.symmetric:
            self.f = self.g = (self.f + f) / 2
        else:
            self.f = f
            self.g = -eps * (torch.logsumexp((f[:, None] - self.cost) / eps, dim=0) - math.log(n))
        self.iterations += 1

    def run(self, eps: float, iterations: int, tolerance: float) -> float:
        """Iterate; returns the l1 error of the rows' marginal, infinity where it was not looked at."""
        n, m = self.cost.shape
        error, left = math.inf, iterations
        while left > 0:
            kernel = self._kernel(eps)
            if not bool((kernel.sum(1) > 0).all() and (kernel.sum(0) > 0).all() and torch.isfinite(kernel).all()):
                self._in_logarithms(eps)
                left -= 1
                continue
            u, v = self.cost.new_ones(n), self.cost.new_ones(m)
            for step in range(left):
                left -= 1
                self.iterations += 1
                if self.symmetric:
                    u = v = (u * (m / (kernel @ v))).sqrt()
                else:
                    u = m / (kernel @ v)
                    v = n / (kernel.T @ u)
                if step % CHECK_EVERY == CHECK_EVERY - 1 or left == 0:
                    error = float((u * (kernel @ v) / (n * m) - 1 / n).abs().sum())
                    ends = torch.cat([u, v])
                    if error <= tolerance or float(ends.max()) > RANGE or float(ends.min()) < 1 / RANGE:
                        break
            self._absorb(u, v, eps)
            if error <= tolerance:
                break
        return error


def entropic_transport(
    cost: Tensor, eps: float, *, tolerance: float = 1e-4, max_iterations: int = 1000, symmetric: bool = False
) -> Transport:
    """Entropic transport between uniform samples: ``min_P <P, C> + eps KL(P | a b^T)``, by Sinkhorn's iterations.

    Args:
        cost: ``(n, m)``. eps: in units of the cost. tolerance: on the l1 error of the marginals.
        symmetric: the cost is that of a sample to itself; converges in a few steps.

    Raises:
        MeasureError: eps is not positive, or a cost is not finite.
    """
    cost = cost.double()
    if not eps > 0 or not bool(torch.isfinite(cost).all()):
        raise MeasureError(f"entropic transport needs a positive eps and finite costs, got eps = {eps}")
    work, stage = _Sinkhorn(cost, symmetric), float(cost.max()) / START
    while stage > STAGE * eps:
        work.run(stage, STAGE_ITERATIONS, tolerance)
        stage /= STAGE
    error = work.run(eps, max_iterations, tolerance)
    return Transport(float(work.f.mean() + work.g.mean()), error, work.iterations, error <= tolerance)


def squared_costs(x: Tensor, y: Tensor) -> Tensor:
    """``(n, m)`` squared Euclidean distances in float64."""
    x, y = x.double(), y.double()
    return torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1)[:, None]).clamp_min_(0)


def sinkhorn_divergence(
    x: Tensor, y: Tensor, eps: float, *, tolerance: float = 1e-4, max_iterations: int = 1000
) -> tuple[float, bool]:
    """``OT_eps(x, y) - (OT_eps(x, x) + OT_eps(y, y)) / 2`` with squared Euclidean cost, and whether all three converged.

    The self terms take out what the entropy adds, not what sampling adds.
    """
    parts = [
        entropic_transport(squared_costs(a, b), eps, tolerance=tolerance, max_iterations=max_iterations, symmetric=a is b)
        for a, b in ((x, y), (x, x), (y, y))
    ]
    return parts[0].value - (parts[1].value + parts[2].value) / 2, all(p.converged for p in parts)
