"""Further test sets: files of several spellings, classes by place or by name, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ssa_analysis.data.datasets import Data, load_data
from ssa_analysis.data.further_sets import load_further_set
from ssa_analysis.errors import DataError

X = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
Y = np.array([0, 9, 3, 3, 1, 0])


@pytest.mark.parametrize(("images", "labels"), [("x", "y"), ("images", "labels")])
def test_archives_by_our_names_and_by_those_of_cifar_10_2(images: str, labels: str, digits: Data, tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.2.npz", **{images: X, labels: Y})
    loaded = load_further_set(tmp_path / "cifar10.2.npz", digits)
    assert loaded.name == "cifar10.2"
    assert np.array_equal(loaded.images.permute(0, 2, 3, 1).numpy(), X)
    assert loaded.labels.tolist() == Y.tolist()


def test_two_arrays_side_by_side_as_cifar_10_1_has_them(digits: Data, tmp_path: Path) -> None:
    np.save(tmp_path / "cifar10.1_v6_data.npy", X)
    np.save(tmp_path / "cifar10.1_v6_labels.npy", Y.astype(np.int32))
    loaded = load_further_set(tmp_path / "cifar10.1_v6_data.npy", digits)
    assert (loaded.name, loaded.labels.tolist(), len(loaded.images)) == ("cifar10.1_v6", Y.tolist(), 6)
    (tmp_path / "cifar10.1_v6_labels.npy").unlink()
    with pytest.raises(DataError, match=r"cifar10\.1_v6_labels\.npy: not a readable \.npy file"):
        load_further_set(tmp_path / "cifar10.1_v6_data.npy", digits)


def test_class_numbers_are_names_where_the_classes_are_called_by_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "data.npz", x=rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8), y=np.arange(60) % 3 * 5 + 2)
    data = load_data(str(tmp_path / "data.npz"))
    assert data.class_names == ("2", "7", "12")
    np.savez(tmp_path / "more.npz", x=X[:3], y=np.array([12, 2, 7]))
    assert load_further_set(tmp_path / "more.npz", data).labels.tolist() == [2, 0, 1]
    np.savez(tmp_path / "wrong.npz", x=X[:3], y=np.array([0, 1, 2]))
    with pytest.raises(DataError, match="labels 0 to 2 are not all among the 3 classes"):
        load_further_set(tmp_path / "wrong.npz", data)


def test_images_of_another_size_are_resized(digits: Data, tmp_path: Path) -> None:
    np.savez(tmp_path / "large.npz", x=np.repeat(np.repeat(X, 2, 1), 2, 2), y=Y)
    images = load_further_set(tmp_path / "large.npz", digits).images
    assert images.shape == (6, 3, 16, 16)
    assert (images.float() - torch.from_numpy(X).permute(0, 3, 1, 2)).abs().mean() < 40  # antialiased, so not the same


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "a test set needs labels"),
        ({"x": X[:1], "y": Y[:1]}, "at least 2 images, got 1"),
        ({"x": X, "y": Y + 1}, "labels 1 to 10 are not all among the 10 classes"),
        ({"x": X, "y": Y - 1}, "labels -1 to 8 are not all among the 10 classes"),
        ({"x": X, "y": Y.astype(float)}, r"y must be \(6,\) integers"),
        ({"pixels": X, "y": Y}, "no array 'x'"),
        ({"x": X.astype(np.float32), "y": Y}, r"x must be .* uint8"),
    ],
)
def test_what_is_no_test_set_is_refused(arrays: dict[str, np.ndarray], message: str, digits: Data, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_further_set(tmp_path / "set.npz", digits)


def test_an_archive_called_npy_is_no_array(digits: Data, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X)
    (tmp_path / "a.npz").rename(tmp_path / "a_data.npy")
    with pytest.raises(DataError, match="an archive, not a single array"):
        load_further_set(tmp_path / "a_data.npy", digits)
