"""Directions through the weights, and weights that move along them without being copied for every step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Direction = Sequence[Tensor]  # one tensor for each moved tensor, of its shape


def filter_normalised_direction(parameters: Sequence[Tensor], rng: torch.Generator) -> list[Tensor]:
    """Gaussian direction whose every filter has the norm of the weights' filter (Li et al. 2018, section 4).

    A filter is a slice along the first axis of a weight with two or more axes; biases and normalisation weights (one
    axis) do not move. Drawn on the CPU, so that every device gets the same direction.

    Returns:
        Tensors of the shapes of ``parameters``.
    """
    pieces = []
    for p in parameters:
        direction = torch.randn(p.shape, generator=rng).to(p)
        if p.ndim < 2:
            pieces.append(torch.zeros_like(p, requires_grad=False))
            continue
        axes = tuple(range(1, p.ndim))
        norm = torch.linalg.vector_norm(direction, dim=axes, keepdim=True).clamp_min(1e-12)
        target = torch.linalg.vector_norm(p.detach(), dim=axes, keepdim=True)
        pieces.append(direction * target / norm)
    return pieces


class MovingTensors:
    """Tensors that go from point to point of an affine space; one saved copy, whatever the number of points.

    Every point is computed from the saved copy, so that its bits do not depend on the points before it.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._live = [t.detach() for t in tensors]
        self._saved = [t.clone() for t in self._live]

    def move(self, steps: Sequence[tuple[float, Direction]]) -> None:
        """Put the tensors at ``saved + sum of coefficient * direction``."""
        with torch.no_grad():
            for i, (live, saved) in enumerate(zip(self._live, self._saved, strict=True)):
                live.copy_(saved)
                for coefficient, direction in steps:
                    live.add_(direction[i], alpha=coefficient)

    def restore(self) -> None:
        """Put the saved bits back."""
        self.move(())


@contextmanager
def moving(tensors: Sequence[Tensor]) -> Iterator[MovingTensors]:
    """Tensors that may move inside the block and have the very same bits after it, whatever happens."""
    movable = MovingTensors(tensors)
    try:
        yield movable
    finally:
        movable.restore()


def path_offsets(points: int, margin: float = 0.25) -> list[float]:
    """``points`` offsets from ``-margin`` to ``1 + margin`` that include 0 and 1 exactly.

    A third of the range ends up outside of [0, 1]; the inner spacing is even, so is that of each outer part.
    """
    outer = points // 6
    inner = points - 2 * outer - 1
    before = [-margin * (outer - i) / outer for i in range(outer)]
    after = [1 + margin * (i + 1) / outer for i in range(outer)]
    return before + [i / inner for i in range(inner)] + [1.0] + after


def point_key(coordinates: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """A point named by its coefficients along named directions; zeros say nothing, so the weights themselves are ()."""
    return tuple(sorted((name, float(value)) for name, value in coordinates.items() if value != 0))
