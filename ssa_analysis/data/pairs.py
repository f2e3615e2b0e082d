"""Ideal pairs (two images of one class) and practical pairs (two views of one image); THEORY section 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.data.views import Views
from ssa_analysis.errors import DataError, SettingsError
from ssa_analysis.numerics.seeding import derive_seed, generator


def ideal_pairs(labels: Tensor, count: int, seed: int) -> Tensor:
    """Draw ``count`` ideal pairs: a class by its frequency, then two *different* images of it, uniformly.

    Classes with a single image have no pair and are left out.

    Returns:
        ``(count, 2)`` indices into ``labels``.

    Raises:
        DataError: no class has two images.
    """
    rng = generator(seed, "ideal pairs")
    sizes = torch.bincount(labels)
    usable = torch.where(sizes >= 2, sizes, 0).double()
    if usable.sum() == 0:
        raise DataError("ideal pairs need a class with at least two images")
    order = labels.argsort(stable=True)
    start = sizes.cumsum(0) - sizes
    classes = torch.multinomial(usable, count, replacement=True, generator=rng)
    size = sizes[classes]
    first = (torch.rand(count, generator=rng, dtype=torch.float64) * size).long().clamp(max=size - 1)
    step = 1 + (torch.rand(count, generator=rng, dtype=torch.float64) * (size - 1)).long().clamp(max=size - 2)
    return torch.stack([order[start[classes] + first], order[start[classes] + (first + step) % size]], dim=1)


def disjoint_ideal_pairs(labels: Tensor, seed: int) -> Tensor:
    """A random perfect matching inside each class: every image is in at most one pair, so that pairs are independent.

    Returns:
        ``(k, 2)`` indices; k is the sum over the classes of ``floor(size / 2)``. In random order.
    """
    rng = generator(seed, "disjoint ideal pairs")
    pairs = []
    for value in torch.unique(labels):
        members = (labels == value).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=rng)]
        pairs.append(members[: len(members) // 2 * 2].view(-1, 2))
    joined = torch.cat(pairs) if pairs else torch.empty(0, 2, dtype=torch.long)
    return joined[torch.randperm(len(joined), generator=rng)]


def practical_pairs(
    images: Tensor, views: Views, seed: int, labels: Tensor | None = None, features: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Two random views of each image: ``(n, 3, s, s)`` twice. Labels and features only serve Fourier partners."""
    return views.pair(images, seed, labels, features)


@dataclass(frozen=True)
class PairBatch:
    """One fixed batch of practical pairs: two views ``(m, 3, s, s)`` of the same m images."""

    first: Tensor
    second: Tensor


def draw_images(data: Data, split: str, count: int, batch: int, seed: int) -> list[Tensor]:
    """Indices ``(batch,)`` into a split, for batches of images drawn without replacement.

    ``count`` images (fewer if the split is smaller) are cut into batches of ``batch`` (never more than there are); a
    last batch that would be smaller is dropped, so that all have the same size.
    """
    available = len(data.splits[split])
    batch = min(batch, count, available)
    order = torch.randperm(available, generator=generator(seed, "fixed batches"))[:count]
    return list(order[: len(order) // batch * batch].split(batch))


def fixed_batches(
    data: Data, split: str, views: Views, pairs: int, batch: int, seed: int, features: Tensor | None = None
) -> list[PairBatch]:
    """Draw images and views once; everything measured on the result sees the same pairs and the same negatives.

    ``pairs`` images are drawn without replacement (fewer if the split is smaller) and cut into batches of ``batch``;
    a last batch that would be smaller is dropped, so that all batches have the same number of negatives.
    ``features (n, d)`` of the whole split are needed only where Fourier partners are nearest in feature space.

    Raises:
        DataError: the split holds fewer images than one batch.
        SettingsError: ``batch < 2``.
    """
    if batch < 2:
        raise SettingsError(f"a contrastive batch needs at least 2 pairs, got {batch}")
    available = len(data.splits[split])
    if available < batch:
        raise DataError(
            f"{data.name}: the {split} split holds {available} images, fewer than a batch of {batch}; "
            "lower the batch or use more images"
        )
    drawn = draw_images(data, split, max(batch, pairs), batch, seed)
    return [batch_of(data, split, views, index, seed, number, features) for number, index in enumerate(drawn)]


def batch_of(
    data: Data, split: str, views: Views, index: Tensor, seed: int, number: int, features: Tensor | None = None
) -> PairBatch:
    """Batch ``number``: two views of the images ``index (m,)`` of a split; depends on no other batch."""
    labels = data.labels_if_any(split)
    near = features[index] if features is not None else None
    images, known = data.images_of(split)[index], None if labels is None else labels[index]
    return PairBatch(*practical_pairs(images, views, derive_seed(seed, "fixed batch", number), known, near))
