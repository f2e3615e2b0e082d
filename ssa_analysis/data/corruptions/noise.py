"""Noise: gaussian, shot, impulse, speckle; drawn for each image from its own seed.

All take float images ``(n, 3, h, w)`` in [0, 1] and constants of one severity (Hendrycks and Dietterich 2019).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.special import pdtr
from torch import Tensor

from ssa_analysis.numerics.seeding import generator


def _noise(x: Tensor, seeds: list[int], draw: str) -> Tensor:
    """Noise of its own seed for each image, drawn on the CPU: the same for any batch size, order or device."""
    make = torch.randn if draw == "normal" else torch.rand
    return torch.stack([make(x.shape[1:], generator=generator(s, draw)) for s in seeds]).to(x.device)


def gaussian_noise(x: Tensor, sigma: float, seeds: list[int]) -> Tensor:
    """Normal noise of standard deviation ``sigma``."""
    return torch.add(x, _noise(x, seeds, "normal"), alpha=sigma)


def speckle_noise(x: Tensor, sigma: float, seeds: list[int]) -> Tensor:
    """Normal noise in proportion to the value."""
    return torch.addcmul(x, x, _noise(x, seeds, "normal"), value=sigma)


LEVELS = 256
CELLS = 256  # of the unit interval, for each of which it is known where to begin


@lru_cache(maxsize=16)
def _photon_tables(photons: float) -> tuple[Tensor, Tensor]:
    """``(256, counts)`` float32 ``P(count <= k)`` at the 256 rates, and ``(256 CELLS,)`` int32 where in it each cell begins."""
    rates = photons * np.arange(LEVELS)[:, None] / (LEVELS - 1)
    below = pdtr(np.arange(int(photons + 12 * math.sqrt(photons) + 20)), rates)
    below[:, -1] = np.inf  # no draw goes beyond
    first = np.stack([np.searchsorted(row, np.arange(CELLS) / CELLS, side="right") for row in below])
    starts = first + np.arange(LEVELS)[:, None] * below.shape[1]
    return torch.from_numpy(below.astype(np.float32)), torch.from_numpy(starts.astype(np.int32).reshape(-1))


def shot_noise(x: Tensor, photons: float, seeds: list[int]) -> Tensor:
    """A Poisson count of photons, ``photons`` of them for a white pixel.

    There are only 256 rates, so that a count is looked up: the first k at which the distribution function passes a uniform
    draw (inversion, from where the draw's cell begins). Draws have 24 bits, which is what the counts' tails are cut to.
    """
    below, starts = (table.to(x.device) for table in _photon_tables(photons))
    draw = _noise(x, seeds, "uniform").reshape(-1)
    level = (x * (LEVELS - 1)).round().int().reshape(-1)
    place = starts.index_select(0, level * CELLS + (draw * CELLS).int())
    flat = below.view(-1)
    left = (flat.index_select(0, place) <= draw).nonzero()[:, 0]
    while len(left):
        further = place.index_select(0, left) + 1
        place[left] = further
        left = left[flat.index_select(0, further) <= draw.index_select(0, left)]
    return ((place - level * below.shape[1]) / photons).view_as(x)


def impulse_noise(x: Tensor, amount: float, seeds: list[int]) -> Tensor:
    """Half of a share ``amount`` of the values becomes black, the other half white."""
    draw = _noise(x, seeds, "uniform")
    return torch.where(draw < amount / 2, 0.0, torch.where(draw < amount, 1.0, x))
