"""How much a loss rises near its weights: in the worst direction, under noise, and in measures that no rescaling moves.

All take a :class:`~ssa_analysis.numerics.hessian.CurvatureOperator`, which is the loss of fixed batches, and a ``scale``
``(n,)``: a perturbation is ``scale * u``. Ones give the plain version, ``|w|`` the adaptive one (Kwon et al. 2021).
With ``scale = |w|`` and nothing added to it, a rescaling of the weights that leaves the function alone moves the
perturbed weights by the same factors, so that the adaptive numbers stay; weights at zero do not move.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.numerics.hessian import CurvatureOperator, flatten, perturbed
from ssa_analysis.numerics.lanczos import random_vector
from ssa_analysis.numerics.laws import student_quantile
from ssa_analysis.numerics.resampling import Interval
from ssa_analysis.numerics.seeding import derive_seed, generator

SETTLED = 0.01  # an ascent ends when further steps promise less than this share of the rise
ROUNDING = 2e-4  # and when a step changes it by less than this share, up or down
REACHED = 0.05  # a mean rise this close to the target, as a share of it, ends the search for sigma: interpolation does the rest
LOOK = 4  # draws that look beyond the crossing
PROBES_AT_ONCE = 8


@dataclass(frozen=True)
class Ascent:
    """The largest rise found in a ball: a lower bound of the true maximum, by construction.

    ``settled``: further steps of the best start promised less than 1 %. ``starts``: the rise of each start.
    """

    rise: float
    settled: bool
    starts: list[float]
    gradients: int


def worst_case_rise(operator: CurvatureOperator, scale: Tensor, radius: float, *, steps: int, restarts: int, seed: int) -> Ascent:
    """Largest rise of the loss found with ``|eps / scale| <= radius``.

    On the sphere of the coordinates ``u = eps / scale`` the maximum is a fixed point of ``u -> radius g / |g|``, with g
    the gradient at u; the first such step from the weights is that of SAM. Where the plain step would lower the rise,
    the old point is mixed in until it does not (which is projected gradient ascent with a shorter step).

    Args:
        scale: ``(n,)``, not negative. steps: losses tried by each start; a gradient is taken after each that rose.
        restarts: the first starts at the weights, the second opposite to where that one ended (near a minimum the loss
            is nearly even, and the higher of the two sides is not known beforehand), the others at random.
    """
    base = operator.loss()
    best, settled, starts, gradients = 0.0, True, [], 0
    first = torch.zeros_like(scale)
    for restart in range(restarts):
        start = -first if restart <= 1 else torch.zeros_like(scale)
        if restart and not start.any():
            start = random_vector(operator.size, derive_seed(seed, "restart", restart), scale.device, scale.dtype)
            start = start * (scale > 0)
            start = start * (radius / start.norm().clamp_min(1e-30))
        point, rise, done, used = _climb(operator, scale, radius, steps, start, base)
        first = first if restart else point
        starts.append(rise)
        gradients += used
        if rise > best or not restart:
            best, settled = max(rise, 0.0), done
    return Ascent(best, settled, starts, gradients)


def _climb(
    operator: CurvatureOperator, scale: Tensor, radius: float, steps: int, point: Tensor, base: float
) -> tuple[Tensor, float, bool, int]:
    """Where one ascent from ``point`` ended, the rise there, whether it settled, and how many gradients it took."""
    with perturbed(operator.parameters, point * scale):
        gradient = operator.gradient() * scale
    rise, last_gain, used, pull = -math.inf, math.nan, 1, 0.0
    settled = False
    for step in range(steps):
        length = gradient.norm()
        if not length > 0:  # nothing to climb: the loss is flat here
            return point, max(rise, 0.0), True, used
        direction = gradient / length + pull * point / radius
        trial = direction * (radius / direction.norm().clamp_min(1e-30))
        with perturbed(operator.parameters, trial * scale):
            found = operator.loss() - base
            gain = found - max(rise, 0.0)
            settled = abs(gain) <= ROUNDING * max(found, rise) or _promise(gain, last_gain) <= SETTLED * found
            if found > rise:
                last_gain = gain if step else math.nan  # the leap of the first step says nothing of the later ones
                point, rise, pull = trial, found, pull / 2 if pull > 1 else 0.0
                if not settled and step < steps - 1:
                    gradient, used = operator.gradient() * scale, used + 1
            else:
                pull = max(1.0, 2 * pull)
        if settled:
            break
    return point, rise, settled, used


def _promise(gain: float, last_gain: float) -> float:
    """What all further steps would gain if the gains went on shrinking as they did last (a geometric series)."""
    if not 0 < gain < last_gain:
        return math.inf
    return gain * gain / (last_gain - gain)


def group_rises(operator: CurvatureOperator, balls: Sequence[tuple[Tensor, float]]) -> np.ndarray:
    """``(balls, batches)`` rises of each batch's own loss after one ascent step: the m-sharpness of SAM, group by group.

    The step is ``eps = radius scale^2 g / |scale g|`` with g the gradient of the batch (Foret et al. 2021, eq. 2;
    adaptive: Kwon et al. 2021, eq. 8).

    Args:
        balls: ``(scale, radius)`` of each kind; they share the gradients.
    """
    rises = np.zeros((len(balls), len(operator.batches)))
    for number, batch in enumerate(operator.batches):
        group = operator.sibling(batches=[batch])
        base, gradient = group.loss(), group.gradient()
        for kind, (scale, radius) in enumerate(balls):
            ascent = scale * gradient
            step = scale * ascent * (radius / ascent.norm().clamp_min(1e-30))
            with perturbed(group.parameters, step):
                rises[kind, number] = group.loss() - base
    return rises


def noise_rises(operator: CurvatureOperator, scale: Tensor, sigma: float, draws: int, seed: int) -> np.ndarray:
    """``(draws,)`` rises of the loss under noise ``sigma * scale * N(0, 1)``.

    Each draw is the mean over ``+eps`` and ``-eps``, which takes the gradient's first-order part out exactly. The draws
    depend on the seed alone: they are the same at every sigma.
    """
    base = operator.loss()
    rises = np.zeros(draws)
    for draw in range(draws):
        noise = random_vector(operator.size, derive_seed(seed, "noise", draw), scale.device, scale.dtype)
        noise = sigma * scale * noise
        for sign in (1.0, -1.0):
            with perturbed(operator.parameters, sign * noise):
                rises[draw] += (operator.loss() - base) / 2
    return rises


@dataclass(frozen=True)
class NoiseScale:
    """Where the mean rise crosses a target.

    ``crossing`` is ``found``; or ``not reached`` (``sigma`` is then the largest one tried, a lower bound), ``always
    exceeded`` (the smallest one tried, an upper bound) or ``not resolved`` (the search ran out; low and high bracket it).
    ``rising``: the rise is still above the target at twice the crossing, on a few draws.
    """

    sigma: Interval
    crossing: str
    rising: bool
    evaluations: int

    @property
    def converged(self) -> bool:
        """A crossing was found, and the rise does not come down again soon after."""
        return self.crossing == "found" and self.rising


def noise_scale(
    rises: Callable[[float, int], np.ndarray], draws: int, target: float, start: float, cap: float, max_evaluations: int = 16
) -> NoiseScale:
    """The sigma at which the mean of ``rises(sigma, draws)`` ``(draws,)`` crosses ``target``, from below.

    A bracket in ``log sigma`` is narrowed by interpolation of the logarithm of the mean rise, by bisection where that
    has no logarithm. ``rises`` must use the same draws at every sigma; then the estimate solves ``mean_i R_i(sigma) =
    target``, and its error follows from that of the mean at the solution by the delta method:
    ``se(log sigma) = se(R) / (R dlogR/dlog sigma)``. The interval is Student's, in the logarithm.

    Args:
        start: the first sigma tried. cap: none beyond is tried for the crossing.
    """
    seen: dict[float, np.ndarray] = {}
    sigma = min(start, cap)
    while True:
        seen[sigma] = np.asarray(rises(sigma, draws), dtype=float)
        means = {s: _finite_mean(r) for s, r in sorted(seen.items())}
        if len(seen) > 1 and abs(means[sigma] / target - 1) <= REACHED:  # one point has no slope
            break
        high = min((s for s, mean in means.items() if mean > target), default=None)
        low = max((s for s, mean in means.items() if mean <= target and (high is None or s < high)), default=None)
        if high is None and (sigma >= cap or len(seen) >= max_evaluations):
            return _no_crossing("not reached", max(means), max(means), math.inf, len(seen))
        if len(seen) >= max_evaluations and high is not None:
            if low is None:
                return _no_crossing("always exceeded", high, 0.0, high, len(seen))
            return _no_crossing("not resolved", math.sqrt(low * high), low, high, len(seen))
        sigma = _next_sigma(means, low, high, target, cap)
    rising = _finite_mean(rises(2 * sigma, min(LOOK, draws))) > target
    return NoiseScale(_at_crossing(seen[sigma], means, sigma, target), "found", rising, len(seen))


def _finite_mean(rises: np.ndarray) -> float:
    """The mean; infinite where a loss was not a number, which noise beyond all bounds can bring about."""
    mean = float(rises.mean())
    return mean if math.isfinite(mean) else math.inf


def _next_sigma(means: dict[float, float], low: float | None, high: float | None, target: float, cap: float) -> float:
    if low is not None and high is not None:
        share = 0.5
        if means[low] > 0 and math.isfinite(means[high]):
            share = math.log(target / means[low]) / math.log(means[high] / means[low])
        return float(low * (high / low) ** min(max(share, 0.02), 0.98))
    edge = high if low is None else low
    assert edge is not None
    mean = means[edge]
    # the rise is quadratic in sigma near zero
    factor = math.sqrt(target / mean) if 0 < mean < math.inf else (0.1 if low is None else 4.0)
    if low is None:
        return edge * min(max(factor, 0.05), 0.9)
    # where it grows more slowly than that, the second try leaps
    return min(cap, edge * min(max(factor, 1.1 if len(means) == 1 else 2.0), 10.0))


def _at_crossing(rises: np.ndarray, means: dict[float, float], sigma: float, target: float) -> Interval:
    """The crossing next to ``sigma``, whose mean rise is within ``REACHED`` of the target."""
    others = [s for s, mean in means.items() if s != sigma and 0 < mean < math.inf]
    slope = 2.0  # a quadratic, where no other point says more
    if others:
        near = min(others, key=lambda s: abs(math.log(s / sigma)))
        slope = max(math.log(means[near] / means[sigma]) / math.log(near / sigma), 1e-3)
    value = sigma * (target / means[sigma]) ** (1 / slope)
    error = float(rises.std(ddof=1) / math.sqrt(len(rises)) / (means[sigma] * slope))
    reach = student_quantile(0.975, len(rises) - 1) * error
    return Interval(value, value * error, value * math.exp(-reach), value * math.exp(reach))


def _no_crossing(crossing: str, value: float, low: float, high: float, evaluations: int) -> NoiseScale:
    return NoiseScale(Interval(value, math.nan, low, high), crossing, False, evaluations)


@contextmanager
def only_gradient_of(parameter: Tensor, parameters: Sequence[Tensor]) -> Iterator[None]:
    """Inside the block the other parameters need no gradient: autograd saves nothing for the layers before this one."""
    others = [p for p in parameters if p is not parameter and p.requires_grad]
    for p in others:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in others:
            p.requires_grad_(True)


def relative_flatness_probes(operator: CurvatureOperator, number: int, probes: int, seed: int) -> np.ndarray:
    """``(probes,)`` unbiased samples of the relative flatness of one weight matrix (Petzka et al. 2021).

    With ``w_s (d,)`` the rows of W (its neurons) and ``H_st`` the ``(d, d)`` blocks of the Hessian,

        kappa = sum_{s,t} <w_s, w_t> tr H_st = E <V, H V>,    V = (W W^T)^(1/2) R,

    R of the shape of W with independent signs: ``E V_sj V_ti = delta_ij <w_s, w_t>``. A convolution's weight counts as the
    matrix ``(out, in * k * k)`` that multiplies its patches.

    Args:
        number: of the parameter, which has two axes or more.
    """
    weight = operator.parameters[number]
    matrix = weight.detach().reshape(len(weight), -1).double()
    # the symmetric root has no arbitrary signs: the probes of a rescaled layer are the rescaled probes
    values, rows = torch.linalg.eigh(matrix @ matrix.T)
    root = (rows * values.clamp_min(0).sqrt()) @ rows.T
    rng = generator(seed, "relative flatness")
    samples: list[float] = []
    # what autograd saves for this layer is little, but what a forward pass holds at once is not
    chunk = operator.chunk if operator.plan == "chunked" else None
    with only_gradient_of(weight, operator.parameters):
        layer = operator.sibling(parameters=[weight], names=[operator.names[number]], kind="hessian")
        if chunk is not None:
            layer.memory = min(layer.memory, chunk * layer.bytes_per_input)
        while len(samples) < probes:
            count = min(PROBES_AT_ONCE, probes - len(samples))
            signs = torch.randint(0, 2, (count, *matrix.shape), generator=rng, dtype=torch.float64) * 2 - 1
            vectors = (root @ signs.to(root.device)).reshape(count, -1).to(weight.dtype)
            products = layer.matmat(vectors)
            samples += (vectors.double() * products.double()).sum(1).tolist()
        layer.release()
    return np.array(samples)


def fisher_rao(operator: CurvatureOperator) -> float:
    """``<w, G w>``, the squared Fisher-Rao norm (Liang et al. 2019), with one Gauss-Newton product.

    G is split at the logits, where it is the Fisher information of the model for a cross-entropy; for a contrastive
    loss the logits are the similarities.
    """
    weights = flatten([p.detach() for p in operator.parameters])
    product = operator.sibling(kind="gauss-newton").matvec(weights)
    return float(torch.dot(weights.double(), product.double()))
