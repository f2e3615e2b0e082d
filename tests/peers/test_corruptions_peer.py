"""Corruptions against the `imagecorruptions-imaug` package, with its constants, at 224 px, from the same random draws."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from ssa_analysis.data.corruptions import SEVERITIES, blurs, corrupt, elastic, filters
from ssa_analysis.data.corruptions.frost import load_frost_textures
from ssa_analysis.numerics.seeding import generator

reference = pytest.importorskip("imagecorruptions.corruptions", reason="imagecorruptions-imaug is not installed")
Image = pytest.importorskip("PIL.Image")
SEEDS = [3, 4]


def photos(height: int = 224, width: int = 224) -> Tensor:
    """Waves, an edge and grain: something for every corruption to destroy."""
    rng = torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    a, b, c, phase = torch.rand(4, 2, 3, 1, 1, generator=rng)
    smooth = 0.5 + 0.35 * torch.sin(6 * (a * x + b * y) + 6 * phase) + 0.2 * (x > c)
    grain = 0.05 * torch.randn(2, 3, height, width, generator=rng)
    return ((smooth + grain).clamp(0.02, 0.98) * 255).to(torch.uint8)


def pictures(images: Tensor) -> Iterator[Any]:
    for image in images:
        yield Image.fromarray(image.permute(1, 2, 0).numpy())


def as_bytes(expected: list[Any]) -> np.ndarray:
    return np.stack([np.uint8(np.asarray(e)) for e in expected]).transpose(0, 3, 1, 2).astype(int)


def same(images: Tensor, name: str, severity: int, expected: list[Any], share: float = 0.02) -> None:
    """Within one level everywhere, and different on few pixels: where rounding put a value across a whole number."""
    difference = np.abs(corrupt(images, name, severity, SEEDS).numpy().astype(int) - as_bytes(expected))
    assert difference.max() <= 1
    assert (difference > 0).mean() < share


@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_blur(severity: int) -> None:
    images = photos()
    same(images, "zoom_blur", severity, [reference.zoom_blur(p, severity) for p in pictures(images)])


@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_blur_at_the_same_angles(severity: int) -> None:
    images = photos()
    angles = [90 * float(torch.rand((), generator=generator(s, "angle"))) - 45 for s in SEEDS]
    expected = []
    for picture, angle in zip(pictures(images), angles, strict=True):
        with patch.object(np.random, "uniform", lambda low, high, angle=angle: angle):
            expected.append(reference.motion_blur(picture, severity))
    same(images, "motion_blur", severity, expected, share=0.05)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fog_from_the_same_draws(severity: int) -> None:
    images, expected = photos(), []
    for picture, seed in zip(pictures(images), SEEDS, strict=True):
        draws = iter((2 * torch.rand(256 * 256 - 1, generator=generator(seed, "fog")) - 1).tolist())

        def uniform(low: float, high: float, shape: Any, draws: Iterator[float] = draws) -> np.ndarray:
            return high * np.array([next(draws) for _ in range(int(np.prod(shape)))]).reshape(shape)

        with patch.object(np.random, "uniform", uniform):
            expected.append(reference.fog(picture, severity))
        assert next(draws, None) is None  # all of them, no more and no less
    same(images, "fog", severity, expected)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow_from_the_same_draws(severity: int) -> None:
    images, expected = photos(), []
    for picture, seed in zip(pictures(images), SEEDS, strict=True):
        rng = generator(seed, "snow")
        noise = torch.randn(224, 224, generator=rng).numpy()
        angle = -135 + 90 * float(torch.rand((), generator=rng))
        with (
            patch.object(np.random, "normal", lambda size, loc, scale, noise=noise: loc + scale * noise),
            patch.object(np.random, "uniform", lambda low, high, angle=angle: angle),
        ):
            expected.append(reference.snow(picture, severity))
    same(images, "snow", severity, expected)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_displacement_of_the_elastic_transform(severity: int) -> None:
    """The package has constants of its own and no affine map; with them the displacements are the same."""
    images, expected, most = photos(), [], 224 * 0.005
    alpha = 250 * (0.05, 0.065, 0.085, 0.1, 0.12)[severity - 1] * most
    for picture, seed in zip(pictures(images), SEEDS, strict=True):
        rng = generator(seed, "elastic")
        torch.rand(3, 2, generator=rng, dtype=torch.float64)
        fields = iter((2 * torch.rand(2, 224, 224, generator=rng) - 1).numpy() * most)
        with patch.object(np.random, "uniform", lambda low, high, size, fields=fields: next(fields)):
            expected.append(reference.elastic_transform(picture, severity))
    out = elastic.elastic_transform(images.float() / 255, (alpha / 224, 0.01, 0.0), SEEDS)
    difference = np.abs((out.clamp(0, 1) * 255 + 5e-4).floor().numpy().astype(int) - as_bytes(expected))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize(("height", "width"), [(32, 32), (224, 224)])
def test_the_affine_part_of_the_elastic_transform(height: int, width: int) -> None:
    """OpenCV places pixels on a grid of 1/32: on smooth images that is less than two levels."""
    cv2 = pytest.importorskip("cv2")
    smooth = filters.smoothed(photos(height, width).float() / 255, 2.0, 4.0, "replicate")
    spread = 0.08 * height
    out = elastic.elastic_transform(smooth, (0.0, 0.0, 0.08), SEEDS)
    for image, got, seed in zip(smooth, out, SEEDS, strict=True):
        draw = 2 * torch.rand(3, 2, generator=generator(seed, "elastic"), dtype=torch.float64).numpy() - 1
        centre, reach = np.float32([height, width]) // 2, min(height, width) // 3
        corners = np.float32([centre + reach, [centre[0] + reach, centre[1] - reach], centre - reach])
        matrix = cv2.getAffineTransform(corners, (corners + spread * draw).astype(np.float32))
        picture = image.permute(1, 2, 0).numpy()
        expected = cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        assert np.abs(got.permute(1, 2, 0).numpy() - expected).max() < 2 / 255


@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_blur_destroys_as_much(severity: int) -> None:
    images = photos()
    expected = as_bytes([reference.glass_blur(p, severity, seed=5) for p in pictures(images)])
    out = corrupt(images, "glass_blur", severity, SEEDS).numpy()
    before = images.numpy().astype(int)
    assert np.abs(out - before).mean() == pytest.approx(np.abs(expected - before).mean(), rel=0.01)


@pytest.mark.parametrize(("delta", "iterations"), [(1, 1), (1, 2), (2, 3), (4, 2)])
def test_glass_blur_copies_pixels_as_the_loop_of_the_reference_does(delta: int, iterations: int) -> None:
    """Pixel by pixel, on images whose every pixel is of its own colour, with an exchange that is in effect a copy."""
    height, width = 14, 17
    image = torch.arange(height * width).view(1, 1, height, width).repeat(2, 1, 1, 1).float()
    out = blurs.shuffled(image, delta, iterations, SEEDS)
    for number, seed in enumerate(SEEDS):
        rng, x = generator(seed, "glass"), image[number].permute(1, 2, 0).numpy().copy()
        rows = [h for h in range(height - delta, delta, -1) if h < height]
        columns = [w for w in range(width - delta, delta, -1) if w < width]
        for _ in range(iterations):
            offsets = torch.randint(-delta, delta, (len(rows) * len(columns), 2), generator=rng)
            table = offsets.view(len(rows), len(columns), 2).flip((0, 1)).tolist()
            for h, line in zip(rows, table, strict=True):
                for w, (dx, dy) in zip(columns, line, strict=True):
                    x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
        assert np.array_equal(out[number].permute(1, 2, 0).numpy(), x)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize(
    ("name", "share"),
    [("defocus_blur", 0.05), ("gaussian_blur", 0.01), ("brightness", 0.05), ("contrast", 0.01), ("saturate", 0.1)],
)
def test_corruptions_without_chance(name: str, share: float, severity: int) -> None:
    """Where values fall on whole levels, the reference's truncation goes by its rounding errors."""
    images = photos()
    same(images, name, severity, [getattr(reference, name)(p, severity) for p in pictures(images)], share)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["pixelate", "jpeg_compression"])
