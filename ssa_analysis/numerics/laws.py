"""Student's and the normal law, from scipy.special: scipy.stats takes a second to import, in every process anew."""

from __future__ import annotations

from scipy.special import ndtri, stdtr, stdtrit


def student_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's law; NaN without degrees of freedom."""
    return float(stdtrit(freedom, probability))


def student_p(ratio: float, freedom: float) -> float:
    """Two-sided p-value of an estimate that is ``ratio`` standard errors from 0; NaN without degrees of freedom."""
    return float(2 * stdtr(freedom, -abs(ratio)))


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal law."""
    return float(ndtri(probability))
