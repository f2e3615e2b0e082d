"""Score: one measured number with its error, unit and settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol


class Interval(Protocol):
    """An estimate with a standard error and a 95 % interval, such as ``numerics.resampling.Interval``."""

    @property
    def value(self) -> float: ...
    @property
    def stderr(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


JSON_FIELDS = (
    "checkpoint", "measure", "name", "value", "stderr", "low", "high", "unit", "converged", "settings", "seconds",
)  # fmt: skip


def plain_json(value: Any) -> Any:
    """The same as JSON can say it: dictionaries, lists and plain values; None for NaN and infinity, the text of a path.

    Scores are their JSON, dataclasses their fields, arrays and scalars of numpy plain numbers. Other things are left as they
    are, for ``json.dumps`` to refuse.
    """
    if isinstance(value, Score):  # its arrays are for figures
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class Score:
    """One measured number.

    ``stderr`` is a standard error; ``low`` and ``high`` bound a 95 % interval, or, where
    ``settings["error"] == "residual"``, a deterministic error bound. An exact number has all three None.
    ``converged`` is False where an iteration stopped before its tolerance: the value is then a best effort.
    ``arrays`` holds what a figure of this score needs (curves, grids), by name; it is stored, not printed.
    """

    measure: str
    name: str
    value: float
    unit: str = ""
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    converged: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    checkpoint: str = ""
    arrays: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def estimate(cls, measure: str, name: str, value: float, stderr: float, unit: str = "", **rest: Any) -> Score:
        """A score with a standard error and the normal 95 % interval that follows from it."""
        return cls(measure, name, value, unit, stderr, value - 1.96 * stderr, value + 1.96 * stderr, **rest)

    @classmethod
    def of_interval(cls, measure: str, name: str, interval: Interval, unit: str = "", **rest: Any) -> Score:
        """A score from an estimate that has its own interval (Student's, for few draws)."""
        return cls(measure, name, interval.value, unit, interval.stderr, interval.low, interval.high, **rest)

    def to_json(self) -> dict[str, Any]:
        """The documented JSON object (keys: ``JSON_FIELDS``); NaN and infinity become null."""
        return {key: plain_json(getattr(self, key)) for key in JSON_FIELDS}

    def with_context(self, checkpoint: str, settings: Mapping[str, Any], seconds: float) -> Score:
        """The same number, told where it came from; the score's own settings win over the shared ones."""
        return replace(self, checkpoint=checkpoint, settings={**settings, **self.settings}, seconds=seconds)


def marks_of(settings: Iterable[Mapping[str, Any]]) -> str:
    """What every output must say of scores with these settings (``mark``): ``regenerated`` corruptions, say; often nothing.

    Several different marks stand side by side: such scores are not comparable.
    """
    marks = sorted({str(s.get("mark") or "") for s in settings})
    return "" if marks in ([], [""]) else " and ".join(mark or "official" for mark in marks)


def in_brackets(mark: str) -> str:
    """`` (mark)``, or nothing."""
    return f" ({mark})" if mark else ""


def find_score(scores: Sequence[Score], name: str) -> Score:
    """The score called ``name``; KeyError names what there is instead."""
    for score in scores:
        if score.name == name:
            return score
    raise KeyError(f"no score {name!r} among {', '.join(sorted({s.name for s in scores}))}")
