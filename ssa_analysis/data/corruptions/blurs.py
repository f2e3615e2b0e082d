"""Blurs: gaussian, defocus, glass, motion, zoom; batched, one seed an image where there is chance.

All take float images ``(n, 3, h, w)`` in [0, 1] and constants of one severity (Hendrycks and Dietterich 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf

from ssa_analysis.data.corruptions.filters import correlated, gaussian_kernel, padded, separable, smoothed
from ssa_analysis.numerics.seeding import generator


def gaussian_blur(x: Tensor, sigma: float, seeds: list[int]) -> Tensor:
    """Gaussian blur, cut at four standard deviations."""
    return smoothed(x, sigma, 4.0, "replicate")


def disk(radius: float, alias: float, x: Tensor) -> Tensor:
    """The picture of a point out of focus: a disk, its edge smoothed by a Gaussian 3 or 5 pixels wide; without empty border."""
    reach = 8 if radius <= 8 else int(radius)
    grid = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    inside = ((grid[:, None] ** 2 + grid[None, :] ** 2) <= radius**2).to(x.dtype)
    kernel = gaussian_kernel(alias, 1 if radius <= 8 else 2, x)
    smooth = separable((inside / inside.sum())[None, None], kernel, "reflect")[0, 0]
    while smooth.shape[0] > 3 and not smooth[0].any():
        smooth = smooth[1:-1, 1:-1]
    return smooth


def defocus_blur(x: Tensor, constants: tuple[float, float], seeds: list[int]) -> Tensor:
    """Every point spread over a disk of radius ``constants[0]``."""
    return correlated(x, disk(*constants, x), "reflect")


@dataclass(frozen=True)
class Motion:
    """Shifted copies that a motion blur adds up, for n images.

    Attributes:
        weights: ``(steps,)``, the same for all. rows, columns: ``(n, steps)`` shifts. counts: ``(n,)`` steps each takes.
    """

    weights: list[float]
    rows: np.ndarray
    columns: np.ndarray
    counts: list[int]


def motion_of(radius: int, sigma: float, angles: list[float], height: int, width: int) -> Motion:
    """A half-Gaussian along a line at each of the angles (degrees); the line ends where it leaves the image."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    turned = np.radians(angles)[:, None]
    rows, columns = (-np.ceil(steps * f(turned) - 0.5).astype(int) for f in (np.sin, np.cos))
    inside = ((np.abs(rows) < height) & (np.abs(columns) < width)).cumprod(1)
    return Motion((weights / weights.sum()).tolist(), rows, columns, inside.sum(1).tolist())


def moved(x: Tensor, motion: Motion) -> Tensor:
    """``(n, c, h, w)``: for each image the weighted sum of its shifted copies, edges repeated."""
    channels, height, width = x.shape[1:]
    taken = max(motion.counts)
    pad = max(int(np.abs(s[:, :taken]).max()) for s in (motion.rows, motion.columns))
    pad = min(pad, max(height, width))
    wide = padded(x, pad, "replicate").contiguous()
    out = torch.zeros_like(x, memory_format=torch.contiguous_format)
    whole, strides = (channels, height, width), wide.stride()
    starts = ((pad - motion.rows) * strides[2] + pad - motion.columns).tolist()
    for number, (image, count) in enumerate(zip(out, motion.counts, strict=True)):
        for weight, start in zip(motion.weights[:count], starts[number], strict=False):
            image.add_(wide.as_strided(whole, strides[1:], number * strides[0] + start), alpha=weight)
    return out


def motion_blur(x: Tensor, constants: tuple[int, float], seeds: list[int]) -> Tensor:
    """Motion along a line at a random angle of -45 to 45 degrees."""
    angles = [90 * float(torch.rand((), generator=generator(s, "angle"))) - 45 for s in seeds]
    return moved(x, motion_of(*constants, angles, *x.shape[-2:]))


def magnified(x: Tensor, factor: float) -> Tensor:
    """The centre of the images, magnified by ``factor`` to their size or a little more (bilinear, ends aligned)."""
    height, width = x.shape[-2:]
    part = [math.ceil(size / factor) for size in (height, width)]
    top, left = (height - part[0]) // 2, (width - part[1]) // 2
    size = [round(p * factor) for p in part]
    cut = x[..., top : top + part[0], left : left + part[1]]
    return nnf.interpolate(cut, size, mode="bilinear", align_corners=True)


def zoom_blur(x: Tensor, constants: tuple[float, float], seeds: list[int]) -> Tensor:
    """The mean of the image and of itself magnified by ``1, 1 + step, ...`` up to (not including) ``stop``."""
    stop, step = constants
    factors = np.arange(1, stop, step)
    total = x.clone()
    for factor in factors:
        total += magnified(x, float(factor))[..., : x.shape[-2], : x.shape[-1]]
    return total / (len(factors) + 1)


def shuffled(x: Tensor, delta: int, iterations: int, seeds: list[int]) -> Tensor:
    """Every pixel takes on the colour of a random one up to ``delta`` rows and columns away, from the lower right upwards.

    The reference means to exchange two pixels but copies one (both sides of its exchange are views of one array), in raster
    order from the end, so that a pixel may take on what its source was given before. Whether it does is followed through all
    images at once by doubling pointers.
    """
    n, _, height, width = x.shape
    if height <= 2 * delta or width <= 2 * delta:
        return x
    rows, columns = torch.arange(delta + 1, height - delta + 1), torch.arange(delta + 1, width - delta + 1)
    rows, columns = rows[rows < height], columns[columns < width]
    at = (rows[:, None] * width + columns[None]).reshape(-1)
    flat = x.reshape(n, x.shape[1], -1)
    everywhere = torch.arange(height * width)
    inside = torch.zeros(height * width, dtype=torch.bool)
    inside[at] = True
    generators = [generator(s, "glass") for s in seeds]
    for _ in range(iterations):
        drawn = [torch.randint(-delta, delta, (len(at), 2), generator=rng) for rng in generators]
        offsets = torch.stack(drawn)
        r = (at // width + offsets[..., 1]).clamp(0, height - 1)
        c = (at % width + offsets[..., 0]).clamp(0, width - 1)
        source = everywhere.repeat(n, 1)
        source[:, at] = r * width + c
        follows = inside & inside[source] & (source > everywhere)  # the source was given its colour before
        pointer = torch.where(follows, source, everywhere)
        while True:
            further = pointer.gather(1, pointer)
            if torch.equal(further, pointer):
                break
            pointer = further
        final = source.gather(1, pointer).to(x.device)
        flat = flat.gather(2, final[:, None].expand_as(flat))
    return flat.reshape(x.shape)


def glass_blur(x: Tensor, constants: tuple[float, int, int], seeds: list[int]) -> Tensor:
    """Blur, cut to whole levels, shuffle neighbouring pixels, blur."""
    sigma, delta, iterations = constants
    levels = (smoothed(x, sigma, 4.0, "replicate") * 255 + 5e-4).floor() / 255
    return smoothed(shuffled(levels, delta, iterations, seeds), sigma, 4.0, "replicate")
