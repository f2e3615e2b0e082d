"""Layouts of the projects that published a method of self-supervised learning."""

from __future__ import annotations

from typing import Any

from ssa_analysis.checkpoints.layouts.patterns import LINEAR, MOMENTUM, RESNET, SEQUENTIAL_RESNET, VIT, VIT_ANCHOR
from ssa_analysis.checkpoints.layouts.row import Layout, Recipe

_V2 = r"{p}(\d)\.blocks\.(\d+)\."
_V2_HEADS = ((r"resnet\.fc\.", "classifier."), (r"head\.layers\.", "projector."))
_SIMCLR_V2: dict[str, Any] = {
    "places": ("*",),
    "top": ("resnet", "head"),
    "prefix": r"resnet\.net\.",
    "anchor": r"0\.0\.weight$",
    "recipe": Recipe(normalisation="none"),
    "certainty": "certain",
    "loss": {"tau": 0.1},
}
_DINO: dict[str, Any] = {
    "source": "github.com/facebookresearch/dino",
    "prefix": r"(?:module\.)?backbone\.",
    "left_over": ((r"head\.last_layer\.", "prototypes"),),
    "recipe": Recipe(activation="gelu"),
    "certainty": "certain",
}
_DINO_HEAD = (r"(?:module\.)?head\.mlp\.", "projector.")
_DINO_VIT: dict[str, Any] = {**_DINO, "anchor": VIT_ANCHOR, "names": (VIT, _DINO_HEAD), "family": "vit"}
_DINO_RESNET: dict[str, Any] = {**_DINO, "names": (RESNET, _DINO_HEAD)}
_TEACHER: dict[str, Any] = {"places": ("teacher",), "top": ("student",)}
_STUDENT: dict[str, Any] = {"places": ("student",), "top": ("teacher",)}
_DINOV2: dict[str, Any] = {
    "places": ("teacher", "model", ""),
    "prefix": r"(?:module\.)?(?:backbone\.)?",
    "anchor": VIT_ANCHOR,
    "names": (
        (r"{p}register_tokens", "backbone.reg_token"),
        (r"{p}blocks\.\d+\.(\d+)\.", r"backbone.blocks.\1."),  # in chunks, which keep the numbers
        VIT,
    ),
    "left_over": ((r"mask_token$", "token of masked patches"), (r"^(module\.)?(dino|ibot)_head\.", "head of the training")),
    "family": "vit",
    "certainty": "certain",
}


