"""What a layout is: a row that says how to recognise a file of some project, and what its names and its recipe are."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from torch import Tensor

from ssa_analysis.checkpoints.pickles import Foreign
from ssa_analysis.errors import CheckpointError, SettingsError
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.registry import Registry, check_fields

CERTAINTY = ("certain", "likely", "guess")
PLACES = ("state_dict", "model_state_dict", "model", "net", "")


@dataclass(frozen=True)
class Recipe:
    """How images become features and embeddings, of which a state dict says nothing.

    Attributes:
        normalisation: of pixels in [0, 1]: a name (``imagenet``, ``cifar10``, ...) or ``m,m,m/s,s,s``.
        stem_stride, stem_padding, max_pool: of the first convolution and after it; None: by its kernel, 7 as in ImageNet's
            ResNets, 3 as in CIFAR's. stem_relu: whether there is a ReLU after it.
        shortcut: see :class:`~ssa_analysis.models.backbones.ResNetPlan`; None: by the weights.
        activation: between the layers of the projector, ``relu`` or ``gelu``.
        heads: of a vision transformer's attention; None: one for 64 channels. norm_eps: of its LayerNorms. pool: its
            features, ``cls`` or ``mean``. position_offset: what is added to the number of patches when the position
            embedding is interpolated, 0.1 in DINOv2's first release; position_antialias: whether that is antialiased.
        image_size: pixels of a side that it was trained with; None: by its stem, or by its position embedding.
        feature_layer: whose pooled output are the features, ``layer3`` of a ResNet or ``blocks.8`` of a vision transformer;
            empty: the last. What lies behind it is left over, the projector and the classifier too.
    """

    normalisation: str = "imagenet"
    stem_stride: int | None = None
    stem_padding: int | None = None
    max_pool: bool | None = None
    stem_relu: bool = True
    shortcut: str | None = None
    activation: str = "relu"
    heads: int | None = None
    norm_eps: float = 1e-6
    pool: str = "cls"
    position_offset: float = 0.0
    position_antialias: bool = False
    image_size: int | None = None
    feature_layer: str = ""

    def changed(self, values: Mapping[str, str]) -> Recipe:
        """With settings of the user's, as texts; SettingsError for a name or a value that cannot be."""
        check_fields("recipe setting", values, Recipe)
        kinds = {f.name: str(f.type) for f in fields(Recipe)}
        parsed = {name: _parsed(name, kinds[name], text) for name, text in values.items()}
        for name, value in parsed.items():
            low, high = _RANGES.get(name, (-math.inf, math.inf))
            if name in _RANGES and not low <= value <= high:
                raise SettingsError(f"the recipe's {name} is between {low:g} and {high:g}, got {value}")
        return replace(self, **parsed)


_RANGES = {
    "stem_stride": (1, 16), "stem_padding": (0, 64), "heads": (1, 1024), "image_size": (1, 4096), "norm_eps": (0.0, 1.0),
    "position_offset": (-1.0, 1.0),
}  # fmt: skip


def _parsed(name: str, kind: str, text: str) -> Any:
    try:
        if kind.startswith("bool"):
            return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}[text.lower()]
        return int(text) if kind.startswith("int") else float(text) if kind.startswith("float") else text
    except (KeyError, ValueError) as error:
        wanted = "yes or no" if kind.startswith("bool") else "a whole number" if kind.startswith("int") else "a number"
        raise SettingsError(f"the recipe's {name} is {wanted}, got {text!r:.80}") from error


@dataclass
class Recognised:
    """A payload that a layout has understood.

    Attributes:
        encoder: freshly built, weights not loaded yet.
        image_size: pixels of a side that it was trained with, where that is known or assumed.
        tensors: encoder key -> tensor of the file. places: key of the file -> encoder key.
        left_over: key of the file -> why it is not needed.
        assumptions: what the file does not say and the layout assumed.
    """

    encoder: Encoder
    arch: str
    tensors: dict[str, Tensor]
    left_over: dict[str, str] = field(default_factory=dict)
    assumptions: list[str] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    image_size: int | None = None


