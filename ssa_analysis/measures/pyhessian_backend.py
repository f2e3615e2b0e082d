"""PyHessian (Yao et al. 2020) as a back end: the pair loss expressed as the model and criterion it expects."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.hessian import Batch, CurvatureOperator
from ssa_analysis.numerics.seeding import seeded
from ssa_analysis.score import Score

MAX_ITERATIONS = 100
TOLERANCE = 1e-3


class _BatchAsInput(nn.Module):
    """PyHessian calls ``criterion(model(inputs), targets)``; here the input is the number of a fixed batch.

    The loss of that batch is computed inside, by the very loss that our own operator uses.
    """

    def __init__(self, encoder: Encoder, batches: list[Batch]) -> None:
        super().__init__()
        self.encoder, self._batches = encoder, batches

    def forward(self, number: Tensor) -> Tensor:
        batch = self._batches[int(number)]
        return batch.loss(self.encoder.embed(batch.inputs))


def pyhessian_spectrum(encoder: Encoder, operator: CurvatureOperator, top: int, seed: int) -> list[Score]:
    """``lambda_1 .. lambda_k``, ``lambda_max`` and ``trace`` by PyHessian's power iteration and Hutchinson estimator.

    Its power iteration returns no residual, so one product with our operator gives each eigenvalue its own. It finds
    the eigenvalues of largest *magnitude*, and stops on the change between iterations, which can be far from the
    truth: the residual shows it. It has no working density on current torch, so there is none here.
    """
    import pyhessian

    batches = [(torch.tensor([i]), torch.zeros(1)) for i in range(len(operator.batches))]
    model = _BatchAsInput(encoder, operator.batches)
    with warnings.catch_warnings(), seeded(seed, "pyhessian", device=operator.device):
        warnings.simplefilter("ignore")  # its use of backward(create_graph=True) makes torch warn of a cycle
        hessian = pyhessian.hessian(model, lambda loss, _target: loss, dataloader=batches, cuda=operator.device.type == "cuda")
        values, vectors = hessian.eigenvalues(maxIter=MAX_ITERATIONS, tol=TOLERANCE, top_n=top)
        samples = np.array([float(v) for v in hessian.trace(maxIter=MAX_ITERATIONS, tol=TOLERANCE)])
    for p in operator.parameters:
        p.grad = None
    settings = {"error": "residual", "backend": "pyhessian"}
    scores = []
    for i, (value, vector) in enumerate(zip(values, vectors, strict=True)):
        flat = torch.cat([v.reshape(-1) for v in vector]).detach()
        residual = float((operator.matvec(flat) - float(value) * flat).norm())
        name = f"lambda_{i + 1}"
        good = residual <= 10 * TOLERANCE * abs(values[0])
        scores.append(
            Score("curvature", name, float(value), "nats", None, float(value) - residual, float(value) + residual, good, settings)
        )
    largest = scores[0]
    scores.insert(
        0, Score("curvature", "lambda_max", largest.value, "nats", None, largest.low, largest.high, largest.converged, settings)
    )
    stderr = float(samples.std(ddof=1) / np.sqrt(len(samples)))
    trace_settings = {"error": "standard error", "backend": "pyhessian", "products": len(samples)}
    converged = len(samples) < MAX_ITERATIONS
    mean = float(samples.mean())
    scores.append(Score.estimate("curvature", "trace", mean, stderr, "nats", converged=converged, settings=trace_settings))
    return scores