def test_codings_bit_for_bit(name: str, severity: int) -> None:
    images = photos()
    expected = as_bytes([getattr(reference, name)(p, severity) for p in pictures(images)])
    assert np.array_equal(corrupt(images, name, severity, SEEDS).numpy(), expected)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["gaussian_noise", "speckle_noise"])
def test_normal_noise_from_the_same_draws(name: str, severity: int) -> None:
    images, expected = photos(), []
    for picture, seed in zip(pictures(images), SEEDS, strict=True):
        noise = torch.randn(3, 224, 224, generator=generator(seed, "normal")).permute(1, 2, 0).numpy()
        with patch.object(np.random, "normal", lambda size, scale, noise=noise: scale * noise):
            expected.append(getattr(reference, name)(picture, severity))
    same(images, name, severity, expected, share=0.01)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["shot_noise", "impulse_noise"])
def test_counts_and_impulses_spread_as_much_at_every_level_of_grey(name: str, severity: int) -> None:
    """Mean and standard deviation at each of eight levels, 150,000 draws each."""
    levels = torch.linspace(10, 245, 8).to(torch.uint8)
    images = levels.view(8, 1, 1, 1).expand(8, 3, 224, 224)
    out = corrupt(images, name, severity, list(range(8))).numpy().astype(float)
    seeded = {"seed": 1} if name == "impulse_noise" else {}
    with patch.object(np.random, "poisson", np.random.default_rng(1).poisson):
        drawn = [getattr(reference, name)(p, severity, **seeded) for p in pictures(images)]
    expected = as_bytes(drawn).astype(float)
    assert out.mean((1, 2, 3)) == pytest.approx(expected.mean((1, 2, 3)), abs=1.2)
    assert out.std((1, 2, 3)) == pytest.approx(expected.std((1, 2, 3)), rel=0.05)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_spatter_from_the_same_draws(severity: int) -> None:
    images, expected = photos(), []
    for picture, seed in zip(pictures(images), SEEDS, strict=True):
        noise = torch.randn(224, 224, generator=generator(seed, "spatter")).numpy()
        with patch.object(np.random, "normal", lambda size, loc, scale, noise=noise: loc + scale * noise):
            expected.append(reference.spatter(picture, severity))
    same(images, "spatter", severity, expected)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_from_the_same_draws(severity: int) -> None:
    """The package enlarges the textures by a tenth and draws from a sixth; without that it is the reference."""
    textures = load_frost_textures(Path(reference.__file__).parent / "frost")
    images, expected = photos(), []
    for picture, seed in zip(pictures(images), SEEDS, strict=True):
        rng = generator(seed, "frost")
        which = int(torch.randint(5, (), generator=rng))
        height, width = textures.images[which].shape[1:]
        draws = iter([which, *(int(torch.randint(n, (), generator=rng)) for n in (height - 224, width - 224))])
        with (
            patch.object(np.random, "randint", lambda *bounds, draws=draws: next(draws)),
            patch.object(reference.cv2, "resize", lambda image, **options: image),
        ):
            expected.append(reference.frost(picture, severity))
    difference = np.abs(corrupt(images, "frost", severity, SEEDS, textures).numpy().astype(int) - as_bytes(expected))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02
