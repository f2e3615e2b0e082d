"""What is worked out once for each table, and asked for by many figures."""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

import pandas as pd

T = TypeVar("T")


class PerTable(Generic[T]):
    """Something about each data frame, kept as long as that lives and is as long as it was; a changed value is not noticed."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[pd.DataFrame], int, T]] = {}

    def get(self, frame: pd.DataFrame) -> T | None:
        """What is known of this very table."""
        known = self._known.get(id(frame))
        return known[2] if known is not None and known[0]() is frame and known[1] == len(frame) else None

    def put(self, frame: pd.DataFrame, found: T) -> T:
        """Keep it, and forget tables that are gone."""
        for key in [key for key, (other, *_) in self._known.items() if other() is None]:
            del self._known[key]
        self._known[id(frame)] = (weakref.ref(frame), len(frame), found)
        return found
