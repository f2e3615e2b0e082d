"""The doctor on networks that are sound, and on the same ones with one thing wrong at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ssa_analysis.checkpoints.options import LoadOptions, load_options
from ssa_analysis.data.datasets import Data
from ssa_analysis.diagnosis import Finding, diagnose
from ssa_analysis.diagnosis.fit import image_size
from ssa_analysis.diagnosis.statistics import augmentations, distance
from ssa_analysis.measures.base import resolve_recipe
from ssa_analysis.measures.fixed_loss import probe_as_layer
from ssa_analysis.models.backbones import STEMS, ResNet, ResNetPlan
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.models.small import LeNet
from ssa_analysis.numerics.seeding import seeded

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STEM = STEMS["cifar"]


def with_statistics(encoder: Encoder, images: Tensor) -> Encoder:
    """BatchNorm's statistics as training on these images would leave them."""
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    encoder.train()
    with torch.no_grad():
        for _ in range(8):  # each pass with the statistics of the one before does not matter: training uses the batch's
            encoder.features(images)
    return encoder.eval()


def resnet(digits: Data, plan: ResNetPlan | None = None, how: str = "crops with a black margin") -> Encoder:
    """A narrow ResNet with random weights and the statistics of the training images, seen through one augmentation."""
    plan = plan or ResNetPlan(False, (1, 1, 1, 1), 8, STEM)
    with seeded(0, "doctor"):
        encoder = Encoder(ResNet(plan), None, *IMAGENET)
    shown = augmentations(digits.images_of("train"), resolve_recipe(encoder, digits, "own"), 1)
    return with_statistics(encoder, shown[how])


def save(encoder: Encoder, file: Path) -> Path:
    torch.save(encoder.backbone.state_dict(), file)
    return file


def verdicts(findings: list[Finding]) -> dict[str, str]:
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding.verdict for finding in findings}


def seen(findings: list[Finding], check: str) -> str:
    return next(finding.seen for finding in findings if finding.check == check)


@pytest.mark.parametrize("how", ["as they are", "crops with a black margin", "crops of 80 to 100 %", "views of the recipe"])
def test_a_network_that_is_read_as_it_was_trained_is_ok(tmp_path: Path, digits: Data, how: str) -> None:
    findings = diagnose(save(resnet(digits, how=how), tmp_path / "net.pth"), digits)
    found = verdicts(findings)
    assert {name for name, verdict in found.items() if verdict == "broken"} == set()
    assert [found[name] for name in ("file", "BatchNorm statistics", "normalisation", "stem", "features")] == ["ok"] * 5
    assert how in seen(findings, "BatchNorm statistics")
    assert found["projector"] == "suspicious"  # neither projector nor classifier


@pytest.mark.parametrize(
    ("plan", "recipe", "told"),
    [
        (dataclasses.replace(STEM, padding=2), [], "padding 2 of the stem"),
        (STEM, ["stem_padding=2"], "padding 1 of the stem"),
        (dataclasses.replace(STEM, relu=False), [], "no ReLU after the stem"),
        (STEM, ["stem_relu=no"], "ReLU after the stem"),
        (dataclasses.replace(STEM, max_pool=True), [], "max-pooling"),
        (STEM, ["stem_stride=2"], "stride 1 of the stem"),
    ],
)
def test_a_wrong_stem_is_suspicious_and_the_right_one_is_named(
    tmp_path: Path, digits: Data, plan: object, recipe: list[str], told: str
) -> None:
    net = resnet(digits, ResNetPlan(False, (1, 1, 1, 1), 8, plan))  # type: ignore[arg-type]
    findings = diagnose(save(net, tmp_path / "net.pth"), digits, load_options(recipe=recipe))
    assert verdicts(findings)["stem"] == "suspicious"
    assert f"with {told}, which fits better" in seen(findings, "stem")


def test_a_missing_skip_connection_is_told_from_option_a(tmp_path: Path, digits: Data) -> None:
    net = resnet(digits, ResNetPlan(False, (2, 2, 2), 8, STEM, shortcut="none"))
    file = save(net, tmp_path / "net.pth")
    assert verdicts(diagnose(file, digits, load_options(recipe=["shortcut=none"])))["stem"] == "ok"
    findings = diagnose(file, digits, load_options(recipe=["shortcut=pad"]))
    assert "with no skip connections, which fits better" in seen(findings, "stem")


