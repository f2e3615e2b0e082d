"""``ssa-analyze train``."""

from __future__ import annotations

from typing import Any

import click
from ssa_analysis.cli.common import config_option, data_options, device_option, duration, resolve_device, say

from ssa_analysis.running.plan import DataSpec, loaded_data
from ssa_analysis.training.loop import EpochLog, train
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
@click.option("--seed", default=0, show_default=True)
@device_option
@config_option("train")
def command(
    data: str, data_root: str | None, subset: int | None, image_size: int | None, no_download: bool, out: str, resume: bool,
    keep_every: int, device: str, projector: str, **options: Any,
) -> None:  # fmt: skip
    """Train an encoder and write OUT/last.pt after every epoch.

    \b
    Example:
      ssa-analyze train --method ssa-clr --data cifar10 --data-root DIR --out runs/a
      ssa-analyze train --method ssa-clr --data cifar10 --data-root DIR --out runs/a --resume
    """
    try:
        sizes = [int(size) for size in projector.split(",")]
    except ValueError as error:
        raise click.UsageError(f"--projector takes whole numbers separated by commas, got {projector!r}") from error
    settings = settings_from_flat({**options, "projector": sizes})
    loaded = loaded_data(DataSpec(data, data_root, subset, image_size, not no_download))
    say(f"{settings.method} on {loaded.name}: {len(loaded.splits['train'])} training images, {settings.arch}")
    rows: list[EpochLog] = []

    def tell(row: EpochLog) -> None:
        rows.append(row)
        left = row.seconds / len(rows) * (row.epochs - row.epoch)
        knn = f"  kNN {row.knn:.3f}" if row.knn is not None else ""
        rest = f"  about {duration(left)} left" if row.epoch < row.epochs else ""
        say(f"[{row.epoch}/{row.epochs}] loss {row.loss:.4f}{knn}{rest}")

    path = train(settings, loaded, out, device=resolve_device(device), resume=resume, keep_every=keep_every, on_epoch=tell)
    say(f"wrote {path}")
