"""The published constants of the corruptions, and what becomes of them between the two published sizes.

Hendrycks and Dietterich (2019) made CIFAR-10-C (32 px) and ImageNet-C (224 px) with constants of their own for each.
:func:`constants_of` gives those at these two sides. In between every constant is interpolated linearly in the logarithm of the
side (whole numbers rounded); below 32 px those of 32 px apply, above 224 px those of 224 px.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

SMALL_SIDE, LARGE_SIDE = 32, 224  # pixels

# name -> constants by severity, at 32 px and at 224 px; what is a whole number at both stays one in between
CONSTANTS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": ((500.0, 250.0, 100.0, 75.0, 50.0), (60.0, 25.0, 12.0, 5.0, 3.0)),
    "impulse_noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "speckle_noise": ((0.06, 0.10, 0.12, 0.16, 0.20), (0.15, 0.20, 0.35, 0.45, 0.60)),
    # radius, width of the Gaussian that smooths the disk
    "defocus_blur": (
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
        ((3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5)),
    ),
    # width of the blur, reach of the copies, how often
    "glass_blur": (
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    # radius, width
    "motion_blur": (
        ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
        ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)),
    ),
    # where the magnification stops, and its steps
    "zoom_blur": (
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "gaussian_blur": ((0.4, 0.6, 0.7, 0.8, 1.0), (1.0, 2.0, 3.0, 4.0, 6.0)),
    # mean and spread of the flakes, magnification, threshold, radius and width of their motion, share of the image kept
    "snow": (
        (
            (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95), (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
        ),
        (
            (0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8), (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7), (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8.0, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
        ),
    ),
    # weights of image and texture, scale of the texture
    "frost": (
        ((1.0, 0.2, 0.2), (1.0, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
        ((1.0, 0.4, 1.0), (0.8, 0.6, 1.0), (0.7, 0.7, 1.0), (0.65, 0.7, 1.0), (0.6, 0.75, 1.0)),
    ),
    # amount, by which the roughness falls from scale to scale
    "fog": (
        ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
        ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    ),
    # mean and spread of the drops, width of their blur, threshold, strength of water or width of mud's blur, 1 for mud
    "spatter": (
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0), (0.65, 0.1, 0.8, 0.7, 0.5, 0), (0.65, 0.3, 1.0, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1), (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        (
            (0.65, 0.3, 4.0, 0.69, 0.6, 0), (0.65, 0.3, 3.0, 0.68, 0.6, 0), (0.65, 0.3, 2.0, 0.68, 0.5, 0),
            (0.65, 0.3, 1.0, 0.65, 1.5, 1), (0.67, 0.4, 1.0, 0.65, 1.5, 1),
        ),
    ),
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "saturate": (
        ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)),
        ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2)),
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
CONSTANTS["procedural_frost"] = CONSTANTS["frost"]


def _between(low: Any, high: Any, share: float) -> Any:
    if share in (0.0, 1.0):
        return high if share else low
    if isinstance(low, tuple):
        return tuple(_between(a, b, share) for a, b in zip(low, high, strict=True))
    value = low + share * (high - low)
    return round(value) if isinstance(low, int) and isinstance(high, int) else value


@cache
def constants_of(name: str, severity: int, side: int) -> Any:
    """Constants of a corruption at a severity of 1 to 5 for images whose shorter side is ``side`` pixels."""
    share = math.log(max(side, SMALL_SIDE) / SMALL_SIDE) / math.log(LARGE_SIDE / SMALL_SIDE)
    small, large = CONSTANTS[name]
    return _between(small[severity - 1], large[severity - 1], min(share, 1.0))


def described(side: int) -> str:
    """Which constants images of this side get, for people."""
    if side <= SMALL_SIDE:
        return f"CIFAR-10-C's ({SMALL_SIDE} px)"
    if side >= LARGE_SIDE:
        return f"ImageNet-C's ({LARGE_SIDE} px)"
    return f"between CIFAR-10-C's ({SMALL_SIDE} px) and ImageNet-C's ({LARGE_SIDE} px), at {side} px"
