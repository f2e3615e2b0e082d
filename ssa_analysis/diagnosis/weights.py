"""Checks of the weights alone: numbers that are none, tensors of zeros, networks that were never trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssa_analysis.diagnosis.findings import BROKEN, OK, SUSPICIOUS, UNKNOWN, Finding
from ssa_analysis.models.encoder import Encoder

NAMED = 3  # tensors that are named in a line
ZERO_FILTERS = 0.1  # share of a layer's filters that may be zero


def _names(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def finite_weights(encoder: Encoder) -> Finding:
    """Whether every number is one."""
    how = "every number of every tensor was looked at"
    bad = [name for name, t in encoder.state_dict().items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if bad:
        return Finding("finite weights", BROKEN, f"NaN or infinite numbers in {_names(bad)}: the training has diverged", how)
    return Finding("finite weights", OK, "no NaN, no infinity", how)


def zero_weights(encoder: Encoder) -> Finding:
    """Layers whose weights are all zero, or many of whose filters are."""
    how = f"a layer with weights of zero only is broken, more than {ZERO_FILTERS:.0%} of zero filters in one are suspicious"
    matrices = {name: p.detach() for name, p in encoder.named_parameters() if p.ndim >= 2}
    empty = [name for name, weight in matrices.items() if not weight.any()]
    if empty:
        return Finding("zero weights", BROKEN, f"{_names(empty)}: all zero", how)
    zero = {name: _zero_filters(weight) for name, weight in matrices.items() if name.endswith("weight")}
    pruned = [f"{name} ({share:.0%})" for name, share in zero.items() if share > ZERO_FILTERS]
    silent = [name for name, module in encoder.named_modules() if _silent(module)]
    if pruned or silent:
        parts = [f"filters of zero in {_names(pruned)}"] if pruned else []
        parts += [f"BatchNorm scales of zero in {_names(silent)}, whose branches give nothing"] if silent else []
        return Finding("zero weights", SUSPICIOUS, "; ".join(parts), how)
    return Finding("zero weights", OK, f"none of {len(matrices)} layers is zero", how)


def _zero_filters(weight: Tensor) -> float:
    return float((weight.flatten(1).abs().amax(1) == 0).float().mean())


def _silent(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None and not module.weight.any()


def training_seen(encoder: Encoder) -> Finding:
    """Whether the network looks trained at all."""
    how = "weights against those at initialisation, where the file keeps them, and BatchNorm's statistics against 0 and 1"
    if encoder.initial is not None:
        state = encoder.state_dict()
        if all(torch.equal(state[key].cpu(), value.cpu()) for key, value in encoder.initial.items() if key in state):
            return Finding("training", BROKEN, "the weights are those at initialisation: it was never trained", how)
    layers = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None]
    fresh = [m for m in layers if not m.running_mean.any() and bool((m.running_var == 1).all())]  # type: ignore[union-attr]
    if layers and len(fresh) == len(layers):
        return Finding("training", BROKEN, "BatchNorm's running statistics are 0 and 1 everywhere: it has seen no image", how)
    if fresh:
        seen = f"{len(fresh)} of {len(layers)} BatchNorm layers have statistics of 0 and 1: parts of it have seen no image"
        return Finding("training", SUSPICIOUS, seen, how)
    steps = max((int(m.num_batches_tracked) for m in layers if m.num_batches_tracked is not None), default=0)
    if layers:
        return Finding("training", OK, f"BatchNorm has seen {steps:,} batches" if steps else "BatchNorm has seen images", how)
    if encoder.initial is not None:
        return Finding("training", OK, "the weights have moved since initialisation", how)
    return Finding("training", UNKNOWN, "no BatchNorm and no weights at initialisation", how)
