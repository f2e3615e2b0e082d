"""The flatness measure as a whole: what stays under a rescaling of layers and what moves, its settings, its scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from ssa_analysis.data.datasets import Data, load_data
from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.measures import MEASURES
from ssa_analysis.measures.fixed_loss import FixedLossSettings, fixed_operator
from ssa_analysis.measures.flatness import FlatnessSettings, find_layer, flatness
from ssa_analysis.models.backbones import ConvNet
from ssa_analysis.models.encoder import Encoder, Projector
from ssa_analysis.numerics.flatness import worst_case_rise
from ssa_analysis.numerics.hessian import perturbed
from ssa_analysis.scores import Score, find_score

SMALL = {"pairs": 16, "batch": 16, "draws": 3, "probes": 3, "steps": 4, "restarts": 3, "m": 4, "target_rise": 0.02, "seed": 1}
INVARIANT = {
    "loss", "adaptive_worst_case", "adaptive_m_sharpness", "adaptive_average_case", "adaptive_pac_bayes_sigma",
    "relative_flatness", "fisher_rao",
}  # fmt: skip
NOT_INVARIANT = {"worst_case", "m_sharpness", "average_case", "pac_bayes_sigma"}


def trained(encoder: Encoder, data: Data) -> Encoder:
    """In double precision, after some steps on the loss that is measured: a minimum has more to say than a random net."""
    encoder = encoder.double()
    operator = fixed_operator(encoder, data, FixedLossSettings(pairs=64, batch=64))
    for _ in range(30):
        step = -0.2 * operator.gradient()
        with torch.no_grad():
            for p, piece in zip(operator.parameters, step.split([p.numel() for p in operator.parameters]), strict=True):
                p.add_(piece.view_as(p))
    return encoder


@pytest.fixture(scope="module")
def relu_net(digits: Data) -> Callable[[], Encoder]:
    """Linear layers and ReLU, biases in all of them, no BatchNorm."""

    def build() -> Encoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            size = 3 * digits.image_size**2
            backbone = nn.Sequential(nn.Flatten(), nn.Linear(size, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU())
            projector = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
            return Encoder(backbone, projector, (0.5,) * 3, (0.5,) * 3)

    state = trained(build(), digits).state_dict()

    def fresh() -> Encoder:
        encoder = build().double()
        encoder.load_state_dict(state)
        return encoder

    return fresh


def multiply(tensors: Sequence[torch.Tensor], factor: float) -> None:
    with torch.no_grad():
        for tensor in tensors:
            tensor.mul_(factor)


def measured(encoder: Encoder, data: Data, **values: object) -> list[Score]:
    return flatness(encoder, data, FlatnessSettings(**{**SMALL, **values}))  # type: ignore[arg-type]


FACTORS = (3.0, 1 / 15)  # one after the other: the layer is three times, then a fifth of what it was


def assert_invariant(before: list[Score], after: list[list[Score]]) -> None:
    """The scores marked invariant stay with their errors, to rounding; the others move by more than 1 % under some rescaling."""
    for old, *new in zip(before, *after, strict=True):
        assert {s.name for s in new} == {old.name}
        if old.settings["invariance"] == "layer rescaling":
            for field in ("value", "stderr", "low", "high"):
                known = getattr(old, field)
                expected = known if known is None else pytest.approx(known, rel=1e-7)
                assert all(getattr(s, field) == expected for s in new), (old.name, field)
            assert all(s.converged == old.converged for s in new)
        else:
            assert any(s.value != pytest.approx(old.value, rel=0.01) for s in new), old.name


@pytest.mark.parametrize(
    ("first", "second"), [("backbone.1", "backbone.3"), ("backbone.3", "projector.0"), ("projector.0", "projector.2")]
)
def test_rescaling_a_layer_and_its_successor_moves_only_what_is_not_invariant(
    relu_net: Callable[[], Encoder], digits: Data, first: str, second: str
) -> None:
    encoder = relu_net()
    before = measured(encoder, digits)
    layer, successor = encoder.get_submodule(first), encoder.get_submodule(second)
    after = []
    for factor in FACTORS:
        multiply(list(layer.parameters()), factor)
        multiply([successor.weight], 1 / factor)  # type: ignore[list-item]
        after.append(measured(encoder, digits))
    assert_invariant(before, after)
    marked = {s.name for s in before if s.settings["invariance"] == "layer rescaling"}
    assert (marked, {s.name for s in before} - marked) == (INVARIANT, NOT_INVARIANT)


@pytest.mark.parametrize("scope", ["all", "backbone.3,classifier"])
def test_the_supervised_loss_has_the_same_invariances(relu_net: Callable[[], Encoder], digits: Data, scope: str) -> None:
    encoder = relu_net()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder.classifier = nn.Linear(8, len(digits.class_names)).double()
    values = {"loss": "supervised", "scope": scope}
    before = measured(encoder, digits, **values)
    assert find_score(before, "relative_flatness").settings["layer"] == "classifier.weight"
    after = []
    for factor in FACTORS:
        multiply(list(encoder.backbone[3].parameters()), factor)  # type: ignore[index]
        multiply([encoder.classifier.weight], 1 / factor)
        after.append(measured(encoder, digits, **values))
    assert_invariant(before, after)


def test_relative_flatness_of_any_layer_is_invariant(relu_net: Callable[[], Encoder], digits: Data) -> None:
    for layer in ("backbone.1", "backbone.3", "projector.0"):
        encoder = relu_net()
        before = find_score(measured(encoder, digits, layer=layer), "relative_flatness")
        multiply(list(encoder.backbone[1].parameters()), 0.2)  # type: ignore[index]
        multiply([encoder.backbone[3].weight], 5.0)  # type: ignore[index]
        after = find_score(measured(encoder, digits, layer=layer), "relative_flatness")
        assert after.value == pytest.approx(before.value, rel=1e-7)
        assert before.settings["layer"] == f"{layer}.weight"


@pytest.mark.parametrize("by", ["statistics", "affine"])
def test_batchnorm_in_evaluation_mode_keeps_the_invariance(digits: Data, by: str) -> None:
    """Either the affine part counts as the layer, or the running statistics move with the weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = Encoder(ConvNet(3), Projector((12, 8, 4)), (0.5,) * 3, (0.5,) * 3)
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eps = 1e-300  # else the statistics do not scale exactly; some versions of torch refuse 0
                nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias, std=0.2)
    encoder = trained(encoder, digits)
    before = measured(encoder, digits)
    conv, norm, _, successor = encoder.backbone.blocks[:4]  # type: ignore[index,misc,union-attr]
    after = []
    for factor in FACTORS:
        if by == "statistics":
            multiply([conv.weight, norm.running_mean], factor)
            multiply([norm.running_var], factor**2)
        else:
            multiply([norm.weight, norm.bias], factor)
            multiply([successor.weight], 1 / factor)
        after.append(measured(encoder, digits))
    assert_invariant(before, after)


