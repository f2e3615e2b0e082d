"""Quantiles and p-values against scipy.stats, which the package does not import."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from scipy.stats import norm, t

from ssa_analysis.numerics.laws import normal_quantile, student_p, student_quantile


@pytest.mark.parametrize("freedom", [1, 2, 5, 30, 4999])
def test_student(freedom: int) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-12)
    for ratio in (0.0, -0.3, 2.5, math.inf):
        assert student_p(ratio, freedom) == pytest.approx(2 * t.sf(abs(ratio), freedom), rel=1e-12)


def test_normal() -> None:
    for probability in (0.01, 0.5, 0.975):
        assert normal_quantile(probability) == pytest.approx(norm.ppf(probability), rel=1e-12)


def test_without_degrees_of_freedom_there_is_no_answer() -> None:
    assert math.isnan(student_quantile(0.975, 0))
    assert math.isnan(student_p(2.0, 0))


def test_a_worker_does_not_import_what_takes_seconds() -> None:
    """Every worker process imports what it runs; these would take longer than torch."""
    slow = ("scipy.stats", "torchvision", "kornia")
    code = f"import sys, ssa_analysis.running.study_run; print([m for m in {slow} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
