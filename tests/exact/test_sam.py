"""SAM's step against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ssa_analysis.errors import SettingsError
from ssa_analysis.training.sam import SAM, ascent_step, frozen_batchnorm_statistics


def quadratic(weights: list[Tensor], matrix: Tensor) -> Tensor:
    w = torch.cat([x.reshape(-1) for x in weights])
    return 0.5 * w @ matrix @ w


@pytest.fixture
def matrix() -> Tensor:
    root = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return root @ root.T


def make_weights() -> nn.ParameterList:
    rng = torch.Generator().manual_seed(1)
    return nn.ParameterList([nn.Parameter(torch.randn(s, dtype=torch.float64, generator=rng)) for s in ((2, 2), (2,))])


def test_the_step_is_the_gradient_at_the_worst_first_order_point(matrix: Tensor) -> None:
    """On a quadratic, ``w - lr A (w + rho A w / |A w|)`` in closed form."""
    model, rho, lr = make_weights(), 0.3, 0.05
    w = torch.cat([p.detach().reshape(-1) for p in model])
    gradient = matrix @ w
    expected = w - lr * matrix @ (w + rho * gradient / gradient.norm())

    def closure() -> Tensor:
        loss = quadratic(list(model), matrix)
        loss.backward()
        return loss.detach()

    loss = SAM(torch.optim.SGD(model.parameters(), lr=lr), model, rho).step(closure)
    torch.testing.assert_close(torch.cat([p.detach().reshape(-1) for p in model]), expected)
    assert float(loss) == pytest.approx(float(0.5 * w @ matrix @ w))


def test_the_adaptive_step_is_the_formula_and_lies_on_its_ellipsoid(matrix: Tensor) -> None:
    weights = [p.detach() for p in make_weights()]
    gradients = [torch.ones_like(w) * (i + 1) for i, w in enumerate(weights)]
    eps = ascent_step(weights, gradients, 0.7, adaptive=True, eta=0.01)
    t = [w.abs() + 0.01 for w in weights]
    norm = torch.cat([(a * g).reshape(-1) for a, g in zip(t, gradients, strict=True)]).norm()
    for e, a, g in zip(eps, t, gradients, strict=True):
        torch.testing.assert_close(e, 0.7 * a**2 * g / norm, rtol=1e-6, atol=0)
    radius = torch.cat([(e / a).reshape(-1) for e, a in zip(eps, t, strict=True)]).norm()
    assert float(radius) == pytest.approx(0.7, rel=1e-6)


def test_the_plain_step_has_length_rho_over_all_tensors_together() -> None:
    weights = [torch.zeros(3), torch.zeros(2, 2)]
    eps = ascent_step(weights, [torch.ones(3), torch.full((2, 2), -2.0)], 0.5)
    assert float(torch.cat([e.reshape(-1) for e in eps]).norm()) == pytest.approx(0.5)


def test_a_zero_gradient_moves_nothing() -> None:
    eps = ascent_step([torch.ones(3)], [torch.zeros(3)], 0.5)
    assert torch.equal(eps[0], torch.zeros(3))


@pytest.mark.parametrize("make", [lambda p: torch.optim.AdamW(p, lr=0.01), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)])
def test_any_optimizer_sees_the_unperturbed_weights_and_the_perturbed_gradient(make: object, matrix: Tensor) -> None:
    with_sam, by_hand = make_weights(), make_weights()
    optimizer = make(by_hand.parameters())  # type: ignore[operator]
    sam = SAM(make(with_sam.parameters()), with_sam, 0.2)  # type: ignore[operator]
    for _ in range(3):

        def closure() -> Tensor:
            loss = quadratic(list(with_sam), matrix)
            loss.backward()
            return loss.detach()

        sam.step(closure)
        w = torch.cat([p.detach().reshape(-1) for p in by_hand])
        g = matrix @ w
        g = matrix @ (w + 0.2 * g / g.norm())
        for p, piece in zip(by_hand, g.split([4, 2]), strict=True):
            p.grad = piece.view_as(p)
        optimizer.step()
    for a, b in zip(with_sam, by_hand, strict=True):
        torch.testing.assert_close(a, b)


def test_the_second_pass_leaves_batchnorm_statistics_and_counter_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    twin = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    twin.load_state_dict(model.state_dict())
    outputs = []

    def closure() -> Tensor:
        out = model(x)
        outputs.append(out.detach())
        loss = out.square().mean()
        loss.backward()
        return loss.detach()

    SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.1).step(closure)
    twin(x)  # one pass in training mode
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(model[1], name), getattr(twin[1], name)), name
    assert len(outputs) == 2
    assert not torch.equal(outputs[0], outputs[1])


def test_frozen_statistics_still_normalise_by_the_batch_and_come_back() -> None:
    norm = nn.BatchNorm1d(2)
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)) * 5 + 3
    with frozen_batchnorm_statistics(norm):
        out = norm(x)
    torch.testing.assert_close(out.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    assert torch.equal(norm.running_mean, torch.zeros(2))
    norm(x)
    assert not torch.equal(norm.running_mean, torch.zeros(2))
    assert "running_mean" in norm.state_dict()


def test_under_autocast_the_direction_is_that_of_the_float32_gradient() -> None:
    """bf16 products leave about 1 % in the gradient; the perturbation must be rho g / |g| of exactly that gradient."""
    torch.manual_seed(0)
    model = nn.Linear(16, 4)
    x = torch.randn(32, 16)
    seen: list[tuple[Tensor, Tensor]] = []

    def closure() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(x).float().square().mean()
        loss.backward()
        seen.append((model.weight.detach().clone(), model.weight.grad.clone()))
        return loss.detach()

    bias = model.bias.detach().clone()
    SAM(torch.optim.SGD(model.parameters(), lr=0.0), model, 0.3).step(closure)
    (w0, g0), (w1, _) = seen
    assert g0.dtype == torch.float32
    step = w1 - w0
    cosine = (step * g0).sum() / (step.norm() * g0.norm())
    assert float(cosine) == pytest.approx(1, abs=1e-5)
    assert torch.equal(model.weight, w0)
    assert torch.equal(model.bias, bias)


def test_weights_come_back_when_the_second_pass_fails(matrix: Tensor) -> None:
    model = make_weights()
    before = [p.detach().clone() for p in model]
    calls = []

    def closure() -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        loss = quadratic(list(model), matrix)
        loss.backward()
        return loss.detach()

    with pytest.raises(RuntimeError, match="out of memory"):
        SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.3).step(closure)
    assert all(torch.equal(a, b) for a, b in zip(model, before, strict=True))


def test_rho_must_be_positive() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(SettingsError, match="rho"):
        SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, 0.0)