def test_worst_case_of_a_real_loss_is_at_least_the_step_of_sam(encoder: Encoder, digits: Data) -> None:
    operator = fixed_operator(encoder, digits, FixedLossSettings(pairs=64, batch=32))
    gradient = operator.gradient()
    with perturbed(operator.parameters, 0.1 * gradient / gradient.norm()):
        sam = operator.loss()
    sam -= operator.loss()
    assert worst_case_rise(operator, torch.ones_like(gradient), 0.1, steps=5, restarts=2, seed=0).rise >= sam > 0


def test_a_group_as_large_as_the_batch_gives_the_step_of_sam_on_the_batches(encoder: Encoder, digits: Data) -> None:
    score = find_score(measured(encoder, digits, pairs=32, batch=16, m=16), "m_sharpness")
    operator = fixed_operator(encoder, digits, FixedLossSettings(pairs=32, batch=16, seed=1))
    rises = []
    for batch in operator.batches:
        one = operator.sibling(batches=[batch])
        gradient = one.gradient()
        with perturbed(one.parameters, 0.1 * gradient / gradient.norm()):
            moved = one.loss()
        rises.append(moved - one.loss())
    assert score.value == pytest.approx(sum(rises) / 2, rel=1e-5)
    assert score.stderr == pytest.approx(abs(rises[0] - rises[1]) / 2, rel=1e-4)
    assert (score.settings["m"], score.settings["groups"]) == (16, 2)


