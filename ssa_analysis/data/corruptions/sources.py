"""Corrupted twins of held-out images, from wherever they come: made here, CIFAR-10-C's arrays, ImageNet-C's tree."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.data.arrays import mapped_array, read_array
from ssa_analysis.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, generated
from ssa_analysis.data.corruptions.checksums import CHECKSUMS
from ssa_analysis.data.corruptions.constants import described
from ssa_analysis.data.corruptions.frost import FrostTextures
from ssa_analysis.data.datasets import Data, resize
from ssa_analysis.data.files import IMAGE_SUFFIXES, as_images, decode
from ssa_analysis.errors import DataError
from ssa_analysis.numerics.seeding import derive_seed

REGENERATED = "regenerated"
LARGEST_SIDE = 1024  # pixels of official images


class CorruptedTwins(Protocol):
    """Corrupted twins of the held-out images of a data set.

    Attributes:
        origin: where they come from, in a few words. mark: what every output must say of them; empty for official files.
        names: of the corruptions. about: what else a score should keep on them.
        known: ``(k,)`` places within the held-out split of the images that have twins.
        same_frame: whether a twin shows what its image shows pixel by pixel, so that the two may be compared.
    """

    origin: str
    mark: str
    names: tuple[str, ...]
    about: dict[str, object]
    known: Tensor
    same_frame: bool

    def batch(self, name: str, severity: int, at: Tensor, device: torch.device) -> Tensor:
        """``(k, 3, h, w)`` uint8 twins of the held-out images at ``at (k,)``."""
        ...


@dataclass
class Regenerated:
    """Made here, batch by batch; an image's twin depends on the seed, the corruption, the severity and the image's place."""

    data: Data
    seed: int
    textures: FrostTextures | None = None
    origin: str = REGENERATED
    mark: str = REGENERATED
    same_frame: bool = True

    def __post_init__(self) -> None:
        self.names = generated(self.textures)
        self.known = torch.arange(len(self.data.index_of("held-out")))
        frost = "procedural texture" if self.textures is None else f"textures of the user ({self.textures.fingerprint})"
        self.about: dict[str, object] = {"constants": described(self.data.image_size), "frost": frost}

    def batch(self, name: str, severity: int, at: Tensor, device: torch.device) -> Tensor:
        """See :class:`CorruptedTwins`."""
        images = self.data.images[self.data.index_of("held-out")[at]].to(device)
        return corrupt(images, name, severity, [derive_seed(self.seed, name, severity, k) for k in at.tolist()], self.textures)


@dataclass
class ArrayFolder:
    """A folder of ``CORRUPTION.npy (5 N, h, w, 3)`` uint8, severities one after the other, and ``labels.npy``: CIFAR-10-C."""

    data: Data
    arrays: dict[str, np.ndarray]  # memory-mapped
    places: Tensor  # (held-out,) row of each held-out image within one severity
    origin: str
    mark: str
    about: dict[str, object]
    same_frame: bool = True

    def __post_init__(self) -> None:
        self.names = tuple(self.arrays)
        self.known = torch.arange(len(self.places))

    def batch(self, name: str, severity: int, at: Tensor, device: torch.device) -> Tensor:
        """See :class:`CorruptedTwins`."""
        array = self.arrays[name]
        rows = (severity - 1) * (len(array) // len(SEVERITIES)) + self.places[at].numpy()
        images = as_images(np.ascontiguousarray(array[rows]), Path(name))
        side = self.data.image_size
        return (images if images.shape[-2:] == (side, side) else resize(images, side)).to(device)


@dataclass
class ImageTree:
    """``CORRUPTION/SEVERITY/CLASS/IMAGE.JPEG``, perhaps below a folder for each family: ImageNet-C as its archives unpack.

    Its images were cut out of the validation images in a way of their own, so that they are not compared pixel by pixel.
    """

    data: Data
    folders: dict[str, Path]
    files: list[str]  # (held-out,) CLASS/NAME.SUFFIX; empty where there is no twin
    origin: str = "ImageNet-C tree, unverified"
    mark: str = ""
    about: dict[str, object] = field(default_factory=dict)
    same_frame: bool = False

    def __post_init__(self) -> None:
        self.names = tuple(self.folders)
        self.known = torch.tensor([k for k, file in enumerate(self.files) if file], dtype=torch.int64)

    def batch(self, name: str, severity: int, at: Tensor, device: torch.device) -> Tensor:
        """See :class:`CorruptedTwins`."""
        folder = self.folders[name] / str(severity)
        return decode([folder / self.files[k] for k in at.tolist()], self.data.image_size).to(device)


def open_corruptions(folder: Path, data: Data) -> CorruptedTwins:
    """The corrupted twins of a data set's held-out images in a folder of official files.

    Raises:
        DataError: no such folder, files of another shape, or files that do not belong to the data set.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; --corruptions names a CIFAR-10-C folder or an ImageNet-C tree")
    for inner in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        if (inner / "labels.npy").is_file():
            return _open_arrays(inner, data)
    folders = _tree_folders(folder)
    if folders:
        return _open_tree(folder, folders, data)
    raise DataError(
        f"{folder}: neither CIFAR-10-C's files (CORRUPTION.npy and labels.npy) nor an ImageNet-C tree "
        f"(CORRUPTION/SEVERITY/CLASS/IMAGE.JPEG); corruptions are called {', '.join(CORRUPTIONS[:4])}, ..."
    )


