"""The loss of fixed blocks of practical pairs under noise on the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssa_analysis.data.pairs import PairBatch
from ssa_analysis.errors import MeasureError
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.contrastive import nt_xent
from ssa_analysis.numerics.hessian import flatten, perturbed
from ssa_analysis.numerics.lanczos import random_vector
from ssa_analysis.numerics.seeding import derive_seed


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[bool]:
    """Inside the block BatchNorm normalises with the statistics of the batch, and keeps its running ones as they are.

    Yields:
        Whether there is any BatchNorm.
    """
    modules = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    saved = [(m.training, m.track_running_stats) for m in modules]
    for m in modules:
        m.training, m.track_running_stats = True, False
    try:
        yield bool(modules)
    finally:
        for m, (training, tracked) in zip(modules, saved, strict=True):
            m.training, m.track_running_stats = training, tracked


@dataclass
class NoisyLoss:
    """NT-Xent of single blocks at ``theta + eps``; with BatchNorm, normalised by the block's own 2m views.

    Running statistics come from training and would make the loss depend on the training images in a way that no
    divergence between weights accounts for. Those of the block do not.
    """

    encoder: Encoder
    tau: float
    beta: float

    def __post_init__(self) -> None:
        parts = [self.encoder.backbone, self.encoder.projector]
        self.parameters = [p for part in parts if part is not None for p in part.parameters()]
        self.size = sum(p.numel() for p in self.parameters)

    def loss(self, block: PairBatch) -> Tensor:
        """Mean loss of a block, of the present weights."""
        device = self.encoder.device
        z = self.encoder.embed(torch.cat([block.first, block.second]).to(device)).double()
        first, second = z.chunk(2)
        return nt_xent(first, second, self.tau, self.beta).mean()

    def clean(self, blocks: Sequence[PairBatch]) -> np.ndarray:
        """``(n,)`` losses at theta."""
        with torch.no_grad():
            return np.array([float(self.loss(block)) for block in blocks])

    def rises(self, blocks: Sequence[PairBatch], clean: np.ndarray, scale: float, seed: int) -> np.ndarray:
        """``(n,)`` what a noise ``scale * N(0, I)`` of each block's own adds to its loss; at every scale the same directions.

        Raises:
            MeasureError: a loss that is not finite.
        """
        found = np.zeros(len(blocks))
        device, dtype = self.parameters[0].device, self.parameters[0].dtype
        with torch.no_grad():
            for draw, block in enumerate(blocks):
                noise = random_vector(self.size, derive_seed(seed, "weight noise", draw), device, dtype)
                with perturbed(self.parameters, scale * noise):
                    found[draw] = float(self.loss(block)) - clean[draw]
        if not np.isfinite(found).all():
            raise MeasureError(f"the loss is not finite under weight noise of scale {scale:g}")
        return found

    def worst_case(self, blocks: Sequence[PairBatch], radius: float, steps: int) -> float:
        """The largest mean loss found with ``|eps| <= radius``, by ``steps`` steps of normalised ascent on the sphere."""
        point = torch.zeros(self.size, device=self.parameters[0].device, dtype=self.parameters[0].dtype)
        best = -math.inf
        for step in range(steps + 1):
            with perturbed(self.parameters, point):
                loss = torch.stack([self.loss(block) for block in blocks]).mean()
                best = max(best, float(loss.detach()))
                if step < steps:
                    gradient = flatten(torch.autograd.grad(loss, self.parameters))
                    point = radius * gradient / gradient.norm().clamp_min(1e-30)
        return best

    def squared_distance(self, prior: Mapping[str, Tensor]) -> float:
        """``|theta - theta0|^2`` over the weights that the noise moves.

        Raises:
            MeasureError: a prior of another architecture, or one that is not finite.
        """
        total = 0.0
        for part in ("backbone", "projector"):
            module = getattr(self.encoder, part)
            for name, p in () if module is None else module.named_parameters():
                key = f"{part}.{name}"
                there = prior.get(key)
                if there is None or there.shape != p.shape:
                    what = "is absent" if there is None else f"has shape {tuple(there.shape)}"
                    raise MeasureError(f"the prior is of another architecture: {key!r} {what} there, {tuple(p.shape)} here")
                if not torch.isfinite(there).all():
                    raise MeasureError(f"the prior's {key!r} holds NaN or infinite weights")
                total += float((p.detach().double().cpu() - there.double().cpu()).square().sum())
        return total
