"""Blocks of practical pairs: the independent units of the certificates and of the PAC-Bayes bound."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssa_analysis.data.datasets import Data
from ssa_analysis.data.pairs import PairBatch, batch_of, draw_images
from ssa_analysis.measures.base import make_views, resolve_recipe, split_features
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.seeding import derive_seed


def mixes_images(encoder: Encoder, data: Data, views: str) -> bool:
    """Whether the views of an image depend on other images of its block: then blocks are units, and images are not."""
    return resolve_recipe(encoder, data, views).fourier is not None


def batch_dependent(network: nn.Module) -> bool:
    """Whether an embedding depends on the other images of its batch in evaluation, too: BatchNorm without running statistics."""
    return any(isinstance(m, _BatchNorm) and m.running_mean is None for m in network.modules())


class BlocksOfPairs:
    """Disjoint blocks of images of a split, as many as there are, with two views of each image made when they are needed.

    The views of a block depend on its own images and number alone, so that blocks are independent also where views mix
    images. Empty where the split has fewer images than a block.
    """

    def __init__(self, encoder: Encoder, data: Data, split: str, views: str, size: int, seed: int) -> None:
        self.data, self.split, self.seed = data, split, derive_seed(seed, "blocks", split)
        self.views = make_views(encoder, data, views)
        enough = len(data.splits[split]) >= size
        self.features = split_features(encoder, data, split) if enough and self.views.needs_features else None
        self.images = draw_images(data, split, len(data.splits[split]), size, self.seed) if enough else []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> PairBatch:
        return batch_of(self.data, self.split, self.views, self.images[number], self.seed, number, self.features)


def embedded_blocks(encoder: Encoder, blocks: BlocksOfPairs) -> tuple[Tensor, Tensor]:
    """Embeddings ``(n m, d)`` of both views of all blocks, with BatchNorm's running statistics, on the CPU in float64."""
    firsts, seconds = [], []
    with torch.no_grad():
        for number in range(len(blocks)):
            block = blocks[number]
            firsts.append(encoder.embed(block.first.to(encoder.device)).double().cpu())
            seconds.append(encoder.embed(block.second.to(encoder.device)).double().cpu())
    return torch.cat(firsts), torch.cat(seconds)
