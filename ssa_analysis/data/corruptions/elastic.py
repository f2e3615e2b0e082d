"""The elastic transform, batched, one seed an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ssa_analysis.data.corruptions.filters import smoothed
from ssa_analysis.numerics.seeding import generator


def elastic_transform(x: Tensor, constants: tuple[float, float, float], seeds: list[int]) -> Tensor:
    """A random affine map and a smooth random displacement; constants in units of the image's side."""
    height, width = x.shape[-2:]
    alpha, sigma, spread = (c * min(height, width) for c in constants)
    y, w = torch.meshgrid(torch.arange(height, dtype=x.dtype), torch.arange(width, dtype=x.dtype), indexing="ij")
    centre, reach = torch.tensor([width // 2, height // 2], dtype=torch.float64), min(height, width) // 3
    corners = torch.stack([centre + reach, centre + torch.tensor([reach, -reach]), centre - reach])
    generators = [generator(s, "elastic") for s in seeds]
    jitter = torch.stack([torch.rand(3, 2, generator=g, dtype=torch.float64) for g in generators]) * 2 - 1
    fields = torch.stack([torch.rand(2, height, width, generator=g, dtype=x.dtype) for g in generators]).mul_(2).sub_(1)
    straight = x
    if spread:
        affine = _affine(corners + spread * jitter, corners).to(x.dtype)
        points = torch.stack([w, y, torch.ones_like(w)]).reshape(3, -1)
        where = (affine @ points).reshape(len(x), 2, height, width).to(x.device)
        straight = sampled(x, where[:, 0], where[:, 1], "reflect")
    if not alpha:
        return straight
    shift = smoothed(fields.to(x.device), sigma, 3.0, "symmetric") * alpha
    return sampled(straight, w.to(x.device) + shift[:, 0], y.to(x.device) + shift[:, 1], "symmetric")


def _affine(source: Tensor, target: Tensor) -> Tensor:
    """``(n, 2, 3)`` maps that take three points ``(n, 3, 2)`` to three others; least squares where they lie on a line."""
    system = torch.cat([source, torch.ones(len(source), 3, 1, dtype=source.dtype)], dim=2)
    solution: Tensor = torch.linalg.lstsq(system, target.expand_as(source), driver="gelsd").solution
    return solution.mT


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
