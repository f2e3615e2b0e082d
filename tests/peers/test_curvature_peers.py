"""PyHessian and curvlinops as back ends, against dense float64 Hessians and against our own numbers.

PyHessian's power iteration finds the eigenvalues of largest magnitude, so that is what it is compared with, and only
where it is right: on spectra without pairs of equal magnitude.
"""

from __future__ import annotations

import builtins
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures import MEASURES
from ssa_analysis.measures.backends.adapter import lent
from ssa_analysis.measures.backends.curvlinops_backend import build_curvlinops, curvlinops_scores
from ssa_analysis.measures.backends.pyhessian_backend import build_pyhessian, pyhessian_scores
from ssa_analysis.measures.fixed_loss import contrastive_loss, supervised_loss
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.hessian import Batch, CurvatureOperator, flatten
from ssa_analysis.scores import Score, find_score

LOSSES = ("contrastive", "cross-entropy")
SCOPES = ("all", "last layer")


class Net(nn.Module):
    """Two layers that the loss sees and one that it does not."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last, self.spare = nn.Linear(5, 7), nn.Linear(7, 4), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))  # type: ignore[no-any-return]


def operator_of(
    loss: str, scope: str, dtype: torch.dtype = torch.float32, kind: str = "hessian"
) -> tuple[CurvatureOperator, Net]:
    net = Net().to(dtype)
    generator = torch.Generator().manual_seed(1)
    batches = []
    for size in (8, 12):
        inputs = torch.randn(size, 5, generator=generator, dtype=torch.float64).to(dtype)
        labels = torch.randint(0, 4, (size,), generator=generator)
        batches.append(Batch(inputs, contrastive_loss(0.5, None) if loss == "contrastive" else supervised_loss(labels)))
    parameters = list(net.parameters()) if scope == "all" else list(net.last.parameters())
    return CurvatureOperator(net, batches, parameters, kind=kind), net


@cache
def dense(loss: str, scope: str, kind: str = "hessian") -> np.ndarray:
    """The dense float64 matrix. For the Hessian by torch's own nested differentiation, not by our operator."""
    operator, net = operator_of(loss, scope, torch.float64, kind)
    if kind == "gauss-newton":
        return operator.matmat(torch.eye(operator.size, dtype=torch.float64)).numpy()
    start = flatten([p.detach() for p in operator.parameters])
    names = {id(p): name for name, p in net.named_parameters()}

    def loss_of(vector: Tensor) -> Tensor:
        pieces = vector.split([p.numel() for p in operator.parameters])
        values = {names[id(p)]: piece.view_as(p) for p, piece in zip(operator.parameters, pieces, strict=True)}
        found = [b.loss(torch.func.functional_call(net, values, (b.inputs,))) for b in operator.batches]
        return torch.stack(found).mean()

    return torch.autograd.functional.hessian(loss_of, start).numpy()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_products_of_both_are_those_of_the_dense_hessian(loss: str, scope: str) -> None:
    operator, net = operator_of(loss, scope)
    vector = torch.randn(operator.size, generator=torch.Generator().manual_seed(2))
    expected = dense(loss, scope) @ vector.numpy()
    with lent(operator, net):
        assert {id(p) for p in net.parameters() if p.requires_grad} == {id(p) for p in operator.parameters}
        linear = build_curvlinops(operator, net)
        np.testing.assert_allclose((linear @ vector).numpy(), expected, atol=1e-5)
        assert linear.products == 1
        split = [
            p.view_as(q) for p, q in zip(vector.split([q.numel() for q in operator.parameters]), operator.parameters, strict=True)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its use of backward(create_graph=True), once a process
            _, product = build_pyhessian(operator, net).dataloader_hv_product(split)
        np.testing.assert_allclose(flatten(product).detach().numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(operator.matvec(vector).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_gauss_newton_of_curvlinops_is_ours(loss: str) -> None:
    operator, net = operator_of(loss, "all", kind="gauss-newton")
    vector = torch.randn(operator.size, generator=torch.Generator().manual_seed(2))
    with lent(operator, net):
        product = build_curvlinops(operator, net) @ vector
    np.testing.assert_allclose(product.numpy(), dense(loss, "all", "gauss-newton") @ vector.numpy(), atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_scores_of_curvlinops(loss: str) -> None:
    operator, net = operator_of(loss, "all")
    truth = np.linalg.eigvalsh(dense(loss, "all"))
    scores = curvlinops_scores(
        operator, net, top=3, tolerance=1e-4, max_products=300, trace_tolerance=0.05, trace_probes=600, density_probes=3,
        density_steps=10, seed=0,
    )  # fmt: skip
    for i in range(3):
        found = find_score(scores, f"lambda_{i + 1}")
        assert found.value == pytest.approx(truth[-1 - i], rel=1e-3)
        assert found.low is not None
        assert found.value - found.low < 1e-3 * truth[-1]
        assert found.converged
    assert find_score(scores, "lambda_max").value == find_score(scores, "lambda_1").value
    trace = find_score(scores, "trace")
    assert trace.stderr is not None
    assert abs(trace.value - truth.sum()) <= 4 * trace.stderr
    assert trace.settings["products"] >= 36
    mass = find_score(scores, "negative_mass")
    assert mass.stderr is not None
    assert abs(mass.value + truth[truth < 0].sum() / np.abs(truth).sum()) <= 4 * mass.stderr + 0.05
    grid = np.array(mass.arrays["eigenvalue"])
    assert (np.array(mass.arrays["density"]) * (grid[1] - grid[0])).sum() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_scores_of_pyhessian(loss: str, scope: str) -> None:
    operator, net = operator_of(loss, scope)
    truth = np.linalg.eigvalsh(dense(loss, scope))
    scores = pyhessian_scores(operator, net, top=1, seed=0)
    largest = truth[np.abs(truth).argmax()]
    found = find_score(scores, "lambda_max")
    assert found.low is not None
    assert found.high is not None
    assert found.low - 1e-4 <= largest <= found.high + 1e-4
    assert found.value == pytest.approx(largest, rel=0.05)
    trace = find_score(scores, "trace")
    assert trace.stderr is not None
    assert abs(trace.value - truth.sum()) <= 5 * trace.stderr


def _state(net: nn.Module) -> list[Any]:
    return [
        (n, p.detach().clone(), p.requires_grad, None if p.grad is None else p.grad.clone()) for n, p in net.named_parameters()
    ]


@pytest.mark.parametrize("backend", ["pyhessian", "curvlinops"])
def test_weights_gradients_flags_and_modes_are_left_as_they_were(backend: str) -> None:
    operator, net = operator_of("contrastive", "last layer")
    net.eval()
    net.first.train()
    net.spare.weight.requires_grad_(False)
    net.first.bias.grad = torch.ones(7)
    before = _state(net)
    if backend == "pyhessian":
        pyhessian_scores(operator, net, top=1, seed=0)
    else:
        curvlinops_scores(
            operator, net, top=1, tolerance=1e-3, max_products=50, trace_tolerance=1.0, trace_probes=36, density_probes=2,
            density_steps=4, seed=0,
        )  # fmt: skip
    for (name, weight, needs, gradient), (_, weight2, needs2, gradient2) in zip(before, _state(net), strict=True):
        assert weight.equal(weight2), name
        assert needs == needs2, name
        assert (gradient is None) == (gradient2 is None), name
        assert gradient is None or gradient.equal(gradient2), name
    assert net.first.training
    assert not net.last.training


def scores_of(encoder: Encoder, data: Data, **values: object) -> list[Score]:
    row = MEASURES.get("curvature")
    return row.function(encoder, data, row.make_settings({"pairs": 32, "batch": 16, "top": 2, **values}))


@pytest.mark.parametrize("about", [{}, {"scope": "backbone"}, {"loss": "supervised"}], ids=["all", "backbone", "supervised"])
def test_all_three_agree_on_a_trained_encoder(encoder: Encoder, digits: Data, about: dict[str, str]) -> None:
    ours = scores_of(encoder, digits, **about)
    theirs = scores_of(encoder, digits, backend="curvlinops", density_probes=1, density_steps=4, **about)
    for name in ("lambda_1", "lambda_2"):
        assert find_score(theirs, name).value == pytest.approx(find_score(ours, name).value, rel=2e-3)
        assert find_score(theirs, name).settings["backend"] == "curvlinops"
    power = find_score(scores_of(encoder, digits, backend="pyhessian", **about), "lambda_max")
    magnitude = max(abs(find_score(ours, n).value) for n in ("lambda_max", "lambda_min"))
    assert abs(power.value) == pytest.approx(magnitude, rel=0.02)
    mine, trace = find_score(ours, "trace"), find_score(theirs, "trace")
    assert mine.stderr is not None
    assert trace.stderr is not None
    assert abs(mine.value - trace.value) <= 4 * (mine.stderr**2 + trace.stderr**2) ** 0.5
    assert all(p.grad is None for p in encoder.parameters())


@pytest.fixture
def without_curvlinops(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "curvlinops":
            raise ImportError("No module named 'curvlinops'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)


@pytest.mark.usefixtures("without_curvlinops")
def test_without_curvlinops_the_error_names_the_command(encoder: Encoder, digits: Data) -> None:
    with pytest.raises(SettingsError, match=r'pip install "ssa-analysis\[peers\]"'):
        scores_of(encoder, digits, backend="curvlinops")


def test_pyhessian_has_no_gauss_newton_and_says_so(encoder: Encoder, digits: Data) -> None:
    with pytest.raises(SettingsError, match="Hessian only"):
        scores_of(encoder, digits, backend="pyhessian", kind="gauss-newton")
    with pytest.raises(SettingsError, match="curvlinops"):
        scores_of(encoder, digits, backend="scipy")
