"""Modules as the projects build them, what their files hold, and the check that both compute the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import normalize

from ssa_analysis.checkpoints.loading import LoadedCheckpoint, load_checkpoint
from ssa_analysis.checkpoints.normalisation import NORMALISATIONS
from ssa_analysis.checkpoints.options import LoadOptions


@dataclass
class Case:
    """A project's file and its own module.

    Attributes:
        trunk: normalised images -> features. head: features -> embedding, before its norm; None without one.
        content: what the project saves. left: keys of the file that must be told as left over. state: the state dict in
            the content, where it is not at one of the usual places.
    """

    layout: str
    trunk: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor] | None
    content: Any
    normalisation: str = "imagenet"
    left: set[str] = field(default_factory=set)
    state: dict[str, Tensor] | None = None


def lived_in(module: nn.Module) -> nn.Module:
    """Running statistics as after a training, in evaluation mode."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            part.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
    return module.eval()


def resnet(name: str = "resnet18", stem: str = "imagenet", head: nn.Module | None = None) -> nn.Module:
    """torchvision's, with ``fc`` in place of its classifier."""
    net = torchvision.models.get_model(name, weights=None)
    net.fc = head or nn.Identity()
    if stem != "imagenet":
        net.conv1 = nn.Conv2d(3, 64, 3, 1, 2 if stem == "padding 2" else 1, bias=False)
        net.maxpool = nn.Identity()
    return lived_in(net)


def without_fc(net: nn.Module) -> Callable[[Tensor], Tensor]:
    def trunk(x: Tensor) -> Tensor:
        head, net.fc = net.fc, nn.Identity()
        try:
            return net(x)  # type: ignore[no-any-return]
        finally:
            net.fc = head

    return trunk


def named(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


def mlp(*sizes: int, norm: bool = True, last: bool = False) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, ..., as in Barlow Twins; with ``last``, a BatchNorm without weights at the end."""
    layers: list[nn.Module] = []
    for place, (a, b) in enumerate(itertools.pairwise(sizes)):
        end = place == len(sizes) - 2
        layers.append(nn.Linear(a, b, bias=end and not last))
        if not end:
            layers += [nn.BatchNorm1d(b), nn.ReLU()] if norm else [nn.ReLU()]
    return lived_in(nn.Sequential(*layers, *([nn.BatchNorm1d(sizes[-1], affine=False)] if last else [])))  # type: ignore[return-value]


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}


def check_case(case: Case, file: Path, options: LoadOptions | None = None, size: int = 64) -> LoadedCheckpoint:
    """The file gives the features and the embedding of the project's module, to 1e-5, with a place for every tensor."""
    torch.save(case.content, file)
    loaded = load_checkpoint(file, options)
    report, encoder = loaded.report, loaded.encoder
    assert report.layout == case.layout
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in NORMALISATIONS[case.normalisation])
    with torch.no_grad():
        features = case.trunk((images / 255 - mean) / std)
        assert float(features.std()) > 1e-3
        torch.testing.assert_close(encoder.features(images), features, atol=1e-5, rtol=1e-5)
        if case.head is not None:
            torch.testing.assert_close(encoder.embed(images), normalize(case.head(features), dim=1), atol=1e-5, rtol=1e-5)
    assert report.has_projector == (case.head is not None)
    assert case.left <= report.left_over.keys()
    everything_told(loaded, case)
    return loaded


def everything_told(loaded: LoadedCheckpoint, case: Case) -> None:
    """Every tensor of the file has a place or a reason."""
    content = case.content
    state = content.get("state_dict", content.get("model", content)) if case.state is None else case.state
    places = loaded.report.places
    assert sorted([*places, *(key for key in loaded.report.left_over if key in state)]) == sorted(map(str, state))
    assert set(places.values()) == set(loaded.encoder.state_dict())
