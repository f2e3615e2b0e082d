"""What the curvature measure makes of a spectrum: names, bounds, and the ratios of the ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssa_analysis.measures.curvature import spectrum_scores
from ssa_analysis.numerics.spectrum import analyse_spectrum
from ssa_analysis.scores import Score


def scores_of(values: list[float], top: int = 3, **options: object) -> dict[str, Score]:
    diagonal = torch.tensor(values, dtype=torch.float64)
    found = analyse_spectrum(
        lambda v: diagonal * v, len(values), top=top, bottom=1, tolerance=1e-8, seed=1, dtype=torch.float64, **options
    )
    return {score.name: score for score in spectrum_scores(found, {})}


def spread(low: float, high: float, *outliers: float) -> list[float]:
    return [*np.linspace(low, high, 60).tolist(), *outliers]


@pytest.mark.parametrize(("ends", "norm"), [((10.0, 8.0, 5.0, -3.0), 10.0), ((10.0, 8.0, 5.0, -12.0), 12.0)])
def test_norm_and_ratios_of_the_ends(ends: tuple[float, ...], norm: float) -> None:
    scores = scores_of(spread(-0.5, 1.0, *ends))
    expected = {
        "spectral_norm": norm,
        "lambda_ratio": 2.0,
        "negative_ratio": -ends[3] / 10,
        "lambda_max": 10.0,
        "lambda_min": ends[3],
    }
    for name, value in expected.items():
        score = scores[name]
        assert score.value == pytest.approx(value, rel=1e-7)
        assert score.low - 1e-9 <= value <= score.high + 1e-9
        assert score.converged
        assert score.settings["error"] == "residual"


def test_bounds_of_a_ratio_follow_from_the_residuals_and_hold_the_truth() -> None:
    scores = scores_of(spread(-2.0, 4.0, 10.0, 8.0, 5.0, -3.0), max_products=9)  # stopped long before the tolerance
    for name, value in (("lambda_ratio", 2.0), ("negative_ratio", 0.3), ("spectral_norm", 10.0)):
        score = scores[name]
        assert not score.converged
        assert score.high - score.low > 1e-3
        assert score.low <= value <= score.high
    top, last = scores["lambda_1"], scores["lambda_3"]
    assert scores["lambda_ratio"].high == pytest.approx(top.high / last.low)
    assert scores["lambda_ratio"].low == pytest.approx(top.low / last.high)


def test_nothing_that_bends_down_is_a_ratio_of_zero_and_a_denominator_below_zero_gives_none() -> None:
    assert scores_of(spread(0.1, 1.0, 10.0, 8.0, 5.0))["negative_ratio"].value == 0
    negative = scores_of(spread(-2.0, -1.0, -0.5, -0.4, -0.3))
    assert "negative_ratio" not in negative
    assert "lambda_ratio" not in negative
    assert negative["spectral_norm"].value == pytest.approx(2.0)
