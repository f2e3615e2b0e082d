"""Noise: gaussian, shot, impulse, speckle; drawn for each image from its own seed.

All take float images ``(n, 3, h, w)`` in [0, 1] and constants of one severity (Hendrycks and Dietterich 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssa_analysis.numerics.seeding import generator


def _noise(x: Tensor, seeds: list[int], draw: str) -> Tensor:
    """Noise of its own seed for each image, drawn on the CPU: the same for any batch size, order or device."""
    make = torch.randn if draw == "normal" else torch.rand
    return torch.stack([make(x.shape[1:], generator=generator(s, draw)) for s in seeds]).to(x.device)


def gaussian_noise(x: Tensor, sigma: float, seeds: list[int]) -> Tensor:
    """Normal noise of standard deviation ``sigma``."""
    return x + sigma * _noise(x, seeds, "normal")


def speckle_noise(x: Tensor, sigma: float, seeds: list[int]) -> Tensor:
    """Normal noise in proportion to the value."""
    return x + sigma * x * _noise(x, seeds, "normal")


def shot_noise(x: Tensor, photons: float, seeds: list[int]) -> Tensor:
    """A Poisson count of photons, ``photons`` of them for a white pixel."""
    rates = (x * photons).cpu()
    counts = [torch.poisson(rate, generator=generator(s, "poisson")) for rate, s in zip(rates, seeds, strict=True)]
    return torch.stack(counts).to(x.device) / photons


def impulse_noise(x: Tensor, amount: float, seeds: list[int]) -> Tensor:
    """Half of a share ``amount`` of the values becomes black, the other half white."""
    draw = _noise(x, seeds, "uniform")
    return torch.where(draw < amount / 2, 0.0, torch.where(draw < amount, 1.0, x))
