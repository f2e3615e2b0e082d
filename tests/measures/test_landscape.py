"""The landscape: slices through the right points, BatchNorm as asked, weights and statistics left as they were."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.checkpoints.own_model import parse_model
from ssa_analysis.checkpoints.reading import file_hash
from ssa_analysis.checkpoints.writing import save_checkpoint
from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import CheckpointError, MeasureError, SettingsError
from ssa_analysis.measures import MEASURES
from ssa_analysis.measures.base import RunContext, running_in
from ssa_analysis.measures.fixed_loss import fixed_operator
from ssa_analysis.measures.landscape import LandscapeSettings, inner_half, landscape
from ssa_analysis.measures.landscape_directions import difference_to, eigen_directions, random_direction
from ssa_analysis.measures.loss_field import LossField, Slice, batchnorm_modules, reestimating
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.hessian import CurvatureOperator
from ssa_analysis.numerics.surfaces import nonconvexity, quadratic_reach, rise_at, ruggedness
from ssa_analysis.scores import Score, find_score

# a low temperature, because the loss of so small an encoder is flat at the usual one
SMALL: dict[str, Any] = {"pairs": 64, "batch": 32, "points": 5, "grid": 3, "tau": 0.1}


def small(**changes: Any) -> LandscapeSettings:
    return LandscapeSettings(**{**SMALL, **changes})


def arrays_of(scores: list[Score], name: str) -> dict[str, np.ndarray]:
    return {key: np.array(value, float) for key, value in find_score(scores, name).arrays.items()}


@pytest.fixture
def other(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint with other weights and other running statistics."""
    payload = torch.load(tiny_checkpoint, weights_only=True)
    rng = torch.Generator().manual_seed(5)

    def change(key: str, value: torch.Tensor) -> torch.Tensor:
        if not value.is_floating_point():
            return value
        noise = 0.3 * value.std(correction=0) * torch.randn(value.shape, generator=rng)
        return value * 1.5 if key.endswith("running_var") else value + noise

    path = tmp_path / "other.pt"
    save_checkpoint(path, {**payload, "model": {k: change(k, v) for k, v in payload["model"].items()}})
    return path


def scale(encoder: Encoder, factor: float) -> None:
    """Multiply the first convolution, which BatchNorm follows."""
    with torch.no_grad():
        next(m for m in encoder.modules() if isinstance(m, nn.Conv2d)).weight.mul_(factor)


def exchange(encoder: Encoder, kinds: tuple[type[nn.Module], ...], new: type[nn.Module]) -> None:
    """Put new modules where there are some of these kinds."""
    for module in list(encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, kinds):
                setattr(module, name, new())


def state_of(encoder: Encoder) -> dict[str, Any]:
    modes = {name: (m.training, getattr(m, "momentum", None)) for name, m in encoder.named_modules()}
    return {"tensors": {k: v.clone() for k, v in encoder.state_dict().items()}, "modes": modes}


def assert_same_state(encoder: Encoder, before: dict[str, Any]) -> None:
    now = state_of(encoder)
    assert now["modes"] == before["modes"]
    for key, value in before["tensors"].items():
        assert torch.equal(now["tensors"][key], value), key


