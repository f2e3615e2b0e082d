"""Blurs: gaussian, defocus, glass, motion, zoom; batched, one seed an image where there is chance.

All take float images ``(n, 3, h, w)`` in [0, 1] and constants of one severity (Hendrycks and Dietterich 2019).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

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


UNSEEN = 1e-6  # weight of all further steps, at which a motion blur may stop: a thousandth of a level


@dataclass(frozen=True)
class Motion:
    """Shifted copies that a motion blur adds up, for n images.

    Attributes:
        weights: ``(steps,)``, the same for all. rows, columns: ``(n, steps)`` shifts in pixels. taken: ``(n, steps)`` bool,
            False where the line has left the image or is too faint to be seen. order: ``(n,)`` the images by angle, in which
            neighbours share shifts.
    """

    weights: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    taken: np.ndarray
    order: np.ndarray


def motion_of(radius: int, sigma: float, angles: list[float], height: int, width: int) -> Motion:
    """A half-Gaussian along a line at each of the angles (degrees); the line ends where it leaves the image."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    turned = np.radians(angles)[:, None]
    rows, columns = (-np.ceil(steps * f(turned) - 0.5).astype(int) for f in (np.sin, np.cos))
    weights /= weights.sum()
    seen = weights[::-1].cumsum()[::-1] > UNSEEN
    taken = ((np.abs(rows) < height) & (np.abs(columns) < width)).cumprod(1).astype(bool) & seen
    return Motion(weights, rows, columns, taken, np.argsort(angles, kind="stable"))


def moved(x: Tensor, motion: Motion) -> Tensor:
    """``(n, c, h, w)``: for each image the weighted sum of its shifted copies, edges repeated.

    Images of neighbouring angles have most shifts in common: a step is taken for a run of them at once.
    """
    out = torch.empty_like(x)
    for start in range(0, len(x), MOVED_AT_ONCE):
        part = motion.order[start : start + MOVED_AT_ONCE]
        index = torch.from_numpy(part).to(x.device)
        out.index_copy_(0, index, _moved_run(x[index], motion, part))
    return out


MOVED_AT_ONCE = 64  # images that stay in the processor's cache


def _moved_run(x: Tensor, motion: Motion, which: np.ndarray) -> Tensor:
    """:func:`moved` of the images ``which``, in the order of their angles."""
    height, width = x.shape[-2:]
    rows, columns, taken = (a[which] for a in (motion.rows, motion.columns, motion.taken))
    pad = max(int(np.abs(shifts[taken]).max()) for shifts in (rows, columns))
    wide = padded(x, pad, "replicate")
    total = torch.zeros_like(x)
    code = np.where(taken, rows * (2 * pad + 1) + columns, 4 * (pad + 1) ** 2)  # one number for each shift, another for none
    for step, weight in enumerate(motion.weights.tolist()):
        edges = [0, *(np.flatnonzero(np.diff(code[:, step])) + 1).tolist(), len(x)]
        for first, last in itertools.pairwise(edges):
            if taken[first, step]:
                top, left = pad - int(rows[first, step]), pad - int(columns[first, step])
                total[first:last].add_(wide[first:last, :, top : top + height, left : left + width], alpha=weight)
    return total


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
    return nnf.interpolate(cut.contiguous(), size, mode="bilinear", align_corners=True)


MATRIX_PIXELS = 64 * 64  # up to here the zoom blur is a sparse matrix


def zoom_blur(x: Tensor, constants: tuple[float, float], seeds: list[int]) -> Tensor:
    """The mean of the image and of itself magnified by ``1, 1 + step, ...`` up to (not including) ``stop``."""
    n, channels, height, width = x.shape
    if height * width > MATRIX_PIXELS:
        return _zoomed(x, *constants)
    matrix = _zoom_matrix(*constants, height, width).to(x.device)
    # double precision: what an image becomes must not depend on how many others are summed beside it
    columns = x.reshape(n * channels, -1).T.double().contiguous()
    mean: Tensor = torch.sparse.mm(matrix, columns)
    return mean.T.to(x.dtype).reshape(x.shape)


def _zoomed(x: Tensor, stop: float, step: float) -> Tensor:
    factors = np.arange(1, stop, step)
    total = x.clone()
    for factor in factors:
        total += magnified(x, float(factor))[..., : x.shape[-2], : x.shape[-1]]
    return total / (len(factors) + 1)


@lru_cache(maxsize=16)
def _zoom_matrix(stop: float, step: float, height: int, width: int) -> Tensor:
    """``(h w, h w)`` sparse float64: what becomes of each single pixel, in columns."""
    points = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    return _zoomed(points, stop, step).view(height * width, -1).T.to_sparse().coalesce()


def shuffled(x: Tensor, delta: int, iterations: int, seeds: list[int]) -> Tensor:
    """Every pixel takes on the colour of a random one up to ``delta`` rows and columns away, from the lower right upwards.

    The reference means to exchange two pixels but copies one (both sides of its exchange are views of one array), in raster
    order from the end, so that a pixel may take on what its source was given before. Whether it does is followed through all
    images at once by doubling pointers.
    """
    n, channels, height, width = x.shape
    if height <= 2 * delta or width <= 2 * delta:
        return x
    inner = [slice(delta + 1, min(size - delta + 1, size)) for size in (height, width)]
    shape = (n, *(part.stop - part.start for part in inner))
    everywhere = torch.arange(height * width)
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[inner[0], inner[1]] = True
    generators = [generator(s, "glass") for s in seeds]
    colours = everywhere.expand(n, -1)  # whose colour each pixel has
    for _ in range(iterations):
        drawn = [torch.randint(-delta, delta, (shape[1] * shape[2], 2), generator=g, dtype=torch.int16) for g in generators]
        columns, rows = torch.stack(drawn).long().unbind(-1)
        source = everywhere.repeat(n, 1)
        source.view(n, height, width)[:, inner[0], inner[1]] += (rows * width + columns).view(shape)
        # where the source lies further on and is shuffled too, it was given its colour before
        follows = inside.view(-1).index_select(0, source.view(-1)).view(n, -1).logical_and_(source > everywhere)
        pointer = torch.where(follows, source, everywhere)
        while True:
            further = pointer.gather(1, pointer)
            if torch.equal(further, pointer):
                break
            pointer = further
        colours = colours.gather(1, source.gather(1, pointer))
    flat = x.reshape(n, channels, -1)
    return flat.gather(2, colours.to(x.device)[:, None].expand_as(flat)).view(x.shape)


def glass_blur(x: Tensor, constants: tuple[float, int, int], seeds: list[int]) -> Tensor:
    """Blur, cut to whole levels, shuffle neighbouring pixels, blur."""
    sigma, delta, iterations = constants
    levels = (smoothed(x, sigma, 4.0, "replicate") * 255).add_(5e-4).floor_()
    return smoothed(shuffled(levels, delta, iterations, seeds).div_(255), sigma, 4.0, "replicate")
