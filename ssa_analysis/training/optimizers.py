"""SGD, LARS and AdamW by name, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ssa_analysis.errors import SettingsError

OPTIMIZERS = ("sgd", "lars", "adamw")
STATES = {"sgd": 1, "lars": 1, "adamw": 2}  # numbers that an optimizer keeps for each weight


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling with momentum (You et al. 2017, algorithm 1).

    Groups with ``adapt=False`` (biases, normalisation) take plain momentum steps.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 1e-3
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; a closure is evaluated first, as by torch's optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad.add(p, alpha=group["weight_decay"])
                if group["adapt"]:
                    weight_norm, update_norm = p.norm(), update.norm()
                    ratio = group["trust"] * weight_norm / update_norm
                    update = update * torch.where((weight_norm > 0) & (update_norm > 0), ratio, torch.ones_like(ratio))
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                buffer.mul_(group["momentum"]).add_(update)
                p.add_(buffer, alpha=-group["lr"])
        return loss


def build_optimizer(name: str, model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """An optimizer over ``model``; biases and normalisation weights are neither decayed nor layer-adapted."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
    if name == "lars":
        groups[1]["adapt"] = False
        return LARS(groups, lr=lr, weight_decay=weight_decay)
    raise SettingsError(f"unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """Linear warm-up to ``peak`` over ``warmup`` steps, then half a cosine down to 0 at ``total``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