@lru_cache(maxsize=64)
def _md5(path: Path, size: int, changed: int) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


LARGEST_OFFICIAL = 153_600_128  # bytes of a file of CIFAR-10-C


def _checksum(path: Path) -> str:
    """MD5 of a file; empty for one that is larger than any official one, whatever its bytes are."""
    about = path.stat()
    if about.st_size > LARGEST_OFFICIAL:
        return ""
    return _md5(path, about.st_size, about.st_mtime_ns)


def _open_arrays(folder: Path, data: Data) -> ArrayFolder:
    labels = read_array(folder / "labels.npy")
    if labels.ndim != 1 or len(labels) % len(SEVERITIES) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{folder / 'labels.npy'}: must hold 5 N integers, N of each severity, got {labels.shape} {labels.dtype}")
    count = len(labels) // len(SEVERITIES)
    arrays = {name: mapped_array(folder / f"{name}.npy") for name in CORRUPTIONS if (folder / f"{name}.npy").is_file()}
    if not arrays:
        raise DataError(f"{folder}: no CORRUPTION.npy; they are called {', '.join(CORRUPTIONS[:4])}, ...")
    for name, array in arrays.items():
        if array.ndim != 4 or array.shape[0] != len(labels) or array.shape[-1] != 3 or array.dtype != np.uint8:
            raise DataError(f"{folder / name}.npy: must be ({len(labels)}, h, w, 3) uint8, got {array.shape} {array.dtype}")
        if not 1 <= min(array.shape[1:3]) <= max(array.shape[1:3]) <= LARGEST_SIDE:
            raise DataError(f"{folder / name}.npy: images of {array.shape[2]}x{array.shape[1]} pixels, more than {LARGEST_SIDE}")
    places = _places(folder, data, count)
    _same_labels(folder, data, np.asarray(labels), places, count)
    origin, mark = _verified(folder, tuple(arrays))
    twins = ArrayFolder(data, arrays, places, origin, mark, {"folder": str(folder)})
    _same_images(folder, twins)
    return twins


def _places(folder: Path, data: Data, count: int) -> Tensor:
    source = data.provenance
    if source is None:
        raise DataError(f"{data.name}: where its images stand in their source is not known, so {folder} cannot be matched to it")
    index = source.index[data.index_of("held-out")]
    if source.test_count:
        if count != source.test_count:
            raise DataError(f"{folder}: {count} images a severity, but {data.name} has {source.test_count} test images")
        return index - (source.total - source.test_count)
    if count != source.total:
        raise DataError(f"{folder}: {count} images a severity, but {data.name} has {source.total} images")
    return index


