"""The loss whose sharpness is measured: NT-Xent over batches that are drawn once and then never change.

Definition. From the seed, ``pairs`` images of the held-out split are drawn and cut into batches of ``batch``; two
views of each image are drawn and kept. The loss of a batch is the mean NT-Xent over its ``2 * batch`` anchors, each
against the other ``2 * batch - 2`` rows; the loss of the set is the mean over its batches. BatchNorm uses its running
statistics. All of it is a deterministic function of the weights, which two passes must confirm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.data.pairs import PairBatch, fixed_batches
from ssa_analysis.errors import MeasureError
from ssa_analysis.measures.base import MeasureSettings, loss_parameters, make_views, split_features
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.contrastive import nt_xent
from ssa_analysis.numerics.hessian import HessianOperator


@dataclass(frozen=True)
class FixedLossSettings(MeasureSettings):
    """Settings of the fixed batches: how many pairs, and how many in a batch (fewer where the split is smaller)."""

    pairs: int = 256
    batch: int = 256


def fixed_pairs(encoder: Encoder, data: Data, settings: FixedLossSettings) -> list[PairBatch]:
    """The batches of the definition above. A split smaller than one batch makes one batch of all its images."""
    available = len(data.splits["held-out"])
    batch = min(settings.batch, available)
    views = make_views(encoder, data, settings.views)
    features = split_features(encoder, data, "held-out") if views.needs_features else None
    return fixed_batches(data, "held-out", views, settings.pairs, batch, settings.seed, features)


def fixed_operator(encoder: Encoder, data: Data, settings: FixedLossSettings) -> HessianOperator:
    """The operator of that loss over all weights of backbone and projector, after the determinism check.

    Raises:
        MeasureError: no projector, a loss that is not finite, or two passes that differ.
    """
    if encoder.projector is None:
        raise MeasureError("this checkpoint has no projector: the contrastive loss needs one")
    encoder.eval()
    tau, beta = loss_parameters(encoder, settings)
    device = encoder.device

    def loss_of(batch: PairBatch) -> Callable[[], Tensor]:
        views = torch.cat([batch.first, batch.second]).to(device)

        def loss() -> Tensor:
            z = encoder.embed(views)
            return nt_xent(z[: len(batch.first)], z[len(batch.first) :], tau, beta).mean()

        return loss

    parameters = [p for p in encoder.parameters() if p.requires_grad]
    operator = HessianOperator([loss_of(b) for b in fixed_pairs(encoder, data, settings)], parameters)
    operator.check_determinism()
    return operator
