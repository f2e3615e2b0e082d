"""The contrastive losses of the theory: InfoNCE with temperature, negative weight and number of negatives.

Notation: ``tau`` temperature, ``beta`` weight of the negatives, ``K`` their number. Per anchor,

    l_K = log(1 + (beta / K) * sum_k exp((z.z_k - z.z+) / tau)).

NT-Xent (Chen et al. 2020, eq. 1) with m pairs is ``K = 2m - 2, beta = K``. The loss sits here and not in
``training``, because the curvature of a checkpoint and the bounds need it as much as training does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssa_analysis.errors import SettingsError


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``. torch's own switches to ``x`` at 20 by default, which costs nine digits and all curvature."""
    return torch.nn.functional.softplus(x, threshold=40)


def check_temperature(tau: float, beta: float | None = None) -> None:
    """SettingsError unless ``tau > 0`` and ``beta`` is None or positive."""
    if not tau > 0:
        raise SettingsError(f"the temperature tau must be positive, got {tau}")
    if beta is not None and not beta > 0:
        raise SettingsError(f"the weight of the negatives beta must be positive, got {beta}")


def info_nce(z: Tensor, z_plus: Tensor, negatives: Tensor, tau: float, beta: float | None = None) -> Tensor:
    """InfoNCE with explicit negatives.

    Args:
        z, z_plus: ``(m, d)`` unit rows, the anchors and their positives.
        negatives: ``(K, d)`` shared by all anchors, or ``(m, K, d)``.
        tau: temperature.
        beta: weight of the negatives; None means ``K``.

    Returns:
        ``(m,)`` losses, one per anchor.
    """
    check_temperature(tau, beta)
    similarity = torch.einsum("md,mkd->mk", z, negatives) if negatives.ndim == 3 else z @ negatives.T
    count = similarity.shape[1]
    if count == 0:
        raise SettingsError("InfoNCE needs at least one negative")
    log_weight = math.log(beta / count) if beta is not None else 0.0
    positive = (z * z_plus).sum(1) / tau
    return softplus(torch.logsumexp(similarity / tau, dim=1) + log_weight - positive)


def nt_xent(
    z: Tensor,
    z_plus: Tensor,
    tau: float,
    beta: float | None = None,
    negatives: int | None = None,
    generator: torch.Generator | None = None,
    anchors: Tensor | None = None,
) -> Tensor:
    """NT-Xent over a batch of m pairs, both directions: each of the 2m rows is an anchor once.

    The negatives of an anchor are the ``2m - 2`` rows that belong to other pairs, or ``negatives`` of them drawn
    without replacement for each anchor with ``generator``.

    Args:
        z, z_plus: ``(m, d)`` unit rows, the two views.
        tau, beta: as in :func:`info_nce`; ``beta=None`` means the number of negatives (plain NT-Xent).
        negatives: K, at most ``2m - 2``; None means all.
        anchors: ``(a,)`` which of the 2m rows (first views, then second ones) are anchors; default all.

    Returns:
        ``(2m,)`` losses, or ``(a,)``; the batch loss is their mean.

    Raises:
        SettingsError: m < 2, or K outside 1..2m-2.
    """
    check_temperature(tau, beta)
    rows = torch.cat([z, z_plus])
    similarity = (rows if anchors is None else rows[anchors]) @ rows.T / tau
    return nt_xent_from_similarities(similarity, beta, negatives, generator, anchors)


def nt_xent_from_similarities(
    similarity: Tensor,
    beta: float | None = None,
    negatives: int | None = None,
    generator: torch.Generator | None = None,
    anchors: Tensor | None = None,
) -> Tensor:
    """NT-Xent from the ``(2m, 2m)`` similarities divided by the temperature; convex in them. See :func:`nt_xent`.

    With ``anchors (a,)`` only their rows ``(a, 2m)`` are given. Similarities ``(b, 2m, 2m)`` are those of b batches, whose
    losses are ``(b, 2m)``.
    """
    pairs = similarity.shape[-1] // 2
    available = 2 * pairs - 2
    if pairs < 2:
        raise SettingsError("NT-Xent needs at least two pairs in a batch: with one there are no negatives")
    count = available if negatives is None else negatives
    if not 1 <= count <= available:
        raise SettingsError(f"a batch of {pairs} pairs has 1 to {available} negatives an anchor, asked for {count}")
    own = torch.arange(2 * pairs, device=similarity.device) if anchors is None else anchors.to(similarity.device)
    index = torch.arange(len(own), device=similarity.device)
    partner = (own + pairs) % (2 * pairs)
    positive = similarity[..., index, partner]
    excluded = torch.zeros(similarity.shape[-2:], dtype=torch.bool, device=similarity.device)
    excluded[index, own] = True
    excluded[index, partner] = True
    if count < available:
        # drawn for all rows, so that an anchor has the same negatives wherever it is computed
        order = torch.rand((2 * pairs, 2 * pairs), generator=generator, device=similarity.device)[own].masked_fill(excluded, 2.0)
        chosen = order.topk(count, dim=1, largest=False).indices
        excluded = torch.ones_like(excluded).scatter_(1, chosen, False)
    log_sum = torch.logsumexp(similarity.masked_fill(excluded, -torch.inf), dim=-1)
    log_weight = math.log(beta / count) if beta is not None else 0.0
    return softplus(log_sum + log_weight - positive)


def log_mean_exp_similarity(z: Tensor, negatives: Tensor, tau: float, weights: Tensor | None = None) -> Tensor:
    """``log E_{z-} exp(z.z- / tau)`` for each anchor.

    Args:
        z: ``(m, d)`` anchors. negatives: ``(n, d)``. weights: ``(n,)`` probabilities, uniform by default.

    Returns:
        ``(m,)``.
    """
    logits = z @ negatives.T / tau
    if weights is None:
        return torch.logsumexp(logits, dim=1) - math.log(negatives.shape[0])
    return torch.logsumexp(logits + weights.log(), dim=1)
