"""Images from a user's files: an ``.npz`` archive, a folder for each class, or one folder without labels."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.errors import DataError

MEMORY_LIMIT = 6 * 2**30  # bytes of decoded images; beyond it a subset must be asked for


@dataclass(frozen=True)
class RawImages:
    """What a source delivers, before it is split.

    Attributes:
        labels: ``(n,)`` int64.
        read: indices ``(k,)`` -> ``(k, 3, h, w)`` uint8 images; called once, with those images that some split uses.
        test_count: how many images, the last ones, are official test images.
    """

    labels: Tensor
    class_names: tuple[str, ...]
    read: Callable[[Tensor], Tensor]
    test_count: int = 0


def in_memory(images: Tensor, labels: Tensor, class_names: tuple[str, ...], test_count: int = 0) -> RawImages:
    """``RawImages`` of a tensor ``(n, 3, h, w)`` uint8."""
    return RawImages(labels, class_names, lambda index: images[index], test_count)


def load_files(path: Path, image_size: int | None) -> RawImages:
    """An ``.npz`` file or a class-per-folder tree of images."""
    return load_npz(path) if path.suffix == ".npz" else load_image_tree(path, image_size)


def load_npz(path: Path) -> RawImages:
    """``x (n, h, w, c)`` uint8 with c = 1 or 3 and ``y (n,)`` integers, or no y; pickled arrays are never loaded."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with open(path, "rb") as stream:  # numpy would leave a damaged archive open
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):  # np.load goes by the content, not by the name
                raise DataError(f"{path}: a single array (.npy); it needs an .npz with x (n, h, w, c) uint8 and y (n,)")
            if "x" not in archive:
                raise DataError(f"{path}: no array 'x'; it needs x (n, h, w, c) uint8, and y (n,) where there are labels")
            x = archive["x"]
            y = archive.get("y")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, RuntimeError) as error:
        raise DataError(f"{path}: not a readable .npz file of plain arrays ({error})") from error
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.dtype != np.uint8 or x.shape[-1] not in (1, 3):
        raise DataError(f"{path}: x must be (n, h, w, 1 or 3) uint8, got {x.shape} {x.dtype}")
    images = torch.from_numpy(np.ascontiguousarray(np.repeat(x, 3 // x.shape[-1], axis=-1).transpose(0, 3, 1, 2)))
    if y is None:
        return in_memory(images, torch.zeros(len(images), dtype=torch.int64), ())
    if y.ndim != 1 or len(y) != len(x) or not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{path}: y must be ({len(x)},) integers, got {y.shape} {y.dtype}")
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
    names = tuple(folder.name for folder, files in zip(folders, found, strict=True) if files)
    files = [file for group in found for file in group]
    loose = sorted(f for f in path.iterdir() if f.is_file() and f.suffix.lower() in IMAGE_SUFFIXES)
    if loose and not files:
        return RawImages(
            torch.zeros(len(loose), dtype=torch.int64), (), lambda index: _decode([loose[i] for i in index.tolist()], image_size)
        )
    if not files:
        raise DataError(f"{path}: no images; expected {path}/CLASS/IMAGE.png and the like, or {path}/IMAGE.png without labels")
    sizes = [len(group) for group in found if group]
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return RawImages(labels, names, lambda index: _decode([files[i] for i in index.tolist()], image_size))


def _decode(files: list[Path], image_size: int | None) -> Tensor:
    """``(n, 3, size, size)`` uint8 from image files."""
    from PIL import Image
    from torchvision.transforms.v2 import functional as transform

    size = image_size
    decoded: list[Tensor] = []
    for file in files:
        try:
            with Image.open(file) as image:
                pixels: Tensor = transform.pil_to_tensor(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{file}: not a readable image ({error})") from error
        height, width = pixels.shape[1:]
        size = size or width
        if image_size is None and (height, width) != (size, size):
            raise DataError(f"{file}: {width}x{height} pixels, expected {size}x{size}; pass --image-size to resize all")
        if len(files) * 3 * size * size > MEMORY_LIMIT:
            raise DataError(f"{len(files)} images of {size} px do not fit in memory; pass --subset")
        if (height, width) != (size, size):
            pixels = transform.center_crop(transform.resize(pixels, [size], antialias=True), [size, size])
        decoded.append(pixels)
    return torch.stack(decoded)
