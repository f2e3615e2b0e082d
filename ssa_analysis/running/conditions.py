"""Conditions on scores, such as ``lambda_max > 50``, for jobs that must fail when one holds."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ssa_analysis.errors import SettingsError
from ssa_analysis.registry import unknown_name
from ssa_analysis.scores import Score

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
_FORM = re.compile(r"\s*(?:(?P<measure>\w+)\.)?(?P<name>\w+)\s*(?P<sign>[<>]=?)\s*(?P<limit>\S+)\s*")


@dataclass(frozen=True)
class Condition:
    """``[measure.]name SIGN limit``, in the score's own unit."""

    name: str
    sign: str
    limit: float
    measure: str = ""

    def __str__(self) -> str:
        return f"{self.measure}{'.' if self.measure else ''}{self.name} {self.sign} {self.limit:g}"

    def is_about(self, score: Score) -> bool:
        """Whether it names this score."""
        return score.name == self.name and self.measure in ("", score.measure)

    def holds(self, score: Score) -> bool:
        """Whether the score's value meets it; one that is not finite meets every condition, so that it does not go unseen."""
        return not math.isfinite(score.value) or _COMPARE[self.sign](score.value, self.limit)


def parse_condition(text: str) -> Condition:
    """``lambda_max > 50`` or ``curvature.lambda_max>50``; SettingsError for anything else.

    >>> str(parse_condition("curvature.lambda_max>50"))
    'curvature.lambda_max > 50'
    """
    match = _FORM.fullmatch(text)
    try:
        limit = float(match["limit"]) if match else math.nan
    except ValueError:
        limit = math.nan
    if match is None or not math.isfinite(limit):
        raise SettingsError(f"condition {text!r}: write it as NAME > NUMBER, with one of >, >=, <, <=; NAME may be MEASURE.NAME")
    return Condition(match["name"], match["sign"], limit, match["measure"] or "")


def that_hold(conditions: Sequence[Condition], scores: Sequence[Score], complete: bool = True) -> list[tuple[Condition, Score]]:
    """The conditions that hold, each with the score that meets it.

    Args:
        complete: whether the scores are all that were asked for; then a condition must be about one of them.

    Raises:
        SettingsError: a condition about a score that there is not; it would never fail.
    """
    for condition in conditions:
        if complete and scores and not any(condition.is_about(score) for score in scores):
            known = sorted({score.name for score in scores} | {f"{score.measure}.{score.name}" for score in scores})
            raise unknown_name("score in a condition", str(condition).split(" ")[0], known)
    return [(c, score) for c in conditions for score in scores if c.is_about(score) and c.holds(score)]
