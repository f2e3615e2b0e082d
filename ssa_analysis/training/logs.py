"""What a training run tells: a row an epoch, in a CSV file and in TensorBoard, and scores on the way."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ssa_analysis.models.encoder import Encoder

LOG_COLUMNS = ("epoch", "step", "loss", "lr", "knn", "seconds")


@dataclass(frozen=True)
class EpochLog:
    """One row of the training log. ``knn`` is an accuracy in [0, 1] on the probe split, None where not evaluated."""

    epoch: int
    epochs: int
    step: int
    loss: float
    lr: float
    knn: float | None
    seconds: float


class EpochRecorder(Protocol):
    """Measures an encoder during its training, which it must leave as it was; epoch 0 is before training."""

    def is_due(self, epoch: int, epochs: int) -> bool:
        """Whether the encoder after ``epoch`` of ``epochs`` is to be measured."""
        ...

    def keep_until(self, epoch: int) -> None:
        """Called first: the run goes on after ``epoch``, and what is known of later ones will come again."""
        ...

    def __call__(self, encoder: Encoder, epoch: int) -> None:
        """Measure."""
        ...


def keep_rows(path: Path, columns: Sequence[str], epoch: int) -> None:
    """Leave a CSV file with its header and the rows up to ``epoch``; a resumed run makes the later ones again."""
    rows = []
    if path.is_file():
        with open(path, newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if int(row["epoch"]) <= epoch]
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def last_row(folder: Path) -> dict[str, int | float | None]:
    """The newest row of a run's log, numbers as numbers; None for what was not evaluated, empty where there is no row."""
    with open(folder / "log.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    whole = ("epoch", "step")
    return {k: (int(v) if k in whole else float(v)) if v else None for k, v in rows[-1].items()} if rows else {}


class RunLog:
    """A CSV log, and TensorBoard where it is installed."""

    def __init__(self, folder: Path, keep_epochs: int) -> None:
        self.path = folder / "log.csv"
        keep_rows(self.path, LOG_COLUMNS, keep_epochs)
        self.board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"))
        except ImportError:
            pass

    def write(self, row: EpochLog) -> None:
        knn = "" if row.knn is None else row.knn
        with open(self.path, "a", newline="") as stream:
            csv.writer(stream).writerow([row.epoch, row.step, row.loss, row.lr, knn, round(row.seconds, 3)])
        if self.board is not None:
            for name in ("loss", "lr", "knn"):
                if getattr(row, name) is not None:
                    self.board.add_scalar(name, getattr(row, name), row.epoch)
            self.board.flush()
