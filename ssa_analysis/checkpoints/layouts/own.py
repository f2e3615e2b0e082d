"""The files that ``ssa-analyze train`` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ssa_analysis.checkpoints.layouts.row import LAYOUTS, Layout, Recognised
from ssa_analysis.checkpoints.layouts.sizes import check_size
from ssa_analysis.checkpoints.writing import FORMAT
from ssa_analysis.data.views import recipe_from_dict
from ssa_analysis.errors import CheckpointError
from ssa_analysis.models.backbones import build_backbone
from ssa_analysis.models.encoder import Encoder, Projector


def _check_training(training: Any) -> dict[str, Any]:
    """The record of a run, with what is shown of it in place; CheckpointError otherwise."""
    wanted: dict[str, dict[str, Any]] = {
        "": {"settings": dict, "data": dict, "epoch": int, "loss": (float, type(None))},
        "settings": {"method": str, "epochs": int, "tau": float, "beta": (float, type(None))},
        "data": {"name": str, "fingerprint": str},
    }
    for part, fields in wanted.items():
        table = training[part] if part else training
        for key, kind in fields.items():
            if not isinstance(table, dict) or not isinstance(table.get(key), kind):
                raise CheckpointError(f"its training record lacks a proper {part + '.' if part else ''}{key}")
    if not _is_plain(training):
        raise CheckpointError("its training record holds more than names, numbers and texts")
    return dict(training)


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether JSON can say it, so that a store can keep it."""
    if isinstance(value, dict):
        return depth < 10 and all(type(key) is str and _is_plain(item, depth + 1) for key, item in value.items())
    if isinstance(value, list | tuple):
        return depth < 10 and all(_is_plain(item, depth + 1) for item in value)
    return value is None or type(value) in (str, bool, float) or (type(value) is int and abs(value) < 1 << 63)


def _initial_weights(initial: Any) -> Mapping[str, Tensor] | None:
    """The weights before training, where the file keeps them."""
    if initial is None:
        return None
    if not isinstance(initial, Mapping) or not all(isinstance(t, Tensor) for t in initial.values()):
        raise CheckpointError("its initial weights are not a state dict")
    return initial


def _parts(spec: Mapping[str, Any]) -> tuple[nn.Module, Projector]:
    backbone = build_backbone(spec["arch"], spec["width"], spec["stem"])
    return backbone, Projector((int(backbone.feature_dim), *spec["projector"]))  # type: ignore[arg-type]


def _own_recognise(payload: Mapping[str, Any]) -> Recognised:
    spec = payload["encoder"]
    if not all(type(size) is int and size > 0 for size in (spec["width"], *spec["projector"])):
        raise TypeError("its width and the sizes of its projector must be whole numbers")
    check_size(lambda: nn.ModuleList(_parts(spec)), payload["model"].values())
    backbone, projector = _parts(spec)
    encoder = Encoder(
        backbone, projector, tuple(spec["mean"]), tuple(spec["std"]), recipe_from_dict(payload["recipe"]), payload["loss"]
    )
    encoder.initial = _initial_weights(payload.get("initial"))
    kept = {"initial": "weights at initialisation", "optimizer": "optimizer state", "training": "settings of the run"}
    return Recognised(
        encoder=encoder,
        arch=f"{spec['arch']}, width {spec['width']}, {spec['stem']} stem",
        tensors=dict(payload["model"]),
        left_over={key: why for key, why in kept.items() if key in payload},
        training=_check_training(payload["training"]),
    )


LAYOUTS.add(
    "ssa-analyze",
    Layout(
        "written by ssa-analyze train",
        certainty="certain",
        matches=lambda p: isinstance(p, Mapping) and p.get("format") == FORMAT,
        recognise=_own_recognise,
    ),
)
