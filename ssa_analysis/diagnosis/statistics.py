"""BatchNorm's running statistics against a pass over images: do these weights expect such images, so normalised, so shaped?

Training leaves in every BatchNorm the mean and the variance of what went into it. Whoever gives the network images like those of
its training, normalised as there, through the same stem, meets the same statistics; a wrong normalisation, a stem with another
padding or without its ReLU, does not. The distance of a layer is the mean over its channels of the divergence
``KL(N(m, v) || N(m', v'))`` between what is met (m, v) and what was kept (m', v'), in nats.

The images of a training were augmented. What is met is therefore computed on several augmentations of the same images, and the
nearest counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ssa_analysis.data.views import ViewRecipe, Views, to_float
from ssa_analysis.models.backbones import ResNet
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.seeding import generator

BATCH = 128
FEWEST = 32  # images that an augmentation is chosen by


@dataclass(frozen=True)
class Distance:
    """Of a network's BatchNorm layers from a set of images, in nats: of the first layer, and the median over all layers."""

    first: float
    median: float


class _Enough(Exception):
    """The first layer has been reached."""


def norm_layers(encoder: Encoder) -> list[nn.Module]:
    """The BatchNorms of the backbone that keep statistics, in the order of its modules."""
    layers = [m for m in encoder.backbone.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    return [layer for layer in layers if layer.running_mean is not None]


def distance(encoder: Encoder, images: Tensor, only_first: bool = False) -> Distance:
    """Distance between what the BatchNorms keep and what they meet on ``(n, 3, h, w)`` images in [0, 1].

    Args:
        only_first: stop at the first layer that is reached; its distance is then the median, too.
    """
    sums: dict[nn.Module, tuple[int, Tensor, Tensor]] = {}

    def meet(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].transpose(0, 1).flatten(1).double()
        count, total, squares = sums.get(layer, (0, 0.0, 0.0))
        sums[layer] = count + x.shape[1], total + x.sum(1), squares + x.square().sum(1)
        if only_first:
            raise _Enough

    handles = [layer.register_forward_pre_hook(meet) for layer in norm_layers(encoder)]
    try:
        with torch.no_grad():
            for chunk in images.split(BATCH):
                try:
                    encoder.features(chunk.to(encoder.device))
                except _Enough:
                    continue
    finally:
        for handle in handles:
            handle.remove()
    distances = [_divergence(layer, *met) for layer, met in sums.items()]
    return Distance(distances[0], float(torch.tensor(distances).median()))


def _divergence(layer: nn.Module, count: int, total: Tensor, squares: Tensor) -> float:
    """Mean over the channels of KL(met || kept), both as normal distributions."""
    eps = float(layer.eps)  # type: ignore[arg-type]
    mean = total / count
    variance = (squares / count - mean.square()).clamp_min(0) + eps
    kept_mean, kept = (getattr(layer, f"running_{name}").double() for name in ("mean", "var"))
    kept = kept.clamp_min(0) + eps
    return float(0.5 * ((kept / variance).log() + (variance + (mean - kept_mean).square()) / kept - 1).mean())


def augmentations(images: Tensor, views: ViewRecipe, seed: int) -> dict[str, Tensor]:
    """The images as trainings may have shown them: name -> ``(n, 3, h, w)`` floats in [0, 1]."""
    pixels, size = to_float(images), images.shape[-1]
    nothing = ViewRecipe(crop_low=1.0, flip=0.5, jitter=0.0, gray=0.0)
    plain = replace(views, fourier=None)
    return {
        "as they are": pixels,
        "crops with a black margin": _margin_crops(pixels, max(1, size // 8), seed),
        "crops of 80 to 100 %": Views(replace(nothing, crop_low=0.8), size)(pixels, seed),
        "crops of 20 to 100 %": Views(replace(nothing, crop_low=0.2), size)(pixels, seed),
        "views of the recipe": Views(plain, size)(pixels, seed),
    }


def _margin_crops(images: Tensor, margin: int, seed: int) -> Tensor:
    """Random crops of the images with a black margin around them, as usual for CIFAR."""
    rng, (height, width) = generator(seed, "margin crops"), images.shape[-2:]
    wide = pad(images, (margin,) * 4)
    corners = torch.randint(0, 2 * margin + 1, (len(images), 2), generator=rng).tolist()
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(wide, corners, strict=True)])


def nearest(encoder: Encoder, shown: Mapping[str, Tensor], only_first: bool = False) -> tuple[str, Distance]:
    """The augmentation whose statistics are nearest, and its distance; by the first layer or by the median of all.

    Which one it is, a quarter of the images decides; how far it is, all of them.
    """

    def far(name: str) -> float:
        found = distance(encoder, shown[name][: max(FEWEST, len(shown[name]) // 4)], only_first)
        return found.first if only_first else found.median

    best = min(shown, key=far)
    return best, distance(encoder, shown[best], only_first)


def other_stems(backbone: ResNet) -> dict[str, ResNet]:
    """The same weights behind stems that are easily taken for one another, and with the other shortcut without weights."""
    stem, plan = backbone.plan.stem, backbone.plan
    changes = {
        f"padding {padding} of the stem": replace(stem, padding=padding)
        for padding in range(max(0, stem.padding - 1), stem.padding + 2)
        if padding != stem.padding
    }
    changes[f"stride {3 - stem.stride} of the stem"] = replace(stem, stride=3 - stem.stride)
    changes[f"{'no ' if stem.max_pool else ''}max-pooling"] = replace(stem, max_pool=not stem.max_pool)
    changes[f"{'no ' if stem.relu else ''}ReLU after the stem"] = replace(stem, relu=not stem.relu)
    plans = {name: replace(plan, stem=other) for name, other in changes.items() if other.stride in (1, 2)}
    if plan.shortcut in ("pad", "none"):
        other = "none" if plan.shortcut == "pad" else "pad"
        plans["no skip connections" if other == "none" else "shortcuts of option A"] = replace(plan, shortcut=other)
    return {name: _rebuilt(backbone, ResNet(other)) for name, other in plans.items()}


def _rebuilt(backbone: ResNet, other: ResNet) -> ResNet:
    other.load_state_dict(backbone.state_dict())
    return other.eval().to(next(backbone.parameters()).device)


def with_normalisation(encoder: Encoder, mean: tuple[float, ...], std: tuple[float, ...]) -> Encoder:
    """The same network behind another normalisation; it shares the weights."""
    other = Encoder(encoder.backbone, encoder.projector, mean, std, encoder.recipe, encoder.loss, encoder.classifier)
    return other.eval().to(encoder.device)
