"""Colour and coding: brightness, contrast, saturation, pixelation, JPEG.

Brightness, contrast and saturation take float images ``(n, 3, h, w)`` in [0, 1], the two codings bytes; all take constants of
one severity (Hendrycks and Dietterich 2019).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.errors import SettingsError

if TYPE_CHECKING:
    from PIL.Image import Image


def brightness(x: Tensor, amount: float, seeds: list[int]) -> Tensor:
    """``amount`` more of the HSV value; hue and saturation stay, so that the channels keep their proportions."""
    value = x.amax(1, keepdim=True)
    brighter = (value + amount).clamp(max=1)
    return torch.where(value > 0, x * (brighter / value.clamp_min(1e-12)), brighter)


def saturate(x: Tensor, constants: tuple[float, float], seeds: list[int]) -> Tensor:
    """HSV saturation times a factor plus an offset; the hue of a grey pixel is red, as in the reference."""
    factor, offset = constants
    value = x.amax(1, keepdim=True)
    distance = value - x
    spread = distance.amax(1, keepdim=True)
    saturation = spread / value.clamp_min(1e-12)
    wanted = (factor * saturation + offset).clamp(0, 1)
    red = torch.tensor([0.0, 1.0, 1.0], device=x.device).view(1, 3, 1, 1)
    return value - torch.where(spread > 0, distance / spread.clamp_min(1e-12), red) * wanted * value


def contrast(x: Tensor, factor: float, seeds: list[int]) -> Tensor:
    """Distances from the mean of each channel, times ``factor``."""
    return torch.lerp(x.mean((2, 3), keepdim=True), x, factor)


_BITS = 22  # fraction bits of the weights in Pillow's resampling of bytes


def _box_taps(size: int, new: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """``(index (new,), weight (new,) int32)`` of each tap of Pillow's BOX filter from ``size`` to ``new`` pixels."""
    scale = size / new
    reach = max(scale, 1.0)
    rows = []
    for i in range(new):
        centre = (i + 0.5) * scale
        first, last = max(0, int(centre - reach / 2 + 0.5)), min(size, int(centre + reach / 2 + 0.5))
        inside = [-0.5 < (k - centre + 0.5) / reach <= 0.5 for k in range(first, last)]
        share = int((1 << _BITS) / sum(inside) + 0.5)
        rows.append([(k, share if take else 0) for k, take in zip(range(first, last), inside, strict=True)])
    taps = []
    for number in range(max(map(len, rows))):
        column = [row[number] if number < len(row) else (row[-1][0], 0) for row in rows]
        index, weight = zip(*column, strict=True)
        taps.append((torch.tensor(index, device=device), torch.tensor(weight, dtype=torch.int32, device=device)))
    return taps


def _box_resized(pixels: Tensor, dimension: int, new: int) -> Tensor:
    """Bytes, as int32, resized along one dimension as Pillow's BOX filter does it, rounding included."""
    size = pixels.shape[dimension]
    if new == size:
        return pixels
    taps = _box_taps(size, new, pixels.device)
    shape = [1] * pixels.ndim
    shape[dimension] = new
    total = None
    for index, weight in taps:
        part = pixels.index_select(dimension, index).mul_(weight.view(shape))
        total = part if total is None else total.add_(part)
    assert total is not None
    return total.add_(1 << (_BITS - 1)).bitwise_right_shift_(_BITS)


PILLOW_PIXELS = 64 * 64  # from here on Pillow, image by image, is faster on the CPU than the taps for a whole batch


def pixelate(images: Tensor, factor: float, seeds: list[int]) -> Tensor:
    """Shrunk to ``factor`` of the sides and back by Pillow's BOX filter; bytes to bytes."""
    height, width = images.shape[-2:]
    small = max(1, int(height * factor)), max(1, int(width * factor))
    if images.device.type == "cpu" and height * width > PILLOW_PIXELS:
        return _boxed_by_pillow(images, small)
    pixels = images.to(torch.int32)  # columns first, then rows, as Pillow does
    shrunk = _box_resized(_box_resized(pixels, 3, small[1]), 2, small[0])
    return _box_resized(_box_resized(shrunk, 3, width), 2, height).to(torch.uint8)


def _boxed_by_pillow(images: Tensor, small: tuple[int, int]) -> Tensor:
    """``(n, 3, h, w)`` bytes, shrunk to ``small`` and back channel by channel; on the way back BOX only repeats pixels."""
    from PIL import Image

    height, width = images.shape[-2:]
    rows, columns = (((np.arange(b) + 0.5) * (a / b)).astype(int) for a, b in zip(small, (height, width), strict=True))
    planes = images.contiguous().numpy().reshape(-1, height, width)
    out = np.empty_like(planes)
    for place, plane in zip(out, planes, strict=True):
        shrunk = Image.frombuffer("L", (width, height), plane, "raw", "L", 0, 1).resize(small[::-1], Image.Resampling.BOX)
        place[:] = np.frombuffer(shrunk.tobytes(), np.uint8).reshape(small).take(columns, 1).take(rows, 0)
    return torch.from_numpy(out).view(images.shape)


JPEG_LARGEST = 65_500  # pixels a side that the format's libraries take


def jpeg_compression(images: Tensor, quality: int, seeds: list[int]) -> Tensor:
    """Coded as JPEG of ``quality`` by Pillow (chroma at half the resolution) and decoded, on the CPU; bytes to bytes."""
    from PIL import JpegImagePlugin

    if max(images.shape[-2:]) > JPEG_LARGEST:
        raise SettingsError(f"JPEG holds at most {JPEG_LARGEST} pixels a side, got {images.shape[-1]}x{images.shape[-2]}")

    def coded(picture: Image) -> Image:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality)
        stream.seek(0)
        return JpegImagePlugin.JpegImageFile(stream)  # Image.open would first look for what it is

    return _through_pillow(images, coded)


def _through_pillow(images: Tensor, change: Callable[[Image], Image]) -> Tensor:
    """``change`` of every image as Pillow's, and back to where the images lie."""
    from PIL import Image as pillow

    pixels = images.cpu().numpy()
    pixels = np.stack([pixels[:, channel] for channel in range(3)], axis=-1)
    out = np.empty_like(pixels)
    size = (images.shape[-1], images.shape[-2])
    for place, image in zip(out, pixels, strict=True):
        changed = change(pillow.frombuffer("RGB", size, image, "raw", "RGB", 0, 1))
        place[:] = np.frombuffer(changed.tobytes(), np.uint8).reshape(place.shape)
    return torch.from_numpy(np.ascontiguousarray(out.transpose(0, 3, 1, 2))).to(images.device)
