"""The table of layouts, from the most particular to the most general: the first that fits counts."""

from __future__ import annotations

from typing import Any

from ssa_analysis.checkpoints.layouts.build import HEAD
from ssa_analysis.checkpoints.layouts.row import LAYOUTS, Layout, Recipe

_TRUNK = r"(conv1|bn1|layer\d)\."
_RESNET = (rf"{{p}}{_TRUNK}", r"backbone.\1.")
_LINEAR = (r"{p}fc\.", "classifier.")
_HEADS = r"(^|\.)(fc|linear|classifier|online_classifier|head|projector|projection_head|predictor)\."
_UNUSED = "not needed for features or embedding"
_LIGHTLY_UNUSED = (r"^(prediction_head|prototypes|memory_bank|online_classifier|criterion)", _UNUSED)
_SHORTCUT = (r"{p}(layer\d\.\d+)\.shortcut\.", r"backbone.\1.downsample.")

_SOLO: dict[str, Any] = {
    "top": ("pytorch-lightning_version",),
    "prefix": r"(?:backbone|encoder)\.",
    "keys": (r"^classifier\.weight$",),
    "names": (_RESNET, (r"projector\.", "projector."), (r"classifier\.", "classifier.")),
    "left_over": (
        (r"^momentum_", "momentum network"),
        (r"^(predictor|prototypes|queue|simsiam|mocov2plus|nnbyol)", _UNUSED),
    ),
    "certainty": "certain",
}

