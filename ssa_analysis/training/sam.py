"""Sharpness-aware minimisation around any torch optimizer (Foret et al. 2021), and its adaptive form (Kwon et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssa_analysis.errors import SettingsError

Closure = Callable[[], Tensor]


def ascent_step(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], rho: float, adaptive: bool = False, eta: float = 0.01
) -> list[Tensor]:
    """The first-order worst perturbation in a rho-ball.

    ``eps = rho g / |g|`` (Foret et al. 2021, eq. 2); adaptive: ``eps = rho T^2 g / |T g|`` with ``T = |w| + eta``
    (Kwon et al. 2021, eq. 8), for which ``|eps / T| = rho``. The norm runs over all tensors together.
    """
    scale = [w.abs() + eta if adaptive else torch.ones((), device=w.device, dtype=w.dtype) for w in weights]
    scaled = [t * g for t, g in zip(scale, gradients, strict=True)]
    norm = torch.stack([s.float().norm() for s in scaled]).norm()
    factor = rho / norm.clamp_min(1e-12)
    return [factor.to(s.dtype) * t * s for t, s in zip(scale, scaled, strict=True)]


@contextmanager
def frozen_batchnorm_statistics(model: nn.Module) -> Iterator[None]:
    """Batch statistics are still used inside the block, but the running ones (and their counter) do not move."""
    tracking = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    # with the flag off, torch normalises by the batch in training mode and leaves the buffers alone
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


class SAM:
    """Two gradients a step: ascend to ``w + eps``, take the gradient there, step from ``w``.

    Args:
        optimizer: any torch optimizer; its step is taken from the unperturbed weights.
        model: whose BatchNorm running statistics the second pass must not touch.
        rho: radius of the ball. adaptive: ASAM.

    The closure runs forward and backward on the *same* batch and views each time and returns the loss. Under
    autocast the gradients are those of the float32 weights, so the direction is right as it is.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module, rho: float, adaptive: bool = False) -> None:
        if not rho > 0:
            raise SettingsError(f"rho must be positive, got {rho}")
        self.optimizer, self.model, self.rho, self.adaptive = optimizer, model, rho, adaptive

    def step(self, closure: Closure) -> Tensor:
        """One step; returns the loss at the unperturbed weights."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = closure()
        moved = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        saved = [p.detach().clone() for p in moved]
        with torch.no_grad():
            gradients = [p.grad for p in moved if p.grad is not None]
            for p, eps in zip(moved, ascent_step(moved, gradients, self.rho, self.adaptive), strict=True):
                p.add_(eps)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            with frozen_batchnorm_statistics(self.model):
                closure()
        finally:
            with torch.no_grad():
                for p, old in zip(moved, saved, strict=True):
                    p.copy_(old)
        self.optimizer.step()
        return loss
