"""Further test sets of the classes of a data set: CIFAR-10.1, CIFAR-10.2 and the like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ssa_analysis.data.arrays import read_array
from ssa_analysis.data.datasets import Data, resize
from ssa_analysis.data.files import as_images, as_labels, read_npz
from ssa_analysis.errors import DataError

_PAIR = ("_data", "_labels")  # CIFAR-10.1: cifar10.1_v6_data.npy and cifar10.1_v6_labels.npy


@dataclass(frozen=True)
class FurtherSet:
    """``images (n, 3, h, w)`` uint8 of the data set's size, ``labels (n,)`` in its classes."""

    name: str
    images: Tensor
    labels: Tensor


def load_further_set(path: Path, data: Data) -> FurtherSet:
    """A test set of the classes of ``data``.

    Args:
        path: ``.npz`` with ``x`` and ``y`` or with ``images`` and ``labels``, or ``NAME_data.npy`` beside
            ``NAME_labels.npy``; labels are places of classes, or their names where these are numbers.

    Raises:
        DataError: no such file, other arrays, labels that are no classes of ``data``.
    """
    if path.suffix == ".npy" and path.stem.endswith(_PAIR[0]):
        name = path.stem.removesuffix(_PAIR[0])
        beside = path.with_name(f"{name}{_PAIR[1]}.npy")
        images = as_images(read_array(path), path)
        labels: np.ndarray | None = as_labels(read_array(beside), len(images), beside)
    else:
        name = path.stem
        images, labels = read_npz(path, (("x", "y"), ("images", "labels")))
    if labels is None:
        raise DataError(f"{path}: a test set needs labels: an array y (n,), or labels")
    if len(labels) < 2:
        raise DataError(f"{path}: a test set needs at least 2 images, got {len(labels)}")
    known = data.classes_of(labels)
    if known is None:
        raise DataError(f"{path}: labels {labels.min()} to {labels.max()} are not all among the {len(data.class_names)} classes")
    if images.shape[-2:] != (data.image_size, data.image_size):
        images = resize(images, data.image_size)
    return FurtherSet(name, images, known)
