"""Loading: every tensor placed or the file refused, and the features those of the module that was saved."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.reading import file_hash
from ssa_analysis.data.views import RECIPES
from ssa_analysis.errors import CheckpointError
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.seeding import seeded

Save = Callable[..., Path]
Payload = dict[str, Any]


def some_images(size: int = 16) -> Tensor:
    return torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_our_own_checkpoint_comes_back_whole(save: Save, payload: Payload, small_encoder: Encoder) -> None:
    path = save(payload)
    loaded = load_checkpoint(path)
    images = some_images()
    with torch.no_grad():
        assert torch.equal(loaded.encoder.embed(images), small_encoder.embed(images))
    assert not loaded.encoder.training
    assert loaded.encoder.recipe == RECIPES["digits"]
    assert loaded.encoder.loss == {"tau": 0.5, "beta": None}
    report = loaded.report
    assert (report.layout, report.arch, report.has_projector) == ("ssa-analyze", "convnet, width 4, cifar stem", True)
    assert (report.method, report.training["epoch"]) == ("ssa-clr", 3)
    assert report.parameters == sum(p.numel() for p in small_encoder.parameters())
    assert report.tensors == len(small_encoder.state_dict())
    assert report.sha256 == file_hash(path)
    assert report.left_over == {"optimizer": "optimizer state", "training": "settings of the run"}
    assert report.assumptions == []


def change(payload: Payload, where: str, value: Any) -> Payload:
    """A deep copy in which the entry at the dotted path is replaced, or removed where ``value`` is None."""
    changed = copy.deepcopy(payload)
    *parents, last = where.split("/")
    inner = changed
    for key in parents:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return changed


WEIGHT = "model/backbone.blocks.3.weight"  # (8, 4, 3, 3)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (WEIGHT, None, "does not fit convnet.*: 1 tensors are missing, first 'backbone.blocks.3.weight'"),
        ("model/extra.weight", torch.zeros(2), "1 have no place, first 'extra.weight'"),
        (WEIGHT, torch.zeros(8, 4, 1, 1), r"'backbone.blocks.3.weight' has shape \(8, 4, 1, 1\), .* expects \(8, 4, 3, 3\)"),
        (WEIGHT, torch.full((8, 4, 3, 3), float("nan")), "'backbone.blocks.3.weight' holds NaN or infinite weights"),
        (WEIGHT, torch.full((8, 4, 3, 3), float("inf")), "holds NaN or infinite weights"),
        ("model/backbone.blocks.1.running_var", torch.tensor([1.0, 1.0, float("nan"), 1.0]), "holds NaN or infinite"),
        (WEIGHT, [0.0], "'backbone.blocks.3.weight' is a list, not a dense tensor"),
        (WEIGHT, torch.zeros(8, 4, 3, 3, dtype=torch.int8), "int8 tensor.*must be dense floating-point"),
        (WEIGHT, torch.zeros(8, 4, 3, 3).to_sparse(), "is a sparse tensor, not a dense tensor"),
        ("encoder/arch", "convent", "looks like ssa-analyze, but unknown architecture 'convent'; did you mean convnet"),
        ("encoder/width", 8, r"has shape .* convnet, width 8, cifar stem expects"),
        ("encoder/width", "wide", "is damaged or of another version"),
        ("encoder/projector", [8, 8, 4], "does not fit"),
        ("encoder/mean", [0.5], "is damaged or of another version"),
        ("encoder", None, "is damaged or of another version .KeyError: 'encoder'"),
        ("recipe/brightnes", 0.4, "unknown view setting 'brightnes'; did you mean brightness"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(save: Save, payload: Payload, where: str, value: Any, message: str) -> None:
    path = save(change(payload, where, value))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_batchnorm_counters_may_be_missing(save: Save, payload: Payload, small_encoder: Encoder) -> None:
    """Files written before PyTorch 0.4.1 have none, and evaluation never reads them."""
    lean = change(payload, "model", {k: v for k, v in payload["model"].items() if not k.endswith("num_batches_tracked")})
    images = some_images()
    with torch.no_grad():
        assert torch.equal(load_checkpoint(save(lean)).encoder.features(images), small_encoder.features(images))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": torch.zeros(2), "b": torch.zeros(2)}, "unknown layout .first keys: .w., .b..: none of the .. known"),
        ({}, "unknown layout .first keys: none."),
        ([torch.zeros(2)], "holds a list, not a state dict"),
        (torch.zeros(2), "holds a Tensor, not a state dict"),
        ({1: torch.zeros(2)}, "unknown layout .first keys: 1."),
    ],
)  # fmt: skip
def test_an_unknown_layout_is_described(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "odd.pt")


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    """torchvision's ResNet-18 with random weights and lived-in running statistics, in evaluation mode."""
    with seeded(0, "torchvision"):
        net = torchvision.models.resnet18(weights=None)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
                module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
    return net.eval()


