"""How a checkpoint is to be read, where the user says it: an architecture, a layout, settings of its recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ssa_analysis.checkpoints.layouts import LAYOUTS, Layout, Recipe
from ssa_analysis.checkpoints.layouts.families import FAMILIES
from ssa_analysis.checkpoints.layouts.row import CERTAINTY
from ssa_analysis.checkpoints.normalisation import parse_normalisation
from ssa_analysis.checkpoints.own_model import OwnModel
from ssa_analysis.checkpoints.reading import file_hash
from ssa_analysis.checkpoints.regular import check_pattern
from ssa_analysis.errors import CheckpointError, SettingsError
from ssa_analysis.paths import expanded
from ssa_analysis.registry import check_fields, unknown_name
from ssa_analysis.toml_files import read_toml

_PAIRS = ("names", "left_over")
_LISTS = ("places", "top", "keys", "without")
_TEXTS = ("summary", "source", "prefix", "anchor", "family", "certainty")


EMBEDDINGS = ("projector", "features")


@dataclass(frozen=True)
class LoadOptions:
    """What the user says of the files; small enough to send to a worker.

    Attributes:
        model: an architecture of the user's own; then there is no layout.
        layout: name of a layout or path of a ``.toml`` file with one; empty: the first that fits.
        layout_sha256: of that file, so that stored scores belong to one version of it.
        recipe: settings of the layout's recipe that are changed, as texts.
        embedding: ``projector`` (its output, so that a file without one has no embedding) or ``features``: the features
            themselves, as where the loss of training stood on them.
    """

    model: OwnModel | None = None
    layout: str = ""
    layout_sha256: str = ""
    recipe: tuple[tuple[str, str], ...] = ()
    embedding: str = "projector"

    @property
    def identity(self) -> list[Any]:
        """What of it decides the numbers; empty where the user says nothing."""
        said: list[Any] = []
        if self.model is not None:
            said.append([self.model.sha256, self.model.function, self.model.normalise])
        if self.layout or self.recipe:
            said.append([self.layout_sha256 or self.layout, sorted(self.recipe)])
        if self.embedding != "projector":
            said.append(["embedding", self.embedding])
        return said

    @property
    def said(self) -> dict[str, str]:
        """The same for people, as settings of a score."""
        parts = {
            "model": str(self.model) if self.model is not None else "", "layout": self.layout,
            "recipe": ", ".join(f"{name}={value}" for name, value in self.recipe),
            "embedding": "" if self.embedding == "projector" else self.embedding,
        }  # fmt: skip
        return {name: text for name, text in parts.items() if text}

    def row(self) -> tuple[str, Layout] | None:
        """The layout that was named, None where none was; SettingsError as of :func:`load_options`."""
        if not self.layout:
            return None
        if not self.layout.endswith(".toml"):
            return self.layout, LAYOUTS.get(self.layout)
        path = Path(self.layout)
        if self.layout_sha256 and file_hash(path) != self.layout_sha256:
            raise SettingsError(f"{path} has changed since the run began")
        return path.stem, read_layout(path)


def load_options(
    model: OwnModel | None = None, layout: str | None = None, recipe: Sequence[str] = (), embedding: str = "projector"
) -> LoadOptions:
    """Check what the user says.

    Args:
        layout: a name or a path of a ``.toml`` file. recipe: ``NAME=VALUE`` each. embedding: one of ``EMBEDDINGS``.

    Raises:
        SettingsError: no such layout, a file that is none, a setting that the recipe has not, or both with ``model``.
    """
    if model is not None and (layout or recipe):
        raise SettingsError("an architecture of your own (--model) has no layout: --layout and --recipe do not go with it")
    if embedding not in EMBEDDINGS:
        raise unknown_name("embedding", embedding, list(EMBEDDINGS))
    changes = {}
    for item in recipe:
        name, equals, value = item.partition("=")
        if not (name and equals):
            raise SettingsError(f"--recipe {item!r}: write it as NAME=VALUE")
        changes[name.strip()] = value.strip()
    changed = Recipe().changed(changes)
    parse_normalisation(changed.normalisation)
    sha256 = ""
    if layout and layout.endswith(".toml"):
        layout = str(expanded(layout).absolute())
        try:
            sha256 = file_hash(Path(layout))
        except CheckpointError as error:
            raise SettingsError(str(error)) from error
    options = LoadOptions(model, layout or "", sha256, tuple(sorted(changes.items())), embedding)
    options.row()
    return options


def read_layout(path: Path) -> Layout:
    """A layout from a TOML file with the fields of :class:`Layout`, a table ``[recipe]`` and a table ``[loss]``.

    Raises:
        SettingsError: no TOML, an unknown field, a value of the wrong kind, or a pattern that is none, each named.
    """
    content = read_toml(path)
    try:
        return layout_from_dict(content)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def layout_from_dict(content: Mapping[str, Any]) -> Layout:
    """A layout from the content of its file; SettingsError as of :func:`read_layout`."""
    check_fields("layout setting", [key for key in content if key not in ("recipe", "loss")], Layout)
    values: dict[str, Any] = {"summary": "a layout of your own"}
    for key, value in content.items():
        if key in ("matches", "recognise"):
            raise SettingsError(f"{key} is a function, which a file cannot name")
        values[key] = _VALUES[key](key, value)
    layout = Layout(**values)
    _pattern("prefix and anchor", f"({layout.prefix}){layout.anchor}")
    if layout.family not in FAMILIES:
        raise unknown_name("family", layout.family, list(FAMILIES))
    if layout.certainty not in CERTAINTY:
        raise unknown_name("certainty", layout.certainty, list(CERTAINTY))
    if not layout.names:
        raise SettingsError("names is missing: pairs of a pattern and what it becomes, backbone., projector. or classifier.")
    for _, name in layout.names:
        if not name.startswith(("backbone.", "projector.", "classifier.")):
            raise SettingsError(f"names: {name!r} must begin with backbone., projector. or classifier.")
    return layout


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise SettingsError(f"{key} must be a text, got {value!r}")
    return _pattern(key, value) if key in ("prefix", "anchor") else value


def _pattern(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise SettingsError(f"{key} must be texts, got {value!r}")
    try:
        check_pattern(value.replace("{p}", ""))
    except ValueError as error:
        raise SettingsError(f"{key}: {value!r:.100} is no regular expression that can be used ({error})") from error
    return value


def _patterns(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise SettingsError(f"{key} must be a list of texts, got {value!r}")
    return tuple(_pattern(key, item) for item in value)


def _pairs(key: str, value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list) or not all(isinstance(item, list) and len(item) == 2 for item in value):
        raise SettingsError(f"{key} must be a list of pairs of texts, got {value!r}")
    return tuple((_pattern(key, pattern), _text(key, text)) for pattern, text in value)


def _whole(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise SettingsError(f"{key} must be a whole number, got {value!r:.80}")
    return value


def _widths(key: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise SettingsError(f"{key} must be a list of whole numbers, got {value!r}")
    return tuple(_whole(key, item) for item in value)


def _recipe(key: str, value: Any) -> Recipe:
    if not isinstance(value, dict):
        raise SettingsError(f"{key} must be a table [{key}]")
    recipe = Recipe().changed({name: "yes" if v is True else "no" if v is False else str(v) for name, v in value.items()})
    parse_normalisation(recipe.normalisation)
    return recipe


def _loss(key: str, value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not set(value) <= {"tau", "beta"}:
        raise SettingsError(f"{key} must be a table [{key}] with tau, beta or both")
    for name, number in value.items():
        if not isinstance(number, int | float) or isinstance(number, bool) or not 0 < number < 1e6:
            raise SettingsError(f"{key}.{name} must be a positive number, got {number!r:.80}")
    return {name: float(number) for name, number in value.items()}


_VALUES: dict[str, Any] = {
    **dict.fromkeys(_TEXTS, _text),
    **dict.fromkeys(_LISTS, _patterns),
    **dict.fromkeys(_PAIRS, _pairs),
    "kernel": _whole,
    "widths": _widths,
    "recipe": _recipe,
    "loss": _loss,
}
assert set(_VALUES) | {"matches", "recognise"} == {f.name for f in fields(Layout)}
