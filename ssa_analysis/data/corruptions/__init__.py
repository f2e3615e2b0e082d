"""Common corruptions at five severities, batched (Hendrycks and Dietterich 2019): the fifteen and the four extra ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssa_analysis.data.corruptions import blurs, digital, noise, weather
from ssa_analysis.data.corruptions.constants import constants_of
from ssa_analysis.data.corruptions.elastic import elastic_transform
from ssa_analysis.data.corruptions.frost import FrostTextures, frost, procedural_frost
from ssa_analysis.data.corruptions.spatter import spatter
from ssa_analysis.errors import SettingsError
from ssa_analysis.registry import unknown_name

SEVERITIES = (1, 2, 3, 4, 5)
FAMILIES: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")  # in no mean: the reference's hold-out for tuning
COMMON = tuple(name for names in FAMILIES.values() for name in names)
CORRUPTIONS = (*COMMON, *EXTRA)
STAND_INS = {"frost": "procedural_frost"}  # what stands for a corruption whose files are missing

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blurs.defocus_blur,
    "glass_blur": blurs.glass_blur,
    "motion_blur": blurs.motion_blur,
    "zoom_blur": blurs.zoom_blur,
    "snow": weather.snow,
    "frost": frost,
    "procedural_frost": procedural_frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blurs.gaussian_blur,
    "spatter": spatter,
    "saturate": digital.saturate,
}
_ON_BYTES = ("pixelate", "jpeg_compression")  # take and give whole levels


def generated(textures: FrostTextures | None = None) -> tuple[str, ...]:
    """The nineteen corruptions that :func:`corrupt` makes; without textures ``procedural_frost`` stands for ``frost``."""
    return tuple(name if textures is not None else STAND_INS.get(name, name) for name in CORRUPTIONS)


def corrupt(images: Tensor, name: str, severity: int, seeds: list[int], textures: FrostTextures | None = None) -> Tensor:
    """Corrupt a batch where it lies (CPU or GPU).

    Args:
        images: ``(n, 3, h, w)`` or, grey, ``(n, 1, h, w)`` uint8. The constants go by the shorter side, see
            :mod:`ssa_analysis.data.corruptions.constants`.
        name: one of ``CORRUPTIONS`` or ``procedural_frost``. severity: 1 to 5.
        seeds: n of them, one an image (its index in the data set, say): an image gets the same corruption whatever
            the batch it comes in.
        textures: for ``frost``, which cannot do without.

    Returns:
        ``(n, 3, h, w)`` uint8, truncated and not rounded, as the reference files were made.

    Raises:
        SettingsError: unknown name or severity, not one seed for each image, frost without textures.
    """
    if name not in _FUNCTIONS:
        raise unknown_name("corruption", name, list(_FUNCTIONS))
    if severity not in SEVERITIES:
        raise SettingsError(f"a severity is 1 to 5, got {severity}")
    if len(seeds) != len(images):
        raise SettingsError(f"each image needs a seed of its own: {len(images)} images, {len(seeds)} seeds")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
        raise SettingsError(f"images must be (n, 3, h, w) or (n, 1, h, w) uint8, got {tuple(images.shape)} {images.dtype}")
    if name == "frost" and textures is None:
        raise SettingsError("frost needs the official textures; procedural_frost does without")
    return apply(images, name, constants_of(name, severity, min(images.shape[-2:])), seeds, textures)


def apply(images: Tensor, name: str, constants: Any, seeds: list[int], textures: FrostTextures | None = None) -> Tensor:
    """:func:`corrupt` with constants of one's own in place of a severity's, in the form of ``CONSTANTS[name]``; unchecked."""
    images = images.expand(-1, 3, -1, -1)
    with torch.no_grad():
        if images.device.type != "cpu":
            return _changed(images, name, constants, seeds, textures)
        group = max(1, GROUP * (_WIDER if name in _ROW_BY_ROW else 1) // max(1, images[:1].numel()))
        out = torch.empty(images.shape, dtype=torch.uint8)
        for start in range(0, len(images), group):
            part = slice(start, start + group)
            out[part] = _changed(images[part], name, constants, seeds[part], textures)
        return out


# on the CPU a batch goes through in groups of so many values, which stay in its cache; what works row by row takes more at once
GROUP, _WIDER, _ROW_BY_ROW = 256 * 3 * 32 * 32, 16, ("spatter",)


def _changed(images: Tensor, name: str, constants: Any, seeds: list[int], textures: FrostTextures | None) -> Tensor:
    if name in _ON_BYTES:
        return _FUNCTIONS[name](images, constants, seeds)
    given = (textures,) if name == "frost" else ()
    corrupted = _FUNCTIONS[name](images.float().div_(255), constants, seeds, *given)
    # half a thousandth of a level: 128/255*255 may come out as 127.99999 and would be truncated to 127
    return corrupted.clamp_(0, 1).mul_(255).add_(5e-4).to(torch.uint8)