class TestRandom:
    def test_slices_pass_through_the_loss_at_the_weights(self, encoder: Encoder, digits: Data) -> None:
        settings = small(span=0.4)
        scores = landscape(encoder, digits, settings)
        base = fixed_operator(encoder, digits, settings).loss()
        curve = arrays_of(scores, "rise_full")
        assert curve["offset"] == pytest.approx([-0.4, -0.2, 0, 0.2, 0.4])
        assert curve["loss"][:, 2].tolist() == [base] * 3
        plane = arrays_of(scores, "rise_2d")["loss"]
        assert plane[1, 1] == base
        # the plane's axes are the first two directions of the slices, rows along the second
        assert plane[1, [0, 2]].tolist() == curve["loss"][0, [0, 4]].tolist()
        assert plane[[0, 2], 1].tolist() == curve["loss"][1, [0, 4]].tolist()
        half = np.mean([(c[1] + c[3]) / 2 - base for c in curve["loss"]])
        assert find_score(scores, "rise_half").value == pytest.approx(half, abs=1e-9)
        assert find_score(scores, "rise_2d").value == pytest.approx(plane.mean() - base, abs=1e-9)

    def test_a_point_is_the_loss_of_the_moved_weights(self, encoder: Encoder, digits: Data) -> None:
        settings = small(span=0.4)
        plane = arrays_of(landscape(encoder, digits, settings), "rise_2d")["loss"]
        parameters = [p for p in encoder.parameters() if p.requires_grad]
        steps = [random_direction(parameters, 0, i) for i in (0, 1)]
        with torch.no_grad():
            for p, first, second in zip(parameters, *steps, strict=True):
                p.add_(-0.4 * first + 0.4 * second)
        assert fixed_operator(encoder, digits, settings).loss() == pytest.approx(plane[2, 0], rel=1e-5)

    def test_directions_give_the_errors(self, encoder: Encoder, digits: Data) -> None:
        scores = landscape(encoder, digits, small(directions=4, points=9))
        curve = arrays_of(scores, "rise_full")
        axis, base = curve["offset"], curve["loss"][0, 4]
        for name, values in (
            ("rise_full", [rise_at(axis, c, base, 1.0) for c in curve["loss"]]),
            ("ruggedness", [ruggedness(c) for c in curve["loss"]]),
        ):
            score = find_score(scores, name)
            assert score.value == pytest.approx(np.mean(values))
            assert score.stderr == pytest.approx(np.std(values, ddof=1) / 2)
            assert score.low == pytest.approx(score.value - 3.182446 * score.stderr)  # Student's t, three degrees of freedom

    def test_several_planes_give_an_error_and_one_says_that_it_has_none(self, encoder: Encoder, digits: Data) -> None:
        one, three = (landscape(encoder, digits, small(planes=n)) for n in (1, 3))
        for name in ("rise_2d", "nonconvexity_2d"):
            assert find_score(one, name).stderr is None
            assert find_score(one, name).settings["error"] == "exact for this plane"
            assert find_score(three, name).settings["error"] == "standard error"
            assert find_score(three, name).stderr is not None
        first = arrays_of(three, "rise_2d")["loss"]
        assert first.tolist() == arrays_of(one, "rise_2d")["loss"].tolist()
        assert find_score(three, "rise_2d").value != pytest.approx(find_score(one, "rise_2d").value, rel=1e-3)

    def test_nonconvexity_is_that_of_the_inner_half(self, encoder: Encoder, digits: Data) -> None:
        scores = landscape(encoder, digits, small(grid=9, points=3))
        plane = arrays_of(scores, "rise_2d")
        middle = np.abs(plane["offset"]) <= 0.5
        assert middle.sum() == 5
        axis = plane["offset"][middle]
        expected = nonconvexity(plane["loss"][middle][:, middle], axis, axis)
        assert find_score(scores, "nonconvexity_2d").value == pytest.approx(expected)
        assert [inner_half(n).stop - inner_half(n).start for n in (3, 5, 13, 51)] == [3, 3, 7, 25]

    def test_losses_that_are_not_finite_are_missing(self, encoder: Encoder, digits: Data) -> None:
        scores = landscape(encoder, digits, small(points=7, grid=5, span=1e30))
        assert not find_score(scores, "rise_full").converged
        for name, count in (("rise_full", 3 * 6), ("rise_2d", 24)):
            score = find_score(scores, name)
            assert score.settings["missing"] == count
            text = json.dumps(dict(score.arrays), allow_nan=False)
            assert text.count("null") == count
        assert math.isnan(find_score(scores, "rise_full").value)
        json.dumps([score.to_json() for score in scores], allow_nan=False)

    def test_an_infinite_loss_is_missing_too(self, encoder: Encoder, digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
        operator = fixed_operator(encoder, digits, small())
        losses = iter([4.0, math.inf, -math.inf, math.nan])
        monkeypatch.setattr(operator, "loss", lambda: next(losses))
        field = LossField(encoder, operator, lambda name: random_direction(operator.parameters, 0, 0))
        (curve,) = field.losses([Slice((("random 0", (0.0, 0.1, 0.2, 0.3)),))], {})
        assert curve[0] == 4.0
        assert np.isnan(curve[1:]).all()

    def test_no_grid_no_plane(self, encoder: Encoder, digits: Data) -> None:
        names = [score.name for score in landscape(encoder, digits, small(grid=0))]
        assert names == ["rise_half", "rise_full", "ruggedness"]

    def test_every_point_is_computed_once(self, encoder: Encoder, digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        original = CurvatureOperator.loss
        monkeypatch.setattr(CurvatureOperator, "loss", lambda self: calls.append(1) or original(self))
        landscape(encoder, digits, small(grid=5))
        # two of the determinism check; the plane holds two of the lines, the third adds four points
        assert len(calls) == 2 + 25 + 4


class TestBatchNorm:
    @pytest.mark.parametrize("batchnorm", ["frozen", "reestimated"])
    @pytest.mark.parametrize("along", ["random", "checkpoint"])
    def test_everything_is_restored_to_the_bit(
        self, along: str, batchnorm: str, encoder: Encoder, digits: Data, other: Path
    ) -> None:
        before = state_of(encoder)
        settings = small(along=along, batchnorm=batchnorm, other=str(other) if along == "checkpoint" else "")
        landscape(encoder, digits, settings)
        assert_same_state(encoder, before)

    @pytest.mark.parametrize("batchnorm", ["frozen", "reestimated"])
    def test_also_after_an_error(
        self, batchnorm: str, encoder: Encoder, digits: Data, other: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = state_of(encoder)
        calls = []
        original = CurvatureOperator.loss

        def fails(self: CurvatureOperator) -> float:
            calls.append(1)
            if len(calls) > 6:
                raise KeyboardInterrupt
            return original(self)

        monkeypatch.setattr(CurvatureOperator, "loss", fails)
        with pytest.raises(KeyboardInterrupt):
            landscape(encoder, digits, small(along="checkpoint", other=str(other), batchnorm=batchnorm))
        assert_same_state(encoder, before)

    def test_scaling_before_batchnorm_changes_the_frozen_loss_only(self, encoder: Encoder, digits: Data) -> None:
        losses: dict[str, list[np.ndarray]] = {"frozen": [], "reestimated": []}
        for factor in (1.0, 3.0):
            scale(encoder, factor)
            for batchnorm, found in losses.items():
                found.append(arrays_of(landscape(encoder, digits, small(batchnorm=batchnorm, span=0.8)), "rise_full")["loss"])
        change = {batchnorm: np.abs(after - before).max() for batchnorm, (before, after) in losses.items()}
        assert change["frozen"] > 0.05
        assert change["reestimated"] < 1e-3

    def test_without_batchnorm_both_agree(self, encoder: Encoder, digits: Data) -> None:
        exchange(encoder, (nn.BatchNorm1d, nn.BatchNorm2d), nn.Identity)
        frozen, reestimated = (landscape(encoder, digits, small(batchnorm=b)) for b in ("frozen", "reestimated"))
        assert [s.value for s in frozen] == [s.value for s in reestimated]

    def test_reestimated_statistics_are_those_of_the_batches(self, encoder: Encoder, digits: Data) -> None:
        operator = fixed_operator(encoder, digits, small())
        assert len(operator.batches) == 2
        first = batchnorm_modules(encoder)[0]
        convolution = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d))
        means, variances = [], []
        with torch.no_grad():
            for batch in operator.batches:
                out = convolution((batch.inputs - encoder.mean) / encoder.std)
                means.append(out.mean((0, 2, 3)))
                variances.append(out.transpose(0, 1).flatten(1).var(dim=1))
        with reestimating(encoder, operator) as reestimate:
            for _ in range(2):  # the second time begins anew
                reestimate()
                torch.testing.assert_close(first.running_mean, sum(means) / 2)
                torch.testing.assert_close(first.running_var, sum(variances) / 2)
                assert not any(m.training for m in encoder.modules())

    def test_the_loss_with_reestimated_statistics_is_nearly_that_of_training_mode(self, encoder: Encoder, digits: Data) -> None:
        operator = fixed_operator(encoder, digits, small(pairs=64, batch=64))
        field = LossField(encoder, operator, lambda name: [], batchnorm="reestimated")
        (origin,) = field.losses([Slice((("random 0", (0.0,)),))], {})
        encoder.train()
        training = operator.loss()
        assert origin[0] == pytest.approx(training, rel=0.01)  # one batch; its variance is unbiased in one of them


class TestEigenvectors:
    def test_eigenvalue_and_curve_agree_near_the_weights(self, encoder: Encoder, digits: Data) -> None:
        exchange(encoder, (nn.ReLU,), nn.Softplus)  # so small a net with ReLU has kinks everywhere
        scores = landscape(encoder, digits, small(along="eigenvectors", directions=2, points=9, span=0.02))
        for i in (1, 2):
            rise, ratio = find_score(scores, f"eigen_rise_{i}"), find_score(scores, f"eigen_ratio_{i}")
            eigenvalue = rise.settings["eigenvalue"]
            assert ratio.value == pytest.approx(1, abs=0.05)
            assert ratio.value == pytest.approx(rise.value / (0.5 * eigenvalue * 0.02**2))
            assert ratio.low is not None
            assert ratio.high is not None
            assert ratio.low <= ratio.value <= ratio.high
            curve = arrays_of(scores, f"eigen_rise_{i}")
            base = curve["loss"][4]
            until = quadratic_reach(curve["offset"], curve["loss"], base, eigenvalue)
            assert rise.settings["quadratic_until"] == until
            slope = (curve["quadratic"][-1] - curve["quadratic"][0]) / 0.04
            assert slope == pytest.approx((curve["loss"][5] - curve["loss"][3]) / 0.01, abs=0.05)
            assert rise.settings["slope"] == pytest.approx(slope)
            assert (curve["quadratic"][-1] + curve["quadratic"][0]) / 2 - base == pytest.approx(rise.settings["quadratic"])
            assert curve["quadratic"][4] == base
            assert rise.converged

    def test_the_directions_are_eigenvectors(self, encoder: Encoder, digits: Data) -> None:
        operator = fixed_operator(encoder, digits, small())
        found = eigen_directions(operator, 3, 1e-3, 100, 0, {})
        for value, vector, residual in zip(found.values, found.vectors, found.residuals, strict=True):
            assert float(vector.norm()) == pytest.approx(1, abs=1e-6)
            assert float(vector[vector.abs().argmax()]) > 0
            distance = float((operator.matvec(vector) - float(value) * vector).norm())
            assert distance == pytest.approx(residual, rel=0.05, abs=1e-3 * value)
        assert sorted(found.values.tolist(), reverse=True) == found.values.tolist()
        assert torch.cat([d.flatten() for d in found.direction(1, operator.parameters)]).equal(found.vectors[1])

    def test_the_span_is_where_the_quadratic_model_predicts_one_nat(self, encoder: Encoder, digits: Data) -> None:
        scores = landscape(encoder, digits, small(along="eigenvectors"))
        first = find_score(scores, "eigen_rise_1")
        assert first.settings["quadratic"] == pytest.approx(1.0)
        curve = arrays_of(scores, "eigen_rise_1")
        assert curve["offset"][-1] == pytest.approx(math.sqrt(2 / first.settings["eigenvalue"]))
        plane = arrays_of(scores, "eigen_rise_2d")
        assert plane["loss"][1].tolist() == curve["loss"][[0, 2, 4]].tolist()
        assert plane["loss"][:, 1].tolist() == arrays_of(scores, "eigen_rise_2")["loss"][[0, 2, 4]].tolist()
        names = [s.name for s in scores]
        assert names[0] == "eigen_rise_1"
        assert names[-2:] == ["eigen_rise_2d", "eigen_nonconvexity_2d"]

    def test_too_few_products_are_said(self, encoder: Encoder, digits: Data) -> None:
        scores = landscape(encoder, digits, small(along="eigenvectors", directions=3, max_products=4, grid=0))
        assert not find_score(scores, "eigen_rise_3").converged
        assert find_score(scores, "eigen_rise_3").settings["residual"] > 0


class TestCheckpoint:
    def test_the_ends_of_the_path_are_the_two_checkpoints(self, encoder: Encoder, digits: Data, other: Path) -> None:
        settings = small(along="checkpoint", other=str(other), points=13, grid=9)
        scores = landscape(encoder, digits, settings)
        path = arrays_of(scores, "barrier")
        operator = fixed_operator(encoder, digits, settings)
        assert path["loss"][path["offset"] == 0][0] == operator.loss()
        encoder.load_state_dict(load_checkpoint(other).encoder.state_dict())  # weights and statistics
        end = operator.loss()
        assert path["loss"][path["offset"] == 1][0] == pytest.approx(end, rel=1e-5)
        assert find_score(scores, "other_loss").value == pytest.approx(end, rel=1e-5)
        plane = arrays_of(scores, "path_rise_2d")
        assert (plane["offset"][0], plane["offset"][-1], plane["second"][0], plane["second"][-1]) == (-0.25, 1.25, -0.5, 0.5)
        middle = plane["loss"][4]
        assert middle[plane["offset"] == 1][0] == path["loss"][path["offset"] == 1][0]
        assert middle[plane["offset"] == 0.5][0] == path["loss"][path["offset"] == 0.5][0]

    def test_statistics_move_between_the_ends_and_stay_there(self, encoder: Encoder, digits: Data, other: Path) -> None:
        operator = fixed_operator(encoder, digits, small())
        way = difference_to(other, encoder, operator, with_buffers=True)
        assert way.buffers is not None
        variance = batchnorm_modules(encoder)[0].running_var
        assert variance is not None
        before = variance.clone()
        seen = []
        original = operator.loss
        operator.loss = lambda: seen.append(variance / before) or original()  # type: ignore[func-returns-value, method-assign]
        field = LossField(encoder, operator, lambda name: way.direction, buffers=way.buffers)
        field.losses([Slice((("other", (-0.25, 0.0, 0.5, 1.0, 1.25)),))], {})
        assert [float(s.mean()) for s in seen] == pytest.approx([1.0, 1.0, 1.25, 1.5, 1.5])
        assert way.length == pytest.approx(math.sqrt(sum(float(d.square().sum()) for d in way.direction)), rel=1e-6)

    def test_frozen_statistics_move_and_reestimated_ones_do_not_depend_on_the_file_s(
        self, encoder: Encoder, digits: Data, other: Path, tmp_path: Path
    ) -> None:
        payload = torch.load(other, weights_only=True)
        changed = tmp_path / "changed.pt"
        model = {k: v * 2 if k.endswith("running_var") else v for k, v in payload["model"].items()}
        save_checkpoint(changed, {**payload, "model": model})
        values = {
            (batchnorm, path): find_score(
                landscape(encoder, digits, small(along="checkpoint", other=str(path), batchnorm=batchnorm, grid=0)), "other_loss"
            ).value
            for batchnorm in ("frozen", "reestimated")
            for path in (other, changed)
        }
        assert values["reestimated", other] == values["reestimated", changed]
        assert values["frozen", other] != pytest.approx(values["frozen", changed], rel=1e-4)

    def test_the_barrier_is_a_lower_bound_that_says_how_settled_it_is(self, encoder: Encoder, digits: Data, other: Path) -> None:
        scores = landscape(encoder, digits, small(along="checkpoint", other=str(other), points=13, grid=0))
        score = find_score(scores, "barrier")
        path = arrays_of(scores, "barrier")
        inside = (path["offset"] >= 0) & (path["offset"] <= 1)
        t, loss = path["offset"][inside], path["loss"][inside]
        assert score.value == pytest.approx((loss - (1 - t) * loss[0] - t * loss[-1]).max())
        assert score.low == score.value
        assert score.high is None
        assert score.settings["points"] == len(t) == 9
        rough = abs(score.value - score.settings["every_second_point"])
        assert score.converged == (rough <= 0.05 * max(score.value, 1e-3 * loss[0]))

    def test_a_checkpoint_is_no_barrier_away_from_itself(self, encoder: Encoder, digits: Data, tiny_checkpoint: Path) -> None:
        scores = landscape(encoder, digits, small(along="checkpoint", other=str(tiny_checkpoint)))
        assert find_score(scores, "barrier").value == 0
        assert math.isnan(find_score(scores, "path_nonconvexity_2d").value)

    def test_only_what_is_in_scope_moves(self, encoder: Encoder, digits: Data, other: Path) -> None:
        settings = small(scope="projector")
        operator = fixed_operator(encoder, digits, settings)
        way = difference_to(other, encoder, operator, with_buffers=True)
        assert way.buffers is not None
        (normalisation,) = (m for m in encoder.projector.modules() if isinstance(m, nn.BatchNorm1d))  # type: ignore[union-attr]
        assert [id(t) for t in way.buffers.tensors] == [id(normalisation.running_mean), id(normalisation.running_var)]
        before = state_of(encoder)
        scores = landscape(encoder, digits, small(scope="projector", along="checkpoint", other=str(other), grid=0))
        assert_same_state(encoder, before)
        encoder.projector.load_state_dict(load_checkpoint(other).encoder.projector.state_dict())  # type: ignore[union-attr]
        assert find_score(scores, "other_loss").value == pytest.approx(operator.loss(), rel=1e-5)

    def test_another_architecture_is_refused(self, encoder: Encoder, digits: Data, other: Path) -> None:
        operator = fixed_operator(encoder, digits, small())
        encoder.projector = None
        with pytest.raises(MeasureError, match=r"other\.pt: another architecture .*'projector\.0\.weight' has shape .* there"):
            difference_to(other, encoder, operator, with_buffers=True)

    def test_the_same_weights_in_another_network_are_refused(self, encoder: Encoder, digits: Data, other: Path) -> None:
        next(m for m in encoder.modules() if isinstance(m, nn.Conv2d)).stride = (2, 2)
        with pytest.raises(MeasureError, match="the same weights in other modules"):
            landscape(encoder, digits, small(along="checkpoint", other=str(other)))

    def test_another_normalisation_is_refused(self, encoder: Encoder, digits: Data, other: Path) -> None:
        encoder.mean += 0.1
        with pytest.raises(MeasureError, match="normalised otherwise"):
            landscape(encoder, digits, small(along="checkpoint", other=str(other)))

    def test_a_probe_of_its_own_leads_to_no_other_checkpoint(self, encoder: Encoder, digits: Data, other: Path) -> None:
        with pytest.raises(MeasureError, match=r"has no 'classifier\.weight': .* take scope=backbone"):
            landscape(encoder, digits, small(along="checkpoint", other=str(other), loss="supervised"))
        scores = landscape(encoder, digits, small(along="checkpoint", other=str(other), loss="supervised", scope="backbone"))
        assert math.isfinite(find_score(scores, "barrier").value)

    def test_the_other_file_is_loaded_with_the_user_s_own_architecture(
        self, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "net.py").write_text(OWN)
        model = parse_model(f"{tmp_path / 'net.py'}:build", "half")
        names = [tmp_path / "a.pt", tmp_path / "b.pt"]
        for number, path in enumerate(names):
            torch.manual_seed(number)
            torch.save(recognise_own_net(tmp_path / "net.py").state_dict(), path)
        with running_in(RunContext(options=LoadOptions(model))):
            encoder = load_checkpoint(names[0], LoadOptions(model)).encoder
            settings = small(along="checkpoint", other=str(names[1]), loss="supervised", grid=0)
            assert math.isfinite(find_score(landscape(encoder, digits, settings), "barrier").value)


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))

