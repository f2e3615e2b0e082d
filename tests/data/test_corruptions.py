"""Corruptions against their closed forms, Pillow, and what a corruption must never depend on: its batch."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssa_analysis.data import corruptions
from ssa_analysis.data.corruptions import CONSTANTS, CORRUPTIONS, SEVERITIES, corrupt
from ssa_analysis.errors import SettingsError

NOISE = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")


def photos(count: int, height: int = 32, width: int = 32) -> Tensor:
    """Smooth coloured images with an edge, so that blur, JPEG and pixelation have something to destroy."""
    rng = torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    a, b, c, phase = torch.rand(4, count, 3, 1, 1, generator=rng)
    smooth = 0.5 + 0.35 * torch.sin(6 * (a * x + b * y) + 6 * phase) + 0.2 * (x > c)
    return (smooth.clamp(0.02, 0.98) * 255).to(torch.uint8)


def flat(level: int, count: int = 8, size: int = 32) -> Tensor:
    return torch.full((count, 3, size, size), level, dtype=torch.uint8)


def levels(images: Tensor) -> list[int]:
    return [int(level) for level in images.unique()]


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(32, 32), (8, 8), (1, 16), (16, 1), (1, 1), (7, 12), (96, 96)])
def test_a_corrupted_image_is_an_image_and_a_different_one(name: str, shape: tuple[int, int]) -> None:
    images = photos(3, *shape)
    for severity in SEVERITIES:
        out = corrupt(images, name, severity, [0, 1, 2])
        assert out.shape == images.shape
        assert out.dtype == torch.uint8
        if min(shape) >= 32:
            assert not any(torch.equal(a, b) for a, b in zip(out, images, strict=True))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_gets_the_same_corruption_in_any_batch_and_order(name: str) -> None:
    images, seeds = photos(6), [40, 41, 42, 43, 44, 45]
    whole = corrupt(images, name, 3, seeds)
    order = [4, 0, 5, 2, 1, 3]
    torch.testing.assert_close(corrupt(images[order], name, 3, [seeds[k] for k in order]), whole[order], atol=0, rtol=0)
    for k in range(6):
        assert torch.equal(corrupt(images[k : k + 1], name, 3, seeds[k : k + 1])[0], whole[k])


@pytest.mark.parametrize("name", NOISE)
def test_noise_depends_on_the_image_s_own_seed(name: str) -> None:
    same = flat(128, 4)
    out = corrupt(same, name, 5, [1, 2, 3, 1])
    assert torch.equal(out[0], out[3])
    assert len({image.numpy().tobytes() for image in out}) == 3
    state = torch.get_rng_state()
    corrupt(same, name, 5, [1, 2, 3, 4])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_and_speckle_noise_have_their_standard_deviations(severity: int) -> None:
    """On a middle grey nothing is clipped at 32 px: 128 is more than four standard deviations from both ends."""
    seeds = list(range(40))
    gaussian = corrupt(flat(128, 40), "gaussian_noise", severity, seeds).double() / 255
    speckle = corrupt(flat(100, 40), "speckle_noise", severity, seeds).double() / 255
    sigma = CONSTANTS["gaussian_noise"][0][severity - 1]
    share = CONSTANTS["speckle_noise"][0][severity - 1]
    # 122,880 draws: the estimate's relative standard error is 0.2 %; levels cut to bytes add next to nothing
    assert float(gaussian.std()) == pytest.approx(sigma, rel=0.015)
    assert float(speckle.std()) == pytest.approx(share * 100 / 255, rel=0.015)
    assert float(gaussian.mean()) == pytest.approx(127.5 / 255, abs=0.002)  # truncated: half a level lower


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_is_a_photon_count(severity: int) -> None:
    photons = float(CONSTANTS["shot_noise"][0][severity - 1])  # type: ignore[arg-type]
    for level in (40, 120):
        out = corrupt(flat(level, 40), "shot_noise", severity, list(range(40))).double() / 255
        value = level / 255
        assert float(out.mean()) == pytest.approx(value - 0.5 / 255, abs=0.003)
        assert float(out.var()) == pytest.approx(value / photons, rel=0.03)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_sets_its_share_of_the_values_to_black_and_white(severity: int) -> None:
    out = corrupt(flat(77, 40), "impulse_noise", severity, list(range(40)))
    amount = float(CONSTANTS["impulse_noise"][0][severity - 1])  # type: ignore[arg-type]
    assert levels(out) == [0, 77, 255]
    for extreme in (0, 255):
        share = (out == extreme).double().mean().item()
        assert share == pytest.approx(amount / 2, abs=4 * (amount / 2 / out.numel()) ** 0.5)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_scales_about_the_mean_of_each_channel(severity: int) -> None:
    images = photos(5)
    factor = float(CONSTANTS["contrast"][0][severity - 1])  # type: ignore[arg-type]
    x = images.numpy().astype(np.float64) / 255
    mean = x.mean((2, 3), keepdims=True)
    expected = np.clip((x - mean) * factor + mean, 0, 1) * 255
    # truncation of a value within rounding of a whole level may fall either way
    np.testing.assert_array_less(np.abs(corrupt(images, "contrast", severity, [0] * 5).numpy() + 0.5 - expected), 0.502)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_adds_to_the_value_and_keeps_hue_and_saturation(severity: int) -> None:
    amount = float(CONSTANTS["brightness"][0][severity - 1])  # type: ignore[arg-type]
    for grey in (0, 50, 128, 250):
        expected = int(min(grey / 255 + amount, 1) * 255 + 5e-4)
        assert levels(corrupt(flat(grey), "brightness", severity, [0] * 8)) == [expected]
    colour = torch.tensor([120, 60, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    value = 120 / 255 + amount  # of hue and saturation fixed all three channels grow in proportion
    expected_colour = (torch.tensor([1.0, 0.5, 0.25]) * min(value, 1) * 255).view(1, 3, 1, 1)
    assert float((corrupt(colour, "brightness", severity, [0]) + 0.5 - expected_colour).abs().max()) <= 0.51


@pytest.mark.parametrize("severity", SEVERITIES)
def test_saturate_scales_the_saturation(severity: int) -> None:
    """Grey has none to scale; a colour keeps its largest channel, and 1 - min/max is the saturation."""
    factor, offset = CONSTANTS["saturate"][0][severity - 1]  # type: ignore[misc]
    if offset == 0:
        assert levels(corrupt(flat(90), "saturate", severity, [0] * 8)) == [90]
    colour = torch.tensor([200, 150, 100], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    out = corrupt(colour, "saturate", severity, [0])[0, :, 0, 0].double()
    assert float(out[0]) == 200
    assert float(1 - out[2] / out[0]) == pytest.approx(min(0.5 * factor + offset, 1), abs=1 / 200)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_is_pillow_s_box_filter_there_and_back(severity: int) -> None:
    images = photos(3, 24, 32)
    factor = float(CONSTANTS["pixelate"][0][severity - 1])  # type: ignore[arg-type]
    out = corrupt(images, "pixelate", severity, [0] * 3)
    for image, got in zip(images, out, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        small = picture.resize((int(32 * factor), int(24 * factor)), Image.Resampling.BOX)
        expected = np.asarray(small.resize((32, 24), Image.Resampling.BOX))
        np.testing.assert_array_equal(got.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_pillow_s(severity: int) -> None:
    images = photos(3)
    out = corrupt(images, "jpeg_compression", severity, [0] * 3)
    for image, got in zip(images, out, strict=True):
        stream = io.BytesIO()
        quality = CONSTANTS["jpeg_compression"][0][severity - 1]
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=quality)
        np.testing.assert_array_equal(got.permute(1, 2, 0).numpy(), np.asarray(Image.open(stream)))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_blur_is_scipy_s(severity: int) -> None:
    from scipy.ndimage import gaussian_filter

    images = photos(2)
    sigma = float(CONSTANTS["gaussian_blur"][0][severity - 1])  # type: ignore[arg-type]
    expected = gaussian_filter(images.numpy() / 255, (0, 0, sigma, sigma), mode="nearest", truncate=4.0) * 255
    np.testing.assert_array_less(np.abs(corrupt(images, "gaussian_blur", severity, [0, 1]).numpy() + 0.5 - expected), 0.502)


def point_spread(name: str, size: int, severity: int) -> Tensor:
    """What becomes of a single white pixel in the middle, in floats: bytes would cut off the faint rim."""
    point = torch.zeros(1, 3, size, size, dtype=torch.float64)
    point[..., size // 2, size // 2] = 1
    return corruptions._FUNCTIONS[name](point, CONSTANTS[name][0 if size <= 64 else 1][severity - 1], [0])


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", [32, 96])
def test_defocus_is_the_reference_s_smoothed_disk(size: int, severity: int) -> None:
    """make_cifar_c.py: a normalised disk on a 17- or (2r+1)-pixel grid, blurred by cv2.GaussianBlur(3 or 5 wide), whose
    border reflects without repeating the edge. A disk that touches the grid's edge does not sum to one after that."""
    radius, alias = CONSTANTS["defocus_blur"][0 if size == 32 else 1][severity - 1]  # type: ignore[misc]
    reach, half = (8, 1) if radius <= 8 else (int(radius), 2)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= radius**2).astype(float)
    padded = np.pad(disk / disk.sum(), half, mode="reflect")
    weight = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * alias**2))
    weight = np.outer(weight, weight) / weight.sum() ** 2
    kernel = np.zeros_like(disk)
    for i in range(2 * half + 1):
        for j in range(2 * half + 1):
            kernel += weight[i, j] * padded[i : i + len(disk), j : j + len(disk)]
    middle = slice(size // 2 - reach, size // 2 + reach + 1)
    spread = point_spread("defocus_blur", size, severity)
    np.testing.assert_allclose(spread[0, 1, middle, middle].numpy(), kernel, atol=1e-6)
    assert float(spread.sum()) == pytest.approx(3 * kernel.sum(), abs=1e-6)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", [32, 96])
def test_gaussian_blur_has_its_width_and_keeps_the_light(size: int, severity: int) -> None:
    sigma = float(CONSTANTS["gaussian_blur"][0 if size == 32 else 1][severity - 1])  # type: ignore[arg-type]
    spread = point_spread("gaussian_blur", size, severity)[0, 0]
    assert float(spread.sum()) == pytest.approx(1, abs=1e-6)
    offset = torch.arange(size) - size // 2
    if sigma >= 0.7:  # a sampled Gaussian narrower than that has a smaller variance than the continuous one
        for axis in (0, 1):
            assert float((spread.sum(axis) * offset**2).sum()) == pytest.approx(sigma**2, rel=0.03)
    assert set(levels(corrupt(flat(120, 1, size), "gaussian_blur", severity, [0]))) <= {119, 120}  # truncated


@pytest.mark.parametrize("size", [32, 80])
@pytest.mark.parametrize("name", [*NOISE, "brightness", "contrast", "jpeg_compression", "gaussian_blur", "defocus_blur"])
def test_distortion_grows_with_severity(name: str, size: int) -> None:
    images = photos(6, size, size)
    distance = [float((corrupt(images, name, s, list(range(6))).float() - images.float()).abs().mean()) for s in SEVERITIES]
    assert all(a < b for a, b in itertools.pairwise(distance)), distance


@pytest.mark.parametrize(("size", "column"), [(64, 0), (65, 1)])
def test_above_64_pixels_the_constants_of_imagenet_c_are_used(size: int, column: int) -> None:
    images = photos(1, size, size)
    x = images.double() / 255
    mean = x.mean((2, 3), keepdim=True)
    expected = ((x - mean) * CONSTANTS["contrast"][column][0] + mean) * 255  # type: ignore[operator]
    assert float((corrupt(images, "contrast", 1, [0]) + 0.5 - expected).abs().max()) <= 0.502
    noisy = corrupt(flat(128, 12, size), "gaussian_noise", 1, list(range(12))).double() / 255
    assert float(noisy.std()) == pytest.approx(CONSTANTS["gaussian_noise"][column][0], rel=0.02)


@pytest.mark.parametrize(("typo", "meant"), [("gausian_noise", "gaussian_noise"), ("jpeg", "jpeg_compression")])
def test_an_unknown_corruption_gets_a_suggestion(typo: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown corruption '{typo}'; (did you mean|known).*{meant}"):
        corrupt(flat(0, 1), typo, 1, [0])


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_severities_are_one_to_five(severity: int) -> None:
    with pytest.raises(SettingsError, match=f"a severity is 1 to 5, got {severity}"):
        corrupt(flat(0, 1), "contrast", severity, [0])
