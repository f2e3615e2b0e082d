"""The fixed loss: which images, which head, which weights; and that the encoder is left as it was."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.checkpoints.own_model import parse_model
from ssa_analysis.data.datasets import SPLITS, Data
from ssa_analysis.errors import DataError, MeasureError, SettingsError
from ssa_analysis.measures import MEASURES
from ssa_analysis.measures.base import RunContext, running_in
from ssa_analysis.measures.fixed_loss import FixedLossSettings, fixed_operator, in_scope, probe_as_layer
from ssa_analysis.measures.probing import fit_probe
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.contrastive import nt_xent
from ssa_analysis.numerics.graph_memory import TEMPORARIES, VECTORS
from ssa_analysis.numerics.hessian import flatten
from ssa_analysis.numerics.seeding import seeded

HALF = (0.5, 0.5, 0.5)
CONTRASTIVE = FixedLossSettings(pairs=24, batch=12)
SUPERVISED = FixedLossSettings(loss="supervised", pairs=24, batch=12)


def small(classifier: int | None = 10, projector: bool = True, dtype: torch.dtype = torch.float64) -> Encoder:
    """A net of 150 weights with BatchNorm whose statistics are none of the defaults, in float64."""
    with seeded(0, "fixed loss"):
        backbone = nn.Sequential(
            nn.Conv2d(3, 2, 3, stride=2), nn.BatchNorm2d(2), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        backbone[1].running_mean.copy_(torch.tensor([0.3, -0.2]))
        backbone[1].running_var.copy_(torch.tensor([0.7, 1.4]))
        head = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)) if projector else None
        encoder = Encoder(backbone, head, HALF, HALF, classifier=nn.Linear(8, classifier) if classifier else None)
    return encoder.eval().to(dtype)


def dense_hessian(encoder: Encoder, loss: Callable[[Encoder], Tensor], names: list[str]) -> Tensor:
    """Over the named weights, by torch.func."""
    weights = {name: p.detach() for name, p in encoder.named_parameters() if name in names}

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self) -> Tensor:
            return loss(self.encoder)

    def flat_loss(vector: Tensor) -> Tensor:
        pieces = vector.split([w.numel() for w in weights.values()])
        named = {f"encoder.{n}": piece.view_as(w) for (n, w), piece in zip(weights.items(), pieces, strict=True)}
        return functional_call(Whole(), named, ())

    return hessian(flat_loss)(flatten(list(weights.values())))


TIGHT = 1.001 * 2 * VECTORS * 8 * sum(p.numel() for p in small().parameters()) / 2**30  # GiB; one input at a time


def columns(encoder: Encoder, data: Data, settings: FixedLossSettings) -> tuple[Tensor, list[str]]:
    operator = fixed_operator(encoder, data, settings)
    return operator.matmat(torch.eye(operator.size, dtype=operator.dtype)), operator.names


class TestSupervised:
    def test_it_is_the_mean_cross_entropy_of_the_checkpoints_classifier(self, digits: Data) -> None:
        encoder = small()
        operator = fixed_operator(encoder, digits, SUPERVISED)
        assert len(operator.batches) == 2
        images = torch.cat([batch.inputs for batch in operator.batches])
        where = torch.stack([(digits.images_of("held-out") == image).all((1, 2, 3)).nonzero()[0, 0] for image in images])
        assert len(where.unique()) == 24
        labels = digits.labels_of("held-out")[where]
        with torch.no_grad():
            assert operator.loss() == pytest.approx(float(cross_entropy(encoder.logits(images), labels)), rel=1e-12)

        def loss(encoder: Encoder) -> Tensor:
            return cross_entropy(encoder.logits(images), labels)

        names = [n for n, _ in encoder.named_parameters() if not n.startswith("projector")]
        assert operator.names == names
        found = operator.matmat(torch.eye(operator.size, dtype=torch.float64))
        torch.testing.assert_close(found, dense_hessian(encoder, loss, names), rtol=1e-8, atol=1e-10)

    def test_without_a_classifier_the_probe_is_the_last_layer(self, digits: Data, encoder: Encoder) -> None:
        settings = replace(SUPERVISED, seed=3)
        operator = fixed_operator(encoder, digits, settings)
        assert [n for n in operator.names if n.startswith("classifier")] == ["classifier.weight", "classifier.bias"]
        assert encoder.classifier is None  # it is the measure's, not the checkpoint's
        batch = operator.batches[0].inputs
        with torch.no_grad():
            h = encoder.features(batch)
            expected = fit_probe(encoder, digits, 3).logits(h)
            torch.testing.assert_close(operator.network(batch).double(), expected, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(probe_as_layer(encoder, digits, 3)(h), operator.network(batch))

    def test_the_probe_layer_of_a_float64_encoder_is_exact(self, digits: Data) -> None:
        encoder = small(classifier=None)
        layer = probe_as_layer(encoder, digits, 0)
        h = encoder.features(digits.images_of("held-out")[:50])
        torch.testing.assert_close(layer(h), fit_probe(encoder, digits, 0).logits(h), rtol=1e-9, atol=1e-9)

    def test_the_probe_layer_draws_nothing_from_the_global_generator(self, digits: Data, encoder: Encoder) -> None:
        """Or a training that is scored on the way would go on with other draws."""
        state = torch.get_rng_state()
        probe_as_layer(encoder, digits, 0)
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_probe_is_fitted_once_for_each_seed(self, digits: Data, encoder: Encoder) -> None:
        def bias(seed: int) -> Tensor:
            return fixed_operator(encoder, digits, replace(SUPERVISED, seed=seed)).parameters[-1]

        assert bias(0) is bias(0)
        assert bias(0) is not bias(1)

    def test_classes_that_do_not_fit(self, digits: Data) -> None:
        with pytest.raises(MeasureError, match="tells 7 classes apart, digits has 10"):
            fixed_operator(small(classifier=7), digits, SUPERVISED)

    def test_a_probe_needs_two_classes(self, digits: Data) -> None:
        with pytest.raises(DataError, match="at least two"):
            fixed_operator(small(None), replace(digits, labels=torch.zeros_like(digits.labels)), SUPERVISED)

    def test_outputs_that_are_no_rows(self, digits: Data) -> None:
        encoder = small()
        encoder.classifier = nn.Sequential(nn.Linear(8, 10), nn.Unflatten(1, (5, 2)))
        encoder.double()
        with pytest.raises(MeasureError, match=r"one row of numbers, got the shape \(5, 2\)"):
            fixed_operator(encoder, digits, SUPERVISED)


class TestContrastive:
    def test_it_is_the_mean_nt_xent_over_the_batches(self, digits: Data) -> None:
        encoder = small()
        operator = fixed_operator(encoder, digits, replace(CONTRASTIVE, tau=0.2))
        assert [len(b.inputs) for b in operator.batches] == [24, 24]
        with torch.no_grad():
            z = [encoder.embed(batch.inputs) for batch in operator.batches]
            expected = sum(float(nt_xent(each[:12], each[12:], 0.2).mean()) for each in z) / 2
        assert operator.loss() == pytest.approx(expected, rel=1e-12)
        assert operator.names == [n for n, _ in encoder.named_parameters() if not n.startswith("classifier")]

    def test_it_needs_a_projector(self, digits: Data) -> None:
        with pytest.raises(MeasureError, match=r"no projector.*--loss supervised"):
            fixed_operator(small(projector=False), digits, CONTRASTIVE)

    def test_one_pair_has_no_negatives(self, digits: Data) -> None:
        with pytest.raises(SettingsError, match="at least 2 pairs"):
            fixed_operator(small(), digits, replace(CONTRASTIVE, pairs=1))


class TestImages:
    def indices(self, data: Data, **changes: Any) -> list[list[int]]:
        operator = fixed_operator(small(), data, replace(SUPERVISED, **changes))
        return [[int(row.long().sum()) for row in batch.inputs] for batch in operator.batches]

    @pytest.mark.parametrize(
        ("pairs", "batch", "sizes"),
        [(24, 12, [12, 12]), (30, 12, [12, 12]), (5, 12, [5]), (1, 256, [1]), (3, 1, [1, 1, 1]), (12, 12, [12])],
    )
    def test_batches(self, digits: Data, pairs: int, batch: int, sizes: list[int]) -> None:
        assert [len(b) for b in self.indices(digits, pairs=pairs, batch=batch)] == sizes

    @pytest.mark.parametrize("split", SPLITS)
    def test_a_split_smaller_than_a_batch_is_one_batch(self, digits: Data, split: str) -> None:
        found = self.indices(digits, pairs=10**6, batch=10**6, split=split)
        assert [len(b) for b in found] == [len(digits.splits[split])]

    def test_the_seed_decides(self, digits: Data) -> None:
        assert self.indices(digits) == self.indices(digits)
        assert self.indices(digits) != self.indices(digits, seed=1)

    @pytest.mark.parametrize("split", SPLITS)
    @pytest.mark.parametrize("loss", ["supervised", "contrastive"])
    def test_the_split_decides(self, digits: Data, split: str, loss: str) -> None:
        """With the other splits' images blank, only those of this split can differ."""
        images = torch.zeros_like(digits.images)
        index = digits.splits[split]
        images[index] = digits.images[index]
        only = replace(digits, images=images)
        settings = replace(SUPERVISED, split=split, loss=loss)
        here, there = (fixed_operator(small(), data, settings).batches for data in (digits, only))
        assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(here, there, strict=True))
        assert here[0].inputs.float().std() > 0

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"loss": "supervise"}, r"unknown loss 'supervise'; did you mean supervised\?"),
            ({"split": "heldout"}, r"unknown split 'heldout'; did you mean held-out\?"),
            ({"pairs": 0}, "pairs and batch must be at least 1, got 0 and 12"),
            ({"batch": -1}, "pairs and batch must be at least 1"),
        ],
    )
    def test_settings_that_make_no_sense(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            replace(SUPERVISED, **changes)

    def test_too_little_memory(self, digits: Data) -> None:
        with pytest.raises(SettingsError, match=r"GiB of memory are too few for .* weights; give at least"):
            fixed_operator(small(), digits, replace(SUPERVISED, memory=TIGHT / 2))
        assert fixed_operator(small(), digits, replace(SUPERVISED, memory=TIGHT)).plan == "chunked"

    def test_a_basis_takes_its_share_of_the_memory(self, digits: Data) -> None:
        settings = replace(SUPERVISED, memory=1e-3)
        alone = fixed_operator(small(), digits, settings).memory
        beside = fixed_operator(small(), digits, settings, basis=3)
        assert alone - beside.memory == pytest.approx(3 * 8 * beside.size / (1 + TEMPORARIES))
        assert fixed_operator(small(), digits, settings, basis=10**6).memory > alone / 2

    def test_no_memory(self, digits: Data) -> None:
        with pytest.raises(SettingsError, match="the memory must be positive"):
            fixed_operator(small(), digits, replace(SUPERVISED, memory=0.0))


class TestScope:
    NAMES = ("backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.10.bias", "projector.0.weight")

    @pytest.mark.parametrize(
        ("scope", "expected"),
        [
            ("all", NAMES),
            (" all ", NAMES),
            ("projector,all", NAMES),
            ("backbone", NAMES[:4]),
            ("projector", NAMES[4:]),
            ("backbone.1", NAMES[2:3]),
            ("backbone.10.bias, backbone.0", (*NAMES[:2], NAMES[3])),
            ("*.bias", (NAMES[1], NAMES[3])),
            ("*.0", (*NAMES[:2], NAMES[4])),
            ("backbone.?", NAMES[:3]),
            ("backbone.1*", NAMES[2:4]),
        ],
    )
    def test_names_layers_and_wildcards(self, scope: str, expected: tuple[str, ...]) -> None:
        assert in_scope(list(self.NAMES), scope) == list(expected)

    @pytest.mark.parametrize(
        ("scope", "message"),
        [
            ("backbon", r"unknown scope 'backbon'; did you mean backbone"),
            ("projector.0.wieght", r"did you mean projector\.0\.weight"),
            ("backbone,projetcor", r"unknown scope 'projetcor'; did you mean projector"),
            ("classifier", "unknown scope 'classifier'"),
            ("", "unknown scope ''; known: all, backbone"),
            ("backbone,", "unknown scope ''"),
            ("*.running_mean", "unknown scope"),
        ],
    )
    def test_a_scope_that_names_nothing(self, scope: str, message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            in_scope(list(self.NAMES), scope)

    @pytest.mark.parametrize("loss", ["contrastive", "supervised"])
    @pytest.mark.parametrize("memory", [2.0, TIGHT])
    @pytest.mark.parametrize("scope", ["backbone", "head", "backbone.1", "*.bias", "backbone.0.weight,head.*"])
    def test_a_scopes_operator_is_the_block_of_the_whole(self, digits: Data, loss: str, memory: float, scope: str) -> None:
        scope = scope.replace("head", "projector" if loss == "contrastive" else "classifier")
        settings = replace(SUPERVISED, loss=loss, memory=memory, pairs=6, batch=6)
        whole, names = columns(small(), digits, replace(settings, memory=2.0))
        block, chosen = columns(small(), digits, replace(settings, scope=scope))
        assert 0 < len(chosen) < len(names)
        sizes = {n: p.numel() for n, p in small().named_parameters()}
        mask = torch.cat([torch.full((sizes[name],), name in chosen) for name in names])
        torch.testing.assert_close(block, whole[mask][:, mask], rtol=1e-9, atol=1e-11)

    def test_the_other_losss_head_is_not_in_scope(self, digits: Data) -> None:
        with pytest.raises(SettingsError, match="unknown scope 'classifier'"):
            fixed_operator(small(), digits, replace(CONTRASTIVE, scope="classifier"))
        with pytest.raises(SettingsError, match="unknown scope 'projector'"):
            fixed_operator(small(), digits, replace(SUPERVISED, scope="projector"))


class TestEncoder:
    @pytest.mark.parametrize(
        "settings", [CONTRASTIVE, replace(SUPERVISED, scope="classifier"), replace(SUPERVISED, memory=TIGHT)]
    )
    def test_it_is_left_as_it_was(self, digits: Data, settings: FixedLossSettings) -> None:
        encoder = small()
        before, weights = copy.deepcopy(encoder.state_dict()), dict(encoder.named_parameters())
        operator = fixed_operator(encoder, digits, settings)
        operator.matvec(torch.ones(operator.size, dtype=torch.float64))
        operator.gradient()
        after = encoder.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[key], before[key]) for key in before)
        assert all(p is weights[name] for name, p in encoder.named_parameters())
        assert all(p.grad is None and p.requires_grad for p in encoder.parameters())
        assert not any(module.training for module in encoder.modules())

    def test_a_training_mode_left_on_does_not_matter(self, digits: Data) -> None:
        encoder = small()
        encoder.backbone.append(nn.Dropout(0.5))
        expected = fixed_operator(encoder, digits, SUPERVISED).loss()
        before = encoder.backbone[1].running_mean.clone()
        assert fixed_operator(encoder.train(), digits, SUPERVISED).loss() == expected
        assert torch.equal(encoder.backbone[1].running_mean, before)

    def test_weights_that_a_user_froze_have_the_same_curvature(self, digits: Data) -> None:
        expected, names = columns(small(), digits, SUPERVISED)
        found, same = columns(small().requires_grad_(False), digits, SUPERVISED)
        assert names == same
        assert torch.equal(found, expected)
        frozen = small().requires_grad_(False)
        fixed_operator(frozen, digits, replace(SUPERVISED, scope="classifier"))
        assert {n.split(".")[0] for n, p in frozen.named_parameters() if p.requires_grad} == {"classifier"}

    def test_tied_weights_count_once(self, digits: Data) -> None:
        encoder = small()
        with seeded(0, "tied"):
            first, second = nn.Linear(8, 8).double(), nn.Linear(8, 8).double()
        second.weight = first.weight
        encoder.backbone.extend([first, nn.Tanh(), second])
        operator = fixed_operator(encoder, digits, replace(SUPERVISED, scope="backbone"))
        assert "backbone.5.weight" in operator.names
        assert "backbone.7.weight" not in operator.names

        def loss(encoder: Encoder) -> Tensor:
            return sum(b.loss(encoder.logits(b.inputs)) for b in operator.batches) / len(operator.batches)

        found = operator.matmat(torch.eye(operator.size, dtype=torch.float64))
        torch.testing.assert_close(found, dense_hessian(encoder, loss, operator.names), rtol=1e-8, atol=1e-10)

    def test_a_network_that_mixes_its_images_is_refused(self, digits: Data) -> None:
        """Chunks and ranks would give other numbers, and no two passes would tell."""
        encoder = small()
        encoder.backbone[1] = nn.BatchNorm2d(2, track_running_stats=False).double()
        with pytest.raises(MeasureError, match="depends on the other images of its batch"):
            fixed_operator(encoder.eval(), digits, SUPERVISED)

    def test_a_random_network_is_refused(self, digits: Data) -> None:
        class Noisy(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x + 1e-4 * torch.randn_like(x)

        encoder = small()
        encoder.backbone.append(Noisy())
        with seeded(0, "noise"), pytest.raises(MeasureError, match="two passes over the same batches differ"):
            fixed_operator(encoder, digits, SUPERVISED)


NET = """
from torch import nn
def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
"""


@pytest.mark.parametrize("measure", ["curvature", "flatness", "landscape"])
def test_measures_of_a_checkpoint_without_projector(digits: Data, tmp_path: Path, measure: str) -> None:
    (tmp_path / "net.py").write_text(NET)
    names: dict[str, Any] = {}
    exec(NET, names)
    with seeded(0, "net"):
        torch.save(names["build"]().state_dict(), tmp_path / "net.pt")
    encoder = load_checkpoint(tmp_path / "net.pt", LoadOptions(parse_model(f"{tmp_path / 'net.py'}:build", "half"))).encoder
    row = MEASURES.get(measure)
    settings: dict[str, Any] = {"loss": "supervised", "pairs": 32, "batch": 16}
    settings |= {"curvature": {"top": 1}, "landscape": {"points": 3, "grid": 0, "directions": 2}}.get(measure, {})
    scores = row.function(encoder, digits, row.make_settings(settings))
    assert scores
    assert np.isfinite([score.value for score in scores]).all()
    with pytest.raises(MeasureError, match="no projector"):
        row.function(encoder, digits, row.make_settings(settings | {"loss": "contrastive"}))


@pytest.mark.parametrize("measure", ["curvature", "flatness"])
def test_long_measures_say_how_far_they_are(
    encoder: Encoder, digits: Data, measure: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ssa_analysis.progress.INTERVAL", 0.0)
    row = MEASURES.get(measure)
    with caplog.at_level(logging.INFO, "ssa_analysis.progress"), running_in(RunContext(label="runs/a.pt")):
        scores = row.function(encoder, digits, row.settings(pairs=16, batch=16))
    lines = [record.getMessage() for record in caplog.records if record.name == "ssa_analysis.progress"]
    counts = [int(match[1]) for line in lines if (match := re.search(r": (\d+) (?:products|losses and gradients) so far", line))]
    assert counts == list(range(1, len(lines) + 1))
    assert all(line.startswith(f"{measure} of runs/a.pt") for line in lines)
    if measure == "curvature":
        spent = {s.name: s.settings["products"] for s in scores}
        assert counts[-1] == spent["lambda_max"] + spent["trace"] + spent["negative_mass"]
        assert [line.split(",")[1].split(":")[0].strip() for line in lines] == (
            ["eigenvalues"] * spent["lambda_max"] + ["density"] * spent["negative_mass"] + ["trace"] * spent["trace"]
        )
