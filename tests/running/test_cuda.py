"""What a GPU computes is what the CPU computes: scores, training, corruptions, memory. Without one, all of it is skipped."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ssa_analysis
from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.data.corruptions import corrupt, generated
from ssa_analysis.data.datasets import Data
from ssa_analysis.data.fourier import FourierSettings, fourier_augment
from ssa_analysis.diagnosis.doctor import diagnose
from ssa_analysis.hooks import ScoreRecorder
from ssa_analysis.measures import MEASURES
from ssa_analysis.measures.fixed_loss import FixedLossSettings, fixed_operator
from ssa_analysis.models.backbones import ConvNet
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.models.vit import ViT, ViTPlan
from ssa_analysis.numerics.contrastive import nt_xent
from ssa_analysis.numerics.kernels import GaussianKernel
from ssa_analysis.numerics.mmd import mmd_test
from ssa_analysis.numerics.precision import full_precision
from ssa_analysis.numerics.seeding import generator, seeded
from ssa_analysis.numerics.sinkhorn import sinkhorn_divergence
from ssa_analysis.numerics.sliced import sliced_wasserstein2
from ssa_analysis.running.environment import environment
from ssa_analysis.running.executors import InProcessExecutor, ProcessExecutor
from ssa_analysis.running.measuring import Measured, run_measure
from ssa_analysis.running.plan import DataSpec, default_measures, make_cells
from ssa_analysis.running.score_estimate import estimate_scoring, measured_costs
from ssa_analysis.running.scoring import run_cells
from ssa_analysis.scores import Score
from ssa_analysis.training.logs import EpochLog
from ssa_analysis.training.loop import build_encoder, train
from ssa_analysis.training.settings import METHODS, TrainSettings

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device")

# what every measure is run with, and the cases that go through code of their own
SMALL: dict[str, dict[str, Any]] = {
    "curvature": {"pairs": 64, "batch": 32, "top": 2, "density_steps": 5, "trace_probes": 5},
    "flatness": {"pairs": 64, "batch": 32, "draws": 4, "steps": 2},
    "landscape": {"pairs": 64, "batch": 32, "points": 5, "grid": 3},
    "shift": {"permutations": 20, "groups": 4, "projections": 10, "batch": 16},
    "views": {"groups": 4, "strengths": "1.5"},
    "robustness": {"images": 40},
    "representation": {"bootstrap": 5},
    "bounds": {"bootstrap": 20, "draws": 10, "scales": 3},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in MEASURES.names()},
    "curvature, classifier": ("curvature", {"loss": "supervised"}),
    "curvature, Gauss-Newton": ("curvature", {"kind": "gauss-newton"}),
    "curvature, in chunks": ("curvature", {"memory": 0.001}),
    "curvature, PyHessian": ("curvature", {"backend": "pyhessian"}),
    "curvature, curvlinops": ("curvature", {"backend": "curvlinops"}),
    "landscape, eigenvectors": ("landscape", {"along": "eigenvectors", "directions": 2}),
    "landscape, BatchNorm": ("landscape", {"batchnorm": "reestimated"}),
    "shift, features": ("shift", {"space": "features"}),
}
TRAINING = TrainSettings(arch="convnet", width=4, projector=(16, 8), epochs=3, batch=64, lr=0.1, warmup=1, knn_every=0)
SPEC = DataSpec("digits", subset=600)


class Stop(Exception):
    pass


def stop_after(epoch: int) -> Callable[[EpochLog], None]:
    def look(row: EpochLog) -> None:
        if row.epoch == epoch:
            raise Stop

    return look


@pytest.fixture
def whole_memory() -> Iterator[None]:
    """The limit that a test sets on the memory goes away with it."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def measured(name: str, values: dict[str, Any], encoder: Encoder, data: Data) -> Measured:
    return run_measure(MEASURES.get(name), {**SMALL.get(name, {}), **values}, encoder, data)


def scores_of(name: str, values: dict[str, Any], encoder: Encoder, data: Data) -> list[Score]:
    found = measured(name, values, encoder, data)
    if found.error is not None:
        raise found.error
    return found.scores


def allowed(score: Score) -> float:
    """Its own error, and never less than what float32 leaves."""
    stated = [score.stderr or 0.0]
    if score.settings["error"] == "residual" and score.low is not None and score.high is not None:
        stated.append((score.high - score.low) / 2)
    return max(*(error for error in stated if math.isfinite(error)), 2e-3 * abs(score.value), 1e-5)


