"""Low-label probes and the weight norm, and the marks of invariance by scaling filters for real."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.data.datasets import Data, load_data
from ssa_analysis.errors import SettingsError
from ssa_analysis.linking.invariance import FUNCTION, NONE, SCALE, invariance_of
from ssa_analysis.measures import MEASURES
from ssa_analysis.measures.base import split_features
from ssa_analysis.measures.probing import few_label_probe, few_labels
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.training.loop import train
from ssa_analysis.training.settings import TrainSettings


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits")


@pytest.fixture(scope="module")
def encoder(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    settings = TrainSettings(arch="convnet", width=8, projector=(32, 16), epochs=20, batch=128, lr=0.2, warmup=1, knn_every=0)
    return load_checkpoint(train(settings, data, tmp_path_factory.mktemp("run"))).encoder


@pytest.mark.parametrize(("share", "labels"), [(0.01, 10), (0.1, 54)])
def test_a_low_label_probe_is_scikit_learns_on_the_labels_it_saw(share: float, labels: int, encoder: Encoder, data: Data) -> None:
    probe, seen = few_label_probe(encoder, data, share, 3)
    assert seen == pytest.approx(labels, abs=3)
    h, y = split_features(encoder, data, "probe").double(), data.labels_of("probe")
    index, _ = few_labels(y, share, 3)
    assert len(index) == seen
    assert torch.bincount(y[index]).min() >= 1
    assert not torch.equal(index, few_labels(y, share, 4)[0])
    x = (h - h.mean(0)) / h.std(0, correction=0)
    known = LogisticRegression(C=1 / (seen * probe.l2), max_iter=5000, tol=1e-8).fit(x[index].numpy(), y[index].numpy())
    np.testing.assert_allclose(probe.logits(h).softmax(1), known.predict_proba(x.numpy()), atol=2e-3)


def test_more_labels_are_better_and_the_error_counts_draws_and_images(encoder: Encoder, data: Data) -> None:
    row = MEASURES.get("downstream")
    scores = {s.name: s for s in row.function(encoder, data, row.settings(draws=8))}
    few, some, all_ = (scores[n] for n in ("probe_accuracy_1pct", "probe_accuracy_10pct", "probe_accuracy"))
    assert few.value < some.value < all_.value
    assert few.settings["labels"] == 10
    correct = []
    from ssa_analysis.numerics.seeding import derive_seed

    h, y = split_features(encoder, data, "held-out"), data.labels_of("held-out")
    for number in range(8):
        probe, _ = few_label_probe(encoder, data, 0.01, derive_seed(0, "draw", number))
        correct.append((probe.logits(h).argmax(1) == y).double().numpy())
    table = np.stack(correct)
    assert few.value == pytest.approx(table.mean())
    draws, images = table.mean(1).std(ddof=1) / np.sqrt(8), table.mean(0).std(ddof=1) / np.sqrt(table.shape[1])
    assert few.stderr == pytest.approx(np.hypot(draws, images))
    assert few.low < few.value - 1.9 * few.stderr
    with pytest.raises(SettingsError, match="draws must be at least 2"):
        row.settings(draws=1)


def test_the_weight_norm_is_that_of_all_weights(encoder: Encoder, data: Data) -> None:
    row = MEASURES.get("representation")
    (norm,) = [s.value for s in row.function(encoder, data, row.settings(bootstrap=2)) if s.name == "weight_norm"]
    assert norm == pytest.approx(float(torch.cat([p.detach().reshape(-1) for p in encoder.parameters()]).norm()), rel=1e-6)


def test_the_marks_of_invariance_hold_when_filters_are_scaled(encoder: Encoder, data: Data, tmp_path: Path) -> None:
    """Filters before a BatchNorm times 3 or a third, its statistics with them: the function stays.

    What is marked ``function`` or ``filter scale`` stays within its error whichever filters are scaled; of what is marked
    ``none`` nothing does.
    """
    images = data.images_of("held-out")[:50]
    encoders = [encoder]
    for place, factor in ((0, 3.0), (3, 1 / 3.0)):  # in the third encoder both are
        encoders.append(copy.deepcopy(encoders[-1]))
        with torch.no_grad():
            convolution, norm = encoders[-1].backbone.blocks[place : place + 2]  # type: ignore[index,misc]
            convolution.weight.mul_(factor)
            norm.running_mean.mul_(factor)
            norm.running_var.mul_(factor**2)
            norm.eps *= factor**2  # exactly the same function
        torch.testing.assert_close(encoders[-1].embed(images), encoder.embed(images), rtol=1e-4, atol=1e-5)
    small = {
        "curvature": {"pairs": 64, "batch": 64, "top": 1}, "flatness": {"pairs": 64, "batch": 64, "draws": 4, "steps": 3},
        "shift": {"permutations": 19}, "representation": {"bootstrap": 5}, "downstream": {"draws": 2},
    }  # fmt: skip
    kept, moved = [], []
    for name, settings in small.items():
        row = MEASURES.get(name)
        found = zip(*(row.function(e, data, row.make_settings(settings)) for e in encoders), strict=True)
        for before, *after in found:
            score = f"{name}.{before.name}"
            change = max(abs(s.value - before.value) / max(abs(before.value), 1e-3) for s in after)
            if invariance_of(score) in (FUNCTION, SCALE):
                kept.append((score, change))
            elif invariance_of(score) == NONE:
                moved.append((score, change))
    assert [row for row in kept if row[1] > 0.02] == []
    # with one eigenvalue there is no ratio of two
    assert {score for score, change in moved if change < 0.02} == {"curvature.lambda_ratio"}
    assert {"curvature.lambda_max", "flatness.worst_case", "representation.weight_norm"} <= {score for score, _ in moved}
