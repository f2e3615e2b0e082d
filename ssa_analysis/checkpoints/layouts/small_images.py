"""Layouts of networks for small images: CIFAR's ResNets, and those of tutorials."""

from __future__ import annotations

from ssa_analysis.checkpoints.layouts.patterns import LINEAR, RESNET, SHORTCUT
from ssa_analysis.checkpoints.layouts.row import Layout, Recipe

SMALL_IMAGES: dict[str, Layout] = {
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
        names=(SHORTCUT, RESNET, (r"{p}linear\.", "classifier.")),
        recipe=Recipe(normalisation="cifar10-wrn", shortcut="none"),
    ),
    "akamaster": Layout(
        "CIFAR ResNets with option-A shortcuts (He et al. 2016), as Idelbayev's",
        "github.com/akamaster/pytorch_resnet_cifar10",
        prefix=r"(?:module\.)?",
        keys=(r"{p}linear\.weight$", r"{p}layer3\."),
        without=(r"{p}layer4\.", r"shortcut"),
        names=(RESNET, (r"{p}linear\.", "classifier.")),
        recipe=Recipe(normalisation="imagenet", shortcut="pad"),
    ),
    "distiller": Layout(
        "CIFAR ResNets of Distiller",
        "github.com/IntelLabs/distiller",
        top=("compression_sched",),
        prefix=r"(?:module\.)?",
        names=(RESNET, LINEAR),
        recipe=Recipe(normalisation="half"),
        certainty="certain",
    ),
    "cifar-resnet": Layout(
        "ResNets of three stages with torchvision's names, as PyHessian's example",
        "github.com/amirgholami/PyHessian",
        prefix=r"(?:module\.)?",
        keys=(r"{p}layer3\.",),
        without=(r"{p}layer4\.",),
        names=(SHORTCUT, RESNET, LINEAR, (r"{p}linear\.", "classifier.")),
        recipe=Recipe(normalisation="cifar10-resnets"),
        certainty="guess",
    ),
}  # fmt: skip
