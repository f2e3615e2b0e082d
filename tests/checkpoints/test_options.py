"""What the user says of a file: a layout by name or from a TOML file, and settings of its recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from ssa_analysis.checkpoints.layouts import LAYOUTS
from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.options import LoadOptions, layout_from_dict, load_options, read_layout
from ssa_analysis.errors import CheckpointError, SettingsError
from ssa_analysis.numerics.seeding import seeded

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOML = """
summary = "the group's own SimCLR"
places = ["weights.online"]
prefix = 'net\\.'
keys = ['{p}head\\.0\\.weight']
names = [['{p}(conv1|bn1|layer\\d)\\.', 'backbone.\\1.'], ['{p}head\\.', 'projector.']]
left_over = [['^ema\\.', 'moving average']]

[recipe]
normalisation = "half"
max_pool = false
stem_stride = 1

[loss]
tau = 0.3
"""


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with seeded(0, "options"):
        net = torchvision.models.resnet18(weights=None)
        net.fc = nn.Sequential(nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 8))
    return net.eval()


@pytest.fixture
def file(net: nn.Module, tmp_path: Path) -> Path:
    names = {f"net.{name.replace('fc.', 'head.')}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"weights": {"online": {**names, "ema.x": torch.zeros(2)}}}, tmp_path / "own.pt")
    return tmp_path / "own.pt"


def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_layout_from_a_file_is_all_that_a_new_project_needs(net: nn.Module, file: Path, tmp_path: Path) -> None:
    (tmp_path / "group.toml").write_text(TOML)
    with pytest.raises(CheckpointError, match="unknown layout"):
        load_checkpoint(file)
    loaded = load_checkpoint(file, load_options(layout=str(tmp_path / "group.toml")))
    report, encoder = loaded.report, loaded.encoder
    assert (report.layout, report.certainty, report.has_projector) == ("group", "named", True)
    assert report.left_over == {"ema.x": "moving average"}
    assert encoder.loss == {"tau": 0.3}
    net.conv1.stride, net.maxpool, head = (1, 1), nn.Identity(), net.fc
    net.fc = nn.Identity()
    with torch.no_grad():
        features = net((images() - 0.5) / 0.5)
        torch.testing.assert_close(encoder.features(images()), features, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(encoder.embed(images()), nn.functional.normalize(head(features)), atol=1e-5, rtol=1e-5)


def test_settings_of_the_recipe_change_the_function_and_are_told(tmp_path: Path) -> None:
    with seeded(0, "recipe"):
        torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "net.pth")
    usual = load_checkpoint(tmp_path / "net.pth")
    for text, told in (
        ("stem_padding=2", "padding 2, with max-pooling (stem_padding as you say; the rest is assumed)"),
        ("max_pool=no", "without max-pooling (max_pool as you say"),
        ("stem_relu=no", "without the usual ReLU"), ("normalisation=half", "input normalisation: half (as you say)"),
    ):  # fmt: skip
        loaded = load_checkpoint(tmp_path / "net.pth", load_options(recipe=[text]))
        assert told in "\n".join(loaded.report.assumptions)
        with torch.no_grad():
            difference = loaded.encoder.features(images()) - usual.encoder.features(images())
        assert float(difference.abs().max()) > 1e-3, text


def test_a_file_of_another_layout_and_one_that_says_its_recipe_are_refused(file: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="is not of the layout moco"):
        load_checkpoint(file, load_options(layout="moco"))
    with pytest.raises(CheckpointError, match="says its recipe itself"):
        load_checkpoint(tiny_checkpoint, load_options(recipe=["stem_padding=2"]))
    assert load_checkpoint(tiny_checkpoint, load_options(layout="ssa-analyze")).report.certainty == "named"


def test_what_is_said_belongs_to_the_key(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(TOML)
    first = load_options(layout=str(tmp_path / "a.toml"))
    (tmp_path / "a.toml").write_text(TOML + "beta = 2\n")
    second = load_options(layout=str(tmp_path / "a.toml"))
    some = [LoadOptions(), load_options(layout="moco"), load_options(recipe=["max_pool=no"]), first, second]
    assert len({str(options.identity) for options in some}) == len(some)
    assert LoadOptions().identity == []
    with pytest.raises(SettingsError, match="did you mean imagenet"):
        load_options(recipe=["normalisation=imagnet"])
    assert second.said == {"layout": str(tmp_path / "a.toml")}
    with pytest.raises(SettingsError, match="has changed since the run began"):
        first.row()


BASE: dict[str, Any] = {"names": [["x", "backbone."]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "names is missing"),
        ({**BASE, "prefx": "a"}, "unknown layout setting 'prefx'; did you mean prefix"),
        ({**BASE, "prefix": 3}, "prefix must be a text, got 3"),
        ({**BASE, "prefix": "("}, r"prefix: '\(' is no regular expression"),
        ({**BASE, "keys": "x"}, "keys must be a list of texts"),
        ({**BASE, "keys": [1]}, "keys must be texts, got 1"),
        ({"names": [["x"]]}, "names must be a list of pairs"),
        ({"names": [["x", "trunk."]]}, "'trunk.' must begin with backbone., projector. or classifier."),
        ({**BASE, "kernel": "3"}, "kernel must be a whole number"),
        ({**BASE, "kernel": True}, "kernel must be a whole number"),
        ({**BASE, "recognise": "os.system"}, "recognise is a function, which a file cannot name"),
        ({**BASE, "widths": 64}, "widths must be a list of whole numbers"),
        ({**BASE, "widths": ["64"]}, "widths must be a whole number"),
        ({**BASE, "family": "resnt"}, "unknown family 'resnt'; did you mean resnet"),
        ({**BASE, "certainty": "sure"}, "unknown certainty 'sure'"),
        ({**BASE, "recipe": {"padding": 2}}, "unknown recipe setting 'padding'"),
        ({**BASE, "recipe": {"normalisation": "imagnet"}}, "did you mean imagenet"),
        ({**BASE, "recipe": {"stem_padding": True}}, "the recipe's stem_padding is a whole number, got 'yes'"),
        ({**BASE, "recipe": 3}, r"recipe must be a table \[recipe\]"),
        ({**BASE, "loss": {"tau": 0}}, "loss.tau must be a positive number"),
        ({**BASE, "loss": {"rho": 1}}, r"loss must be a table \[loss\] with tau"),
        ({**BASE, "matches": "x"}, "matches is a function"),
    ],
)
def test_a_layout_that_cannot_be_is_refused_by_its_place(content: dict[str, Any], message: str) -> None:
    assert layout_from_dict(BASE).family == "resnet"
    with pytest.raises(SettingsError, match=message):
        layout_from_dict(content)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("names = ")
    with pytest.raises(SettingsError, match=r"a\.toml: is no TOML"):
        read_layout(tmp_path / "a.toml")
    with pytest.raises(SettingsError, match=r"b\.toml: cannot be read"):
        read_layout(tmp_path / "b.toml")


def test_the_layout_in_the_documents_is_one() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md").read_text()
    layout = layout_from_dict(tomllib.loads(page.split("```toml\n")[1].split("```")[0]))
    assert (layout.summary, layout.recipe.normalisation, layout.loss) == ("our group's SimCLR", "cifar10", {"tau": 0.2})
    assert [name for name in vars(layout.recipe) if f"`{name}`" not in page] == []


def test_a_plug_in_s_layout_comes_before_what_is_but_a_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "net.pth")
    row = layout_from_dict(
        {"names": [[r"(conv1|bn1|layer\d)\.", r"backbone.\1."], [r"fc\.", "classifier."]], "certainty": "likely"}
    )
    monkeypatch.setitem(LAYOUTS._entries, "a plug-in", row)
    assert load_checkpoint(tmp_path / "net.pth").report.layout == "a plug-in"
