"""Layouts of libraries for self-supervised learning and for vision."""

from __future__ import annotations

from typing import Any

from ssa_analysis.checkpoints.layouts.patterns import (
    HEAD,
    HEADS,
    LINEAR,
    MOMENTUM,
    RESNET,
    SEQUENTIAL_RESNET,
    UNUSED,
    VIT,
    VIT_ANCHOR,
)  # fmt: skip
from ssa_analysis.checkpoints.layouts.row import Layout, Recipe

_MASKED = (r"(^|\.)(mask_token|decoder)", "decoder or mask, not part of the features")
_LIGHTLY_UNUSED = (r"^(prediction_head|prototypes|memory_bank|online_classifier|criterion)", UNUSED)
_SOLO_HEADS = ((r"projector\.", "projector."), (r"classifier\.", "classifier."))
_SOLO: dict[str, Any] = {
    "top": ("pytorch-lightning_version",),
    "prefix": r"(?:backbone|encoder)\.",
    "keys": (r"^classifier\.weight$",),
    "left_over": ((r"^momentum_", MOMENTUM), (r"^(predictor|prototypes|queue|simsiam|mocov2plus|nnbyol)", UNUSED)),
    "certainty": "certain",
}
_VISSL: dict[str, Any] = {
    "places": ("classy_state_dict.base_model.model.*",),
    "prefix": r"trunk\.(?:_feature_blocks\.|base_model\._feature_blocks\.)",
    "certainty": "certain",
}
_NECKS = (
    (r"neck\.fc(\d)\.", "projector.<1*3>."), (r"neck\.bn(\d)\.", "projector.<1*3+1>."),  # a ReLU is the third
    (r"(?:neck|encoder_q\.1)\.(?:mlp|projection_neck)\.", "projector."), (r"neck\.fc\.", "projector."),
)  # fmt: skip
_OPENMMLAB: dict[str, Any] = {
    "places": ("state_dict",),
    "top": ("meta",),
    "prefix": r"backbone\.",
    "left_over": (
        (r"^(encoder_q|online_net)\.", "the same network once more"), (r"^(encoder_k|target_net|momentum_encoder)\.", MOMENTUM),
        (r"^(queue|memory_bank|target_generator|data_preprocessor)", UNUSED), (r"^head\.", "predictor or prototypes"),
        (r"^neck\.bn\.", "the same layer once more"), (r"^neck\.(decoder|mask_token)", "decoder"), (r"{p}mask_token", "mask"),
    ),
    "certainty": "certain",
}  # fmt: skip
_HF = r"{p}(?:encoder\.layer|layers)\.(\d+)\."  # in files, and since transformers 5 in memory; so below
_HF_EMBEDDINGS = (
    (r"{p}embeddings\.cls_token", "backbone.cls_token"), (r"{p}embeddings\.position_embeddings", "backbone.pos_embed"),
    (r"{p}embeddings\.patch_embeddings\.projection\.", "backbone.patch_embed.proj."),
)  # fmt: skip
_HF_ATTENTION = (
    (rf"{_HF}attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.", r"backbone.blocks.\1.attn.\2."),
    (rf"{_HF}attention\.(?:output\.dense|o_proj)\.", r"backbone.blocks.\1.attn.proj."),
)


