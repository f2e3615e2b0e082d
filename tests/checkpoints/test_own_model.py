"""A user's own architecture: what its parts become, which files fit it, and what is said where they do not."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ssa_analysis.checkpoints.loading import LoadedCheckpoint, load_checkpoint
from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.checkpoints.own_model import NORMALISATIONS, parse_model, parse_normalisation
from ssa_analysis.errors import CheckpointError, MeasureError, SettingsError
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.seeding import seeded

HEADER = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=5, child="fc"):
        super().__init__()
        self.child = child
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.bn = nn.BatchNorm2d(4)
        setattr(self, child, nn.Linear(4, classes))

    def forward(self, x):
        h = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        return getattr(self, self.child)(h)
"""
Write = Callable[..., str]
Loader = Callable[..., LoadedCheckpoint]


def images(size: int = 16) -> Tensor:
    return torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(code)`` makes ``net.py`` with ``Net`` and that code, and returns its path."""

    def make(code: str = "", name: str = "net.py", header: str = HEADER) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(header + code)
        return str(path)

    return make


def namespace(code: str, header: str = HEADER) -> dict[str, Any]:
    """What the code defines, for the original of a module."""
    names: dict[str, Any] = {}
    exec(header + code, names)
    return names


def randomised(module: nn.Module) -> nn.Module:
    """The module in evaluation mode with weights and statistics that are none of the defaults."""
    with seeded(1, "own model"), torch.no_grad():
        for key, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in key else 0.3 * torch.randn_like(tensor))
    return module.eval()


@pytest.fixture
def load(tmp_path: Path, write: Write) -> Loader:
    """``load(content, code)`` saves the content and loads it with ``build`` of that code."""

    def go(
        content: Any, code: str, function: str = "build", normalise: str | None = "half", name: str = "net.py"
    ) -> LoadedCheckpoint:
        path = tmp_path / "mine.pt"
        torch.save(content, path)
        return load_checkpoint(path, LoadOptions(parse_model(f"{write(code, name)}:{function}", normalise)))

    return go


BUILD = "def build():\n    return Net()\n"


def net(code: str = BUILD) -> nn.Module:
    """The randomised module that ``build`` of the code returns."""
    return randomised(namespace(code)["build"]())


@pytest.fixture
def state() -> dict[str, Tensor]:
    return dict(net().state_dict())


def half(x: Tensor) -> Tensor:
    return (x.float() / 255 - 0.5) / 0.5


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


class TestParts:
    @pytest.mark.parametrize("child", ["fc", "linear", "classifier", "head", "heads"])
    def test_a_supervised_module_gives_features_and_logits(self, load: Loader, child: str) -> None:
        code = f"def build():\n    return Net(child={child!r})\n"
        original = net(code)
        loaded = load(original.state_dict(), code)
        encoder, report = loaded.encoder, loaded.report
        with torch.no_grad():
            close(encoder.logits(images()), original(half(images())))
            close(encoder.classifier(encoder.features(images())), original(half(images())))
        assert encoder.features(images()).shape == (3, 4)
        assert (report.layout, report.arch, report.method) == ("own model", "build of net.py", "build of net.py")
        assert (report.has_classifier, report.has_projector, report.left_over) == (True, False, {})
        assert report.tensors == len(original.state_dict())
        assert report.parameters == sum(p.numel() for p in original.parameters())
        assert report.assumptions == [f"features: what goes into {child}"]
        assert not any(module.training for module in encoder.modules())

    @pytest.mark.parametrize(
        ("code", "size"),
        [
            (
                "from torchvision.models import VisionTransformer\ndef build():\n    return VisionTransformer("
                "image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5)\n",
                16,
            ),
            ("import torchvision\ndef build():\n    return torchvision.models.resnet18(num_classes=5)\n", 32),
            # their classifiers take feature maps, not rows
            (
                "from torchvision.models.convnext import ConvNeXt, CNBlockConfig\ndef build():\n    return ConvNeXt("
                "[CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=5)\n",
                32,
            ),
            ("import torchvision\ndef build():\n    return torchvision.models.squeezenet1_1(num_classes=5)\n", 48),
        ],
        ids=["vit", "resnet18", "convnext", "squeezenet"],
    )
    def test_networks_of_torchvision(self, load: Loader, code: str, size: int) -> None:
        with seeded(0, "weights"):
            original = namespace(code)["build"]().eval()
        encoder = load(original.state_dict(), code).encoder
        with torch.no_grad():
            h = encoder.features(images(size))
            assert h.ndim == 2
            close(encoder.logits(images(size)), original(half(images(size))))
            close(encoder.classifier(h), original(half(images(size))))

    def test_a_classifier_that_was_taken_out_is_none(self, load: Loader) -> None:
        code = "def build():\n    net = Net()\n    net.fc = nn.Identity()\n    return net\n"
        original = net(code)
        loaded = load(original.state_dict(), code)
        assert not loaded.report.has_classifier
        close(loaded.encoder.features(images()), original(half(images())))

    @pytest.mark.parametrize("head", ["projector", "projection_head", "projection"])
    @pytest.mark.parametrize("base", ["backbone", "encoder"])
    def test_backbone_and_projector(self, load: Loader, base: str, head: str) -> None:
        code = f"""
