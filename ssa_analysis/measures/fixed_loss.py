"""The loss whose sharpness is measured: NT-Xent over batches that are drawn once and then never change.

Definition. From the seed, ``pairs`` images of the held-out split are drawn and cut into batches of ``batch``; two
views of each image are drawn and kept. The loss of a batch is the mean NT-Xent over its ``2 * batch`` anchors, each
against the other ``2 * batch - 2`` rows; the loss of the set is the mean over its batches. BatchNorm uses its running
statistics. All of it is a deterministic function of the weights, which two passes must confirm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.data.pairs import PairBatch, fixed_batches
from ssa_analysis.errors import MeasureError
from ssa_analysis.measures.base import MeasureSettings, loss_parameters, make_views, split_features
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.contrastive import check_temperature, nt_xent_from_similarities
from ssa_analysis.numerics.hessian import Batch, CurvatureOperator, Loss


@dataclass(frozen=True)
class FixedLossSettings(MeasureSettings):
    """Settings of the fixed batches.

    Attributes:
        pairs: how many in all. batch: how many at a time (fewer where the split is smaller).
        memory: GiB that graphs may take; the numbers do not depend on it, the time does.
    """

    pairs: int = 256
    batch: int = 256
    memory: float = 2.0


def fixed_pairs(encoder: Encoder, data: Data, settings: FixedLossSettings) -> list[PairBatch]:
    """The batches of the definition above. A split smaller than one batch makes one batch of all its images."""
    available = len(data.splits["held-out"])
    batch = min(settings.batch, available)
    views = make_views(encoder, data, settings.views)
    features = split_features(encoder, data, "held-out") if views.needs_features else None
    return fixed_batches(data, "held-out", views, settings.pairs, batch, settings.seed, features)


def contrastive_loss(pairs: int, tau: float, beta: float | None) -> Loss:
    """Mean NT-Xent of ``2 * pairs`` rows, the second half the positives of the first; logits are the similarities."""

    def scalar(similarities: Tensor) -> Tensor:
        return nt_xent_from_similarities(similarities, beta).mean()

    return Loss(lambda z: z @ z.T / tau, scalar)


def fixed_operator(encoder: Encoder, data: Data, settings: FixedLossSettings, kind: str = "hessian") -> CurvatureOperator:
    """The operator of that loss over all weights of backbone and projector, after the determinism check.

    Raises:
        MeasureError: no projector, a loss that is not finite, or two passes that differ.
    """
    if encoder.projector is None:
        raise MeasureError("this checkpoint has no projector: the contrastive loss needs one")
    encoder.eval()
    tau, beta = loss_parameters(encoder, settings)
    check_temperature(tau, beta)
    batches = [
        Batch(torch.cat([b.first, b.second]).to(encoder.device), contrastive_loss(len(b.first), tau, beta))
        for b in fixed_pairs(encoder, data, settings)
    ]
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    operator = CurvatureOperator(encoder.embed, batches, parameters, kind=kind, memory=settings.memory * 2**30)
    operator.check_determinism()
    return operator
