"""Ideal pairs follow the class frequencies and are never an image with itself; fixed batches are drawn once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from ssa_analysis.data.datasets import Data, load_data
from ssa_analysis.data.fourier import FourierSettings
from ssa_analysis.data.pairs import disjoint_ideal_pairs, fixed_batches, ideal_pairs, practical_pairs
from ssa_analysis.data.views import RECIPES, ViewRecipe, Views, to_float
from ssa_analysis.errors import DataError, SettingsError

SIZES = (50, 30, 2, 1, 17)  # class 3 has one image and so no pair


@pytest.fixture
def labels() -> torch.Tensor:
    rows = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]


@pytest.fixture
def data(npz_file: Path) -> Data:
    return load_data(str(npz_file))


def test_ideal_pairs_are_two_different_images_of_one_class(labels: torch.Tensor) -> None:
    pairs = ideal_pairs(labels, 5000, seed=0)
    assert tuple(pairs.shape) == (5000, 2)
    assert torch.equal(labels[pairs[:, 0]], labels[pairs[:, 1]])
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert 3 not in labels[pairs].unique()


def test_classes_come_by_their_frequency(labels: torch.Tensor) -> None:
    count = 20_000
    seen = torch.bincount(labels[ideal_pairs(labels, count, seed=1)[:, 0]], minlength=5)
    usable = np.array([50, 30, 2, 17])
    assert chisquare(seen[[0, 1, 2, 4]].numpy(), usable / usable.sum() * count).pvalue > 0.001


def test_within_a_class_every_ordered_pair_is_as_likely(labels: torch.Tensor) -> None:
    pairs = ideal_pairs(labels, 60_000, seed=2)
    members = (labels == 4).nonzero()[:, 0].tolist()
    place = {image: k for k, image in enumerate(members)}
    counts = np.zeros((17, 17))
    for first, second in pairs[labels[pairs[:, 0]] == 4].tolist():
        counts[place[first], place[second]] += 1
    off_diagonal = counts[~np.eye(17, dtype=bool)]
    assert chisquare(off_diagonal).pvalue > 0.001


def test_ideal_pairs_depend_on_the_seed_alone(labels: torch.Tensor) -> None:
    assert torch.equal(ideal_pairs(labels, 100, seed=5), ideal_pairs(labels, 100, seed=5))
    assert not torch.equal(ideal_pairs(labels, 100, seed=5), ideal_pairs(labels, 100, seed=6))


def test_without_a_class_of_two_there_are_no_ideal_pairs() -> None:
    with pytest.raises(DataError, match="at least two images"):
        ideal_pairs(torch.arange(5), 10, seed=0)
    assert tuple(disjoint_ideal_pairs(torch.arange(5), seed=0).shape) == (0, 2)


def test_disjoint_pairs_use_no_image_twice_and_leave_at_most_one_of_a_class(labels: torch.Tensor) -> None:
    pairs = disjoint_ideal_pairs(labels, seed=0)
    assert len(pairs) == sum(size // 2 for size in SIZES)
    assert len(pairs.unique()) == pairs.numel()
    assert torch.equal(labels[pairs[:, 0]], labels[pairs[:, 1]])
    # in random order: the classes are mixed, so that any first k pairs are a fair sample
    assert len(labels[pairs[:10, 0]].unique()) >= 2
    assert not torch.equal(pairs, disjoint_ideal_pairs(labels, seed=1))


def test_practical_pairs_are_two_different_views_of_each_image(data: Data) -> None:
    flips = Views(ViewRecipe(crop_low=1.0, flip=0.5, jitter=0.0, gray=0.0), 8)
    first, second = practical_pairs(data.images, flips, seed=0)
    plain = to_float(data.images)
    for view in (first, second):  # each is its own image or its mirror image
        assert ((view == plain).flatten(1).all(1) | (view == plain.flip(-1)).flatten(1).all(1)).all()
    differ = (first != second).flatten(1).any(1).sum()
    assert 25 <= int(differ) <= 65  # independent flips differ for half of the 90
    strong = practical_pairs(data.images, Views(RECIPES["simclr"], 8), seed=0)
    assert (strong[0] != strong[1]).flatten(1).any(1).all()


def plain_views() -> Views:
    return Views(RECIPES["none"], 8)


def test_fixed_batches_are_whole_and_use_no_image_twice(data: Data) -> None:
    """27 or so held-out images: two batches of eight where 20 pairs are asked for, three where more are."""
    for pairs, batches in ((20, 2), (16, 2), (5, 1), (1000, len(data.images_of("held-out")) // 8)):
        drawn = fixed_batches(data, "held-out", plain_views(), pairs, batch=8, seed=0)
        assert [tuple(batch.first.shape) for batch in drawn] == [(8, 3, 8, 8)] * batches
        images = torch.cat([batch.first for batch in drawn])
        held_out = {image.numpy().tobytes() for image in to_float(data.images_of("held-out"))}
        contents = [image.numpy().tobytes() for image in images]
        assert len(set(contents)) == len(contents)
        assert set(contents) <= held_out


def test_fixed_batches_are_the_same_on_every_call(data: Data) -> None:
    views = Views(RECIPES["simclr"], 8)
    first, again, other = (fixed_batches(data, "held-out", views, 16, batch=8, seed=seed) for seed in (3, 3, 4))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a.first, b.first)
        assert torch.equal(a.second, b.second)
        assert not torch.equal(a.first, c.first)
        assert not torch.equal(a.first, a.second)


def flat_images(levels: torch.Tensor, labels: torch.Tensor) -> Data:
    """Constant images of the given grey levels, all in one split: mixing amplitudes then mixes levels, without clipping."""
    images = levels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()
    names = tuple(str(k) for k in range(int(labels.max()) + 1))
    return Data("flat", images, labels, names, {"held-out": torch.arange(len(images))}, "none", (0.5,) * 3, (0.5,) * 3, "")


def fourier_only(partner: str) -> Views:
    return Views(replace(RECIPES["none"], fourier=FourierSettings(partner=partner)), 8)


def test_fixed_batches_hand_on_the_labels_of_their_own_images() -> None:
    """Every class has one grey level, so partners of one's own class change nothing, and all others do."""
    labels = torch.arange(40) % 4
    data = flat_images(40 + 50 * labels, labels)
    for batch in fixed_batches(data, "held-out", fourier_only("class"), 40, batch=10, seed=0):
        levels = batch.first[:, 0, 0, 0] * 255
        torch.testing.assert_close(batch.first, (levels / 255).view(-1, 1, 1, 1).expand_as(batch.first))
        torch.testing.assert_close(levels.sort().values.round(), levels.sort().values, atol=1e-3, rtol=0)
        assert set(levels.round().int().tolist()) <= {40, 90, 140, 190}
    changed = fixed_batches(data, "held-out", fourier_only("batch"), 40, batch=10, seed=0)[0].first[:, 0, 0, 0] * 255
    assert not set(changed.round().int().tolist()) <= {40, 90, 140, 190}


