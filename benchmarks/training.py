"""Steps of training side by side: what the methods cost over SimCLR, what of it the views are, and what speeds a step up.

    python benchmarks/training.py [--json] [--device cuda] [--arch resnet18] [--width 64] [--batch 512] [--steps 10] [--smoke]

The peer of a method is our own SimCLR step (two gradients are 2x, so an SSA-CLR step has a ratio of about 0.5; 2.15x is
0.465). The peer of the views is the whole SSA-CLR step: a ratio of 6.7 is a share of 15 %. The loss has
pytorch-metric-learning's as its peer. Random images of CIFAR-10's size; the steps run in turn, medians. On a GPU the
memory is what a work takes at its peak on top of what all of them hold.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from common import Row, device_name, print_rows
from torch import Tensor

from ssa_analysis.data.datasets import Data, load_data
from ssa_analysis.data.views import Views
from ssa_analysis.numerics.contrastive import nt_xent
from ssa_analysis.training.loop import build_encoder, gradient_of, training_recipe
from ssa_analysis.training.optimizers import build_optimizer
from ssa_analysis.training.parallel import Replica
from ssa_analysis.training.sam import SAM
from ssa_analysis.training.settings import METHODS, TrainSettings, method_row


class Trainer:
    """One method's step, as the training loop takes it, and its views alone."""

    def __init__(
        self, method: str, images: Tensor, data: Data, options: argparse.Namespace, amp: str = "off", last: bool = False,
        compiled: bool = False,
    ) -> None:  # fmt: skip
        device = torch.device(options.device)
        self.settings = TrainSettings(
            method=method,
            arch=options.arch,
            width=options.width,
            projector=(128, 64),
            batch=options.batch,
            amp=amp,
            views="simclr",
        )
        self.images, self.last, self.step_number = images.to(device), last, 0
        self.encoder = build_encoder(self.settings, data).to(device).train()
        if last:
            self.encoder.to(memory_format=torch.channels_last)
        self.replica = Replica(self.encoder, device, compiled)
        self.optimizer = build_optimizer("sgd", self.encoder, 0.01, 5e-4)
        aware = method_row(method).sharpness_aware
        self.sharp = SAM(self.optimizer, self.encoder, 0.05) if aware else None
        self.maker = Views(training_recipe(self.settings, data), images.shape[-1])

    def views(self) -> tuple[Tensor, Tensor]:
        """Two views of the batch."""
        self.step_number += 1
        first, second = self.maker.pair(self.images, self.step_number)
        if self.last:
            first, second = (view.contiguous(memory_format=torch.channels_last) for view in (first, second))
        return first, second

    def step(self) -> None:
        """Views, one gradient or two, and the optimizer's step."""
        first, second = self.views()

        def closure() -> Tensor:
            return gradient_of(self.replica, first, second, self.settings, self.step_number)

        if self.sharp is not None:
            self.sharp.step(closure)
        else:
            self.optimizer.zero_grad(set_to_none=True)
            closure()
            self.optimizer.step()


@dataclass(frozen=True)
class Spent:
    """Median wall seconds, and MiB of a GPU at the peak."""

    seconds: float
    peak_mib: float
    device: str


def in_turn(works: dict[str, Callable[[], Any]], steps: int, device: str) -> dict[str, Spent]:
    """What each work takes, run one after the other; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in works}
    peaks = dict.fromkeys(works, math.nan)
    on_gpu = device.startswith("cuda")
    for number in range(steps + 1):
        for name, work in works.items():
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            started = time.perf_counter()
            work()
            if on_gpu:
                torch.cuda.synchronize()
            if number:
                times[name].append(time.perf_counter() - started)
                peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**20 if on_gpu else math.nan
    where = device_name(device)
    return {name: Spent(statistics.median(values), peaks[name], where) for name, values in times.items()}


def row(work: str, peer: str, ours: Spent, theirs: Spent, error: float = math.nan) -> Row:
    """A comparison of two works."""
    ratio = theirs.seconds / ours.seconds
    memory = {"ours_peak_mib": ours.peak_mib, "peer_peak_mib": theirs.peak_mib}
    return Row(work, peer, ours.seconds, theirs.seconds, ratio, error, **memory, device=ours.device)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """All comparisons."""
    data = load_data("digits")  # for the constants of its normalisation alone
    images = torch.randint(0, 256, (options.batch, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    what = f"{options.arch}, width {options.width or 'full'}, batch {options.batch}"
    trainers = {method: Trainer(method, images, data, options) for method in METHODS}
    works: dict[str, Callable[[], Any]] = {method: trainer.step for method, trainer in trainers.items()}
    works |= {f"views of {method}": trainers[method].views for method in ("simclr", "ssa-clr")}
    found = in_turn(works, options.steps, options.device)
    for method in list(METHODS)[1:]:
        yield row(f"{METHODS[method].label} step, {what}", "SimCLR step", found[method], found["simclr"])
    for method in ("simclr", "ssa-clr"):
        label = METHODS[method].label
        yield row(f"views of a {label} step, {what}", f"the whole {label} step", found[f"views of {method}"], found[method])
    faster = {"bf16": {"amp": "bf16"}, "channels last": {"last": True}, "bf16, channels last": {"amp": "bf16", "last": True}}
    if options.compile:
        faster["compiled"] = {"compiled": True}
    quick = {name: Trainer("simclr", images, data, options, **changes).step for name, changes in faster.items()}
    found = in_turn({"plain": trainers["simclr"].step, **quick}, options.steps, options.device)
    for name in faster:
        yield row(f"SimCLR step, {name}, {what}", "SimCLR step", found[name], found["plain"])
    if importlib.util.find_spec("pytorch_metric_learning") is not None:
        yield _loss(options)


def _loss(options: argparse.Namespace) -> Row:
    """Loss and gradient of NT-Xent."""
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    rng = torch.Generator().manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(options.batch, 128, generator=rng)) for _ in range(2))
    first, second = (z.to(options.device).requires_grad_() for z in (first, second))
    peer = SelfSupervisedLoss(NTXentLoss(temperature=0.5))
    ours = nt_xent(first, second, 0.5).mean()
    error = abs(float(ours.detach()) - float(peer(first, second).detach())) / float(ours.detach())
    works = {"ours": lambda: nt_xent(first, second, 0.5).mean().backward(), "peer": lambda: peer(first, second).backward()}
    found = in_turn(works, 3 * options.steps, options.device)
    return row(f"NT-Xent and its gradient, {options.batch} pairs", "pytorch-metric-learning", found["ours"], found["peer"], error)


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also a step through torch.compile, which needs a compiler")
    parser.add_argument("--smoke", action="store_true", help="a tiny net, to see that it runs")
    options, _ = parser.parse_known_args()  # make benchmark passes the options of all
    if options.smoke:
        options.arch, options.width, options.batch, options.steps = "convnet", 4, 16, 1
    if options.device == "cpu":
        torch.set_num_threads(1)
    print_rows(rows(options), options.json)


if __name__ == "__main__":
    main()
