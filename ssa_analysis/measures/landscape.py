"""Slices of the loss around the weights: along random directions, top eigenvectors, and towards another checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssa_analysis.checkpoints.finding import one_checkpoint, pinned_hash
from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures.base import measure
from ssa_analysis.measures.fixed_loss import FixedLossSettings, fixed_operator
from ssa_analysis.measures.landscape_directions import (
    EigenDirections,
    difference_to,
    eigen_directions,
    random_direction,
)
from ssa_analysis.measures.loss_field import LossField, Slice, check_batchnorm, identity_of
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.directions import Direction, path_offsets
from ssa_analysis.numerics.hessian import CurvatureOperator
from ssa_analysis.numerics.resampling import Interval, mean_interval
from ssa_analysis.numerics.surfaces import barrier, nonconvexity, quadratic_reach, rise_at, ruggedness
from ssa_analysis.registry import unknown_name
from ssa_analysis.scores import Score

ALONG = ("random", "eigenvectors", "checkpoint")
SPANS = {"random": 1.0, "checkpoint": 0.5}  # in units of the filters' norms; that of eigenvectors follows from the curvature
QUADRATIC_RISE = 1.0  # nats that the quadratic model predicts at the end of the span along the top eigenvector
SETTLED = 0.05  # a barrier is settled where half of the points change it by no more than this share


@dataclass(frozen=True)
class LandscapeSettings(FixedLossSettings):
    """Settings of the slices.

    Attributes:
        along: ``random`` (filter-normalised), ``eigenvectors`` (of the Hessian) or ``checkpoint`` (towards ``other``).
        directions: of the 1-D slices: random ones, or eigenvectors. points: of each, odd.
        grid: points a side of the 2-D slice, odd; 0 leaves it out. planes: random ones; more than one give an error.
        span: how far the slices reach. Random directions: in units of the filters' norms, 1 where None. Eigenvectors:
            in l2 units; where None, as far as the quadratic model predicts a rise of 1 nat along the first. Checkpoint:
            of the random direction of the plane, in units of the filters' norms, 0.5 where None.
        batchnorm: ``frozen`` (running statistics stay, or move along to the other checkpoint's) or ``reestimated``
            (from the fixed batches, at every point).
        other: file or run folder of the other checkpoint. other_sha256: of its content, filled in.
        tolerance: relative error estimate of each eigenvector's eigenvalue. max_products: spent on them at most.
    """

    along: str = "random"
    directions: int = 3
    points: int = 21
    grid: int = 13
    planes: int = 1
    span: float | None = None
    batchnorm: str = "frozen"
    other: str = ""
    other_sha256: str = ""
    tolerance: float = 1e-3
    max_products: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.along not in ALONG:
            raise unknown_name("kind of slice", self.along, list(ALONG))
        check_batchnorm(self.batchnorm)
        least = 2 if self.along == "random" or (self.along == "eigenvectors" and self.grid) else 1
        if self.directions < least:
            raise SettingsError(f"the landscape along {self.along} needs at least {least} directions, got {self.directions}")
        if self.points < 3 or self.points % 2 == 0:
            raise SettingsError(f"the landscape needs an odd number of points, 3 or more, got {self.points}")
        if self.grid and (self.grid < 3 or self.grid % 2 == 0):
            raise SettingsError(f"the landscape's grid must be odd and at least 3, or 0 for none, got {self.grid}")
        if self.planes < 1 or (self.planes > 1 and self.along != "random"):
            raise SettingsError("planes must be 1, or more along random directions")
        if self.span is not None and not (self.span > 0 and math.isfinite(self.span)):
            raise SettingsError(f"span of the landscape must be positive, got {self.span}")
        if self.along == "eigenvectors" and self.batchnorm != "frozen":
            raise SettingsError("eigenvectors are those of the loss with frozen BatchNorm statistics; use batchnorm=frozen")
        if not 0 < self.tolerance < 1 or (self.along == "eigenvectors" and self.max_products < self.directions + 1):
            raise SettingsError("the eigenvectors need a tolerance between 0 and 1, and more products than directions")
        self._fill_in_other()

    def _fill_in_other(self) -> None:
        """The content of the other file decides the numbers, so its hash is one of the settings."""
        if self.along != "checkpoint":
            if self.other or self.other_sha256:
                raise SettingsError("another checkpoint was named; say along=checkpoint too")
            return
        if not self.other:
            raise SettingsError("along=checkpoint needs another checkpoint: other=FILE")
        object.__setattr__(self, "other_sha256", pinned_hash("other", self.other, self.other_sha256))


@measure(
    "landscape",
    "1-D and 2-D slices of the loss: random, along eigenvectors, or towards another checkpoint",
    LandscapeSettings,
    revision=2,
    apart=("along",),
)
def landscape(encoder: Encoder, data: Data, settings: LandscapeSettings) -> list[Score]:
    """Scores of slices through the weights, with the slices themselves as arrays; each ``along`` has its own names.

    ``random``: ``rise_half``, ``rise_full`` and ``ruggedness`` averaged over directions, ``rise_2d`` and
    ``nonconvexity_2d`` of a plane or averaged over planes. ``eigenvectors``: ``eigen_rise_i``, ``eigen_ratio_i``,
    ``eigen_rise_2d``, ``eigen_nonconvexity_2d``. ``checkpoint``: ``barrier``, ``other_loss``, ``path_rise_2d``,
    ``path_nonconvexity_2d``. Rises, barriers and losses in nats, the others are shares.

    Raises:
        MeasureError: no such loss for this checkpoint, or another checkpoint that does not fit.
    """
    operator = fixed_operator(encoder, data, settings)
    kinds = {"random": random_scores, "eigenvectors": eigenvector_scores, "checkpoint": checkpoint_scores}
    return kinds[settings.along](encoder, operator, data, settings)


def _axis(span: float, points: int) -> np.ndarray:
    return np.linspace(-span, span, points)


def _line(name: str, offsets: np.ndarray) -> Slice:
    return Slice(((name, tuple(offsets.tolist())),))


def _plane(first: str, second: str, x: np.ndarray, y: np.ndarray) -> Slice:
    return Slice(((first, tuple(x.tolist())), (second, tuple(y.tolist()))))


def inner_half(points: int) -> slice:
    """The middle of an odd axis up to half its span, never less than three points.

    Farther out every bowl flattens into a plateau, which bends downwards whether the landscape is rugged or not.
    """
    middle, reach = points // 2, max(1, (points - 1) // 4)
    return slice(middle - reach, middle + reach + 1)


def plain_array(values: np.ndarray) -> Any:
    """Nested lists of a 1-D or 2-D array, None for what is missing."""
    if values.ndim > 1:
        return [plain_array(row) for row in values]
    return [float(v) if math.isfinite(v) else None for v in values]


def _missing(values: np.ndarray | Sequence[np.ndarray]) -> int:
    return sum(int((~np.isfinite(v)).sum()) for v in values)


def _mean(values: Sequence[float]) -> Interval:
    """Mean over those that are known; without an error where there are fewer than two."""
    known = np.array([v for v in values if math.isfinite(v)])
    if len(known) > 1:
        return mean_interval(known)
    nan = float("nan")
    return Interval(float(known[0]) if len(known) else nan, nan, nan, nan)


def _about(settings: LandscapeSettings, error: str, **rest: Any) -> dict[str, Any]:
    return {"along": settings.along, "batchnorm": settings.batchnorm, "error": error, **rest}


def random_scores(encoder: Encoder, operator: CurvatureOperator, data: Data, settings: LandscapeSettings) -> list[Score]:
    """Filter-normalised random directions and planes (Li et al. 2018)."""
    span = settings.span or SPANS["random"]
    axis, ticks = _axis(span, settings.points), _axis(span, settings.grid) if settings.grid else np.zeros(0)
    lines = [_line(f"random {i}", axis) for i in range(settings.directions)]
    count = settings.planes if settings.grid else 0
    planes = [_plane(f"random {2 * i}", f"random {2 * i + 1}", ticks, ticks) for i in range(count)]

    def direction(name: str) -> Direction:
        return random_direction(operator.parameters, settings.seed, int(name.split()[1]))

    field = LossField(encoder, operator, direction, batchnorm=settings.batchnorm)
    origin, *found = field.losses(
        [Slice((("random 0", (0.0,)),)), *lines, *planes], identity_of(encoder, operator, data, settings)
    )
    base, curves, surfaces = float(origin[0]), found[: len(lines)], found[len(lines) :]
    scores = []
    for name, distance in (("rise_half", span / 2), ("rise_full", span)):
        rises = [rise_at(axis, curve, base, distance) for curve in curves]
        arrays = {"offset": axis.tolist(), "loss": plain_array(np.stack(curves))} if name == "rise_full" else {}
        scores.append(_over(settings, name, rises, "nats", "directions", _missing(curves), arrays, distance=distance))
    rugged = [ruggedness(curve) for curve in curves]
    scores.append(_over(settings, "ruggedness", rugged, "share", "directions", _missing(curves), {}))
    if surfaces:
        arrays = {"offset": ticks.tolist(), "loss": plain_array(surfaces[0])}
        rises = [_mean((surface - base).ravel().tolist()).value for surface in surfaces]
        inner = inner_half(settings.grid)
        bends = [nonconvexity(surface[inner, inner], ticks[inner], ticks[inner]) for surface in surfaces]
        scores.append(_over(settings, "rise_2d", rises, "nats", "planes", _missing(surfaces), arrays))
        scores.append(_over(settings, "nonconvexity_2d", bends, "share", "planes", _missing(surfaces), {}))
    return scores


def _over(
    settings: LandscapeSettings, name: str, values: list[float], unit: str, over: str, missing: int, arrays: Any, **rest: Any
) -> Score:
    """A score averaged over random directions or planes; one plane alone has no error and speaks for itself only."""
    interval = _mean(values)
    about = _about(settings, "standard error", over=over, missing=missing, **rest)
    if len(values) == 1:
        about["error"] = "exact for this plane"
        return Score("landscape", name, interval.value, unit, converged=missing == 0, settings=about, arrays=arrays)
    return Score.of_interval("landscape", name, interval, unit, converged=missing == 0, settings=about, arrays=arrays)


def eigenvector_scores(encoder: Encoder, operator: CurvatureOperator, data: Data, settings: LandscapeSettings) -> list[Score]:
    """The top eigenvectors of the Hessian, in l2 units, beside what the quadratic model predicts."""
    belongs_to = identity_of(encoder, operator, data, settings)
    eigen = eigen_directions(operator, settings.directions, settings.tolerance, settings.max_products, settings.seed, belongs_to)
    top = float(eigen.values[0])
    span = settings.span or (math.sqrt(2 * QUADRATIC_RISE / top) if top > 0 else 1.0)
    axis, ticks = _axis(span, settings.points), _axis(span, settings.grid) if settings.grid else np.zeros(0)
    names = [f"eigenvector {i}" for i in range(len(eigen.values))]
    lines = [_line(name, axis) for name in names]
    planes = [_plane(names[0], names[1], ticks, ticks)] if settings.grid else []
    slopes = (eigen.vectors @ operator.gradient()).tolist()
    field = LossField(encoder, operator, lambda name: eigen.direction(int(name.split()[1]), operator.parameters))
    belongs_to = {**belongs_to, "eigenvectors": eigen.sha256}
    origin, *found = field.losses([Slice(((names[0], (0.0,)),)), *lines, *planes], belongs_to)
    base = float(origin[0])
    curves = found[: len(lines)]
    scores = [
        score for i, curve in enumerate(curves) for score in _eigen_scores(settings, eigen, i, axis, curve, base, slopes[i])
    ]
    return scores + (_plane_scores(settings, "eigen", found[-1], base, ticks, ticks, ticks, ticks) if planes else [])


def _eigen_scores(
    settings: LandscapeSettings, eigen: EigenDirections, i: int, axis: np.ndarray, curve: np.ndarray, base: float, slope: float
) -> list[Score]:
    value, residual, span = float(eigen.values[i]), float(eigen.residuals[i]), float(axis[-1])
    rise = rise_at(axis, curve, base, span)
    predicted = base + slope * axis + 0.5 * value * axis**2
    about = {
        "eigenvalue": value,
        "residual": residual,
        "error_estimate": float(eigen.errors[i]),
        "distance": span,
        "missing": _missing([curve]),
        "slope": slope,
        "quadratic": 0.5 * value * span**2,
        "quadratic_until": quadratic_reach(axis, curve, base, value),
    }
    arrays = {"offset": axis.tolist(), "loss": plain_array(curve), "quadratic": predicted.tolist()}
    converged = bool(eigen.converged[i]) and math.isfinite(rise)
    low, high, ratio = None, None, math.nan
    if abs(value) > residual:  # a true eigenvalue lies within the residual of the value: the ratio's error comes from there
        low, high = sorted(2 * rise / span**2 / v for v in (value - residual, value + residual))
        ratio = 2 * rise / (value * span**2)
    exact = _about(settings, "exact for this direction", **about)
    bound = _about(settings, "residual", **about)
    return [
        Score("landscape", f"eigen_rise_{i + 1}", rise, "nats", converged=converged, settings=exact, arrays=arrays),
        Score("landscape", f"eigen_ratio_{i + 1}", ratio, "share", low=low, high=high, converged=converged, settings=bound),
    ]


def checkpoint_scores(encoder: Encoder, operator: CurvatureOperator, data: Data, settings: LandscapeSettings) -> list[Score]:
    """The straight path to another checkpoint, and a plane through both."""
    other = difference_to(one_checkpoint("other", settings.other), encoder, operator, settings.batchnorm == "frozen")
    path, span = np.array(path_offsets(settings.points)), settings.span or SPANS["checkpoint"]
    x = np.array(path_offsets(settings.grid)) if settings.grid else np.zeros(0)
    y = _axis(span, settings.grid) if settings.grid else np.zeros(0)
    across = "random 0"
    planes = [_plane("other", across, x, y)] if settings.grid else []

    def direction(name: str) -> Direction:
        return other.direction if name == "other" else random_direction(operator.parameters, settings.seed, 0)

    field = LossField(encoder, operator, direction, batchnorm=settings.batchnorm, buffers=other.buffers)
    curve, *surfaces = field.losses([_line("other", path), *planes], identity_of(encoder, operator, data, settings))
    base, end = float(curve[path == 0][0]), float(curve[path == 1][0])
    found = barrier(path, curve)
    inside = curve[(path >= 0) & (path <= 1)]
    settled = abs(found.height - found.coarse) <= SETTLED * max(abs(found.height), 1e-3 * abs(base))
    about = {"other": settings.other, "distance": other.length, "at": found.at, "points": len(inside),
             "every_second_point": found.coarse, "missing": _missing([curve])}  # fmt: skip
    arrays = {"offset": path.tolist(), "loss": plain_array(curve)}
    scores = [
        Score("landscape", "barrier", found.height, "nats", low=found.height, arrays=arrays,
              converged=bool(settled) and _missing([inside]) == 0, settings=_about(settings, "lower bound", **about)),
        Score("landscape", "other_loss", end, "nats", converged=math.isfinite(end),
              settings=_about(settings, "exact for the fixed batches", other=settings.other)),
    ]  # fmt: skip
    if surfaces:
        width = math.sqrt(sum(float(p.double().square().sum()) for p in direction(across)))
        scores += _plane_scores(settings, "path", surfaces[0], base, x, y, x * other.length, y * width)
    return scores


def _plane_scores(
    settings: LandscapeSettings, prefix: str, surface: np.ndarray, base: float, x: np.ndarray, y: np.ndarray,
    metric_x: np.ndarray, metric_y: np.ndarray,
) -> list[Score]:  # fmt: skip
    """Mean rise and non-convexity of the one plane there is; the latter needs both axes in one unit."""
    missing = _missing([surface])
    about = _about(settings, "exact for this plane", missing=missing)
    arrays = {"offset": x.tolist(), "second": y.tolist(), "loss": plain_array(surface)}
    rise, bend = _mean((surface - base).ravel().tolist()).value, float("nan")
    if metric_x[-1] > metric_x[0]:  # two files of the same weights are no distance apart
        bend = nonconvexity(surface, metric_x, metric_y)
    return [
        Score("landscape", f"{prefix}_rise_2d", rise, "nats", converged=missing == 0, settings=about, arrays=arrays),
        Score("landscape", f"{prefix}_nonconvexity_2d", bend, "share", converged=missing == 0, settings=about),
    ]
