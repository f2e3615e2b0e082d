"""What the adapters share: an operator's fixed batches in the form ``criterion(model(x), y)`` that the libraries expect.

Both libraries sum a loss over data ``(x, y)``. A contrastive loss couples its batch, so that here ``x`` and ``y`` are the
*number* of a fixed batch: the model looks the batch up and returns its logits, the criterion its loss. The two stages are
those of :class:`ssa_analysis.numerics.hessian.Loss`, so that Gauss-Newton means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssa_analysis.numerics.hessian import CurvatureOperator
from ssa_analysis.scores import Score


class BatchModel(nn.Module):
    """Number of a batch ``(1,)`` -> its logits.

    A parameter without part in the loss gets one whose derivatives are all zero: PyHessian fails on it otherwise, and so
    do curvlinops 3.0.0, and 3.0.1 with torch 2.4.

    Args:
        operator: its network must read its weights from ``module``. module: holds all of the operator's parameters.
    """

    def __init__(self, operator: CurvatureOperator, module: nn.Module) -> None:
        super().__init__()
        self.module, self._operator = module, operator
        found = torch.autograd.grad(operator.batches[0].loss(self._outputs(0)), operator.parameters, allow_unused=True)
        unused = {id(p) for p, gradient in zip(operator.parameters, found, strict=True) if gradient is None}
        self._unused = {name for name, p in module.named_parameters() if id(p) in unused}

    def _outputs(self, number: int) -> Tensor:
        return self._operator.network(self._operator.batches[number].inputs)

    def forward(self, number: Tensor) -> Tensor:
        """The logits of that batch."""
        logits = self._operator.batches[int(number)].loss.logits(self._outputs(int(number)))
        # by name, because curvlinops puts other tensors in their places
        nothing = [0 * p.square().sum() for name, p in self.module.named_parameters() if name in self._unused]
        return logits + torch.stack(nothing).sum() if nothing else logits


class BatchLoss(nn.Module):
    """Logits and number of a batch -> its loss, to be averaged over the batches."""

    reduction = "mean"

    def __init__(self, operator: CurvatureOperator) -> None:
        super().__init__()
        self._operator = operator

    def forward(self, logits: Tensor, number: Tensor) -> Tensor:
        """The loss of that batch."""
        return self._operator.batches[int(number)].loss.scalar(logits)


def batch_numbers(operator: CurvatureOperator) -> list[tuple[Tensor, Tensor]]:
    """The data ``[(x, y), ...]`` of the two modules."""
    return [(torch.tensor([i]), torch.tensor([i])) for i in range(len(operator.batches))]


@contextmanager
def lent(operator: CurvatureOperator, module: nn.Module) -> Iterator[None]:
    """Inside the block only the operator's parameters require gradients; all that a library may change is restored.

    The libraries differentiate by whatever requires a gradient, switch modules to evaluation mode and leave gradients.
    """
    parameters = list(module.parameters())
    chosen = {id(p) for p in operator.parameters}
    required, gradients = [p.requires_grad for p in parameters], [p.grad for p in parameters]
    training = [(m, m.training) for m in module.modules()]
    operator.release()  # its graphs would be of no use meanwhile
    try:
        for p in parameters:
            p.requires_grad_(id(p) in chosen)
            p.grad = None
        yield
    finally:
        for p, needs, gradient in zip(parameters, required, gradients, strict=True):
            p.requires_grad_(needs)
            p.grad = gradient
        for m, mode in training:
            m.training = mode


def eigenvalue_scores(
    values: Sequence[float], residuals: Sequence[float], converged: Sequence[bool], settings: Mapping[str, Any]
) -> list[Score]:
    """``lambda_max`` and ``lambda_1 .. lambda_k`` with their residual bounds."""
    bounded = {**settings, "error": "residual"}
    scores = [
        Score("curvature", f"lambda_{i + 1}", value, "nats", None, value - r, value + r, bool(good), bounded)
        for i, (value, r, good) in enumerate(zip(values, residuals, converged, strict=True))
    ]
    first = scores[0]
    largest = Score("curvature", "lambda_max", first.value, "nats", None, first.low, first.high, first.converged, bounded)
    return [largest, *scores]


def density_arrays(grid: np.ndarray, density: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, list[float | None]]:
    """A density with its 95 % band, each ``(g,)``, as a figure takes it; what is not known is None."""
    columns = {"eigenvalue": grid, "density": density, "low": low, "high": high}
    return {name: [float(v) if np.isfinite(v) else None for v in column] for name, column in columns.items()}


def residual_norms(operator: CurvatureOperator, values: Sequence[float], vectors: Tensor) -> np.ndarray:
    """``|H v - lambda v|`` of the rows of ``vectors (k, n)``, by one product of our operator each; ``(k,)``."""
    products = (operator.matvec(v).double() for v in vectors)
    return np.array(
        [
            float((h - value * v.double()).norm() / v.double().norm())
            for h, v, value in zip(products, vectors, values, strict=True)
        ]
    )
