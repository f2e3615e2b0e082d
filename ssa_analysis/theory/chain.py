"""The chain of rungs from the trained probe to what a certificate of practical pairs says, and who loses how much in it.

    L_sup* <= L_sup <= H(pi) + L_dec(ideal) <= ... L_inf(practical) ... <= ... L_K + slack ... <= ... certificate + slack ...

Each route accounts for the shift by another rung:

* ``R8`` by the exact gaps: nothing is lost, but the gaps must be known, which takes labels;
* ``R6`` on the InfoNCE losses: R3 turns the ideal loss into InfoNCE, ``W_1`` of the margins leads to practical pairs;
* ``R5`` and ``R7`` on the decoupled losses, by transport of pairs and negatives, or by the cross moments and ``2 W_1/tau``.

Every step replaces a number by a larger one (R8's is an equality), so the differences are what each rung loses: its slack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ssa_analysis.theory.r3_decoupled import decoupled_bound

ROUTES = ("R8", "R6", "R7", "R5")
BOUNDING = ("R6", "R7", "R5")  # those that bound the shift, where R8 needs to know it
CAUSES = (
    "mean classifier",
    "class collapse",
    "shift",
    "Jensen",
    "finite K",
    "BatchNorm",
    "sharpness",
    "Monte Carlo",
    "complexity",
)


@dataclass(frozen=True)
class Ceiling:
    """A bound of the finite loss ``L_K`` and its parts, in nats: ``loss + batch_norm + sharpness + monte_carlo + complexity``.

    ``batch_norm`` is what statistics of the block in place of running ones add to the loss. It can be negative: where it is,
    the bound of the one network is none of the other.
    """

    loss: float
    batch_norm: float
    sharpness: float
    monte_carlo: float
    complexity: float


@dataclass(frozen=True)
class Chain:
    """``start`` is the trained probe's loss; ``steps`` what each cause adds, in the order of the route; in nats."""

    route: str
    start: float
    steps: tuple[tuple[str, float], ...]

    @property
    def end(self) -> float:
        """What the route bounds the classification loss by."""
        return self.start + self.total

    @property
    def total(self) -> float:
        """All slack."""
        return sum(value for _, value in self.steps)

    def slack(self, cause: str) -> float:
        """What one cause adds; 0 where it has no part in the chain."""
        return sum(value for name, value in self.steps if name == cause)

    def share(self, cause: str) -> float:
        """The cause's share of all slack. Negative where noise makes a step go down."""
        return self.slack(cause) / self.total if self.total else 0.0


def uncertified(route: str, found: Mapping[str, float], transport: tuple[float, float], beta: float) -> float:
    """The bound of the classification loss from the practical loss itself, no finite K and no certificate, in nats.

    Args:
        found: estimates of :mod:`ssa_analysis.theory.estimates`. transport: ``W_c / tau`` and ``W_1 / tau`` of R5.
    """
    if route == "R6":
        return found["chance"] + decoupled_bound(found["practical_infonce"] + found["own_margin_w1"], beta)
    return found["chance"] + found["practical_decoupled"] + _gap(route, found, transport)


def _gap(route: str, found: Mapping[str, float], transport: tuple[float, float]) -> float:
    """What a route on decoupled losses puts for the shift."""
    pairs, negatives = transport
    if route == "R8":
        return found["alignment_cost"] + found["uniformity_gap"]
    if route == "R7":
        return found["kernel_cost"] + 2 * negatives
    return pairs + negatives


def build(
    route: str, found: Mapping[str, float], transport: tuple[float, float], beta: float, ceiling: Ceiling | None, batch: bool
) -> Chain:
    """The chain of a route.

    Args:
        ceiling: of the finite loss; where None the chain ends at the finite loss itself.
        batch: the finite loss is NT-Xent of blocks, whose slack has ``m - 1`` for K.
    """
    slack = found["batch_slack" if batch else "finite_slack"]
    loss = ceiling.loss if ceiling is not None else found["finite_loss"]
    ladder = [found["practical_infonce"], loss + slack]
    if ceiling is not None:
        for part in (ceiling.batch_norm, ceiling.sharpness, ceiling.monte_carlo, ceiling.complexity):
            ladder.append(ladder[-1] + part)
    if route == "R6":
        shift, gap = found["own_margin_w1"], 0.0
    else:
        shift, gap = 0.0, _gap(route, found, transport)

    def bound(infonce: float) -> float:
        return found["chance"] + gap + decoupled_bound(infonce + shift, beta)

    names = ["finite K", "BatchNorm", "sharpness", "Monte Carlo", "complexity"]
    points = [("mean classifier", found["mean_classifier_loss"]), ("class collapse", found["ideal_bound"])]
    if route == "R6":
        points += [("Jensen", found["chance"] + found["ideal_jensen"]), ("shift", bound(ladder[0]))]
    else:
        points += [("shift", uncertified(route, found, transport, beta)), ("Jensen", bound(ladder[0]))]
    points += [(name, bound(value)) for name, value in zip(names, ladder[1:], strict=False)]
    steps, before = [], found["probe_loss"]
    for name, after in points:
        steps.append((name, after - before))
        before = after
    return Chain(route, found["probe_loss"], tuple(steps))


def tightest(
    found: Mapping[str, float], transport: tuple[float, float], beta: float, ceiling: Ceiling | None, batch: bool
) -> Chain:
    """The lowest of the chains that bound the shift."""
    return min((build(r, found, transport, beta, ceiling, batch) for r in BOUNDING), key=lambda chain: chain.end)
