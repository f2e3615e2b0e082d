"""Data sets as tensors in memory, with disjoint train / probe / held-out splits.

* ``train``: what self-supervised training sees.
* ``probe``: fits whatever is learnt on frozen features (linear probe, class means, negatives of the bounds).
* ``held-out``: what every number is averaged on. The official test images where there are some.

The splits depend on the data alone, never on a user's seed: two checkpoints of one data set are always compared
on the same images, and no encoder is ever scored on an image it was trained on here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.data.arrays import MEMORY_LIMIT
from ssa_analysis.data.files import RawImages, in_memory, load_files
from ssa_analysis.errors import DataError, SettingsError, UnknownDataError
from ssa_analysis.paths import expanded, resolved
from ssa_analysis.registry import Registry, unknown_name
from ssa_analysis.texts import whole

SPLITS = ("train", "probe", "held-out")
SPLIT_SHARES = (0.4, 0.3, 0.3)  # without official test images
LARGEST_SIDE = 4096  # pixels that images can be resized to
PROBE_SHARE = 0.2  # of the official training images, where the test images are the held-out split


@dataclass(frozen=True)
class DataSource:
    """One row of the table of data sets."""

    summary: str
    load: Callable[[Path | None, bool], RawImages]
    recipe: str = "simclr"  # name of the default view recipe
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


DATASETS: Registry[DataSource] = Registry("dataset", DataSource)


@dataclass(frozen=True)
class Provenance:
    """Where the images of a data set stand in their source.

    Attributes:
        index: ``(n,)`` place of each image in the source. total: how many images that has; the last ``test_count`` of them
            are official test images. names: ``CLASS/STEM`` of each image's file; empty where there are no such files.
    """

    index: Tensor
    total: int
    test_count: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Data:
    """Images with labels and splits.

    Attributes:
        images: ``(n, 3, h, w)`` uint8. labels: ``(n,)`` int64 in 0..M-1; all 0 where there are none.
        class_names: empty where the images have no labels.
        splits: name -> ``(k,)`` indices; pairwise disjoint.
        fingerprint: SHA-256 over images, labels and splits, first 16 hex digits.
        provenance: None where the images come from no source that others could have worked on.
    """

    name: str
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    splits: Mapping[str, Tensor]
    recipe: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprint: str
    provenance: Provenance | None = None

    @property
    def image_size(self) -> int:
        """Height and width of the images in pixels."""
        return int(self.images.shape[-1])

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return bool(self.class_names)

    def labels_if_any(self, split: str) -> Tensor | None:
        """``(k,)`` labels of a split, None where the images have none."""
        return self.labels_of(split) if self.labelled else None

    def index_of(self, split: str) -> Tensor:
        """``(k,)`` places of a split's images in ``images``."""
        return self._index(split)

    def classes_of(self, values: np.ndarray) -> Tensor | None:
        """``(n,)`` labels of class numbers as other files give them; None where one of them is no class of this data.

        A number is the place of a class, or, where the classes are called by numbers, its name.
        """
        numbered = {int(name): k for k, name in enumerate(self.class_names) if name.isascii() and name.isdigit()}
        if len(numbered) < len(self.class_names):
            numbered = {k: k for k in range(len(self.class_names))}
        if not set(np.unique(values).tolist()) <= set(numbered):
            return None
        return torch.tensor([numbered[v] for v in values.tolist()], dtype=torch.int64)

    def require_labels(self) -> None:
        """DataError where the images have no labels."""
        if not self.labelled:
            raise DataError(
                f"{self.name}: the images have no labels, which this needs; give a folder with a folder of images for each "
                "class, or an .npz file with y (n,)"
            )

    def images_of(self, split: str) -> Tensor:
        """``(k, 3, h, w)`` uint8 images of a split."""
        return self.images[self._index(split)]

    def labels_of(self, split: str) -> Tensor:
        """``(k,)`` labels of a split."""
        return self.labels[self._index(split)]

    def _index(self, split: str) -> Tensor:
        if split not in self.splits:
            raise unknown_name("split", split, list(self.splits))
        return self.splits[split]

    def require_classes(self, per_class: int = 2) -> None:
        """DataError unless probe and held-out hold at least two classes with ``per_class`` images each, the same ones."""
        self.require_labels()
        present = []
        for split in ("probe", "held-out"):
            counts = torch.bincount(self.labels_of(split), minlength=len(self.class_names))
            present.append(counts > 0)
            if int((counts > 0).sum()) < 2:
                raise DataError(
                    f"{self.name}: the {split} split holds {int((counts > 0).sum())} class; this measure compares "
                    "classes and needs at least two"
                )
            scarce = [self.class_names[i] for i in range(len(counts)) if 0 < counts[i] < per_class]
            if scarce:
                raise DataError(
                    f"{self.name}: class {scarce[0]!r} has fewer than {per_class} images in the {split} split "
                    f"({len(scarce)} such classes); use more images (--subset larger)"
                )
        if not torch.equal(present[0], present[1]):
            missing = self.class_names[int((present[0] != present[1]).nonzero()[0])]
            raise DataError(f"{self.name}: class {missing!r} is in only one of the probe and held-out splits")


