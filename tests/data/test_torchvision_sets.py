"""Data sets through torchvision: official test images are held out, missing files are named."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets

from ssa_analysis.data import datasets
from ssa_analysis.data.datasets import load_data
from ssa_analysis.errors import DataError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def write_fashion_mnist(root: Path, counts: tuple[int, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random 28-pixel images in the idx files that torchvision reads; it checks only that they exist."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    rng, written = np.random.default_rng(0), {}
    for stem, count in zip(("train", "t10k"), counts, strict=True):
        x, y = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + x.tobytes())
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + y.tobytes())
        written[stem] = (x, y)
    return written


def test_fashion_mnist_holds_out_the_official_test_images(tmp_path: Path) -> None:
    written = write_fashion_mnist(tmp_path, (50, 20))
    data = load_data("fashion-mnist", tmp_path)
    x, y = written["t10k"]
    assert torch.equal(data.images_of("held-out"), torch.from_numpy(x)[:, None].expand(-1, 3, -1, -1))
    assert data.labels_of("held-out").tolist() == y.tolist()
    assert [len(data.images_of(split)) for split in ("train", "probe")] == [40, 10]
    seen = {image[0].numpy().tobytes() for split in ("train", "probe") for image in data.images_of(split)}
    assert seen == {image.tobytes() for image in written["train"][0]}
    assert data.class_names[1] == "Trouser"


def test_a_subset_of_fashion_mnist_keeps_its_held_out_images(tmp_path: Path) -> None:
    written = write_fashion_mnist(tmp_path, (50, 20))
    data = load_data("fashion-mnist", tmp_path, subset=35)
    held_out = {image[0].numpy().tobytes() for image in data.images_of("held-out")}
    assert len(held_out) == 10
    assert held_out <= {image.tobytes() for image in written["t10k"][0]}


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x08", b"not an idx file at all", struct.pack(">II", 2049, 50)])
def test_a_damaged_file_is_no_traceback(tmp_path: Path, content: bytes) -> None:
    write_fashion_mnist(tmp_path, (50, 20))
    (tmp_path / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=r"fashion-mnist: .*FashionMNIST/raw is missing or damaged; .*--data-root"):
        load_data("fashion-mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("stl10", "stl10_binary"),
        ("svhn", "train_32x32.mat and test_32x32.mat"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
def test_missing_files_are_named_with_the_option_that_helps(tmp_path: Path, name: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        load_data(name, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert expected in message
    assert str(tmp_path) in message
    assert message.endswith("--data-root")
    assert not any(tmp_path.iterdir())  # a root is the user's: nothing is downloaded into it


def test_a_download_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(_self: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(datasets, "default_root", lambda: tmp_path)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", offline)
    with pytest.raises(DataError, match=r"could not be downloaded .*no route to host.*--data-root"):
        load_data("cifar10")
    with pytest.raises(DataError, match=f"{re.escape(str(tmp_path))}/cifar-10-batches-py is missing"):
        load_data("cifar10", download=False)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason=f"no real CIFAR-10 images at {SHARED}/cifar10")
def test_real_cifar10(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SHARED / "unpack.py"), str(tmp_path), "cifar10"], check=True)
    data = load_data("cifar10", tmp_path)
    assert [len(data.labels_of(split)) for split in datasets.SPLITS] == [40_000, 10_000, 10_000]
    assert torch.bincount(data.labels_of("held-out")).tolist() == [1000] * 10
    assert torch.bincount(data.labels_of("train")).sub(4000).abs().max() <= 2
    seen = torch.cat([data.images_of("train"), data.images_of("probe")])
    mean = seen.double().mean((0, 2, 3)) / 255
    std = torch.stack([seen[:, c].double().std() for c in range(3)]) / 255
    # the published normalisation constants are those of the 50,000 official training images
    torch.testing.assert_close(mean, torch.tensor(data.mean).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.tensor(data.std).double(), atol=1e-4, rtol=0)
    assert data.class_names[3] == "cat"