def same(scores: list[Score], others: list[Score], errors: float = 1.0) -> None:
    """Within so many of both errors together; one is enough where both use the same draws."""
    assert [s.name for s in scores] == [s.name for s in others]
    far = [
        f"{s.name}: {s.value:.6g} on the CPU, {o.value:.6g} on the GPU, allowed {allowed(s):.2g} and {allowed(o):.2g}"
        for s, o in zip(scores, others, strict=True)
        if abs(s.value - o.value) > errors * math.hypot(allowed(s), allowed(o))
    ]
    assert not far, "\n".join(far)


@pytest.mark.parametrize("case", CASES)
def test_a_measure_gives_the_cpus_numbers_and_the_same_ones_again(case: str, tiny_checkpoint: Path, digits: Data) -> None:
    name, values = CASES[case]
    if "backend" in values:
        pytest.importorskip(values["backend"])
    expected = scores_of(name, values, load_checkpoint(tiny_checkpoint).encoder, digits)
    runs = []
    for _ in range(2):
        encoder = load_checkpoint(tiny_checkpoint).encoder.to(DEVICE)
        states = torch.get_rng_state(), torch.cuda.get_rng_state() if DEVICE == "cuda" else torch.zeros(1)
        before = {key: value.clone() for key, value in encoder.state_dict().items()}
        runs.append(scores_of(name, values, encoder, digits))
        assert torch.equal(states[0], torch.get_rng_state())
        assert DEVICE != "cuda" or torch.equal(states[1], torch.cuda.get_rng_state()), "the GPU's generator was moved"
        assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    same(expected, runs[0], errors=4.0 if "backend" in values else 1.0)  # the libraries draw on the GPU
    assert [(s.name, s.value, s.stderr) for s in runs[0]] == [(s.name, s.value, s.stderr) for s in runs[1]]


@pytest.mark.parametrize("arch", ["resnet18", "vit"])
@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_products_and_gradients_of_larger_nets_are_the_cpus(arch: str, kind: str, digits: Data) -> None:
    encoder = build_encoder(dataclasses.replace(TRAINING, arch="resnet18", width=8), digits).eval()
    if arch == "vit":
        plan = ViTPlan(32, 2, 2, 64, digits.image_size // 4, 4)
        projector = nn.Sequential(nn.Linear(32, 8))
        encoder = Encoder(ViT(plan), projector, digits.mean, digits.std, encoder.recipe).eval()  # type: ignore[arg-type]
    found = []
    vector: Tensor | None = None
    for device in ("cpu", DEVICE):
        with full_precision():
            operator = fixed_operator(encoder.to(device), digits, FixedLossSettings(pairs=32, batch=16), kind)
            if vector is None:
                vector = torch.randn(operator.size, generator=torch.Generator().manual_seed(0))
            found.append([operator.gradient().cpu(), operator.matvec(vector.to(device)).cpu()])
    for here, there in zip(*found, strict=True):
        assert float((here - there).norm() / here.norm()) < 1e-3


@pytest.mark.skipif(DEVICE != "cuda", reason="TF32 is a matter of GPUs")
def test_measures_do_not_use_tf32(digits: Data) -> None:
    """With it a Hessian product of this net is off by a part in a thousand, without by one in a hundred thousand."""
    encoder = build_encoder(dataclasses.replace(TRAINING, arch="resnet18", width=64), digits).eval()
    products: list[Tensor] = []

    def product(encoder: Encoder, data: Data, settings: FixedLossSettings) -> list[Score]:
        operator = fixed_operator(encoder, data, settings)
        products.append(operator.matvec(torch.ones(operator.size, device=operator.device)).cpu().double())
        return []

    row = dataclasses.replace(MEASURES.get("curvature"), settings=FixedLossSettings, function=product)
    for device, dtype in ((DEVICE, torch.float32), (DEVICE, torch.float64)):
        found = run_measure(row, FixedLossSettings(pairs=16, batch=16), encoder.to(device, dtype), digits)
        assert found.error is None, found.reason
    assert float((products[0] - products[1]).norm() / products[1].norm()) < 1e-4


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_training_runs_resumes_and_its_checkpoint_loads(method: str, amp: str, digits: Data, tmp_path: Path) -> None:
    settings = dataclasses.replace(TRAINING, method=method, amp=amp)
    rows: list[EpochLog] = []
    whole = train(settings, digits, tmp_path / "whole", device=DEVICE, on_epoch=rows.append, channels_last=True)
    with pytest.raises(Stop):
        train(settings, digits, tmp_path / "broken", device=DEVICE, on_epoch=stop_after(2), channels_last=True)
    again: list[EpochLog] = []
    resumed = train(
        settings, digits, tmp_path / "broken", device=DEVICE, resume=True, on_epoch=again.append, channels_last=True
    )  # fmt: skip
    assert [row.epoch for row in again] == [3]
    assert again[0].loss == pytest.approx(rows[-1].loss, rel=0.02)  # a GPU's training sums in no fixed order
    assert rows[-1].loss < rows[0].loss
    for path in (whole, resumed):
        loaded = load_checkpoint(path)
        assert loaded.report.training["epoch"] == 3
        assert all(tensor.device.type == "cpu" for tensor in loaded.encoder.state_dict().values())
        assert torch.isfinite(loaded.encoder.embed(digits.images_of("held-out")[:8])).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"negatives": 10},
        {"accumulate": 2},
        {"method": "ssa-clr", "fourier": FourierSettings(partner="nearest")},
        {"method": "ssa-clr", "fourier": FourierSettings(partner="class", window=2)},
        {"method": "simclr-sam", "adaptive": True, "optimizer": "lars"},
        {"optimizer": "adamw", "lr": 1e-3, "arch": "resnet18", "stem": "imagenet"},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_every_way_of_training_runs(changes: dict[str, Any], digits: Data, tmp_path: Path) -> None:
    rows: list[EpochLog] = []
    settings = dataclasses.replace(TRAINING, **{"epochs": 2, "knn_every": 2, **changes})
    train(settings, digits, tmp_path / "run", device=DEVICE, on_epoch=rows.append, keep_every=1)
    assert rows[-1].knn is not None
    assert math.isfinite(rows[-1].loss)


