"""The operator on networks as they are used: cross-entropy, BatchNorm with its weights, residual blocks, attention.

Against dense float64 Hessians by reverse over reverse differentiation, whatever the memory; and what memory it takes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import ClassVar
from weakref import WeakSet

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import normalize, scaled_dot_product_attention
from torchvision.models.resnet import BasicBlock

import ssa_analysis
from ssa_analysis.measures.fixed_loss import contrastive_loss, supervised_loss
from ssa_analysis.numerics.contrastive import nt_xent
from ssa_analysis.numerics.hessian import PROBE_INPUTS, Batch, CurvatureOperator, flatten, twice_differentiable

PLANS = {"kept": 1e3, "rebuilt": 1.5, "chunked": 3.0 / 7, "one by one": 1e-9}  # in units of one batch's graph
SIZE = 7  # inputs of a batch; no multiple of a chunk
CLASSES = 3


class Attention(nn.Module):
    """A pre-norm block with GELU; through nn.MultiheadAttention or the fused function itself."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(4), nn.LayerNorm(4)
        self.attention = None if fused else nn.MultiheadAttention(4, 2, batch_first=True)
        self.qkv, self.out = (nn.Linear(4, 12), nn.Linear(4, 4)) if fused else (None, None)
        self.mlp = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        if self.attention is not None:
            y = self.attention(y, y, y, need_weights=False)[0]
        else:
            q, k, v = (part.unflatten(-1, (2, 2)).transpose(1, 2) for part in self.qkv(y).chunk(3, dim=-1))
            y = self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + y
        return (x + self.mlp(self.norm2(x))).mean(1)


def transformer(fused: bool) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (5, 4)), Attention(fused), nn.Linear(4, CLASSES))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batchnorm1d": (lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, CLASSES)), (5,)),
    "batchnorm2d": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.SiLU(), nn.Conv2d(3, 3, 2), nn.Flatten(), nn.Linear(12, CLASSES)
        ),
        (2, 5, 5),
    ),
    "residual block": (
        lambda: nn.Sequential(BasicBlock(3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES)), (3, 4, 4)
    ),
    "layernorm": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)),
        (5,),
    ),
    "nn.MultiheadAttention": (lambda: transformer(fused=False), (20,)),
    "scaled_dot_product_attention": (lambda: transformer(fused=True), (20,)),
}  # fmt: skip


class Problem:
    """A net in evaluation mode with weights and statistics that are none of the defaults; two batches."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float64) -> None:
        build, shape = NETS[name]
        with torch.random.fork_rng():
            torch.manual_seed(len(name))
            self.net = build().double().eval()
            with torch.no_grad():
                for key, tensor in self.net.state_dict().items():
                    if "running_var" in key:
                        tensor.uniform_(0.5, 1.5)
                    elif tensor.ndim == 1 and tensor.is_floating_point():
                        tensor.add_(0.3 * torch.randn_like(tensor))
            self.net.to(dtype)
            self.inputs = [torch.randn(SIZE, *shape, dtype=torch.float64).to(dtype) for _ in range(2)]
            self.labels = [torch.randint(CLASSES, (SIZE,)) for _ in range(2)]
        self.named = dict(self.net.named_parameters())
        self.parameters = list(self.named.values())

    def operator(self, plan: str, loss: str = "supervised", **options: str) -> CurvatureOperator:
        def network(x: Tensor) -> Tensor:
            return self.net(x) if loss == "supervised" else normalize(self.net(x), dim=1)

        if loss == "supervised":
            batches = [Batch(x, supervised_loss(y)) for x, y in zip(self.inputs, self.labels, strict=True)]
        else:
            batches = [Batch(x[:6], contrastive_loss(0.5, None)) for x in self.inputs]
        unit = CurvatureOperator(network, batches, self.parameters).bytes_per_input * len(batches[0].inputs)
        operator = CurvatureOperator(network, batches, self.parameters, memory=PLANS[plan] * unit, **options)
        assert operator.plan == ("chunked" if plan == "one by one" else plan)
        return operator

    def outputs(self, vector: Tensor, x: Tensor) -> Tensor:
        pieces = vector.split([p.numel() for p in self.parameters])
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(
                self.net, {n: v.view_as(p) for (n, p), v in zip(self.named.items(), pieces, strict=True)}, (x,)
            )

    @property
    def weights(self) -> Tensor:
        return flatten([p.detach() for p in self.parameters])

    def hessian(self, loss: str) -> Tensor:
        def mean(vector: Tensor) -> Tensor:
            if loss == "supervised":
                logs = [
                    self.outputs(vector, x).log_softmax(1)[range(SIZE), y] for x, y in zip(self.inputs, self.labels, strict=True)
                ]
                return -torch.cat(logs).mean()
            z = [normalize(self.outputs(vector, x[:6]), dim=1) for x in self.inputs]
            return sum(nt_xent(each[:3], each[3:], 0.5).mean() for each in z) / 2

        return torch.autograd.functional.hessian(mean, self.weights, vectorize=True)

    def fisher(self) -> Tensor:
        """The Fisher of the model: the mean over inputs, and over labels that the model draws, of g g'."""
        total = torch.zeros(len(self.weights), len(self.weights), dtype=torch.float64)
        for x in self.inputs:
            logs = self.outputs(self.weights, x).log_softmax(1)
            jacobian = torch.autograd.functional.jacobian(
                lambda vector, x=x: self.outputs(vector, x).log_softmax(1), self.weights, vectorize=True
            )
            total += torch.einsum("kc,kci,kcj->ij", logs.exp().detach(), jacobian, jacobian) / (2 * SIZE)
        return total


