"""PyHessian (Yao et al. 2020) as a back end.

Its power iteration finds the eigenvalues of largest *magnitude*, and stops on the change between iterations, which can
be far from the truth: the residual shows it. It has no density that runs on current torch, so there is none here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssa_analysis.measures.backends.adapter import (
    BatchLoss,
    BatchModel,
    batch_numbers,
    eigenvalue_scores,
    lent,
    residual_norms,
)
from ssa_analysis.numerics.hessian import CurvatureOperator, flatten
from ssa_analysis.numerics.resampling import mean_interval
from ssa_analysis.numerics.seeding import seeded
from ssa_analysis.scores import Score

MAX_ITERATIONS = 100  # its own defaults
TOLERANCE = 1e-3


class _PyHessianModel(BatchModel):
    """A model whose parameters are the operator's, in the operator's order."""

    def __init__(self, operator: CurvatureOperator, module: nn.Module) -> None:
        super().__init__(operator, module)
        self._loss = BatchLoss(operator)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return iter(self._operator.parameters)  # type: ignore[arg-type]

    def forward(self, number: Tensor) -> Tensor:
        return self._loss(super().forward(number), number)  # type: ignore[no-any-return]


def build_pyhessian(operator: CurvatureOperator, module: nn.Module) -> Any:
    """``pyhessian.hessian`` of an operator's loss; to be used inside :func:`lent`."""
    import pyhessian

    return pyhessian.hessian(
        _PyHessianModel(operator, module),
        lambda loss, _number: loss,
        dataloader=batch_numbers(operator),
        cuda=operator.device.type == "cuda",
    )


def pyhessian_scores(operator: CurvatureOperator, module: nn.Module, *, top: int, seed: int) -> list[Score]:
    """``lambda_1 .. lambda_k``, ``lambda_max`` and ``trace`` by PyHessian's power iteration and Hutchinson estimator.

    Its iteration returns no residual, so that one product of our operator gives each eigenvalue its own.

    Args:
        operator: Hessian in float32. module: holds the parameters that the operator's network reads.
    """
    with warnings.catch_warnings(), lent(operator, module), seeded(seed, "pyhessian", device=operator.device):
        warnings.simplefilter("ignore")  # its use of backward(create_graph=True) makes torch warn of a cycle
        hessian = build_pyhessian(operator, module)
        found, directions = hessian.eigenvalues(maxIter=MAX_ITERATIONS, tol=TOLERANCE, top_n=top)
        samples = np.array([float(v) for v in hessian.trace(maxIter=MAX_ITERATIONS, tol=TOLERANCE)])
    settings = {"backend": "pyhessian"}
    values = [float(v) for v in found]
    residuals = residual_norms(operator, values, torch.stack([flatten(d).detach() for d in directions]))
    converged = [bool(r <= 10 * TOLERANCE * abs(values[0])) for r in residuals]
    probed = {**settings, "error": "standard error", "products": len(samples)}
    trace = Score.of_interval(
        "curvature", "trace", mean_interval(samples), "nats", converged=len(samples) < MAX_ITERATIONS, settings=probed
    )
    return [*eigenvalue_scores(values, residuals.tolist(), converged, settings), trace]
