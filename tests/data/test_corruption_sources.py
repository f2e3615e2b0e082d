"""Official files: which twin belongs to which held-out image, what is refused, what is said of their origin."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssa_analysis.data.corruptions import CORRUPTIONS, corrupt, sources
from ssa_analysis.data.corruptions.checksums import CHECKSUMS
from ssa_analysis.data.corruptions.sources import ArrayFolder, ImageTree, Regenerated, open_corruptions
from ssa_analysis.data.datasets import Data, DataSource, load_data, make_data
from ssa_analysis.data.files import RawImages
from ssa_analysis.errors import DataError
from ssa_analysis.numerics.seeding import derive_seed

CPU = torch.device("cpu")
TEST_LABELS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cifar10" / "test_batch.tar"


def official(test_count: int = 30, subset: int | None = None, size: int = 8) -> tuple[Data, Tensor, Tensor]:
    """A data set with official test images; those images and their labels, in their official order."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (100 + test_count, 3, size, size), generator=rng, dtype=torch.uint8)
    labels = torch.arange(len(images)) % 3
    raw = RawImages(labels, ("ape", "bee", "cow"), lambda index: images[index], test_count)
    data = make_data(raw, "made", DataSource("made", load=lambda root, download: raw), subset)
    return data, images[-test_count:] if test_count else images, labels[-test_count:] if test_count else labels