def test_two_epochs_on_the_gpu_have_the_losses_of_the_cpu(digits: Data, tmp_path: Path) -> None:
    """To a few percent: random views are each device's own."""
    rows: list[list[EpochLog]] = [[], []]
    for device, log in zip(("cpu", DEVICE), rows, strict=True):
        settings = dataclasses.replace(TRAINING, batch=128)
        train(settings, digits, tmp_path / f"on {device} {len(rows[0])}", device=device, on_epoch=log.append)
    for here, there in zip(*rows, strict=True):
        assert there.loss == pytest.approx(here.loss, rel=0.05)


@pytest.mark.skipif(DEVICE != "cuda", reason="the memory of a GPU is counted")
@pytest.mark.parametrize("memory", [2.0, 0.25, 0.05])
def test_the_stated_memory_is_kept_and_changes_no_number(memory: float, digits: Data) -> None:
    values = {"pairs": 256, "batch": 256, "top": 2, "trace_probes": 4, "density_probes": 2, "density_steps": 3}
    encoder = build_encoder(dataclasses.replace(TRAINING, arch="resnet18", width=8), digits).eval()
    expected = scores_of("curvature", {**values, "memory": 64}, encoder.to(DEVICE), digits)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = scores_of("curvature", {**values, "memory": memory}, encoder, digits)
    peak = torch.cuda.max_memory_allocated() - before
    same([s for s in expected if s.settings["error"] == "residual"], [s for s in found if s.settings["error"] == "residual"])
    assert peak < memory * 2**30, f"{peak / 2**20:.0f} MiB, {found[0].settings}"


@pytest.mark.skipif(DEVICE != "cuda", reason="the memory of a GPU is limited")
def test_out_of_memory_is_said_and_the_next_measure_has_all_of_it(digits: Data, whole_memory: None) -> None:
    encoder = build_encoder(dataclasses.replace(TRAINING, arch="resnet18", width=16), digits).eval().to(DEVICE)
    torch.cuda.empty_cache()
    before, whole = torch.cuda.memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 64 * 2**20) / whole)
    found = measured("curvature", {"pairs": 256, "batch": 256}, encoder, digits)
    assert found.reason == "the device ran out of memory; lower the measure's memory, pairs or batch"
    assert torch.cuda.memory_allocated() - before < 2**20  # although the error is still held
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert measured("curvature", {"pairs": 256, "batch": 256}, encoder, digits).error is None


