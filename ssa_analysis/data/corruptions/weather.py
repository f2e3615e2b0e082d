"""Fog and snow, batched, one seed an image.

Both take float images ``(n, 3, h, w)`` in [0, 1] and constants of one severity (Hendrycks and Dietterich 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssa_analysis.data.corruptions.blurs import magnified, motion_of, moved
from ssa_analysis.numerics.seeding import generator

LUMA = (0.299, 0.587, 0.114)


def plasma_side(height: int, width: int) -> int:
    """The smallest power of two that covers the image."""
    return max(2, 1 << (max(height, width) - 1).bit_length())


def plasma(draws: Tensor, size: int, decay: float) -> Tensor:
    """``(n, size, size)`` height maps in [0, 1] by the diamond-square algorithm on a torus.

    Args:
        draws: ``(n, size^2 - 1)`` uniform in [-1, 1], used in the order of the reference: squares, then both kinds of
            diamonds, from coarse to fine. size: a power of two. decay: by which the roughness falls at each step.
    """
    n, used, step, wibble = len(draws), 0, size, 100.0
    field = torch.zeros(n, size, size, dtype=draws.dtype, device=draws.device)

    def roughened(total: Tensor) -> Tensor:
        nonlocal used
        count = total.shape[1] * total.shape[2]
        noise = draws[:, used : used + count].view_as(total)
        used += count
        return total / 4 + wibble**2 * noise

    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        total = corners + corners.roll(-1, 1)
        field[:, half::step, half::step] = roughened(total + total.roll(-1, 2))
        centres, corners = field[:, half::step, half::step], field[:, ::step, ::step]
        field[:, ::step, half::step] = roughened(centres + centres.roll(1, 1) + corners + corners.roll(-1, 2))
        field[:, half::step, ::step] = roughened(centres + centres.roll(1, 2) + corners + corners.roll(-1, 1))
        step //= 2
        wibble /= decay
    field = field - field.amin((1, 2), keepdim=True)
    return field / field.amax((1, 2), keepdim=True).clamp_min(1e-30)


def fog(x: Tensor, constants: tuple[float, float], seeds: list[int]) -> Tensor:
    """A plasma cloud in front of the image, which keeps its largest value."""
    amount, decay = constants
    height, width = x.shape[-2:]
    size = plasma_side(height, width)
    draws = torch.stack([2 * torch.rand(size * size - 1, generator=generator(s, "fog")) - 1 for s in seeds]).to(x.device)
    cloud = amount * plasma(draws, size, decay)[:, None, :height, :width]
    most = x.amax((1, 2, 3), keepdim=True)
    return (x + cloud).mul_(most / (most + amount))


def flakes(noise: Tensor, constants: tuple[float, ...], angles: list[float]) -> Tensor:
    """``(n, 1, h, w)`` flakes from standard normal ``noise (n, 1, h, w)``: magnified, cut off below, blown along ``angles``."""
    mean, spread, zoom, threshold, radius, sigma, _ = constants
    height, width = noise.shape[-2:]
    layer = magnified(mean + spread * noise, zoom)
    layer = torch.where(layer < threshold, 0.0, layer).clamp(0, 1)
    blown = moved(layer, motion_of(int(radius), sigma, angles, *layer.shape[-2:]))
    return (blown[..., :height, :width] * 255).round() / 255


def snow(x: Tensor, constants: tuple[float, ...], seeds: list[int]) -> Tensor:
    """Flakes from above and, turned by half a circle, from below, over a whitened image."""
    generators = [generator(s, "snow") for s in seeds]
    noise = torch.stack([torch.randn(x.shape[-2:], generator=g) for g in generators]).to(x.device)
    angles = [90 * float(torch.rand((), generator=g)) - 135 for g in generators]
    snowfall = flakes(noise[:, None], constants, angles)
    red, green, blue = x.split(1, dim=1)
    grey = (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    bright = torch.maximum(x, grey.mul_(1.5).add_(0.5))
    return bright.lerp_(x, constants[-1]).add_(snowfall).add_(snowfall.flip((2, 3)))