def write_arrays(folder: Path, images: Tensor, labels: Tensor, names: tuple[str, ...] = ("brightness", "fog")) -> Path:
    """CIFAR-10-C's layout: severity s of corruption k adds ``s + 10 k`` to every value, so that a twin tells what it is."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = images.permute(0, 2, 3, 1).numpy() // 2
    for number, name in enumerate(names):
        np.save(folder / f"{name}.npy", np.concatenate([pixels + s + 10 * number for s in range(1, 6)]).astype(np.uint8))
    np.save(folder / "labels.npy", np.tile(labels.numpy(), 5).astype(np.uint8))
    return folder


@pytest.mark.parametrize("subset", [None, 60])
def test_arrays_give_every_held_out_image_its_own_twin(subset: int | None, tmp_path: Path) -> None:
    data, images, labels = official(subset=subset)
    folder = write_arrays(tmp_path / "made-c", images, labels)
    for given in (folder, tmp_path):  # the folder above it will do
        twins = open_corruptions(given, data)
        assert isinstance(twins, ArrayFolder)
        assert twins.names == ("fog", "brightness")  # in the usual order
        held_out = data.images_of("held-out")
        assert len(twins.known) == len(held_out) == (30 if subset is None else 14)
        at = twins.known.flip(0)[:5]
        for number, name in enumerate(("brightness", "fog")):
            for severity in (1, 5):
                expected = held_out[at] // 2 + severity + 10 * number
                assert torch.equal(twins.batch(name, severity, at, CPU), expected)


def test_arrays_are_mapped_and_not_read_into_memory(tmp_path: Path) -> None:
    data, images, labels = official()
    twins = open_corruptions(write_arrays(tmp_path, images, labels), data)
    assert isinstance(twins, ArrayFolder)
    assert all(isinstance(array, np.memmap) for array in twins.arrays.values())


def test_without_official_test_images_places_are_those_of_the_whole_file(tmp_path: Path) -> None:
    data, images, labels = official(test_count=0)
    twins = open_corruptions(write_arrays(tmp_path, images, labels), data)
    assert len(twins.known) == len(data.labels_of("held-out")) < 60
    assert torch.equal(twins.batch("brightness", 2, twins.known, CPU), data.images_of("held-out") // 2 + 2)


def test_twins_of_another_size_are_resized(tmp_path: Path) -> None:
    data, images, labels = official(size=16)
    small = torch.nn.functional.interpolate(images.float(), (8, 8), mode="area").to(torch.uint8)
    twins = open_corruptions(write_arrays(tmp_path, small, labels), data)
    assert twins.batch("fog", 1, twins.known[:3], CPU).shape == (3, 3, 16, 16)


def test_another_order_another_data_set_and_other_shapes_are_refused(tmp_path: Path) -> None:
    data, images, labels = official()
    with pytest.raises(DataError, match=r"labels\.npy: not the labels of made \(severity 1: 20 of 30 differ\)"):
        open_corruptions(write_arrays(tmp_path / "a", images, (labels + torch.tensor([1, 0, 2] * 10)) % 3), data)
    order = torch.arange(30).view(10, 3).flip(0).reshape(-1)  # the same labels, other images
    with pytest.raises(DataError, match="its images are not those of made"):
        open_corruptions(write_arrays(tmp_path / "b", images[order], labels), data)
    with pytest.raises(DataError, match="27 images a severity, but made has 30 test images"):
        open_corruptions(write_arrays(tmp_path / "c", images[:27], labels[:27]), data)
    folder = write_arrays(tmp_path / "d", images, labels)
    np.save(folder / "fog.npy", np.zeros((150, 8, 8, 3), np.float32))
    with pytest.raises(DataError, match=r"fog\.npy: must be \(150, h, w, 3\) uint8, got \(150, 8, 8, 3\) float32"):
        open_corruptions(folder, data)
    np.save(folder / "labels.npy", np.zeros(149, np.uint8))
    with pytest.raises(DataError, match=r"labels\.npy: must hold 5 N integers"):
        open_corruptions(folder, data)


def test_a_class_number_outside_the_data_set_is_refused(tmp_path: Path) -> None:
    data, images, labels = official()
    with pytest.raises(DataError, match="30 of 30 differ"):
        open_corruptions(write_arrays(tmp_path, images, labels + 7), data)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00garbage", b"PK\x03\x04"])
def test_damaged_arrays_are_said(content: bytes, tmp_path: Path) -> None:
    data, images, labels = official()
    folder = write_arrays(tmp_path, images, labels)
    (folder / "fog.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"fog\.npy: not a readable \.npy file"):
        open_corruptions(folder, data)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    data, images, labels = official()
    folder = write_arrays(tmp_path, images, labels)
    np.save(folder / "labels.npy", np.array([{"a": 1}] * 150, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"labels\.npy: not a readable \.npy file"):
        open_corruptions(folder, data)


def test_what_is_no_folder_of_corruptions_is_said(tmp_path: Path) -> None:
    data, _, labels = official()
    with pytest.raises(DataError, match="no such folder"):
        open_corruptions(tmp_path / "absent", data)
    with pytest.raises(DataError, match=r"neither CIFAR-10-C's files .* nor an ImageNet-C tree"):
        open_corruptions(tmp_path, data)
    np.save(tmp_path / "labels.npy", np.tile(labels.numpy(), 5))
    with pytest.raises(DataError, match=r"no CORRUPTION\.npy"):
        open_corruptions(tmp_path, data)
    nameless = dataclasses.replace(data, provenance=None)
    with pytest.raises(DataError, match="where its images stand in their source is not known"):
        open_corruptions(write_arrays(tmp_path, *official()[1:]), nameless)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_checksums_say_what_is_official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, images, labels = official()
    folder = write_arrays(tmp_path, images, labels)
    twins = open_corruptions(folder, data)
    assert (twins.origin, twins.mark) == (f"files in {folder.name}, unverified", "unverified files")
    sums = {path.stem: md5(path) for path in folder.glob("*.npy")}
    monkeypatch.setitem(sources.CHECKSUMS, "MADE-C", sums)
    twins = open_corruptions(folder, data)
    assert (twins.origin, twins.mark) == ("official MADE-C (checksums agree)", "")
    array = np.load(folder / "fog.npy")
    np.save(folder / "fog.npy", array + 1)
    twins = open_corruptions(folder, data)
    assert (twins.origin, twins.mark) == (
        "MADE-C, but not its official fog (checksums differ)",
        "not the official MADE-C",
    )


def test_checksums_are_known_for_every_corruption() -> None:
    for sums in CHECKSUMS.values():
        assert set(sums) == {"labels", *CORRUPTIONS}
        assert all(len(value) == 32 and set(value) <= set("0123456789abcdef") for value in sums.values())
        assert len(set(sums.values())) == 20


@pytest.mark.skipif(not TEST_LABELS.is_file(), reason=f"no real CIFAR-10 labels at {TEST_LABELS}")
def test_the_checksum_of_cifar10_c_s_labels_is_that_of_the_official_test_labels(tmp_path: Path) -> None:
    """Five times the official labels, as numpy writes them: the one official file that can be made again."""
    with tarfile.open(TEST_LABELS) as tar:
        stream = next(tar.extractfile(member) for member in tar.getmembers() if member.name.endswith("labels.npy"))
        assert stream is not None
        labels = np.load(io.BytesIO(stream.read()))
    np.save(tmp_path / "labels.npy", np.tile(labels.astype(np.uint8), 5))
    assert md5(tmp_path / "labels.npy") == CHECKSUMS["CIFAR-10-C"]["labels"]


def write_tree(root: Path, clean: Path, names: dict[str, Path], skip: str = "") -> None:
    """ImageNet-C's layout: the twin of an image is it, brightened by 10 times the severity, as JPEG."""
    for name, base in names.items():
        for severity in range(1, 6):
            for path in clean.rglob("*.png"):
                if path.stem == skip:
                    continue
                folder = root / base / name / str(severity) / path.relative_to(clean).parts[0]
                folder.mkdir(parents=True, exist_ok=True)
                pixels = np.asarray(Image.open(path).convert("RGB")).astype(int) // 4 + 10 * severity
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{path.stem}.JPEG", quality=100, subsampling=0)


