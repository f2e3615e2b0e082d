"""Splits, subsets and fingerprints: no encoder may ever be scored on an image it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as sklearn_digits
from torch import Tensor

from ssa_analysis.data.datasets import SPLIT_SHARES, SPLITS, Data, load_data, make_splits, resize, stratified_parts, subsample
from ssa_analysis.errors import DataError, SettingsError

SUBSETS = (6, 15, 30, 61, 89)


def contents(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.fixture(params=["npz", "tree"])
def source(request: pytest.FixtureRequest, npz_file: Path, image_tree: Path) -> str:
    """The same unique images from an .npz file and from a class-folder tree."""
    return str({"npz": npz_file, "tree": image_tree}[request.param])


def test_splits_are_disjoint_and_cover_every_image(source: str, unique_images: tuple[np.ndarray, np.ndarray]) -> None:
    data = load_data(source)
    parts = [contents(data.images_of(split)) for split in SPLITS]
    everything = contents(torch.from_numpy(unique_images[0]).permute(0, 3, 1, 2).contiguous())
    assert sum(map(len, parts)) == len(everything) == 90
    assert set.union(*parts) == everything
    assert all(abs(len(part) - 90 * share) <= 1 for part, share in zip(parts, SPLIT_SHARES, strict=True))


@pytest.mark.parametrize("subset", SUBSETS)
def test_what_a_subset_holds_out_the_whole_set_holds_out_too(source: str, subset: int) -> None:
    whole, thin = load_data(source), load_data(source, subset=subset)
    for split in SPLITS:
        assert contents(thin.images_of(split)) <= contents(whole.images_of(split))
    assert not contents(whole.images_of("train")) & contents(thin.images_of("held-out"))
    assert not contents(thin.images_of("train")) & contents(whole.images_of("held-out"))


@pytest.mark.parametrize("subset", SUBSETS)
def test_a_subset_has_the_size_asked_for_spread_over_splits_and_classes(source: str, subset: int) -> None:
    data = load_data(source, subset=subset)
    assert len(data.images) == subset
    for split, share in zip(SPLITS, SPLIT_SHARES, strict=True):
        labels = data.labels_of(split)
        assert abs(len(labels) - subset * share) <= 1.5
        # in proportion to the split of the whole set, whose classes are themselves cut to within an image or two
        assert torch.bincount(labels, minlength=3).sub(len(labels) / 3).abs().max() <= 2


def test_images_keep_their_labels(npz_file: Path, unique_images: tuple[np.ndarray, np.ndarray]) -> None:
    label = {image.transpose(2, 0, 1).tobytes(): int(y) for image, y in zip(*unique_images, strict=True)}
    data = load_data(str(npz_file), subset=40)
    assert [label[image.numpy().tobytes()] for image in data.images] == data.labels.tolist()


def test_both_sources_name_the_classes(npz_file: Path, image_tree: Path) -> None:
    assert load_data(str(npz_file)).class_names == ("0", "1", "2")
    assert load_data(str(image_tree)).class_names == ("class-0", "class-1", "class-2")
    assert (load_data(str(npz_file)).name, load_data(str(image_tree)).name) == ("unique", "tree")


@pytest.mark.parametrize("subset", [0, 2])
def test_a_subset_of_less_than_three_is_refused(npz_file: Path, subset: int) -> None:
    with pytest.raises(DataError, match="at least 3 images"):
        load_data(str(npz_file), subset=subset)


def test_a_subset_larger_than_the_set_is_the_set(npz_file: Path) -> None:
    assert load_data(str(npz_file), subset=1000).fingerprint == load_data(str(npz_file)).fingerprint


@pytest.mark.parametrize("shares", [(0.4, 0.3, 0.3), (0.8, 0.2)])
@pytest.mark.parametrize("sizes", [(50, 30, 20), (1,) * 100, (7, 300, 2)])
def test_parts_are_stratified_and_their_totals_right(shares: tuple[float, ...], sizes: tuple[int, ...]) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    parts = stratified_parts(labels, shares)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(labels)))
    for part, share in zip(parts, shares, strict=True):
        assert torch.equal(part, part.sort().values)
        assert abs(len(part) - share * len(labels)) <= 2
        assert torch.bincount(labels[part], minlength=len(sizes)).sub(share * torch.tensor(sizes)).abs().max() <= 2


def test_subsample_keeps_the_classes_in_proportion() -> None:
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([60, 30, 10]))
    chosen = subsample(labels, 20)
    assert torch.bincount(labels[chosen]).tolist() == [12, 6, 2]
    assert len(chosen.unique()) == 20


def test_official_test_images_are_the_held_out_split() -> None:
    labels = torch.arange(100) % 5
    train, probe, held_out = make_splits(labels, test_count=25, subset=None)
    assert held_out.tolist() == list(range(75, 100))
    assert (len(train), len(probe)) == (60, 15)
    assert torch.cat([train, probe]).sort().values.tolist() == list(range(75))
    thin = make_splits(labels, test_count=25, subset=20)
    assert [len(part) for part in thin] == [12, 3, 5]
    assert set(thin[2].tolist()) <= set(held_out.tolist())


def test_fingerprint_changes_with_a_pixel_a_label_and_the_subset(
    tmp_path: Path, npz_file: Path, unique_images: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = (array.copy() for array in unique_images)
    seen = [load_data(str(npz_file)).fingerprint, load_data(str(npz_file), subset=30).fingerprint]
    x[17, 3, 4, 1] ^= 1
    np.savez(tmp_path / "pixel.npz", x=x, y=y)
    seen.append(load_data(str(tmp_path / "pixel.npz")).fingerprint)
    y[5] = (y[5] + 1) % 3
    np.savez(tmp_path / "label.npz", x=x, y=y)
    seen.append(load_data(str(tmp_path / "label.npz")).fingerprint)
    assert len(set(seen)) == 4
    assert load_data(str(npz_file)).fingerprint == seen[0]


def test_digits_are_scikit_learns_in_sixteen_pixels() -> None:
    data, bunch = load_data("digits"), sklearn_digits()
    order = torch.cat(make_splits(torch.from_numpy(bunch.target), 0, None))
    assert tuple(data.images.shape) == (1797, 3, 16, 16)
    assert data.image_size == 16
    assert data.labels.tolist() == bunch.target[order].tolist()
    # bilinear enlargement by two gives every pixel the same weight, so the mean grey level stays (up to rounding)
    before = torch.from_numpy(bunch.images[order].mean((1, 2)) * 255 / 16)
    torch.testing.assert_close(data.images.double().mean((1, 2, 3)), before, atol=0.5, rtol=0)


def test_resize_is_exact_on_constant_images_and_refuses_tiny_sizes() -> None:
    grey = torch.tensor([0, 77, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 9, 9)
    assert torch.equal(resize(grey, 5), grey[..., :5, :5])
    with pytest.raises(SettingsError, match="at least 4"):
        resize(grey, 3)


def with_labels(probe: list[int], held_out: list[int], classes: int) -> Data:
    count = 1 + len(probe) + len(held_out)
    images = torch.zeros(count, 3, 4, 4, dtype=torch.uint8)
    cuts = torch.arange(count).split([1, len(probe), len(held_out)])
    names = tuple(f"kind-{i}" for i in range(classes))
    labels = torch.tensor([0, *probe, *held_out])
    return Data("made-up", images, labels, names, dict(zip(SPLITS, cuts, strict=True)), "none", (0.5,) * 3, (0.5,) * 3, "")


@pytest.mark.parametrize(
    ("probe", "held_out", "message"),
    [
        ([0, 0, 0], [0, 0, 0], "the probe split holds 1 class.*at least two"),
        ([0, 0, 1, 1], [1, 1, 1], "the held-out split holds 1 class"),
        ([0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2], "class 'kind-2' has fewer than 2 images in the probe split"),
        ([0, 0, 1, 1, 2, 2], [0, 0, 1, 1], "class 'kind-2' is in only one"),
    ],
)
def test_require_classes_names_what_is_wrong(probe: list[int], held_out: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        with_labels(probe, held_out, classes=3).require_classes()


def test_require_classes_lets_a_class_that_no_split_holds_pass() -> None:
    data = with_labels([0, 0, 2, 2], [0, 0, 2, 2], classes=3)
    data.require_classes()
    with pytest.raises(DataError, match="fewer than 3"):
        data.require_classes(per_class=3)


def test_an_unknown_split_is_named(npz_file: Path) -> None:
    with pytest.raises(SettingsError, match="unknown split 'heldout'; did you mean held-out"):
        load_data(str(npz_file)).images_of("heldout")


@pytest.mark.parametrize(("typo", "meant"), [("cifar-10", "cifar10"), ("digit", "digits"), ("fashionmnist", "fashion-mnist")])
def test_a_mistyped_name_gets_a_suggestion(typo: str, meant: str) -> None:
    with pytest.raises(DataError, match=rf"unknown dataset '{typo}'; did you mean.*\b{meant}\b"):
        load_data(typo)
