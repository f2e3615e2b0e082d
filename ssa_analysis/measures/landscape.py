"""One- and two-dimensional slices of the loss along filter-normalised directions (Li et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures.base import measure
from ssa_analysis.measures.fixed_loss import FixedLossSettings, fixed_operator
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.hessian import CurvatureOperator, perturbed
from ssa_analysis.numerics.resampling import mean_interval
from ssa_analysis.numerics.seeding import generator
from ssa_analysis.score import Score


@dataclass(frozen=True)
class LandscapeSettings(FixedLossSettings):
    """Settings of the slices.

    Attributes:
        directions: random directions of the 1-D slices. points: of each, from -span to span; odd.
        grid: points a side of the 2-D slice, odd; 0 leaves it out.
        span: in units of the filters' norms.
    """

    directions: int = 3
    points: int = 21
    grid: int = 13
    span: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.directions < 2 or self.points < 3 or self.points % 2 == 0:
            raise SettingsError("the landscape needs at least 2 directions and an odd number of points, 3 or more")
        if self.grid and (self.grid < 3 or self.grid % 2 == 0):
            raise SettingsError("the landscape's grid must be odd and at least 3, or 0 for none")
        if not self.span > 0:
            raise SettingsError(f"span of the landscape must be positive, got {self.span}")


def filter_normalised_direction(parameters: list[Tensor], seed: int, number: int) -> Tensor:
    """``(n,)`` Gaussian direction whose every filter has the norm of the weights' filter.

    A filter is a slice along the first axis of a weight with two or more axes; biases and normalisation weights (one
    axis) do not move.
    """
    rng = generator(seed, "direction", number)
    pieces = []
    for p in parameters:
        direction = torch.randn(p.shape, generator=rng).to(p)
        if p.ndim < 2:
            pieces.append(torch.zeros_like(p).reshape(-1))
            continue
        axes = tuple(range(1, p.ndim))
        norm = torch.linalg.vector_norm(direction, dim=axes, keepdim=True).clamp_min(1e-12)
        target = torch.linalg.vector_norm(p.detach(), dim=axes, keepdim=True)
        pieces.append((direction * target / norm).reshape(-1))
    return torch.cat(pieces)


def slice_losses(operator: CurvatureOperator, offsets: list[Tensor]) -> np.ndarray:
    """Loss at each offset from the weights."""
    losses = []
    for offset in offsets:
        with perturbed(operator.parameters, offset):
            losses.append(operator.loss())
    return np.array(losses)


@measure("landscape", "1-D and 2-D slices of the loss along filter-normalised directions", LandscapeSettings)
def landscape(encoder: Encoder, data: Data, settings: LandscapeSettings) -> list[Score]:
    """Scores ``rise_half`` and ``rise_full`` (1-D), ``rise_2d``, with the slices themselves as arrays.

    ``rise_half`` is the rise of the loss at half the span, ``rise_full`` at the whole of it, averaged over both signs
    and over the directions, with the standard error over directions (nats). ``rise_2d`` is the mean rise over the
    2-D grid: exact for its plane, with nothing said about other planes.
    """
    operator = fixed_operator(encoder, data, settings)
    axis = np.linspace(-settings.span, settings.span, settings.points)
    base = operator.loss()
    directions = [filter_normalised_direction(operator.parameters, settings.seed, i) for i in range(settings.directions)]
    curves = np.stack([slice_losses(operator, [float(a) * d for a in axis]) for d in directions])
    scores = []
    # the axis is symmetric, so the rise at a distance is read off at both ends
    for name, distance in (("rise_half", settings.span / 2), ("rise_full", settings.span)):
        rises = [(np.interp(distance, axis, c) + np.interp(-distance, axis, c)) / 2 - base for c in curves]
        interval = mean_interval(np.array(rises))
        arrays = {"offset": axis.tolist(), "loss": curves.tolist()} if name == "rise_full" else {}
        about = {"error": "standard error", "distance": distance}
        scores.append(Score.estimate("landscape", name, interval.value, interval.stderr, "nats", settings=about, arrays=arrays))
    if settings.grid:
        ticks = np.linspace(-settings.span, settings.span, settings.grid)
        offsets = [float(a) * directions[0] + float(b) * directions[1] for b in ticks for a in ticks]
        surface = slice_losses(operator, offsets).reshape(settings.grid, settings.grid)
        arrays = {"offset": ticks.tolist(), "loss": surface.tolist()}
        about = {"error": "exact for this plane"}
        scores.append(Score("landscape", "rise_2d", float(surface.mean() - base), "nats", settings=about, arrays=arrays))
    return scores