def test_fixed_batches_hand_on_the_features_of_their_own_images() -> None:
    """Feature space pairs level k with level k + 100: a view lies strictly between the two, on its own image's side."""
    low = torch.arange(8) * 10 + 20
    data = flat_images(torch.cat([low, low + 100]), torch.arange(16) % 2)
    features = torch.arange(8.0).repeat(2)[:, None]
    batch = fixed_batches(data, "held-out", fourier_only("nearest"), 16, batch=16, seed=0, features=features)[0]
    plain = fixed_batches(data, "held-out", plain_views(), 16, batch=16, seed=0)[0]
    own = (plain.first[:, 0, 0, 0] * 255).round()
    partner = torch.where(own < 100, own + 100, own - 100)
    share = (batch.first[:, 0, 0, 0] * 255 - own) / (partner - own)
    assert ((share > 0) & (share < 1)).all()  # lambda; with partners mixed up it would leave (0, 1) for some images


def test_too_few_images_or_too_small_a_batch_is_refused(data: Data) -> None:
    with pytest.raises(DataError, match=r"unique: the probe split holds \d+ images, fewer than a batch of 64; lower the batch"):
        fixed_batches(data, "probe", plain_views(), 64, batch=64, seed=0)
    with pytest.raises(SettingsError, match="at least 2 pairs, got 1"):
        fixed_batches(data, "probe", plain_views(), 8, batch=1, seed=0)
