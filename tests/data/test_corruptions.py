"""Corruptions against their closed forms, Pillow, and what a corruption must never depend on: its batch."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssa_analysis.data import corruptions
from ssa_analysis.data.corruptions import COMMON, CORRUPTIONS, EXTRA, FAMILIES, SEVERITIES, corrupt, filters, generated
from ssa_analysis.data.corruptions.constants import CONSTANTS, constants_of, described
from ssa_analysis.data.corruptions.frost import TEXTURE_FILES, FrostTextures, load_frost_textures
from ssa_analysis.data.corruptions.spatter import canny, chamfer_distance, equalised
from ssa_analysis.data.corruptions.weather import plasma, plasma_side
from ssa_analysis.errors import DataError, SettingsError

MADE = generated()  # without textures
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


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("shape", [(32, 32), (8, 8), (1, 16), (16, 1), (1, 1), (7, 12), (96, 96)])
def test_a_corrupted_image_is_an_image_and_a_different_one(name: str, shape: tuple[int, int]) -> None:
    images = photos(3, *shape)
    for severity in SEVERITIES:
        out = corrupt(images, name, severity, [0, 1, 2])
        assert out.shape == images.shape
        assert out.dtype == torch.uint8
        if min(shape) >= 32:
            assert not any(torch.equal(a, b) for a, b in zip(out, images, strict=True))


@pytest.mark.parametrize("name", MADE)
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
    return corruptions._WAYS[name].function(point, CONSTANTS[name][0 if size == 32 else 1][severity - 1], [0])


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", [32, 224])
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
@pytest.mark.parametrize("size", [32, 224])
def test_gaussian_blur_has_its_width_and_keeps_the_light(size: int, severity: int) -> None:
    sigma = float(CONSTANTS["gaussian_blur"][0 if size == 32 else 1][severity - 1])  # type: ignore[arg-type]
    spread = point_spread("gaussian_blur", size, severity)[0, 0]
    assert float(spread.sum()) == pytest.approx(1, abs=1e-6)
    offset = torch.arange(size) - size // 2
    if sigma >= 0.7:  # a sampled Gaussian narrower than that has a smaller variance than the continuous one
        for axis in (0, 1):
            assert float((spread.sum(axis) * offset**2).sum()) == pytest.approx(sigma**2, rel=0.03)
    assert set(levels(corrupt(flat(120, 1, size), "gaussian_blur", severity, [0]))) <= {119, 120}  # truncated


# by the published constants themselves, which do not rise in every part: glass (more copies of a weaker blur), frost (a darker
# image under a stronger texture), elastic (fewer and smaller parts), saturate and spatter (another effect from severity 3 or 4)
NOT_ORDERED = ("glass_blur", "procedural_frost", "elastic_transform", "saturate", "spatter")


@pytest.mark.parametrize("size", [32, 96, 224])
@pytest.mark.parametrize("name", [n for n in MADE if n not in NOT_ORDERED])
def test_distortion_grows_with_severity(name: str, size: int) -> None:
    """At 96 px, between the published sizes, the blocks of ``pixelate`` may fall on the pixels' own grid."""
    if (name, size) == ("pixelate", 96):
        pytest.skip("not steady there: see the docstring")
    side = plasma_side(size, size)
    draws = 2 * torch.rand(18, side * side - 1, generator=torch.Generator().manual_seed(0)) - 1
    clouds = plasma(draws, side, 1.4).view(6, 3, side, side)[..., :size, :size]  # structure of every size, as in photographs
    images, seeds = (clouds * 255).to(torch.uint8), list(range(6))
    distance = [float((corrupt(images, name, s, seeds).float() - images.float()).abs().mean()) for s in SEVERITIES]
    assert all(a < 1.01 * b for a, b in itertools.pairwise(distance)), distance
    assert distance[4] > 1.2 * distance[0] > 0


@pytest.mark.parametrize("name", NOT_ORDERED)
def test_what_does_not_grow_steadily_grows_on_the_whole_or_is_known_to_shrink(name: str) -> None:
    images, seeds = photos(12), list(range(12))
    distance = [float((corrupt(images, name, s, seeds).float() - images.float()).abs().mean()) for s in SEVERITIES]
    assert min(distance) > 0.2
    assert (distance[4] < distance[0]) == (name == "elastic_transform")


