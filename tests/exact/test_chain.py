"""The chain of rungs: steps add up, every route bounds, the lowest is taken."""

from __future__ import annotations

import numpy as np
import pytest

from ssa_analysis.theory.chain import BOUNDING, ROUTES, Ceiling, build, tightest, uncertified
from ssa_analysis.theory.estimates import estimate
from ssa_analysis.theory.evidence import resample
from ssa_analysis.theory.simulated_worlds import CircleWorld

TAU, BETA = 0.5, 30.0


@pytest.fixture(scope="module")
def found() -> dict[str, float]:
    evidence = CircleWorld().evidence(600, 600, TAU, BETA, 30, 0)
    boot = estimate(evidence, resample(evidence, 2, 0), 0, 16, 16)
    return {name: float(values[0]) for name, values in boot.values.items()}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("certified", [True, False])
def test_steps_lead_from_the_probe_to_the_bound(found: dict[str, float], route: str, certified: bool) -> None:
    ceiling = Ceiling(found["practical_infonce"] - 0.05, 0.03, 0.1, 0.02, 0.3) if certified else None
    chain = build(route, found, (1.0, 0.2), BETA, ceiling, certified)
    assert chain.start == found["probe_loss"]
    assert chain.end == pytest.approx(chain.start + sum(value for _, value in chain.steps))
    causes = [name for name, _ in chain.steps]
    assert set(causes[:2]) == {"mean classifier", "class collapse"}
    assert set(causes[2:4]) == {"shift", "Jensen"}
    assert causes[4:] == ["finite K", *(["BatchNorm", "sharpness", "Monte Carlo", "complexity"] if certified else [])]
    assert sum(chain.share(name) for name in causes) == pytest.approx(1)
    assert chain.slack("mean classifier") == pytest.approx(found["mean_classifier_loss"] - found["probe_loss"])
    assert chain.slack("class collapse") == pytest.approx(found["R2.right"] - found["R2.left"])
    assert all(value > -0.02 for _, value in chain.steps)  # noise of the drawn positives, no more
    assert chain.end > uncertified(route, found, (1.0, 0.2), BETA)


def test_only_the_exact_route_loses_nothing_to_the_shift(found: dict[str, float]) -> None:
    exact = build("R8", found, (1.0, 0.2), BETA, None, False)
    assert exact.slack("shift") == pytest.approx(0, abs=1e-9)
    for route in BOUNDING:
        assert build(route, found, (1.0, 0.2), BETA, None, False).slack("shift") > 1e-3


def test_the_tightest_is_the_lowest_of_those_that_bound_the_shift(found: dict[str, float]) -> None:
    ends = {route: build(route, found, (0.0, 0.0), BETA, None, False).end for route in BOUNDING}
    best = tightest(found, (0.0, 0.0), BETA, None, False)
    assert best.end == min(ends.values())
    assert best.route == "R5"  # a transport of nothing is hard to beat
    assert tightest(found, (9.0, 9.0), BETA, None, False).route == "R6"


def test_a_higher_ceiling_is_put_down_to_its_own_cause(found: dict[str, float]) -> None:
    base = Ceiling(found["practical_infonce"], 0.0, 0.0, 0.0, 0.1)
    sharp = Ceiling(found["practical_infonce"], 0.0, 0.4, 0.0, 0.1)
    plain, more = (build("R6", found, (1.0, 0.2), BETA, c, True) for c in (base, sharp))
    assert plain.slack("sharpness") == 0
    assert more.slack("sharpness") > 0.3
    assert more.slack("finite K") == plain.slack("finite K")
    assert np.isclose(more.end - plain.end, more.slack("sharpness") + more.slack("complexity") - plain.slack("complexity"))
