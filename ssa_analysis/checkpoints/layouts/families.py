"""Architectures from their tensors: what the shapes say, and the recipe where they do not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from ssa_analysis.checkpoints.layouts.row import Recipe
from ssa_analysis.errors import CheckpointError
from ssa_analysis.models.backbones import ResNet, ResNetPlan, Stem
from ssa_analysis.models.selective import SKPlan, SKResNet
from ssa_analysis.models.small import ConvEncoder, LeNet, PixelMLP
from ssa_analysis.models.vit import ViT, ViTPlan
from ssa_analysis.registry import unknown_name


class Built(NamedTuple):
    """A backbone, what it is, what the tensors do not say, and the pixels of a side that it was trained with, where known.

    ``assumed`` is in words, by the settings of the recipe that it comes from; none where nobody can change it.
    """

    module: nn.Module
    arch: str
    assumed: dict[tuple[str, ...], str]
    image_size: int | None


@dataclass(frozen=True)
class Family:
    """How an architecture is rebuilt: a module whose state dict has the names of the tensors, what it is, what was assumed.

    Attributes:
        settings: of the recipe that matter to it. names: from names of the tensors to those of the module, where they
            depend on all of them.
    """

    build: Callable[[Mapping[str, Tensor], Recipe], Built]
    settings: tuple[str, ...] = ()
    names: Callable[[Mapping[str, Tensor]], dict[str, str]] | None = None


_NAMES: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18", ((3, 4, 6, 3), False): "resnet34", ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101", ((3, 8, 36, 3), True): "resnet152",
}  # fmt: skip


_STEM = ("stem_stride", "stem_padding", "max_pool", "stem_relu")
_RESNET = (*_STEM, "shortcut", "feature_layer")
_VIT_SIZES = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge"}
POOLS = {"cls": "class token", "mean": "mean of the patches"}


def _counted(names: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks in each stage ``layer1``, ``layer2``, ..."""
    blocks: dict[int, set[int]] = {}
    for name in names:
        if match := re.match(r"layer(\d)\.(\d+)\.", name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    stages = sorted(blocks)
    if stages != list(range(1, len(stages) + 1)) or any(found != set(range(len(found))) for found in blocks.values()):
        raise CheckpointError("the blocks of its ResNet are not numbered one after the other")
    return tuple(len(blocks[stage]) for stage in stages)


def _stem(kernel: int, recipe: Recipe) -> tuple[Stem, dict[tuple[str, ...], str]]:
    """The stem, and what of it was assumed."""
    usual = {3: Stem(3, 1, 1, max_pool=False), 7: Stem()}.get(kernel)
    if usual is None and None in (recipe.stem_stride, recipe.stem_padding, recipe.max_pool):
        raise CheckpointError(
            f"a stem of kernel {kernel} is not known: 3 (CIFAR) or 7 (ImageNet); say stem_stride, stem_padding and max_pool"
        )
    usual = usual or Stem(kernel)
    stem = Stem(
        kernel,
        usual.stride if recipe.stem_stride is None else recipe.stem_stride,
        usual.padding if recipe.stem_padding is None else recipe.stem_padding,
        usual.max_pool if recipe.max_pool is None else recipe.max_pool,
        recipe.stem_relu,
    )
    if stem == Stem():
        return stem, {}
    pool = "with" if stem.max_pool else "without"
    relu = "" if stem.relu else ", without the usual ReLU after it"
    said = f"{kernel}x{kernel} stem of stride {stem.stride}, padding {stem.padding}, {pool} max-pooling{relu}"
    return stem, {_STEM: said}


def resnet(tensors: Mapping[str, Tensor], recipe: Recipe) -> Built:
    """ResNets with torchvision's names: ``conv1``, ``bn1``, ``layerN.M.convK``, ``layerN.0.downsample``."""
    depths = _counted(tensors)
    bottleneck = "layer1.0.conv3.weight" in tensors
    weight = tensors["conv1.weight"]
    width, kernel = int(weight.shape[0]), int(weight.shape[-1])
    first = tensors["layer1.0.conv1.weight"]
    if weight.ndim != 4 or first.ndim != 4:
        raise CheckpointError("its first convolutions are no convolutions of images")
    planes = int(tensors["layer1.0.conv3.weight"].shape[0]) // 4 if bottleneck else int(first.shape[0])
    groups, base_width = 1, 64
    if bottleneck:
        inner, each = tensors["layer1.0.conv2.weight"].shape[:2]
        groups = max(1, int(inner) // max(1, int(each)))
        base_width = 64 * int(inner) // max(1, planes * groups)
    stem, assumed = _stem(kernel, recipe)
    shortcut = _shortcut(tensors, recipe)
    if shortcut in ("pad", "none"):
        skipped = "shortcuts without weights (option A)" if shortcut == "pad" else "no skip connections"
        assumed[("shortcut",)] = skipped
    plan = ResNetPlan(bottleneck, depths, width, stem, planes, base_width, groups, shortcut)
    name = _NAMES.get((depths, bottleneck))
    if name is None and not bottleneck and len(depths) == 3 and len(set(depths)) == 1:
        name = f"resnet{6 * depths[0] + 2}"
    if name is None:
        name = f"resnet of {'bottleneck' if bottleneck else 'basic'} blocks {depths}"
    if groups > 1 or base_width != 64:
        name += f" ({groups} groups of base width {base_width})"
    stem_name = {3: "cifar", 7: "imagenet"}.get(kernel, f"{kernel}x{kernel}")
    size = recipe.image_size or {3: 32, 7: 224}.get(kernel)
    return Built(ResNet(plan), f"{name}, width {width}, {stem_name} stem", assumed, size)


def _shortcut(tensors: Mapping[str, Tensor], recipe: Recipe) -> str:
    names = {name for name in tensors if re.match(r"layer\d\.0\.downsample\.", name)}
    if any(name.endswith("downsample.0.weight") for name in names):
        return "conv"
    if any(name.endswith("downsample.weight") for name in names):
        return "conv-bias"
    return recipe.shortcut or "conv"


def staged(names: Mapping[str, Tensor]) -> dict[str, str]:
    """``blocks.N.REST``, numbered through all stages -> ``layerS.M.REST``: a block with a ``downsample`` begins the next."""
    stage_of = stages_of(names)
    return {name: _staged_name(name, stage_of) for name in names}


def stages_of(names: Mapping[str, object]) -> dict[int, tuple[int, int]]:
    """Number of a block -> its stage, from 1, and its place in it."""
    numbers = sorted({int(m[1]) for name in names if (m := re.match(r"blocks\.(\d+)\.", name))})
    begins = {int(m[1]) for name in names if (m := re.match(r"blocks\.(\d+)\.downsample\.", name))}
    found, stage, place = {}, 1, 0
    for number in numbers:
        if number in begins and number:
            stage, place = stage + 1, 0
        found[number] = stage, place
        place += 1
    return found


def _staged_name(name: str, stage_of: Mapping[int, tuple[int, int]]) -> str:
    match = re.match(r"blocks\.(\d+)\.(.*)", name)
    if match is None:
        return name
    stage, place = stage_of[int(match[1])]
    return f"layer{stage}.{place}.{match[2]}"


def vit(tensors: Mapping[str, Tensor], recipe: Recipe) -> Built:
    """Vision transformers with timm's names; ``blocks.N.attn.q``, ``k``, ``v`` where they are apart."""
    positions, patches = tensors["pos_embed"], tensors["patch_embed.proj.weight"]
    dim, patch = int(patches.shape[0]), int(patches.shape[-1])
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    heads = recipe.heads or max(1, dim // 64)
    if dim % heads:
        raise CheckpointError(f"{heads} heads do not share {dim} channels; say heads")
    tokens = int(positions.shape[1])
    grid = math.isqrt(tokens)
    class_position = grid * grid != tokens
    grid = math.isqrt(tokens - 1) if class_position else grid
    if grid * grid + class_position != tokens:
        raise CheckpointError(f"a position embedding of {tokens} tokens is no square of patches")
    joint = "blocks.0.attn.qkv.weight" in tensors
    plan = ViTPlan(
        dim, depth, heads, int(tensors["blocks.0.mlp.fc1.weight"].shape[0]), patch, grid,
        qkv="joint" if joint else "apart",
        qkv_bias=f"blocks.0.attn.{'qkv' if joint else 'q'}.bias" in tensors,
        layer_scale="blocks.0.ls1.gamma" in tensors,
        registers=int(tensors["reg_token"].shape[1]) if "reg_token" in tensors else 0,
        class_position=class_position,
        eps=recipe.norm_eps,
        pool=recipe.pool,
        position_offset=recipe.position_offset,
        position_antialias=recipe.position_antialias,
    )  # fmt: skip
    if plan.pool not in POOLS:
        raise unknown_name("pool", plan.pool, list(POOLS))
    size = _VIT_SIZES.get((dim, depth), f"of {depth} blocks with {dim} channels")
    said: dict[tuple[str, ...], str] = {
        ("heads",): f"{heads} heads", ("norm_eps",): f"LayerNorm eps {plan.eps:g}", ("pool",): f"features: the {POOLS[plan.pool]}"
    }  # fmt: skip
    return Built(ViT(plan), f"vit {size}/{patch}, for {grid * patch} pixels", said, recipe.image_size or grid * patch)


def lenet(tensors: Mapping[str, Tensor], recipe: Recipe) -> Built:
    """Two 5x5 convolutions with max-pooling and two hidden linear layers, for images of 32 pixels."""
    sizes = [int(tensors[f"{name}.weight"].shape[0]) for name in ("conv1", "conv2", "fc1", "fc2")]
    return Built(LeNet(*sizes), "lenet", {(): "ReLU and 2x2 max-pooling after each convolution"}, 32)


def pixel_mlp(tensors: Mapping[str, Tensor], recipe: Recipe) -> Built:
    """Linear layers ``layers.0``, ``layers.2``, ... on the pixels of the first channel."""
    weights = [tensors[name] for name in sorted(tensors, key=_number) if name.endswith("weight")]
    sizes = [int(weights[0].shape[1]), *(int(weight.shape[0]) for weight in weights)]
    side = round(sizes[0] ** 0.5)
    if side * side != sizes[0]:
        raise CheckpointError(f"its first layer takes {sizes[0]} numbers, which are no square image of one channel")
    names = "-".join(map(str, sizes))
    said = f"grey images of {side} pixels, ReLU between the layers"
    return Built(PixelMLP(sizes), f"mlp {names}", {(): said}, side)


def conv_encoder(tensors: Mapping[str, Tensor], recipe: Recipe) -> Built:
    """3x3 convolutions of stride 2 and 1 in turn with GELU between them, then a linear layer: ``net.N``."""
    numbers = sorted({_number(name) for name in tensors})
    weights = [tensors[f"net.{number}.weight"] for number in numbers]
    channels = [int(weights[0].shape[1]), *(int(weight.shape[0]) for weight in weights[:-1])]
    encoder = ConvEncoder(channels, int(weights[-1].shape[0]), int(weights[-1].shape[1]))
    said = "strides 2 and 1 in turn, GELU after each convolution"
    return Built(
        encoder, f"conv encoder {'-'.join(map(str, channels))}, {len(weights[-1])} features", {(): said}, recipe.image_size
    )


def sk_resnet(tensors: Mapping[str, Tensor], recipe: Recipe) -> Built:
    """SimCLR v2's ResNets with selective kernels: ``stem.N``, ``layerN.M``."""
    depths = _counted(tensors)
    planes, squeezed = (int(tensors[f"layer1.0.{name}.weight"].shape[0]) for name in ("conv1", "sk.squeeze"))
    width = int(tensors["stem.6.weight"].shape[0])
    ratio = max(int(tensors[f"layer{len(depths)}.0.sk.squeeze.weight"].shape[0]) / (planes * 2 ** (len(depths) - 1)), 1e-3)
    name = _NAMES.get((depths, True), f"resnet of bottleneck blocks {depths}")
    module = SKResNet(SKPlan(depths, width, planes, ratio, squeezed))
    return Built(module, f"{name} with selective kernels, width {width}", {}, recipe.image_size or 224)


def _number(name: str) -> int:
    match = re.search(r"\.(\d+)\.", name)
    if match is None:
        raise CheckpointError(f"a layer {name!r} without a number")
    return int(match[1])


FAMILIES: dict[str, Family] = {
    "resnet": Family(resnet, _RESNET),
    "flat-resnet": Family(resnet, _RESNET, staged),
    "sk-resnet": Family(sk_resnet, ("feature_layer",)),
    "vit": Family(vit, ("heads", "norm_eps", "pool", "position_offset", "position_antialias", "feature_layer")),
    "lenet": Family(lenet),
    "pixel-mlp": Family(pixel_mlp),
    "conv-encoder": Family(conv_encoder),
}
