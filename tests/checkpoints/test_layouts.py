"""Files as the projects write them: features and embedding are those of the project's own module, to 1e-5.

The modules are built as each project builds them (torchvision's ResNets with the project's stem and heads), and saved under the
names that its code gives.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from project_modules import OPTIMIZER, Case, check_case, lived_in, mlp, named, resnet, without_fc
from torch import Tensor, nn

from ssa_analysis.checkpoints.layouts import LAYOUTS, find, recognise
from ssa_analysis.checkpoints.layouts.families import FAMILIES
from ssa_analysis.checkpoints.layouts.heads import build_head
from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.normalisation import NORMALISATIONS
from ssa_analysis.errors import CheckpointError
from ssa_analysis.numerics.seeding import seeded


def moco(version: int) -> Case:
    net = resnet(head=nn.Linear(512, 16) if version == 1 else mlp(512, 512, 16, norm=False))
    state = {**named(net, "module.encoder_q."), **named(net, "module.encoder_k."), "module.queue": torch.zeros(16, 8)}
    state["module.queue_ptr"] = torch.zeros(1, dtype=torch.long)
    content = {"epoch": 200, "arch": "resnet18", "state_dict": state, "optimizer": OPTIMIZER}
    return Case("moco", without_fc(net), net.fc, content, left={"module.encoder_k.conv1.weight", "module.queue", "optimizer"})


def moco_v3() -> Case:
    net = resnet(head=mlp(512, 32, 16, last=True))
    state = {
        **named(net, "module.base_encoder."),
        **named(net, "module.momentum_encoder."),
        **named(mlp(16, 16, 16), "module.predictor."),
    }
    return Case("moco-v3", without_fc(net), net.fc, {"state_dict": state}, left={"module.predictor.0.weight"})


def simsiam() -> Case:
    net = resnet(head=mlp(512, 512, 512, 64, last=True))
    state = {**named(net, "module.encoder."), **named(mlp(64, 16, 64), "module.predictor.")}
    return Case("simsiam", without_fc(net), net.fc, {"state_dict": state}, left={"module.predictor.3.bias"})


def barlow(vicreg: bool) -> Case:
    net, head = resnet(), mlp(512, 64, 64, 64)
    state = {**named(net, "module.backbone."), **named(head, "module.projector.")}
    if not vicreg:
        state |= named(lived_in(nn.BatchNorm1d(64, affine=False)), "module.bn.")
    return Case("vicreg" if vicreg else "barlow-twins", net, head, {"epoch": 9, "model": state, "optimizer": OPTIMIZER})


def swav() -> Case:
    net, head = resnet(), mlp(512, 64, 16)
    state = {**named(net, "module."), **named(head, "module.projection_head."), "module.prototypes.weight": torch.zeros(30, 16)}
    return Case("swav", net, head, state, left={"module.prototypes.weight"})


def solo(stem: str) -> Case:
    net, head = resnet(stem=stem), mlp(512, 64, 16, norm=False)
    state = {**named(net, "backbone."), **named(head, "projector."), **named(nn.Linear(512, 10), "classifier.")}
    state |= named(net, "momentum_backbone.")
    content = {"pytorch-lightning_version": "2.1.2", "state_dict": state, "hyper_parameters": argparse.Namespace(method="byol")}
    cifar = stem != "imagenet"
    return Case("solo-learn-cifar" if cifar else "solo-learn", net, head, content, "cifar10" if cifar else "imagenet",
                {"momentum_backbone.bn1.bias"})  # fmt: skip


def spijkervet() -> Case:
    net, head = resnet(), nn.Sequential(nn.Linear(512, 512, bias=False), nn.ReLU(), nn.Linear(512, 16, bias=False))
    return Case("simclr-spijkervet", net, head, {**named(net, "encoder."), **named(head, "projector.")}, "none")


def sthalles() -> Case:
    net = resnet(head=nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 16)))
    return Case("simclr-sthalles", without_fc(net), net.fc, {"state_dict": named(net, "backbone."), "arch": "resnet18"}, "none")


def leftthomas() -> Case:
    parts = [child for name, child in resnet(stem="cifar").named_children() if name not in ("fc", "maxpool")]
    net, head = nn.Sequential(*parts), mlp(512, 64, 16)
    return Case(
        "simclr-leftthomas", lambda x: net(x).flatten(1), head, {**named(net, "f."), **named(head, "g.")}, "cifar10-resnets"
    )


def lightly_cifar() -> Case:
    """lightly's own ResNet applies ReLU in ``forward``, so that the Sequential of its children has none after the stem."""
    whole, head = resnet(stem="cifar"), mlp(512, 64, 16)
    net = nn.Sequential(
        *(getattr(whole, name) for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")), whole.avgpool
    )
    state = {key.replace("downsample", "shortcut"): tensor for key, tensor in named(net, "backbone.").items()}
    return Case(
        "lightly-cifar", lambda x: net(x).flatten(1), head, {"state_dict": {**state, **named(head, "projection_head.layers.")}}
    )


def lightly() -> Case:
    net, head = nn.Sequential(*list(resnet().children())[:-1]), mlp(512, 64, 16)
    state = {**named(net, "backbone."), **named(head, "projection_head.layers."), **named(head, "momentum_head.layers.")}
    return Case("lightly", lambda x: net(x).flatten(1), head, {"state_dict": state}, left={"momentum_head.layers.0.weight"})


def plain(name: str) -> Case:
    net = resnet(name)
    return Case("torchvision-resnet", net, None, net.state_dict())


CASES: dict[str, Callable[[], Case]] = {
    "moco v1": lambda: moco(1), "moco v2": lambda: moco(2), "moco v3": moco_v3, "simsiam": simsiam,
    "barlow twins": lambda: barlow(False), "vicreg": lambda: barlow(True), "swav": swav,
    "solo-learn, cifar": lambda: solo("padding 2"), "solo-learn, imagenet": lambda: solo("imagenet"),
    "spijkervet": spijkervet, "sthalles": sthalles, "leftthomas": leftthomas, "lightly, cifar": lightly_cifar,
    "lightly, imagenet": lightly, "resnet50": lambda: plain("resnet50"), "resnet101": lambda: plain("resnet101"),
    "wide": lambda: plain("wide_resnet50_2"), "resnext": lambda: plain("resnext50_32x4d"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_features_and_embedding_are_those_of_the_project_s_module(tmp_path: Path, name: str) -> None:
    with seeded(0, name):
        case = CASES[name]()
    check_case(case, tmp_path / "file.pth")


def test_every_row_names_a_family_that_is_there() -> None:
    assert {row.family for _, row in LAYOUTS} <= set(FAMILIES)
    assert {row.certainty for _, row in LAYOUTS} <= {"certain", "likely", "guess"}
    documented = (Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md").read_text()
    assert [name for name, _ in LAYOUTS if f"`{name}`" not in documented] == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"0.weight": torch.zeros(2, 3), "1.weight": torch.zeros(2, 2)},
            "between layers 0 and 1 of the projector there is no act",
        ),
        ({"0.weight": torch.zeros(2, 3, 1, 1)}, "layer with the tensors weight is not known"),
        ({"a.weight": torch.zeros(2, 3)}, "a tensor 'a.weight' is not known"),
        ({"0.running_mean": torch.zeros(2), "0.bias": torch.zeros(2)}, "layer with the tensors bias, running_mean"),
    ],
)
def test_a_projector_that_is_not_known_is_refused(names: dict[str, Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        build_head(names)


def test_two_tensors_for_one_place_are_refused(tmp_path: Path) -> None:
    """Nothing in the file says which of them is meant."""
    case = swav()
    state = {**case.content, "module.projection_head.00.weight": torch.zeros(64, 512)}
    pattern = (r"module\.projection_head\.0+\.", "projector.0.")
    row = dataclasses.replace(LAYOUTS.get("swav"), names=(pattern, *LAYOUTS.get("swav").names))
    found = find(row, state)
    assert found is not None
    with pytest.raises(CheckpointError, match=r"'module.projection_head.0.weight' and .*00.weight' have the same place"):
        recognise(row, state, found)


def test_a_pickled_module_loads_as_its_state_dict(tmp_path: Path) -> None:
    with seeded(0, "whole"):
        net = resnet(head=nn.Linear(512, 3))
    torch.save({"epoch": 3, "model": net}, tmp_path / "whole.pth")
    loaded = load_checkpoint(tmp_path / "whole.pth")
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in NORMALISATIONS["imagenet"])
    with torch.no_grad():
        torch.testing.assert_close(loaded.encoder.logits(images), net((images - mean) / std), atol=1e-5, rtol=1e-5)