def stratified_parts(labels: Tensor, shares: tuple[float, ...], seed: int = 0) -> list[Tensor]:
    """Disjoint index sets with the given shares of every class, in ascending order.

    Cuts are made on a running count over the classes, so that the totals are right even with one image a class.
    """
    rng = np.random.default_rng(seed)
    array = labels.numpy()
    order = np.concatenate([rng.permutation(np.flatnonzero(array == c)) for c in np.unique(array)] or [np.array([], int)])
    # position k of the class-sorted order goes to the part whose share of [0, 1) holds a low-discrepancy point
    point = (0.5 + np.arange(len(order)) * 0.6180339887498949) % 1.0
    edges = np.cumsum(shares)
    part = np.searchsorted(edges, point * edges[-1], side="right").clip(0, len(shares) - 1)
    return [torch.from_numpy(np.sort(order[part == p])) for p in range(len(shares))]


def subsample(labels: Tensor, count: int, seed: int = 0) -> Tensor:
    """``count`` indices, the classes in proportion (largest remainders), in ascending order."""
    if count >= len(labels):
        return torch.arange(len(labels))
    rng = np.random.default_rng(seed)
    array = labels.numpy()
    classes, sizes = np.unique(array, return_counts=True)
    exact = sizes * count / len(array)
    take = np.floor(exact).astype(int)
    take[np.argsort(exact - take, kind="stable")[::-1][: count - take.sum()]] += 1
    chosen = [rng.permutation(np.flatnonzero(array == c))[:k] for c, k in zip(classes, take, strict=True)]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def _fingerprint(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()[:16]


def make_splits(labels: Tensor, test_count: int, subset: int | None) -> list[Tensor]:
    """Indices of the three splits. A subset thins each split in proportion *after* the cut, so that the held-out
    images of a subset were held out from training on the whole set too."""
    official = len(labels) - test_count
    if test_count:
        train, probe = stratified_parts(labels[:official], (1 - PROBE_SHARE, PROBE_SHARE))
        parts = [train, probe, torch.arange(official, len(labels))]
    else:
        parts = stratified_parts(labels, SPLIT_SHARES)
    if subset is None or subset >= len(labels):
        return parts
    ends = np.round(np.cumsum([len(p) for p in parts]) * subset / len(labels)).astype(int)
    counts = np.diff(ends, prepend=0).clip(min=1)
    return [p[subsample(labels[p], int(count))] for p, count in zip(parts, counts, strict=True)]


def make_data(raw: RawImages, name: str, source: DataSource, subset: int | None = None, image_size: int | None = None) -> Data:
    """Split ``raw``, keep about ``subset`` images spread over the splits, read them, resize them.

    Raises:
        DataError: too few images for three splits, or malformed ones.
    """
    if subset is not None and subset < 3:
        raise DataError(f"a subset needs at least 3 images, one for each split, got {subset}")
    parts = make_splits(raw.labels, raw.test_count, subset)
    for split, index in zip(SPLITS, parts, strict=True):
        if len(index) == 0:
            raise DataError(f"{name}: {len(raw.labels)} images are too few: the {split} split is empty")
    keep = torch.cat(parts)
    images, labels = raw.read(keep), raw.labels[keep]
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8 or len(images) != len(labels):
        raise DataError(f"{name}: images must be ({len(labels)}, 3, h, w) uint8, got {tuple(images.shape)} {images.dtype}")
    height, width = images.shape[-2:]
    if image_size is None and height != width:
        raise DataError(f"{name}: images of {width}x{height} pixels are not square; pass --image-size to resize them")
    if image_size is not None and (height, width) != (image_size, image_size):
        images = resize(images, image_size)
    bounds = np.cumsum([0] + [len(p) for p in parts])
    splits = {s: torch.arange(a, b) for s, a, b in zip(SPLITS, bounds[:-1], bounds[1:], strict=True)}
    return Data(
        name=name,
        images=images,
        labels=labels,
        class_names=raw.class_names,
        splits=splits,
        recipe=source.recipe,
        mean=source.mean,
        std=source.std,
        fingerprint=_fingerprint(images, labels, *splits.values()),
        provenance=Provenance(
            keep, len(raw.labels), raw.test_count, tuple(raw.names[i] for i in keep.tolist()) if raw.names else ()
        ),
    )


def load_data(
    name: str,
    root: str | Path | None = None,
    *,
    subset: int | None = None,
    image_size: int | None = None,
    download: bool = True,
) -> Data:
    """Load a registered data set, a folder of images (a folder for each class, or loose ones), or an ``.npz`` file.

    Args:
        name: a name of ``DATASETS``, a folder, or a ``.npz`` path with ``x (n, h, w, c) uint8`` and, where there
            are labels, ``y (n,)``.
        root: where torchvision's files lie or go (default ``~/.cache/ssa-analysis``).
        subset: use about this many images, spread over the splits and classes in proportion.
        image_size: resize to this many pixels (bilinear, antialiased); required for image trees of mixed sizes.
        download: try the internet where files are missing.

    Raises:
        DataError: unknown name, missing or malformed files, too few images.
    """
    if not name:
        raise UnknownDataError("the name of the data set is empty")
    if image_size is not None and not 4 <= image_size <= LARGEST_SIDE:
        raise SettingsError(f"the image size must be 4 to {LARGEST_SIDE} pixels, got {image_size}")
    path = expanded(name)
    try:
        looks_like_path = path.suffix == ".npz" or path.is_dir() or "/" in name
    except OSError as problem:  # a name too long, a folder above that may not be entered
        raise UnknownDataError(f"{name:.80}: no data set and no path ({problem.strerror})") from problem
    if name in DATASETS:
        source = DATASETS.get(name)
        raw = source.load(expanded(root) if root is not None else None, download)
    elif looks_like_path:
        source = DataSource("files of the user", load=lambda _root, _download: load_files(path, image_size))
        raw = source.load(None, False)
        name = whole(path.stem if path.suffix == ".npz" else resolved(path).name)
    else:
        error = unknown_name("dataset", name, DATASETS.names())
        raise UnknownDataError(f"{error}; a folder of class folders or a .npz file works too")
    return make_data(raw, name, source, subset, image_size)


def resize(images: Tensor, size: int) -> Tensor:
    """``(n, 3, size, size)`` uint8, bilinear with antialiasing."""
    if size < 4:
        raise SettingsError(f"the image size must be at least 4 pixels, got {size}")
    if size > LARGEST_SIDE or len(images) * 3 * size * size > MEMORY_LIMIT:
        raise DataError(f"{len(images)} images of {size} pixels do not fit in memory; take a smaller --image-size or --subset")
    pieces = [
        torch.nn.functional.interpolate(chunk.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
        for chunk in images.split(max(1, min(4096, (1 << 24) // (size * size))))
    ]
    return torch.cat([p.round().clamp(0, 255).to(torch.uint8) for p in pieces])


def default_root() -> Path:
    """Where torchvision's files go when no root is given."""
    return Path.home() / ".cache" / "ssa-analysis"


def _load_digits(root: Path | None, download: bool) -> RawImages:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(np.clip(bunch.images * (255 / 16), 0, 255).round().astype(np.uint8))
    images = resize(pixels[:, None].repeat(1, 3, 1, 1), 16)
    return in_memory(images, torch.from_numpy(bunch.target.astype(np.int64)), tuple("0123456789"))


@dataclass(frozen=True)
class _TorchvisionRow:
    """How to build the official train and test parts, and the folder or file whose absence is named."""

    class_name: str
    parts: tuple[Mapping[str, Any], Mapping[str, Any]]
    expects: str


_TORCHVISION: dict[str, _TorchvisionRow] = {
    "cifar10": _TorchvisionRow("CIFAR10", ({"train": True}, {"train": False}), "cifar-10-batches-py"),
    "cifar100": _TorchvisionRow("CIFAR100", ({"train": True}, {"train": False}), "cifar-100-python"),
    "stl10": _TorchvisionRow("STL10", ({"split": "train"}, {"split": "test"}), "stl10_binary"),
    "svhn": _TorchvisionRow("SVHN", ({"split": "train"}, {"split": "test"}), "train_32x32.mat and test_32x32.mat"),
    "fashion-mnist": _TorchvisionRow("FashionMNIST", ({"train": True}, {"train": False}), "FashionMNIST/raw"),
}


def _to_images(part: Any) -> Tensor:
    """torchvision keeps (n, h, w, c), (n, c, h, w) or (n, h, w) arrays; all become (n, 3, h, w)."""
    pixels = torch.as_tensor(np.asarray(part.data))
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:
        pixels = pixels.permute(0, 3, 1, 2)
    return pixels.expand(-1, 3, -1, -1).contiguous()


def _load_torchvision(name: str, root: Path | None, download: bool) -> RawImages:
    import torchvision.datasets

    row = _TORCHVISION[name]
    folder = root if root is not None else default_root()
    make = getattr(torchvision.datasets, row.class_name)
    parts = []
    for arguments in row.parts:
        try:
            try:
                parts.append(make(root=str(folder), download=False, **arguments))
            except RuntimeError:
                if not download or root is not None:
                    raise
                folder.mkdir(parents=True, exist_ok=True)
                parts.append(make(root=str(folder), download=True, **arguments))
        except Exception as error:  # damaged files raise anything: FashionMNIST asserts, KeyError of a magic number
            what = f"{folder / row.expects}" if " and " not in row.expects else f"{row.expects} in {folder}"
            why = "is missing or damaged" if root is not None or not download else f"could not be downloaded ({error})"
            raise DataError(
                f"{name}: {what} {why}; put torchvision's files there and name the folder with --data-root"
            ) from error
    images = torch.cat([_to_images(p) for p in parts])
    labels = torch.cat([torch.as_tensor(np.asarray(p.targets if hasattr(p, "targets") else p.labels)).long() for p in parts])
    classes = getattr(parts[0], "classes", None) or [str(i) for i in range(int(labels.max()) + 1)]
    return in_memory(images, labels, tuple(classes), test_count=len(parts[1]))


def _torchvision_loader(name: str) -> Callable[[Path | None, bool], RawImages]:
    return lambda root, download: _load_torchvision(name, root, download)


DATASETS.add("digits", DataSource("1,797 handwritten digits of scikit-learn, 16 px; no download", _load_digits, "digits"))
for _name, _summary, _recipe, _mean, _std in (
    ("cifar10", "60,000 natural images, 32 px, 10 classes", "simclr", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ("cifar100", "60,000 natural images, 32 px, 100 classes", "simclr", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ("stl10", "13,000 labelled natural images, 96 px, 10 classes", "simclr", (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
    ("svhn", "99,289 house numbers, 32 px, 10 classes", "digits", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    ("fashion-mnist", "70,000 pieces of clothing, 28 px, 10 classes", "simclr", (0.2860,) * 3, (0.3530,) * 3),
):  # fmt: skip
    DATASETS.add(_name, DataSource(_summary, _torchvision_loader(_name), _recipe, _mean, _std))