def _same_labels(folder: Path, data: Data, labels: np.ndarray, places: Tensor, count: int) -> None:
    if not data.labelled:
        return
    expected = data.labels_of("held-out")
    for severity in range(len(SEVERITIES)):
        got = data.classes_of(labels[severity * count + places.numpy()])
        differ = len(expected) if got is None else int((got != expected).sum())
        if differ:
            raise DataError(
                f"{folder / 'labels.npy'}: not the labels of {data.name} (severity {severity + 1}: {differ} of {len(expected)} "
                "differ); these are corruptions of another data set, or in another order"
            )


def _verified(folder: Path, names: tuple[str, ...]) -> tuple[str, str]:
    """Where the files come from by their checksums, and what to say of them in every output."""
    labels = _checksum(folder / "labels.npy")
    known = next((title for title, sums in CHECKSUMS.items() if sums["labels"] == labels), None)
    if known is None:
        return f"files in {folder.name}, unverified", "unverified files"
    foreign = [name for name in names if _checksum(folder / f"{name}.npy") != CHECKSUMS[known][name]]
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        return f"{known}, but not its official {', '.join(foreign[:3])}{more} (checksums differ)", f"not the official {known}"
    return f"official {known} (checksums agree)", ""


CHECKED_IMAGES = 100  # images whose twins are compared with them before any file is trusted


def _same_images(folder: Path, twins: ArrayFolder) -> None:
    """DataError where the mildest corruption of an image is not nearer to it than that of another image."""
    at = twins.known[:CHECKED_IMAGES]
    name = next((n for n in ("brightness", "jpeg_compression", "pixelate") if n in twins.names), twins.names[0])
    own, twin = (
        x.double().flatten(1)
        for x in (twins.data.images[twins.data.index_of("held-out")[at]], twins.batch(name, 1, at, torch.device("cpu")))
    )
    own, twin = (torch.nn.functional.normalize(x - x.mean(1, keepdim=True), dim=1) for x in (own, twin))
    likeness = own @ twin.T
    matched = (likeness.diagonal() >= likeness.amax(1) - 1e-6).double().mean()
    if matched < 0.8:
        raise DataError(
            f"{folder}: its images are not those of {twins.data.name} (of {name}, severity 1, only {matched:.0%} look most like "
            "the image at their place)"
        )


def _tree_folders(folder: Path) -> dict[str, Path]:
    """Corruption -> folder with a folder ``1`` in it; directly below, or below a folder for each family."""
    inner = [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]
    found = {name: base / name for base in reversed(inner) for name in CORRUPTIONS if (base / name / "1").is_dir()}
    return {name: found[name] for name in CORRUPTIONS if name in found}


def _open_tree(folder: Path, folders: dict[str, Path], data: Data) -> ImageTree:
    source = data.provenance
    if source is None or not source.names:
        raise DataError(f"{folder}: an ImageNet-C tree goes by file names; give the data set as a folder of class folders")
    name, first = next(iter(folders.items()))
    twins = {
        f"{path.parent.name}/{path.stem}": f"{path.parent.name}/{path.name}"
        for path in (first / "1").glob("*/*")
        if path.suffix.lower() in IMAGE_SUFFIXES
    }
    files = [twins.get(source.names[k], "") for k in data.index_of("held-out").tolist()]
    if not any(files):
        example = next(iter(twins), "no image at all")
        raise DataError(
            f"{folder}: no held-out image of {data.name} has a twin in {name}/1 (images there: {example}; here: "
            f"{source.names[0]}); class folders and file names must agree"
        )
    missing = [f"{n}/{s}" for n, base in folders.items() for s in SEVERITIES if not (base / str(s)).is_dir()]
    if missing:
        raise DataError(f"{folder}: {missing[0]} is missing ({len(missing)} such folders)")
    return ImageTree(data, folders, files, about={"folder": str(folder)})