@pytest.mark.parametrize(("name", "verdict"), [("none", "broken"), ("half", "broken"), ("cifar10-resnets", "suspicious")])
def test_a_wrong_normalisation_is_found_and_the_right_one_named(tmp_path: Path, digits: Data, name: str, verdict: str) -> None:
    file = save(resnet(digits), tmp_path / "net.pth")
    findings = diagnose(file, digits, load_options(recipe=[f"normalisation={name}"]))
    assert verdicts(findings)["normalisation"] in (verdict, "broken")
    assert "try --normalise imagenet" in seen(findings, "normalisation")


def test_other_images_than_those_of_training_are_told(tmp_path: Path, digits: Data) -> None:
    noise = torch.randint(0, 256, digits.images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    findings = diagnose(save(resnet(digits), tmp_path / "net.pth"), dataclasses.replace(digits, images=noise))
    assert verdicts(findings)["BatchNorm statistics"] == "suspicious"
    assert verdicts(findings)["normalisation"] != "ok"


def test_distance_is_the_divergence_of_normal_distributions(digits: Data) -> None:
    """In a network of one BatchNorm, by hand, in batches of different sizes."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.feature_dim = nn.BatchNorm2d(3), 3
            self.norm.running_mean, self.norm.running_var = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.05, 1.0])

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x).mean((2, 3))  # type: ignore[no-any-return]

    encoder, images = Encoder(One(), None, (0.0,) * 3, (1.0,) * 3).eval(), torch.rand(200, 3, 5, 5)
    x = images.double().transpose(0, 1).flatten(1)
    met = torch.distributions.Normal(x.mean(1), (x.var(1, unbiased=False) + 1e-5).sqrt())
    kept = torch.distributions.Normal(torch.tensor([0.1, 0.2, 0.3]), (torch.tensor([0.5, 0.05, 1.0]) + 1e-5).sqrt())
    wanted = float(torch.distributions.kl_divergence(met, kept).mean())
    assert distance(encoder, images).median == pytest.approx(wanted, rel=1e-5)
    assert distance(encoder, images, only_first=True).first == pytest.approx(wanted, rel=1e-5)


def broken_nan(state: dict[str, Tensor]) -> None:
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = float("nan")


def broken_zero(state: dict[str, Tensor]) -> None:
    state["layer2.0.conv1.weight"].zero_()


def some_zero(state: dict[str, Tensor]) -> None:
    state["layer2.0.conv1.weight"][:4] = 0


def silent(state: dict[str, Tensor]) -> None:
    state["layer3.0.bn2.weight"].zero_()


def fresh(state: dict[str, Tensor]) -> None:
    for name, tensor in state.items():
        if "running" in name:
            tensor.fill_(1.0 if "var" in name else 0.0)


def half_fresh(state: dict[str, Tensor]) -> None:
    state["layer3.0.bn2.running_mean"].zero_()
    state["layer3.0.bn2.running_var"].fill_(1)


def dead(state: dict[str, Tensor]) -> None:
    """The last block's BatchNorms push a quarter of the channels far below zero."""
    for name in ("layer4.0.bn2", "layer4.0.downsample.1"):
        state[f"{name}.bias"][:16] = -1000


def collapsed(state: dict[str, Tensor]) -> None:
    for name in ("layer4.0.bn2", "layer4.0.downsample.1"):
        state[f"{name}.bias"].fill_(1000)


@pytest.mark.parametrize(
    ("spoil", "check", "verdict", "told"),
    [
        (broken_nan, "finite weights", "broken", "backbone.layer2.0.conv1.weight: the training has diverged"),
        (broken_nan, "features", "unknown", "not tried: the weights are not finite"),
        (broken_zero, "zero weights", "broken", "backbone.layer2.0.conv1.weight: all zero"),
        (some_zero, "zero weights", "suspicious", "layer2.0.conv1.weight (25%)"),
        (silent, "zero weights", "suspicious", "BatchNorm scales of zero in backbone.layer3.0.bn2"),
        (fresh, "training", "broken", "it has seen no image"),
        (half_fresh, "training", "suspicious", "1 of 12 BatchNorm layers"),
        (dead, "dead units", "suspicious", "16 of 64 never change"),
        (collapsed, "features", "broken", "collapsed"),
    ],
)
def test_weights_that_are_not_sound(
    tmp_path: Path, digits: Data, spoil: Callable[[dict[str, Tensor]], None], check: str, verdict: str, told: str
) -> None:
    net = resnet(digits)
    state = net.backbone.state_dict()
    spoil(state)
    torch.save(state, tmp_path / "net.pth")
    findings = diagnose(tmp_path / "net.pth", digits)
    assert verdicts(findings)[check] == verdict
    assert told in seen(findings, check)


def test_a_file_of_our_own_and_one_that_was_never_trained(tmp_path: Path, digits: Data, tiny_checkpoint: Path) -> None:
    findings = diagnose(tiny_checkpoint, digits)
    found = verdicts(findings)
    assert {name for name, verdict in found.items() if verdict == "broken"} == set()
    assert (found["projector"], found["training"], found["normalisation"]) == ("ok", "ok", "unknown")
    assert found["BatchNorm statistics"] == "suspicious"  # after nine batches
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["model"] = {**content["model"], **content["initial"]}
    torch.save(content, tmp_path / "fresh.pt")
    assert "it was never trained" in seen(diagnose(tmp_path / "fresh.pt", digits), "training")


def test_an_embedding_that_has_collapsed_where_the_features_have_not(tmp_path: Path, digits: Data, tiny_checkpoint: Path) -> None:
    content = torch.load(tiny_checkpoint, weights_only=True)
    last = max(name for name in content["model"] if name.startswith("projector") and name.endswith("weight"))
    content["model"][last] *= 1e-4
    content["model"][last.replace("weight", "bias")] += 1
    torch.save(content, tmp_path / "collapsed.pt")
    found = verdicts(diagnose(tmp_path / "collapsed.pt", digits))
    assert found["embedding"] == "broken"
    assert found["features"] != "broken"


def lenet(digits: Data) -> tuple[Encoder, nn.Linear]:
    """A LeNet with random weights, and the linear probe of its features as classifier."""
    with seeded(0, "lenet"):
        encoder = Encoder(LeNet(6, 16, 40, 24), None, (0.5,) * 3, (0.5,) * 3).eval()
    return encoder, probe_as_layer(encoder, digits, 0)


def as_lenet(encoder: Encoder, classifier: nn.Linear, file: Path) -> Path:
    torch.save({**encoder.backbone.state_dict(), **{f"fc3.{k}": v for k, v in classifier.state_dict().items()}}, file)
    return file


@pytest.fixture
def large_digits(digits: Data) -> Data:
    """The digits with 32 pixels, which a LeNet takes."""
    images = torch.nn.functional.interpolate(digits.images.float(), (32, 32), mode="bilinear").round().clamp(0, 255)
    return dataclasses.replace(digits, images=images.to(torch.uint8), fingerprint="large")


def test_without_batchnorm_the_classifier_s_loss_tells_the_normalisation(tmp_path: Path, large_digits: Data) -> None:
    file = as_lenet(*lenet(large_digits), tmp_path / "lenet.pth")
    found = verdicts(diagnose(file, large_digits))
    assert (found["classifier"], found["normalisation"], found["BatchNorm statistics"]) == ("ok", "ok", "unknown")
    findings = diagnose(file, large_digits, load_options(recipe=["normalisation=cifar10-resnets"]))
    assert verdicts(findings)["normalisation"] == "suspicious"
    assert "try --normalise half" in seen(findings, "normalisation")


def test_a_classifier_at_chance_or_of_other_classes(tmp_path: Path, large_digits: Data) -> None:
    encoder, classifier = lenet(large_digits)
    fewer = nn.Linear(24, 7)
    assert "tells 7 classes apart, the data has 10" in seen(
        diagnose(as_lenet(encoder, fewer, tmp_path / "7.pth"), large_digits), "classifier"
    )
    with torch.no_grad():  # each class called by the next one's number
        classifier.weight.copy_(classifier.weight.roll(1, 0))
        classifier.bias.copy_(classifier.bias.roll(1, 0))
    findings = diagnose(as_lenet(encoder, classifier, tmp_path / "rolled.pth"), large_digits)
    assert verdicts(findings)["classifier"] == "broken"


@pytest.mark.parametrize(("trained", "size", "verdict"), [(None, 32, "unknown"), (224, 32, "suspicious"), (32, 40, "ok")])
def test_the_size_of_the_images(trained: int | None, size: int, verdict: str) -> None:
    assert image_size(trained, size).verdict == verdict


def test_a_file_that_cannot_be_read_is_one_broken_line(tmp_path: Path, digits: Data) -> None:
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    findings = diagnose(tmp_path / "bad.pth", digits, LoadOptions())
    assert [(finding.check, finding.verdict) for finding in findings] == [("file", "broken")]