@pytest.mark.skipif(DEVICE != "cuda", reason="the memory of a GPU is counted")
def test_the_estimate_before_scoring_is_of_the_right_size(tiny_checkpoint: Path, digits: Data) -> None:
    costs = measured_costs(tiny_checkpoint, LoadOptions(), digits, DEVICE)
    assert 0 < costs.forward < costs.gradient < 0.1
    cells = make_cells([tiny_checkpoint], digits, ["curvature"], 0, {}, {})
    promised = estimate_scoring(cells, digits, costs)
    encoder = load_checkpoint(tiny_checkpoint).encoder.to(DEVICE)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    assert measured("curvature", {"pairs": 256, "batch": 256}, encoder, digits).error is None
    peak = torch.cuda.max_memory_allocated() - before
    assert promised.memory / 4 < peak < 4 * promised.memory, f"{peak / 2**20:.0f} MiB of {promised.memory / 2**20:.0f}"


@pytest.mark.parametrize("side", [32, 80])
@pytest.mark.parametrize("name", generated())
def test_a_corruption_is_the_cpus(name: str, side: int) -> None:
    smooth = torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    images = (torch.nn.functional.interpolate(smooth, side, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)
    for severity in (1, 3, 5):
        here = corrupt(images, name, severity, list(range(6)))
        there = corrupt(images.to(DEVICE), name, severity, list(range(6)))
        assert there.device.type == DEVICE
        far = (here.int() - there.cpu().int()).abs() > 1
        assert float(far.float().mean()) < 2e-3, f"severity {severity}: {int(far.sum())} values differ by more than a level"


@pytest.mark.parametrize("partner", ["batch", "class", "nearest"])
def test_the_fourier_augmentation_is_the_cpus(partner: str, digits: Data) -> None:
    images, labels = digits.images_of("train")[:32].float() / 255, digits.labels_of("train")[:32]
    settings = FourierSettings(partner=partner)
    here, there = (
        fourier_augment(images.to(d), settings, generator(0, "fourier"), labels, images.flatten(1).to(d)).cpu()
        for d in ("cpu", DEVICE)
    )
    assert torch.allclose(here, there, atol=1e-5)


def test_distances_between_samples_on_the_gpu_are_the_cpus() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 8, generator=rng), torch.randn(200, 8, generator=rng) + 0.1
    tests = [mmd_test(GaussianKernel(torch.cat([x, y]).to(d), [2.0]), 200, permutations=50) for d in ("cpu", DEVICE)]
    assert tests[1].value == pytest.approx(tests[0].value, rel=1e-3)
    assert (tests[1].p_value, tests[1].stderr) == (tests[0].p_value, pytest.approx(tests[0].stderr, rel=1e-3))
    blocks = torch.arange(100).repeat_interleave(2)
    blocks = torch.cat([blocks, blocks + 100])
    tests = [
        mmd_test(GaussianKernel(torch.cat([x, y]).to(d), [2.0]), 200, permutations=50, blocks=blocks) for d in ("cpu", DEVICE)
    ]
    assert tests[1].value == pytest.approx(tests[0].value, rel=1e-3)
    for distance in (
        lambda a, b: sinkhorn_divergence(a, b, 1.0)[0],
        lambda a, b: sliced_wasserstein2(a, b, projections=20)[0],
        lambda a, b: sliced_wasserstein2(a[:150], b, projections=20)[0],
    ):
        assert distance(x.to(DEVICE), y.to(DEVICE)) == pytest.approx(distance(x, y), rel=1e-4)


@pytest.mark.parametrize("negatives", [None, 5])
def test_the_loss_and_its_gradient_are_the_cpus(negatives: int | None) -> None:
    rng = torch.Generator().manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(16, 8, generator=rng)) for _ in range(2))
    found = []
    for device in ("cpu", DEVICE):
        z = first.detach().clone().to(device).requires_grad_()
        loss = nt_xent(z, second.to(device), 0.5, None, negatives, generator(0, "negatives", device=device)).mean()
        loss.backward()
        found.append((float(loss.detach()), z.grad.cpu()))
    if negatives is None:  # which ones are drawn is each device's own
        assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
        assert torch.allclose(found[0][1], found[1][1], atol=1e-6)
    assert all(math.isfinite(loss) for loss, _ in found)