@dataclass(frozen=True)
class Layout:
    """One row of the table of layouts.

    Attributes:
        summary: in a line. source: where the names are documented.
        places: where in the file the state dict lies, dotted; the first that fits counts. ``""``: the file is one;
            ``"a.*"``: the state dicts in ``a`` are parts of one.
        top: keys that the file must have beside it. prefix, anchor: patterns; a key must be ``prefix`` followed by ``anchor``,
            and what matched the prefix is the ``{p}`` of the other patterns.
        kernel: of the tensor at the anchor; None: any. widths: of its output channels, where the file is recognised by
            them; empty: any. A layout that the user names need not keep to them.
        keys: patterns of which each must be found in a key. without: patterns that must not be found.
        names: ``(pattern, replacement)`` from keys of the file to ``backbone.``, ``projector.`` and ``classifier.``; the
            first that matches from the start counts. ``<1+1>`` in a replacement is group 1 as a number plus 1, ``<1*3+1>``
            three times it plus 1.
        left_over: ``(pattern, reason)`` of the keys that are not needed.
        family: of the architecture, see ``FAMILIES``. recipe: what the file does not say.
        certainty: of the recognition: ``certain`` (no other project writes such names), ``likely`` or ``guess``.
        loss: ``tau``, ``beta`` of the training loss, where the project's default is published.
        matches, recognise: instead of all that, functions of the payload.
    """

    summary: str
    source: str = ""
    places: tuple[str, ...] = PLACES
    top: tuple[str, ...] = ()
    prefix: str = ""
    anchor: str = r"conv1\.weight$"
    kernel: int | None = None
    widths: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    left_over: tuple[tuple[str, str], ...] = ()
    family: str = "resnet"
    recipe: Recipe = Recipe()
    certainty: str = "likely"
    loss: Mapping[str, float] = field(default_factory=dict)
    matches: Callable[[Any], bool] | None = None
    recognise: Callable[[Any], Recognised] | None = None


LAYOUTS: Registry[Layout] = Registry("layout", Layout)


@dataclass(frozen=True)
class Beside:
    """A setting of the recipe, as a text, that a file beside the checkpoint says."""

    value: str
    file: str


@dataclass(frozen=True)
class Found:
    """Where a layout's state dict is in a payload."""

    state: Mapping[str, Any]
    place: str
    prefix: str


def unwrap(payload: Any) -> Mapping[str, Any] | None:
    """The state dict inside a payload, or None; that of a pickled module is put together from its parts."""
    for place in PLACES:
        state = state_at(payload, place)
        if state is not None:
            return state
    return None


def state_at(payload: Any, place: str) -> Mapping[str, Any] | None:
    """The state dict at a dotted place of a payload, or None."""
    for key in place.split(".") if place else ():
        if key == "*":
            return _joined(payload)
        payload = payload.get(key) if isinstance(payload, Mapping) else None
    if isinstance(payload, Foreign):
        payload = module_state(payload)
    return payload if isinstance(payload, Mapping) else None


def _joined(parts: Any) -> Mapping[str, Any] | None:
    """One state dict from several, each behind its name."""
    if not isinstance(parts, Mapping) or not parts or not all(isinstance(part, Mapping) for part in parts.values()):
        return None
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}


MOST_MODULES = 100_000
MOST_KEYS, LONGEST_KEY = 20_000, 500  # of a state dict, whose names are matched with many patterns


