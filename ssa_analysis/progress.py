"""Progress of long work as log lines; without torch, so that the command line can set it up at once.

Work that takes minutes makes a :class:`LoggedProgress` and steps it. The lines go to the logger ``ssa_analysis.progress`` at
level INFO: nobody sees them unless somebody asks, as the command line does with :func:`show_progress`.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable

from ssa_analysis.errors import SettingsError
from ssa_analysis.texts import one_line

LONGEST = 100 * 365.25 * 86400  # seconds that a duration may have
INTERVAL = 10.0  # seconds between two lines of one piece of work
LOGGER = logging.getLogger("ssa_analysis.progress")


def duration(seconds: float) -> str:
    """``850 ms``, ``3.2 s``, ``2 min 05 s``, ``1 h 10 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)\s*h)?\s*(?:(\d+(?:\.\d+)?)\s*m(?:in)?)?\s*(?:(\d+(?:\.\d+)?)\s*s?)?")


def parse_duration(text: str) -> float:
    """``90``, ``45s``, ``10m``, ``1h30m`` -> seconds; SettingsError for anything else.

    >>> parse_duration("1h30m")
    5400.0
    """
    match = _DURATION.fullmatch(text.strip().lower())
    seconds = sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0.0
    if not 0 < seconds < LONGEST:
        raise SettingsError(f"a duration such as 90s, 10m or 1h30m is wanted, got {text!r}")
    return seconds


class LoggedProgress:
    """Counts steps, towards a total where it is known, and logs a line every ``interval`` seconds.

    Args:
        what: names the work, for instance ``landscape of runs/a/last.pt``. unit: of the steps, in the plural.
        total: None where nobody knows, as for an iteration that stops when it is accurate.
        done: steps taken up from an earlier run; they say nothing about the speed of this one.
        interval: seconds; None means ``INTERVAL``. clock: in seconds; tests put their own.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        *,
        unit: str = "steps",
        done: int = 0,
        interval: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done, self.before = done, done
        self.stage = ""
        self._interval = INTERVAL if interval is None else interval
        self._clock = clock
        self._started = self._told = clock()

    def step(self) -> None:
        """Count one step; log a line if the last one is long enough ago."""
        self.done += 1
        now = self._clock()
        if now - self._told < self._interval or (self.total is not None and self.done >= self.total):
            return
        self._told = now
        spent, what = now - self._started, f"{self.what}, {self.stage}" if self.stage else self.what
        if self.total is None:
            LOGGER.info("%s: %d %s so far, %s", what, self.done, self.unit, duration(spent))
            return
        left = spent / (self.done - self.before) * (self.total - self.done)
        share = 100 * self.done // self.total
        LOGGER.info("%s: %d of %d %s (%d %%), about %s left", what, self.done, self.total, self.unit, share, duration(left))


def show_progress() -> None:
    """Send the lines to stderr; calling it twice changes nothing."""
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    if not any(isinstance(handler, _Stderr) for handler in LOGGER.handlers):
        LOGGER.addHandler(_Stderr())


def hide_progress() -> None:
    """Send the lines nowhere again."""
    for handler in [handler for handler in LOGGER.handlers if isinstance(handler, _Stderr)]:
        LOGGER.removeHandler(handler)


def progress_is_shown() -> bool:
    """Whether :func:`show_progress` was called in this process; spawned workers follow their driver."""
    return any(isinstance(handler, _Stderr) for handler in LOGGER.handlers)


class _OneLine(logging.Formatter):
    """What is said names files, whose names may hold what would command a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what ``sys.stderr`` is at the time, which a program or a test may replace."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(_OneLine("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)