@pytest.mark.skipif(DEVICE != "cuda", reason="the generators of GPUs")
def test_draws_on_the_cpu_leave_the_gpus_generator_and_draws_on_the_gpu_are_put_back() -> None:
    torch.cuda.manual_seed(3)
    expected = torch.rand(4, device=DEVICE)
    for device in ("cpu", DEVICE):
        torch.cuda.manual_seed(3)
        with seeded(0, "block", device=device):
            first = torch.rand(4, device=device)
        assert torch.equal(torch.rand(4, device=DEVICE), expected)
        with seeded(0, "block", device=device):
            assert torch.equal(torch.rand(4, device=device), first)


def test_somebody_elses_training_goes_on_as_if_nobody_looked(digits: Data) -> None:
    """With dropout, whose draws come from the GPU's generator."""
    losses = []
    for recorder in (None, ScoreRecorder(digits, ["downstream", "shift"], normalise="none", settings={"shift": SMALL["shift"]})):
        torch.manual_seed(0)
        net = nn.Sequential(ConvNet(4), nn.Dropout(0.5), nn.Linear(16, 10)).to(DEVICE)
        optimiser = torch.optim.SGD(net.parameters(), 0.1)
        images, labels = digits.images_of("train")[:64].to(DEVICE) / 255, digits.labels_of("train")[:64].to(DEVICE)
        for step in range(3):
            with full_precision():  # a fixed order of sums, so that the losses can be compared bit for bit
                loss = cross_entropy(net(images), labels)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            losses.append(float(loss.detach()))
            if recorder is not None:
                recorder(net, step)
        assert net.training
        assert next(net.parameters()).device.type == DEVICE
    assert losses[:3] == losses[3:]
    assert recorder is not None
    probe = recorder.frame[recorder.frame["name"] == "probe_accuracy"]
    assert probe["step"].tolist() == [0, 1, 2]


def test_a_module_is_measured_where_it_is_and_files_on_the_gpu(tiny_checkpoint: Path, digits: Data) -> None:
    small = {"measures": ["representation"], "settings": {"representation": SMALL["representation"]}}
    frames = [ssa_analysis.score(load_checkpoint(tiny_checkpoint).encoder.to(d), digits, **small) for d in ("cpu", DEVICE)]
    frames.append(ssa_analysis.score(tiny_checkpoint, digits, **small))
    for frame in frames[1:]:
        assert frame["value"].tolist() == pytest.approx(frames[0]["value"].tolist(), rel=1e-3)


@pytest.mark.skipif(DEVICE != "cuda", reason="workers that share GPUs")
def test_two_workers_on_one_gpu_give_the_scores_of_one(tiny_checkpoint: Path, digits: Data, tmp_path: Path) -> None:
    other = train(dataclasses.replace(TRAINING, seed=1), digits, tmp_path / "other", device=DEVICE)
    cells = make_cells([tiny_checkpoint, other], digits, ["representation", "curvature"], 0, {}, {k: SMALL[k] for k in SMALL})
    here, there = (
        run_cells(cells, SPEC, executor=executor, device=DEVICE)
        for executor in (InProcessExecutor(), ProcessExecutor(2, torch.cuda.device_count()))
    )
    assert not here.failures
    assert not there.failures
    same(here.scores, there.scores)


@pytest.mark.skipif(DEVICE != "cuda", reason="which GPUs a worker sees")
def test_a_worker_can_still_choose_its_gpu_after_its_imports() -> None:
    """CUDA looks at ``CUDA_VISIBLE_DEVICES`` once; what is imported must not make it look."""
    code = (
        "import os, torch, ssa_analysis, ssa_analysis.running.executors.local, ssa_analysis.running.plan, kornia.augmentation\n"
        "os.environ['CUDA_VISIBLE_DEVICES'] = ''\n"
        "assert torch.cuda.device_count() == 0, torch.cuda.device_count()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_doctor_finds_what_it_finds_on_the_cpu(tiny_checkpoint: Path, digits: Data) -> None:
    here, there = (diagnose(tiny_checkpoint, digits, device=device) for device in ("cpu", DEVICE))
    assert [(f.check, f.verdict) for f in there] == [(f.check, f.verdict) for f in here]


@pytest.mark.skipif(DEVICE != "cuda", reason="the name of the GPU")
def test_scores_remember_the_gpu() -> None:
    environment.cache_clear()
    assert environment()["gpu"] == torch.cuda.get_device_name()


def test_default_measures_are_all_among_the_cases() -> None:
    assert {*default_measures(), "views", "bounds"} <= {name for name, _ in CASES.values()}
