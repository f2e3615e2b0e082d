"""What is known of degenerate inputs without a computer: the scores that measures give there, or why they give none."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssa_analysis import theory as _theory  # noqa: F401  (registers the bounds as a measure)
from ssa_analysis.data.datasets import SPLITS, Data
from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.measures import MEASURES
from ssa_analysis.measures.representation import effective_rank, uniformity
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.classifiers import knn_predict
from ssa_analysis.numerics.hessian import Batch, CurvatureOperator, Loss
from ssa_analysis.numerics.resampling import mean_interval
from ssa_analysis.numerics.spectrum import analyse_spectrum
from ssa_analysis.scores import Score, find_score
from ssa_analysis.theory.evidence import check_range

TAU = 0.5


class Shades(nn.Module):
    """Features of an image: its mean level times each of ``weight (d,)``, plus ``bias (d,)``."""

    def __init__(self, weight: list[float], bias: list[float]) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.tensor(weight)), nn.Parameter(torch.tensor(bias))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))[:, None] * self.weight + self.bias


def encoder_of(weight: list[float], bias: list[float]) -> Encoder:
    return Encoder(Shades(weight, bias), nn.Identity(), (0.0,) * 3, (1.0,) * 3, loss={"tau": TAU}).eval()


@pytest.fixture
def few(digits: Data) -> Data:
    """Sixty digits of three classes in each split."""
    places = []
    for split in SPLITS:
        index = digits.splits[split]
        labels = digits.labels[index]
        places += [index[labels == label][:20][:17] for label in range(3)]
    index = torch.cat(places)
    sizes = torch.tensor([sum(map(len, places[3 * k : 3 * k + 3])) for k in range(3)])
    ends = sizes.cumsum(0).tolist()
    splits = {split: torch.arange(end - int(size), end) for split, end, size in zip(SPLITS, ends, sizes, strict=True)}
    return dataclasses.replace(
        digits, images=digits.images[index], labels=digits.labels[index], class_names=("0", "1", "2"), splits=splits,
        fingerprint="few", recipe="none", provenance=None,
    )  # fmt: skip


def measured(name: str, encoder: Encoder, data: Data, **settings: Any) -> list[Score]:
    row = MEASURES.get(name)
    return row.function(encoder, data, row.make_settings(settings))


def test_a_constant_embedding_has_the_loss_of_chance_and_nothing_else(few: Data) -> None:
    """All similarities are one: ``l_K = log(1 + K)``, and the bounds see no gap anywhere."""
    constant = encoder_of([0.0, 0.0], [0.6, 0.8])
    found = measured("representation", constant, few, bootstrap=5)
    count = 2 * len(few.splits["held-out"]) - 2
    assert find_score(found, "contrastive_loss").value == pytest.approx(math.log(1 + count), rel=1e-6)
    assert find_score(found, "alignment").value == pytest.approx(0.0, abs=1e-12)
    assert find_score(found, "uniformity").value == pytest.approx(0.0, abs=1e-6)
    for rank in ("effective_rank", "feature_rank"):
        assert find_score(found, rank).value == pytest.approx(1.0, abs=1e-6)
        assert find_score(found, rank).stderr == pytest.approx(0.0, abs=1e-9)
    bounds = measured("bounds", constant, few, bootstrap=4, block=4, transport=20)
    assert find_score(bounds, "R4").settings["left"] == pytest.approx(math.log(1 + 6), rel=1e-6)  # K = 2 block - 2
    for gap in ("alignment_cost", "uniformity_gap", "R5", "R8"):
        assert find_score(bounds, gap).value == pytest.approx(0.0, abs=1e-6)
    assert {s.settings["verdict"] for s in bounds if "verdict" in s.settings} <= {"holds", "holds within error"}


def test_constant_features_know_the_prior_and_no_more(few: Data) -> None:
    found = measured("downstream", encoder_of([0.0, 0.0], [0.6, 0.8]), few, draws=2)
    classes = torch.bincount(few.labels_of("held-out"))
    share = float(classes.max() / classes.sum())
    assert find_score(found, "probe_accuracy").value <= share + 1e-12
    prior = torch.bincount(few.labels_of("probe")).double() / len(few.labels_of("probe"))
    entropy = float(-(classes.double() / classes.sum() * prior.log()).sum())
    assert find_score(found, "probe_cross_entropy").value == pytest.approx(entropy, rel=1e-4)
    for name in ("knn_accuracy", "knn10_accuracy"):
        assert find_score(found, name).value <= share + 1e-12


def test_a_collapsed_embedding_has_no_bandwidth(digits: Data) -> None:
    with pytest.raises(MeasureError, match="collapsed embedding"):
        measured("shift", encoder_of([0.0, 0.0], [0.6, 0.8]), digits, permutations=19)


def test_of_no_shift_no_augmentation_takes_anything_off(digits: Data) -> None:
    found = measured("views", encoder_of([0.0, 0.0], [0.6, 0.8]), digits, groups=4, strengths="1")
    assert [score.value for score in found] == pytest.approx([0.0] * len(found), abs=1e-9)
    assert find_score(found, "fourier_relief").settings["verdict"] == "no"


def test_pairs_of_one_law_have_no_shift(few: Data) -> None:
    """Without augmentation both views of an image are the image: a recipe against itself has no difference at all."""
    encoder = encoder_of([1.0, -2.0], [0.3, 0.4])
    found = measured("shift", encoder, few, against="none", permutations=19, groups=4)
    difference = find_score(found, "recipes_mmd2_difference")
    assert difference.value == pytest.approx(0.0, abs=1e-12)
    assert difference.settings["p_value"] == 1.0


@pytest.mark.parametrize(
    ("measure", "settings"),
    [
        ("curvature", {"pairs": 8, "batch": 8}),
        ("flatness", {"pairs": 8, "batch": 8}),
        ("landscape", {"pairs": 8, "batch": 8, "points": 3, "grid": 0}),
        ("representation", {}),
        ("shift", {"permutations": 19}),
        ("views", {"groups": 4}),
        ("bounds", {"bootstrap": 2}),
        ("robustness", {"images": 6, "only": "contrast"}),
    ],
)
def test_an_output_of_zero_has_no_direction(measure: str, settings: dict[str, Any], few: Data) -> None:
    with pytest.raises(MeasureError, match=r"does not have unit norm on \d+ of \d+ .*no direction"):
        measured(measure, encoder_of([0.0, 0.0], [0.0, 0.0]), few, **settings)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("measure", "settings"),
    [
        ("curvature", {"pairs": 8, "batch": 8}),
        ("downstream", {"draws": 2}),
        ("representation", {}),
        ("shift", {"permutations": 19}),
        ("shift", {"permutations": 19, "space": "features"}),
        ("shift", {"permutations": 19, "against": "digits"}),
        ("views", {"groups": 4}),
        ("bounds", {"bootstrap": 2}),
        ("robustness", {"images": 6, "only": "contrast"}),
    ],
)
def test_a_broken_weight_is_said_and_not_measured(measure: str, settings: dict[str, Any], value: float, few: Data) -> None:
    with pytest.raises(MeasureError, match=r"hold NaN or infinity|is not finite"):
        measured(measure, encoder_of([value, 1.0], [0.6, 0.8]), few, **settings)


@pytest.mark.parametrize("factor", [1e15, 2e-30])
def test_the_scale_of_features_changes_nothing_downstream(factor: float, few: Data) -> None:
    plain, scaled = (measured("downstream", encoder_of([w, -2 * w], [3 * w, w]), few, draws=2) for w in (1.0, factor))
    for score in plain:
        assert find_score(scaled, score.name).value == pytest.approx(score.value, abs=1e-6), score.name


def test_ranks_of_matrices_that_are_known() -> None:
    eye = torch.eye(5)
    for factor in (1.0, 1e-30, 1e30):
        assert effective_rank(eye * factor) == pytest.approx(5.0)
    assert effective_rank(torch.ones(9, 4)) == pytest.approx(1.0, abs=1e-6)
    assert effective_rank(torch.zeros(9, 4)) == 0.0


def test_neighbours_at_any_temperature() -> None:
    """Cold votes are those of the nearest neighbour alone, hot ones a plain majority."""
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.9, 1.0], [0.8, 1.0], [0.7, 1.0]])
    labels = torch.tensor([1, 1, 0, 0, 0])
    query = torch.tensor([[1.0, 0.02], [0.75, 1.0]])
    for scale in (1.0, 1e-25, 1e25):
        assert knn_predict(bank * scale, labels, query, 2, temperature=1e-6).tolist() == [1, 0]
        assert knn_predict(bank, labels, query * scale, 2, temperature=1e9).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("measure", "settings", "says"),
    [
        ("downstream", {"neighbours": 0}, "1 or more neighbours"),
        ("downstream", {"temperature": 0.0}, "a temperature above 0"),
        ("downstream", {"temperature": math.nan}, "a temperature above 0"),
        ("robustness", {"temperature": math.nan}, "a temperature above 0"),
        ("representation", {"images": 2}, "at least 3"),
        ("representation", {"bootstrap": 1}, "at least 2"),
    ],
)
def test_settings_without_a_meaning_are_refused(measure: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        MEASURES.get(measure).make_settings(settings)


@pytest.mark.parametrize(
    ("measure", "least", "count"),
    [("representation", 3, 0), ("representation", 3, 1), ("representation", 3, 2), ("representation", 3, 3),
     ("bounds", 8, 0), ("bounds", 8, 1), ("bounds", 8, 7), ("bounds", 8, 8)],
)  # fmt: skip
def test_too_few_images_are_said(measure: str, least: int, count: int, few: Data) -> None:
    bare = dataclasses.replace(few, class_names=(), splits={s: i[:count] for s, i in few.splits.items()}, fingerprint=f"{count}")
    settings: dict[str, Any] = {"bootstrap": 4, "block": 4, "scales": 0} if measure == "bounds" else {"bootstrap": 4}
    if count < least:
        with pytest.raises(MeasureError, match=rf"the held-out split holds {count} images?, and .* needs at least"):
            measured(measure, encoder_of([1.0, -2.0], [0.3, 0.4]), bare, **settings)
    else:
        assert all(math.isfinite(s.value) for s in measured(measure, encoder_of([1.0, -2.0], [0.3, 0.4]), bare, **settings))


def test_noise_beyond_all_bounds_is_marked(few: Data) -> None:
    encoder = encoder_of([1.0, -2.0], [0.3, 0.4])
    encoder.projector = nn.Linear(2, 2)
    found = measured(
        "flatness", encoder, few, pairs=8, batch=8, m=4, steps=1, restarts=1, draws=2, probes=2, sigma=1e38, rho=1e38,
    )  # fmt: skip
    for name in ("average_case", "m_sharpness"):
        score = find_score(found, name)
        assert math.isnan(score.value)
        assert not score.converged
        assert "the loss is not finite in 2 of 2" in score.settings["undefined"]
    assert find_score(found, "adaptive_average_case").converged


def test_products_that_leave_the_precision_are_said() -> None:
    w = torch.tensor([1e-30], requires_grad=True)
    batch = Batch(torch.ones(3, 1), Loss(lambda z: z, torch.mean))
    operator = CurvatureOperator(lambda x: (x * w).sqrt(), [batch], [w])
    assert operator.check_determinism() == 0.0  # value and slope are finite, the second derivative is not
    with pytest.raises(MeasureError, match="a product with the curvature is not finite"):
        operator.matvec(torch.tensor([1.0]))


def test_rungs_beyond_double_precision_are_refused() -> None:
    check_range(0.02, 8190.0, 8190)
    with pytest.raises(MeasureError, match="beyond double precision"):
        check_range(1e-6, 510.0, 510)
    with pytest.raises(MeasureError, match=r"lower bounds\.negatives"):
        check_range(0.5, 510.0, 10**9)


def test_the_mean_of_one_value_has_no_error_and_of_huge_ones_no_overflow() -> None:
    one = mean_interval(torch.tensor([3.0]).numpy())
    assert one.value == 3.0
    assert math.isnan(one.stderr)
    huge, plain = mean_interval([1e200, 3e200, 2e200]), mean_interval([1.0, 3.0, 2.0])  # type: ignore[arg-type]
    assert huge.stderr == pytest.approx(plain.stderr * 1e200, rel=1e-12)


def test_uniformity_of_coinciding_points_is_zero() -> None:
    assert uniformity(torch.ones(5, 2) / 2**0.5) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.0, abs=1e-12))


@pytest.mark.parametrize("factor", [1e-25, 1e25])
def test_eigenvalues_of_any_size(factor: float) -> None:
    """Squares of the products leave float32 both ways; the eigenvalues are within their bounds all the same."""
    diagonal = factor * torch.linspace(1.0, 20.0, 20)
    found = analyse_spectrum(lambda v: diagonal * v, 20, top=2, max_products=20)
    for value, residual, true in zip(found.largest.values, found.largest.residuals, (20.0, 19.0), strict=True):
        assert abs(value - true * factor) <= residual <= 0.1 * factor
    assert found.trace.low <= 210 * factor <= found.trace.high