class Ssl(nn.Module):
    def __init__(self):
        super().__init__()
        self.{base} = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.{head} = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
        self.prediction_head = nn.Linear(3, 3)
        self.register_buffer("queue", torch.zeros(7, 3))
        self.fc = nn.Linear(4, 5)
    def forward(self, x):
        raise RuntimeError("training only")
def build():
    return Ssl()
"""
        original = net(code)
        loaded = load({"epoch": 3, "state_dict": original.state_dict()}, code)
        with torch.no_grad():
            h = getattr(original, base)(half(images())).flatten(1)
            close(loaded.encoder.features(images()), h)
            close(loaded.encoder.embed(images()), nn.functional.normalize(getattr(original, head)(h), dim=1))
            close(loaded.encoder.logits(images()), original.fc(h))
        part = "part of the model, not of its features, projector or classifier"
        assert loaded.report.left_over == dict.fromkeys(["queue", "prediction_head.weight", "prediction_head.bias"], part)
        assert loaded.report.assumptions == [f"features: the output of {base}"]

    def test_a_backbone_with_a_classifier_keeps_what_lies_between_them(self, load: Loader) -> None:
        """As in torchvision's ViT, whose child ``encoder`` takes tokens and not images."""
        code = """
class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.fc = nn.Linear(4, 5)
    def forward(self, x):
        return self.fc(self.norm(self.encoder(x).amax((2, 3))))
def build():
    return Two()
"""
        original = net(code)
        close(load(original.state_dict(), code).encoder.logits(images()), original(half(images())))

    def test_a_backbone_alone(self, load: Loader) -> None:
        code = "def build():\n    net = nn.Module()\n    net.backbone = nn.Conv2d(3, 4, 3)\n    return net\n"
        original = net(code)
        close(load(original.state_dict(), code).encoder.features(images()), original.backbone(half(images())).flatten(1))

    def test_a_projector_without_a_backbone_is_a_layer_like_others(self, load: Loader) -> None:
        code = """
class Odd(Net):
    def __init__(self):
        super().__init__()
        self.projector = nn.Conv2d(3, 3, 1)
    def forward(self, x):
        return super().forward(self.projector(x))
def build():
    return Odd()
"""
        original = net(code)
        loaded = load(original.state_dict(), code)
        close(loaded.encoder.logits(images()), original(half(images())))
        assert not loaded.report.has_projector

    def test_a_module_without_known_children_is_all_features(self, load: Loader) -> None:
        code = "def build():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())\n"
        original = net(code)
        loaded = load(original.state_dict(), code)
        close(loaded.encoder.features(images()), original(half(images())).flatten(1))
        assert loaded.report.assumptions == ["features: the module's output (no known classifier)"]
        with pytest.raises(MeasureError, match="no classifier"):
            loaded.encoder.logits(images())

    def test_an_encoder_is_taken_as_it_is(self, load: Loader) -> None:
        code = """
from ssa_analysis import Encoder
def build():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    return Encoder(backbone, nn.Linear(4 * 14 * 14, 3), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), loss={"tau": 0.2})
"""
        original = net(code)
        assert isinstance(original, Encoder)
        loaded = load(original.state_dict(), code, normalise=None)
        close(loaded.encoder.embed(images()), original.embed(images()))
        assert loaded.encoder.loss == {"tau": 0.2}
        assert loaded.report.assumptions == []
        said = load(original.state_dict(), code, normalise="cifar10")
        assert "--normalise is not used" in said.report.assumptions[0]
        close(said.encoder.embed(images()), original.embed(images()))

    def test_a_function_with_one_argument_places_the_weights(self, load: Loader) -> None:
        code = "def build(content):\n    net = Net()\n    net.load_state_dict(content['ema']['shadow'])\n    return net\n"
        original = net()
        loaded = load({"ema": {"shadow": original.state_dict()}, "lr": 0.1}, code)
        close(loaded.encoder.logits(images()), original(half(images())))
        assert loaded.report.assumptions[0] == "the weights are those that build has placed"
        broken = {key: value * float("nan") for key, value in original.state_dict().items()}
        with pytest.raises(CheckpointError, match="NaN or infinite"):
            load({"ema": {"shadow": broken}}, code)

    def test_a_class_or_a_partial_is_a_function_too(self, load: Loader, state: dict[str, Tensor]) -> None:
        code = "from functools import partial\nsmall = partial(Net, classes=5)\n"
        assert load(state, code, "Net").report.arch == "Net of net.py"
        assert load(state, code, "small").report.has_classifier

    @pytest.mark.parametrize("wrap", ["nn.DataParallel(Net())", "torch.compile(Net())", "Net().double()", "Net().half()"])
    def test_wrapped_modules_and_other_precisions(self, load: Loader, wrap: str) -> None:
        original = net()
        encoder = load(original.state_dict(), f"def build():\n    return {wrap}\n").encoder
        close(encoder.logits(images()), original(half(images())))
        assert {p.dtype for p in encoder.parameters()} == {torch.float32}

    def test_frozen_weights_are_weights_like_the_others(self, load: Loader, state: dict[str, Tensor]) -> None:
        encoder = load(state, "def build():\n    return Net().requires_grad_(False)\n").encoder
        assert all(p.requires_grad for p in encoder.parameters())

    def test_the_normalisation_is_applied(self, load: Loader) -> None:
        original = net()
        x = images().float() / 255
        for name, (mean, std) in NORMALISATIONS.items():
            m, s = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
            close(load(original.state_dict(), BUILD, normalise=name).encoder.logits(images()), original((x - m) / s))

    def test_features_that_are_no_tensor(self, load: Loader) -> None:
        code = "class Pair(nn.Conv2d):\n    def forward(self, x):\n        return x, x\ndef build():\n    return Pair(3, 2, 1)\n"
        encoder = load(net(code).state_dict(), code).encoder
        with pytest.raises(MeasureError, match="returns a tuple for a batch of images, not a tensor"):
            encoder.features(images())


