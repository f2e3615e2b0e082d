"""Tiles of the contact sheet: each is what its title says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from ssa_analysis.data.fourier import FourierSettings
from ssa_analysis.data.sheet import view_tiles
from ssa_analysis.data.views import RECIPES, ViewRecipe

IMAGES = torch.randint(60, 196, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
NONE = RECIPES["none"]


def tile(tiles: pd.DataFrame, row: int, column: str) -> np.ndarray:
    (found,) = tiles[(tiles["row"] == row) & (tiles["column"] == column)]["pixels"]
    return np.asarray(found)


def test_a_row_an_image_and_a_column_a_kind() -> None:
    tiles = view_tiles(IMAGES, RECIPES["simclr"], rows=3, views=2)
    assert list(dict.fromkeys(tiles["column"])) == [
        "original", "view 1", "view 2", "its amplitude", "its phase", "Fourier mix", "amplitude of mix", "phase of mix",
        "Fourier view 1", "Fourier view 2",
    ]  # fmt: skip
    assert tiles.groupby("column").size().eq(3).all()
    assert all(p.shape == (16, 16, 3) and p.dtype == np.uint8 for p in tiles["pixels"])
    for row in range(3):
        assert (tile(tiles, row, "original") == IMAGES[row].permute(1, 2, 0).numpy()).all()
        assert (tile(tiles, row, "view 1") != tile(tiles, row, "view 2")).any()


def test_without_augmentations_a_view_is_the_image_and_a_fourier_view_the_mix() -> None:
    tiles = view_tiles(IMAGES, NONE, views=1)
    assert (tile(tiles, 0, "view 1") == tile(tiles, 0, "original")).all()
    assert np.abs(tile(tiles, 0, "Fourier view 1").astype(int) - tile(tiles, 0, "Fourier mix")).max() <= 1
    assert np.abs(tile(tiles, 0, "Fourier mix").astype(int) - tile(tiles, 0, "original")).max() > 5


def test_the_mix_has_another_amplitude_and_its_own_phase() -> None:
    """Where nothing is clipped; phases of near zero amplitude are left out."""
    calm = (IMAGES.float() * 0.1 + 110).byte()  # far from black and white
    grey = calm[:, :1].expand(-1, 3, -1, -1)  # of one channel, so that brightness mixes like the channels
    tiles = view_tiles(grey, ViewRecipe(**{**NONE.to_dict(), "fourier": FourierSettings(swap=True)}), views=1)
    phase, mixed = (tile(tiles, 1, name).astype(int)[..., 0] for name in ("its phase", "phase of mix"))
    turned = np.minimum(np.abs(phase - mixed), 255 - np.abs(phase - mixed))
    assert np.median(turned) <= 3
    amplitude, other = (tile(tiles, 1, name).astype(int) for name in ("its amplitude", "amplitude of mix"))
    assert np.abs(amplitude - other).mean() > 5


def test_the_same_seed_gives_the_same_sheet() -> None:
    first, second = (view_tiles(IMAGES, RECIPES["simclr"], seed=4) for _ in range(2))
    other = view_tiles(IMAGES, RECIPES["simclr"], seed=5)
    assert all((a == b).all() for a, b in zip(first["pixels"], second["pixels"], strict=True))
    assert any((a != b).any() for a, b in zip(first["pixels"], other["pixels"], strict=True))


@pytest.mark.parametrize("partner", ["nearest", "class"])
def test_partners_that_are_not_at_hand_are_random_ones(partner: str) -> None:
    recipe = ViewRecipe(**{**NONE.to_dict(), "fourier": FourierSettings(partner=partner)})
    plain = ViewRecipe(**{**NONE.to_dict(), "fourier": FourierSettings()})
    assert (tile(view_tiles(IMAGES, recipe), 0, "Fourier mix") == tile(view_tiles(IMAGES, plain), 0, "Fourier mix")).all()


def test_fewer_images_than_rows() -> None:
    assert sorted(view_tiles(IMAGES[:2], NONE)["row"].unique()) == [0, 1]
