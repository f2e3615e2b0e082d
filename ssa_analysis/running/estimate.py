"""What training and a study will take, from a few steps on this machine: time, memory and disk, roughly."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ssa_analysis.data.datasets import Data
from ssa_analysis.data.views import Views
from ssa_analysis.measures import MEASURES
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.running.study import Run
from ssa_analysis.training.loop import batch_loss, build_encoder, training_recipe
from ssa_analysis.training.optimizers import STATES
from ssa_analysis.training.settings import TrainSettings, method_row

STEPS = 2  # that are timed, after one that is not
LONG = 0.2  # seconds beyond which no larger part of a batch is timed
PART = 8  # images or pairs that are timed at least


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
    """What it takes on this machine with the given number of workers.

    Attributes:
        training, scoring: seconds. disk: bytes of the checkpoints. memory: bytes at the peak of one training, without PyTorch's
            own; the largest of all.
    """

    training: float
    scoring: float
    disk: int
    memory: int = 0

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


def kept_bytes(function: Callable[[], Any], encoder: Encoder) -> int:
    """Bytes that a computation keeps for its gradient, besides the weights, which are there in any case."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*encoder.parameters(), *encoder.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        function()
    return sum(kept.values())


@dataclass(frozen=True)
class _Passes:
    """Of a whole batch of pairs: seconds of a gradient and of a forward pass, bytes kept on the way; numbers in the encoder."""

    gradient: float
    forward: float
    kept: int
    weights: int


class _Stopwatch:
    """Times of views and of passes, each measured once for the settings that decide it.

    Of batches that take long a part is timed, so that the estimate itself takes a second or two.
    """

    def __init__(self, data: Data, device: torch.device) -> None:
        self.data, self.device = data, device
        self._views: dict[Any, float] = {}
        self._passes: dict[Any, _Passes] = {}

    def batch(self, count: int) -> Tensor:
        images = self.data.images_of("train")
        return images[torch.arange(count) % len(images)].to(self.device)

    def views(self, settings: TrainSettings) -> float:
        """Two views of a batch."""
        recipe = training_recipe(settings, self.data)
        if recipe.fourier is not None and recipe.fourier.partner != "batch":  # the time is about the same
            recipe = replace(recipe, fourier=replace(recipe.fourier, partner="batch"))
        key = (repr(recipe), settings.batch)
        if key not in self._views:
            views = Views(recipe, self.data.image_size)
            self._views[key] = self._in_part(settings.batch, lambda images: views.pair(images, 0))[0]
        return self._views[key]

    def passes(self, settings: TrainSettings) -> _Passes:
        """A gradient of a batch of pairs, and a forward pass over as many images as it has."""
        key = (settings.arch, settings.width, settings.stem, settings.projector, settings.batch, settings.amp)
        if key not in self._passes:
            encoder = build_encoder(settings, self.data).to(self.device)
            plain = replace(settings, negatives=None, accumulate=1)

            def gradient(images: Tensor) -> None:
                batch_loss(encoder, images.float() / 255, images.float() / 255, plain, 0).backward()

            def forward(images: Tensor) -> None:
                with torch.no_grad():
                    encoder.embed(torch.cat([images, images]).float() / 255)

            seconds, count = self._in_part(settings.batch, gradient)
            images, factor = self.batch(count), settings.batch / count
            self._passes[key] = _Passes(
                gradient=seconds,
                forward=factor * timed(lambda: forward(images), self.device),
                kept=round(factor * kept_bytes(lambda: gradient(images), encoder)),
                weights=sum(tensor.numel() for tensor in encoder.state_dict().values()),
            )
        return self._passes[key]

    def _in_part(self, batch: int, function: Callable[[Tensor], Any]) -> tuple[float, int]:
        """Seconds of a function of a batch of images, and how many images were really timed.

        The part grows until it takes long: small networks have costs that are not the images'. On a GPU it is the whole batch,
        since few images take as long as many.
        """
        count = batch if self.device.type == "cuda" else min(batch, PART)
        seconds = timed(partial(function, self.batch(count)), self.device)
        while count < batch and seconds < LONG / 2:
            count = min(2 * count, batch)
            seconds = timed(partial(function, self.batch(count)), self.device)
        return seconds * batch / count, count


def training_memory(settings: TrainSettings, data: Data, passes: _Passes) -> int:
    """Bytes at the peak of a training: images, two float views of a batch, what a gradient keeps, and copies of the weights."""
    pixels = 3 * data.image_size**2
    views = 2 * 4 * settings.batch * pixels
    sharp = method_row(settings.method).sharpness_aware
    # on its way back a gradient needs about as much again (of two ResNets on the CPU the whole was met to a tenth)
    copies = 3 + STATES[settings.optimizer] + (1 if sharp else 0)  # as they were before training and are now, and a gradient
    return data.images.numel() + views + 2 * passes.kept // settings.accumulate + 4 * copies * passes.weights


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
    training, disk, memory = 0.0, 0, 0
    images_seen = len(data.images_of("train"))
    for run in runs:
        settings = run.settings
        passes = watch.passes(settings)
        gradients = 2 if method_row(settings.method).sharpness_aware else 1
        steps = settings.epochs * (images_seen // settings.batch)
        training += steps * (watch.views(settings) + gradients * passes.gradient)
        disk += 4 * passes.weights * (2 + STATES[settings.optimizer])  # the weights, those before training, the optimizer's
        memory = max(memory, training_memory(settings, data, passes))
    first = watch.passes(runs[0].settings)
    images = 2 * runs[0].settings.batch
    held_out = len(data.images_of("held-out"))
    scoring = 0.0
    for checkpoints, measures in plans:
        for name, chosen in measures.items():
            work = WORK.get(name, UNKNOWN)
            pairs = getattr(MEASURES.get(name).make_settings(chosen), "pairs", 256) or 256
            once = (
                work.gradients * first.gradient * 2 * int(pairs) / images
                + work.forwards * first.forward * held_out / images
                + work.seconds
            )
            scoring += checkpoints * once
    return Estimate(training / workers, scoring / workers, disk, memory)