class TestNames:
    @pytest.mark.parametrize("prefix", ["", "module.", "model.", "net.", "model._orig_mod.", "module.encoder_q."])
    @pytest.mark.parametrize("container", [None, "state_dict", "model"])
    def test_one_prefix_before_all_names(self, load: Loader, prefix: str, container: str | None) -> None:
        original = net()
        named = {prefix + key: value for key, value in original.state_dict().items()}
        loaded = load({container: named, "epoch": 7} if container else named, BUILD)
        close(loaded.encoder.logits(images()), original(half(images())))
        assert loaded.report.left_over == {}

    def test_a_lightning_file_with_more_than_the_model(self, load: Loader, state: dict[str, Tensor]) -> None:
        content = {
            "epoch": 3, "global_step": 100, "pytorch-lightning_version": "2.2.0", "optimizer_states": [{"state": {}}],
            "state_dict": {f"model.{k}": v for k, v in state.items()} | {"queue": torch.zeros(4, 2), "step": 3},
            "hyper_parameters": {"lr": 0.1},
        }  # fmt: skip
        report = load(content, BUILD).report
        assert report.left_over == {"queue": "not under 'model.', where the model's names are", "step": "not a tensor"}

    def test_safetensors(self, tmp_path: Path, write: Write, state: dict[str, Tensor]) -> None:
        save_file({f"module.{k}": v for k, v in state.items()}, tmp_path / "mine.safetensors")
        assert load_checkpoint(
            tmp_path / "mine.safetensors", LoadOptions(parse_model(f"{write(BUILD)}:build", "half"))
        ).report.has_classifier

    def test_step_counters_may_be_absent(self, load: Loader, state: dict[str, Tensor]) -> None:
        del state["bn.num_batches_tracked"]
        assert load(state, BUILD).report.tensors == len(state)

    def test_two_places_are_ambiguous_unless_one_is_bare(self, load: Loader, state: dict[str, Tensor]) -> None:
        twice = {p + k: v for p in ("encoder_q.", "encoder_k.") for k, v in state.items()}
        with pytest.raises(CheckpointError, match=r"more than once \('encoder_q\.', 'encoder_k\.'\)"):
            load(twice, BUILD)
        with pytest.raises(CheckpointError, match=r"no place for, first 'ema\.conv\.weight'"):
            load(state | {f"ema.{k}": v for k, v in state.items()}, BUILD)

    def test_a_number_is_not_cut_in_two(self, load: Loader) -> None:
        """``10.weight`` is not ``0.weight`` behind the prefix ``1``."""
        code = "def build():\n    return nn.Sequential(nn.Conv2d(3, 4, 3))\n"
        with pytest.raises(CheckpointError, match=r"2 of the model's 2 tensors are not in the file, first '0\.weight'"):
            load({"10.weight": torch.zeros(4, 3, 3, 3), "10.bias": torch.zeros(4)}, code)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s.pop("bn.weight"), r"1 of the model's 8 tensors are not in the file, first 'bn\.weight'"),
            (lambda s: s.pop("bn.running_var"), r"not in the file, first 'bn\.running_var'"),
            (lambda s: s.pop("conv.weight"), r"not in the file, first 'conv\.weight'; the file begins with 'conv\.bias', 'bn\."),
            (lambda s: s.update(extra=torch.zeros(2)), r"tensors that the model has no place for, first 'extra'"),
            (lambda s: s.update({"fc.weight": torch.zeros(7, 4)}), r"has shape \(7, 4\), build of net\.py expects \(5, 4\)"),
            (lambda s: s["fc.bias"].fill_(float("nan")), "NaN or infinite"),
            (lambda s: s.update({"fc.bias": torch.zeros(5, dtype=torch.long)}), "int64 tensor.*floating-point"),
            (lambda s: s.update({"fc.bias": 3.0}), "is a float, not a dense tensor"),
            (lambda s: s.update({"fc.bias": None}), r"'classifier\.bias'"),
            (dict.clear, "8 of the model's 8 tensors are not in the file.*begins with nothing"),
        ],
    )
    def test_a_file_that_does_not_fit(self, load: Loader, state: dict[str, Tensor], change: Any, message: str) -> None:
        change(state)
        with pytest.raises(CheckpointError, match=message) as error:
            load(state, BUILD)
        assert "mine.pt" in str(error.value)

    def test_a_file_that_holds_no_state_dict(self, load: Loader) -> None:
        with pytest.raises(CheckpointError, match="it holds a list, not a state dict"):
            load([torch.zeros(3)], BUILD)


