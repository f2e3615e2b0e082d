"""``ssa-analyze train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from ssa_analysis.cli.common import (
    config_option,
    data_options,
    device_option,
    duration,
    interruptible,
    json_option,
    parse_settings,
    print_json,
    resolve_device,
    say,
    set_option,
)

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.data.datasets import Data
from ssa_analysis.running.estimate import estimate
from ssa_analysis.running.plan import DataSpec, loaded_data
from ssa_analysis.running.ranks import joined_ranks
from ssa_analysis.running.recording import Recorder
from ssa_analysis.running.study import Run
from ssa_analysis.stopping import stop_requested
from ssa_analysis.training.logs import EpochLog, last_row
from ssa_analysis.training.loop import build_encoder, finished_epochs, steps_of_an_epoch, train
from ssa_analysis.training.optimizers import build_optimizer
from ssa_analysis.training.settings import TrainSettings, settings_from_flat

DEFAULTS = TrainSettings()


@click.command()
@click.option("--method", default=DEFAULTS.method, show_default=True, help="See: ssa-analyze list methods")
@data_options
@click.option("--out", required=True, type=click.Path(), help="Folder for last.pt and log.csv.")
@click.option("--resume", is_flag=True, help="Continue the run in --out; gives the weights of an unbroken run.")
@click.option(
    "--keep-every",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Also keep OUT/epochs/epoch-NNNN.pt every so many epochs, and the one before training; 0 none.",
)
@click.option("--arch", default=DEFAULTS.arch, show_default=True, help="resnet18, resnet34, resnet50 or convnet.")
@click.option("--width", type=click.IntRange(min=1), help="Channels of the first stage; default: the architecture's own.")
@click.option("--stem", default=DEFAULTS.stem, show_default=True, help="cifar (3x3) or imagenet (7x7 and max-pool).")
@click.option("--projector", default="512,128", show_default=True, help="Sizes of the projector's layers, comma-separated.")
@click.option("--epochs", default=DEFAULTS.epochs, show_default=True, type=click.IntRange(min=1))
@click.option("--batch", default=DEFAULTS.batch, show_default=True, help="Images a step; each gives one pair.")
@click.option("--optimizer", default=DEFAULTS.optimizer, show_default=True, help="sgd, lars or adamw.")
@click.option("--lr", default=DEFAULTS.lr, show_default=True, help="Peak learning rate.")
@click.option("--weight-decay", default=DEFAULTS.weight_decay, show_default=True, type=click.FloatRange(min=0))
@click.option(
    "--warmup",
    default=DEFAULTS.warmup,
    show_default=True,
    type=click.IntRange(min=0),
    help="Epochs of linear warm-up, before the cosine.",
)
@click.option("--tau", default=DEFAULTS.tau, show_default=True, help="Temperature.")
@click.option("--beta", type=float, help="Weight of the negatives; default: their number (NT-Xent).")
@click.option("--negatives", type=click.IntRange(min=1), help="Negatives an anchor; default: all of the batch.")
@click.option("--rho", default=DEFAULTS.rho, show_default=True, help="Radius of SAM.")
@click.option("--adaptive", is_flag=True, help="ASAM instead of SAM.")
@click.option("--alpha", default=1.0, show_default=True, help="Fourier augmentation: lambda ~ U(0, alpha).")
@click.option("--window", type=click.IntRange(min=1), help="Fourier augmentation: half-width of the low-frequency window.")
@click.option(
    "--partner",
    default="batch",
    show_default=True,
    help="Fourier augmentation: batch, nearest (in feature space) or class (an oracle).",
)
@click.option("--views", help="Recipe of the views; default: the data set's own.")
@click.option("--strength", default=DEFAULTS.strength, show_default=True, help="Factor of all augmentations of the recipe.")
@click.option(
    "--accumulate",
    default=DEFAULTS.accumulate,
    show_default=True,
    help="Parts that a batch is cut into, to save memory; each has negatives of its own.",
)
@click.option("--amp", default=DEFAULTS.amp, show_default=True, help="off or bf16.")
@click.option(
    "--knn-every",
    default=DEFAULTS.knn_every,
    show_default=True,
    type=click.IntRange(min=0),
    help="Epochs between kNN evaluations; 0 never.",
)
@click.option("--record", default="", metavar="MEASURES", help="Also score the encoder on the way, such as curvature,shift.")
@click.option(
    "--record-every", default=10, show_default=True, type=click.IntRange(min=1), help="Epochs between two such records."
)
@set_option("MEASURE.SETTING=VALUE", "Change a setting of a recorded measure; repeatable.")
@click.option("--channels-last/--channels-first", default=None, help="Memory format of the convolutions; default: last on a GPU.")
@click.option("--compile", "compiled", is_flag=True, help="Run the forward pass through torch.compile.")
@click.option("--seed", default=0, show_default=True)
@device_option
@click.option("--dry-run", is_flag=True, help="Say what would be trained, about how long it takes and in what memory, and stop.")
@json_option("where the checkpoint is and how the training ended")
@config_option("train")
def command(
    data: str, data_root: str | None, subset: int | None, image_size: int | None, no_download: bool, out: str, resume: bool,
    keep_every: int, device: str, projector: str, record: str, record_every: int, assignments: tuple[str, ...],
    channels_last: bool | None, compiled: bool, dry_run: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Train an encoder and write OUT/last.pt after every epoch, OUT/log.csv, and OUT/records.csv with --record.

    Ctrl-C ends it after the epoch in hand, a second one at once; --resume goes on from the last whole epoch.
    Under torchrun (torchrun --nproc-per-node 2 -m ssa_analysis train ...) the processes share each batch, one GPU each.

    \b
    Example:
      ssa-analyze train --method ssa-clr --data digits --arch convnet --epochs 5 --out runs/new
      ssa-analyze train --method ssa-clr --data digits --arch convnet --epochs 5 --out runs/new --resume
      ssa-analyze train --data digits --arch convnet --epochs 4 --out runs/b --record representation --record-every 2
      ssa-analyze train --method simclr-sam --data images/ --batch 16 --epochs 100 --out runs/c --dry-run
    """
    try:
        sizes = [int(size) for size in projector.split(",")]
    except ValueError as error:
        raise click.UsageError(f"--projector takes whole numbers separated by commas, got {projector!r}") from error
    settings = settings_from_flat({**options, "projector": sizes})
    measures = tuple(name.strip() for name in record.split(",") if name.strip())
    chosen = parse_settings(assignments)
    for name in chosen:
        if name not in measures:
            raise click.UsageError(f"--set {name}. ...: that measure is not recorded; name it with --record")
    spec = DataSpec(data, data_root, subset, image_size, not no_download)
    with joined_ranks(resolve_device(device)) as (ranks, own_device):
        if ranks.rank == 0:
            loaded_data(spec)  # the first one may have to download it
        ranks.from_first(None)
        loaded = loaded_data(spec)
        shared = f", {ranks.size} processes" if ranks.size > 1 else ""
        say(f"{settings.method} on {loaded.name}: {len(loaded.splits['train'])} training images, {settings.arch}{shared}")
        if dry_run:
            _plan(settings, loaded, Path(out), resume, own_device, ranks.size, measures, record_every, chosen, as_json)
            return
        recorder = Recorder(Path(out), measures, record_every, loaded, settings.seed, chosen) if measures else None
        last = own_device.startswith("cuda") if channels_last is None else channels_last
        with interruptible("this epoch"):
            path = train(
                settings, loaded, out, device=own_device, resume=resume, keep_every=keep_every, on_epoch=Teller(),
                recorder=recorder, channels_last=last, compiled=compiled,
            )  # fmt: skip
        if as_json and ranks.rank == 0:
            report = load_checkpoint(path).report
            print_json({"checkpoint": path, "sha256": report.sha256, "method": settings.method, "arch": report.arch,
                        "data": loaded.name, "epochs": settings.epochs, "last": last_row(Path(out))})  # fmt: skip
    say(f"wrote {path}")


