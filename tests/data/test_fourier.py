"""Fourier amplitude augmentation: the phase stays, the amplitude mixes, and nothing else happens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssa_analysis.data.fourier import (
    PRESETS,
    FourierSettings,
    choose_partners,
    clipped_share,
    fourier_augment,
    low_frequency_mask,
    mix_amplitude,
)
from ssa_analysis.errors import SettingsError

SIZES = [(8, 8), (9, 9), (8, 11), (7, 10), (1, 6)]


def noise(count: int, height: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(count, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("window", [None, 1, 2])
def test_the_phase_is_kept_and_the_amplitude_is_the_mixture(height: int, width: int, window: int | None) -> None:
    """Against the definition, on the full spectrum of ``fft2`` rather than on the half spectrum the code works on."""
    images, partners = noise(4, height, width, 1), noise(4, height, width, 2)
    lam = torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    before, partner = torch.fft.fft2(images), torch.fft.fft2(partners).abs()
    after = torch.fft.fft2(mix_amplitude(images, partners, lam, window, clip=False))
    ky, kx = torch.fft.fftfreq(height, 1 / height).abs(), torch.fft.fftfreq(width, 1 / width).abs()
    reach = window or max(height, width)
    inside = (ky[:, None] <= reach) & (kx[None, :] <= reach)
    weight = lam.view(-1, 1, 1, 1) * inside
    expected = (1 - weight) * before.abs() + weight * partner
    torch.testing.assert_close(after.abs(), expected, atol=1e-10, rtol=1e-10)
    # angles compared as unit vectors: -pi and pi are the same; noise has no tiny amplitudes to speak of
    assert float(after.abs().min()) > 1e-3
    torch.testing.assert_close(after / after.abs(), before / before.abs(), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_at_lambda_zero_the_image_comes_back_bit_for_bit(height: int, width: int) -> None:
    images = noise(3, height, width, dtype=torch.float32)
    images[0] = 0.0
    images[1, :, 0, 0] = 1.0
    for clip in (True, False):
        assert torch.equal(mix_amplitude(images, images.flip(0), torch.zeros(3), clip=clip), images)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_at_lambda_one_the_amplitude_is_the_partners(height: int, width: int) -> None:
    images, partners = noise(2, height, width, 1), noise(2, height, width, 2)
    mixed = mix_amplitude(images, partners, torch.ones(2, dtype=torch.float64), clip=False)
    torch.testing.assert_close(torch.fft.fft2(mixed).abs(), torch.fft.fft2(partners).abs(), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(mixed.mean((2, 3)), partners.mean((2, 3)))  # frequency zero is the mean


def test_the_window_is_a_square_around_frequency_zero() -> None:
    mask = low_frequency_mask(8, 6, 1)
    assert mask.tolist() == [[row in (0, 1, 7) and column in (0, 1) for column in range(4)] for row in range(8)]
    assert low_frequency_mask(8, 6, None).all()
    assert low_frequency_mask(8, 6, 4).all()


@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
def test_an_image_without_amplitudes_still_gives_a_valid_image(level: float) -> None:
    """A constant image: all amplitudes but one are zero and their phase is undefined; a ratio would divide by zero."""
    images = torch.full((2, 3, 9, 8), level)
    for partners in (noise(2, 9, 8, dtype=torch.float32), torch.zeros_like(images), images):
        for lam in (0.3, 1.0):
            mixed = mix_amplitude(images, partners, torch.full((2,), lam))
            assert torch.isfinite(mixed).all()
            assert 0 <= float(mixed.min()) <= float(mixed.max()) <= 1
    # and as a partner it passes on its mean and takes the texture away
    flattened = mix_amplitude(noise(2, 9, 8, dtype=torch.float32), images, torch.ones(2))
    torch.testing.assert_close(flattened, images, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_augmented_images_are_valid_and_depend_on_the_generator_alone(height: int, width: int) -> None:
    images = noise(12, height, width, dtype=torch.float32).round()  # black and white: mixtures leave [0, 1] before clipping
    settings = FourierSettings()
    first = fourier_augment(images, settings, rng(1))
    assert first.shape == images.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(fourier_augment(images, settings, rng(1)), first)
    assert not torch.equal(fourier_augment(images, settings, rng(2)), first)


def test_lambda_is_uniform_up_to_alpha() -> None:
    """Read off the means: image 0.2, partners 0.2 or 0.8, so a moved mean gives lambda * 0.6."""
    levels = torch.tensor([0.2, 0.8]).repeat(400)
    images = levels.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()
    for alpha in (0.5, 1.0):
        moved = (fourier_augment(images, FourierSettings(alpha), rng(3)).mean((1, 2, 3)) - levels).abs() / 0.6
        lam = moved[moved > 1e-5]  # the others drew a partner of their own level
        assert 330 < len(lam) < 470
        assert float(lam.max()) <= alpha + 1e-5
        # Kolmogorov-Smirnov distance to U(0, alpha); 1.95 / sqrt(n) is the 0.1 % point
        ranks = torch.arange(1, len(lam) + 1) / len(lam)
        assert float((lam.sort().values / alpha - ranks).abs().max()) < 1.95 / len(lam) ** 0.5


def test_batch_partners_are_a_permutation() -> None:
    partner = choose_partners(50, FourierSettings(), rng())
    assert partner.sort().values.tolist() == list(range(50))
    assert not torch.equal(partner, choose_partners(50, FourierSettings(), rng(1)))


def test_class_partners_have_the_same_label_and_reach_the_whole_class() -> None:
    labels = torch.tensor([3, 1, 1, 3, 3, 7] * 20)
    settings = FourierSettings(partner="class")
    draws = torch.stack([choose_partners(120, settings, rng(seed), labels) for seed in range(200)])
    assert torch.equal(labels[draws], labels.expand(200, -1))
    assert set(draws[:, 5].tolist()) == set((labels == 7).nonzero()[:, 0].tolist())


def test_nearest_partners_are_the_nearest_and_never_the_image_itself() -> None:
    features = torch.randn(30, 5, generator=rng(4))
    features[7] = features[3]  # twins are each other's nearest, at distance zero
    partner = choose_partners(30, FourierSettings(partner="nearest"), rng(), features=features)
    for image in range(30):
        distance = [(features[image] - other).norm().item() if k != image else float("inf") for k, other in enumerate(features)]
        assert distance[int(partner[image])] == min(distance)
    assert (int(partner[3]), int(partner[7])) == (7, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -0.1}, r"alpha .* must lie in \[0, 1\], got -0.1"),
        ({"alpha": 1.1}, "got 1.1"),
        ({"alpha": float("nan")}, "got nan"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"partner": "neighbour"}, "one of batch, nearest, class, got 'neighbour'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FourierSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("partner", "missing"), [("nearest", "features"), ("class", "labels")])
def test_partners_say_what_they_need(partner: str, missing: str) -> None:
    with pytest.raises(SettingsError, match=f"'{partner}' needs {missing}"):
        choose_partners(4, FourierSettings(partner=partner), rng())


def test_a_swap_takes_the_whole_amplitude_of_the_partner() -> None:
    images = noise(6, 8, 8)
    mixed = fourier_augment(images, PRESETS["apr"], rng(3))
    partner = choose_partners(6, PRESETS["apr"], rng(3))
    expected = mix_amplitude(images, images[partner], torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(mixed, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("share", "size", "half_width"), [(0.05, 32, 1), (0.05, 224, 11), (0.01, 32, 1), (0.09, 96, 8), (None, 32, None)]
)
def test_the_share_is_the_published_half_width(share: float | None, size: int, half_width: int | None) -> None:
    """FDA's code takes floor(min(h, w) L) on each side of frequency zero."""
    assert FourierSettings(share=share).half_width(size, size + 7) == half_width


