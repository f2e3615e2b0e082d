"""From a found state dict to an encoder, with a place or a reason for every tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from ssa_analysis.checkpoints.layouts.families import FAMILIES
from ssa_analysis.checkpoints.layouts.heads import build_head
from ssa_analysis.checkpoints.layouts.patterns import HEAD
from ssa_analysis.checkpoints.layouts.row import Beside, Found, Layout, Recipe, Recognised, sort_keys
from ssa_analysis.checkpoints.layouts.sizes import check_size
from ssa_analysis.checkpoints.normalisation import parse_normalisation
from ssa_analysis.errors import CheckpointError, SettingsError
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.registry import unknown_name

_SETTINGS = {f.name for f in fields(Recipe)}
ALWAYS = ("normalisation", "image_size", "activation")  # settings of every family


def recognise(
    layout: Layout,
    payload: Any,
    found: Found,
    changes: Mapping[str, str] | None = None,
    beside: Mapping[str, Beside] | None = None,
) -> Recognised:
    """Build the encoder of a file in which ``layout`` was found.

    Args:
        changes: settings of the recipe that the user says. beside: settings that files beside the checkpoint say.

    Raises:
        CheckpointError: a tensor of unknown use, or an architecture that is not known.
        SettingsError: a setting in ``changes`` that cannot be, or does not matter to the architecture.
    """
    changes = changes or {}
    if layout.family not in FAMILIES:
        raise unknown_name("family", layout.family, list(FAMILIES))
    family = FAMILIES[layout.family]
    for name in changes:
        if name in _SETTINGS and name not in (*ALWAYS, *family.settings):
            raise SettingsError(f"the recipe's {name} does not matter to the architecture of this file ({layout.family})")
    beside = {name: said for name, said in (beside or {}).items() if name in (*ALWAYS, *family.settings)}
    recipe = layout.recipe.changed({name: said.value for name, said in beside.items()}).changed(changes)
    places, left_over = sort_keys(layout, found)
    parts: dict[str, dict[str, Tensor]] = {"backbone": {}, "projector": {}, "classifier": {}}
    for key, name in places.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = found.state[key]
    names = family.names(parts["backbone"]) if family.names is not None else {}
    if names:
        whole = {f"backbone.{name}": f"backbone.{new}" for name, new in names.items()}
        places = {key: whole.get(name, name) for key, name in places.items()}
        parts["backbone"] = {names.get(name, name): tensor for name, tensor in parts["backbone"].items()}
    _each_once(places)
    cut = beyond(parts["backbone"], recipe.feature_layer)
    if cut:
        places, behind = _cut(places, cut, recipe.feature_layer)
        left_over |= behind
        parts["backbone"] = {name: tensor for name, tensor in parts["backbone"].items() if name not in cut}
        parts["projector"] = parts["classifier"] = {}
    check_size(lambda: family.build(parts["backbone"], recipe).module, parts["backbone"].values())
    backbone, arch, assumptions, image_size = family.build(parts["backbone"], recipe)
    projector = build_head(parts["projector"], recipe.activation) if parts["projector"] else None
    classifier = _classifier(parts["classifier"], int(backbone.feature_dim))  # type: ignore[arg-type]
    if classifier is None:
        for key in [key for key, name in places.items() if name.startswith("classifier.")]:
            del places[key]
            left_over[key] = HEAD
    mean, std = parse_normalisation(recipe.normalisation)
    encoder = Encoder(backbone, projector, mean, std, loss=dict(layout.loss), classifier=classifier)
    words = {("normalisation",): f"input normalisation: {_in_words(recipe.normalisation)}", **assumptions}
    if {"activation"} & {*changes, *beside} and projector is not None:
        words[("activation",)] = f"{recipe.activation} between the layers of the projector"
    if recipe.feature_layer:
        words[("feature_layer",)] = f"features: the output of {recipe.feature_layer}"
    said = [f"{text} ({_who(names, changes, beside)})" for names, text in words.items()]
    said += [f"temperature of the loss {layout.loss['tau']:g} (the project's default)"] if "tau" in layout.loss else []
    left_over |= _beside(payload, found)
    tensors = {name: found.state[key] for key, name in places.items()}
    return Recognised(encoder, arch, tensors, left_over, said, places=places, image_size=image_size)


def beyond(names: Iterable[str], layer: str) -> set[str]:
    """The tensors of a backbone that lie behind its layer ``layerN`` or ``blocks.N``; none where it is the last, or empty."""
    if not layer:
        return set()
    numbered = {name: match for name in names if (match := re.match(r"(layer|blocks\.)(\d+)\.", name))}
    layers = {match[1] + match[2]: int(match[2]) for match in numbered.values()}
    if layer not in layers:
        raise unknown_name("feature layer", layer, sorted(layers, key=layers.__getitem__))
    return {name for name, match in numbered.items() if int(match[2]) > layers[layer]}


def _cut(places: Mapping[str, str], cut: set[str], layer: str) -> tuple[dict[str, str], dict[str, str]]:
    """Places without what lies behind the feature layer, and the reasons of what is gone."""
    kept, gone = {}, {}
    for key, name in places.items():
        part, _, rest = name.partition(".")
        if part == "backbone" and rest not in cut:
            kept[key] = name
        else:
            gone[key] = f"behind the feature layer {layer}"
    return kept, gone


def _each_once(places: Mapping[str, str]) -> None:
    """CheckpointError where two tensors of the file have one place: the layout would pass over one of them."""
    seen: dict[str, str] = {}
    for key, name in places.items():
        if name in seen:
            raise CheckpointError(f"{seen[name]!r} and {key!r} have the same place, {name!r}")
        seen[name] = key


def _in_words(normalisation: str) -> str:
    return {"imagenet": "ImageNet mean and std", "none": "none, pixels in [0, 1]"}.get(normalisation, normalisation)


def _who(names: tuple[str, ...], changes: Mapping[str, str], beside: Mapping[str, Beside]) -> str:
    """Who says these settings: you, a file beside, or nobody."""
    yours = [name for name in names if name in changes]
    files = [name for name in names if name in beside and name not in changes]
    parts = [f"{', '.join(yours)} as you say"] if yours else []
    parts += [f"{', '.join(files)} from {', '.join(sorted({beside[name].file for name in files}))}"] if files else []
    if len(names) == 1 and parts:
        return parts[0].removeprefix(f"{names[0]} ")
    rest = "the rest is assumed" if parts else "the file does not say"
    return "; ".join([*parts, rest] if len(yours) + len(files) < max(1, len(names)) else parts)


def _classifier(tensors: Mapping[str, Tensor], feature_dim: int) -> nn.Linear | None:
    weight = tensors.get("weight")
    if weight is None or not set(tensors) <= {"weight", "bias"} or weight.shape[1:] != (feature_dim,):
        return None
    return nn.Linear(feature_dim, len(weight), bias="bias" in tensors)


def _beside(payload: Any, found: Found) -> dict[str, str]:
    """What lies beside the state dict and could be taken for weights."""
    first = found.place.split(".")[0]
    if not found.place or not isinstance(payload, Mapping):
        return {}
    beside = {str(key): value for key, value in payload.items() if key != first and isinstance(value, Mapping | list | Tensor)}
    return {
        key: "optimizer state" if "optim" in key else "beside the network's weights"
        for key, value in beside.items()
        if len(value)
    }
