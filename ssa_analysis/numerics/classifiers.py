"""Multinomial logistic regression and nearest neighbours on frozen features."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


@dataclass(frozen=True)
class LinearClassifier:
    """``logits = x @ weight.T + bias``; ``converged`` says whether the optimiser reached its tolerance."""

    weight: Tensor  # (M, d)
    bias: Tensor  # (M,)
    converged: bool
    gradient_norm: float

    def logits(self, x: Tensor) -> Tensor:
        """``(n, M)``."""
        return x.to(self.weight) @ self.weight.T + self.bias


def fit_logistic(
    x: Tensor,
    y: Tensor,
    classes: int,
    *,
    l2: float = 0.0,
    start: tuple[Tensor, Tensor] | None = None,
    weights: Tensor | None = None,
    max_iterations: int = 1000,
    tolerance: float = 1e-6,
) -> LinearClassifier:
    """Minimise ``mean cross-entropy + l2/2 |W|^2`` (bias unpenalised) by L-BFGS in float64, to convergence.

    scikit-learn's ``LogisticRegression(C=1/(n l2))`` has the same minimiser.

    Args:
        x: ``(n, d)``. y: ``(n,)`` in 0..classes-1.
        start: weight ``(M, d)`` and bias ``(M,)`` to start from; zeros by default.
        weights: ``(n,)`` probabilities over the samples; uniform by default.
    """
    x = x.double()
    y = y.to(x.device)
    n, d = x.shape
    share = (torch.full((n,), 1 / n) if weights is None else weights / weights.sum()).to(x)
    one_hot = torch.nn.functional.one_hot(y, classes).to(x)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.as_tensor(flat, device=x.device).view(classes, d + 1)
        weight, bias = parameters[:, :d], parameters[:, d]
        logits = x @ weight.T + bias
        log_normaliser = torch.logsumexp(logits, 1)
        loss = (share * (log_normaliser - (logits * one_hot).sum(1))).sum() + l2 / 2 * weight.square().sum()
        residual = share[:, None] * (torch.exp(logits - log_normaliser[:, None]) - one_hot)
        gradient = torch.cat([residual.T @ x + l2 * weight, residual.sum(0)[:, None]], 1)
        return float(loss), gradient.reshape(-1).cpu().numpy()

    initial = torch.zeros(classes, d + 1, dtype=torch.float64)
    if start is not None:
        initial = torch.cat([start[0].double().cpu(), start[1].double().cpu()[:, None]], 1)
    # scipy's L-BFGS works on short vectors, for which a BLAS with several threads is fifty times slower than with one
    with _blas().limit(limits=1, user_api="blas"), threads_for(x):
        result = minimize(
            objective,
            initial.reshape(-1).numpy(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": max_iterations, "maxfun": 2 * max_iterations, "gtol": tolerance, "ftol": 1e-15, "maxcor": 20},
        )
    solution = torch.as_tensor(result.x, device=x.device).view(classes, d + 1)
    # scipy's own flag is also raised by its test on the decrease of the loss, far from the optimum on flat losses
    gradient_norm = float(np.abs(result.jac).max())
    converged = gradient_norm <= max(tolerance, 1e-4)
    return LinearClassifier(solution[:, :d], solution[:, d], bool(converged), gradient_norm)


@cache
def _blas() -> ThreadpoolController:
    """The BLAS of numpy and scipy, which are loaded by now; looking for them takes longer than many a fit."""
    return ThreadpoolController()


@contextmanager
def threads_for(x: Tensor) -> Iterator[None]:
    """Inside the block torch has a thread for each million numbers in ``x``, and never more than before.

    A probe of a few labels takes thousands of products of microseconds each: where cores are busy with other work, several
    threads spend most of the time waiting for one another.
    """
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(max(1, min(before, x.numel() >> 20)))
        yield
    finally:
        torch.set_num_threads(before)


def standardise(reference: Tensor, *others: Tensor) -> list[Tensor]:
    """Shift and scale columns by the mean and standard deviation of ``reference``; constant columns become 0."""
    mean, std = reference.mean(0), reference.std(0, correction=0)
    scale = torch.where(std > 1e-8 * std.max().clamp_min(1e-30), 1 / std, torch.zeros_like(std))
    return [(t - mean) * scale for t in (reference, *others)]


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """``(n,)`` bool: whether the largest logit is the label's."""
    return logits.argmax(1) == y.to(logits.device)


def mean_cross_entropy(logits: Tensor, y: Tensor) -> float:
    """Mean cross-entropy in nats."""
    return float(cross_entropy(logits, y.to(logits.device)))


def _directions(x: Tensor) -> Tensor:
    """Unit rows of ``x (n, d)``, whatever its scale; rows of zeros stay."""
    largest = float(x.abs().max()) if x.numel() else 0.0
    # a power of two: no digit changes
    return normalize(x * 2.0 ** -math.frexp(largest)[1] if 0 < largest < math.inf else x, dim=1)


def knn_predict(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, classes: int, *, k: int = 200, temperature: float | None = 0.1
) -> Tensor:
    """k nearest neighbours by cosine similarity.

    Args:
        bank: ``(n, d)``. queries: ``(m, d)``. k: at most n is used.
        temperature: votes weigh ``exp(similarity / temperature)`` (Wu et al. 2018); None: plain majority.

    Returns:
        ``(m,)`` predicted labels; ties go to the lower label.
    """
    bank, queries = _directions(bank), _directions(queries)
    k = min(k, len(bank))
    predictions = []
    for chunk in queries.split(2048):
        similarity, index = (chunk @ bank.T).topk(k, dim=1)
        # only ratios of votes count: of the nearest neighbour it is 1, so that no temperature overflows
        vote = torch.exp((similarity - similarity[:, :1]) / temperature) if temperature else torch.ones_like(similarity)
        score = torch.zeros(len(chunk), classes, dtype=vote.dtype, device=vote.device)
        predictions.append(score.scatter_add_(1, bank_labels.to(vote.device)[index], vote).argmax(1))
    return torch.cat(predictions)