def test_presets_differ_as_published() -> None:
    assert PRESETS["fact"] == PRESETS["fourier"] == FourierSettings(alpha=1.0, window=None, swap=False)
    assert PRESETS["fda"].swap
    assert PRESETS["fda"].half_width(32, 32) == 1
    assert PRESETS["apr"].half_width(32, 32) is None


def test_what_would_be_clipped_is_counted() -> None:
    images = noise(40, 8, 8, dtype=torch.float32)
    settings = FourierSettings()
    share = clipped_share(images, settings, rng(1))
    partner = choose_partners(40, settings, generator := rng(1))
    lam = torch.rand(40, generator=generator)
    outside = mix_amplitude(images, images[partner], lam, clip=False)
    assert share == pytest.approx(float(((outside < -1e-3) | (outside > 1 + 1e-3)).float().mean()))
    assert 0 < share < 0.5
    assert clipped_share(images, FourierSettings(alpha=0.0), rng(1)) == 0
    black = torch.zeros(4, 3, 8, 8)
    assert clipped_share(black, settings, rng(0)) == 0


@pytest.mark.parametrize("settings", [{"share": 0.7}, {"share": 0.1, "window": 2}])
def test_a_wrong_share_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="share"):
        FourierSettings(**settings)  # type: ignore[arg-type]
