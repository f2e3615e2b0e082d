"""What stands in the columns of a store, which anybody may have written: a value of its kind, or a TypeError or ValueError."""

from __future__ import annotations

from typing import Any

from ssa_analysis.texts import parsed_json


def text_of(value: Any) -> str:
    """A text of a store, which holds what somebody put there; TypeError for another value."""
    if not isinstance(value, str):
        raise TypeError(f"a text is wanted, not a {type(value).__name__}")
    return value


def number_of(value: Any) -> Any:
    """A number or None."""
    if not isinstance(value, int | float | None):
        raise TypeError(f"a number is wanted, not a {type(value).__name__}")
    return value


def whole_number_of(value: Any) -> int:
    """A whole number."""
    if not isinstance(value, int):
        raise TypeError(f"a whole number is wanted, not a {type(value).__name__}")
    return value


def table_of(text: Any) -> dict[str, Any]:
    """A JSON object."""
    found = parsed_json(text_of(text))
    if not isinstance(found, dict):
        raise TypeError(f"a table is wanted, not a {type(found).__name__}")
    return found