def _plan(
    settings: TrainSettings, data: Data, out: Path, resume: bool, device: str, processes: int, measures: tuple[str, ...],
    every: int, chosen: dict[str, dict[str, str]], as_json: bool,
) -> None:  # fmt: skip
    """What would be trained and what that takes, after the checks that a training begins with."""
    steps = steps_of_an_epoch(settings, data)
    encoder = build_encoder(settings, data).to(device)
    optimizer = build_optimizer(settings.optimizer, encoder, settings.lr, settings.weight_decay)
    done = finished_epochs(out / "last.pt", settings, data, encoder, optimizer, resume)
    left = settings.epochs - done
    recorder = Recorder(out, measures, every, data, settings.seed, chosen)
    records = sum(recorder.is_due(epoch, settings.epochs) for epoch in range(done + 1 if done else 0, settings.epochs + 1))
    plans = [(records, {name: chosen.get(name, {}) for name in measures})]
    found = estimate([Run(settings.method, settings)], data, plans, device=device, workers=processes)
    seconds = found.training * left / settings.epochs + found.scoring
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    say(f"{left} of {settings.epochs} epochs of {steps} steps, {settings.batch} pairs a step; {parameters:,} parameters"
        + (f"; {', '.join(measures)} recorded {records} times" if measures else ""))  # fmt: skip
    say(f"roughly {duration(seconds)}, {found.memory / 2**30:.1f} GiB at the peak; {max(1, found.disk >> 20)} MiB of checkpoint; "
        "from a few passes on this machine")  # fmt: skip
    say("dry run: nothing was trained")
    if as_json:
        print_json({"method": settings.method, "arch": settings.arch, "data": data.name, "parameters": parameters, "epochs": left,
                    "steps": left * steps, "seconds": seconds, "memory": found.memory, "disk": found.disk})  # fmt: skip


class Teller:
    """Says a line an epoch, with the time left."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, row: EpochLog) -> None:
        """One epoch is done."""
        self.count += 1
        left = row.seconds / self.count * (row.epochs - row.epoch)
        knn = f"  kNN {row.knn:.3f}" if row.knn is not None else ""
        rest = f"  about {duration(left)} left" if row.epoch < row.epochs and not stop_requested() else ""
        say(f"[{row.epoch}/{row.epochs}] loss {row.loss:.4f}{knn}{rest}")
