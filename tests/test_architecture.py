"""Imports point down only, and click and matplotlib stay where they belong."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# a module may import from layers above it in this list, and from its own package; not sideways, not below
LAYERS = (
    {"version", "errors", "paths", "progress", "stopping", "scores", "registry", "texts", "toml_files"},
    {"checkpoints", "data", "models", "numerics"},
    {"training", "measures"},
    {"theory", "linking", "diagnosis"},
    {"running"},
    {"reports", "api"},
    {"hooks"},
    {"cli"},
)
# within the second layer: who may use whom
WITHIN = {"numerics": set(), "data": {"numerics"}, "models": {"data", "numerics"}, "checkpoints": {"data", "models"}}
FILES = sorted(
    p for folder in ("ssa_analysis", "cli", "reports") for p in (ROOT / folder).rglob("*.py") if "build" not in p.parts
)


def package_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    inside = parts[1:] if parts[0] == "ssa_analysis" else parts
    return inside[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer_of(package: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if package in layer)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    package = package_of(path)
    if package in ("__init__", "__main__"):
        return
    for name in imported(path):
        if not name.startswith("ssa_analysis."):
            continue
        other = name.split(".")[1]
        if other == package:
            continue
        mine, theirs = layer_of(package), layer_of(other)
        allowed = theirs < mine or (mine == theirs == 1 and other in WITHIN[package]) or (mine == theirs == 0)
        assert allowed, f"{path} imports {name}"


@pytest.mark.parametrize(("library", "home"), [("click", "cli"), ("matplotlib", "reports"), ("jinja2", "reports")])
def test_libraries_stay_where_they_belong(library: str, home: str) -> None:
    users = {package_of(p) for p in FILES if any(n.split(".")[0] == library for n in imported(p))}
    assert users == {home}


def test_measures_do_not_import_each_other() -> None:
    families = {"curvature", "flatness", "landscape", "shift", "views", "robustness", "downstream", "representation"}
    for family in families:
        for name in imported(ROOT / "ssa_analysis" / "measures" / f"{family}.py"):
            parts = name.split(".")
            assert parts[:2] != ["ssa_analysis", "measures"] or parts[2] not in families - {family}, f"{family} imports {name}"


def test_modules_are_short_enough_to_read_in_one_sitting() -> None:
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 450}
    assert not long
