"""The user's own files: .npz archives and class folders, good and bad; every error is one line that names the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssa_analysis.data.datasets import load_data
from ssa_analysis.errors import DataError

N = 12
X = np.random.default_rng(3).integers(0, 256, (N, 6, 6, 3), dtype=np.uint8)
Y = np.arange(N) % 2


def save_npz(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize("shape", [(N, 6, 6), (N, 6, 6, 1)])
def test_grey_images_get_three_equal_channels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    grey = X[..., 0]
    data = load_data(save_npz(tmp_path / "grey.npz", x=grey.reshape(shape), y=Y))
    assert tuple(data.images.shape) == (N, 3, 6, 6)
    assert {image[0].numpy().tobytes() for image in data.images} == {image.tobytes() for image in grey}
    assert torch.equal(data.images[:, :1].expand_as(data.images), data.images)


def test_labels_are_renumbered_and_their_names_kept(tmp_path: Path) -> None:
    data = load_data(save_npz(tmp_path / "named.npz", x=X, y=Y * 30 - 7))
    assert data.class_names == ("-7", "23")
    assert sorted(data.labels.tolist()) == sorted(Y.tolist())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": Y, "images": X}, "no array 'x'"),
        ({"x": X.astype(np.float32) / 255, "y": Y}, "x must be .* uint8, got .* float32"),
        ({"x": X.transpose(0, 3, 1, 2), "y": Y}, r"x must be .*, got \(12, 3, 6, 6\)"),
        ({"x": X, "y": Y[:-1]}, r"y must be \(12,\) integers, got \(11,\)"),
        ({"x": X, "y": Y.astype(float)}, "y must be .* integers, got .* float64"),
        ({"x": X, "y": np.array([str(v) for v in Y])}, "y must be .* integers"),
        ({"x": X[:2], "y": Y[:2]}, "2 images are too few: the .* split is empty"),
        ({"x": X[:0], "y": Y[:0]}, "0 images are too few"),
        ({"x": X[:, :4], "y": Y}, "6x4 pixels are not square; pass --image-size"),
    ],
)
def test_a_wrong_npz_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(save_npz(tmp_path / "wrong.npz", **arrays))


def test_images_that_are_not_square_are_resized(tmp_path: Path) -> None:
    """Also where the width is right already and only the height is not."""
    path = save_npz(tmp_path / "wide.npz", x=X[:, :4], y=Y)
    assert tuple(load_data(path, image_size=6).images.shape) == (N, 3, 6, 6)


class Canary:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["x", "y"])
def test_pickled_arrays_are_never_loaded(tmp_path: Path, key: str) -> None:
    arrays: dict[str, np.ndarray] = {"x": X, "y": Y}
    objects = np.empty(1, dtype=object)
    objects[0] = Canary(tmp_path / "canary")
    path = save_npz(tmp_path / "pickled.npz", **{**arrays, key: objects})
    with pytest.raises(DataError, match=r"pickled\.npz: not a readable .npz file of plain arrays"):
        load_data(path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("content", [b"", b"hello\n", b"PK\x03\x04 and then nothing", b"\x93NUMPY\x01\x00"])
def test_what_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.npz: not a readable .npz"):
        load_data(str(path))


def test_a_single_array_under_the_name_of_an_archive_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a\.npz: a single array"):
        load_data(str(tmp_path / "a.npz"))


def test_a_damaged_npz_never_ends_in_a_traceback(tmp_path: Path) -> None:
    """Compressed archives with flipped bytes: either an error for people, or a file whose damage did not matter."""
    np.savez_compressed(tmp_path / "good.npz", x=X // 64, y=Y)
    good, rng, path, refusals = (tmp_path / "good.npz").read_bytes(), np.random.default_rng(0), tmp_path / "bad.npz", []
    for case in range(60):
        damaged = bytearray(good[: rng.integers(1, len(good))] if case % 3 == 0 else good)
        for _ in range(2):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert load_data(str(path)).images.shape == (N, 3, 6, 6)
        except DataError as error:
            refusals.append(str(error))
    assert len(refusals) > 40
    assert all(text.startswith(str(path)) and "\n" not in text for text in refusals)


@pytest.mark.parametrize("name", ["absent.npz", "absent/folder"])
def test_a_missing_path_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: no such f"):
        load_data(str(tmp_path / name))


def test_images_of_mixed_sizes_need_a_size(tmp_path: Path, image_tree: Path) -> None:
    root = tmp_path / "mixed"
    shutil.copytree(image_tree, root)
    for number in range(0, 90, 2):
        for file in root.rglob(f"{number}.png"):
            Image.new("RGB", (20, 12), (200, 30, 40)).save(file)
    with pytest.raises(DataError, match=r"\.png: .* pixels, expected .*; pass --image-size"):
        load_data(str(root))
    data = load_data(str(root), image_size=10)
    assert tuple(data.images.shape) == (90, 3, 10, 10)
    plain = (data.images == torch.tensor([200, 30, 40]).view(1, 3, 1, 1)).flatten(1).all(1)
    assert int(plain.sum()) == 45


def test_resizing_keeps_the_middle_of_an_image(tmp_path: Path) -> None:
    """Twelve columns each of red, green, blue, green: the square middle of 24 columns is half green, half blue."""
    stripes = np.repeat(np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 255, 0]], np.uint8), 12, axis=0)
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(6):
            Image.fromarray(np.broadcast_to(stripes, (24, 48, 3)).copy()).save(tmp_path / label / f"{number}.png")
    image = load_data(str(tmp_path), image_size=24).images[0]
    assert image[:, 0, 0].tolist() == [0, 255, 0]
    assert image[:, 23, 23].tolist() == [0, 0, 255]
    assert int(image[0].sum()) == 0  # no red


def test_an_unreadable_image_is_named(tmp_path: Path, image_tree: Path) -> None:
    root = tmp_path / "broken"
    shutil.copytree(image_tree, root)
    victim = root / "class-0" / "broken.jpg"
    victim.write_bytes(b"\xff\xd8\xff\xe0 no image at all")
    with pytest.raises(DataError, match=r"class-0/broken\.jpg: not a readable image"):
        load_data(str(root))


def test_a_truncated_image_is_named(tmp_path: Path, image_tree: Path) -> None:
    root = tmp_path / "cut"
    shutil.copytree(image_tree, root)
    victim = root / "class-1" / "cut.png"
    whole = next(root.rglob("0.png")).read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"class-1/cut\.png: not a readable image"):
        load_data(str(root))


def test_a_folder_without_images_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images; expected .*/CLASS/IMAGE\.png .* or .*/IMAGE\.png without labels"):
        load_data(str(tmp_path))
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "notes.txt").write_text("not an image")
    with pytest.raises(DataError, match="no images; expected"):
        load_data(str(tmp_path))


def test_hidden_and_empty_folders_are_no_classes(tmp_path: Path, image_tree: Path) -> None:
    root = tmp_path / "tidy"
    shutil.copytree(image_tree, root)
    (root / "aaa-empty").mkdir()
    shutil.copytree(root / "class-0", root / ".cache")
    assert load_data(str(root)).fingerprint == load_data(str(image_tree)).fingerprint
    assert load_data(str(root)).class_names == ("class-0", "class-1", "class-2")


def test_one_class_loads_but_measures_are_told(tmp_path: Path, image_tree: Path) -> None:
    """Training needs no labels; what compares classes says that it cannot."""
    shutil.copytree(image_tree / "class-0", tmp_path / "lonely" / "class-0")
    data = load_data(str(tmp_path / "lonely"))
    assert len(data.images) == 30
    with pytest.raises(DataError, match=r"lonely: the probe split holds 1 class; .* at least two"):
        data.require_classes()


def test_images_without_labels(tmp_path: Path, unique_images: tuple[np.ndarray, np.ndarray]) -> None:
    """An .npz without y and a folder of loose images; what needs labels says so."""
    from PIL import Image

    archive = load_data(save_npz(tmp_path / "bare.npz", x=unique_images[0]))
    loose = tmp_path / "loose"
    loose.mkdir()
    for number, image in enumerate(unique_images[0]):
        Image.fromarray(image).save(loose / f"{number:03d}.png")
    folder = load_data(str(loose))
    for data in (archive, folder):
        assert not data.labelled
        assert data.class_names == ()
        assert data.labels_if_any("held-out") is None
        assert sum(len(index) for index in data.splits.values()) == 90
        with pytest.raises(DataError, match="the images have no labels, which this needs"):
            data.require_classes()
    assert torch.equal(archive.images, folder.images)


def test_loose_images_beside_class_folders_are_left_aside(tmp_path: Path, image_tree: Path) -> None:
    root = tmp_path / "mixed"
    shutil.copytree(image_tree, root)
    shutil.copy(next(root.rglob("*.png")), root / "preview.png")
    assert load_data(str(root)).fingerprint == load_data(str(image_tree)).fingerprint