@pytest.mark.parametrize("name", MADE)
def test_constants_are_the_published_ones_at_the_two_sizes_and_lie_between_in_between(name: str) -> None:
    def flat_numbers(constants: object) -> list[float]:
        return list(constants) if isinstance(constants, tuple) else [constants]  # type: ignore[list-item]

    for severity in SEVERITIES:
        small, large = (CONSTANTS[name][k][severity - 1] for k in (0, 1))
        for side, expected in ((1, small), (28, small), (32, small), (224, large), (500, large)):
            assert constants_of(name, severity, side) == expected
        middle = flat_numbers(constants_of(name, severity, 85))  # 84.66 is the geometric mean of 32 and 224
        for a, b, c in zip(flat_numbers(small), flat_numbers(large), middle, strict=True):
            if isinstance(a, int) and isinstance(b, int):
                assert c in ((a + b) // 2, -(-(a + b) // 2))
            else:
                assert c == pytest.approx((a + b) / 2, abs=0.003 * abs(b - a) + 1e-12)


def test_the_shorter_side_decides() -> None:
    x = photos(1, 224, 32)
    mean = x.double().mean((2, 3), keepdim=True)
    expected = (x - mean) * 0.75 + mean
    for images, wanted in ((x, expected), (x.mT, expected.mT)):
        assert float((corrupt(images, "contrast", 1, [0]) + 0.5 - wanted).abs().max()) <= 0.502


def test_which_constants_are_said() -> None:
    assert described(28) == described(32) == "CIFAR-10-C's (32 px)"
    assert described(224) == described(300) == "ImageNet-C's (224 px)"
    assert described(96) == "between CIFAR-10-C's (32 px) and ImageNet-C's (224 px), at 96 px"


def test_fifteen_common_corruptions_in_four_families_and_four_extra_ones() -> None:
    assert len(COMMON) == len(set(COMMON)) == 15
    assert [len(names) for names in FAMILIES.values()] == [3, 4, 4, 4]
    assert len({*COMMON, *EXTRA}) == len(CORRUPTIONS) == 19
    assert set(MADE) == {*CORRUPTIONS, "procedural_frost"} - {"frost"}
    assert generated(textures_of(40, 40)) == CORRUPTIONS


@pytest.mark.parametrize("name", MADE)
def test_a_grey_image_is_an_image_of_three_equal_channels(name: str) -> None:
    grey = photos(3)[:, :1]
    assert torch.equal(corrupt(grey, name, 3, [0, 1, 2]), corrupt(grey.expand(-1, 3, -1, -1), name, 3, [0, 1, 2]))


@pytest.mark.parametrize("name", MADE)
def test_large_images_go_other_ways_to_the_same_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the size up to which filters are matrices and, for pixelate, taps: within a level of those; nothing is unchanged."""
    images = photos(1, 600, 520)
    out = corrupt(images, name, 5, [0])
    monkeypatch.setattr(filters, "MATRIX_SIDE", 10_000)
    monkeypatch.setattr(filters, "FFT_KERNEL", 10_000)
    monkeypatch.setattr(corruptions.digital, "PILLOW_PIXELS", 10**9)
    difference = (corrupt(images, name, 5, [0]).int() - out.int()).abs()
    assert int(difference.max()) <= 1
    assert float((difference > 0).double().mean()) < 0.02
    assert float((out.float() - images.float()).abs().mean()) > 0.2


@pytest.mark.parametrize("name", MADE)
def test_the_functions_leave_their_input_alone(name: str) -> None:
    x = photos(2) if name in ("pixelate", "jpeg_compression") else photos(2).float() / 255
    before = x.clone()
    corruptions._WAYS[name].function(x, constants_of(name, 1, 32), [0, 1])
    assert torch.equal(x, before)


@pytest.mark.parametrize("mode", ["replicate", "symmetric", "reflect"])
def test_filters_as_matrices_and_as_convolutions_are_scipy_s(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.ndimage import correlate, correlate1d

    border = {"replicate": "nearest", "symmetric": "reflect", "reflect": "mirror"}[mode]
    x = torch.rand(2, 3, 9, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel = torch.rand(15, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = correlate1d(correlate1d(x.numpy(), kernel.numpy(), 2, mode=border), kernel.numpy(), 3, mode=border)
    np.testing.assert_allclose(filters.separable(x, kernel, mode).numpy(), expected, atol=1e-12)
    monkeypatch.setattr(filters, "MATRIX_SIDE", 0)
    np.testing.assert_allclose(filters.separable(x, kernel, mode).numpy(), expected, atol=1e-12)
    square = torch.rand(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    wanted = correlate(x.numpy(), square.numpy()[None, None], mode=border)
    np.testing.assert_allclose(filters.correlated(x, square, mode).numpy(), wanted, atol=1e-12)
    monkeypatch.setattr(filters, "FFT_KERNEL", 1)
    np.testing.assert_allclose(filters.correlated(x, square, mode).numpy(), wanted, atol=1e-12)


def textures_of(*sizes: int) -> FrostTextures:
    """Five of them, each of one colour that no other has, ``sizes`` high and wide."""
    images = tuple(torch.full((3, *sizes), 40 * k + 20, dtype=torch.uint8) for k in range(5))
    return FrostTextures(images, "test")


@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_adds_a_part_of_one_of_five_textures(severity: int) -> None:
    keep, weight = {1: (1.0, 0.2), 2: (1.0, 0.3), 3: (0.9, 0.4), 4: (0.85, 0.4), 5: (0.75, 0.45)}[severity]
    out = corrupt(flat(60, 200), "frost", severity, list(range(200)), textures_of(200, 300))
    expected = [int(min(keep * 60 + weight * (40 * k + 20), 255) + 1e-3) for k in range(5)]
    assert levels(out) == expected
    counts = [int((out[:, 0, 0, 0] == level).sum()) for level in expected]
    assert min(counts) > 20  # of 200, each of five: 40 with a standard deviation of 5.7


def test_frost_takes_its_textures_at_a_fifth_of_their_size_at_32_pixels_and_whole_at_224() -> None:
    ramp = torch.arange(400).div(400, rounding_mode="floor") + torch.arange(400) // 2
    texture = FrostTextures((ramp.to(torch.uint8).expand(3, 400, 400).contiguous(),) * 5, "ramp")
    for size, step in ((32, 5), (224, 1)):
        constants = constants_of("frost", 1, size)
        out = corrupt(flat(0, 4, size), "frost", 1, [0, 1, 2, 3], texture).double()
        across = (out[..., -1] - out[..., 0]).mean() / constants[1]  # a slope of half a level a pixel of the texture
        assert float(across) == pytest.approx((size - 1) * step / 2, abs=3)


def test_small_textures_are_enlarged_and_images_of_any_shape_covered() -> None:
    for height, width in ((32, 32), (224, 40), (1, 50), (300, 300)):
        out = corrupt(torch.zeros(3, 3, height, width, dtype=torch.uint8), "frost", 5, [0, 1, 2], textures_of(10, 24))
        assert out.shape == (3, 3, height, width)
        assert len(levels(out)) <= 3  # one colour an image: no borders


def test_frost_without_textures_is_refused_and_the_folder_s_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="frost needs the official textures; procedural_frost does without"):
        corrupt(flat(0, 1), "frost", 1, [0])
    for number, name in enumerate(TEXTURE_FILES[:4]):
        Image.new("RGB", (40, 50), (number, 2, 3)).save(tmp_path / name)
    with pytest.raises(DataError, match=r"frost5\.jpg: not a readable frost texture .* must hold frost1\.png, "):
        load_frost_textures(tmp_path)
    Image.new("RGB", (40, 50), (9, 9, 9)).save(tmp_path / TEXTURE_FILES[4])
    loaded = load_frost_textures(tmp_path)
    assert [tuple(t.shape) for t in loaded.images] == [(3, 50, 40)] * 5
    assert [int(t[0, 0, 0]) for t in loaded.images[:3]] == [0, 1, 2]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_procedural_frost_has_the_levels_and_the_spread_of_the_official_textures(severity: int) -> None:
    """Mean levels 0.5 to 0.8 of white, a spread of 0.11 within one, a blue tint: as added to black."""
    weight = constants_of("frost", severity, 32)[1]
    out = corrupt(flat(0, 100), "procedural_frost", severity, list(range(100))).double() / 255 / weight
    means = out.mean((1, 2, 3))
    assert 0.45 < float(means.min()) < 0.55
    assert 0.75 < float(means.max()) < 0.85
    assert float(out.std((2, 3)).mean()) == pytest.approx(0.11, abs=0.02)
    red, _, blue = out.mean((0, 2, 3)).tolist()
    assert blue - red == pytest.approx(0.13, abs=0.02)


def test_chamfer_distance_is_the_shortest_path_of_its_steps() -> None:
    """Against Dijkstra's algorithm on the graph of the steps, with several sources, up to the largest distance."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    height, width = 13, 17
    steps = {(0, 1): 1.0, (1, 1): 1.4, (1, 2): 2.1969}
    rows, columns, lengths = [], [], []
    for y, x in itertools.product(range(height), range(width)):
        for dy, dx in itertools.product((-2, -1, 0, 1, 2), repeat=2):
            length = steps.get(tuple(sorted((abs(dy), abs(dx)))))
            if length and 0 <= y + dy < height and 0 <= x + dx < width:
                rows.append(y * width + x)
                columns.append((y + dy) * width + x + dx)
                lengths.append(length)
    places = np.array([rows, columns], np.int32)  # the only ones that older scipy takes here
    graph = csr_array((lengths, (places[0], places[1])), shape=(height * width,) * 2)
    edges = (
        torch.rand(5, height, width, generator=torch.Generator().manual_seed(0))
        < torch.tensor([0.0, 0.01, 0.02, 0.1, 0.5])[:, None, None]
    )
    out = chamfer_distance(edges, 9.0)
    for mask, got in zip(edges, out, strict=True):
        sources = np.flatnonzero(mask.numpy())
        exact = dijkstra(graph, indices=sources).min(0).reshape(height, width) if len(sources) else np.full((height, width), 9.0)
        np.testing.assert_allclose(got.numpy(), np.minimum(exact, 9.0), atol=1e-5)


def test_the_parts_of_spatter_are_opencv_s() -> None:
    cv2 = pytest.importorskip("cv2")
    levels_ = photos(4, 60, 71)[:, 0].to(torch.int32)
    noisy = (levels_ + 40 * torch.randn(levels_.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 255).to(torch.int32)
    for image, edges in zip(noisy, canny(noisy, 50, 150), strict=True):
        assert np.array_equal(edges.numpy(), cv2.Canny(image.numpy().astype(np.uint8), 50, 150) > 0)
    for image, even in zip(noisy, equalised(noisy.long()), strict=True):
        assert np.array_equal(even.numpy(), cv2.equalizeHist(image.numpy().astype(np.uint8)))
    one_level = torch.full((2, 5, 5), 7)
    assert torch.equal(equalised(one_level), one_level.float())


def test_the_number_of_threads_does_not_matter() -> None:
    images, seeds = photos(6, 48, 48), list(range(6))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append({name: corrupt(images, name, 4, seeds) for name in MADE})
    finally:
        torch.set_num_threads(before)
    assert [name for name in MADE if not torch.equal(results[0][name], results[1][name])] == []


@pytest.mark.parametrize("wrong", [torch.zeros(2, 2, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8), torch.zeros(2, 3, 8, 8)])
def test_what_is_no_batch_of_byte_images_is_refused(wrong: Tensor) -> None:
    with pytest.raises(SettingsError, match=r"images must be \(n, 3, h, w\) or \(n, 1, h, w\) uint8, got"):
        corrupt(wrong, "contrast", 1, [0] * len(wrong))


@pytest.mark.parametrize(("typo", "meant"), [("gausian_noise", "gaussian_noise"), ("jpeg", "jpeg_compression")])
def test_an_unknown_corruption_gets_a_suggestion(typo: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown corruption '{typo}'; (did you mean|known).*{meant}"):
        corrupt(flat(0, 1), typo, 1, [0])


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_severities_are_one_to_five(severity: int) -> None:
    with pytest.raises(SettingsError, match=f"a severity is 1 to 5, got {severity}"):
        corrupt(flat(0, 1), "contrast", severity, [0])


@pytest.mark.parametrize("shape", [(32, 32), (20, 31), (1, 9)])
def test_small_images_are_zoomed_by_a_matrix_to_the_same_end(shape: tuple[int, int]) -> None:
    x = photos(3, *shape).float() / 255
    for severity in SEVERITIES:
        constants = constants_of("zoom_blur", severity, 32)
        direct = corruptions.blurs._zoomed(x, *constants)
        torch.testing.assert_close(corruptions.blurs.zoom_blur(x, constants, []), direct, atol=1e-6, rtol=0)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_by_taps_and_by_pillow_are_the_same(severity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = photos(2, 45, 70)
    by_taps = corrupt(images, "pixelate", severity, [0, 1])
    monkeypatch.setattr(corruptions.digital, "PILLOW_PIXELS", 0)
    assert torch.equal(corrupt(images, "pixelate", severity, [0, 1]), by_taps)
