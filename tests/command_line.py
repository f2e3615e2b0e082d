"""``ssa-analyze`` in this process: what it prints and how it ends; and a folder in which the documents' commands run."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from ssa_analysis.cli.main import main
from ssa_analysis.reports import html

from ssa_analysis.data.datasets import load_data
from ssa_analysis.measures import Measure
from ssa_analysis.numerics.seeding import seeded
from ssa_analysis.training.loop import train
from ssa_analysis.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("simclr", "simclr-sam", "simclr-fourier", "ssa-clr")
TINY = TrainSettings(arch="convnet", width=4, projector=(16, 8), epochs=3, batch=64, lr=0.1, warmup=0, knn_every=0)
DRAWN = ("granulated", "predicted_accuracy", "method_contrasts")  # figures of the study that the session shares
# measures that take seconds; what a command sets itself stays
SMALL: dict[str, dict[str, Any]] = {
    "curvature": {"pairs": 32, "batch": 32, "top": 1, "max_products": 8, "trace_probes": 3, "density_probes": 1},
    "flatness": {"pairs": 32, "batch": 32, "steps": 1, "restarts": 1, "draws": 2},
    "landscape": {"pairs": 32, "batch": 32, "directions": 2, "points": 3, "grid": 3},
    "downstream": {"draws": 2},
    "robustness": {"images": 30},
    "shift": {"permutations": 19, "projections": 5, "groups": 4},
    "views": {"images": 60, "groups": 4},
    "bounds": {"bootstrap": 10, "transport": 30, "scales": 2, "draws": 4, "block": 32},
}
FEW = ("--set", "bounds.bootstrap=10", "--set", "bounds.scales=2", "--set", "bounds.draws=4")  # draws, where any will do
NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.projector = nn.Sequential(nn.Linear(16, 4))


def build():
    return Net()
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, bytes on stdout, text on stderr."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def complaint(self) -> str:
        """The only line on stderr; fails if there are more, or anything on stdout."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert self.raw == b""
        return lines[0]

    def usage(self) -> str:
        """What was wrong with the command line: the last line, after click's usage."""
        assert self.code == 2, self.err
        assert self.raw == b""
        assert "Traceback" not in self.err
        return self.err.splitlines()[-1]


def run_cli(*arguments: object) -> Ended:
    """``ssa-analyze ARGUMENTS``."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True), io.StringIO()
    argv = ["ssa-analyze", *map(str, arguments)]
    with patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
        else:
            raise AssertionError("main() returned without an exit code")
    assert isinstance(code, int)
    return Ended(code, out.buffer.getvalue(), err.getvalue())  # type: ignore[attr-defined]


def run_line(line: str) -> Ended:
    """A line of a shell, which begins with ``ssa-analyze`` and may end with a comment."""
    program, *arguments = shlex.split(line, comments=True)
    assert program == "ssa-analyze", line
    return run_cli(*arguments)


def small(patched: pytest.MonkeyPatch) -> None:
    """Measures take seconds and reports draw two figures; their own tests see the rest."""
    whole = Measure.make_settings

    def make_settings(row: Measure, values: Any) -> Any:
        return whole(row, {**SMALL.get(row.name, {}), **values})

    patched.setattr(Measure, "make_settings", make_settings)
    patched.setattr(html, "FIGURES", html.FIGURES[:2])


def prepare(folder: Path) -> None:
    """What the examples of help and documents name: checkpoints, a store, images, corrupted images, studies."""
    data, few = load_data("digits"), load_data("digits", subset=600)
    for method in METHODS:
        train(replace(TINY, method=method), few, folder / "runs" / ("a" if method == "simclr-sam" else method))
    residual = train(replace(TINY, arch="resnet18"), few, folder / "resnet")
    save_elsewhere(torch.load(residual, weights_only=True)["model"], folder)
    (folder / "group.toml").write_text(re.findall(r"```toml\n(.*?)```", (ROOT / "docs/checkpoints.md").read_text(), re.DOTALL)[0])
    (folder / "net.py").write_text(NET)
    names: dict[str, Any] = {}
    exec(NET, names)
    with seeded(0, "net"):
        torch.save({"state_dict": names["build"]().state_dict()}, folder / "mine.pt")
    for name in ("studies", "docs"):
        (folder / name).symlink_to(ROOT / name)
    pixels = data.images.permute(0, 2, 3, 1).numpy()
    for number in torch.cat([torch.nonzero(data.labels == label)[:30, 0] for label in (0, 1)]).tolist():
        image = folder / "images" / data.class_names[data.labels[number]] / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number]).save(image)
    corrupted = folder / "digits-C"  # in the layout of CIFAR-10-C, in the order of the source
    corrupted.mkdir()
    assert data.provenance is not None
    order = np.argsort(data.provenance.index.numpy())
    np.save(corrupted / "labels.npy", np.tile(data.labels.numpy()[order], 5))
    np.save(corrupted / "brightness.npy", np.concatenate([np.minimum(pixels[order], 255 - 40 * s) for s in range(5)]))
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        measures = "--measures downstream,representation"
        ended = run_line(f"ssa-analyze score runs/*/last.pt --data digits --subset 300 {measures} --store scores.db")
    assert ended.code == 0, ended.err


def save_elsewhere(model: dict[str, torch.Tensor], folder: Path) -> None:
    """The weights of a ResNet as torchvision would write them, and as the layout in docs/checkpoints.md has them."""
    backbone = {key.removeprefix("backbone."): value for key, value in model.items() if key.startswith("backbone.")}
    projector = {key.removeprefix("projector."): value for key, value in model.items() if key.startswith("projector.")}
    torch.save(backbone, folder / "resnet18.pth")
    state = {f"online.{key}": value for key, value in backbone.items()}
    state |= {f"online.head.{key}": value for key, value in projector.items()}
    torch.save({"state_dict": {**state, "target.conv1.weight": backbone["conv1.weight"]}}, folder / "net.pth")