LIBRARIES: dict[str, Layout] = {
    "solo-learn-cifar": Layout(
        "solo-learn with its CIFAR ResNet, whose 3x3 stem has a padding of 2: backbone and projector",
        "github.com/vturrisi/solo-learn",
        kernel=3,
        names=(RESNET, *_SOLO_HEADS),
        recipe=Recipe(normalisation="cifar10", stem_padding=2),
        **_SOLO,
    ),
    "solo-learn": Layout(
        "solo-learn with ImageNet's ResNet: backbone and projector",
        "github.com/vturrisi/solo-learn",
        kernel=7,
        names=(RESNET, *_SOLO_HEADS),
        **_SOLO,
    ),
    "solo-learn-vit": Layout(
        "solo-learn with a vision transformer: backbone and projector",
        "github.com/vturrisi/solo-learn",
        anchor=VIT_ANCHOR,
        names=(VIT, *_SOLO_HEADS),
        family="vit",
        **_SOLO,
    ),
    "lightly-cifar": Layout(
        "lightly's CIFAR benchmark: a Sequential of its ResNet's children, which has no ReLU after the stem",
        "github.com/lightly-ai/lightly",
        anchor=r"0\.weight$",
        prefix=r"(?:resnet_)?backbone\.",
        keys=(r"{p}2\.0\.conv1\.weight", r"{p}5\.0\.conv1\.weight"),
        names=(
            (r"{p}0\.", "backbone.conv1."), (r"{p}1\.", "backbone.bn1."),
            (r"{p}(\d)\.(\d+)\.shortcut\.", r"backbone.layer<1-1>.\2.downsample."), (r"{p}(\d)\.", "backbone.layer<1-1>."),
            (r"projection_head\.layers\.", "projector."), (r"(?:classifier|fc)\.", "classifier."),
        ),
        left_over=((r"momentum", MOMENTUM), _LIGHTLY_UNUSED),
        recipe=Recipe(normalisation="imagenet", stem_relu=False),
        certainty="certain",
    ),
    "lightly": Layout(
        "lightly's ImageNet models: a Sequential of torchvision's ResNet, and a projection head",
        "github.com/lightly-ai/lightly",
        anchor=r"0\.weight$",
        prefix=r"backbone\.",
        keys=(r"{p}4\.0\.conv1\.weight", r"{p}7\.0\.conv1\.weight"),
        names=(
            *SEQUENTIAL_RESNET, (r"projection_head\.layers\.", "projector."), (r"(?:classifier|fc)\.", "classifier."),
        ),
        left_over=((r"momentum|teacher", MOMENTUM), _LIGHTLY_UNUSED),
        certainty="certain",
    ),
    "vissl": Layout(
        "VISSL's ResNets: the trunk, and heads of linear layers with ReLU between them as the projector",
        "github.com/facebookresearch/vissl",
        names=(
            RESNET, (r"heads\.0\.clf\.(\d)\.", r"projector.\1."), (r"heads\.(\d)\.clf\.(\d)\.", r"projector.\1\2."),
            (r"heads\.0\.projection_head\.(\d+)\.", r"projector.\1."),
        ),
        left_over=((r"^heads\.\d\.prototypes", "prototypes"),),
        **_VISSL,
    ),
    "vissl-vit": Layout(
        "VISSL's vision transformers: the trunk",
        "github.com/facebookresearch/vissl",
        **{**_VISSL, "prefix": r"trunk\."},
        anchor=VIT_ANCHOR,
        names=(VIT,),
        left_over=((r"^heads\.", HEAD),),
        family="vit",
    ),
    "openmmlab": Layout(
        "mmselfsup, mmpretrain: a ResNet and its neck, which is the projector; head.fc is a classifier",
        "github.com/open-mmlab/mmpretrain",
        names=(RESNET, *_NECKS, (r"head\.fc\.", "classifier.")),
        **_OPENMMLAB,
    ),
    "openmmlab-vit": Layout(
        "mmselfsup, mmpretrain: a vision transformer and its neck",
        "github.com/open-mmlab/mmpretrain",
        anchor=VIT_ANCHOR,
        keys=(r"{p}layers\.0\.ln1\.weight",),
        names=(
            (r"{p}(cls_token|pos_embed)", r"backbone.\1"), (r"{p}patch_embed\.projection\.", "backbone.patch_embed.proj."),
            (r"{p}layers\.(\d+)\.ln(\d)\.", r"backbone.blocks.\1.norm\2."),
            (r"{p}layers\.(\d+)\.attn\.(qkv|proj)\.", r"backbone.blocks.\1.attn.\2."),
            (r"{p}layers\.(\d+)\.ffn\.layers\.0\.0\.", r"backbone.blocks.\1.mlp.fc1."),
            (r"{p}layers\.(\d+)\.ffn\.layers\.1\.", r"backbone.blocks.\1.mlp.fc2."),
            (r"{p}layers\.(\d+)\.attn\.gamma1\.weight", r"backbone.blocks.\1.ls1.gamma"),
            (r"{p}layers\.(\d+)\.ffn\.gamma2\.weight", r"backbone.blocks.\1.ls2.gamma"),
            (r"{p}ln1\.", "backbone.norm."), *_NECKS, (r"head\.layers\.head\.", "classifier."),
        ),
        family="vit",
        **_OPENMMLAB,
    ),
    "huggingface-dinov2": Layout(
        "Hugging Face's Dinov2Model",
        "huggingface.co/docs/transformers",
        prefix=r"(?:dinov2(?:_with_registers)?\.)?",
        anchor=r"embeddings\.cls_token$",
        keys=(r"{p}encoder\.layer\.0\.layer_scale1\.lambda1",),
        names=(
            *_HF_EMBEDDINGS, (r"{p}embeddings\.register_tokens", "backbone.reg_token"), *_HF_ATTENTION,
            (rf"{_HF}norm(\d)\.", r"backbone.blocks.\1.norm\2."), (rf"{_HF}mlp\.fc(\d)\.", r"backbone.blocks.\1.mlp.fc\2."),
            (rf"{_HF}layer_scale(\d)\.lambda1", r"backbone.blocks.\1.ls\2.gamma"), (r"{p}layernorm\.", "backbone.norm."),
        ),
        left_over=(_MASKED, (r"^classifier\.", "classifier of class token and mean patch together, not of the features")),
        family="vit",
        certainty="certain",
    ),
    "huggingface-vit": Layout(
        "Hugging Face's ViTModel and ViTForImageClassification",
        "huggingface.co/docs/transformers",
        prefix=r"(?:vit\.)?",
        anchor=r"embeddings\.cls_token$",
        keys=(r"{p}(encoder\.layer|layers)\.0\.layernorm_before\.weight",),
        names=(
            *_HF_EMBEDDINGS, *_HF_ATTENTION,
            (rf"{_HF}(?:intermediate\.dense|mlp\.fc1)\.", r"backbone.blocks.\1.mlp.fc1."),
            (rf"{_HF}(?:output\.dense|mlp\.fc2)\.", r"backbone.blocks.\1.mlp.fc2."),
            (rf"{_HF}layernorm_before\.", r"backbone.blocks.\1.norm1."),
            (rf"{_HF}layernorm_after\.", r"backbone.blocks.\1.norm2."),
            (r"{p}layernorm\.", "backbone.norm."), (r"classifier\.", "classifier."),
        ),
        left_over=((r"pooler\.", "pooler, not part of the features"), _MASKED),
        family="vit",
        recipe=Recipe(normalisation="half", norm_eps=1e-12),
        certainty="certain",
    ),
    "huggingface-resnet": Layout(
        "Hugging Face's ResNetModel and ResNetForImageClassification",
        "huggingface.co/docs/transformers",
        prefix=r"(?:resnet\.)?",
        anchor=r"embedder\.embedder\.convolution\.weight$",
        names=(
            (r"{p}embedder\.embedder\.convolution\.", "backbone.conv1."),
            (r"{p}embedder\.embedder\.normalization\.", "backbone.bn1."),
            (r"{p}encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.convolution\.", r"backbone.layer<1+1>.\2.conv<3+1>."),
            (r"{p}encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.normalization\.", r"backbone.layer<1+1>.\2.bn<3+1>."),
            (r"{p}encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.convolution\.", r"backbone.layer<1+1>.\2.downsample.0."),
            (r"{p}encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.normalization\.", r"backbone.layer<1+1>.\2.downsample.1."),
            (r"classifier\.1\.", "classifier."),
        ),
        certainty="certain",
    ),
}  # fmt: skip

GENERAL: dict[str, Layout] = {
    "timm-vit": Layout(
        "vision transformers with timm's names (timm, DeiT, DINO's backbones), bare or behind module., backbone.; no projector",
        "github.com/huggingface/pytorch-image-models",
        prefix=r"(?:module\.)?(?:backbone\.|encoder\.)?|model\.",
        anchor=VIT_ANCHOR,
        keys=(r"{p}blocks\.0\.attn\.qkv\.weight",),
        names=(VIT, (r"{p}head\.", "classifier.")),
        left_over=((HEADS, HEAD), _MASKED),
        family="vit",
        certainty="guess",
    ),
    "torchvision-resnet": Layout(
        "ResNets with torchvision's names, bare or behind module., backbone., encoder., model.; no projector",
        "docs.pytorch.org/vision",
        prefix=r"(?:module\.)?(?:backbone\.|encoder\.)?|model\.",
        keys=(r"{p}layer4\.0\.conv1\.weight",),
        names=(RESNET, LINEAR),
        left_over=((HEADS, HEAD),),
        certainty="guess",
    ),
}
