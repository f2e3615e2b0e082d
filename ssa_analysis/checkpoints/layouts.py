"""The table of layouts: which keys a source writes, and how they map to an Encoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ssa_analysis.checkpoints.writing import FORMAT
from ssa_analysis.data.views import recipe_from_dict
from ssa_analysis.errors import CheckpointError
from ssa_analysis.models.backbones import build_backbone
from ssa_analysis.models.encoder import Encoder, Projector
from ssa_analysis.registry import Registry

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Recognised:
    """A payload that a layout has understood.

    Attributes:
        encoder: freshly built, weights not loaded yet.
        tensors: encoder key -> tensor of the file.
        left_over: key of the file -> why it is not needed.
        assumptions: what the file does not say and the layout assumed.
    """

    encoder: Encoder
    arch: str
    tensors: dict[str, Tensor]
    left_over: dict[str, str] = field(default_factory=dict)
    assumptions: list[str] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """One row: ``matches`` decides quickly whether a payload is of this kind, ``recognise`` builds the encoder."""

    summary: str
    matches: Callable[[Any], bool]
    recognise: Callable[[Any], Recognised]


LAYOUTS: Registry[Layout] = Registry("layout")


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
    return dict(training)


def _initial_weights(initial: Any) -> Mapping[str, Tensor] | None:
    """The weights before training, where the file keeps them."""
    if initial is None:
        return None
    if not isinstance(initial, Mapping) or not all(isinstance(t, Tensor) for t in initial.values()):
        raise CheckpointError("its initial weights are not a state dict")
    return initial


def _own_recognise(payload: Mapping[str, Any]) -> Recognised:
    spec = payload["encoder"]
    backbone = build_backbone(spec["arch"], spec["width"], spec["stem"])
    projector = Projector((int(backbone.feature_dim), *spec["projector"]))  # type: ignore[arg-type]
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


# prefixes that wrappers put before a backbone's own names, most specific first
PREFIXES = ("module.backbone.", "module.encoder.", "backbone.", "encoder.", "module.", "model.", "")
CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
_RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
}
_HEAD = re.compile(r"(^|\.)(fc|linear|classifier|online_classifier|head|projector|projection_head|predictor)\.")
_BACKBONE = re.compile(r"(conv1|bn1|layer[1-4])\.")


def unwrap(payload: Any) -> Mapping[str, Any] | None:
    """The state dict inside a payload, or None."""
    if not isinstance(payload, Mapping):
        return None
    for key in CONTAINERS:
        if isinstance(payload.get(key), Mapping):
            return payload[key]  # type: ignore[no-any-return]
    return payload


def _resnet_prefix(payload: Any) -> str | None:
    state = unwrap(payload)
    if state is None:
        return None
    for prefix in PREFIXES:
        if f"{prefix}conv1.weight" in state and f"{prefix}layer4.0.conv1.weight" in state:
            return prefix
    return None


def _linear_classifier(own: Mapping[str, Any], feature_dim: int) -> nn.Linear | None:
    """The linear layer ``fc`` that maps features to logits, or None where ``fc`` is something else or absent."""
    keys = {key for key in own if key.startswith("fc.")}
    weight = own.get("fc.weight")
    if not isinstance(weight, Tensor) or not keys <= {"fc.weight", "fc.bias"} or weight.shape[1:] != (feature_dim,):
        return None
    return nn.Linear(feature_dim, len(weight), bias="fc.bias" in own)


def _resnet_recognise(payload: Any) -> Recognised:
    prefix, state = _resnet_prefix(payload), unwrap(payload)
    assert prefix is not None  # what matches() has seen
    assert state is not None
    own = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    tensors = {f"backbone.{key}": value for key, value in own.items() if _BACKBONE.match(key)}
    depths = tuple(len({k.split(".")[1] for k in own if k.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in own
    if (depths, bottleneck) not in _RESNETS:
        block = "bottleneck" if bottleneck else "basic"
        raise CheckpointError(f"a ResNet of {block} blocks {depths} is not one of resnet18, resnet34, resnet50")
    arch = _RESNETS[depths, bottleneck]
    stem_weight = own["conv1.weight"]
    width, kernel = int(stem_weight.shape[0]), int(stem_weight.shape[-1])
    if kernel not in (3, 7):
        raise CheckpointError(f"a stem of kernel {kernel} is not known: 3 (CIFAR) or 7 (ImageNet)")
    stem = "cifar" if kernel == 3 else "imagenet"
    backbone = build_backbone(arch, width, stem)
    classifier = _linear_classifier(own, int(backbone.feature_dim))  # type: ignore[arg-type]
    if classifier is not None:
        tensors |= {f"classifier.{key}": own[f"fc.{key}"] for key in classifier.state_dict()}
    used = {f"{prefix}{key}" for key in own if f"backbone.{key}" in tensors or key.replace("fc.", "classifier.", 1) in tensors}
    rest = [key for key in state if key not in used]
    unknown = [key for key in rest if isinstance(state[key], Tensor) and not _HEAD.search(str(key))]
    if unknown:
        raise CheckpointError(f"{len(unknown)} of its tensors are of unknown use, first {unknown[0]!r}")
    head, value = "classifier or head, not part of the features", "not a tensor"
    left_over = {key: head if isinstance(state[key], Tensor) else value for key in rest}
    assumptions = ["input normalisation: ImageNet mean and std (the file does not say)"]
    if stem == "cifar":
        assumptions.append("3x3 stem of stride 1, padding 1, without max-pooling (the file does not say)")
    encoder = Encoder(backbone, None, IMAGENET_MEAN, IMAGENET_STD, classifier=classifier)
    return Recognised(encoder, f"{arch}, width {width}, {stem} stem", tensors, left_over, assumptions)


LAYOUTS.add(
    "ssa-analyze",
    Layout("written by ssa-analyze train", lambda p: isinstance(p, Mapping) and p.get("format") == FORMAT, _own_recognise),
)
LAYOUTS.add(
    "torchvision-resnet",
    Layout(
        "ResNet-18/34/50 with torchvision's names, bare or behind module., backbone., encoder., model.; no projector",
        lambda p: _resnet_prefix(p) is not None,
        _resnet_recognise,
    ),
)


def batchnorm_counters(module: nn.Module) -> set[str]:
    """Keys that old files may lack without harm: BatchNorm's step counters, which evaluation never reads."""
    return {key for key in module.state_dict() if key.endswith("num_batches_tracked")}