TIED = """
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 3, 1)
        self.b = nn.Conv2d(3, 3, 1)
        self.b.weight = self.a.weight
        self.decoder = nn.Conv2d(3, 3, 1)
        self.decoder.weight = self.a.weight
        self.fc = nn.Linear(3, 2)
    def forward(self, x):
        return self.fc(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))
def build():
    return Tied()
"""


class TestTied:
    @pytest.mark.parametrize("absent", [[], ["a.weight"], ["b.weight"], ["a.weight", "b.weight"], ["decoder.weight"]])
    def test_tied_weights_need_one_name(self, load: Loader, absent: list[str]) -> None:
        original = net(TIED)
        loaded = load({k: v.clone() for k, v in original.state_dict().items() if k not in absent}, TIED)
        close(loaded.encoder.logits(images()), original(half(images())))
        backbone = loaded.encoder.backbone[0]
        assert backbone.a.weight is backbone.b.weight

    def test_all_names_absent(self, load: Loader) -> None:
        with pytest.raises(CheckpointError, match=r"not in the file, first 'a\.weight'"):
            load({k: v for k, v in net(TIED).state_dict().items() if k not in ("a.weight", "b.weight", "decoder.weight")}, TIED)

    @pytest.mark.parametrize("name", ["b.weight", "decoder.weight"])
    def test_a_file_that_does_not_tie_them_is_refused(self, load: Loader, name: str) -> None:
        state = {k: v.clone() for k, v in net(TIED).state_dict().items()}
        state[name] += 1
        with pytest.raises(CheckpointError, match=rf"'{name}' is tied to another weight in the model, but differs"):
            load(state, TIED)


