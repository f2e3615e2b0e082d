"""Files of projects that published a method: BYOL, SimCLR's conversions, VISSL, OpenMMLab, DINO's student.

The modules are built as each project builds them, and saved under the names that its code gives.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from project_modules import Case, check_case, lived_in, mlp, named, resnet, without_fc
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, normalize, pad
from torchvision.models.resnet import Bottleneck, ResNet

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.options import load_options
from ssa_analysis.errors import CheckpointError, SettingsError
from ssa_analysis.numerics.seeding import seeded


def byol_lucidrains() -> Case:
    net, head = resnet(head=nn.Linear(512, 7)), mlp(512, 64, 16)
    state = {
        **named(net, "net."), **named(net, "online_encoder.net."), **named(head, "online_encoder.projector."),
        **named(net, "target_encoder.net."), **named(head, "target_encoder.projector."),
        **named(mlp(16, 64, 16), "online_predictor."),
    }  # fmt: skip
    left = {"net.conv1.weight", "online_encoder.net.fc.weight", "target_encoder.net.bn1.bias", "online_predictor.0.weight"}
    return Case("byol-lucidrains", without_fc(net), head, state, left=left)


def byol_sthalles() -> Case:
    net, head = nn.Sequential(*list(resnet().children())[:-1]), mlp(512, 64, 16)
    online = {**named(net, "encoder."), **named(head, "projetion.net.")}
    content = {
        "online_network_state_dict": online, "target_network_state_dict": dict(online),
        "encoder_state_dict": net.state_dict(), "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 0.1}]},
    }  # fmt: skip
    left = {"target_network_state_dict", "encoder_state_dict"}
    return Case("byol-sthalles", lambda x: net(x).flatten(1), head, content, "none", left, online)


def wide(width: int) -> ResNet:
    """A bottleneck ResNet all of whose channels are multiplied, as in SimCLR v1 and VISSL."""
    net = ResNet(Bottleneck, [1, 1, 1, 1])
    net.conv1, net.bn1, net.inplanes = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), width
    for number in range(4):
        layer = net._make_layer(Bottleneck, width * 2**number, 1, stride=2 if number else 1)
        setattr(net, f"layer{number + 1}", layer)
    net.fc = nn.Identity()  # type: ignore[assignment]
    return lived_in(net)  # type: ignore[return-value]


def simclr_v1() -> Case:
    net = wide(128)
    state = {**net.state_dict(), **named(nn.Linear(4096, 5), "fc.")}
    return Case("simclr-v1", net, None, {"state_dict": state}, "none")


class NormRelu(nn.Sequential):
    def __init__(self, channels: int, relu: bool = True) -> None:
        super().__init__(nn.BatchNorm2d(channels), nn.ReLU() if relu else nn.Identity())


def conv(a: int, b: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(a, b, kernel, stride, (kernel - 1) // 2, bias=False)


class Select(nn.Module):
    def __init__(self, planes: int, stride: int) -> None:
        super().__init__()
        squeezed = max(int(planes * 0.0625), 32)
        self.main_conv = nn.Sequential(conv(planes, 2 * planes, 3, stride), NormRelu(2 * planes))
        self.mixing_conv = nn.Sequential(conv(planes, squeezed, 1), NormRelu(squeezed), conv(squeezed, 2 * planes, 1))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.main_conv(x).chunk(2, dim=1)
        a, b = self.mixing_conv((first + second).mean((2, 3), keepdim=True)).chunk(2, dim=1)
        share = torch.sigmoid(a - b)  # a softmax of two
        out: Tensor = share * first + (1 - share) * second
        return out


class Shortcut(nn.Module):
    def __init__(self, a: int, b: int, stride: int, sk: bool) -> None:
        super().__init__()
        self.stride, self.sk = stride, sk
        self.shortcut: Any = nn.Sequential(nn.Identity(), nn.Identity(), conv(a, b, 1)) if sk else conv(a, b, 1, stride)
        self.bn = NormRelu(b, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        x = avg_pool2d(pad(x, (0, 1, 0, 1)), 2, self.stride) if self.sk else x
        out: Tensor = self.bn(self.shortcut(x))
        return out


class V2Block(nn.Module):
    def __init__(self, a: int, planes: int, stride: int, sk: bool, first: bool) -> None:
        super().__init__()
        self.projection: nn.Module = Shortcut(a, 4 * planes, stride, sk) if first else nn.Identity()
        middle = [Select(planes, stride)] if sk else [conv(planes, planes, 3, stride), NormRelu(planes)]
        self.net = nn.Sequential(
            conv(a, planes, 1), NormRelu(planes), *middle, conv(planes, 4 * planes, 1), NormRelu(4 * planes, relu=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.projection(x) + self.net(x))


class V2(nn.Module):
    """SimCLR v2's ResNet with the names of Separius' code."""

    def __init__(self, sk: bool, depths: tuple[int, ...] = (2, 1, 1, 1), width: int = 16) -> None:
        super().__init__()
        half = width // 2
        deep = [conv(3, half, 3, 2), NormRelu(half), conv(half, half), NormRelu(half), conv(half, width)]
        stages: list[nn.Module] = [
            nn.Sequential(*(deep if sk else [conv(3, width, 7, 2)]), NormRelu(width), nn.MaxPool2d(3, 2, 1))
        ]
        channels = width
        for number, depth in enumerate(depths):
            planes, stage = width * 2**number, nn.Module()
            blocks = []
            for block in range(depth):
                blocks.append(V2Block(channels, planes, 2 if number and not block else 1, sk, not block))
                channels = 4 * planes
            stage.blocks = nn.Sequential(*blocks)
            stages.append(stage)
        self.net = nn.ModuleList(stages)
        self.fc = nn.Linear(channels, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.net[0](x)
        for stage in itertools.islice(self.net, 1, None):
            x = stage.blocks(x)  # type: ignore[operator, union-attr]
        return x.mean((2, 3))


def simclr_v2(sk: bool) -> Case:
    net, size = lived_in(V2(sk)), 512
    layers = [
        nn.Linear(size, size, bias=False),
        nn.BatchNorm1d(size),
        nn.ReLU(),
        nn.Linear(size, 8, bias=False),
        nn.BatchNorm1d(8),
    ]
    head = lived_in(nn.Sequential(*layers))
    content = {"resnet": net.state_dict(), "head": named(head, "layers.")}
    state = {**named(net, "resnet."), **named(head, "head.layers.")}
    return Case("simclr-v2-sk" if sk else "simclr-v2", net, head, content, "none", state=state)


def vissl(heads: dict[str, Tensor], head: nn.Module, left: set[str] = frozenset()) -> Case:  # type: ignore[assignment]
    net = wide(64)
    model = {"trunk": named(net, "_feature_blocks."), "heads": heads}
    content = {"phase_idx": 5, "loss": 0.1, "classy_state_dict": {"base_model": {"model": model, "meters": {}}}}
    state = {f"{part}.{key}": tensor for part, tensors in model.items() for key, tensor in tensors.items()}
    return Case("vissl", net, head, content, left=set(left), state=state)


def vissl_simclr() -> Case:
    """Two heads one after the other; the ReLU of the first has no tensors."""
    a, b = nn.Linear(2048, 32), nn.Linear(32, 8)
    return vissl({**named(a, "0.clf.0."), **named(b, "1.clf.0.")}, nn.Sequential(a, nn.ReLU(), b))


def vissl_swav() -> Case:
    head = mlp(2048, 32, 8)
    heads = {**named(head, "0.projection_head."), "0.prototypes0.weight": torch.zeros(30, 8)}
    return vissl(heads, head, {"heads.0.prototypes0.weight"})


def openmmlab(
    neck: dict[str, Tensor],
    head: nn.Module | None,
    more: dict[str, Tensor],
    left: set[str] = frozenset(),  # type: ignore[assignment]
) -> Case:
    net = resnet()
    content = {"meta": {"epoch": 200}, "state_dict": {**named(net, "backbone."), **neck, **more}, "optimizer": {"state": {}}}
    return Case("openmmlab", net, head, content, left=set(left))


def openmmlab_simclr() -> Case:
    """NonLinearNeck: fc0, bn0, ReLU, fc1, bn1; with BYOL's predictor and target."""
    layers = [nn.Linear(512, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8, bias=False), nn.BatchNorm1d(8)]
    head = lived_in(nn.Sequential(*layers))
    names = {"0.": "fc0.", "1.": "bn0.", "3.": "fc1.", "4.": "bn1."}
    neck = {f"neck.{names[key[:2]]}{key[2:]}": tensor for key, tensor in head.state_dict().items()}
    more = {"head.predictor.fc0.weight": torch.zeros(4, 8), "target_net.module.0.conv1.weight": torch.zeros(64, 3, 7, 7)}
    return openmmlab(neck, head, more, set(more))


