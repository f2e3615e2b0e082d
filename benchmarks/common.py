"""What the benchmarks share: rows, fresh processes whose time and memory are their own, and trained nets to measure.

Every run is a process of its own with one thread. Seconds are the processor time (user and system) of the work alone,
after imports and set-up, because the wall time of a shared machine says little. Memory is the peak resident size during
the work less the resident size before it.

    python benchmarks/common.py ROWS.json [ROWS.json ...]

prints what a benchmark wrote with ``--json`` as a Markdown table.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
CACHE = Path(__file__).resolve().parent / ".cache"
ROOT = Path(__file__).resolve().parents[1]
NAN = float("nan")


@dataclass(frozen=True)
class Row:
    """One comparison; errors are relative to the truth, NaN where one does not apply."""

    work: str
    peer: str
    ours_seconds: float = NAN
    peer_seconds: float = NAN
    ratio: float = NAN
    ours_error: float = NAN
    peer_error: float = NAN
    ours_peak_mib: float = NAN
    peer_peak_mib: float = NAN
    ours_products: float = NAN
    peer_products: float = NAN

    def to_json(self) -> str:
        """One object; what is not a number is null."""
        return json.dumps({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()})


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def print_rows(rows: Iterable[Row], as_json: bool) -> None:
    """Each row as soon as it is known."""
    columns = ("seconds", "error", "peak_mib", "products")
    for row in rows:
        if as_json:
            print(row.to_json(), flush=True)
            continue
        pairs = "  ".join(f"{c} {_cell(getattr(row, f'ours_{c}'))} : {_cell(getattr(row, f'peer_{c}'))}" for c in columns)
        print(f"{row.work} | ours : {row.peer}\n    {pairs}  ratio {_cell(row.ratio)}", flush=True)


def _markdown_number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 1 else f"{value:.2g}"


def print_markdown(names: Sequence[str]) -> None:
    """The rows of JSON files as one table, ours before the peer's."""
    columns = ("seconds", "error", "products", "peak_mib")
    print(f"| work | peer | ratio of seconds | {' | '.join(columns)} |\n|{'---|' * (3 + len(columns))}")
    for row in (json.loads(line) for name in names for line in Path(name).read_text().splitlines()):
        pairs = [f"{_markdown_number(row[f'ours_{c}'])} : {_markdown_number(row[f'peer_{c}'])}" for c in columns]
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.1f}"
        words = [row[column].replace("|", "\\|") for column in ("work", "peer")]
        print(f"| {' | '.join([*words, ratio, *pairs])} |")


# ---- the process that does the work ----


def _resident_mib(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process; NaN where there is no /proc."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return NAN
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(f"{field}:"))


def measured(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run ``work`` and add ``seconds`` of processor time and ``peak_mib`` to what it returns."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = _resident_mib("VmRSS")
    started = time.process_time()
    found = work()
    return {**found, "seconds": time.process_time() - started, "peak_mib": _resident_mib("VmHWM") - before}


def counted_products(hessian: Any) -> list[int]:
    """A list that grows by one with each product of PyHessian's object from now on."""
    spent: list[int] = []
    product = hessian.dataloader_hv_product

    def counted(v: Any) -> Any:
        spent.append(1)
        return product(v)

    hessian.dataloader_hv_product = counted
    return spent


# ---- the process that compares ----


# tasks to run in this very process instead: a smoke test cannot wait for the imports of every process
IN_PROCESS: dict[str, Callable[[dict[str, Any]], Callable[[], dict[str, Any]]]] = {}


def run_worker(script: str, request: dict[str, Any]) -> dict[str, Any]:
    """``python script --worker REQUEST`` in a fresh process with one thread; its last line is the answer."""
    if request["task"] in IN_PROCESS:
        return measured(IN_PROCESS[request["task"]](request))
    environment = {**os.environ, **THREADS, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-W", "ignore", script, "--worker", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{request}: {done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {request.get('task')}: {answer['seconds']:.1f} s, {answer.get('products')} products", file=sys.stderr, flush=True)
    return answer


def alternate(script: str, requests: Sequence[dict[str, Any]], repeats: int) -> list[list[dict[str, Any]]]:
    """Run the requests in turn, once for each seed below ``repeats``; the answers of each request, seed by seed."""
    answers: list[list[dict[str, Any]]] = [[] for _ in requests]
    for seed in range(repeats):
        for found, request in zip(answers, requests, strict=True):
            found.append(run_worker(script, {**request, "seed": seed}))
    return answers


def median(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The medians of what the answers hold of seconds, memory, products and error."""
    keys = ("seconds", "peak_mib", "products", "error")
    return {key: statistics.median(a[key] for a in answers) for key in keys if key in answers[0]}


def compare(work: str, peer: str, ours: dict[str, Any], theirs: dict[str, Any]) -> Row:
    """The row of two answers, each with ``seconds``, ``peak_mib``, ``products`` and ``error``."""
    return Row(
        work,
        peer,
        ours["seconds"],
        theirs["seconds"],
        theirs["seconds"] / ours["seconds"],
        ours.get("error", NAN),
        theirs.get("error", NAN),
        ours["peak_mib"],
        theirs["peak_mib"],
        ours.get("products", NAN),
        theirs.get("products", NAN),
    )


# ---- nets to measure ----


def load_images(name: str, root: str | None) -> Any:
    """CIFAR-10 from ``root``; the bundled digits where no root is given."""
    from ssa_analysis.data.datasets import load_data

    return load_data(name, root, download=False, subset=20000) if name != "digits" else load_data("digits")


def trained_checkpoint(data: Any, *, arch: str, width: int, projector: tuple[int, ...], epochs: int) -> Path:
    """A checkpoint of our own trainer, kept in ``benchmarks/.cache``; training stops early so that it takes minutes."""
    from ssa_analysis.training.loop import train
    from ssa_analysis.training.settings import TrainSettings

    folder = CACHE / f"{arch}-w{width}-{data.name}-{data.fingerprint}-{epochs}"
    if not (folder / "last.pt").exists():
        print(f"training {folder.name} once", file=sys.stderr, flush=True)
        batch = min(256, len(data.splits["train"]) // 2)
        settings = TrainSettings(
            arch=arch, width=width, projector=projector, epochs=epochs, batch=batch, warmup=min(1, epochs - 1), knn_every=0
        )
        train(settings, data, folder, resume=True)
    return folder / "last.pt"


def save_problem(name: str, checkpoint: Path, data: Any, pairs: int) -> Path:
    """The fixed views of ``pairs`` held-out images for one checkpoint, as a file that every process reads alike."""
    import torch

    from ssa_analysis.checkpoints.loading import load_checkpoint
    from ssa_analysis.measures.fixed_loss import FixedLossSettings, fixed_pairs

    encoder = load_checkpoint(checkpoint).encoder
    views = fixed_pairs(encoder, data, FixedLossSettings(pairs=pairs, batch=pairs))
    if len(views[0].first) != pairs:
        raise SystemExit(f"{data.name} has {len(views[0].first)} held-out images, fewer than --pairs {pairs}")
    CACHE.mkdir(exist_ok=True)
    path = CACHE / f"{name}.pt"
    torch.save({"inputs": torch.cat([views[0].first, views[0].second]), "checkpoint": str(checkpoint)}, path)
    return path


if __name__ == "__main__":
    print_markdown(sys.argv[1:])