class TestUserCode:
    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("def build():\n    return {}['width']\n", r"failed with KeyError.*'width' \(net\.py, line \d+\)"),
            ("def build():\n    return nn.Linear(-1, 2)\n", r"failed with RuntimeError: .* \(net\.py, line \d+\)"),
            ("def build():\n    raise SystemExit('usage')\n", r"failed with SystemExit.*usage"),
            ("def build():\n    return 3\n", "returned a int, not a torch.nn.Module"),
            ("def build():\n    return Net\n", "returned a type, not a torch.nn.Module"),
            ("def build():\n    return nn.ReLU()\n", "module without weights"),
            ("def build():\n    return nn.LazyLinear(3)\n", "no memory yet"),
            ("def build():\n    return Net().to('meta')\n", "no memory yet"),
            ("import not_there_at_all\n", r"net\.py cannot be run: ModuleNotFoundError.*not_there_at_all.*line \d+\)"),
            ("def build(:\n", r"net\.py cannot be run: SyntaxError"),
            ("import sys\nsys.exit(3)\n", r"net\.py cannot be run: SystemExit"),
            ("import argparse, sys\nsys.exit(argparse.ArgumentParser().parse_args(['x']))\n", "cannot be run: SystemExit"),
        ],
    )
    def test_what_can_go_wrong_in_it(self, load: Loader, state: dict[str, Tensor], code: str, message: str) -> None:
        with pytest.raises(CheckpointError, match=message) as error:
            load(state, code)
        assert "\n" not in str(error.value)
        with pytest.raises(CheckpointError, match=message):  # the next checkpoint of the run hears the same
            load(state, code)

    def test_the_line_is_that_of_the_users_file(self, tmp_path: Path, write: Write, state: dict[str, Tensor]) -> None:
        torch.save(state, tmp_path / "mine.pt")
        path = write("from torch import nn\ndef build():\n    return nn.Conv2d(3, 2, 1, groups=5)\n", header="")
        with pytest.raises(CheckpointError, match=r"ValueError: in_channels must be divisible by groups \(net\.py, line 3\)"):
            load_checkpoint(tmp_path / "mine.pt", LoadOptions(parse_model(f"{path}:build", "half")))

    @pytest.mark.parametrize("signature", ["a, b", "*, width", "a, *, width"])
    def test_functions_that_need_more(self, load: Loader, state: dict[str, Tensor], signature: str) -> None:
        with pytest.raises(SettingsError, match="must need no argument, or one"):
            load(state, f"def build({signature}):\n    return Net()\n")

    def test_arguments_with_defaults_are_not_needed(self, load: Loader, state: dict[str, Tensor]) -> None:
        assert load(state, "def build(classes=5, *rest, child='fc', **more):\n    return Net(classes, child)\n").report

    @pytest.mark.parametrize(
        ("function", "message"),
        [("biuld", r"unknown function in .*net\.py 'biuld'; did you mean build\?"), ("nn", "unknown function")],
    )
    def test_an_unknown_function(self, load: Loader, state: dict[str, Tensor], function: str, message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            load(state, BUILD, function)

    @pytest.mark.parametrize("inside", [True, False])
    def test_a_neighbour_can_be_imported(self, tmp_path: Path, load: Loader, state: dict[str, Tensor], inside: bool) -> None:
        neighbour = f"neighbour_{inside}"
        (tmp_path / f"{neighbour}.py").write_text(HEADER)
        line = f"from {neighbour} import Net as Other"
        code = f"def build():\n    {line}\n    return Other()\n" if inside else f"{line}\ndef build():\n    return Other()\n"
        before = list(sys.path)
        assert load(state, code).report.has_classifier
        assert sys.path == before

    def test_dataclasses_find_their_module(self, load: Loader, state: dict[str, Tensor]) -> None:
        define = "from dataclasses import dataclass\n@dataclass\nclass C:\n    classes: 'int' = 5\n"
        code = f"{define}def build():\n    return Net(C().classes)\n"
        assert load(state, code).report.has_classifier

    def test_two_files_of_one_name_and_one_of_two_versions(self, load: Loader, state: dict[str, Tensor]) -> None:
        """An edit of the same length within the same second included."""
        other = dict(net("def build():\n    return Net(7)\n").state_dict())
        assert len(load(state, BUILD.replace("Net()", "Net(5)")).encoder.logits(images())[0]) == 5
        assert len(load(other, BUILD.replace("Net()", "Net(7)")).encoder.logits(images())[0]) == 7
        assert len(load(other, BUILD.replace("Net()", "Net(7)"), name="else/net.py").encoder.logits(images())[0]) == 7
        assert len(load(state, BUILD.replace("Net()", "Net(5)"), name="else/net.py").encoder.logits(images())[0]) == 5

    def test_nothing_is_written_beside_the_users_file(self, tmp_path: Path, load: Loader, state: dict[str, Tensor]) -> None:
        load(state, BUILD)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.pt", "net.py"]

    def test_a_file_that_changes_between_planning_and_loading(
        self, tmp_path: Path, write: Write, state: dict[str, Tensor]
    ) -> None:
        torch.save(state, tmp_path / "mine.pt")
        model = parse_model(f"{write(BUILD)}:build", "half")
        write(BUILD + "# changed\n")
        with pytest.raises(CheckpointError, match=r"net\.py has changed since the run began"):
            load_checkpoint(tmp_path / "mine.pt", LoadOptions(model))
        Path(model.path).unlink()
        with pytest.raises(CheckpointError, match=r"net\.py: cannot be read"):
            load_checkpoint(tmp_path / "mine.pt", LoadOptions(model))

    def test_each_checkpoint_needs_a_module_of_its_own(self, load: Loader, state: dict[str, Tensor]) -> None:
        """Two encoders with the same weights in memory would both be the one that was loaded last."""
        code = "NET = Net()\ndef build():\n    return NET\n"
        first = load(state, code)
        with pytest.raises(CheckpointError, match="returned the same module twice"):
            load(state, code)
        assert first.report.has_classifier

    def test_the_checkpoint_itself_is_still_not_executed(self, tmp_path: Path, write: Write) -> None:
        torch.save({"state_dict": operator.attrgetter("x")}, tmp_path / "evil.pt")
        with pytest.raises(CheckpointError, match="refused: the file asks to load"):
            load_checkpoint(tmp_path / "evil.pt", LoadOptions(parse_model(f"{write(BUILD)}:build", "half")))


class TestOptions:
    @pytest.mark.parametrize("text", ["net.py", "net.py:", ":build", "net:build", "net.py:a.b", "net.py:1a", "net.pyc:build"])
    def test_how_a_model_is_written(self, text: str) -> None:
        with pytest.raises(SettingsError, match=r"write it as path/to/file\.py:function") as error:
            parse_model(text)
        assert error.value.is_usage

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "folder.py").mkdir()
        for name in ("gone.py", "folder.py"):
            with pytest.raises(SettingsError, match="there is no file"):
                parse_model(f"{tmp_path / name}:build")

    def test_what_the_option_holds(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(BUILD)
        model = parse_model(f"{path}:build", "cifar10")
        assert (model.path, model.function, model.normalise, str(model)) == (path, "build", "cifar10", f"{path}:build")
        monkeypatch.setenv("HOME", str(Path(path).parent))
        assert parse_model("~/net.py:build").path == path

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("cifar", r"unknown normalisation 'cifar'; did you mean cifar10"),
            ("cifar1", r"did you mean cifar10"),
            ("zzz", "known: imagenet, .*m,m,m/s,s,s"),
            ("0.5", "unknown normalisation"),
            ("0.5,0.5,0.5", "write three means"),
            ("0.5,0.5/0.5,0.5", "write three means"),
            ("0,0,0/1,1,0", "positive standard deviations"),
            ("0,0,0/1,1,-1", "positive"),
            ("0,0,nan/1,1,1", "write three"),
            ("0,0,0/1,1,inf", "write three"),
            ("0,0,0/1,nan,1", "write three"),
            ("a,b,c/d,e,f", "write three"),
            ("0,0,0/1,1,1/2,2,2", "write three"),
        ],
    )
    def test_normalisations_that_are_none(self, write: Write, text: str, message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            parse_model(f"{write(BUILD)}:build", text)

    def test_normalisation_in_numbers(self) -> None:
        assert parse_normalisation("0.1, 0.2,0.3/1,2,3") == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
        assert parse_normalisation("none") == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def test_a_plain_module_needs_one(self, load: Loader, state: dict[str, Tensor]) -> None:
        with pytest.raises(SettingsError, match=r"say how its images are normalised with --normalise \(imagenet, cifar10"):
            load(state, BUILD, normalise=None)
