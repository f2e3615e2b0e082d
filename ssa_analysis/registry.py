"""Name -> measure, data set, layout, method or executor, with entry points and "did you mean"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from ssa_analysis.errors import SettingsError

T = TypeVar("T")


def unknown_name(kind: str, name: str, known: list[str]) -> SettingsError:
    """The error for a name that is not there, with the closest known ones."""
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
    return SettingsError(f"unknown {kind} {name!r}; {hint}")


def check_fields(kind: str, values: Iterable[str], row: type) -> None:
    """SettingsError with suggestions for the first of ``values`` that is no field of the dataclass ``row``."""
    known = [f.name for f in fields(row)]
    for name in values:
        if name not in known:
            raise unknown_name(kind, name, known)


class Registry(Generic[T]):
    """Named entries of one kind. Other packages add theirs under the entry-point group ``ssa_analysis.<kind>s``.

    An entry point's value is registered under the entry point's name when a name is first looked up.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._broken: dict[str, str] = {}
        self._plugins_loaded = False

    def add(self, name: str, entry: T) -> T:
        """Register ``entry``; SettingsError if the name is taken by another entry."""
        if name in self._entries and self._entries[name] is not entry:
            raise SettingsError(f"a {self.kind} called {name!r} is registered already")
        self._entries[name] = entry
        return entry

    def _load_plugins(self) -> None:
        if not self._plugins_loaded:
            self._plugins_loaded = True
            for point in entry_points(group=f"ssa_analysis.{self.kind}s"):
                if point.name in self._entries:
                    continue
                try:
                    self._entries[point.name] = point.load()
                except Exception as error:  # somebody else's package; what does not need it must go on
                    self._broken[point.name] = f"{type(error).__name__}: {error}"

    def get(self, name: str) -> T:
        """The entry called ``name``; SettingsError with suggestions otherwise."""
        self._load_plugins()
        if name in self._broken:
            raise SettingsError(f"the plug-in that offers the {self.kind} {name!r} cannot be loaded ({self._broken[name]})")
        if name not in self._entries:
            raise unknown_name(self.kind, name, self.names())
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        self._load_plugins()
        return list(self._entries)

    def __contains__(self, name: str) -> bool:
        self._load_plugins()
        return name in self._entries

    def __iter__(self) -> Iterator[tuple[str, T]]:
        self._load_plugins()
        return iter(self._entries.items())
