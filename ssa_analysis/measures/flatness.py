"""How much the loss rises near the weights: in the worst direction, and on average; plain and adaptive."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures.base import measure
from ssa_analysis.measures.fixed_loss import FixedLossSettings, fixed_operator
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.hessian import CurvatureOperator, flatten, perturbed
from ssa_analysis.numerics.lanczos import random_vector
from ssa_analysis.numerics.resampling import mean_interval
from ssa_analysis.numerics.seeding import derive_seed
from ssa_analysis.score import Score


@dataclass(frozen=True)
class FlatnessSettings(FixedLossSettings):
    """Settings of the flatness.

    Attributes:
        rho: radius of the l2 ball. adaptive_rho: radius in units of ``|w| + 0.01``, element by element.
        steps: of projected gradient ascent. restarts: the first starts at the weights, the others inside the ball.
        sigma: standard deviation of the noise on every weight. adaptive_sigma: the same as a share of ``|w|``.
        draws: of the noise.
    """

    rho: float = 0.1
    adaptive_rho: float = 0.5
    steps: int = 5
    restarts: int = 2
    sigma: float = 0.01
    adaptive_sigma: float = 0.1
    draws: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rho", "adaptive_rho", "sigma", "adaptive_sigma"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} of flatness must be positive, got {getattr(self, name)}")
        if self.steps < 1 or self.restarts < 1 or self.draws < 2:
            raise SettingsError("flatness needs at least 1 step, 1 restart and 2 draws")


ADAPTIVE_OFFSET = 0.01  # eta of Kwon et al. 2021: keeps weights at zero movable


def worst_case_rise(
    operator: CurvatureOperator, scale: Tensor, radius: float, steps: int, restarts: int, seed: int
) -> tuple[float, bool]:
    """Largest rise of the loss found with ``|eps / scale| <= radius``.

    Projected gradient ascent in the coordinates ``eps / scale``; the gradient is normalised, and the step shrinks as
    ``2 radius / (k + 1)``. What is found is a lower bound of the true maximum.

    Args:
        scale: ``(n,)`` positive; ones give the plain l2 ball.

    Returns:
        The rise, and whether the last step of the best restart gained less than 2 % of it.
    """
    base = operator.loss()
    best, settled = 0.0, True
    for restart in range(restarts):
        u = torch.zeros_like(scale)
        if restart:
            direction = random_vector(operator.size, derive_seed(seed, "restart", restart), scale.device, scale.dtype)
            u = 0.5 * radius * direction / direction.norm()
        rises = []
        for step in range(steps):
            with perturbed(operator.parameters, u * scale):
                gradient = operator.gradient() * scale
            u = u + 2 * radius / (step + 2) * gradient / gradient.norm().clamp_min(1e-30)
            u = u * (radius / u.norm()).clamp(max=1.0)
            with perturbed(operator.parameters, u * scale):
                rises.append(operator.loss() - base)
        if max(rises) > best:
            best = max(rises)
            settled = len(rises) < 2 or best - max(rises[:-1]) <= 0.02 * best
    return best, settled


def average_case_rises(operator: CurvatureOperator, scale: Tensor, draws: int, seed: int) -> Tensor:
    """``(draws,)`` rises of the loss under noise ``scale * N(0, 1)``.

    Each draw is the mean over ``+eps`` and ``-eps``, which takes the gradient's first-order part out exactly.
    """
    base = operator.loss()
    rises = []
    for draw in range(draws):
        noise = scale * random_vector(operator.size, derive_seed(seed, "noise", draw), scale.device, scale.dtype)
        both = []
        for sign in (1.0, -1.0):
            with perturbed(operator.parameters, sign * noise):
                both.append(operator.loss() - base)
        rises.append(sum(both) / 2)
    return torch.tensor(rises)


@measure("flatness", "loss rise in a rho-ball (worst case) and under noise (average case), plain and adaptive", FlatnessSettings)
def flatness(encoder: Encoder, data: Data, settings: FlatnessSettings) -> list[Score]:
    """Scores ``worst_case``, ``adaptive_worst_case``, ``average_case``, ``adaptive_average_case`` and ``loss``.

    All are rises of the fixed-batch loss in nats (``loss`` the loss itself). The worst cases are lower bounds by
    construction (Foret et al. 2021; adaptive: Kwon et al. 2021); the average cases have standard errors over draws.
    """
    operator = fixed_operator(encoder, data, settings)
    weights = flatten([p.detach() for p in operator.parameters])
    plain = torch.ones_like(weights)
    seed = derive_seed(settings.seed, "flatness")
    scores = [Score("flatness", "loss", operator.loss(), "nats", settings={"error": "exact for the fixed batches"})]
    for name, scale, radius in (
        ("worst_case", plain, settings.rho),
        ("adaptive_worst_case", weights.abs() + ADAPTIVE_OFFSET, settings.adaptive_rho),
    ):
        rise, settled = worst_case_rise(operator, scale, radius, settings.steps, settings.restarts, seed)
        about = {"error": "lower bound", "radius": radius}
        scores.append(Score("flatness", name, rise, "nats", low=rise, converged=settled, settings=about))
    for name, scale in (
        ("average_case", settings.sigma * plain),
        ("adaptive_average_case", settings.adaptive_sigma * weights.abs()),
    ):
        interval = mean_interval(average_case_rises(operator, scale, settings.draws, seed).numpy())
        scores.append(
            Score.estimate("flatness", name, interval.value, interval.stderr, "nats", settings={"error": "standard error"})
        )
    return scores