def module_state(
    module: Foreign, prefix: str = "", depth: int = 0, seen: itertools.count[int] | None = None
) -> dict[str, Any] | None:
    """The state dict of a pickled module, as its class would give it; None where it is something else."""
    parts, seen = module.attributes, seen or itertools.count()
    if not isinstance(parts.get("_modules"), Mapping) or depth > 50:
        return None
    if next(seen) > MOST_MODULES:  # modules that share their children can be many more than the file holds
        raise CheckpointError(f"its module has more than {MOST_MODULES:,} parts")
    state: dict[str, Any] = {}
    skipped = parts.get("_non_persistent_buffers_set") or ()
    for group in ("_parameters", "_buffers"):
        for name, value in (parts.get(group) or {}).items():
            if isinstance(value, Tensor) and not (group == "_buffers" and name in skipped):
                state[f"{prefix}{name}"] = value
    for name, child in parts["_modules"].items():
        if isinstance(child, Foreign):
            state.update(module_state(child, f"{prefix}{name}.", depth + 1, seen) or {})
    return state


def find(layout: Layout, payload: Any, named: bool = False) -> Found | None:
    """Where the layout's state dict is, or None where the file is not of this layout; ``named``: the user says that it is."""
    if not all(isinstance(payload, Mapping) and key in payload for key in layout.top):
        return None
    for place in layout.places:
        state = state_at(payload, place)
        if state is None:
            continue
        keys = [key for key in state if isinstance(key, str)]
        if len(keys) > MOST_KEYS or max(map(len, keys), default=0) > LONGEST_KEY:
            raise CheckpointError(
                f"its state dict has more than {MOST_KEYS:,} names, or one of more than {LONGEST_KEY} characters"
            )
        anchors = {match[1]: state[key] for key in keys if (match := re.match(f"({layout.prefix}){layout.anchor}", key))}
        prefixes = [prefix for prefix, tensor in anchors.items() if _fits(layout, tensor, named)]
        for prefix in prefixes:
            wanted, unwanted = (
                [re.compile(pattern.replace("{p}", re.escape(prefix))) for pattern in patterns]
                for patterns in (layout.keys, layout.without)
            )
            if all(any(p.search(key) for key in keys) for p in wanted) and not any(p.search(k) for p in unwanted for k in keys):
                return Found(state, place, prefix)
    return None


def _fits(layout: Layout, anchor: Any, named: bool) -> bool:
    """Whether the tensor at the anchor has the kernel and the width of the layout."""
    kernel = int(anchor.shape[-1]) if isinstance(anchor, Tensor) and anchor.ndim == 4 else None
    width = int(anchor.shape[0]) if isinstance(anchor, Tensor) and anchor.ndim else None
    return layout.kernel in (None, kernel) and (named or not layout.widths or width in layout.widths)


def renamed(key: str, patterns: list[tuple[re.Pattern[str], str]]) -> str | None:
    """The encoder's name of a key of the file, or None."""
    for pattern, replacement in patterns:
        match = pattern.match(key)
        if match:
            text = re.sub(r"<(\d)(\*\d+)?([+-]\d+)?>", partial(_shifted, match), replacement)
            return match.expand(text) + key[match.end() :]
    return None


def _shifted(match: re.Match[str], token: re.Match[str]) -> str:
    return str(int(match[int(token[1])]) * int((token[2] or "*1")[1:]) + int(token[3] or 0))


def sort_keys(layout: Layout, found: Found) -> tuple[dict[str, str], dict[str, str]]:
    """File key -> encoder key, and file key -> why it is left over; CheckpointError for a tensor of unknown use."""
    prefix = re.escape(found.prefix)
    names = [(re.compile(pattern.replace("{p}", prefix)), replacement) for pattern, replacement in layout.names]
    reasons = [(re.compile(pattern.replace("{p}", prefix)), why) for pattern, why in layout.left_over]
    places: dict[str, str] = {}
    left_over: dict[str, str] = {}
    unknown = []
    for key, value in found.state.items():
        if not isinstance(value, Tensor):
            left_over[str(key)] = "not a tensor"
            continue
        name = renamed(str(key), names)
        if name is not None:
            places[str(key)] = name
            continue
        why = next((why for pattern, why in reasons if pattern.search(str(key))), None)
        if why is None:
            unknown.append(str(key))
        else:
            left_over[str(key)] = why
    if unknown:
        raise CheckpointError(f"{len(unknown)} of its tensors are of unknown use, first {unknown[0]!r}")
    return places, left_over
