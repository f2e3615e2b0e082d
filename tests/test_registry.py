"""Registries: names in order, suggestions, no silent overwriting, entry points of other packages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from ssa_analysis import registry
from ssa_analysis.errors import SettingsError
from ssa_analysis.registry import Registry, unknown_name


def point(name: str, load: Callable[[], object]) -> SimpleNamespace:
    """An entry point of somebody's package."""
    return SimpleNamespace(name=name, value=f"theirs:{name}", load=load, dist=SimpleNamespace(name="their-package"))


def test_entries_come_back_in_the_order_of_registration() -> None:
    things: Registry[int] = Registry("thing")
    things.add("zebra", 1)
    things.add("ant", 2)
    assert things.names() == ["zebra", "ant"]
    assert list(things) == [("zebra", 1), ("ant", 2)]
    assert things.get("ant") == 2
    assert "ant" in things
    assert "bee" not in things


def test_a_name_is_registered_once() -> None:
    things: Registry[list[int]] = Registry("thing")
    entry = things.add("one", [1])
    assert things.add("one", entry) is entry  # the same entry again is no conflict
    with pytest.raises(SettingsError, match="a thing called 'one' is registered already"):
        things.add("one", [1])
    assert things.get("one") is entry


def test_an_unknown_name_gets_close_ones_or_all() -> None:
    things: Registry[int] = Registry("thing")
    for name in ("curvature", "flatness", "shift"):
        things.add(name, 0)
    with pytest.raises(SettingsError, match=r"unknown thing 'curvture'; did you mean curvature\?$"):
        things.get("curvture")
    with pytest.raises(SettingsError, match=r"unknown thing 'xyz'; known: curvature, flatness, shift$"):
        things.get("xyz")
    assert SettingsError.is_usage
    assert isinstance(unknown_name("thing", "x", []), SettingsError)


def test_entry_points_are_loaded_once_when_a_name_is_first_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(name: str) -> str:
        loaded.append(name)
        return f"plugin {name}"

    def entry_points(group: str) -> list[SimpleNamespace]:
        assert group == "ssa_analysis.things"
        return [point(n, lambda n=n: load(n)) for n in ("extra", "own")]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    things: Registry[str] = Registry("thing")
    things.add("own", "ours")
    assert loaded == []
    assert things.get("extra") == "plugin extra"
    assert things.names() == ["own", "extra"]
    assert things.get("own") == "ours"  # a plugin cannot replace what is there
    assert loaded == ["extra"]


def test_what_cannot_be_used_is_left_out_and_the_package_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> object:
        raise ImportError("No module named 'gone'\nand more")

    class Named(str):
        name = "another"

    points = {
        "broken": broken, "ends": lambda: sys.exit(3), "number": lambda: 5, "ours": lambda: "theirs", "misnamed": lambda: Named(),
        "good": lambda: "good",
    }  # fmt: skip
    monkeypatch.setattr(registry, "entry_points", lambda group: [point(n, load) for n, load in points.items()])
    things: Registry[str] = Registry("thing", str)
    things.add("ours", "ours")
    assert things.names() == ["ours", "good"]
    assert things.get("ours") == "ours"
    said = {line.split("'")[1]: line.split(" is left out: ")[1] for line in things.problems}
    assert said == {
        "broken": "ImportError: No module named 'gone'",
        "ends": "SystemExit: 3",
        "number": "theirs:number must be a str, it is a int",
        "ours": "another one has that name",
        "misnamed": "theirs:misnamed calls itself 'another'",
    }
    assert all("of the package 'their-package'" in line for line in things.problems)
    with pytest.raises(SettingsError, match="the thing 'broken' of the package 'their-package' is left out: ImportError"):
        things.get("broken")
