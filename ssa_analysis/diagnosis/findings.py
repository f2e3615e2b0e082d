"""What the doctor says: a verdict for each check, what was seen, and how it is known."""

from __future__ import annotations

from dataclasses import dataclass

OK, SUSPICIOUS, BROKEN, UNKNOWN = "ok", "suspicious", "broken", "unknown"
VERDICTS = (OK, SUSPICIOUS, BROKEN, UNKNOWN)


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        verdict: ``ok``, ``suspicious``, ``broken``, or ``unknown`` where nothing at hand can tell.
        seen: what was found, in a line. how: how it is known: what was computed, and where the line is drawn.
    """

    check: str
    verdict: str
    seen: str
    how: str