def openmmlab_moco() -> Case:
    """The older MoCo: the neck is the second part of encoder_q, whose first part is the backbone once more."""
    head = mlp(512, 32, 8, norm=False)
    more = {"encoder_q.0.conv1.weight": torch.zeros(64, 3, 7, 7), "encoder_k.1.mlp.0.weight": torch.zeros(32, 512)}
    more["queue"] = torch.zeros(8, 16)
    return openmmlab(named(head, "encoder_q.1.mlp."), head, more, set(more))


def openmmlab_swav() -> Case:
    """Its BatchNorm is a child and a part of the Sequential, so the file has it twice."""
    head = mlp(512, 32, 8)
    more = {**named(head[1], "neck.bn."), "head.prototypes.weight": torch.zeros(9, 8)}
    return openmmlab(named(head, "neck.projection_neck."), head, more, {"neck.bn.weight", "head.prototypes.weight"})


CASES: dict[str, Callable[[], Case]] = {
    "byol, lucidrains": byol_lucidrains, "byol, sthalles": byol_sthalles, "simclr v1": simclr_v1,
    "simclr v2": lambda: simclr_v2(False), "simclr v2, sk": lambda: simclr_v2(True), "vissl, simclr": vissl_simclr,
    "vissl, swav": vissl_swav, "openmmlab, simclr": openmmlab_simclr, "openmmlab, moco": openmmlab_moco,
    "openmmlab, swav": openmmlab_swav,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_features_and_embedding_are_those_of_the_project_s_module(tmp_path: Path, name: str) -> None:
    with seeded(0, name):
        case = CASES[name]()
    check_case(case, tmp_path / "file.pth")


def test_logits_of_simclr_v2(tmp_path: Path) -> None:
    with seeded(0, "logits"):
        case = simclr_v2(True)
    loaded = check_case(case, tmp_path / "file.pth", size=50)  # an odd size of the maps in between
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = case.trunk(images) @ case.content["resnet"]["fc.weight"].T + case.content["resnet"]["fc.bias"]
        torch.testing.assert_close(loaded.encoder.logits(images), logits, atol=1e-5, rtol=1e-5)


def test_simclr_v1_of_the_usual_width_is_read_where_its_layout_is_named(tmp_path: Path) -> None:
    with seeded(0, "v1"):
        net = wide(64)
    state = {**net.state_dict(), **named(nn.Linear(2048, 5), "fc.")}
    case = Case("simclr-v1", net, None, {"state_dict": state}, "none")
    check_case(case, tmp_path / "file.pth", load_options(layout="simclr-v1"))
    assert load_checkpoint(tmp_path / "file.pth").report.layout == "torchvision-resnet"


def dino(student: nn.Module, teacher: nn.Module, head: nn.Module, prefix: str) -> dict[str, Any]:
    parts = {}
    for name, net in (("student", student), ("teacher", teacher)):
        parts[name] = {**named(net, f"{prefix}backbone."), **named(head, f"{prefix}head.mlp.")}
        parts[name][f"{prefix}head.last_layer.weight_g"] = torch.zeros(9, 1)
    return {**parts, "epoch": 1}


def test_dino_s_teacher_is_read_and_its_student_where_that_is_named(tmp_path: Path) -> None:
    with seeded(0, "dino"):
        student, teacher, head = resnet(), resnet(), mlp(512, 32, 8, norm=False)
    content = dino(student, teacher, nn.Sequential(head[0], nn.GELU(), head[2]), "module.")
    head = nn.Sequential(head[0], nn.GELU(), head[2])
    left = {"module.head.last_layer.weight_g"}
    case = Case("dino-resnet", teacher, head, content, left=left | {"student"}, state=content["teacher"])
    check_case(case, tmp_path / "file.pth")
    case = Case("dino-resnet-student", student, head, content, left=left | {"teacher"}, state=content["student"])
    check_case(case, tmp_path / "file.pth", load_options(layout="dino-resnet-student"))


def test_features_of_a_layer_before_the_last(tmp_path: Path) -> None:
    with seeded(0, "layer"):
        net, head = resnet(), mlp(512, 16, 8)
    state = {**named(net, "module.backbone."), **named(head, "module.projector.")}
    torch.save({"model": state}, tmp_path / "file.pth")
    report = load_checkpoint(tmp_path / "file.pth", load_options(recipe=["feature_layer=layer2", "normalisation=none"]))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        x = net.maxpool(net.relu(net.bn1(net.conv1(images))))  # type: ignore[operator]
        features = net.layer2(net.layer1(x)).mean((2, 3))  # type: ignore[operator]
        torch.testing.assert_close(report.encoder.features(images), features, atol=1e-5, rtol=1e-5)
    assert report.encoder.projector is None
    reasons = {report.report.left_over[key] for key in ("module.backbone.layer3.0.bn1.weight", "module.projector.0.weight")}
    assert reasons == {"behind the feature layer layer2"}
    assert "features: the output of layer2 (as you say)" in report.report.assumptions
    with pytest.raises((CheckpointError, SettingsError), match=r"layer5.*did you mean layer4"):
        load_checkpoint(tmp_path / "file.pth", load_options(recipe=["feature_layer=layer5"]))


def test_a_setting_that_does_not_matter_is_refused(tmp_path: Path) -> None:
    torch.save(resnet().state_dict(), tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="heads does not matter to the architecture of this file"):
        load_checkpoint(tmp_path / "file.pth", load_options(recipe=["heads=3"]))


def test_the_features_as_embedding_where_that_is_said(tmp_path: Path) -> None:
    with seeded(0, "embedding"):
        net = resnet()
    torch.save(net.state_dict(), tmp_path / "file.pth")
    options = load_options(embedding="features")
    loaded, images = load_checkpoint(tmp_path / "file.pth", options), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encoder.embed(images), normalize(loaded.encoder.features(images), dim=1))
    assert not loaded.report.has_projector
    assert "embedding: the features themselves (as you say)" in loaded.report.assumptions
    assert options.identity != load_options().identity
    assert options.said == {"embedding": "features"}
    with pytest.raises(SettingsError, match=r"feature.*did you mean features"):
        load_options(embedding="feature")


def without_a_block(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace("layer1.1", "layer1.2"): tensor for key, tensor in state.items()}


def without_a_stage(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.startswith("layer2")}


@pytest.mark.parametrize("spoil", [without_a_block, without_a_stage])
def test_blocks_that_are_not_numbered_one_after_the_other_are_refused(tmp_path: Path, spoil: Any) -> None:
    torch.save(spoil(resnet().state_dict()), tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="not numbered one after the other"):
        load_checkpoint(tmp_path / "file.pth")


def test_buffers_that_a_module_does_not_keep_are_not_part_of_its_state(tmp_path: Path) -> None:
    with seeded(0, "buffer"):
        net = resnet()
    net.register_buffer("scratch", torch.zeros(3), persistent=False)
    torch.save(net, tmp_path / "net.pth")
    assert "scratch" not in load_checkpoint(tmp_path / "net.pth").report.left_over
    net.register_buffer("kept", torch.zeros(3))
    torch.save(net, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="of unknown use, first 'kept'"):
        load_checkpoint(tmp_path / "net.pth")
