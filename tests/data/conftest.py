"""Small image files whose images are all different, so that a test can follow an image by its content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COUNT, CLASSES = 90, 3


@pytest.fixture(scope="session")
def unique_images() -> tuple[np.ndarray, np.ndarray]:
    """``x (90, 8, 8, 3)`` uint8 of noise and ``y (90,)`` of three classes, not sorted by class."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8), rng.permutation(np.arange(COUNT) % CLASSES)


@pytest.fixture(scope="session")
def npz_file(unique_images: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unique images as ``.npz``."""
    path = tmp_path_factory.mktemp("npz") / "unique.npz"
    np.savez(path, x=unique_images[0], y=unique_images[1])
    return path


@pytest.fixture(scope="session")
def image_tree(unique_images: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unique images as PNG files in folders of their classes, half of them one folder deeper."""
    root = tmp_path_factory.mktemp("trees") / "tree"
    for number, (image, label) in enumerate(zip(*unique_images, strict=True)):
        folder = root / f"class-{label}" / ("deeper" if number % 2 else "")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    return root
