"""Encoder: what every measure sees of a checkpoint."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ssa_analysis.data.views import ViewRecipe, to_float
from ssa_analysis.errors import MeasureError
from ssa_analysis.numerics.thrift import memory_share


class Projector(nn.Sequential):
    """MLP projector: linear layers with BatchNorm and ReLU between them (Chen et al. 2020, section 4.2)."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(sizes)):
            last = i == len(sizes) - 2
            layers.append(nn.Linear(a, b, bias=last))
            if not last:
                layers += [nn.BatchNorm1d(b), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class Encoder(nn.Module):
    """Backbone, projector and input normalisation; a supervised checkpoint has a classifier as well.

    ``features`` gives h, before the projector; ``embed`` gives z, after it, with unit norm. Both take images in
    [0, 1] (or uint8): the normalisation is part of the encoder, so that no measure can forget it.

    Attributes:
        classifier: maps features h to class logits; None where the file holds none.
        recipe: the views it was trained with, None where unknown.
        loss: ``tau``, ``beta`` (None: K) of its training loss; empty where unknown.
        initial: state dict before training, None where the file does not keep it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module | None,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        recipe: ViewRecipe | None = None,
        loss: Mapping[str, Any] | None = None,
        classifier: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.classifier = classifier
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.recipe = recipe
        self.loss = dict(loss or {})
        self.initial: Mapping[str, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return next(self.parameters()).device

    def normalised(self, images: Tensor) -> Tensor:
        """``(n, 3, h, w)`` images in [0, 1] (or uint8) -> what the backbone takes."""
        return (to_float(images) - self.mean) / self.std

    def features(self, images: Tensor) -> Tensor:
        """``(n, 3, h, w)`` images -> features h ``(n, feature_dim)``."""
        h: Tensor = self.backbone(self.normalised(images))
        return h

    def embed_features(self, h: Tensor) -> Tensor:
        """Features ``(n, feature_dim)`` -> embedding z ``(n, d)``, unit rows; MeasureError without a projector."""
        if self.projector is None:
            raise MeasureError(
                "this checkpoint has no projector: the contrastive loss and the embedding need one (--embedding features takes "
                "the features in its place, --loss supervised a classifier or a probe)"
            )
        return normalize(self.projector(h), dim=1)

    def embed(self, images: Tensor) -> Tensor:
        """``(n, 3, h, w)`` images -> embedding z ``(n, d)``, unit rows."""
        return self.embed_features(self.features(images))

    def logits(self, images: Tensor) -> Tensor:
        """``(n, 3, h, w)`` images -> class logits ``(n, M)``; MeasureError without a classifier."""
        if self.classifier is None:
            raise MeasureError("this checkpoint has no classifier: the supervised loss needs one")
        logits: Tensor = self.classifier(self.features(images))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """The embedding; lets the encoder stand where a plain module is expected."""
        return self.embed(images)


def in_batches(function: Callable[[Tensor], Tensor], images: Tensor, device: torch.device, batch: int = 512) -> Tensor:
    """Apply ``function`` to ``images`` batch by batch without gradients; the result lies on the CPU."""
    batch = max(1, int(batch * memory_share()))
    with torch.no_grad():
        return torch.cat([function(chunk.to(device)).float().cpu() for chunk in images.split(batch)])
