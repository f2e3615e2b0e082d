"""What scoring will take: seconds and memory, from a few passes of one of the checkpoints on this machine."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.data.datasets import Data
from ssa_analysis.measures import MEASURES
from ssa_analysis.measures.base import MeasureSettings
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.running.estimate import UNKNOWN, WORK, kept_bytes, timed
from ssa_analysis.running.plan import Cell

BATCH = 32  # images that are timed
SECOND = 4  # what a Hessian product takes at its peak, in units of what a gradient saves: a graph about twice as large, doubled


@dataclass(frozen=True)
class Costs:
    """Of one image of a checkpoint: seconds of a forward pass and of a gradient, and bytes that the latter keeps on the way.

    ``weights`` are bytes of the whole encoder, ``path`` that of the checkpoint.
    """

    forward: float
    gradient: float
    saved: int
    weights: int
    path: str


@dataclass(frozen=True)
class Knob:
    """A setting that makes a measure cheaper.

    Attributes:
        floor: below which its numbers say little. share: of the measure's passes that go in proportion to it; 1 for images.
    """

    setting: str
    floor: int
    share: float


# what is given up first stands first
KNOBS: dict[str, tuple[Knob, ...]] = {
    "curvature": (Knob("trace_probes", 8, 0.3), Knob("density_probes", 1, 0.25), Knob("pairs", 64, 1.0)),
    "flatness": (Knob("draws", 4, 0.3), Knob("restarts", 1, 0.6), Knob("pairs", 64, 1.0)),
    "landscape": (Knob("directions", 2, 0.3), Knob("pairs", 64, 1.0)),
    "robustness": (Knob("images", 100, 1.0),),
    "views": (Knob("images", 200, 1.0),),
    "bounds": (Knob("draws", 20, 0.5),),
}


@dataclass(frozen=True)
class ScoringEstimate:
    """Rough seconds of each measure, over all its cells and on one worker, and bytes at the peak of one.

    ``by_measure`` holds (measure, cells, seconds).
    """

    by_measure: tuple[tuple[str, int, float], ...]
    memory: int

    @property
    def seconds(self) -> float:
        """All of it, on one worker."""
        return sum(seconds for _, _, seconds in self.by_measure)


def measured_costs(path: str | Path, options: LoadOptions, data: Data, device: str) -> Costs:
    """Time a few passes of a checkpoint on this machine; CheckpointError where it cannot be loaded."""
    encoder = load_checkpoint(path, options).encoder.to(device)
    images = data.images_of("held-out")
    batch = images[torch.arange(BATCH) % len(images)].to(device)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in encoder.state_dict().values())
    return Costs(*_passes(encoder, batch), weights, str(path))


def estimate_scoring(cells: Sequence[Cell], data: Data, costs: Costs) -> ScoringEstimate:
    """What the cells will take, if all their checkpoints are like the one whose costs were measured."""
    seconds: dict[str, float] = {}
    counts: dict[str, int] = {}
    most = 0
    for cell in cells:
        seconds[cell.measure] = seconds.get(cell.measure, 0.0) + cell_seconds(cell.measure, cell.settings, data, costs)
        counts[cell.measure] = counts.get(cell.measure, 0) + 1
        pairs = int(cell.settings.get("pairs") or 256)
        together = min(pairs, int(cell.settings.get("batch") or pairs)) if WORK.get(cell.measure, UNKNOWN).gradients else 0
        stated = float(cell.settings.get("memory") or math.inf) * 2**30  # which the measure keeps to
        most = max(most, int(min(SECOND * 2 * costs.saved * together, stated)))
    memory = most + 6 * costs.weights + data.images.numel()  # the weights, a gradient, and vectors of a Krylov space
    return ScoringEstimate(tuple((name, counts[name], seconds[name]) for name in counts), memory)


def cell_seconds(measure: str, settings: Mapping[str, Any], data: Data, costs: Costs) -> float:
    """Rough seconds of one cell."""
    work, factor = WORK.get(measure, UNKNOWN), 1.0
    defaults = {f.name: f.default for f in fields(MEASURES.get(measure).settings)} if measure in MEASURES else {}
    for knob in KNOBS.get(measure, ()):
        if knob.setting != "pairs" and isinstance(defaults.get(knob.setting), int):
            factor *= 1 - knob.share + knob.share * float(settings.get(knob.setting, 0) or 0) / float(defaults[knob.setting])  # type: ignore[arg-type]
    pairs = int(settings.get("pairs") or 256)
    held_out = len(data.images_of("held-out"))
    return factor * (work.gradients * 2 * pairs * costs.gradient + work.forwards * held_out * costs.forward) + work.seconds


def within_budget(
    measures: Mapping[str, MeasureSettings],
    checkpoints: int,
    budget: float,
    fixed: Mapping[str, Collection[str]],
    data: Data,
    costs: Costs,
) -> tuple[dict[str, dict[str, int]], float]:
    """Settings, halved again and again, with which all measures of the checkpoints take no longer than the budget.

    The measure that takes longest gives up first, in the order of its ``KNOBS``, down to their floors.

    Args:
        measures: with their settings. budget: seconds, on one worker. fixed: settings that the user said, which stay.

    Returns:
        Changed settings by measure, and the seconds that are estimated with them; more than the budget where all is given up.
    """
    settings = {name: values.to_dict() for name, values in measures.items()}
    changed: dict[str, dict[str, int]] = {}

    def takes(name: str) -> float:
        return checkpoints * cell_seconds(name, settings[name], data, costs)

    def next_knob(name: str) -> Knob | None:
        free = (k for k in KNOBS.get(name, ()) if k.setting not in fixed.get(name, ()))
        return next((k for k in free if int(settings[name].get(k.setting) or 0) > k.floor), None)

    while (total := sum(map(takes, settings))) > budget:
        able = [name for name in settings if next_knob(name) is not None]
        if not able:
            break
        name = max(able, key=takes)
        knob = next_knob(name)
        assert knob is not None
        settings[name][knob.setting] = max(knob.floor, int(settings[name][knob.setting]) // 2)
        changed.setdefault(name, {})[knob.setting] = settings[name][knob.setting]
    return changed, total


def _passes(encoder: Encoder, batch: Tensor) -> tuple[float, float, int]:
    """Seconds of a forward pass and of a gradient, and bytes that it keeps on the way, for one image each."""
    device = batch.device

    def forward() -> None:
        with torch.no_grad():
            encoder.features(batch)

    def gradient() -> None:
        encoder.features(batch).square().mean().backward()
        encoder.zero_grad(set_to_none=True)

    for parameter in encoder.parameters():
        parameter.requires_grad_()
    kept = kept_bytes(gradient, encoder)
    return timed(forward, device) / len(batch), timed(gradient, device) / len(batch), kept // len(batch)
