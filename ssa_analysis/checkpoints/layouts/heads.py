"""A projector from its tensors: linear layers and BatchNorms in their order, activations where the numbers leave room."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from ssa_analysis.errors import CheckpointError
from ssa_analysis.registry import unknown_name

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


def build_head(tensors: Mapping[str, Tensor], activation: str = "relu") -> nn.Module:
    """A module whose state dict has the names of ``tensors``: ``weight`` of a single layer, or ``NUMBER.weight``, ...

    In a ``torch.nn.Sequential`` a number without tensors is an activation. Two linear layers with none between them, and
    whatever is neither linear nor BatchNorm, raise a CheckpointError.
    """
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, list(ACTIVATIONS))
    if set(tensors) <= {"weight", "bias"}:
        return _layer(tensors)
    parts: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(\d{1,3})\.(\w+)", name)
        if match is None:
            raise CheckpointError(f"a projector with a tensor {name!r} is not known")
        parts.setdefault(int(match[1]), {})[match[2]] = tensor
    layers: list[nn.Module] = []
    for number in range(max(parts) + 1):
        layer = _layer(parts[number]) if number in parts else ACTIVATIONS[activation]()
        if isinstance(layer, nn.Linear) and layers and isinstance(layers[-1], nn.Linear):
            raise CheckpointError(f"between layers {number - 1} and {number} of the projector there is no activation")
        layers.append(layer)
    return nn.Sequential(*layers)


def _layer(tensors: Mapping[str, Tensor]) -> nn.Module:
    weight, names = tensors.get("weight"), set(tensors)
    if weight is not None and weight.ndim == 2 and names <= {"weight", "bias"}:
        return nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in names)
    mean = tensors.get("running_mean")
    if mean is not None and mean.ndim == 1 and (weight is None) == ("bias" not in names):
        return nn.BatchNorm1d(len(mean), affine=weight is not None)
    raise CheckpointError(f"a projector's layer with the tensors {', '.join(sorted(names))} is not known")
