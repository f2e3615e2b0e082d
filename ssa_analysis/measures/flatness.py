"""How much the loss rises near the weights: in the worst direction, on average, and in measures no rescaling moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.measures.base import measure, run_context
from ssa_analysis.measures.fixed_loss import FixedLossSettings, fixed_operator
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.flatness import (
    NoiseScale,
    fisher_rao,
    group_rises,
    noise_rises,
    noise_scale,
    relative_flatness_probes,
    worst_case_rise,
)
from ssa_analysis.numerics.hessian import CurvatureOperator, flatten
from ssa_analysis.numerics.resampling import mean_interval
from ssa_analysis.numerics.seeding import derive_seed
from ssa_analysis.progress import LoggedProgress
from ssa_analysis.registry import unknown_name
from ssa_analysis.scores import Score

INVARIANT, NOT_INVARIANT = "layer rescaling", "none"
GROUP = 32  # pairs of a group of the m-sharpness, where there are enough for two groups
LARGEST_NOISE = 10.0  # in units of the weights' own size; beyond it nothing of the network is left


@dataclass(frozen=True)
class FlatnessSettings(FixedLossSettings):
    """Settings of the flatness.

    Attributes:
        rho: radius of the l2 ball. adaptive_rho: radius in units of ``|w|``, element by element.
        steps: of the ascent, at most. restarts: from the weights, from opposite to where that ended, then at random.
        m: pairs of a group of the m-sharpness; 0 stands for 32, or half of the pairs where there are fewer than 64.
        sigma: standard deviation of the noise on every weight. adaptive_sigma: the same as a share of ``|w|``.
        draws: of the noise, each with its mirror image.
        target_rise: mean rise of the loss, in nats, that defines the PAC-Bayes scale.
        layer: weight matrix of the relative flatness, by its name; empty for the last one.
        probes: of the relative flatness.
    """

    rho: float = 0.1
    adaptive_rho: float = 0.5
    steps: int = 10
    restarts: int = 3
    m: int = 0
    sigma: float = 0.01
    adaptive_sigma: float = 0.1
    draws: int = 16
    target_rise: float = 0.1
    layer: str = ""
    probes: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rho", "adaptive_rho", "sigma", "adaptive_sigma", "target_rise"):
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} of flatness must be positive and finite, got {getattr(self, name)}")
        if self.steps < 1 or self.restarts < 1:
            raise SettingsError("flatness needs at least 1 step and 1 restart")
        if self.draws < 2 or self.probes < 2:
            raise SettingsError("flatness needs at least 2 draws and 2 probes: with one there is no standard error")
        if self.m < 0:
            raise SettingsError(f"m of flatness must be positive (or 0 for the default), got {self.m}")
        if self.m > self.pairs // 2:
            raise SettingsError(
                f"m of flatness is {self.m}, but the m-sharpness needs at least two groups and there are {self.pairs} pairs: "
                f"lower m to {self.pairs // 2} or raise pairs"
            )


def find_layer(operator: CurvatureOperator, layer: str) -> int:
    """Number of the weight matrix called ``layer`` (or of the layer's ``.weight``); of the last one where it is empty.

    Raises:
        SettingsError: no weight with two axes or more has that name.
    """
    matrices = {name: i for i, (name, p) in enumerate(zip(operator.names, operator.parameters, strict=True)) if p.ndim >= 2}
    if not matrices:
        raise MeasureError("none of these weights is a matrix: the relative flatness needs one")
    if not layer:
        return max(matrices.values())
    for name in (layer, f"{layer}.weight"):
        if name in matrices:
            return matrices[name]
    raise unknown_name("layer", layer, list(matrices))


def group_operator(encoder: Encoder, data: Data, settings: FlatnessSettings) -> tuple[CurvatureOperator, int]:
    """The images of the fixed batches in groups of m instead, and m. A group has its own views and its own negatives.

    Raises:
        MeasureError: the split is too small for two groups.
    """
    m = settings.m or max(2, min(GROUP, settings.pairs // 2))
    while True:
        groups = fixed_operator(encoder, data, replace(settings, batch=m))
        if len(groups.batches) >= 2:
            return groups, m
        if settings.m or m < 4:
            raise MeasureError(f"the images make one group of m = {m}, and the m-sharpness needs two: lower m or use more images")
        m //= 2


def _about(error: str, invariant: bool, **rest: Any) -> dict[str, Any]:
    return {"error": error, "invariance": INVARIANT if invariant else NOT_INVARIANT, **rest}


def _mean(name: str, values: np.ndarray, unit: str, about: dict[str, Any]) -> Score:
    """The mean of ``(n,)`` rises; no number where the loss was not finite in one of them."""
    broken = int((~np.isfinite(values)).sum())
    if broken:
        why = f"the loss is not finite in {broken} of {len(values)} {about['over']}"
        return Score("flatness", name, math.nan, unit, converged=False, settings={**about, "error": "unknown", "undefined": why})
    return Score.of_interval("flatness", name, mean_interval(values), unit, settings=about)


def _noise(operator: CurvatureOperator, scale: Tensor, seed: int) -> Callable[[float, int], np.ndarray]:
    """Rises under the same draws at any sigma; each sigma is computed once."""
    return cache(lambda sigma, draws: noise_rises(operator, scale, sigma, draws, seed))


def _noise_score(name: str, found: NoiseScale, target: float, adaptive: bool) -> Score:
    error = "standard error" if found.crossing == "found" else "bracket"
    about = _about(
        error, adaptive, over="draws", target=target, crossing=found.crossing, rising=found.rising,
        evaluations=found.evaluations,
    )  # fmt: skip
    unit = "|w|" if adaptive else "weight units"
    if error == "standard error":
        return Score.of_interval("flatness", name, found.sigma, unit, converged=found.converged, settings=about)
    low, high = found.sigma.low, found.sigma.high
    return Score("flatness", name, found.sigma.value, unit, None, low, high, False, about)


@measure(
    "flatness",
    "loss rise in a rho-ball, after a SAM step and under noise, plain and adaptive; PAC-Bayes scale; relative flatness",
    FlatnessSettings,
    revision=2,
)
def flatness(encoder: Encoder, data: Data, settings: FlatnessSettings) -> list[Score]:
    """Rises of the fixed-batch loss in nats, and measures of their scale; every score says under what it is invariant.

    Plain and, with ``adaptive_`` before the name, in units of ``|w|``: ``worst_case`` (a lower bound by construction;
    Foret et al. 2021, Kwon et al. 2021), ``m_sharpness`` (standard error over groups), ``average_case`` (over draws),
    ``pac_bayes_sigma`` (over draws; Jiang et al. 2020). Further ``loss``, ``relative_flatness`` (Petzka et al. 2021;
    over probes) and ``fisher_rao`` (Liang et al. 2019).
    """
    operator = fixed_operator(encoder, data, settings)
    number = find_layer(operator, settings.layer)
    groups, m = group_operator(encoder, data, settings)
    progress = LoggedProgress(f"flatness of {run_context().label}", None, unit="losses and gradients")
    operator.on_work = groups.on_work = progress.step
    weights = flatten([p.detach() for p in operator.parameters])
    seed = derive_seed(settings.seed, "flatness")
    exact = "exact for the fixed batches"
    scores = [Score("flatness", "loss", operator.loss(), "nats", settings=_about(exact, True))]
    balls = ((torch.ones_like(weights), settings.rho), (weights.abs(), settings.adaptive_rho))
    sharpness = group_rises(groups, balls)
    noises = (settings.sigma, settings.adaptive_sigma)
    for prefix, (scale, radius), rises, sigma in zip(("", "adaptive_"), balls, sharpness, noises, strict=True):
        adaptive = bool(prefix)
        ascent = worst_case_rise(operator, scale, radius, steps=settings.steps, restarts=settings.restarts, seed=seed)
        about = _about("lower bound", adaptive, radius=radius, starts=ascent.starts, gradients=ascent.gradients)
        scores.append(
            Score(
                "flatness", f"{prefix}worst_case", ascent.rise, "nats", low=ascent.rise, converged=ascent.settled, settings=about
            )
        )
        about = _about("standard error", adaptive, over="groups", m=m, groups=len(rises), radius=radius)
        scores.append(_mean(f"{prefix}m_sharpness", rises, "nats", about))
        rises_at = _noise(operator, scale, seed)
        about = _about("standard error", adaptive, over="draws", sigma=sigma)
        scores.append(_mean(f"{prefix}average_case", rises_at(sigma, settings.draws), "nats", about))
        own_size = 1.0 if adaptive else float(weights.double().square().mean().sqrt())
        cap = LARGEST_NOISE * max(own_size, sigma)
        found = noise_scale(rises_at, settings.draws, settings.target_rise, sigma, cap)
        scores.append(_noise_score(f"{prefix}pac_bayes_sigma", found, settings.target_rise, adaptive))
    probes = relative_flatness_probes(operator, number, settings.probes, seed)
    about = _about("standard error", True, over="probes", layer=operator.names[number])
    scores.append(_mean("relative_flatness", probes, "nats", about))
    scores.append(Score("flatness", "fisher_rao", fisher_rao(operator), "nats", settings=_about(exact, True)))
    return scores
