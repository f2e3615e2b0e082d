"""Common corruptions at five severities, batched (Hendrycks and Dietterich 2019).

Seventeen of the nineteen are here; frost, which needs textures, and spatter are not. A mean over them is *not* the
mean corruption error of CIFAR-10-C, and is not called so anywhere. The constants are those of CIFAR-10-C (32 px)
for images up to 64 px and those of ImageNet-C above.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ssa_analysis.data.warps import elastic_transform, gaussian_kernel, glass_blur, motion_blur, zoom_blur
from ssa_analysis.data.weather import fog, snow
from ssa_analysis.errors import SettingsError
from ssa_analysis.numerics.seeding import generator
from ssa_analysis.registry import unknown_name

SEVERITIES = (1, 2, 3, 4, 5)
SMALL_IMAGE = 64  # pixels; up to this size the CIFAR constants apply

# name -> constants by severity, at 32 px and at 224 px
CONSTANTS: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "speckle_noise": ((0.06, 0.10, 0.12, 0.16, 0.20), (0.15, 0.20, 0.35, 0.45, 0.60)),
    "defocus_blur": (
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": (
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": (
        ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
        ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)),
    ),
    # where the magnification stops, and its steps
    "zoom_blur": (
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "gaussian_blur": ((0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6)),
    "snow": (
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "fog": (
        ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
        ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    ),
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "saturate": (
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    ),
    # amplitude, smoothness and spread of the corners, in units of the image's side (the published ones were 244 for 224 px)
    "elastic_transform": (
        ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        tuple(
            (a * 244 / 224, b * 244 / 224, c * 244 / 224)
            for a, b, c in ((2.0, 0.7, 0.1), (2.0, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
        ),
    ),
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}  # fmt: skip


def _noise(shape: torch.Size, seeds: list[int], device: torch.device, draw: str) -> Tensor:
    """Noise of its own seed for each image, drawn on the CPU: the same for any batch size, order or device."""
    make = torch.randn if draw == "normal" else torch.rand
    return torch.stack([make(shape, generator=generator(s, draw)) for s in seeds]).to(device)


def _gaussian_noise(x: Tensor, sigma: float, seeds: list[int]) -> Tensor:
    return x + sigma * _noise(x.shape[1:], seeds, x.device, "normal")


def _speckle_noise(x: Tensor, sigma: float, seeds: list[int]) -> Tensor:
    return x + sigma * x * _noise(x.shape[1:], seeds, x.device, "normal")


def _shot_noise(x: Tensor, photons: float, seeds: list[int]) -> Tensor:
    counts = [torch.poisson(image.cpu() * photons, generator=generator(s, "poisson")) for image, s in zip(x, seeds, strict=True)]
    return torch.stack(counts).to(x.device) / photons


def _impulse_noise(x: Tensor, amount: float, seeds: list[int]) -> Tensor:
    draw = _noise(x.shape[1:], seeds, x.device, "uniform")
    return torch.where(draw < amount / 2, torch.zeros_like(x), torch.where(draw < amount, torch.ones_like(x), x))


def _separable(x: Tensor, kernel: Tensor, mode: str) -> Tensor:
    radius, channels = len(kernel) // 2, x.shape[1]
    weight = kernel.repeat(channels, 1)
    rows = nnf.conv2d(nnf.pad(x, (radius, radius, 0, 0), mode=mode), weight[:, None, None, :], groups=channels)
    return nnf.conv2d(nnf.pad(rows, (0, 0, radius, radius), mode=mode), weight[:, None, :, None], groups=channels)


def _gaussian_blur(x: Tensor, sigma: float, seeds: list[int]) -> Tensor:
    radius = min(int(4 * sigma + 0.5), x.shape[-1] - 1)  # scikit-image's truncation at four sigma
    return _separable(x, gaussian_kernel(sigma, max(1, radius), x), "replicate")


def _defocus_blur(x: Tensor, constants: tuple[float, float], seeds: list[int]) -> Tensor:
    radius, alias = constants
    reach = 8 if radius <= 8 else int(radius)
    grid = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    disk = ((grid[:, None] ** 2 + grid[None, :] ** 2) <= radius**2).to(x.dtype)
    # the disk is smoothed by a small Gaussian, 3 or 5 pixels wide, before use
    smoothed = _separable((disk / disk.sum())[None, None], gaussian_kernel(alias, 1 if radius <= 8 else 2, x), "reflect")
    used = smoothed[0, 0]
    while used.shape[0] > 3 and not used[0].any():  # drop the empty border: small images cannot be padded by it
        used = used[1:-1, 1:-1]
    pad, channels = used.shape[0] // 2, x.shape[1]
    mode = "reflect" if pad < min(x.shape[-2:]) else "replicate"
    return nnf.conv2d(nnf.pad(x, (pad,) * 4, mode=mode), used.expand(channels, 1, -1, -1).contiguous(), groups=channels)


def _to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    import kornia.color

    hue, saturation, value = kornia.color.rgb_to_hsv(x).unbind(1)
    return hue, saturation, value


def _from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    import kornia.color

    rgb: Tensor = kornia.color.hsv_to_rgb(torch.stack([hue, saturation.clamp(0, 1), value.clamp(0, 1)], 1))
    return rgb


def _brightness(x: Tensor, amount: float, seeds: list[int]) -> Tensor:
    hue, saturation, value = _to_hsv(x)
    return _from_hsv(hue, saturation, value + amount)


def _saturate(x: Tensor, constants: tuple[float, float], seeds: list[int]) -> Tensor:
    factor, offset = constants
    hue, saturation, value = _to_hsv(x)
    return _from_hsv(hue, saturation * factor + offset, value)


def _contrast(x: Tensor, factor: float, seeds: list[int]) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * factor + mean


def _pixelate(x: Tensor, factor: float, seeds: list[int]) -> Tensor:
    from PIL import Image
    from torchvision.transforms.v2 import functional as transform

    height, width = x.shape[-2:]
    small = (max(1, int(width * factor)), max(1, int(height * factor)))
    pixels = (x * 255).to(torch.uint8).cpu()
    out = []
    for image in pixels:  # Pillow's BOX filter has no batched twin
        shrunk = transform.to_pil_image(image).resize(small, Image.Resampling.BOX)
        out.append(transform.pil_to_tensor(shrunk.resize((width, height), Image.Resampling.BOX)))
    return torch.stack(out).to(x.device) / 255


def _jpeg(x: Tensor, quality: int, seeds: list[int]) -> Tensor:
    from PIL import Image
    from torchvision.transforms.v2 import functional as transform

    out = []
    for image in (x * 255).to(torch.uint8).cpu():
        stream = io.BytesIO()
        transform.to_pil_image(image).save(stream, "JPEG", quality=quality)
        out.append(transform.pil_to_tensor(Image.open(stream)))
    return torch.stack(out).to(x.device) / 255


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "speckle_noise": _speckle_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "gaussian_blur": _gaussian_blur,
    "snow": snow,
    "fog": fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturate": _saturate,
    "elastic_transform": elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg,
}
CORRUPTIONS = tuple(_FUNCTIONS)


def corrupt(images: Tensor, name: str, severity: int, seeds: list[int]) -> Tensor:
    """Corrupt a batch.

    Args:
        images: ``(n, 3, h, w)`` uint8.
        name: one of ``CORRUPTIONS``. severity: 1 to 5.
        seeds: n of them, one an image (its index in the data set, say): an image gets the same corruption whatever
            the batch it comes in.

    Returns:
        ``(n, 3, h, w)`` uint8, truncated and not rounded, as the reference files were made.

    Raises:
        SettingsError: unknown name or severity, or not one seed for each image.
    """
    if name not in _FUNCTIONS:
        raise unknown_name("corruption", name, list(CORRUPTIONS))
    if severity not in SEVERITIES:
        raise SettingsError(f"a severity is 1 to 5, got {severity}")
    if len(seeds) != len(images):
        raise SettingsError(f"each image needs a seed of its own: {len(images)} images, {len(seeds)} seeds")
    constants = CONSTANTS[name][0 if images.shape[-1] <= SMALL_IMAGE else 1][severity - 1]
    with torch.no_grad():
        corrupted = _FUNCTIONS[name](images.float() / 255, constants, seeds)
    # half a thousandth of a level: 128/255*255 may come out as 127.99999 and would be truncated to 127
    return (corrupted.clamp(0, 1) * 255 + 5e-4).floor().to(torch.uint8)
