"""What scoring will take: seconds and memory, from a few passes of one of the checkpoints on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.data.datasets import Data
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.running.estimate import UNKNOWN, WORK, timed
from ssa_analysis.running.plan import Cell

BATCH = 32  # images that are timed


@dataclass(frozen=True)
class ScoringEstimate:
    """Rough seconds of each measure, over all its cells and on one worker, and bytes at the peak of one.

    ``by_measure`` holds (measure, cells, seconds). ``checkpoint`` is the path of the one that was timed; the others are taken to
    be like it.
    """

    by_measure: tuple[tuple[str, int, float], ...]
    memory: int
    checkpoint: str

    @property
    def seconds(self) -> float:
        """All of it, on one worker."""
        return sum(seconds for _, _, seconds in self.by_measure)


def estimate_scoring(cells: Sequence[Cell], data: Data, device: str) -> ScoringEstimate | None:
    """What the cells will take; None where there are none.

    Raises:
        CheckpointError: the first checkpoint cannot be loaded.
    """
    if not cells:
        return None
    encoder = load_checkpoint(cells[0].path, cells[0].options).encoder.to(device)
    images = data.images_of("held-out")
    batch = images[torch.arange(BATCH) % len(images)].to(device)
    forward, gradient, saved = _passes(encoder, batch)
    held_out, seconds, counts, most = len(images), dict[str, float](), dict[str, int](), 0
    for cell in cells:
        work = WORK.get(cell.measure, UNKNOWN)
        pairs = int(cell.settings.get("pairs") or 256)
        once = work.gradients * 2 * pairs * gradient + work.forwards * held_out * forward + work.seconds
        seconds[cell.measure] = seconds.get(cell.measure, 0.0) + once
        counts[cell.measure] = counts.get(cell.measure, 0) + 1
        together = 2 * min(pairs, int(cell.settings.get("batch") or pairs)) if work.gradients else 0
        most = max(most, saved * together)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in encoder.state_dict().values())
    memory = most + 6 * weights + data.images.numel()  # the weights, a gradient, and vectors of a Krylov space
    return ScoringEstimate(tuple((name, counts[name], seconds[name]) for name in counts), memory, cells[0].path)


def _passes(encoder: Encoder, batch: Tensor) -> tuple[float, float, int]:
    """Seconds of a forward pass and of a gradient, and bytes that it keeps on the way, for one image each."""
    device = batch.device

    def forward() -> None:
        with torch.no_grad():
            encoder.features(batch)

    def gradient() -> None:
        encoder.features(batch).square().mean().backward()
        encoder.zero_grad(set_to_none=True)

    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    for parameter in encoder.parameters():
        parameter.requires_grad_()
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        gradient()
    return timed(forward, device) / len(batch), timed(gradient, device) / len(batch), sum(kept.values()) // len(batch)
