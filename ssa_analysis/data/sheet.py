"""Images beside their views: what a recipe makes of them, and what the Fourier augmentation changes in their spectra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ssa_analysis.data.fourier import FourierSettings, fourier_augment
from ssa_analysis.data.views import ViewRecipe, Views, to_float
from ssa_analysis.numerics.seeding import generator

BATCH = 64  # images of which the first are shown; the others are there as Fourier partners


def view_tiles(
    images: Tensor, recipe: ViewRecipe, *, labels: Tensor | None = None, rows: int = 4, views: int = 3, seed: int = 0
) -> pd.DataFrame:
    """Tiles of a contact sheet: images, their views without and with the Fourier augmentation, amplitudes and phases.

    The Fourier augmentation is the recipe's own, the usual one where it has none. Its partners are images of the same batch
    (where the recipe takes the nearest in feature space, random ones).

    Args:
        images: ``(n, 3, h, w)`` uint8; the first ``rows`` are shown. labels: ``(n,)``, for partners of the same class.
        views: of each kind.

    Returns:
        Columns ``row``, ``column`` (a title) and ``pixels`` (``(h, w, 3)`` uint8). Amplitudes are the centred logarithm of the
        spectrum of the brightness, on one scale a row; phases run from -pi (black) to pi (white).
    """
    fourier = recipe.fourier or FourierSettings()
    if fourier.partner == "nearest" or (fourier.partner == "class" and labels is None):
        fourier = replace(fourier, partner="batch")
    batch = to_float(images[:BATCH])
    known = None if labels is None else labels[:BATCH]
    size = int(images.shape[-1])
    mixed = fourier_augment(batch, fourier, generator(seed, "fourier"), known)
    plain, augmented = Views(replace(recipe, fourier=None), size), Views(replace(recipe, fourier=fourier), size)
    columns: list[tuple[str, list[np.ndarray]]] = [("original", _pictures(batch))]
    columns += [(f"view {k + 1}", _pictures(plain(batch, seed + k))) for k in range(views)]
    spectra = [_spectrum(batch), _spectrum(mixed)]
    low = torch.minimum(*(amplitude.amin((1, 2)) for amplitude, _ in spectra))
    high = torch.maximum(*(amplitude.amax((1, 2)) for amplitude, _ in spectra))
    amplitudes, phases = (
        [_grey((a - low[:, None, None]) / (high - low).clamp(min=1e-9)[:, None, None]) for a, _ in spectra],
        [_grey((p + torch.pi) / (2 * torch.pi)) for _, p in spectra],
    )
    columns += [("its amplitude", amplitudes[0]), ("its phase", phases[0]), ("Fourier mix", _pictures(mixed))]
    columns += [("amplitude of mix", amplitudes[1]), ("phase of mix", phases[1])]
    columns += [(f"Fourier view {k + 1}", _pictures(augmented(batch, seed + k, known))) for k in range(views)]
    tiles = [(row, title, pictures[row]) for row in range(min(rows, len(batch))) for title, pictures in columns]
    return pd.DataFrame(tiles, columns=["row", "column", "pixels"])


def _pictures(pixels: Tensor) -> list[np.ndarray]:
    return list((pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())


def _spectrum(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Centred log-amplitude and phase ``(n, h, w)`` of the brightness."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(pixels.mean(1)), dim=(-2, -1))
    return torch.log1p(spectrum.abs()), spectrum.angle()


def _grey(values: Tensor) -> list[np.ndarray]:
    return _pictures(values[:, None].expand(-1, 3, -1, -1))
