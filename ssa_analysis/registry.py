"""Name -> measure, data set, layout, method or executor, with entry points and "did you mean"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from importlib.metadata import EntryPoint, entry_points
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

    An entry point's value is registered under the entry point's name when a name is first looked up. One that cannot be used
    is left out, and :attr:`problems` says why; the others go on.

    Args:
        kind: what an entry is called. row: class of the entries; other packages' are checked against it.
    """

    def __init__(self, kind: str, row: type[T] | None = None) -> None:
        self.kind, self.row = kind, row
        self._entries: dict[str, T] = {}
        self._problems: list[tuple[str, str]] = []
        self._plugins_loaded = False

    def add(self, name: str, entry: T) -> T:
        """Register ``entry``; SettingsError if the name is taken by another entry."""
        if name in self._entries and self._entries[name] is not entry:
            raise SettingsError(f"a {self.kind} called {name!r} is registered already")
        self._entries[name] = entry
        return entry

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in entry_points(group=f"ssa_analysis.{self.kind}s"):
            try:
                self._entries[point.name] = self._loaded(point)
            except (Exception, SystemExit) as error:  # somebody else's package; what does not need it must go on
                why = str(error) if isinstance(error, SettingsError) else f"{type(error).__name__}: {error}"
                package = point.dist.name if point.dist is not None else point.value
                line = f"the {self.kind} {point.name!r} of the package {package!r} is left out: {why.splitlines()[0]}"
                self._problems.append((point.name, line))

    def _loaded(self, point: EntryPoint) -> T:
        if point.name in self._entries:
            raise SettingsError("another one has that name")
        entry = point.load()
        if self.row is not None and not isinstance(entry, self.row):
            raise SettingsError(f"{point.value} must be a {self.row.__name__}, it is a {type(entry).__name__}")
        if getattr(entry, "name", point.name) != point.name:
            raise SettingsError(f"{point.value} calls itself {entry.name!r}")
        return entry  # type: ignore[no-any-return]

    @property
    def problems(self) -> list[str]:
        """A line for each entry of another package that was left out."""
        self._load_plugins()
        return [line for _, line in self._problems]

    def get(self, name: str) -> T:
        """The entry called ``name``; SettingsError with suggestions, or with what is wrong with the package that offers it."""
        self._load_plugins()
        if name not in self._entries:
            for left_out, line in self._problems:
                if left_out == name:
                    raise SettingsError(line)
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