ROWS: dict[str, Layout] = {
    "moco-v3": Layout(
        "MoCo v3, ResNet: the query encoder and its projector",
        "github.com/facebookresearch/moco-v3",
        prefix=r"module\.base_encoder\.",
        names=(_RESNET, (r"{p}fc\.", "projector.")),
        left_over=((r"^module\.momentum_encoder\.", "momentum encoder"), (r"^module\.predictor\.", "predictor")),
        certainty="certain",
        loss={"tau": 1.0},
    ),
    "moco": Layout(
        "MoCo v1 and v2: the query encoder; its fc is the projector",
        "github.com/facebookresearch/moco",
        prefix=r"module\.encoder_q\.",
        names=(_RESNET, (r"{p}fc\.", "projector.")),
        left_over=((r"^module\.encoder_k\.", "momentum encoder"), (r"^module\.queue(_ptr)?$", "queue of negatives")),
        certainty="certain",
        loss={"tau": 0.2},
    ),
    "simsiam": Layout(
        "SimSiam: the encoder; its fc is the projector",
        "github.com/facebookresearch/simsiam",
        prefix=r"module\.encoder\.",
        keys=(r"^module\.predictor\.0\.", r"{p}fc\.0\.weight"),
        names=(_RESNET, (r"{p}fc\.", "projector.")),
        left_over=((r"^module\.predictor\.", "predictor"),),
        certainty="certain",
    ),
    "barlow-twins": Layout(
        "Barlow Twins: backbone and projector of a full checkpoint",
        "github.com/facebookresearch/barlowtwins",
        prefix=r"module\.backbone\.",
        keys=(r"^module\.bn\.running_mean$", r"^module\.projector\."),
        names=(_RESNET, (r"module\.projector\.", "projector.")),
        left_over=((r"^module\.bn\.", "normalisation inside the loss"),),
        certainty="certain",
    ),
    "vicreg": Layout(
        "VICReg: backbone and projector of a full checkpoint",
        "github.com/facebookresearch/vicreg",
        prefix=r"module\.backbone\.",
        keys=(r"^module\.projector\.",),
        names=(_RESNET, (r"module\.projector\.", "projector.")),
    ),
    "swav": Layout(
        "SwAV: the ResNet and its projection head",
        "github.com/facebookresearch/swav",
        prefix=r"(?:module\.)?",
        keys=(r"{p}prototypes",),
        names=(_RESNET, (r"{p}projection_head\.", "projector.")),
        left_over=((r"prototypes", "prototypes"),),
        certainty="certain",
        loss={"tau": 0.1},
    ),
    "solo-learn-cifar": Layout(
        "solo-learn with its CIFAR ResNet, whose 3x3 stem has a padding of 2: backbone and projector",
        "github.com/vturrisi/solo-learn",
        kernel=3,
        recipe=Recipe(normalisation="cifar10", stem_padding=2),
        **_SOLO,
    ),
    "solo-learn": Layout(
        "solo-learn with ImageNet's ResNet: backbone and projector", "github.com/vturrisi/solo-learn", kernel=7, **_SOLO
    ),
    "simclr-spijkervet": Layout(
        "Spijkervet's SimCLR: ResNet and projector, trained on pixels in [0, 1]",
        "github.com/Spijkervet/SimCLR",
        prefix=r"(?:module\.)?encoder\.",
        keys=(r"^(module\.)?projector\.0\.weight$", r"^(module\.)?projector\.2\.weight$"),
        without=(r"predictor", r"classifier"),
        names=(_RESNET, (r"(module\.)?projector\.", "projector."), (r"{p}fc\.", "classifier.")),
        recipe=Recipe(normalisation="none"),
        loss={"tau": 0.5},
    ),
    "simclr-sthalles": Layout(
        "sthalles' SimCLR: a torchvision ResNet whose fc is the projector, trained on pixels in [0, 1]",
        "github.com/sthalles/SimCLR",
        prefix=r"(?:module\.)?backbone\.",
        keys=(r"{p}fc\.0\.weight$", r"{p}fc\.2\.weight$"),
        names=(_RESNET, (r"{p}fc\.", "projector.")),
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
    "lightly-cifar": Layout(
        "lightly's CIFAR benchmark: a Sequential of its ResNet's children, which has no ReLU after the stem",
        "github.com/lightly-ai/lightly",
        anchor=r"0\.weight$",
        prefix=r"(?:resnet_)?backbone\.",
        keys=(r"{p}2\.0\.conv1\.weight", r"{p}5\.0\.conv1\.weight"),
        names=(
            (r"{p}0\.", "backbone.conv1."), (r"{p}1\.", "backbone.bn1."),
            (r"{p}(\d)\.(\d+)\.shortcut\.", r"backbone.layer<1-1>.\2.downsample."), (r"{p}(\d)\.", "backbone.layer<1-1>."),
            (r"projection_head\.layers\.", "projector."),
        ),
        left_over=((r"momentum", "momentum network"), _LIGHTLY_UNUSED),
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
            (r"{p}0\.", "backbone.conv1."), (r"{p}1\.", "backbone.bn1."), (r"{p}(\d)\.", "backbone.layer<1-3>."),
            (r"projection_head\.layers\.", "projector."),
        ),
        left_over=((r"momentum|teacher", "momentum network"), _LIGHTLY_UNUSED),
        certainty="certain",
    ),
    "phlippe-resnet": Layout(
        "the ResNet of the UvA deep-learning tutorials (Lippe), a Lightning file",
        "uvadlc-notebooks.readthedocs.io",
        prefix=r"model\.",
        anchor=r"input_net\.0\.weight$",
        names=(
            (r"{p}input_net\.0\.", "backbone.conv1."), (r"{p}input_net\.1\.", "backbone.bn1."),
            (r"{p}(blocks\.\d+)\.net\.0\.", r"backbone.\1.conv1."), (r"{p}(blocks\.\d+)\.net\.1\.", r"backbone.\1.bn1."),
            (r"{p}(blocks\.\d+)\.net\.3\.", r"backbone.\1.conv2."), (r"{p}(blocks\.\d+)\.net\.4\.", r"backbone.\1.bn2."),
            (r"{p}(blocks\.\d+)\.downsample\.", r"backbone.\1.downsample."), (r"{p}output_net\.2\.", "classifier."),
        ),
        family="flat-resnet",
        recipe=Recipe(normalisation="cifar10"),
        certainty="certain",
    ),
    "phlippe-autoencoder": Layout(
        "the convolutional autoencoder of the UvA deep-learning tutorials (Lippe): its encoder",
        "uvadlc-notebooks.readthedocs.io",
        prefix=r"encoder\.",
        anchor=r"net\.0\.weight$",
        keys=(r"^decoder\.net\.",),
        names=((r"{p}net\.", "backbone.net."),),
        left_over=((r"^decoder\.", "decoder"),),
        family="conv-encoder",
        recipe=Recipe(normalisation="half"),
        certainty="certain",
    ),
    "phlippe-mlp": Layout(
        "the Fashion-MNIST network of the UvA deep-learning tutorials (Lippe)",
        "uvadlc-notebooks.readthedocs.io",
        anchor=r"layers\.0\.weight$",
        names=((r"layers\.8\.", "classifier."), (r"layers\.", "backbone.layers.")),
        keys=(r"^layers\.8\.weight$",),
        without=(r"^layers\.(9|\d\d)\.",),
        family="pixel-mlp",
        recipe=Recipe(normalisation="fashion-mnist"),
    ),
    "lenet": Layout(
        "PyTorch's CIFAR-10 tutorial network, as in Captum",
        "pytorch.org/tutorials",
        keys=(r"^conv2\.weight$", r"^fc3\.weight$"),
        without=(r"layer\d\.",),
        names=((r"(conv[12]|fc[12])\.", r"backbone.\1."), (r"fc3\.", "classifier.")),
        family="lenet",
        recipe=Recipe(normalisation="half"),
    ),
    "loss-landscape": Layout(
        "CIFAR ResNets of the loss-landscape code (Li et al. 2018); without shortcut weights, no skip connections",
        "github.com/tomgoldstein/loss-landscape",
        top=("acc", "epoch"),
        prefix=r"(?:module\.)?",
        keys=(r"{p}linear\.weight$",),
        names=(_SHORTCUT, _RESNET, (r"{p}linear\.", "classifier.")),
        recipe=Recipe(normalisation="cifar10-wrn", shortcut="none"),
    ),
    "akamaster": Layout(
        "CIFAR ResNets with option-A shortcuts (He et al. 2016), as Idelbayev's",
        "github.com/akamaster/pytorch_resnet_cifar10",
        prefix=r"(?:module\.)?",
        keys=(r"{p}linear\.weight$", r"{p}layer3\."),
        without=(r"{p}layer4\.", r"shortcut"),
        names=(_RESNET, (r"{p}linear\.", "classifier.")),
        recipe=Recipe(normalisation="imagenet", shortcut="pad"),
    ),
    "distiller": Layout(
        "CIFAR ResNets of Distiller",
        "github.com/IntelLabs/distiller",
        top=("compression_sched",),
        prefix=r"(?:module\.)?",
        names=(_RESNET, _LINEAR),
        recipe=Recipe(normalisation="half"),
        certainty="certain",
    ),
    "cifar-resnet": Layout(
        "ResNets of three stages with torchvision's names, as PyHessian's example",
        "github.com/amirgholami/PyHessian",
        prefix=r"(?:module\.)?",
        keys=(r"{p}layer3\.",),
        without=(r"{p}layer4\.",),
        names=(_SHORTCUT, _RESNET, _LINEAR, (r"{p}linear\.", "classifier.")),
        recipe=Recipe(normalisation="cifar10-resnets"),
        certainty="guess",
    ),
    "torchvision-resnet": Layout(
        "ResNets with torchvision's names, bare or behind module., backbone., encoder., model.; no projector",
        "docs.pytorch.org/vision",
        prefix=r"(?:module\.)?(?:backbone\.|encoder\.)?|model\.",
        keys=(r"{p}layer4\.0\.conv1\.weight",),
        names=(_RESNET, _LINEAR),
        left_over=((_HEADS, HEAD),),
        certainty="guess",
    ),
}  # fmt: skip
for _name, _row in ROWS.items():
    LAYOUTS.add(_name, _row)