def test_every_score_says_what_its_error_is_of(encoder: Encoder, digits: Data) -> None:
    scores = measured(encoder, digits)
    over = {s.name.removeprefix("adaptive_"): s.settings.get("over") for s in scores}
    assert over == {
        "loss": None, "worst_case": None, "m_sharpness": "groups", "average_case": "draws", "pac_bayes_sigma": "draws",
        "relative_flatness": "probes", "fisher_rao": None,
    }  # fmt: skip
    worst = find_score(scores, "worst_case")
    assert (worst.settings["error"], worst.low, worst.high) == ("lower bound", worst.value, None)
    assert worst.value == max(worst.settings["starts"])


def test_a_rise_that_is_never_reached_is_not_converged(encoder: Encoder, digits: Data) -> None:
    scores = measured(encoder, digits, target_rise=50.0)
    for name in ("pac_bayes_sigma", "adaptive_pac_bayes_sigma"):
        score = find_score(scores, name)
        assert not score.converged
        assert (score.settings["error"], score.settings["crossing"]) == ("bracket", "not reached")
        assert score.low == score.value
        assert score.stderr is None
        assert score.to_json()["high"] is None
    assert find_score(scores, "adaptive_pac_bayes_sigma").value == 10.0  # ten times the weights' own size


def test_few_images_make_smaller_groups_by_default_and_are_refused_otherwise(encoder: Encoder, digits: Data) -> None:
    held_out = len(digits.splits["held-out"])
    scores = measured(encoder, digits, pairs=10, batch=10, m=0)
    assert find_score(scores, "m_sharpness").settings["m"] == 5
    small = load_data("digits", subset=60)
    assert len(small.splits["held-out"]) == 18
    scores = measured(encoder, small, pairs=256, batch=256, m=0)
    sharpness = find_score(scores, "m_sharpness").settings
    assert (sharpness["m"], sharpness["groups"]) == (8, 2)  # 32, then 16, do not fit twice
    with pytest.raises(MeasureError, match="lower m or use more images"):
        measured(encoder, digits, pairs=4 * held_out, batch=64, m=held_out)


@pytest.mark.parametrize("layer", ["", "projector.3", "projector.3.weight"])
def test_the_layer_of_the_relative_flatness(encoder: Encoder, digits: Data, layer: str) -> None:
    operator = fixed_operator(encoder, digits, FixedLossSettings(pairs=8, batch=8))
    assert operator.names[find_layer(operator, layer)] == "projector.3.weight"


@pytest.mark.parametrize(
    ("layer", "hint"), [("projecter.3", "did you mean projector.3.weight"), ("projector.3.bias", "did you mean")]
)
def test_layers_that_are_not_there_are_named(encoder: Encoder, digits: Data, layer: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=hint):
        measured(encoder, digits, layer=layer)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rho": 0.0}, "rho of flatness must be positive"),
        ({"adaptive_rho": -1.0}, "adaptive_rho"),
        ({"sigma": -1.0}, "sigma"),
        ({"adaptive_sigma": math.nan}, "adaptive_sigma"),
        ({"target_rise": math.inf}, "target_rise of flatness must be positive and finite"),
        ({"draws": 1}, "2 draws"),
        ({"probes": 1}, "2 probes"),
        ({"steps": 0}, "1 step"),
        ({"restarts": 0}, "1 restart"),
        ({"m": -1}, "m of flatness must be positive"),
        ({"m": 300}, "lower m to 128"),
        ({"m": 129}, "two groups"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FlatnessSettings(**values)  # type: ignore[arg-type]


def test_settings_come_from_text() -> None:
    settings = MEASURES.get("flatness").make_settings({"m": "16", "layer": "projector.0", "target_rise": "0.2"})
    assert isinstance(settings, FlatnessSettings)
    assert (settings.m, settings.layer, settings.target_rise) == (16, "projector.0", 0.2)