def expected_features(net: nn.Module, images: Tensor) -> Tensor:
    trunk = copy.copy(net)
    trunk._modules = {**net._modules, "fc": nn.Identity()}
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        return trunk((images.float() / 255 - mean) / std)


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 90, "best_acc1": 0.7},
    "model": lambda state: {"model": state},
    "module.": lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    "backbone.": lambda state: {f"backbone.{k}": v for k, v in state.items()},
    "module.encoder.": lambda state: {"state_dict": {f"module.encoder.{k}": v for k, v in state.items()}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_torchvision_s_resnet_gives_the_module_s_features(tmp_path: Path, resnet18: nn.Module, wrapping: str) -> None:
    torch.save(WRAPPINGS[wrapping](resnet18.state_dict()), tmp_path / "net.pth")
    loaded = load_checkpoint(tmp_path / "net.pth")
    images = some_images(64)
    with torch.no_grad():
        features = expected_features(resnet18, images)
        torch.testing.assert_close(loaded.encoder.features(images), features, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(loaded.encoder.logits(images), resnet18.fc(features), atol=1e-5, rtol=1e-5)
    report = loaded.report
    assert (report.layout, report.arch) == ("torchvision-resnet", "resnet18, width 64, imagenet stem")
    assert (report.has_projector, report.has_classifier) == (False, True)
    assert report.left_over == {}
    assert report.assumptions == ["input normalisation: ImageNet mean and std (the file does not say)"]
    assert report.method == "torchvision-resnet"  # the file does not say how it was trained


def test_safetensors_of_torchvision_give_the_same_features(tmp_path: Path, resnet18: nn.Module) -> None:
    save_file(resnet18.state_dict(), tmp_path / "net.safetensors")
    images = some_images(64)
    with torch.no_grad():
        features = load_checkpoint(tmp_path / "net.safetensors").encoder.features(images)
    torch.testing.assert_close(features, expected_features(resnet18, images), atol=1e-5, rtol=1e-5)


def cifar_state(prefix: str = "") -> dict[str, Tensor]:
    from ssa_analysis.models.backbones import build_backbone

    with seeded(1, "cifar"):
        return {f"{prefix}{k}": v for k, v in build_backbone("resnet18", 2, "cifar").state_dict().items()}


def test_a_3x3_stem_is_recognised_and_the_assumption_told(tmp_path: Path) -> None:
    torch.save(cifar_state(), tmp_path / "cifar.pt")
    report = load_checkpoint(tmp_path / "cifar.pt").report
    assert report.arch == "resnet18, width 2, cifar stem"
    assert len(report.assumptions) == 2
    assert "without max-pooling" in report.assumptions[1]
    assert report.left_over == {}


def test_heads_beside_the_backbone_are_listed_as_left_over(tmp_path: Path) -> None:
    heads = {"encoder.fc.weight", "projector.0.weight", "predictor.2.bias", "head.weight"}
    torch.save({**cifar_state("encoder."), **dict.fromkeys(heads, torch.zeros(2))}, tmp_path / "heads.pt")
    report = load_checkpoint(tmp_path / "heads.pt").report
    assert report.left_over.keys() == heads
    assert report.tensors == len(cifar_state())


@pytest.mark.parametrize("second", ["teacher.", "momentum_encoder."])
def test_a_second_network_in_the_file_is_not_passed_over(tmp_path: Path, second: str) -> None:
    """``teacher.`` is as long as ``encoder.``: cutting the prefix by length alone would take one for the other."""
    torch.save({**cifar_state("encoder."), **cifar_state(second)}, tmp_path / "two.pt")
    with pytest.raises(CheckpointError, match=f"of its tensors are of unknown use, first '{second}conv1.weight'"):
        load_checkpoint(tmp_path / "two.pt")


@pytest.mark.parametrize(
    ("change_state", "message"),
    [
        (lambda s: s.pop("layer2.0.bn1.weight"), "1 tensors are missing, first 'backbone.layer2.0.bn1.weight'"),
        (lambda s: s.update({"layer1.0.gate.weight": torch.zeros(2)}), "1 have no place, first 'backbone.layer1.0.gate.weight'"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("layer3.0.")], "not numbered one after the other"),
        (lambda s: [s.pop(k) for k in list(s) if "layer3.0.downsample" in k], "5 tensors are missing, first .*downsample"),
        (lambda s: s.update({"conv1.weight": torch.zeros(2, 3, 5, 5)}), "a stem of kernel 5 is not known"),
        (lambda s: s.update({"conv1.weight": torch.zeros(2, 1, 3, 3)}), r"'backbone.conv1.weight' has shape \(2, 1, 3, 3\)"),
        (lambda s: s.update({"conv1.weight": 5}), "damaged or of another version"),
    ],
)  # fmt: skip
def test_a_resnet_that_does_not_fit_is_refused(tmp_path: Path, change_state: Callable[[Any], Any], message: str) -> None:
    state = cifar_state()
    change_state(state)
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize(
    "training",
    [{}, {"settings": "x"}, {"settings": {"method": "simclr"}, "data": {"name": "d"}, "epoch": 1, "loss": 0.5}],
)
def test_a_broken_training_record_is_said(training: dict[str, object], tiny_checkpoint: Path, tmp_path: Path) -> None:
    payload = torch.load(tiny_checkpoint, weights_only=True)
    torch.save({**payload, "training": training}, tmp_path / "broken.pt")
    with pytest.raises(CheckpointError, match="training record"):
        load_checkpoint(tmp_path / "broken.pt")