problem = cache(Problem)


@cache
def dense(name: str, loss: str) -> Tensor:
    return problem(name).fisher() if loss == "fisher" else problem(name).hessian(loss)


def some_vectors(operator: CurvatureOperator) -> Tensor:
    """Four at random: a wrong entry anywhere shows in each."""
    return torch.randn(4, operator.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(operator.dtype)


def products(operator: CurvatureOperator) -> Tensor:
    return operator.matmat(some_vectors(operator))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("loss", ["supervised", "contrastive"])
@pytest.mark.parametrize("name", NETS)
def test_the_hessian_is_the_dense_one(name: str, loss: str, plan: str) -> None:
    operator = problem(name).operator(plan, loss)
    vectors = some_vectors(operator)
    expected = vectors @ dense(name, loss)
    torch.testing.assert_close(operator.matmat(vectors), expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(operator.matvec(vectors[2]), expected[2], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", NETS)
def test_gauss_newton_of_the_cross_entropy_is_the_fisher_of_the_model(name: str, plan: str) -> None:
    operator = problem(name).operator(plan, kind="gauss-newton")
    vectors = some_vectors(operator)
    torch.testing.assert_close(operator.matmat(vectors), vectors @ dense(name, "fisher"), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("name", NETS)
def test_in_single_precision_the_plans_agree_to_1e_6(name: str, kind: str) -> None:
    found = {plan: products(Problem(name, torch.float32).operator(plan, kind=kind)) for plan in PLANS}
    exact = products(problem(name).operator("kept", kind=kind)).float()
    for plan, columns in found.items():
        assert (columns - found["kept"]).norm() <= 1e-6 * found["kept"].norm(), plan
        assert (columns - exact).norm() <= 2e-6 * exact.norm(), plan


@pytest.mark.parametrize("plan", PLANS)
def test_vectors_keep_their_precision_outside(plan: str) -> None:
    operator = Problem("batchnorm1d", torch.float32).operator(plan)
    vectors = torch.randn(3, operator.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = operator.matmat(vectors)
    assert together.dtype == torch.float64
    one_by_one = torch.stack([operator.matvec(v) for v in vectors])
    torch.testing.assert_close(together, one_by_one, rtol=1e-6, atol=1e-7)
    assert operator.products == 6


def test_the_passes_of_these_networks_agree() -> None:
    for name in NETS:
        for plan in PLANS:
            assert problem(name).operator(plan).check_determinism() <= 1e-12


@pytest.mark.parametrize("name", ["nn.MultiheadAttention", "scaled_dot_product_attention"])
def test_fused_attention_has_no_second_derivative(name: str) -> None:
    """Which is why the operator takes the plain kernel; where torch learns it one day, that is no longer needed."""
    net, x = problem(name).net, problem(name).inputs[0]

    def second_derivative(network: Callable[[Tensor], Tensor]) -> Tensor:
        weight = problem(name).parameters[0]
        first = torch.autograd.grad(network(x).square().sum(), [weight], create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), [weight])[0]

    assert second_derivative(twice_differentiable(net)).norm() > 0
    try:
        second_derivative(net)
    except RuntimeError as error:
        assert "derivative" in str(error)  # noqa: PT017
    else:
        pytest.skip(f"torch {torch.__version__} differentiates its fused attention twice here")


class Watched(torch.autograd.Function):
    """The identity; its context lives as long as the graph that it is a part of."""

    living: ClassVar[WeakSet[object]] = WeakSet()

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        Watched.living.add(ctx)
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class TestMemory:
    def wide(self, inputs: int = 32, batches: int = 2, **options: float) -> CurvatureOperator:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 3))
            fixed = [
                Batch(torch.randn(inputs, 8), supervised_loss(torch.zeros(inputs, dtype=torch.long))) for _ in range(batches)
            ]
        return CurvatureOperator(net, fixed, list(net.parameters()), **options)

    def test_what_is_saved_of_an_input_does_not_depend_on_how_many_there_are(self) -> None:
        sizes = [self.wide(n).bytes_per_input for n in (2, PROBE_INPUTS, 100)]
        assert sizes == [sizes[0]] * 3
        # at least input, hidden activations before and after, and the gradients that come back to them
        assert 4 * (64 + 64) <= sizes[0] <= 4 * 64 * 10
        assert self.wide(1).bytes_per_input >= sizes[0]

    @pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
    @pytest.mark.parametrize("plan", ["rebuilt", "chunked"])
    def test_a_graph_is_gone_before_the_next_is_built(self, plan: str, kind: str) -> None:
        of = problem("batchnorm1d")
        first, *rest = of.net
        living = []

        def network(x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                living.append(len(Watched.living))
            return nn.Sequential(*rest)(Watched.apply(first(x)))

        plain = of.operator(plan, kind=kind)
        operator = CurvatureOperator(network, plain.batches, of.parameters, kind=kind, memory=plain.memory * 1.2)
        assert operator.plan == plan
        living.clear()
        operator.matmat(some_vectors(operator))
        assert len(living) >= 2
        assert set(living) == {0}

    def test_frozen_weights_do_not_count(self) -> None:
        small = self.wide().bytes_per_input
        there, back = torch.full((3, 3000), 0.01), torch.full((3000, 3), 0.01)  # 36 kB each, of which autograd keeps a hold
        operator = self.wide()
        network = operator.network
        frozen = CurvatureOperator(lambda x: network(x) @ there @ back, operator.batches, operator.parameters)
        assert frozen.bytes_per_input <= small + 200

    def test_kept_gradients_count(self) -> None:
        """Of every batch one gradient is kept; with many small batches that is more than what autograd saves."""
        operator = self.wide(inputs=1, batches=50)
        graphs = 50 * operator.bytes_per_input
        gradients = 50 * 4 * operator.size
        assert gradients > graphs / 10
        assert self.wide(1, 50, memory=1.01 * (graphs + gradients)).plan == "kept"
        assert self.wide(1, 50, memory=0.99 * (graphs + gradients)).plan == "rebuilt"

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
    @pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
    def test_the_memory_stated_is_the_memory_taken(self, kind: str) -> None:
        """Kept graphs take what was foreseen; other plans no more than the budget and a product's temporaries."""
        root = Path(ssa_analysis.__file__).parents[1]
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
            "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536",
        }  # fmt: skip
        script = MEMORY_SCRIPT.replace("KIND", kind)
        ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stderr
        rows = {
            name: (float(budget), float(held), float(peak))
            for name, budget, held, peak in map(str.split, ended.stdout.splitlines())
        }
        budget, held, peak = rows["kept"]
        assert 0.85 * budget < held < 1.15 * budget
        assert held <= peak < 1.5 * budget
        for plan in ("rebuilt", "chunked"):
            budget, held, peak = rows[plan]
            assert held < 0.15 * rows["kept"][0]
            assert 0.8 * budget < peak < 1.75 * budget + CONSTANT


CONSTANT = 12e6  # bytes: weights, vectors, and what threads and allocators take once
MEMORY_SCRIPT = """
import resource
import torch
from torch import nn
from ssa_analysis.measures.fixed_loss import contrastive_loss
from ssa_analysis.numerics.hessian import Batch, CurvatureOperator

torch.set_num_threads(1)
torch.manual_seed(0)
layers = [nn.Conv2d(3, 16, 3, padding=1)]
for _ in range(4):
    layers += [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
batches = [Batch(torch.randn(96, 3, 16, 16), contrastive_loss(0.5, None)) for _ in range(3)]
parameters = list(net.parameters())


def operator(memory):
    return CurvatureOperator(lambda x: nn.functional.normalize(net(x), dim=1), batches, parameters, kind="KIND", memory=memory)


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()


def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


one = operator(1e12).bytes_per_input
for plan, inputs in (("chunked", 32), ("rebuilt", 96), ("kept", 3 * 96)):
    measured = operator(1.01 * one * inputs + 1e5)
    assert measured.plan == plan, (plan, measured.plan)
    measured.loss()
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = resident()
    measured.matvec(torch.randn(measured.size))
    print(plan, one * inputs, resident() - before, peak() - before)
    measured.release()
"""
