"""Fourier amplitude augmentation: the part of SSA-CLR that narrows the shift between practical and ideal pairs.

The amplitude spectrum of an image is mixed with that of a partner, the phase is kept (Xu et al. 2021, FACT; Yang
and Soatto 2020, FDA): ``x' = F^-1[((1 - lambda)|X| + lambda |Y|) exp(i arg X)]`` inside a low-frequency window, for each
channel, before normalisation, clipped to [0, 1]. ``PRESETS`` has the published forms under their names.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssa_analysis.errors import SettingsError

PARTNERS = ("batch", "nearest", "class")


@dataclass(frozen=True)
class FourierSettings:
    """Settings of the augmentation.

    Attributes:
        alpha: lambda ~ U(0, alpha) for each image.
        window: integer half-width b >= 1 of the low-frequency window, None for the whole band: frequencies with
            ``|k_y| <= b`` and ``|k_x| <= b`` are mixed.
        swap: lambda = alpha for every image instead.
        share: the half-width as a share of the image's shorter side, at least 1 pixel: FDA's L. Excludes ``window``.
        partner: ``batch`` (random image of the batch), ``nearest`` (in feature space), ``class`` (random image of
            the same class: an oracle, for studies).
    """

    alpha: float = 1.0
    window: int | None = None
    partner: str = "batch"
    swap: bool = False
    share: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise SettingsError(f"alpha of the Fourier augmentation must lie in [0, 1], got {self.alpha}")
        if self.window is not None and self.window < 1:
            raise SettingsError(f"the Fourier window must be at least 1, got {self.window}")
        if self.share is not None and (self.window is not None or not 0 < self.share <= 0.5):
            raise SettingsError(f"the Fourier share must lie in (0, 0.5] and excludes a window, got {self.share}, {self.window}")
        if self.partner not in PARTNERS:
            raise SettingsError(f"the Fourier partner must be one of {', '.join(PARTNERS)}, got {self.partner!r}")

    def half_width(self, height: int, width: int) -> int | None:
        """Half-width of the window in frequencies, None for the whole band."""
        return self.window if self.share is None else max(1, int(self.share * min(height, width)))


PRESETS: dict[str, FourierSettings] = {
    "fourier": FourierSettings(),
    "fact": FourierSettings(),  # mix with U(0, 1) over the whole band (Xu et al. 2021, section 3.1)
    "fda": FourierSettings(swap=True, share=0.05),  # low frequencies swapped; L of 0.01, 0.05 and 0.09 are published
    "apr": FourierSettings(swap=True),  # the whole amplitude swapped (Chen et al. 2021, APR-P)
}


def low_frequency_mask(height: int, width: int, window: int | None, device: torch.device | str = "cpu") -> Tensor:
    """``(height, width // 2 + 1)`` bool mask over the half spectrum of ``rfft2``."""
    ky = torch.fft.fftfreq(height, 1 / height, device=device).abs()
    kx = torch.fft.rfftfreq(width, 1 / width, device=device)
    bound = float("inf") if window is None else window
    mask: Tensor = (ky[:, None] <= bound) & (kx[None, :] <= bound)
    return mask


def mix_amplitude(images: Tensor, partners: Tensor, lam: Tensor, window: int | None = None, clip: bool = True) -> Tensor:
    """Mix amplitude spectra per channel, keep the phase of ``images``.

    Args:
        images, partners: ``(n, c, h, w)`` floats in [0, 1], before normalisation.
        lam: ``(n,)`` weights of the partner; at 0 the image is returned bit for bit.
        clip: clip to [0, 1]; without it the phase is kept exactly.

    Returns:
        ``(n, c, h, w)``.
    """
    height, width = images.shape[-2:]
    spectrum = torch.fft.rfft2(images)
    amplitude = spectrum.abs()
    # |X| may be 0, where a ratio |Y|/|X| has no value; the polar form takes the phase as 0 there
    change = lam.view(-1, 1, 1, 1) * (torch.fft.rfft2(partners).abs() - amplitude)
    change = change * low_frequency_mask(height, width, window, images.device)
    mixed: Tensor = images + torch.fft.irfft2(torch.polar(change.abs(), spectrum.angle()) * change.sign(), s=(height, width))
    return mixed.clamp(0, 1) if clip else mixed


def choose_partners(
    count: int,
    settings: FourierSettings,
    generator: torch.Generator,
    labels: Tensor | None = None,
    features: Tensor | None = None,
) -> Tensor:
    """``(n,)`` index of each image's partner, on the CPU.

    Raises:
        SettingsError: the partner needs ``labels (n,)`` or ``features (n, d)`` and they are not given.
    """
    if settings.partner == "batch":
        return torch.randperm(count, generator=generator)
    if settings.partner == "nearest":
        if features is None:
            raise SettingsError("the Fourier partner 'nearest' needs features of the images")
        distances = torch.cdist(features.cpu(), features.cpu())
        return distances.fill_diagonal_(torch.inf).argmin(1)
    if labels is None:
        raise SettingsError("the Fourier partner 'class' needs labels")
    partner = torch.arange(count)
    for value in torch.unique(labels):
        members = (labels == value).nonzero()[:, 0].cpu()
        partner[members] = members[torch.randint(len(members), (len(members),), generator=generator)]
    return partner


def fourier_augment(
    images: Tensor,
    settings: FourierSettings,
    generator: torch.Generator,
    labels: Tensor | None = None,
    features: Tensor | None = None,
) -> Tensor:
    """Amplitude-mix each image of a batch with its partner.

    Args:
        images: ``(n, c, h, w)`` floats in [0, 1].
        generator: a CPU generator; the same draws on every device.
    """
    partner, lam = _draw(images, settings, generator, labels, features)
    return mix_amplitude(images, images[partner], lam, settings.half_width(*images.shape[-2:]))


def _draw(
    images: Tensor, settings: FourierSettings, generator: torch.Generator, labels: Tensor | None, features: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Partner and lambda of each image."""
    partner = choose_partners(len(images), settings, generator, labels, features).to(images.device)
    lam = (torch.rand(len(images), generator=generator) * settings.alpha).to(images)
    return partner, torch.full_like(lam, settings.alpha) if settings.swap else lam


def clipped_share(
    images: Tensor,
    settings: FourierSettings,
    generator: torch.Generator,
    labels: Tensor | None = None,
    features: Tensor | None = None,
) -> float:
    """Share of the values of ``images (n, c, h, w)`` that the augmentation would clip; arguments of :func:`fourier_augment`.

    Where an image is already black or white, rounding alone puts values a little outside; a thousandth of the range is
    let pass.
    """
    partner, lam = _draw(images, settings, generator, labels, features)
    mixed = mix_amplitude(images, images[partner], lam, settings.half_width(*images.shape[-2:]), clip=False)
    return float(((mixed < -1e-3) | (mixed > 1 + 1e-3)).float().mean())
