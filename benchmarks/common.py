"""What the benchmarks share: rows, fresh processes whose time and memory are their own, and trained nets to measure.

Every run is a process of its own with one thread. Seconds are the processor time (user and system) of the work alone,
after imports and set-up, because the wall time of a shared machine says little. Memory is the peak resident size during
the work less the resident size before it.

With ``--device cuda`` seconds are wall time, from the moment the GPU has nothing to do to the moment it has done the work,
and memory is what torch's allocator held at most, less what it held before. All runs then share one process, in which a
first round of each comparison loads what is loaded lazily and is not counted.

    python benchmarks/common.py ROWS.json [ROWS.json ...]

prints what a benchmark wrote with ``--json`` as a Markdown table.
"""

from __future__ import annotations

import contextlib
import gc
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
    device: str = "cpu"

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
        print(f"{row.work}{_on(row.device)} | ours : {row.peer}\n    {pairs}  ratio {_cell(row.ratio)}", flush=True)


def _on(device: str) -> str:
    return "" if device == "cpu" else f", on {device}"


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
        words = [text.replace("|", "\\|") for text in (row["work"] + _on(row.get("device", "cpu")), row["peer"])]
        print(f"| {' | '.join([*words, ratio, *pairs])} |")


# ---- the process that does the work ----


def _resident_mib(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process; NaN where there is no /proc."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return NAN
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(f"{field}:"))


def clock(device: str = "cpu") -> float:
    """Seconds: of this process's processor time, or, once the GPU has nothing left to do, of the wall clock."""
    if device == "cpu":
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def device_name(device: str) -> str:
    """``cpu``, or the name of the card."""
    if device == "cpu":
        return device
    import torch

    return torch.cuda.get_device_name()


def measured(work: Callable[[], dict[str, Any]], device: str = "cpu") -> dict[str, Any]:
    """Run ``work`` and add ``seconds``, ``peak_mib`` and the ``device`` to what it returns."""
    if device != "cpu":
        return _measured_on_gpu(work, device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = _resident_mib("VmRSS")
    started = time.process_time()
    found = work()
    spent = time.process_time() - started
    return {**found, "seconds": spent, "peak_mib": _resident_mib("VmHWM") - before, "device": "cpu"}


def _measured_on_gpu(work: Callable[[], dict[str, Any]], device: str) -> dict[str, Any]:
    import torch

    from ssa_analysis.numerics.precision import full_precision

    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with full_precision():  # as our measures compute; the peers get the same
        started = clock(device)
        found = work()
        spent = clock(device) - started
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    return {**found, "seconds": spent, "peak_mib": peak, "device": device_name(device)}


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
        device = request.get("device", "cpu")
        answer = measured(IN_PROCESS[request["task"]](request), device)
        if device != "cpu":
            _say(request, answer)
        return answer
    environment = {**os.environ, **THREADS, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-W", "ignore", script, "--worker", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{request}: {done.stderr[-3000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    _say(request, answer)
    return answer


def _say(request: dict[str, Any], answer: dict[str, Any]) -> None:
    spent = f"{answer['seconds']:.3g} s, {answer.get('products')} products"
    print(f"  {request.get('task')}: {spent}", file=sys.stderr, flush=True)


def alternate(script: str, requests: Sequence[dict[str, Any]], repeats: int) -> list[list[dict[str, Any]]]:
    """Run the requests in turn, once for each seed below ``repeats``; the answers of each request, seed by seed."""
    answers: list[list[dict[str, Any]]] = [[] for _ in requests]
    for request in requests if requests[0].get("device", "cpu") != "cpu" else ():
        run_worker(script, {**request, "seed": repeats})  # kernels are loaded when they are first used
    for seed in range(repeats):
        for found, request in zip(answers, requests, strict=True):
            found.append(run_worker(script, {**request, "seed": seed}))
    return answers


def median(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The medians of what the answers hold of seconds, memory, products and error, and their device."""
    keys = ("seconds", "peak_mib", "products", "error")
    found: dict[str, Any] = {key: statistics.median(a[key] for a in answers) for key in keys if key in answers[0]}
    return {**found, "device": answers[0]["device"]}


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
        ours["device"],
    )


# ---- nets to measure ----


def load_images(name: str, root: str | None) -> Any:
    """CIFAR-10 from ``root``, or an ``.npz`` file; the bundled digits where neither is given."""
    from ssa_analysis.data.datasets import load_data

    if name.endswith(".npz"):
        return load_data(name)
    return load_data(name, root, download=False, subset=20000) if name != "digits" else load_data("digits")


def trained_checkpoint(data: Any, *, arch: str, width: int, projector: tuple[int, ...], epochs: int, device: str = "cpu") -> Path:
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
        train(settings, data, folder, resume=True, device=device)
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
