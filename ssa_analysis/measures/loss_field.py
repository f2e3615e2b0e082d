"""The fixed-batch loss at many points around the weights: moving, BatchNorm, resuming, progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssa_analysis.data.datasets import Data
from ssa_analysis.measures.base import run_context
from ssa_analysis.measures.fixed_loss import FixedLossSettings
from ssa_analysis.measures.partial_points import PartialPoints, Point, tensors_hash
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.directions import Direction, moving, point_key
from ssa_analysis.numerics.hessian import CurvatureOperator
from ssa_analysis.progress import LoggedProgress
from ssa_analysis.registry import unknown_name

BATCHNORM = ("frozen", "reestimated")


@dataclass(frozen=True)
class Slice:
    """Points on a line or a plane: for each axis the name of its direction and the offsets along it."""

    axes: tuple[tuple[str, tuple[float, ...]], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along the axes, the last axis first: rows of a surface lie along the second axis."""
        return tuple(len(offsets) for _, offsets in reversed(self.axes))

    def points(self) -> list[Point]:
        """All points in the order of the shape."""
        name, offsets = self.axes[0]
        if len(self.axes) == 1:
            return [point_key({name: a}) for a in offsets]
        other, rows = self.axes[1]
        return [point_key({name: a, other: b}) for b in rows for a in offsets]


@dataclass(frozen=True)
class Buffers:
    """Running statistics that move with one of the directions, where BatchNorm is frozen.

    Between offsets 0 and 1 they are interpolated; beyond, they keep the nearer end's values, since a variance that is
    extrapolated can turn negative.
    """

    along: str
    tensors: Sequence[Tensor]
    direction: Direction


def batchnorm_modules(network: nn.Module) -> list[_BatchNorm]:
    """BatchNorm layers with running statistics."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def reestimating(encoder: Encoder, operator: CurvatureOperator) -> Iterator[Callable[[], None]]:
    """Inside the block, a function that sets BatchNorm's running statistics to those of the present weights.

    One pass over the fixed batches, each as a whole, in which BatchNorm normalises with the statistics of the batch, as
    in training; the running ones become their average with equal weights (``momentum=None``). Statistics, counters,
    momenta and modes are the very same bits after the block.
    """
    modules = batchnorm_modules(encoder)
    buffers = [b for m in modules for b in m.buffers(recurse=False)]
    saved = [b.clone() for b in buffers]
    modes = [(m, m.training, m.momentum) for m in modules]

    def reestimate() -> None:
        for m in modules:
            m.reset_running_stats()
            m.training = True
        with torch.no_grad():
            for batch in operator.batches if modules else ():
                operator.network(batch.inputs)
        for m in modules:
            m.training = False

    try:
        for m in modules:
            m.momentum = None
        yield reestimate
    finally:
        for m, training, momentum in modes:
            m.training, m.momentum = training, momentum
        for buffer, old in zip(buffers, saved, strict=True):
            buffer.copy_(old)


class LossField:
    """Losses on slices through the weights. A point that several slices share is computed once.

    Args:
        directions: name -> direction over the operator's parameters; called with the weights in their place, and again
            when needed, so that no more than two must be held at once.
        batchnorm: ``frozen`` or ``reestimated``.
        buffers: running statistics that move; only where BatchNorm is frozen.
    """

    def __init__(
        self,
        encoder: Encoder,
        operator: CurvatureOperator,
        directions: Callable[[str], Direction],
        *,
        batchnorm: str = "frozen",
        buffers: Buffers | None = None,
    ) -> None:
        check_batchnorm(batchnorm)
        self.encoder, self.operator, self.batchnorm, self.buffers = encoder, operator, batchnorm, buffers
        self._directions = directions
        self._held: dict[str, Direction] = {}

    def losses(self, slices: Sequence[Slice], belongs_to: Mapping[str, Any]) -> list[np.ndarray]:
        """Losses of each slice, of its shape; NaN where they are not finite.

        With a scratch folder (:func:`run_context`), finished points are kept in it and taken up by the next run that
        passes the same ``belongs_to``.
        """
        context = run_context()
        path = context.scratch / "points.jsonl" if context.scratch is not None else None
        points = list(dict.fromkeys(point for piece in slices for point in piece.points()))
        with PartialPoints(path, belongs_to) as kept:
            ranks = self.operator.ranks
            kept.known = ranks.from_first(kept.known)  # all ranks must compute the same points
            missing = [point for point in points if point not in kept.known]
            done = len(points) - len(missing)
            progress = LoggedProgress(f"landscape of {context.label}", len(points), unit="points", done=done)
            with self._movable() as loss_at:
                for point in missing:
                    kept.add(point, loss_at(point))
                    if ranks.rank == 0:
                        progress.step()
            return [np.array([kept.known[point] for point in piece.points()]).reshape(piece.shape) for piece in slices]

    @contextmanager
    def _movable(self) -> Iterator[Callable[[Point], float]]:
        """A function that moves the weights to a point and gives the loss there; everything is put back at the end."""
        with ExitStack() as stack:
            weights = stack.enter_context(moving(self.operator.parameters))
            buffers = self.buffers
            statistics = stack.enter_context(moving(buffers.tensors)) if buffers is not None else None
            refresh = stack.enter_context(reestimating(self.encoder, self.operator)) if self.batchnorm == "reestimated" else None

            def loss_at(point: Point) -> float:
                if any(name not in self._held for name, _ in point):
                    weights.restore()  # a direction may depend on the weights
                    self._hold([name for name, _ in point])
                weights.move([(value, self._held[name]) for name, value in point])
                if statistics is not None and buffers is not None:
                    along = min(max(dict(point).get(buffers.along, 0.0), 0.0), 1.0)
                    statistics.move([(along, buffers.direction)] if along else ())
                if refresh is not None:
                    refresh()
                loss = self.operator.loss()
                return loss if math.isfinite(loss) else math.nan

            yield loss_at

    def _hold(self, names: Sequence[str]) -> None:
        """Hold these directions; beside them at most one that was held before."""
        spare = [name for name in self._held if name not in names][-1:] if len(names) < 2 else []
        held = {name: self._held[name] for name in [*spare, *names] if name in self._held}
        self._held = {**held, **{name: self._directions(name) for name in names if name not in held}}


def check_batchnorm(value: str) -> None:
    """SettingsError unless it is one of ``BATCHNORM``."""
    if value not in BATCHNORM:
        raise unknown_name("treatment of BatchNorm", value, list(BATCHNORM))


def identity_of(encoder: Encoder, operator: CurvatureOperator, data: Data, settings: FixedLossSettings) -> dict[str, Any]:
    """What decides the losses of a grid: settings, weights, images, batches and the library, as plain values."""
    inputs = {str(i): batch.inputs for i, batch in enumerate(operator.batches)}
    return {
        "settings": asdict(settings),
        "weights": tensors_hash({**encoder.state_dict(), **dict(zip(operator.names, operator.parameters, strict=True))}),
        "data": data.fingerprint,
        "batches": tensors_hash(inputs),
        "torch": torch.__version__,
        "device": str(operator.device),
    }