METHODS: dict[str, Layout] = {
    "moco-v3": Layout(
        "MoCo v3, ResNet: the query encoder and its projector",
        "github.com/facebookresearch/moco-v3",
        prefix=r"module\.base_encoder\.",
        names=(RESNET, (r"{p}fc\.", "projector.")),
        left_over=((r"^module\.momentum_encoder\.", "momentum encoder"), (r"^module\.predictor\.", "predictor")),
        certainty="certain",
        loss={"tau": 1.0},
    ),
    "moco": Layout(
        "MoCo v1 and v2: the query encoder; its fc is the projector",
        "github.com/facebookresearch/moco",
        prefix=r"module\.encoder_q\.",
        names=(RESNET, (r"{p}fc\.", "projector.")),
        left_over=((r"^module\.encoder_k\.", "momentum encoder"), (r"^module\.queue(_ptr)?$", "queue of negatives")),
        certainty="certain",
        loss={"tau": 0.2},
    ),
    "moco-v3-vit": Layout(
        "MoCo v3, ViT: the query encoder and its projector; ViT-S has 12 heads there",
        "github.com/facebookresearch/moco-v3",
        prefix=r"module\.base_encoder\.",
        anchor=VIT_ANCHOR,
        keys=(r"{p}head\.0\.weight",),
        names=(VIT, (r"{p}head\.", "projector.")),
        left_over=((r"^module\.momentum_encoder\.", "momentum encoder"), (r"^module\.predictor\.", "predictor")),
        family="vit",
        recipe=Recipe(heads=12),
        certainty="certain",
        loss={"tau": 0.2},
    ),
    "dino": Layout("DINO, full checkpoint: the teacher; its projector is the head up to the bottleneck", **_DINO_VIT, **_TEACHER),
    "dino-resnet": Layout("the same with a ResNet", **_DINO_RESNET, **_TEACHER),
    "dino-student": Layout("DINO, full checkpoint: the student, where its layout is named", **_DINO_VIT, **_STUDENT),
    "dino-resnet-student": Layout("the same with a ResNet", **_DINO_RESNET, **_STUDENT),
    "simsiam": Layout(
        "SimSiam: the encoder; its fc is the projector",
        "github.com/facebookresearch/simsiam",
        prefix=r"module\.encoder\.",
        keys=(r"^module\.predictor\.0\.", r"{p}fc\.0\.weight"),
        names=(RESNET, (r"{p}fc\.", "projector.")),
        left_over=((r"^module\.predictor\.", "predictor"),),
        certainty="certain",
    ),
    "barlow-twins": Layout(
        "Barlow Twins: backbone and projector of a full checkpoint",
        "github.com/facebookresearch/barlowtwins",
        prefix=r"module\.backbone\.",
        keys=(r"^module\.bn\.running_mean$", r"^module\.projector\."),
        names=(RESNET, (r"module\.projector\.", "projector.")),
        left_over=((r"^module\.bn\.", "normalisation inside the loss"),),
        certainty="certain",
    ),
    "vicreg": Layout(
        "VICReg: backbone and projector of a full checkpoint",
        "github.com/facebookresearch/vicreg",
        prefix=r"module\.backbone\.",
        keys=(r"^module\.projector\.",),
        names=(RESNET, (r"module\.projector\.", "projector.")),
    ),
    "swav": Layout(
        "SwAV: the ResNet and its projection head",
        "github.com/facebookresearch/swav",
        prefix=r"(?:module\.)?",
        keys=(r"{p}prototypes",),
        names=(RESNET, (r"{p}projection_head\.", "projector.")),
        left_over=((r"prototypes", "prototypes"),),
        certainty="certain",
        loss={"tau": 0.1},
    ),
    "simclr-spijkervet": Layout(
        "Spijkervet's SimCLR: ResNet and projector, trained on pixels in [0, 1]",
        "github.com/Spijkervet/SimCLR",
        prefix=r"(?:module\.)?encoder\.",
        keys=(r"^(module\.)?projector\.0\.weight$", r"^(module\.)?projector\.2\.weight$"),
        without=(r"predictor", r"classifier"),
        names=(RESNET, (r"(module\.)?projector\.", "projector."), (r"{p}fc\.", "classifier.")),
        recipe=Recipe(normalisation="none"),
        loss={"tau": 0.5},
    ),
    "simclr-sthalles": Layout(
        "sthalles' SimCLR: a torchvision ResNet whose fc is the projector, trained on pixels in [0, 1]",
        "github.com/sthalles/SimCLR",
        prefix=r"(?:module\.)?backbone\.",
        keys=(r"{p}fc\.0\.weight$", r"{p}fc\.2\.weight$"),
        names=(RESNET, (r"{p}fc\.", "projector.")),
        recipe=Recipe(normalisation="none"),
        loss={"tau": 0.07},
    ),
    "simclr-leftthomas": Layout(
        "leftthomas' SimCLR for CIFAR-10: f is a ResNet with a 3x3 stem, g the projector",
        "github.com/leftthomas/SimCLR",
        anchor=r"f\.0\.weight$",
        prefix=r"(?:module\.)?",
        keys=(r"{p}f\.6\.0\.conv1\.weight", r"{p}g\.0\.weight"),
        names=(
            (r"{p}f\.0\.", "backbone.conv1."), (r"{p}f\.1\.", "backbone.bn1."), (r"{p}f\.(\d)\.", "backbone.layer<1-2>."),
            (r"{p}g\.", "projector."),
        ),
        recipe=Recipe(normalisation="cifar10-resnets"),
        certainty="certain",
        loss={"tau": 0.5},
    ),
    "dinov2-registers": Layout(
        "DINOv2 with registers: its position embedding is interpolated with antialiasing; no projector",
        "github.com/facebookresearch/dinov2",
        keys=(r"{p}mask_token$", r"{p}register_tokens$"),
        recipe=Recipe(position_antialias=True),
        **_DINOV2,
    ),
    "dinov2": Layout(
        "DINOv2: its position embedding is interpolated with an offset of 0.1; no projector",
        "github.com/facebookresearch/dinov2",
        keys=(r"{p}mask_token$", r"ls1\.gamma$"),
        recipe=Recipe(position_offset=0.1),
        **_DINOV2,
    ),
    "byol-lucidrains": Layout(
        "lucidrains' BYOL: the online encoder of a learner and its projector (its saved net alone is torchvision-resnet)",
        "github.com/lucidrains/byol-pytorch",
        prefix=r"online_encoder\.net\.",
        names=(RESNET, (r"online_encoder\.projector\.", "projector.")),
        left_over=(
            (r"^net\.", "the same network once more"), (r"{p}fc\.", "the network's own head, which BYOL does not use"),
            (r"^target_encoder\.", MOMENTUM), (r"^online_predictor\.", "predictor"),
        ),
        certainty="certain",
    ),
    "byol-sthalles": Layout(
        "sthalles' BYOL: the online network, a Sequential of torchvision's ResNet; trained on pixels in [0, 1]",
        "github.com/sthalles/PyTorch-BYOL",
        places=("online_network_state_dict",),
        prefix=r"encoder\.",
        anchor=r"0\.weight$",
        names=(*SEQUENTIAL_RESNET, (r"projetion\.net\.", "projector.")),
        recipe=Recipe(normalisation="none"),
        certainty="certain",
    ),
    "simclr-v2": Layout(
        "Google's SimCLR v2 as Separius' converter writes it: ResNet and contrastive head, on pixels in [0, 1]",
        "github.com/Separius/SimCLRv2-Pytorch",
        kernel=7,
        names=(
            (r"{p}0\.0\.", "backbone.conv1."), (r"{p}0\.1\.0\.", "backbone.bn1."),
            (rf"{_V2}projection\.shortcut\.", r"backbone.layer\1.\2.downsample.0."),
            (rf"{_V2}projection\.bn\.0\.", r"backbone.layer\1.\2.downsample.1."),
            (rf"{_V2}net\.0\.", r"backbone.layer\1.\2.conv1."), (rf"{_V2}net\.1\.0\.", r"backbone.layer\1.\2.bn1."),
            (rf"{_V2}net\.2\.", r"backbone.layer\1.\2.conv2."), (rf"{_V2}net\.3\.0\.", r"backbone.layer\1.\2.bn2."),
            (rf"{_V2}net\.4\.", r"backbone.layer\1.\2.conv3."), (rf"{_V2}net\.5\.0\.", r"backbone.layer\1.\2.bn3."),
            *_V2_HEADS,
        ),
        **_SIMCLR_V2,
    ),
    "simclr-v2-sk": Layout(
        "the same with selective kernels",
        "github.com/Separius/SimCLRv2-Pytorch",
        kernel=3,
        names=(
            (r"{p}0\.0\.", "backbone.stem.0."), (r"{p}0\.1\.0\.", "backbone.stem.1."), (r"{p}0\.2\.", "backbone.stem.3."),
            (r"{p}0\.3\.0\.", "backbone.stem.4."), (r"{p}0\.4\.", "backbone.stem.6."), (r"{p}0\.5\.0\.", "backbone.stem.7."),
            (rf"{_V2}projection\.shortcut\.2\.", r"backbone.layer\1.\2.downsample.2."),
            (rf"{_V2}projection\.bn\.0\.", r"backbone.layer\1.\2.downsample.3."),
            (rf"{_V2}net\.0\.", r"backbone.layer\1.\2.conv1."), (rf"{_V2}net\.1\.0\.", r"backbone.layer\1.\2.bn1."),
            (rf"{_V2}net\.2\.main_conv\.0\.", r"backbone.layer\1.\2.sk.conv."),
            (rf"{_V2}net\.2\.main_conv\.1\.0\.", r"backbone.layer\1.\2.sk.bn."),
            (rf"{_V2}net\.2\.mixing_conv\.0\.", r"backbone.layer\1.\2.sk.squeeze."),
            (rf"{_V2}net\.2\.mixing_conv\.1\.0\.", r"backbone.layer\1.\2.sk.squeeze_bn."),
            (rf"{_V2}net\.2\.mixing_conv\.2\.", r"backbone.layer\1.\2.sk.select."),
            (rf"{_V2}net\.3\.", r"backbone.layer\1.\2.conv3."), (rf"{_V2}net\.4\.0\.", r"backbone.layer\1.\2.bn3."),
            *_V2_HEADS,
        ),
        family="sk-resnet",
        **_SIMCLR_V2,
    ),
    "simclr-v1": Layout(
        "Google's SimCLR v1 as tonylins' converter writes it: a ResNet of two or four times the width, on pixels in [0, 1]; "
        "one of the usual width has torchvision's names and shapes, so its layout must be named",
        "github.com/tonylins/simclr-converter",
        prefix=r"(?:module\.)?",
        kernel=7,
        widths=(128, 256),
        keys=(r"{p}layer4\.0\.conv3\.weight", r"{p}fc\.weight$"),
        names=(RESNET, LINEAR),
        recipe=Recipe(normalisation="none"),
        loss={"tau": 0.1},
    ),
}  # fmt: skip
