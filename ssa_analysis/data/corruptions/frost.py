"""Frost: a photograph of ice in front of the image, where the user has the official textures; otherwise one made here.

The official textures (``frost1.png``, ``frost2.png``, ``frost3.png``, ``frost4.jpg``, ``frost5.jpg`` of hendrycks/robustness)
come without a licence, so that none are shipped. What is made here has their mean levels, spread and tint but not their
crystals: it is another corruption and has a name of its own, ``procedural_frost``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ssa_analysis.data.corruptions.weather import plasma, plasma_side
from ssa_analysis.data.files import read_image
from ssa_analysis.errors import DataError
from ssa_analysis.numerics.seeding import generator

TEXTURE_FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")  # the reference never draws its sixth

FITTED = 10  # scaled textures that are kept: two sizes of each


@dataclass(frozen=True, eq=False)
class FrostTextures:
    """Textures ``(3, h, w)`` uint8 of any size; ``fingerprint``: SHA-256 over them, first 16 hex digits."""

    images: tuple[Tensor, ...]
    fingerprint: str
    _fitted: dict[tuple[int, float], Tensor] = field(default_factory=dict, repr=False)

    def covering(self, which: int, scale: float, height: int, width: int) -> Tensor:
        """``(3, h', w')`` float: a texture scaled (bilinear, not antialiased), or more where it would not cover the image."""
        texture = self.images[which]
        scale = max(scale, (height + 1) / texture.shape[1], (width + 1) / texture.shape[2])
        if (which, scale) not in self._fitted:
            if len(self._fitted) >= FITTED:
                self._fitted.clear()
            whole = texture[None].float()
            if scale != 1:
                whole = nnf.interpolate(whole, scale_factor=scale, mode="bilinear", recompute_scale_factor=False)
            self._fitted[which, scale] = whole[0]
        return self._fitted[which, scale]


@lru_cache(maxsize=4)
def load_frost_textures(folder: Path) -> FrostTextures:
    """The five official textures in a folder; DataError where one is missing or unreadable."""
    images = []
    digest = hashlib.sha256()
    for name in TEXTURE_FILES:
        try:
            images.append(read_image(folder / name, "frost texture"))
        except DataError as error:
            raise DataError(f"{error}; the folder must hold {', '.join(TEXTURE_FILES)}") from error
        digest.update(images[-1].numpy().tobytes())
    return FrostTextures(tuple(images), digest.hexdigest()[:16])


def frost(x: Tensor, constants: tuple[float, float, float], seeds: list[int], textures: FrostTextures) -> Tensor:
    """A random part of a random texture, added to the darkened image."""
    keep, weight, scale = constants
    height, width = x.shape[-2:]
    parts = []
    for s in seeds:
        rng = generator(s, "frost")
        which = int(torch.randint(len(textures.images), (), generator=rng))
        texture = textures.covering(which, scale, height, width)
        top, left = (
            int(torch.randint(max(1, have - need), (), generator=rng))
            for have, need in zip(texture.shape[1:], (height, width), strict=True)
        )
        parts.append(texture[:, top : top + height, left : left + width])
    return torch.stack(parts).to(x.device).mul_(weight / 255).add_(x, alpha=keep)


# of the five official textures, in shares of white: mean levels, spread within one, tint of the channels
LEVEL, SPREAD, TINT = (0.48, 0.82), 0.11, (-0.07, 0.01, 0.06)


def procedural_frost(x: Tensor, constants: tuple[float, float, float], seeds: list[int]) -> Tensor:
    """A ridged plasma of a random level, added to the darkened image with the weights of ``frost``."""
    keep, weight, _ = constants
    height, width = x.shape[-2:]
    side = plasma_side(height, width)
    generators = [generator(s, "procedural frost") for s in seeds]
    level = torch.stack([torch.empty(1, 1, 1).uniform_(*LEVEL, generator=g) for g in generators])
    draws = torch.stack([torch.rand(2, side * side - 1, generator=g) for g in generators]).to(x.device) * 2 - 1
    cloud, veins = (plasma(draws[:, i], side, decay)[:, None, :height, :width] for i, decay in enumerate((2.0, 1.6)))
    pattern = cloud + 1.5 * (1 - (2 * veins - 1).abs()) ** 4
    pattern = pattern - pattern.mean((2, 3), keepdim=True)
    pattern = pattern / pattern.square().mean((2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    tint = torch.tensor(TINT, device=x.device).view(1, 3, 1, 1)
    return keep * x + weight * (level.to(x.device) + SPREAD * pattern + tint).clamp(0, 1)
