"""Trials of reliability: a fault is brought about many times, and each time what should hold is looked at.

The same trials run in the tests, a few times each, and by ``python tests/reliability/table.py``, as often as
docs/reliability.md says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Tally:
    """Counts of one trial. A trial calls :meth:`count` once for each time that it brought its fault about.

    Attributes:
        outcomes: what was seen -> how often. failures: what should not have been, in words, one for each time.
        notes: numbers that stand in the table beside the counts.
    """

    outcomes: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, outcome: str, problem: str = "") -> None:
        """Once: what was seen, and what was wrong with it, if anything."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if problem:
            self.failures.append(problem)

    @property
    def tried(self) -> int:
        """How often the fault was brought about."""
        return sum(self.outcomes.values())


@dataclass(frozen=True)
class Trial:
    """One row of the table.

    Attributes:
        group: crash, fault, hostile, load or numbers. fault: what is done. expected: what should hold each time.
        function: ``(tally, times, folder)``: brings the fault about ``times`` times in an empty ``folder``.
        few: times in the tests, 0 where it takes too long for them. many: times in the table.
        absent: why the trial cannot be made on this machine; empty where it can.
    """

    group: str
    fault: str
    expected: str
    function: Callable[[Tally, int, Path], None]
    few: int = 1
    many: int = 1
    absent: Callable[[], str] = lambda: ""

    def run(self, folder: Path, times: int) -> Tally:
        """Make the trial."""
        tally = Tally()
        self.function(tally, times, folder)
        return tally


TRIALS: dict[str, Trial] = {}


def trial(
    group: str, fault: str, expected: str, *, few: int = 1, many: int = 1, absent: Callable[[], str] = lambda: ""
) -> Callable[[Callable[[Tally, int, Path], None]], Callable[[Tally, int, Path], None]]:
    """Decorator that makes a function a trial, under its own name."""

    def register(function: Callable[[Tally, int, Path], None]) -> Callable[[Tally, int, Path], None]:
        TRIALS[function.__name__] = Trial(group, fault, expected, function, few, many, absent)
        return function

    return register
