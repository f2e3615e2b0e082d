"""From a found state dict to an encoder, with a place or a reason for every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ssa_analysis.checkpoints.layouts.families import FAMILIES
from ssa_analysis.checkpoints.layouts.heads import build_head
from ssa_analysis.checkpoints.layouts.row import Found, Layout, Recipe, Recognised, sort_keys
from ssa_analysis.checkpoints.normalisation import parse_normalisation
from ssa_analysis.errors import CheckpointError
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.registry import unknown_name

HEAD = "classifier or head, not part of the features"


def recognise(layout: Layout, payload: Any, found: Found, changes: Mapping[str, str] | None = None) -> Recognised:
    """Build the encoder of a file in which ``layout`` was found.

    Args:
        changes: settings of the recipe that the user says.

    Raises:
        CheckpointError: a tensor of unknown use, or an architecture that is not known. SettingsError: of ``changes``.
    """
    recipe = layout.recipe.changed(changes or {})
    places, left_over = sort_keys(layout, found)
    parts: dict[str, dict[str, Tensor]] = {"backbone": {}, "projector": {}, "classifier": {}}
    for key, name in places.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = found.state[key]
    if layout.family not in FAMILIES:
        raise unknown_name("family", layout.family, list(FAMILIES))
    family = FAMILIES[layout.family]
    names = family.names(parts["backbone"]) if family.names is not None else {}
    if names:
        whole = {f"backbone.{name}": f"backbone.{new}" for name, new in names.items()}
        places = {key: whole.get(name, name) for key, name in places.items()}
        parts["backbone"] = {names.get(name, name): tensor for name, tensor in parts["backbone"].items()}
    _each_once(places)
    backbone, arch, assumptions = family.build(parts["backbone"], recipe)
    projector = build_head(parts["projector"], recipe.activation) if parts["projector"] else None
    classifier = _classifier(parts["classifier"], int(backbone.feature_dim))  # type: ignore[arg-type]
    if classifier is None:
        for key in [key for key, name in places.items() if name.startswith("classifier.")]:
            del places[key]
            left_over[key] = HEAD
    mean, std = parse_normalisation(recipe.normalisation)
    encoder = Encoder(backbone, projector, mean, std, loss=dict(layout.loss), classifier=classifier)
    said = [_normalisation(recipe, changes or {}), *assumptions]
    said += [f"{name} {value} (as you say)" for name, value in (changes or {}).items() if name != "normalisation"]
    said += [f"temperature of the loss {layout.loss['tau']:g} (the project's default)"] if "tau" in layout.loss else []
    left_over |= _beside(payload, found)
    tensors = {name: found.state[key] for key, name in places.items()}
    return Recognised(encoder, arch, tensors, left_over, said, places=places)


def _each_once(places: Mapping[str, str]) -> None:
    """CheckpointError where two tensors of the file have one place: the layout would pass over one of them."""
    seen: dict[str, str] = {}
    for key, name in places.items():
        if name in seen:
            raise CheckpointError(f"{seen[name]!r} and {key!r} have the same place, {name!r}")
        seen[name] = key


def _normalisation(recipe: Recipe, changes: Mapping[str, str]) -> str:
    who = "as you say" if "normalisation" in changes else "the file does not say"
    what = {"imagenet": "ImageNet mean and std", "none": "none, pixels in [0, 1]"}.get(recipe.normalisation, recipe.normalisation)
    return f"input normalisation: {what} ({who})"


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