@pytest.mark.parametrize("base", ["", "weather"])
def test_a_tree_gives_held_out_images_their_twins_by_class_and_name(base: str, tmp_path: Path, image_tree: Path) -> None:
    data = load_data(str(image_tree))
    assert data.provenance is not None
    held_out = [data.provenance.names[k] for k in data.index_of("held-out").tolist()]
    lost = held_out[4].split("/")[1]
    write_tree(tmp_path, image_tree, {"fog": Path(base), "snow": Path(base)}, skip=lost)
    twins = open_corruptions(tmp_path, data)
    assert isinstance(twins, ImageTree)
    assert twins.names == ("snow", "fog")
    assert not twins.same_frame
    assert "unverified" in twins.origin
    assert twins.known.tolist() == [k for k in range(len(held_out)) if k != 4]
    at = twins.known[[6, 2]]
    for severity in (1, 4):
        got = twins.batch("fog", severity, at, CPU)
        expected = data.images_of("held-out")[at] // 4 + 10 * severity
        assert (got.int() - expected.int()).abs().double().mean() < 2  # JPEG


def test_a_tree_that_does_not_fit_is_refused(tmp_path: Path, image_tree: Path) -> None:
    data = load_data(str(image_tree))
    (tmp_path / "fog" / "1" / "class-9").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "fog" / "1" / "class-9" / "other.JPEG")
    with pytest.raises(
        DataError, match=r"no held-out image of tree has a twin in fog/1 \(images there: class-9/other; here: class-"
    ):
        open_corruptions(tmp_path, data)
    with pytest.raises(DataError, match="goes by file names"):
        open_corruptions(tmp_path, official()[0])
    write_tree(tmp_path, image_tree, {"fog": Path()})
    for path in sorted((tmp_path / "fog" / "3").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "fog" / "3").rmdir()
    with pytest.raises(DataError, match=r"fog/3 is missing \(1 such folders\)"):
        open_corruptions(tmp_path, data)


def test_what_is_made_here_goes_by_the_seed_and_the_image_s_place() -> None:
    data, _, _ = official(size=32)
    twins = Regenerated(data, seed=3)
    assert twins.mark == "regenerated"
    assert "procedural_frost" in twins.names
    assert twins.about == {"constants": "CIFAR-10-C's (32 px)", "frost": "procedural texture"}
    at = torch.tensor([7, 2])
    got = twins.batch("gaussian_noise", 4, at, CPU)
    seeds = [derive_seed(3, "gaussian_noise", 4, k) for k in (7, 2)]
    assert torch.equal(got, corrupt(data.images_of("held-out")[at], "gaussian_noise", 4, seeds))
    assert torch.equal(got[1:], twins.batch("gaussian_noise", 4, at[1:], CPU))
    assert not torch.equal(got, Regenerated(data, seed=4).batch("gaussian_noise", 4, at, CPU))
