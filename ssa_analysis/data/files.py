"""Images from a user's files: an ``.npz`` archive, a folder for each class, or one folder without labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.data.arrays import MEMORY_LIMIT, read_arrays
from ssa_analysis.errors import DataError
from ssa_analysis.paths import ordinary
from ssa_analysis.texts import whole

MOST_PIXELS = 1 << 26  # of an image: 8,192 x 8,192
LONGEST = 50  # sides of an image that is resized by its shorter one
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF")  # Pillow's other readers stay out; one of them starts a program


@dataclass(frozen=True)
class RawImages:
    """What a source delivers, before it is split.

    Attributes:
        labels: ``(n,)`` int64.
        read: indices ``(k,)`` -> ``(k, 3, h, w)`` uint8 images; called once, with those images that some split uses.
        test_count: how many images, the last ones, are official test images.
        names: ``CLASS/STEM`` of every image's file; empty where the images have no files of their own.
    """

    labels: Tensor
    class_names: tuple[str, ...]
    read: Callable[[Tensor], Tensor]
    test_count: int = 0
    names: tuple[str, ...] = ()


def in_memory(images: Tensor, labels: Tensor, class_names: tuple[str, ...], test_count: int = 0) -> RawImages:
    """``RawImages`` of a tensor ``(n, 3, h, w)`` uint8."""
    return RawImages(labels, class_names, lambda index: images[index], test_count)


def load_files(path: Path, image_size: int | None) -> RawImages:
    """An ``.npz`` file or a class-per-folder tree of images."""
    return load_npz(path) if path.suffix == ".npz" else load_image_tree(path, image_size)


def read_npz(path: Path, keys: tuple[tuple[str, str], ...] = (("x", "y"),)) -> tuple[Tensor, np.ndarray | None]:
    """Images ``(n, 3, h, w)`` uint8 and labels ``(n,)`` integers, or None, of an ``.npz``; pickled arrays are never loaded.

    Args:
        keys: names that the two arrays may have; the first pair whose images are there is taken.

    Raises:
        DataError: no such file, damaged, or arrays of another kind.
    """
    found = read_arrays(path, [name for pair in keys for name in pair])
    named = next(((a, b) for a, b in keys if a in found), None)
    if named is None:
        raise DataError(f"{path}: no array {keys[0][0]!r}; it needs x (n, h, w, c) uint8, and y (n,) where there are labels")
    x, y = found[named[0]], found.get(named[1])
    return as_images(x, path), None if y is None else as_labels(y, len(x), path)


def as_images(x: np.ndarray, path: Path) -> Tensor:
    """``(n, 3, h, w)`` of an array ``(n, h, w)`` or ``(n, h, w, 1 or 3)`` uint8; DataError for another one."""
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.dtype != np.uint8 or x.shape[-1] not in (1, 3) or 0 in x.shape[1:]:
        raise DataError(f"{path}: x must be (n, h, w, 1 or 3) uint8, got {x.shape} {x.dtype}")
    colour = np.broadcast_to(x, (*x.shape[:-1], 3))
    if colour.size > MEMORY_LIMIT:
        raise DataError(f"{path}: {colour.size:,} bytes of images do not fit in memory")
    return torch.from_numpy(np.array(colour.transpose(0, 3, 1, 2), order="C"))


def as_labels(y: np.ndarray, count: int, path: Path) -> np.ndarray:
    """``y`` if it is ``(count,)`` integers; DataError otherwise."""
    if y.ndim != 1 or len(y) != count or not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{path}: y must be ({count},) integers, got {y.shape} {y.dtype}")
    return y


def load_npz(path: Path) -> RawImages:
    """``x (n, h, w, c)`` uint8 with c = 1 or 3 and ``y (n,)`` integers, or no y; pickled arrays are never loaded."""
    images, y = read_npz(path)
    if y is None:
        return in_memory(images, torch.zeros(len(images), dtype=torch.int64), ())
    classes, labels = np.unique(y, return_inverse=True)
    return in_memory(images, torch.from_numpy(labels.astype(np.int64)), tuple(str(c) for c in classes))


IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


def load_image_tree(path: Path, image_size: int | None = None) -> RawImages:
    """``path/CLASS/**/*.png`` and so on, or ``path/*.png`` without labels; decoded only once the splits are known.

    With ``image_size`` each image is resized to it on its shorter side and centre-cropped; without, all images must
    be square and of one size.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = [[f for f in sorted(d.rglob("*")) if f.suffix.lower() in IMAGE_SUFFIXES] for d in folders]
    names = tuple(whole(folder.name) for folder, files in zip(folders, found, strict=True) if files)
    files = [file for group in found for file in group]
    loose = sorted(f for f in path.iterdir() if f.is_file() and f.suffix.lower() in IMAGE_SUFFIXES)
    if loose and not files:
        return RawImages(
            torch.zeros(len(loose), dtype=torch.int64),
            (),
            lambda index: decode([loose[i] for i in index.tolist()], image_size),
            names=tuple(file.stem for file in loose),
        )
    if not files:
        raise DataError(f"{path}: no images; expected {path}/CLASS/IMAGE.png and the like, or {path}/IMAGE.png without labels")
    sizes = [len(group) for group in found if group]
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    called = tuple(folder.name for folder, group in zip(folders, found, strict=True) if group)
    stems = tuple(f"{name}/{file.stem}" for name, group in zip(called, filter(None, found), strict=True) for file in group)
    return RawImages(labels, names, lambda index: decode([files[i] for i in index.tolist()], image_size), names=stems)


def decode(files: list[Path], image_size: int | None) -> Tensor:
    """``(n, 3, size, size)`` uint8 from image files; DataError for one that is damaged or, without a size, of another."""
    from torchvision.transforms.v2 import functional as transform

    size = image_size
    decoded: list[Tensor] = []
    for file in files:
        pixels = read_image(file)
        height, width = pixels.shape[1:]
        size = size or width
        if image_size is None and (height, width) != (size, size):
            raise DataError(f"{file}: {width}x{height} pixels, expected {size}x{size}; pass --image-size to resize all")
        if len(files) * 3 * size * size > MEMORY_LIMIT:
            raise DataError(f"{len(files)} images of {size} px do not fit in memory; pass --subset")
        if max(height, width) > LONGEST * min(height, width):
            raise DataError(f"{file}: {width}x{height} pixels; one side may be at most {LONGEST} times the other")
        if (height, width) != (size, size):
            pixels = transform.center_crop(transform.resize(pixels, [size], antialias=True), [size, size])
        decoded.append(pixels)
    return torch.stack(decoded)


def read_image(file: Path, what: str = "image") -> Tensor:
    """``(3, h, w)`` uint8 of an image file; ``what`` is what an error calls it.

    Raises:
        DataError: damaged, none of ``FORMATS``, no file of bytes, or of more than ``MOST_PIXELS``, which is found out before any
            of them is decoded.
    """
    from PIL import Image
    from torchvision.transforms.v2 import functional as transform

    if not ordinary(file):
        raise DataError(f"{file}: not a readable {what} ({'no ordinary file' if file.exists() else 'no such file'})")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of sizes that are looked at here, and of strange metadata
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(f"{image.width}x{image.height} pixels, more than {MOST_PIXELS:,}")
                pixels: Tensor = transform.pil_to_tensor(image.convert("RGB"))
        except Exception as error:  # damaged bytes raise anything in Pillow's readers
            lines = str(error).splitlines()
            raise DataError(f"{file}: not a readable {what} ({lines[0][:160] if lines else type(error).__name__})") from error
    return pixels