def build():
    return Net()
"""


def recognise_own_net(path: Path) -> nn.Module:
    space: dict[str, Any] = {}
    exec(path.read_text(), space)
    return space["build"]()  # type: ignore[no-any-return]


class TestSettings:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"points": 4}, "odd number of points"),
            ({"points": 1}, "odd number of points"),
            ({"grid": 4}, "grid must be odd"),
            ({"grid": 1}, "grid must be odd"),
            ({"directions": 1}, "at least 2 directions, got 1"),
            ({"along": "eigenvectors", "directions": 1}, "at least 2 directions, got 1"),
            ({"along": "eigenvectors", "directions": 0, "grid": 0}, "at least 1 directions, got 0"),
            ({"along": "eigenvectors", "batchnorm": "reestimated"}, "use batchnorm=frozen"),
            ({"along": "eigenvectors", "max_products": 3}, "more products than directions"),
            ({"along": "eigenvectors", "tolerance": 0.0}, "tolerance between 0 and 1"),
            ({"span": 0.0}, "span of the landscape must be positive"),
            ({"span": math.inf}, "span of the landscape must be positive"),
            ({"planes": 0}, "planes must be 1"),
            ({"planes": 2, "along": "eigenvectors"}, "planes must be 1"),
            ({"along": "eigenvector"}, "unknown kind of slice 'eigenvector'; did you mean eigenvectors"),
            ({"batchnorm": "freeze"}, "unknown treatment of BatchNorm 'freeze'"),
            ({"other": "a.pt"}, "say along=checkpoint too"),
            ({"along": "checkpoint"}, "needs another checkpoint: other=FILE"),
        ],
    )
    def test_bad_settings_are_refused(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            LandscapeSettings(**values)

    def test_the_other_file_s_content_is_part_of_the_settings(self, other: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
        path = tmp_path / "runs" / "b" / "last.pt"
        path.parent.mkdir(parents=True)
        path.write_bytes(other.read_bytes())
        row = MEASURES.get("landscape")
        first = row.make_settings({"along": "checkpoint", "other": str(path.parent)})
        assert first.to_dict()["other_sha256"] == file_hash(path)
        assert row.make_settings(first.to_dict()) == first
        path.write_bytes(tiny_checkpoint.read_bytes())
        assert row.make_settings({"along": "checkpoint", "other": str(path.parent)}) != first
        with pytest.raises(SettingsError, match="changed since this was planned"):
            row.make_settings(first.to_dict())

    def test_the_other_file_must_be_one_that_is_there(self, other: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"gone\.pt: no such file"):
            LandscapeSettings(along="checkpoint", other=str(tmp_path / "gone.pt"))
        (other.parent / "second.pt").write_bytes(b"x")
        with pytest.raises(SettingsError, match="stands for 2 checkpoints; name one file"):
            LandscapeSettings(along="checkpoint", other=str(other.parent))

    def test_text_from_the_command_line(self) -> None:
        row = MEASURES.get("landscape")
        assert row.make_settings({"span": "2"}) == LandscapeSettings(span=2.0)
        assert row.make_settings({"span": "none"}) == LandscapeSettings()


def test_each_kind_has_names_of_its_own(encoder: Encoder, digits: Data, other: Path) -> None:
    names: Callable[..., set[str]] = lambda **values: {s.name for s in landscape(encoder, digits, small(**values))}  # noqa: E731
    kinds = [names(), names(along="eigenvectors"), names(along="checkpoint", other=str(other))]
    assert sum(map(len, kinds)) == len(set.union(*kinds))
    assert MEASURES.get("landscape").apart == ("along",)


def test_a_landscape_of_the_backbone_leaves_the_projector(encoder: Encoder, digits: Data) -> None:
    operator = fixed_operator(encoder, digits, small(scope="backbone"))
    before = [p.detach().clone() for p in encoder.projector.parameters()]  # type: ignore[union-attr]
    seen = []
    original = operator.loss

    def looks() -> float:
        now = list(encoder.projector.parameters())  # type: ignore[union-attr]
        seen.append(all(torch.equal(a, b) for a, b in zip(now, before, strict=True)))
        return original()

    operator.loss = looks  # type: ignore[method-assign]
    field = LossField(encoder, operator, lambda name: random_direction(operator.parameters, 0, 0))
    (curve,) = field.losses([Slice((("random 0", (-0.5, 0.0, 0.5)),))], {})
    assert seen == [True] * 3
    assert len(set(curve.tolist())) == 3


def test_the_supervised_loss_has_a_landscape_too(encoder: Encoder, digits: Data) -> None:
    for batchnorm in ("frozen", "reestimated"):
        scores = landscape(encoder, digits, small(loss="supervised", batchnorm=batchnorm))
        assert all(math.isfinite(s.value) for s in scores)


def test_dataclass_fields_have_plain_defaults() -> None:
    """They come back from the store as JSON."""
    values = LandscapeSettings().to_dict()
    assert LandscapeSettings(**json.loads(json.dumps(values))) == LandscapeSettings()
    assert {f.name for f in dataclasses.fields(LandscapeSettings)} == set(values)
