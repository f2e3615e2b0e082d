"""Spatter: drops of water or mud on the lens, batched, one seed an image (Hendrycks and Dietterich 2019).

The reference finds the rims of the drops with OpenCV. Its steps (Canny's edges, chamfer distances, equalised histogram) are
written out here for whole batches, with OpenCV's conventions, and need no OpenCV.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor
from torch.nn import functional as nnf

from ssa_analysis.data.corruptions.filters import padded, smoothed
from ssa_analysis.numerics.seeding import generator

WATER = (175 / 255, 238 / 255, 238 / 255)  # pale turquoise
MUD = (63 / 255, 42 / 255, 20 / 255)
FURTHEST = 20.0  # pixels; larger distances from a rim are cut to it


def _sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of ``(n, h, w)`` along columns and rows by Sobel's 3 x 3 kernels, edge pixels repeated."""
    wide = padded(x[:, None], 1, "replicate")[:, 0]
    smooth_rows = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    smooth_columns = wide[:, :, :-2] + 2 * wide[:, :, 1:-1] + wide[:, :, 2:]
    return smooth_rows[:, :, 2:] - smooth_rows[:, :, :-2], smooth_columns[:, 2:] - smooth_columns[:, :-2]


def canny(levels: Tensor, low: int, high: int) -> Tensor:
    """Edges ``(n, h, w)`` bool of ``levels (n, h, w)`` int32 by Canny's method with l1 gradients, as OpenCV finds them."""
    across, down = _sobel(levels)
    strength = across.abs() + down.abs()
    wide = nnf.pad(strength, (1, 1, 1, 1))
    height, width = levels.shape[-2:]

    def beside(dy: int, dx: int) -> Tensor:
        return wide[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    # tangent of 22.5 degrees with 15 fraction bits; that of 67.5 is two more
    steep, flat = down.abs() << 15, across.abs() * 13573
    horizontal, vertical = steep < flat, steep > flat + (across.abs() << 16)
    falling = (across ^ down) < 0
    along_rows = (strength > beside(0, -1)) & (strength >= beside(0, 1))
    along_columns = (strength > beside(-1, 0)) & (strength >= beside(1, 0))
    diagonal = torch.where(
        falling,
        (strength > beside(-1, 1)) & (strength > beside(1, -1)),
        (strength > beside(-1, -1)) & (strength > beside(1, 1)),
    )
    ridge = (strength > low) & torch.where(horizontal, along_rows, torch.where(vertical, along_columns, diagonal))
    strong = ridge & (strength > high)
    neighbours = np.zeros((3, 3, 3), bool)
    neighbours[1] = True  # within an image, never from one to the next
    pieces, count = label(ridge.cpu().numpy(), neighbours)
    kept = np.zeros(count + 1, bool)
    kept[np.unique(pieces[strong.cpu().numpy()])] = True
    return torch.from_numpy(kept[pieces]).to(levels.device)


def chamfer_distance(edges: Tensor, furthest: float = FURTHEST) -> Tensor:
    """Distance ``(n, h, w)`` in pixels to the nearest true pixel, at most ``furthest``.

    Lengths of paths of steps 1, 1.4 (diagonal) and 2.1969 (a knight's move), as OpenCV's 5 x 5 mask (Borgefors 1986): one
    pass over the rows down, one up, all columns and images at once.
    """
    n, height, width = edges.shape
    outside = 2 * furthest
    # rows first, so that a row of all images is one piece of memory; two rows and columns of border on every side
    wide = torch.full((height + 4, n, width + 4), outside, device=edges.device)
    inner = wide[2:-2, :, 2:-2]
    inner.copy_(torch.where(edges, 0.0, outside).permute(1, 0, 2))
    place = torch.arange(width, dtype=wide.dtype, device=edges.device)
    nearest = torch.empty(n, width, device=edges.device)
    # length of a step -> the rows back and columns aside that it may go
    steps = {1.0: ((1, 0),), 1.4: ((1, 1), (1, -1)), 2.1969: ((1, 2), (1, -2), (2, 1), (2, -1))}
    for step, order in ((1, range(2, height + 2)), (-1, range(height + 1, 1, -1))):
        for row in order:
            best = wide[row, :, 2:-2]
            for length, moves in steps.items():
                first, *others = (wide[row - back * step, :, 2 + aside : 2 + aside + width] for back, aside in moves)
                for other in others:
                    first = torch.minimum(first, other, out=nearest)
                torch.minimum(best, torch.add(first, length, out=nearest), out=best)
            forwards = torch.sub(best, place, out=nearest).cummin(1).values.add_(place)
            backwards = torch.add(best, place, out=nearest).flip(1).cummin(1).values.flip(1).sub_(place)
            torch.minimum(torch.minimum(forwards, backwards, out=forwards), best, out=best)
    return inner.permute(1, 0, 2).clamp(max=furthest)


def equalised(levels: Tensor) -> Tensor:
    """``levels (n, h, w)`` int64 in 0..255 with their histogram made even; an image of one level stays."""
    n = len(levels)
    flat = levels.reshape(n, -1)
    counts = torch.zeros(n, 256, device=levels.device).scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float32))
    first = counts.gather(1, (counts > 0).int().argmax(1, keepdim=True))
    spread = flat.shape[1] - first
    table = ((counts.cumsum(1) - first) * (255 / spread.clamp_min(1))).round().clamp(0, 255)
    return torch.where(spread > 0, table.gather(1, flat), flat.float()).view(levels.shape)


def _three_by_three(x: Tensor) -> Tensor:
    """Sum of the 3 x 3 pixels around each of ``(n, h, w)``."""
    wide = padded(x[:, None], 1, "reflect")[:, 0]
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    return rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]


def rims(levels: Tensor) -> Tensor:
    """``(n, h, w)`` whole numbers in 0..255: how the light falls on drops ``levels (n, h, w)``, whole numbers too."""
    distance = chamfer_distance(canny(levels.to(torch.int32), 50, 150))
    even = equalised((_three_by_three(distance) / 9 + 1e-4).floor().long())
    wide = padded(even[:, None], 1, "reflect")[:, 0]
    embossed = wide[:, 1:-1, 1:-1] + wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]  # [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]
    embossed = embossed + wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1] + 2 * (wide[:, 2:, 2:] - wide[:, :-2, :-2])
    return (_three_by_three(embossed.clamp(0, 255)) / 9).round()


def spatter(x: Tensor, constants: tuple[float, float, float, float, float, int], seeds: list[int]) -> Tensor:
    """Water (rims that shine) or, at the two highest severities, mud (patches that cover)."""
    mean, spread, sigma, threshold, strength, mud = constants
    noise = torch.stack([torch.randn(x.shape[-2:], generator=generator(s, "spatter")) for s in seeds]).to(x.device).double()
    # in double precision: thresholds follow, at which a rounding error would be seen
    layer = smoothed((mean + spread * noise)[:, None], sigma, 4.0, "replicate")
    layer = torch.where(layer < threshold, 0.0, layer)
    if mud:
        cover = smoothed((layer > threshold).to(layer.dtype), strength, 4.0, "replicate")
        cover = torch.where(cover < 0.8, 0.0, cover).to(x.dtype)
        return x * (1 - cover) + cover * torch.tensor(MUD, device=x.device).view(1, 3, 1, 1)
    levels = (layer[:, 0] * 255).floor().clamp(0, 255).to(x.dtype)
    light = levels * rims(levels)
    light = light / light.amax((1, 2), keepdim=True).clamp_min(1e-6) * strength
    return x + light[:, None] * torch.tensor(WATER, device=x.device).view(1, 3, 1, 1)
