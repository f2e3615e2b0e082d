"""Corruptions that move pixels: motion, zoom and glass blur, elastic transform; batched, one seed an image.

All take float images ``(n, 3, h, w)`` in [0, 1] and constants of one severity (Hendrycks and Dietterich 2019).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf

from ssa_analysis.numerics.seeding import generator


def gaussian_kernel(sigma: float, radius: int, x: Tensor) -> Tensor:
    """``(2 radius + 1,)`` weights that sum to one."""
    grid = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(grid**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def padded(x: Tensor, pad: int, mode: str) -> Tensor:
    """``x (n, c, h, w)`` with ``pad`` more pixels on every side; ``symmetric`` mirrors at the border, edge pixels twice.

    Unlike torch's own padding it may be wider than the image.
    """
    height, width = x.shape[-2:]
    rows, columns = (torch.arange(-pad, size + pad, device=x.device) for size in (height, width))
    if mode == "replicate":
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    else:
        rows, columns = (_mirrored(i, size) for i, size in ((rows, height), (columns, width)))
    return x.index_select(2, rows).index_select(3, columns)


def _mirrored(index: Tensor, size: int) -> Tensor:
    index = index % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def smoothed(x: Tensor, sigma: float, truncate: float, mode: str) -> Tensor:
    """Gaussian blur with the kernel cut at ``truncate`` standard deviations, as scikit-image does it."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return x
    kernel, channels = gaussian_kernel(sigma, radius, x), x.shape[1]
    weight = kernel.repeat(channels, 1)
    wide = padded(x, radius, mode)
    rows = nnf.conv2d(wide, weight[:, None, None, :], groups=channels)
    return nnf.conv2d(rows, weight[:, None, :, None], groups=channels)


def motion_steps(radius: int, sigma: float, angle: float, height: int, width: int) -> list[tuple[float, int, int]]:
    """``(weight, dy, dx)`` of the shifted copies that a motion blur adds up; angle in degrees.

    A half-Gaussian along a line; the line ends where it leaves the image.
    """
    length = 2 * radius + 1
    weights = np.exp(-(np.arange(length) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    steps = []
    for i in range(length):
        dy, dx = -math.ceil(i * sine - 0.5), -math.ceil(i * cosine - 0.5)
        if abs(dy) >= height or abs(dx) >= width:
            break
        steps.append((float(weights[i]), dy, dx))
    return steps


def moved(image: Tensor, steps: list[tuple[float, int, int]]) -> Tensor:
    """``(c, h, w)``: the weighted sum of copies of an image, shifted by ``dy`` rows and ``dx`` columns, edges repeated."""
    height, width = image.shape[-2:]
    pad = max((max(abs(dy), abs(dx)) for _, dy, dx in steps), default=0)
    wide = padded(image[None], pad, "replicate")[0]
    out = torch.zeros_like(image)
    for weight, dy, dx in steps:
        out.add_(wide[:, pad - dy : pad - dy + height, pad - dx : pad - dx + width], alpha=weight)
    return out


def motion_blur(x: Tensor, constants: tuple[int, float], seeds: list[int]) -> Tensor:
    """Motion along a line at a random angle of -45 to 45 degrees."""
    radius, sigma = constants
    height, width = x.shape[-2:]
    angles = [90 * float(torch.rand((), generator=generator(s, "angle"))) - 45 for s in seeds]
    return torch.stack([moved(image, motion_steps(radius, sigma, a, height, width)) for image, a in zip(x, angles, strict=True)])


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


def elastic_transform(x: Tensor, constants: tuple[float, float, float], seeds: list[int]) -> Tensor:
    """A random affine map and a smooth random displacement; constants in units of the image's side."""
    height, width = x.shape[-2:]
    alpha, sigma, spread = (c * min(height, width) for c in constants)
    y, w = torch.meshgrid(torch.arange(height, dtype=x.dtype), torch.arange(width, dtype=x.dtype), indexing="ij")
    centre, reach = torch.tensor([width // 2, height // 2], dtype=torch.float64), min(height, width) // 3
    corners = torch.stack([centre + reach, centre + torch.tensor([reach, -reach]), centre - reach])
    maps, fields = [], []
    for s in seeds:
        rng = generator(s, "elastic")
        moved_corners = corners + spread * (2 * torch.rand(3, 2, generator=rng, dtype=torch.float64) - 1)
        maps.append(_affine(moved_corners, corners))
        fields.append(2 * torch.rand(2, height, width, generator=rng, dtype=x.dtype) - 1)
    affine = torch.stack(maps).to(x.dtype)
    points = torch.stack([w, y, torch.ones_like(w)]).reshape(3, -1)
    where = (affine @ points).reshape(len(x), 2, height, width)
    straight = sampled(x, where[:, 0].to(x.device), where[:, 1].to(x.device), "reflect")
    shift = smoothed(torch.stack(fields), sigma, 3.0, "symmetric") * alpha if alpha else torch.stack(fields) * 0
    shift = shift.to(x.device)
    return sampled(straight, w.to(x.device) + shift[:, 0], y.to(x.device) + shift[:, 1], "symmetric")


def _affine(source: Tensor, target: Tensor) -> Tensor:
    """``(2, 3)`` map that takes three points to three others; least squares where the three lie on a line."""
    system = torch.cat([source, torch.ones(3, 1, dtype=source.dtype)], dim=1)
    solution: Tensor = torch.linalg.lstsq(system, target, driver="gelsd").solution
    return solution.T


def sampled(x: Tensor, columns: Tensor, rows: Tensor, border: str) -> Tensor:
    """Bilinear values of ``x (n, c, h, w)`` at ``columns``, ``rows`` ``(n, h, w)``; mirrored beyond the border.

    ``symmetric`` repeats the edge pixel, ``reflect`` does not.
    """
    height, width = x.shape[-2:]
    aligned = border == "reflect"
    scale = [2 / max(1, size - 1) if aligned else 2 / size for size in (width, height)]
    offset = 0.0 if aligned else 0.5
    grid = torch.stack([(columns + offset) * scale[0] - 1, (rows + offset) * scale[1] - 1], dim=-1)
    return nnf.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=aligned)
