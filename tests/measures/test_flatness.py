"""Flatness against closed forms on quadratics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures.fixed_loss import FixedLossSettings, fixed_operator
from ssa_analysis.measures.flatness import FlatnessSettings, average_case_rises, worst_case_rise
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.hessian import Batch, CurvatureOperator, Loss, perturbed

DIAGONAL = torch.tensor([10.0, 3.0, 1.0, 0.5], dtype=torch.float64)


def quadratic(linear: float = 0.0) -> CurvatureOperator:
    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    loss = Loss(lambda z: z, lambda s: 0.5 * (DIAGONAL * s.square()).sum() + linear * s.sum())
    return CurvatureOperator(lambda x: x * w, [Batch(torch.ones(1, 4, dtype=torch.float64), loss)], [w])


def test_worst_case_on_a_quadratic_is_half_rho_squared_times_the_largest_eigenvalue() -> None:
    ones = torch.ones(4, dtype=torch.float64)
    rise, settled = worst_case_rise(quadratic(), ones, 0.3, steps=30, restarts=3, seed=0)
    assert rise == pytest.approx(0.5 * 0.3**2 * 10, rel=1e-3)
    assert rise <= 0.5 * 0.3**2 * 10 * (1 + 1e-12)  # a lower bound of the maximum
    assert settled


def test_the_adaptive_worst_case_is_that_of_the_rescaled_hessian() -> None:
    scale = torch.tensor([0.1, 2.0, 1.0, 1.0], dtype=torch.float64)
    rise, _ = worst_case_rise(quadratic(), scale, 0.3, steps=30, restarts=3, seed=0)
    assert rise == pytest.approx(0.5 * 0.3**2 * float((DIAGONAL * scale**2).max()), rel=1e-3)


def test_few_steps_say_that_they_did_not_settle() -> None:
    _, settled = worst_case_rise(quadratic(), torch.ones(4, dtype=torch.float64), 0.3, steps=2, restarts=2, seed=1)
    assert not settled


def test_average_case_on_a_quadratic_is_half_sigma_squared_times_the_trace_whatever_the_gradient() -> None:
    rises = average_case_rises(quadratic(linear=50.0), 0.1 * torch.ones(4, dtype=torch.float64), draws=4000, seed=0).numpy()
    stderr = rises.std() / np.sqrt(len(rises))
    assert rises.mean() == pytest.approx(0.5 * 0.1**2 * float(DIAGONAL.sum()), abs=4 * stderr)
    assert stderr < 0.003


def test_worst_case_of_a_real_loss_is_at_least_the_step_of_sam(encoder: Encoder, digits: Data) -> None:
    operator = fixed_operator(encoder, digits, FixedLossSettings(pairs=64, batch=32))
    gradient = operator.gradient()
    with perturbed(operator.parameters, 0.1 * gradient / gradient.norm()):
        moved = operator.loss()
    sam = moved - operator.loss()
    rise, _ = worst_case_rise(operator, torch.ones_like(gradient), 0.1, steps=5, restarts=2, seed=0)
    assert rise >= sam > 0


@pytest.mark.parametrize("values", [{"rho": 0.0}, {"draws": 1}, {"steps": 0}, {"sigma": -1.0}])
def test_bad_flatness_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        FlatnessSettings(**values)  # type: ignore[arg-type]
