"""What a study will take, from a few steps of its own training on this machine: time and disk, roughly."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ssa_analysis.data.datasets import Data
from ssa_analysis.data.views import Views
from ssa_analysis.measures import MEASURES
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.running.study import Run
from ssa_analysis.training.loop import batch_loss, build_encoder, training_recipe
from ssa_analysis.training.optimizers import STATES
from ssa_analysis.training.settings import TrainSettings, method_row

STEPS = 2  # that are timed, after one that is not


@dataclass(frozen=True)
class Work:
    """What a measure does with one checkpoint, in passes over images; rough, read off runs.

    Attributes:
        gradients: passes forward and back over the images of its ``pairs``. forwards: over the held-out images.
        seconds: of what is not the network's work.
    """

    gradients: float = 0.0
    forwards: float = 0.0
    seconds: float = 0.0


WORK: dict[str, Work] = {
    "downstream": Work(forwards=2, seconds=2),
    "representation": Work(forwards=4),
    "curvature": Work(gradients=130),
    "flatness": Work(gradients=90),
    "landscape": Work(gradients=70),
    "shift": Work(forwards=4, seconds=4),
    "robustness": Work(forwards=100, seconds=4),
    "views": Work(forwards=60, seconds=3),
    "bounds": Work(gradients=60, forwards=10, seconds=6),
}
UNKNOWN = Work(gradients=50, forwards=10)  # a plug-in's measure


@dataclass(frozen=True)
class Estimate:
    """Seconds of training and of scoring on this machine with the given number of workers, and bytes on disk."""

    training: float
    scoring: float
    disk: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.training + self.scoring


def timed(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, the first one not counted."""
    times = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


class _Stopwatch:
    """Times of views, of a gradient and of a forward pass, each measured once for the settings that decide it."""

    def __init__(self, data: Data, device: torch.device) -> None:
        self.data, self.device = data, device
        self._views: dict[Any, float] = {}
        self._passes: dict[Any, tuple[float, float]] = {}
        self.encoders: dict[Any, Encoder] = {}

    def batch(self, count: int) -> torch.Tensor:
        images = self.data.images_of("train")
        return images[torch.arange(count) % len(images)].to(self.device)

    def views(self, settings: TrainSettings) -> float:
        """Two views of a batch."""
        recipe = training_recipe(settings, self.data)
        if recipe.fourier is not None and recipe.fourier.partner != "batch":  # the time is about the same
            recipe = replace(recipe, fourier=replace(recipe.fourier, partner="batch"))
        key = (repr(recipe), settings.batch)
        if key not in self._views:
            views, images = Views(recipe, self.data.image_size), self.batch(settings.batch)
            self._views[key] = timed(lambda: views.pair(images, 0), self.device)
        return self._views[key]

    def passes(self, settings: TrainSettings) -> tuple[float, float]:
        """A gradient of a batch of pairs, and a forward pass over as many images as it has."""
        key = (settings.arch, settings.width, settings.stem, settings.projector, settings.batch, settings.amp)
        if key not in self._passes:
            encoder = build_encoder(settings, self.data).to(self.device)
            pixels = self.batch(settings.batch).float() / 255

            def forward() -> None:
                with torch.no_grad():
                    encoder.embed(torch.cat([pixels, pixels]))

            plain = replace(settings, negatives=None, accumulate=1)
            gradient = timed(lambda: batch_loss(encoder, pixels, pixels, plain, 0).backward(), self.device)
            self._passes[key] = gradient, timed(forward, self.device)
            self.encoders[key] = encoder
        return self._passes[key]

    def weights(self, settings: TrainSettings) -> int:
        """Numbers in the encoder."""
        self.passes(settings)
        key = (settings.arch, settings.width, settings.stem, settings.projector, settings.batch, settings.amp)
        return sum(tensor.numel() for tensor in self.encoders[key].state_dict().values())


def estimate(
    runs: Sequence[Run], data: Data, plans: Sequence[tuple[int, Mapping[str, Mapping[str, Any]]]], *, device: str, workers: int
) -> Estimate:
    """What training ``runs`` and scoring will take.

    Args:
        plans: how many checkpoints get which measures, with the settings that differ from their defaults.
        workers: that share the work evenly; with several on one GPU or too few cores it takes longer.
    """
    if not runs:
        return Estimate(0.0, 0.0, 0)
    watch = _Stopwatch(data, torch.device(device))
    training, disk = 0.0, 0
    steps = len(data.images_of("train"))
    for run in runs:
        settings = run.settings
        gradient, _ = watch.passes(settings)
        gradients = 2 if method_row(settings.method).sharpness_aware else 1
        training += settings.epochs * (steps // settings.batch) * (watch.views(settings) + gradients * gradient)
        disk += (
            4 * watch.weights(settings) * (2 + STATES[settings.optimizer])
        )  # the weights, those before training, the optimizer's
    gradient, forward = watch.passes(runs[0].settings)
    images = 2 * runs[0].settings.batch
    held_out = len(data.images_of("held-out"))
    scoring = 0.0
    for checkpoints, measures in plans:
        for name, chosen in measures.items():
            work = WORK.get(name, UNKNOWN)
            pairs = getattr(MEASURES.get(name).make_settings(chosen), "pairs", 256) or 256
            once = (
                work.gradients * gradient * 2 * int(pairs) / images + work.forwards * forward * held_out / images + work.seconds
            )
            scoring += checkpoints * once
    return Estimate(training / workers, scoring / workers, disk)
