"""A projector from its tensors: linear layers and BatchNorms in their order, activations where the numbers leave room."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from ssa_analysis.errors import CheckpointError
from ssa_analysis.registry import unknown_name

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


def build_head(tensors: Mapping[str, Tensor], activation: str = "relu") -> nn.Module:
    """A module whose state dict has the names of ``tensors``: ``weight`` of a single layer, or ``NUMBER.weight``, ...

    In a ``torch.nn.Sequential`` numbers without tensors between two layers are an activation (and dropout, which does
    nothing in evaluation). Two linear layers with none between them, and whatever is neither linear nor BatchNorm, raise a
    CheckpointError.
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
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before: int | None = None
    for number in sorted(parts):
        layer = _layer(parts[number])
        if number > (0 if before is None else before + 1):
            layers[str(number - 1)] = ACTIVATIONS[activation]()
        elif isinstance(layer, nn.Linear) and before is not None and isinstance(layers[str(before)], nn.Linear):
            raise CheckpointError(f"between layers {before} and {number} of the projector there is no activation")
        layers[str(number)], before = layer, number
    return nn.Sequential(layers)


def _layer(tensors: Mapping[str, Tensor]) -> nn.Module:
    weight, names = tensors.get("weight"), set(tensors)
    if weight is not None and weight.ndim == 2 and names <= {"weight", "bias"}:
        return nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in names)
    mean = tensors.get("running_mean")
    if mean is not None and mean.ndim == 1 and (weight is None) == ("bias" not in names):
        return nn.BatchNorm1d(len(mean), affine=weight is not None)
    raise CheckpointError(f"a projector's layer with the tensors {', '.join(sorted(names))} is not known")
