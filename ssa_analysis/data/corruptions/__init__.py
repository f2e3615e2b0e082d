"""Common corruptions at five severities, batched (Hendrycks and Dietterich 2019): the fifteen and the four extra ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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

GROUP = 256 * 3 * 32 * 32  # values of a batch that go through together on the CPU, so that they stay in its cache


@dataclass(frozen=True)
class _Way:
    """How a corruption is made: a function of images, constants of one severity and seeds.

    Attributes:
        on_bytes: it takes and gives whole levels, not floats in [0, 1]. textured: it takes frost textures too.
        group: values that go through together on the CPU; more for what works row by row, for all images at once.
    """

    function: Callable[..., Tensor]
    on_bytes: bool = False
    textured: bool = False
    group: int = GROUP


_WAYS: dict[str, _Way] = {
    "gaussian_noise": _Way(noise.gaussian_noise),
    "shot_noise": _Way(noise.shot_noise),
    "impulse_noise": _Way(noise.impulse_noise),
    "defocus_blur": _Way(blurs.defocus_blur),
    "glass_blur": _Way(blurs.glass_blur),
    "motion_blur": _Way(blurs.motion_blur),
    "zoom_blur": _Way(blurs.zoom_blur),
    "snow": _Way(weather.snow),
    "frost": _Way(frost, textured=True),
    "procedural_frost": _Way(procedural_frost),
    "fog": _Way(weather.fog),
    "brightness": _Way(digital.brightness),
    "contrast": _Way(digital.contrast),
    "elastic_transform": _Way(elastic_transform),
    "pixelate": _Way(digital.pixelate, on_bytes=True),
    "jpeg_compression": _Way(digital.jpeg_compression, on_bytes=True),
    "speckle_noise": _Way(noise.speckle_noise),
    "gaussian_blur": _Way(blurs.gaussian_blur),
    "spatter": _Way(spatter, group=16 * GROUP),
    "saturate": _Way(digital.saturate),
}


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
    if name not in _WAYS:
        raise unknown_name("corruption", name, list(_WAYS))
    if severity not in SEVERITIES:
        raise SettingsError(f"a severity is 1 to 5, got {severity}")
    if len(seeds) != len(images):
        raise SettingsError(f"each image needs a seed of its own: {len(images)} images, {len(seeds)} seeds")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
        raise SettingsError(f"images must be (n, 3, h, w) or (n, 1, h, w) uint8, got {tuple(images.shape)} {images.dtype}")
    if _WAYS[name].textured and textures is None:
        raise SettingsError(f"{name} needs the official textures; {STAND_INS[name]} does without")
    return apply(images, name, constants_of(name, severity, min(images.shape[-2:])), seeds, textures)


def apply(images: Tensor, name: str, constants: Any, seeds: list[int], textures: FrostTextures | None = None) -> Tensor:
    """:func:`corrupt` with constants of one's own in place of a severity's, in the form of ``CONSTANTS[name]``; unchecked."""
    images, way = images.expand(-1, 3, -1, -1), _WAYS[name]
    given = (textures,) if way.textured else ()
    size = way.group // max(1, images[:1].numel()) if images.device.type == "cpu" else len(images)
    out = torch.empty(images.shape, dtype=torch.uint8, device=images.device)
    with torch.no_grad():
        for start in range(0, len(images), max(1, size)):
            part = slice(start, start + max(1, size))
            if way.on_bytes:
                out[part] = way.function(images[part], constants, seeds[part])
            else:
                # half a thousandth of a level: 128/255*255 may come out as 127.99999 and would be truncated to 127
                corrupted = way.function(images[part].float().div_(255), constants, seeds[part], *given)
                out[part] = corrupted.clamp_(0, 1).mul_(255).add_(5e-4).to(torch.uint8)
    return out
